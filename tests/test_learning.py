"""Local training against torch's own optimisers and written-out formulas."""

import math
import threading
import time
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from fl_distill.client import Client
from fl_distill.data.types import Site, Split
from fl_distill.learning import (
    Diverged,
    Settings,
    evaluate,
    fit,
    full_gradient,
    optim,
    predict,
    proximal,
    scoring,
    trainable,
)
from fl_distill.learning.fit import batches as batches_of
from fl_distill.seeds import derive, generator
from fl_distill.task import Task


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def data(n: int = 50, seed: int = 0) -> Split:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=g)
    return Split(x, (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long())


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("sgd", {"lr": 0.1, "momentum": 0.0}),
        ("sgd", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
        ("adam", {"lr": 0.01, "weight_decay": 0.01}),
        ("adamw", {"lr": 0.01, "weight_decay": 0.1}),
    ],
)
def test_fit_equals_a_plain_torch_loop_bit_for_bit(name: str, settings: dict[str, float]) -> None:
    ours, theirs, examples = net(), net(), data()
    chosen = Settings(optimizer=name, batch_size=16, epochs=3, **settings)
    fit(ours, examples, chosen, generator(1, "order"))

    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    optimizer = kinds[name](theirs.parameters(), fused=True, **settings)
    order = generator(1, "order")
    for _ in range(3):
        for batch in torch.randperm(50, generator=order).split(16):
            optimizer.zero_grad()
            F.cross_entropy(theirs(examples.x[batch]), examples.y[batch]).backward()
            optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_parameter_without_a_gradient_stays_and_its_time_with_it(name: str) -> None:
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    torch.manual_seed(0)
    ours = [torch.ones(3), torch.ones(4)]
    theirs = [tensor.clone().requires_grad_() for tensor in ours]
    step = optim.make(ours, Settings(optimizer=name, lr=0.1, momentum=0.0, weight_decay=0.01))
    optimizer = kinds[name](theirs, lr=0.1, weight_decay=0.01, fused=True)
    for present in ((True, False), (False, False), (True, True), (True, True)):
        grads = [torch.rand_like(tensor) if there else None for tensor, there in zip(ours, present, strict=True)]
        step(grads, 1.0)
        for tensor, grad in zip(theirs, grads, strict=True):
            tensor.grad = grad
        optimizer.step()
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_gradient_moves_its_own_number_however_either_lies_in_memory(name: str) -> None:
    torch.manual_seed(0)
    base = torch.randn(4, 6, 3, 3)
    params = [base.clone(), base.contiguous(memory_format=torch.channels_last), base.transpose(0, 1).contiguous()]
    params[2] = params[2].transpose(0, 1)
    params.append(torch.randn(4, 6, 3, 8)[..., 2:5].copy_(base))  # with gaps
    steps = [optim.make([p], Settings(optimizer=name, lr=0.1, weight_decay=0.01)) for p in params]
    for _ in range(3):
        grad = torch.randn(4, 6, 3, 3)
        for turn, step in enumerate(steps):
            step([grad if turn % 2 else grad.contiguous(memory_format=torch.channels_last)], 0.5)
        for param in params[1:]:
            torch.testing.assert_close(param, params[0], rtol=1e-6, atol=1e-6)
    assert not torch.allclose(base, params[0], atol=1e-3)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_kinds_of_numbers_and_of_gradients_may_be_mixed(name: str) -> None:
    torch.manual_seed(0)
    given = [torch.randn(6, 2, dtype=kind) for kind in (torch.float32, torch.float64, torch.complex64)]
    grads = [torch.randn_like(tensor) for tensor in given]
    together, apart = [t.clone() for t in given], [t.clone() for t in given]
    how = Settings(optimizer=name, lr=0.1, weight_decay=0.01)
    step, steps = optim.make(together, how), [optim.make([t], how) for t in apart]
    for _ in range(2):
        step([grads[0].to_sparse(), grads[1], grads[2].conj().resolve_conj().conj()], 1.0)  # the last a lazy one
        for grad, one in zip(grads, steps, strict=True):
            one([grad], 1.0)
    assert all(torch.equal(a, b) for a, b in zip(together, apart, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(together, given, strict=True))
    theirs = given[2].clone().requires_grad_()
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    optimizer = kinds[name](
        [theirs], lr=0.1, weight_decay=0.01, **({"momentum": how.momentum} if name == "sgd" else {})
    )
    for _ in range(2):
        theirs.grad = grads[2]
        optimizer.step()
    torch.testing.assert_close(together[2], theirs.detach())


def test_training_lowers_the_loss_and_raises_accuracy() -> None:
    model, examples = net(), data(200)
    before = evaluate(model, examples)
    fit(model, examples, Settings(epochs=20, lr=0.1), generator(0))
    after = evaluate(model, examples)
    assert after.loss < before.loss / 2
    assert after.accuracy > 0.9


def test_clipping_bounds_the_step() -> None:
    model, start = net(), net()
    fit(model, data(), Settings(lr=1.0, momentum=0.0, steps=1, clip_norm=0.01), generator(0))
    moved = [(a - b).flatten() for a, b in zip(model.parameters(), start.parameters(), strict=True)]
    assert torch.cat(moved).norm() <= 0.01 * (1 + 1e-4)


def test_divergence_is_an_error_that_says_what_to_change() -> None:
    with pytest.raises(Diverged, match="lower lr"):
        fit(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), data(), Settings(lr=1e30), generator(0))


