"""The server's halves of knowledge exchange: equations against references, and replies that nobody should trust."""

import math
from collections.abc import Iterable, Mapping

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from torch import Tensor, nn

from fl_distill.codec import decode, encode, simplex, soft_labels
from fl_distill.data.types import Split
from fl_distill.knowledge import Confidence, DropWorst, Era, Mean, Median, Power, Rule, TrimmedMean, Vote
from fl_distill.learning import Settings
from fl_distill.runtime.flower_private import identity
from fl_distill.strategies import (
    CFD,
    DSFL,
    FD,
    CrossSilo,
    Facts,
    FedDF,
    FedMD,
    FedProto,
    Sender,
    SiteStrategy,
    SplitTeacher,
    TeacherStudent,
)

from .test_strategies import Nodes

NAMES = {1: Sender("a", "one"), 2: Sender("b", "two"), 3: Sender("c", "one")}
EXAMPLES, CLASSES = 4, 3


@pytest.fixture(autouse=True)
def _inside_a_run() -> Iterable[None]:
    with identity(7):
        yield


def net(name: str, shape: tuple[int, ...] | None = None) -> nn.Module:
    torch.manual_seed(len(name))
    width = shape[0] if shape else 5
    return nn.Linear(width, CLASSES) if name != "two" else nn.Sequential(nn.Linear(width, 7), nn.Linear(7, CLASSES))


def facts(examples: int = EXAMPLES) -> Facts:
    g = torch.Generator().manual_seed(3)
    public = Split(torch.randn(examples, 5, generator=g), torch.full((examples,), -1))
    sender = {node: who for node, who in NAMES.items()}.__getitem__
    return Facts(classes=CLASSES, public=public, sender=sender, model=net, default="one")


def reply(node: int, key: str, tensors: Mapping[str, Tensor], **metrics: float) -> Message:
    to = Message(RecordDict(), node, "train", group_id="1")
    records = {key: encode(tensors)} if tensors else {}
    return Message(RecordDict({**records, "metrics": MetricRecord({"num-examples": 3, **metrics})}), reply_to=to)


def ask(strategy: SiteStrategy, arrays: ArrayRecord, number: int = 1) -> dict[int, dict[str, Tensor]]:
    messages = strategy.configure_train(number, arrays, ConfigRecord(), Nodes(1, 2, 3))  # type: ignore[arg-type]
    return {m.metadata.dst_node_id: dict(decode(m.content.array_records["arrays"])) for m in messages}


def after(strategy: SiteStrategy, replies: Iterable[Message], number: int = 1) -> ArrayRecord:
    ask(strategy, ArrayRecord(), number)
    arrays, _ = strategy.aggregate_train(number, replies)
    assert arrays is not None
    return arrays


LOGITS = torch.zeros(EXAMPLES, CLASSES).half()


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ({}, "no 'logits' record"),
        ({"said": torch.full_like(LOGITS, float("nan"))}, "NaN or infinity"),
        ({"said": torch.zeros(5, 3).half()}, "is float16[5, 3], expected float16[4, 3]"),
        ({"said": torch.zeros(4, 2).half()}, "is float16[4, 2], expected float16[4, 3]"),
        ({"said": torch.zeros(4, 3)}, "is float32[4, 3], expected float16[4, 3]"),
        ({"said": LOGITS, "known": torch.ones(3, dtype=torch.bool)}, "nobody asked for: 'known'"),
        ({"logits": LOGITS}, "missing: 'said'"),
    ],
)
def test_logits_that_are_off_cost_their_sender_the_round(bad: Mapping[str, Tensor], sentence: str) -> None:
    strategy, good = FedMD(examples=10, combine=Median(), mask=False), torch.randn(EXAMPLES, CLASSES).half()
    strategy.meet(facts())
    arrays = after(strategy, [reply(1, "logits", bad), reply(2, "logits", {"said": good})], 6)
    assert sentence in strategy.faults[1]
    assert strategy.faults.keys() == {1}
    assert torch.equal(decode(arrays)["consensus"], good)
    assert decode(arrays)["round"].item() == 6


