"""Small models that train as one stack, and calls that wait for one another so that they can."""

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fl_distill import models
from fl_distill.client import Client
from fl_distill.data.types import Site, Split
from fl_distill.errors import BadUpdate
from fl_distill.learning import (
    Diverged,
    Lesson,
    Settings,
    Trained,
    can_be_stacked,
    fit,
    fit_together,
    pays,
    proximal,
    trainable,
)
from fl_distill.meeting import Abandoned, Done, meet, together
from fl_distill.models.conv2d import own_convolutions
from fl_distill.seeds import generator
from fl_distill.task import Task

from .conftest import Launch, same

SHAPE, CLASSES = (1, 8, 8), 10
BUILT = {
    "mlp": (models.mlp, SHAPE),
    "cnn": (models.cnn, SHAPE),
    "lenet": (models.lenet, (1, 28, 28)),
    "tabular": (models.tabular, (13,)),
}


def odd(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Layers of odd sizes, the last convolution of which sees one pixel."""
    layers = [nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 6, 5), nn.Conv2d(6, 7, 3, padding=1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(7, 8), nn.ReLU(), nn.Linear(8, classes))


def eights(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Few channels in, eight out: what oneDNN makes of these depends on how many there are."""
    return nn.Sequential(nn.Conv2d(shape[0], 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 49, classes))


def smooth(shape: tuple[int, ...], classes: int) -> nn.Module:
    """What else is taken for safe, of sizes that vectors of sixteen do not divide."""
    layers = [nn.Linear(shape[0], 8), nn.GELU(), nn.Linear(8, 8), nn.LayerNorm(8), nn.Tanh(), nn.GroupNorm(2, 8)]
    return nn.Sequential(*layers, nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, classes))


BUILT |= {
    "smooth": (smooth, (16,)),
    "odd": (odd, (3, 5, 5)),
    "eights": (eights, (3, 7, 7)),
    "eights of grey": (eights, (1, 7, 7)),
}