@given(st.integers(1, 70), st.integers(1, 40), st.integers(1, 30), st.integers(1, 2))
def test_batches_cover_each_pass_once(n: int, size: int, steps: int, least: int) -> None:
    batches = list(batches_of(n, size, steps, least, torch.Generator().manual_seed(0)))
    assert len(batches) == steps
    per_pass = math.ceil(n / size)
    for start in range(0, steps - per_pass + 1, per_pass):
        seen = torch.cat(batches[start : start + per_pass]).unique()
        assert seen.tolist() == list(range(n))
    assert all(least <= len(b) <= max(size, least) for b in batches)


def test_one_example_trains_a_model_with_batch_norm() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    assert math.isfinite(fit(model, data(1), Settings(), generator(0)).loss)


@pytest.mark.parametrize(("work", "steps"), [(1.0, 10), (0.5, 5), (0.19, 1), (0.001, 1)])
def test_partial_work_is_a_part_of_the_steps(work: float, steps: int) -> None:
    assert Settings(batch_size=10, epochs=2).planned_steps(50, work) == steps


def test_a_fixed_number_of_steps_replaces_epochs() -> None:
    assert Settings(steps=7, epochs=100).planned_steps(1000) == 7
    assert Settings(epochs=0.5, batch_size=10).planned_steps(100) == 5


def test_the_learning_rate_decays_from_round_to_round() -> None:
    assert [Settings(lr=0.8, lr_decay=0.5).in_round(t).lr for t in (1, 2, 4)] == [0.8, 0.4, 0.1]
    assert Settings(lr=0.3).in_round(100).lr == 0.3
    assert 0 < Settings(lr=0.3, lr_decay=0.1).in_round(1000).lr < 1e-20
    assert Settings(lr=0.3, lr_decay=0.5).in_round(0).lr == 0.3


@pytest.mark.parametrize("purpose", ["train", "study"])
def test_a_site_learns_at_the_rate_of_its_round(purpose: str, tmp_path: Path) -> None:
    def moved(number: int, settings: Settings) -> Tensor:
        model, examples = net(), data()
        client = Client(Site("a", examples, examples, examples), model, settings, 0, tmp_path)
        before = parameters_to_vector(model.parameters()).detach().clone()
        task = Task(round=number)
        client.train(task) if purpose == "train" else client.study(task, "digest", examples, 1, F.cross_entropy)
        return parameters_to_vector(model.parameters()).detach() - before

    plain, decayed = Settings(epochs=1, lr=0.1), Settings(epochs=1, lr=0.4, lr_decay=0.5)
    assert torch.equal(moved(3, decayed), moved(3, plain))
    assert not torch.equal(moved(2, decayed), moved(2, plain))


def test_bad_settings_are_all_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"optimizer.*lr .*lr_decay.*momentum.*batch_size.*epochs.*steps.*clip_norm"):
        Settings("sgdd", lr=-1, lr_decay=2, momentum=1, batch_size=0, epochs=0, steps=0, clip_norm=-1)