def test_probabilities_that_do_not_sum_to_one_cost_their_sender_the_round() -> None:
    strategy = FedMD(combine=Vote(), mask=False)
    strategy.meet(facts(1))
    said = [torch.tensor([[0.9, 0.9, 0.9]]), torch.tensor([[1.4, -0.4, 0]]), torch.tensor([[0.3, 0.7, 0]])]
    arrays = after(strategy, [reply(n, "probabilities", {"said": p.half()}) for n, p in enumerate(said, 1)])
    assert strategy.faults == dict.fromkeys((1, 2), "its probabilities are negative or do not sum to 1")
    assert decode(arrays)["consensus"].tolist() == [[0.0, 1.0, 0.0]]


def test_a_class_that_a_site_never_saw_has_no_say() -> None:
    strategy = FedMD(mask=True)
    strategy.meet(facts())
    first, second = torch.full((4, 3), 2.0), torch.full((4, 3), 8.0)
    masks = [torch.tensor([True, True, False]), torch.tensor([False, True, False])]
    replies = [
        reply(n, "logits", {"said": said.half(), "known": known})
        for n, (said, known) in enumerate(zip([first, second], masks, strict=True), 1)
    ]
    answer = decode(after(strategy, replies))["consensus"]
    assert answer[0].tolist() == [2.0, 5.0, 5.0]  # of the last class nobody knows more than the others
    none = {"said": LOGITS, "known": torch.zeros(3, dtype=torch.bool)}
    after(strategy, [reply(1, "logits", none), replies[1]])
    assert "has seen no class" in strategy.faults[1]


def test_agreement_entropy_and_spread_are_what_their_words_say() -> None:
    strategy = FedMD(combine=Vote(), mask=False)
    strategy.meet(facts(2))
    sure = torch.eye(3)
    said = [sure[[0, 1]], sure[[0, 2]], sure[[0, 1]]]
    after(strategy, [reply(n, "probabilities", {"said": p.half()}) for n, p in enumerate(said, 1)])
    assert strategy.notes()["agreement"] == pytest.approx((1 + 1 / 3) / 2)  # all pairs; one of three pairs
    unsure = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3)) / math.log(3)
    assert strategy.notes()["entropy"] == pytest.approx(unsure / 2)
    after(strategy, [reply(n, "probabilities", {"said": sure[[0, 0]].half()}) for n in (1, 2)])
    assert strategy.notes()["spread"] == 0


def test_the_server_of_dsfl_learns_the_sharpened_mean() -> None:
    strategy = DSFL(server=Settings(optimizer="adam", lr=0.05, epochs=300.0, batch_size=4), warmup=0, mask=False)
    strategy.meet(facts())
    target = torch.eye(3)[[0, 1, 2, 0]]
    arrays = after(strategy, [reply(n, "probabilities", {"said": target.half()}) for n in (1, 2, 3)])
    (name, weights), *rest = strategy.models(arrays).items()
    assert (name, rest) == ("one", [])
    model = net("one")
    model.load_state_dict(dict(weights))
    public = facts().public
    assert public is not None
    order = decode(arrays)  # the answer speaks of the round's rows; the model must agree with it on them
    from fl_distill.knowledge.public import public_rows

    x = public.x[public_rows(EXAMPLES, 1000, 0, 1)]
    assert torch.equal(model(x).argmax(1), order["consensus"].argmax(1))


RULES = [Mean(), Era(0.3), Power(2.0), Vote(), Median(), TrimmedMean(0.3), DropWorst(1), Confidence()]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_votes_that_contradict_and_masks_that_do_not_meet_still_make_probabilities(rule: Rule) -> None:
    strategy = FedMD(combine=rule, exchange="probabilities")
    strategy.meet(facts(2))
    sure, masks = torch.eye(3), torch.tensor([[True, True, False], [False, False, True], [True, False, False]])
    said = [sure[[2, 2]], sure[[0, 1]], sure[[1, 2]]]  # each for a class that it has never seen
    replies = [
        reply(n, "probabilities", {"said": p.half(), "known": known})
        for n, (p, known) in enumerate(zip(said, masks, strict=True), 1)
    ]
    answer = decode(after(strategy, replies))["consensus"].float()
    assert not strategy.faults
    assert answer.min() >= 0
    assert (answer.sum(-1) - 1).abs().max() < 0.01