def built(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    torch.manual_seed(0)
    make, shape = BUILT[name]
    return own_convolutions(make(shape, CLASSES)), shape


def lesson(model: nn.Module, shape: Sequence[int], number: int, work: float = 1.0, most: int = 40) -> Lesson:
    draw = generator(0, "data", number)
    count = int(torch.randint(1, most, (), generator=draw))
    data = Split(torch.randn(count, *shape, generator=draw), torch.randint(0, CLASSES, (count,), generator=draw))
    weights = {k: v + 0.01 * torch.randn(v.shape, generator=draw) for k, v in model.state_dict().items()}
    return Lesson(weights, data, generator(0, "order", number), work, shifted)


def shifted(x: Tensor, draw: torch.Generator) -> Tensor:
    """An augmentation that draws from the site's generator."""
    return x + 0.1 * torch.randn(1, generator=draw)


def alone(model: nn.Module, one: Lesson, how: Settings, mu: float) -> tuple[dict[str, Tensor], Trained]:
    model.load_state_dict(one.weights)
    terms = [proximal(mu, trainable(model))] if mu else []
    done = fit(model, one.data, how, one.generator, terms=terms, augment=one.augment, work=one.work)
    return {k: v.clone() for k, v in model.state_dict().items()}, done


@pytest.mark.parametrize("name", BUILT)
@settings(max_examples=6)
@given(
    batch=st.sampled_from([1, 5, 8]),
    epochs=st.sampled_from([0.4, 1.0, 2.0]),
    momentum=st.sampled_from([0.0, 0.9]),
    decay=st.sampled_from([0.0, 0.01]),
    clip=st.sampled_from([None, 0.5]),
    schedule=st.sampled_from(["constant", "cosine"]),
    mu=st.sampled_from([0.0, 0.3]),
    works=st.lists(st.sampled_from([1.0, 0.5]), min_size=1, max_size=5),
)
def test_each_model_of_a_stack_learns_what_it_would_alone(
    name: str,
    batch: int,
    epochs: float,
    momentum: float,
    decay: float,
    clip: float | None,
    schedule: str,
    mu: float,
    works: list[float],
) -> None:
    how = Settings(
        batch_size=batch,
        epochs=epochs,
        momentum=momentum,
        weight_decay=decay,
        clip_norm=clip,
        schedule=schedule,
        lr=0.02,
    )
    model, shape = built(name)
    lessons = [lesson(model, shape, number, work) for number, work in enumerate(works)]
    done = fit_together(model, lessons, how, mu)
    for number, (work, one, told) in enumerate(zip(works, lessons, done, strict=True)):
        weights, trained = alone(built(name)[0], lesson(model, shape, number, work), how, mu)
        assert (told.steps, told.examples) == (trained.steps, trained.examples)
        assert told.loss == pytest.approx(trained.loss, rel=1e-5, abs=1e-5)
        for key, tensor in weights.items():
            assert torch.allclose(one.weights[key], tensor, rtol=0, atol=1e-5), key


@pytest.mark.parametrize("batch", [5, 8, 33])
@pytest.mark.parametrize("name", BUILT)
def test_the_company_changes_no_bit(name: str, batch: int) -> None:
    model, shape = built(name)
    how = Settings(batch_size=batch, epochs=1.5, clip_norm=1.0, schedule="cosine")
    assert can_be_stacked(model, how)
    count = 13
    whole = [lesson(model, shape, number) for number in range(count)]
    told = fit_together(model, whole, how, 0.1)
    for size in (1, 2, 3, 5):
        for start in range(0, count, size):
            some = [lesson(model, shape, number) for number in range(start, min(count, start + size))]
            assert fit_together(model, some, how, 0.1) == told[start : start + size]
            for one, other in zip(some, whole[start:], strict=False):
                assert same(one.weights, other.weights), (size, start)


def test_one_that_diverges_harms_no_other() -> None:
    model, shape = built("mlp")
    how = Settings(batch_size=8, epochs=1.0)
    lessons = [lesson(model, shape, number) for number in range(3)]
    lessons[1].data.x[0] = float("inf")
    done = fit_together(model, lessons, how)
    with pytest.raises(Diverged, match="lower lr=0.05"):
        done[1].checked(how)
    for at in (0, 2):
        assert done[at].checked(how) == done[at]
        assert all(torch.isfinite(tensor).all() for tensor in lessons[at].weights.values())


def test_what_would_be_rounded_in_another_way_in_other_company_is_not_stacked() -> None:
    for module in (nn.Conv2d(4, 8, 3), nn.Linear(13, 2), nn.Sigmoid()):
        assert not can_be_stacked(nn.Sequential(nn.Linear(8, 8), module), Settings())
    assert can_be_stacked(own_convolutions(nn.Sequential(nn.Conv2d(4, 8, 3))), Settings())


def test_what_is_stacked() -> None:
    plain = Settings()
    assert all(can_be_stacked(built(name)[0], plain) for name in BUILT)

    class Jittery(nn.Linear):
        """Of a known kind, but not known."""

    assert not can_be_stacked(nn.Sequential(nn.Flatten(), Jittery(64, 10)), plain)
    drops, classes = models.tabular((13,), CLASSES, dropout=0.5), CLASSES
    for other in (models.resnet8((3, 32, 32), classes), models.gru(SHAPE, classes), models.vit(SHAPE, classes), drops):
        assert not can_be_stacked(other, plain)
    for how in (Settings(optimizer="adam"), Settings(device="cuda"), Settings(quantization_aware=True)):
        assert not can_be_stacked(built("mlp")[0], how)
    frozen, _ = built("mlp")
    next(frozen.parameters()).requires_grad_(False)
    assert not can_be_stacked(frozen, plain)


def test_small_steps_of_small_models_are_worth_it() -> None:
    mlp, cnn = built("mlp")[0], built("cnn")[0]
    assert pays(mlp, SHAPE, Settings(batch_size=64))
    assert pays(cnn, SHAPE, Settings(batch_size=8))
    assert not pays(cnn, SHAPE, Settings(batch_size=32))
    assert not pays(models.mlp(SHAPE, CLASSES, hidden=[4000]), SHAPE, Settings(batch_size=1))

    class Own(nn.Sequential):
        """Whose forward may do anything."""

    own = Own(nn.Flatten(), nn.Linear(64, CLASSES))
    assert can_be_stacked(own, Settings())
    assert not pays(own, SHAPE, Settings())


def test_what_a_model_does_not_use_stays_as_it_is() -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.Linear(13, CLASSES), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)  # type: ignore[no-any-return]

    how, model = Settings(batch_size=4, clip_norm=0.5, weight_decay=0.1), Spare()
    lessons = [lesson(model, (13,), number) for number in range(3)]
    fit_together(model, lessons, how)
    for number, one in enumerate(lessons):
        weights, _ = alone(Spare(), lesson(model, (13,), number), how, 0.0)
        assert torch.equal(one.weights["spare.weight"], weights["spare.weight"])