def test_the_proximal_term_is_its_formula_and_so_is_its_gradient() -> None:
    model, other = net(0).double(), net(1).double()
    mu = 0.3
    term = proximal(mu, trainable(other))
    gaps = [(p - q).detach().pow(2).sum() for p, q in zip(trainable(model), trainable(other), strict=True)]
    value = term(model)
    assert value.item() == pytest.approx(mu / 2 * sum(g.item() for g in gaps), rel=1e-12)
    gradients = torch.autograd.grad(value, trainable(model))
    for gradient, p, q in zip(gradients, trainable(model), trainable(other), strict=True):
        torch.testing.assert_close(gradient, mu * (p - q), rtol=1e-12, atol=1e-14)


def test_the_proximal_term_leaves_out_frozen_parameters_and_buffers() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model[0].bias.requires_grad_(False)
    term = proximal(1.0, trainable(model))
    with torch.no_grad():
        model[0].bias.add_(5)
        model[1].running_mean.add_(5)
    assert term(model).item() == 0


def test_the_proximal_term_keeps_a_site_near_what_it_received() -> None:
    def moved(mu: float) -> float:
        model, start = net(), net()
        terms = [proximal(mu, trainable(model))] if mu else []
        fit(model, data(), Settings(epochs=5), generator(0), terms=terms)
        gaps = zip(model.parameters(), start.parameters(), strict=True)
        return sum((a - b).pow(2).sum().item() for a, b in gaps)

    assert moved(5.0) < moved(0.5) < moved(0.0)


def test_the_full_gradient_is_that_of_the_mean_loss_whatever_the_chunks() -> None:
    model, examples = net(), data(37)
    expected = torch.autograd.grad(F.cross_entropy(model(examples.x), examples.y), list(model.parameters()))
    for size in (5, 37, 100):
        got = full_gradient(model, examples, batch_size=size)
        assert list(got) == [name for name, _ in model.named_parameters()]
        for a, b in zip(got.values(), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_evaluation_scores_all_examples_and_no_examples() -> None:
    model, examples = net(), data(41)
    score = evaluate(model, examples, batch_size=7)
    logits = predict(model, examples.x)
    assert score.accuracy == (logits.argmax(1) == examples.y).double().mean().item()
    assert score.loss == pytest.approx(F.cross_entropy(logits, examples.y).item(), rel=1e-6)
    nothing = evaluate(model, Split(examples.x[:0], examples.y[:0]))
    assert math.isnan(nothing.accuracy)
    assert nothing.examples == 0


def test_streams_of_one_seed_are_stable_and_independent() -> None:
    assert derive(0, "fit", "site-1", 3) == derive(0, "fit", "site-1", 3)
    assert len({derive(0, "fit", f"site-{i}", r) for i in range(50) for r in range(50)}) == 2500
    assert derive(0, "a", "bc") != derive(0, "ab", "c")
    assert derive(7, "init") == 6713148461799053418  # a changed stream would make every published run irreproducible


class Noting(nn.Module):
    """A model that notes its input a while before it uses it, and who ran it."""

    threads: ClassVar[set[int]] = set()

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 4)
        self.threads.clear()

    def forward(self, x: Tensor) -> Tensor:
        self.noted = x
        self.threads.add(threading.get_ident())
        time.sleep(0.02)
        return self.inner(self.noted) + 0 * self.noted.sum(1, keepdim=True)


@pytest.mark.parametrize("examples", [1, 3, 5, 600])
def test_threads_score_to_the_same_bits(examples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    draw, model = generator(0, "x", examples), Noting()
    data = Split(torch.randn(examples, 3, generator=draw), torch.randint(0, 4, (examples,), generator=draw))
    alone = evaluate(model, data, threads=1)
    assert alone == evaluate(model, data, threads=2)
    assert model.threads == {threading.get_ident()}
    monkeypatch.setattr(scoring, "WORTH", 0)
    model.threads.clear()
    assert [evaluate(model, data, threads=threads) for threads in (2, 3, 9)] == [alone] * 3
    assert torch.allclose(scoring.predict_abreast(model, data.x, 3), predict(model, data.x), atol=1e-6)
    assert len(model.threads - {threading.get_ident()}) >= min(2, examples)


def test_what_cannot_be_copied_is_scored_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Noting(), torch.randn(9, 3)
    model.extra = threading.Lock()  # type: ignore[assignment]
    monkeypatch.setattr(scoring, "WORTH", 0)
    assert torch.equal(scoring.predict_abreast(model, x, 2), scoring.predict_abreast(model, x, 1))