def test_weights_that_vanish_and_numbers_that_drown_cost_their_sender_the_round() -> None:
    strategy = FedMD(weight="examples", bits=32, combine=Confidence(), mask=False)
    strategy.meet(facts())
    good = reply(2, "logits", {"said": torch.randn(4, 3)})
    tiny = reply(1, "logits", {"said": torch.randn(4, 3)}, **{"num-examples": 1e-60})
    huge = reply(3, "logits", {"said": torch.full((4, 3), 9e17)})
    after(strategy, [tiny, good, huge])
    assert "expected a number from 0.001" in strategy.faults[1]
    assert "numbers beyond 65504" in strategy.faults[3]


def test_a_site_that_is_right_about_nothing_yet_has_hardly_a_say_but_is_no_fault() -> None:
    strategy = FedMD(weight="validation", mask=False)
    strategy.meet(facts())
    said = [reply(n, "logits", {"said": LOGITS + n}, **{"trained-validation-accuracy": n - 1.0}) for n in (1, 2)]
    answer = decode(after(strategy, said))["consensus"]
    assert not strategy.faults
    assert torch.allclose(answer.float(), torch.full((4, 3), 2.0), atol=0.01)


def test_what_fails_at_the_server_leaves_it_as_it_was_and_is_said() -> None:
    wild = Settings(optimizer="sgd", lr=1e38, epochs=30.0, batch_size=4)
    strategy = DSFL(server=wild, mask=False)
    strategy.meet(facts())
    ask(strategy, ArrayRecord())
    arrays, means = strategy.aggregate_train(
        1, [reply(1, "probabilities", {"said": torch.eye(3)[[0, 1, 2, 0]].half()})]
    )
    assert arrays is None
    assert means is not None
    assert "nothing was learned at the server: training diverged" in strategy.troubles[0]
    assert strategy.state() == {}


def test_attention_maps_are_held_to_what_attention_is() -> None:
    strategy = CrossSilo(transfer="attention", mask=False, server=STILL)
    strategy.meet(facts())
    flat = torch.full((4, 16), 0.25).half()
    said = {"said": torch.eye(3)[[0, 1, 2, 0]].half()}
    bad = [flat * 100, -flat, flat[:3]]
    for shown in bad:
        maps = {"attention-shallow": shown.contiguous(), "attention-deep": flat}
        after(strategy, [reply(1, "probabilities", {**said, **maps}), reply(2, "probabilities", said)])
        assert strategy.faults.keys() == {1}
    with pytest.raises(ValueError, match="sites can show attention"):
        CrossSilo(transfer="features")
    with pytest.raises(ValueError, match="transfer is of attention, features"):
        TeacherStudent(transfer="atention")


# ------------------------------------------------------------ packed labels


def cfd() -> CFD:
    strategy = CFD(server=Settings(optimizer="adam", lr=1e-3, epochs=1.0), bits_up=1, bits_down=1, mask=False)
    strategy.meet(facts())
    return strategy


def packed(rows: list[int], base: Tensor | None = None, refers_to: int = 0, heard: int = 0) -> dict[str, Tensor]:
    levels = simplex.quantize(torch.eye(3)[rows], 1)
    said = soft_labels.pack(levels, 1, base)
    return {"said": said, "base": torch.tensor(refers_to), "heard": torch.tensor(heard)}