# Calls that meet


def asking(name: str, log: list[str]) -> str:
    log.append(f"{name} asks")
    answer = together("kind", name, lambda names: [n.upper() + str(len(names)) for n in names])
    log.append(f"{name} goes on")
    return answer


def test_calls_that_wait_are_answered_at_once_and_in_turn() -> None:
    log: list[str] = []
    calls: Iterator[Callable[[], str]] = (partial(asking, name, log) for name in "abcde")
    done = dict(meet(calls, 3))
    assert [done[number].result for number in range(5)] == ["A3", "B3", "C3", "D2", "E2"]
    first = [f"{n} asks" for n in "abc"] + [f"{n} goes on" for n in "abc"]
    assert log == first + [f"{n} asks" for n in "de"] + [f"{n} goes on" for n in "de"]


def test_calls_that_wait_for_nobody_are_all_run() -> None:
    done = [(number, one.result) for number, one in meet((partial(int, n) for n in range(7)), 2)]
    assert done == [(n, n) for n in range(7)]


def test_one_at_a_time_there_is_nobody_to_wait_for() -> None:
    thread = threading.get_ident()
    done = list(meet(iter([lambda: together("k", 1, lambda q: [len(q)]), threading.get_ident]), 1))
    assert [(number, one.result) for number, one in done] == [(0, 1), (1, thread)]
    assert together("k", 5, lambda questions: [sum(questions)]) == 5


def test_kinds_are_answered_apart_and_again() -> None:
    seen: list[list[int]] = []

    def work(questions: Sequence[int]) -> list[int]:
        seen.append(list(questions))
        return [2 * question for question in questions]

    def call(number: int) -> int:
        twice = together(number % 2, number, work)
        return together("all", twice, work) if number != 1 else -1

    done = {number: one.result for number, one in meet((partial(call, n) for n in range(4)), 4)}
    assert done == {0: 0, 1: -1, 2: 8, 3: 12}
    assert seen == [[0, 2], [1, 3], [0, 4, 6]]


def test_what_is_raised_reaches_the_caller_and_ends_the_others() -> None:
    ended: list[str] = []

    def patient() -> None:
        try:
            together("never", 0, lambda questions: questions)
        except Abandoned:
            ended.append("abandoned")
            raise

    def broken() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        list(meet(iter([patient, broken]), 2))
    assert ended == ["abandoned"]


def test_who_will_not_be_sent_away_holds_up_nobody() -> None:
    def stubborn() -> None:
        while True:
            with contextlib.suppress(Abandoned):
                together("never", 0, lambda questions: questions)

    def broken() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        list(meet(iter([stubborn, broken]), 2))
    assert [one.result for _, one in meet(map(partial, [asking] * 2, "ab", [[], []]), 2)] == ["A2", "B2"]


