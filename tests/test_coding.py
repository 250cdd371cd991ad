"""Who holds which model, and whose residual counts: the two halves of quantized updates, message by message."""

import logging
import math
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from torch import Tensor

from fl_distill.codec import decode, encode, schema_of
from fl_distill.codec.budget import fewest, pack_within
from fl_distill.codec.chain import chain
from fl_distill.codec.frame import Head
from fl_distill.codec.ways import Codecs, Way, way
from fl_distill.codec.wire import pack
from fl_distill.errors import BadUpdate, ConfigError
from fl_distill.mods import ContextMemory, FileMemory, quantized, quantizing
from fl_distill.runtime import flower_private
from fl_distill.strategies import Coding, FedAvg, Quantized
from fl_distill.strategies.outbox import CODEC


@pytest.fixture(autouse=True)
def identity() -> Iterator[None]:
    with flower_private.identity(1):
        yield


Train = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def context() -> Context:
    return Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})


class Federation:
    """A server's half and some sites, without anything between them."""

    def __init__(self, up: str = "none", down: str = "none", sites: int = 2, **more: Any) -> None:
        self.coding = Coding(Codecs(way(up), way(down)), **more)
        self.sites = {node: context() for node in range(1, sites + 1)}
        self.held: dict[int, dict[str, Tensor]] = {}

    def message(self, node: int, model: dict[str, Tensor]) -> Message:
        return Message(RecordDict({"arrays": encode(model), "config": ConfigRecord({})}), node, "train")

    def round(
        self, number: int, model: dict[str, Tensor], train: Train = lambda held: held, present: tuple[int, ...] = ()
    ) -> dict[int, dict[str, Tensor]]:
        """What the server makes of each site's reply; `held` is what the sites made of the model."""
        record = encode(model)
        messages = [
            Message(RecordDict({"arrays": record}), node, "train")
            for node in self.sites
            if node in present or not present
        ]
        answers = {}
        for message in self.coding.outgoing(number, messages):
            node = message.metadata.dst_node_id

            def app(message: Message, _: Context, node: int = node) -> Message:
                self.held[node] = {k: t.clone() for k, t in decode(message.content["arrays"]).items()}  # type: ignore[arg-type]
                content = RecordDict({"arrays": encode(train(self.held[node])), "metrics": MetricRecord({"n": 1})})
                return Message(content, reply_to=message)

            reply = quantized(message, self.sites[node], app)
            reply.metadata.__dict__["_src_node_id"] = node
            if reply.has_error():
                continue
            answers[node] = decode(self.coding.incoming(reply).content["arrays"])  # type: ignore[arg-type]
        self.coding.used(number, answers)
        return answers


def model(seed: int = 0) -> dict[str, Tensor]:
    return {"w": torch.randn(40, 50, generator=torch.Generator().manual_seed(seed))}