def test_packed_labels_travel_as_changes_between_those_who_hold_the_same() -> None:
    strategy = cfd()
    first = simplex.quantize(torch.eye(3)[[0, 1, 2, 0]], 1)
    arrays = after(strategy, [reply(1, "probabilities", packed([0, 1, 2, 0]))], 1)
    told = ask(strategy, arrays, 2)
    assert told[1]["holds"] == 1  # the server has site 1's labels of round 1
    assert told[2]["holds"] == 0
    assert told[1]["base"] == 0  # nobody has heard anything yet
    again = [reply(1, "probabilities", packed([0, 1, 2, 1], first, refers_to=1, heard=1))]
    arrays, _ = strategy.aggregate_train(2, again)
    assert not strategy.faults
    assert arrays is not None
    told = ask(strategy, arrays, 3)
    assert (told[1]["holds"], told[1]["base"]) == (2, 1)
    assert told[2]["base"] == 0


def test_a_site_that_did_not_answer_is_told_everything_again() -> None:
    strategy = cfd()
    arrays = after(strategy, [reply(1, "probabilities", packed([0, 1, 2, 0]))], 1)
    ask(strategy, arrays, 2)
    arrays, _ = strategy.aggregate_train(2, [reply(2, "probabilities", packed([0, 0, 0, 0]))])
    assert arrays is not None
    told = ask(strategy, arrays, 3)
    assert told[1]["holds"] == told[1]["base"] == 0
    lost = reply(1, "probabilities", packed([0, 1, 2, 0], refers_to=1))
    strategy.aggregate_train(3, [lost, reply(2, "probabilities", packed([0, 0, 0, 0]))])
    assert "refer to its labels of round 1, which the server does not have" in strategy.faults[1]


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ({**packed([0, 1, 2, 0]), "said": torch.zeros(10**6, dtype=torch.uint8)}, "expected at most"),
        ({**packed([0, 1, 2, 0]), "said": torch.zeros(3)}, "expected uint8"),
        ({**packed([0, 1, 2, 0]), "said": torch.zeros(0, dtype=torch.uint8)}, ""),
        ({**packed([0, 1, 2, 0]), "heard": torch.zeros(1)}, "expected int64"),
        (packed([0, 1, 2]), ""),
    ],
)
def test_packed_labels_that_are_off_cost_their_sender_the_round(bad: Mapping[str, Tensor], sentence: str) -> None:
    strategy = cfd()
    after(strategy, [reply(1, "probabilities", bad), reply(2, "probabilities", packed([0, 1, 2, 0]))])
    assert sentence in strategy.faults[1]


# ------------------------------------------------------------ class means


def means(rows: list[list[float]], counts: list[int]) -> dict[str, Tensor]:
    return {"means": torch.tensor(rows).half(), "counts": torch.tensor(counts, dtype=torch.int32)}


def test_fd_tells_each_site_what_the_others_say() -> None:
    strategy = FD()
    strategy.meet(facts())
    half, first, last = [0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]
    one = reply(1, "probabilities", means([first, half, [9.0, 9.0, 9.0]], [5, 5, 0]))
    two = reply(2, "probabilities", means([half, last, last], [1, 0, 1]))
    told = ask(strategy, after(strategy, [one, two]), 2)
    assert told[1]["targets"].tolist()[0] == half
    assert told[1]["known"].tolist() == [True, False, True]
    assert told[2]["targets"].tolist()[:2] == [first, half]
    assert told[2]["known"].tolist() == [True, True, False]
    assert told[3]["targets"].tolist() == [[0.75, 0.25, 0.0], half, last]  # it said nothing: everybody else's


def test_fd_never_tells_a_site_its_own_word_as_the_others() -> None:
    strategy = FD()
    strategy.meet(facts())
    only = reply(1, "probabilities", means([[0.5, 0.5, 0.0]] * 3, [0, 0, 4]))
    other = reply(2, "probabilities", means([[0.5, 0.5, 0.0]] * 3, [4, 0, 0]))
    after(strategy, [only, other])
    arrays, _ = strategy.aggregate_train(2, [other])  # site 1 misses a round
    assert arrays is not None
    assert ask(strategy, arrays, 3)[1]["known"].tolist() == [True, False, False]