def test_calls_share_a_thread_but_not_whether_gradients_are_wanted() -> None:
    def call(wanted: bool) -> tuple[int, bool]:
        with torch.set_grad_enabled(wanted):
            together("k", wanted, lambda questions: questions)
            return threading.get_ident(), torch.is_grad_enabled()

    wanted = [True, False, True]
    done = dict(meet((partial(call, each) for each in wanted), 3))
    assert [done[n].result for n in range(3)] == [(threading.get_ident(), each) for each in wanted]
    assert torch.is_grad_enabled()


def test_a_call_may_hold_a_meeting_of_its_own() -> None:
    def call(name: str) -> list[str]:
        inner = (partial(asking, name + other, []) for other in "xy")
        return [*sorted(done.result for _, done in meet(inner, 2)), asking(name, [])]

    done = dict(meet(map(partial, [call] * 2, "ab"), 2))
    assert [done[n].result for n in (0, 1)] == [["AX2", "AY2", "A2"], ["BX2", "BY2", "B2"]]


def test_what_a_call_returned_is_not_kept() -> None:
    def call() -> Tensor:
        return together("k", torch.zeros(1), lambda questions: list(questions))

    kept = [weakref.ref(one.result) for _, one in meet(iter([call] * 3), 2)]
    assert [reference() for reference in kept] == [None] * 3


def test_a_fault_of_what_is_done_together_is_each_callers_own() -> None:
    def fails(questions: Sequence[int]) -> list[int]:
        raise ZeroDivisionError

    def call() -> str:
        try:
            together("k", 0, fails)
        except ZeroDivisionError:
            return "caught"
        return "not raised"

    assert [one.result for _, one in meet(iter([call, call]), 2)] == ["caught", "caught"]


def test_what_cannot_be_done_for_all_is_done_for_each() -> None:
    def work(questions: Sequence[int]) -> list[float]:
        return [1 / question for question in questions]

    def call(question: int) -> str:
        try:
            return str(together("k", question, work))
        except ZeroDivisionError:
            return "none"

    assert [one.result for _, one in meet((partial(call, n) for n in (2, 0, 4)), 3)] == ["0.5", "none", "0.25"]


def test_seconds_are_each_calls_own() -> None:
    def wait(seconds: float) -> None:
        threading.Event().wait(seconds)

    def quick() -> None:
        together("k", 0, lambda questions: [wait(0.02 * len(questions))] * len(questions))

    def slow() -> None:
        wait(0.4)
        quick()

    done: dict[int, Done[None]] = dict(meet(iter([quick, slow]), 2))
    assert 0.02 <= done[0].seconds < 0.5 * done[1].seconds
    assert done[1].seconds >= 0.4


# A site


def site(tmp_path: Path, **task: Any) -> tuple[Client, Task]:
    model, shape = built("mlp")
    initial = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    examples = lesson(model, shape, 1).data
    settings = Settings(lr=0.1, momentum=0.9, batch_size=8)
    client = Client(Site("a", examples, examples, examples), model, settings, 0, tmp_path, initial, together=True)
    return client, Task(1, lesson(model, shape, 2).weights, mu=0.1, **task)


def held(client: Client) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in client.model.state_dict().items()}


@pytest.mark.parametrize("loaded", [False, True])
def test_a_site_in_a_stack_learns_from_what_arrived_without_its_model(loaded: bool, tmp_path: Path) -> None:
    client, task = site(tmp_path)
    arrived = {name: tensor.clone() for name, tensor in task.weights.items()}
    if loaded:
        client.receive(task.weights)
    before = held(client)
    metrics, learned = client.improved(task, loaded=loaded)
    assert same(held(client), before), "another site of this process may be in the midst of using the model"
    assert same(dict(task.weights), arrived), "what arrived is other sites' too"
    client.receive(task.weights)
    assert client.train(task) == metrics
    assert list(learned) == list(client.model.state_dict())
    assert same(dict(learned), held(client))
    assert not same(dict(learned), arrived)