def gap(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return float((a["w"] - b["w"]).norm() / b["w"].norm())


@pytest.mark.parametrize("down", ["int8", "eden1", "step"])
def test_what_the_way_down_lost_is_said_in_the_next_round(down: str) -> None:
    here, still = Federation(down=down), model()
    here.round(1, model(1))
    gaps = []
    for number in range(2, 12):
        here.round(number, still)
        gaps.append(gap(here.held[1], still))
    assert gaps[-1] < 0.2 * gaps[0]


@pytest.mark.parametrize("down", ["int8", "eden1"])
def test_a_site_that_missed_a_round_holds_what_the_others_hold(down: str) -> None:
    here, still = Federation(down=down), model()
    here.round(1, model(1))
    here.round(2, still)
    here.round(3, still, present=(1,))
    for number in range(4, 8):
        here.round(number, still)
        assert gap(here.held[2], here.held[1]) < 4e-4  # float16's, of the one message that was whole
    assert gap(here.held[2], still) < gap(here.held[1], still) + 4e-4


def test_the_loss_of_the_way_down_does_not_enter_the_server_s_model() -> None:
    here, start = Federation(up="int8", down="eden1"), model()
    here.round(1, model(1))
    moved = here.round(2, start, lambda held: {"w": held["w"] + 0.5})
    assert gap(here.held[1], start) > 0.1
    assert float((moved[1]["w"] - start["w"] - 0.5).abs().max()) < 0.01


def test_a_residual_counts_from_the_last_reply_that_was_used() -> None:
    here, still = Federation(up="[delta,residual,sign]".strip("[]").replace(",", " ")), model()

    def train(held: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"w": held["w"] + model(5)["w"]}

    total = torch.zeros(40, 50)
    for number in range(1, 30):
        total += here.round(number, still, train)[1]["w"] - still["w"]
    assert float((total / 29 - model(5)["w"]).norm() / model(5)["w"].norm()) < 0.15
    kept = ContextMemory(here.sites[1]).load("residual-arrays", 29)
    here.coding.used(29, [])
    assert kept is not None
    # A reply that was not used leaves the residual as it was before it.
    here.coding.used(28, here.sites)
    message = next(iter(here.coding.outgoing(30, [here.message(1, still)])))
    assert message.content[CODEC]["used"] == 28
    assert ContextMemory(here.sites[1]).load("residual-arrays", 28) is not None


def test_what_was_not_said_of_other_knowledge_has_no_place_in_this() -> None:
    here = Federation(up="int4", weights=False)

    def said(number: int) -> float:
        new = {"w": torch.randn(80, 10, generator=torch.Generator().manual_seed(number))}
        return gap(here.round(number, model(), lambda _: new)[1], new)

    first = said(1)
    assert said(2) == pytest.approx(first, rel=0.2)
    assert said(3) == pytest.approx(first, rel=0.2)


def reply(tensors: ArrayRecord, **told: float) -> Message:
    asked = Message(RecordDict({"arrays": ArrayRecord()}), 1, "train")
    content = RecordDict({"arrays": tensors, CODEC: MetricRecord(told), "metrics": MetricRecord({"num-examples": 1})})  # type: ignore[arg-type]
    return Message(content, reply_to=asked)


@pytest.mark.parametrize("told", [{"numbers": 1.0}, {"numbers": math.nan, "coded-bytes": 1.0}, {}])
def test_what_a_site_tells_of_its_coding_is_not_trusted(told: dict[str, float]) -> None:
    here = Federation(up="int8")
    list(here.coding.outgoing(1, [here.message(1, model())]))
    here.coding.incoming(reply(encode(model()), **told))
    assert all(math.isfinite(value) for value in here.coding.figures().values())


def test_a_reply_has_room_for_so_many_numbers_in_all() -> None:
    by = chain("top0.000001 float16")
    assert by is not None
    giant = pack({"x": torch.zeros(5000, 5000)}, by, Head()).record()
    here = Federation(up="int8")
    list(here.coding.outgoing(1, [here.message(1, model())]))
    content = RecordDict({f"extra-{number}": giant for number in range(8)})
    with pytest.raises(BadUpdate, match="declares"):
        here.coding.incoming(Message(content, reply_to=Message(RecordDict({"a": ArrayRecord()}), 1, "train")))


def test_an_app_without_the_mod_is_told_of_it_by_flower_s_own_error() -> None:
    here = Federation(down="int8")
    (message,) = here.coding.outgoing(1, [here.message(1, model())])
    with pytest.raises(TypeError, match=r"needs mods=\[fl_distill.mods.quantized\]"):
        message.content["arrays"].to_torch_state_dict()  # type: ignore[union-attr]


@pytest.mark.parametrize(("up", "tensors", "told"), [("int8", model(1), 1), ("none", model(1), 0), ("int8", {}, 0)])
def test_the_server_says_once_who_answers_without_the_mod(
    up: str, tensors: dict[str, Tensor], told: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)
    caplog.set_level(logging.WARNING, "flwr")
    strategy = Quantized(FedAvg(), up=up, down="none")
    asked = Message(RecordDict({"arrays": encode(model())}), 1, "train")
    for number in (1, 2):
        list(strategy.coding.outgoing(number, [asked]))
        answer = Message(RecordDict({"arrays": encode(tensors)}), reply_to=asked)
        answer.metadata.__dict__["_src_node_id"] = 1
        assert list(strategy._decoded([answer], lambda _: None)) == [answer]
    assert sum("mods=[quantized]" in record.message for record in caplog.records) == told


def test_an_error_acknowledges_nothing() -> None:
    strategy = Quantized(FedAvg(), up="sign")
    asked = Message(RecordDict({"arrays": ArrayRecord()}), 1, "train")
    heard: list[int] = []
    failed = Message(Error(1, "no"), reply_to=asked)
    assert list(strategy._decoded([failed], heard.append)) == [failed]
    assert heard == []


def test_a_damaged_file_is_as_good_as_none_and_its_path_stays_at_the_site(tmp_path: Path) -> None:
    memory = FileMemory(tmp_path, "site-1")
    memory.save("residual-arrays", 1, {"lost": torch.ones(3)}, 0)
    (tmp_path / "site-1/residual-arrays/round-1.safetensors").write_bytes(b"broken")
    assert memory.load("residual-arrays", 1) is None

    def failing(_: Context) -> FileMemory:
        raise PermissionError(13, "not allowed", str(tmp_path))

    here = Federation(up="int8")
    (message,) = here.coding.outgoing(1, [here.message(1, model())])
    answer = quantizing(failing)(message, context(), lambda message, _: message)
    assert str(tmp_path) not in answer.error.reason
    assert "not allowed" in answer.error.reason


def test_a_codec_that_does_not_suit_weights_says_so() -> None:
    here = Federation(down="classes3")
    with pytest.raises(BadUpdate, match="exchange=probabilities"):
        here.round(1, model())


@pytest.mark.parametrize(
    ("ways", "setting"),
    [
        ({"up": "step"}, "codec.up"),
        ({"down": "eden4"}, "codec.down"),
        ({"down": "mixed"}, "codec.down"),
        ({"down": "float16"}, "codec.down"),
        ({"sites": "int8"}, "codec.sites.1"),
        ({"up": "powersgd"}, "codec.up"),
        ({"up": "topk"}, "codec.up"),
    ],
)
def test_a_budget_that_nothing_fits_is_found_before_anything_leaves(ways: dict[str, str], setting: str) -> None:
    def coding(budget: int) -> Coding:
        made = {way: Way(codec, budget) for way, codec in ways.items()}
        return Coding(Codecs(**({"sites": {"1": made["sites"]}} if "sites" in made else made)))  # type: ignore[arg-type]

    asked = Message(RecordDict({"arrays": encode(model())}), 1, "train")
    with pytest.raises(ConfigError) as caught:
        coding(20).outgoing(1, [asked])
    (fault,) = caught.value.faults
    assert fault.startswith(f"{setting}.bytes_per_round=20 is too few")
    (least,) = map(int, re.findall(r"more than (\d+)", fault))
    with pytest.raises(ConfigError):
        coding(least - 1).outgoing(1, [asked])
    here = Federation()
    here.coding = coding(least + 30)  # what numbers say costs a few more
    here.round(1, model())
    assert here.round(2, model(2), lambda held: {"w": held["w"] + model(3)["w"]}).keys() == {1, 2}


@pytest.mark.parametrize("said", ["eden4", "int4", "delta residual lowrank2 float16"])
def test_the_least_possible_is_enough(said: str) -> None:
    by = chain(said)
    assert by is not None
    least, _ = fewest(schema_of(encode(model())), by, against=True)
    assert len(pack_within(model(), by, Head(), model(1), budget=least).data) <= least
    with pytest.raises(BadUpdate, match="too few"):
        pack_within(model(), by, Head(), model(1), budget=least - 1)


def test_a_budget_for_what_is_not_known_yet_is_no_fault() -> None:
    for more, codec in (({"weights": False}, "step"), ({"changes": ("gradients",)}, "step"), ({}, "classes3")):
        coding = Coding(Codecs(up=Way(codec, 20)), **more)  # type: ignore[arg-type]
        assert len(coding.outgoing(1, [Message(RecordDict({"arrays": encode(model())}), 1, "train")])) == 1


def test_state_comes_back_as_it_was() -> None:
    here, there = Federation(down="int8"), Federation(down="int8")
    here.round(1, model(1))
    here.round(2, model(2))
    there.coding.restore(here.coding.state())
    there.sites = deepcopy(here.sites)
    assert here.round(3, model(3)).keys() == there.round(3, model(3)).keys()
    assert torch.equal(here.held[1]["w"], there.held[1]["w"])
    assert gap(there.held[1], model(3)) < 0.05