def test_fedproto_averages_over_the_sites_that_hold_a_class_and_remembers_the_absent() -> None:
    strategy = FedProto(width=2)
    strategy.meet(facts())
    one = reply(1, "features", means([[2.0, 0.0], [4.0, 4.0], [9.0, 9.0]], [50, 1, 0]))
    two = reply(2, "features", means([[0.0, 2.0], [7.0, 7.0], [7.0, 7.0]], [1, 0, 0]))
    arrays = after(strategy, [one, two])
    told = ask(strategy, arrays, 2)[3]
    assert told["targets"].tolist()[:2] == [[1.0, 1.0], [4.0, 4.0]]
    assert told["known"].tolist() == [True, True, False]
    wide = reply(3, "features", means([[1.0, 2.0, 3.0]] * 3, [1, 1, 1]))
    later, _ = strategy.aggregate_train(2, [wide, two])
    assert strategy.faults.keys() == {3}
    assert later is not None
    told = ask(strategy, later, 3)[1]
    assert told["targets"].tolist()[:2] == [[0.0, 2.0], [4.0, 4.0]]
    assert told["known"].tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (means([[1.0, 0, 0]] * 3, [0, 0, 0]), "not all 0"),
        (means([[1.0, 0, 0]] * 3, [-1, 1, 1]), "counts must be 0 to"),
        (means([[1.0, 0, 0]] * 2, [1, 1]), "expected float16[3, 3]"),
        (means([[1.0, 1, 1]] * 3, [1, 0, 0]), "do not sum to 1"),
        ({**means([[1.0, 0, 0]] * 3, [1, 1, 1]), "counts": torch.ones(3)}, "expected int32"),
        ({}, "no 'probabilities' record"),
    ],
)
def test_class_means_that_are_off_cost_their_sender_the_round(bad: Mapping[str, Tensor], sentence: str) -> None:
    strategy = FD()
    strategy.meet(facts())
    good = means([[1.0, 0, 0]] * 3, [1, 1, 1])
    after(strategy, [reply(1, "probabilities", bad), reply(2, "probabilities", good)])
    assert sentence in strategy.faults[1]
    assert strategy.faults.keys() == {1}


# ------------------------------------------------------------ weights by architecture, split networks

STILL = Settings(optimizer="sgd", lr=1e-30, steps=1)


def test_feddf_averages_within_an_architecture() -> None:
    strategy = FedDF(server=STILL, weight="examples")
    strategy.meet(facts())
    states = {
        node: {k: torch.randn_like(v) for k, v in net(NAMES[node].architecture).state_dict().items()} for node in NAMES
    }
    arrays = after(strategy, [reply(n, "arrays", states[n], **{"num-examples": float(n)}) for n in NAMES])
    models = strategy.models(arrays)
    for name, tensor in models["one"].items():
        reference = (states[1][name].double() + 3 * states[3][name].double()) / 4
        assert (tensor.double() - reference).abs().max() < 1e-6
    assert all(torch.equal(tensor, states[2][name]) for name, tensor in models["two"].items())
    told = ask(strategy, arrays, 2)
    assert told[1].keys() == models["one"].keys()
    assert told[2].keys() == models["two"].keys()


def test_feddf_teaches_every_architecture_what_the_ensemble_says() -> None:
    quick = Settings(optimizer="adam", lr=0.05, steps=400, batch_size=16)
    strategy = FedDF(server=quick, patience=400)
    known = facts(64)
    strategy.meet(known)
    states = {node: net(NAMES[node].architecture).state_dict() for node in NAMES}
    torch.manual_seed(1)
    states = {node: {k: torch.randn_like(v) for k, v in state.items()} for node, state in states.items()}
    arrays = after(strategy, [reply(n, "arrays", states[n]) for n in NAMES])
    assert known.public is not None
    with torch.no_grad():
        said = []
        for node, state in states.items():
            model = net(NAMES[node].architecture)
            model.load_state_dict(state)
            said.append(model(known.public.x))
        ensemble = torch.stack(said).mean(0).softmax(-1)
        for name, weights in strategy.models(arrays).items():
            model = net(name)
            model.load_state_dict(dict(weights))
            gap = (model(known.public.x).softmax(-1) - ensemble).abs().mean()
            assert gap < 0.03, name