def test_sites_that_receive_the_same_and_meet_learn_each_their_own(tmp_path: Path) -> None:
    client, task = site(tmp_path)
    clients = [replace(client, seed=seed) for seed in range(3)]
    alone = [one.improved(task, loaded=False) for one in clients]
    met = dict(meet(iter([partial(one.improved, task, loaded=False) for one in clients]), 3))
    for at, (metrics, learned) in enumerate(alone):
        assert met[at].result[0] == metrics
        assert same(dict(met[at].result[1]), dict(learned))
    assert not same(dict(alone[0][1]), dict(alone[1][1])), "each seed has an order of its own"


def test_a_site_in_a_stack_weighs_by_what_it_has_learned(tmp_path: Path) -> None:
    client, task = site(tmp_path, weigh_by_validation=True)
    metrics, learned = client.improved(task, loaded=False)
    assert same(held(client), dict(learned))
    assert metrics["trained-validation-accuracy"] == client.score(client.site.validation).accuracy


def test_weights_of_another_form_are_converted_or_refused_in_a_stack_too(tmp_path: Path) -> None:
    client, task = site(tmp_path)
    _, expected = client.improved(task, loaded=False)
    wide = {name: tensor.double() for name, tensor in task.weights.items()}
    _, learned = client.improved(replace(task, weights=wide), loaded=False)
    assert same(dict(learned), dict(expected))
    name = next(iter(task.weights))
    for other, told in (({**task.weights, name: torch.zeros(1, 2)}, name), ({"other": torch.zeros(1)}, "name")):
        with pytest.raises(BadUpdate, match=told):
            client.improved(replace(task, weights=other), loaded=False)


def test_what_runs_at_another_precision_is_rounded_before_it_learns(tmp_path: Path) -> None:
    client, task = site(tmp_path)
    rounded = replace(client, precision="full")
    _, learned = rounded.improved(task, loaded=False)
    rounded.receive(task.weights)
    rounded.train(task)
    assert same(dict(learned), held(rounded))


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_who_fails_in_a_stack_leaves_the_others_as_they_were(name: str) -> None:
    model, shape = built(name)
    settings = Settings(lr=0.1, momentum=0.9, batch_size=8)

    def lessons() -> list[Lesson]:
        good, bad = lesson(model, shape, 1, most=40), lesson(model, shape, 2, most=3)  # of different widths
        return [good, replace(bad, data=Split(bad.data.x, bad.data.y + CLASSES))]

    alone, learned = lessons()[0], lessons()[0]
    fit_together(model, [alone], settings)
    company = [learned, lessons()[1]]
    with pytest.raises((RuntimeError, IndexError)):
        fit_together(model, company, settings)
    fit_together(model, [learned], settings)
    assert same(learned.weights, alone.weights)


# Whole runs


def test_a_run_is_the_same_however_its_sites_are_grouped(launch: Launch) -> None:
    settings = ("sites=20", "model=mlp", "rounds=2", "local.epochs=1", "strategy=fedprox")
    by_itself = launch(*settings, "local.together=false")
    one, two, three = (launch(*settings, f"runtime.workers={workers}") for workers in (0, 1, 3))
    assert one.rows == two.rows == three.rows
    assert same(one.weights(), two.weights())
    assert same(one.weights(), three.weights())
    assert not same(one.weights(), by_itself.weights()), "more than 16 sites with a small model train together"
    for key, tensor in by_itself.weights().items():
        assert torch.allclose(one.weights()[key], tensor, atol=1e-2), key


def test_sites_that_share_knowledge_train_together_too(launch: Launch) -> None:
    settings = ("sites=6", "models=[mlp,cnn]", "rounds=2", "local.epochs=1", "strategy=fedmd", "local.together=true")
    assert launch(*settings).rows == launch(*settings, "runtime.workers=2").rows