def test_an_architecture_that_nobody_sends_keeps_its_model_and_a_new_one_starts_untrained() -> None:
    strategy = FedDF(server=STILL)
    strategy.meet(facts())
    sent = {k: torch.ones_like(v) for k, v in net("one").state_dict().items()}
    arrays = after(strategy, [reply(1, "arrays", sent)])
    told = ask(strategy, arrays, 2)
    assert all(torch.equal(told[2][k], v) for k, v in net("two").state_dict().items())
    other = {k: torch.ones_like(v) for k, v in net("two").state_dict().items()}
    later, _ = strategy.aggregate_train(2, [reply(2, "arrays", other)])
    assert later is not None
    assert all(torch.equal(v, torch.ones_like(v)) for model in strategy.models(later).values() for v in model.values())


def test_weights_of_another_architecture_or_that_say_nan_cost_their_sender_the_round() -> None:
    strategy = FedDF(server=STILL)
    strategy.meet(facts())
    good = {k: torch.ones_like(v) for k, v in net("one").state_dict().items()}
    foreign = {k: torch.ones_like(v) for k, v in net("two").state_dict().items()}
    huge = {k: torch.full_like(v, 9e17) for k, v in net("two").state_dict().items()}
    after(strategy, [reply(1, "arrays", foreign), reply(2, "arrays", huge), reply(3, "arrays", good)])
    assert "tensors are missing" in strategy.faults[1]
    assert "not finite" in strategy.faults[2]
    assert 3 not in strategy.faults


def examples(count: int, **changed: Tensor) -> dict[str, Tensor]:
    labels = torch.arange(count) % CLASSES
    shown = {"logits": torch.zeros(count, CLASSES).half(), "features": torch.eye(6)[labels].half()}
    return {**shown, "labels": labels.to(torch.int16), **changed}


def test_features_as_large_as_they_can_be_do_not_leave_the_finite_numbers() -> None:
    strategy = SplitTeacher(width=6, server_model="one")
    strategy.meet(facts())
    told = after(strategy, [reply(1, "examples", examples(4, features=torch.full((4, 6), 60000.0).half()))])
    assert torch.isfinite(decode(told)["logits/a"]).all()


def test_the_split_teacher_learns_from_all_sites_and_answers_each() -> None:
    strategy = SplitTeacher(
        width=6, server_model="one", server=Settings(optimizer="adam", lr=0.05, epochs=100.0), hard=0.9
    )
    strategy.meet(facts())
    told = ask(strategy, after(strategy, [reply(1, "examples", examples(9)), reply(2, "examples", examples(5))]), 2)
    for node, count in ((1, 9), (2, 5)):
        assert told[node]["logits"].shape == (count, CLASSES)
        assert torch.equal(told[node]["logits"].argmax(1), torch.arange(count) % CLASSES)
    assert told[3] == {}


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (examples(3, labels=torch.tensor([0, 1, 3], dtype=torch.int16)), "labels must be 0 to 2"),
        (examples(3, features=torch.zeros(3, 5).half()), "expected float16[3, 6]"),
        (examples(3, logits=torch.zeros(2, 3).half()), "expected float16[3, 3]"),
        (examples(0), "shows no example"),
    ],
)
def test_examples_that_are_off_cost_their_sender_the_round(bad: Mapping[str, Tensor], sentence: str) -> None:
    strategy = SplitTeacher(width=6, server_model="one", server=STILL)
    strategy.meet(facts())
    after(strategy, [reply(1, "examples", bad), reply(2, "examples", examples(4))])
    assert sentence in strategy.faults[1]
    assert strategy.faults.keys() == {1}
