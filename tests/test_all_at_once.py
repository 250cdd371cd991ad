"""Replies that are all there, added in one pass: the same bits and the same faults as one after the other."""

import gc
import math
import struct
import sys
import weakref
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fl_distill.codec import decode, encode
from fl_distill.codec.decoding import LARGEST
from fl_distill.knowledge import WeightedMean, mean, several
from fl_distill.knowledge.several import Numbers
from fl_distill.runtime.flower_private import identity
from fl_distill.strategies import FedAvg

from .test_strategies import Nodes

pytestmark = pytest.mark.skipif(find_spec("numba") is None, reason='needs numba: pip install "fl-distill[fast]"')
SPECIAL = [0.0, -0.0, 1e-42, -1e-42, 1.5e-38, 1e18, -1e18, 1.0, -3.0]


@pytest.fixture(autouse=True)
def _inside_a_run() -> Iterable[None]:
    with identity(7):
        yield


def bits(numbers: Tensor) -> Tensor:
    return numbers.view(torch.int32)


def drawn(seed: int, size: int) -> Tensor:
    """Numbers of all magnitudes, some of them special."""
    g = torch.Generator().manual_seed(seed)
    numbers = torch.randn(size, generator=g) * 10.0 ** torch.randint(-20, 17, (size,), generator=g)
    rare = torch.rand(size, generator=g) < 0.2
    numbers[rare] = torch.tensor(SPECIAL)[torch.randint(len(SPECIAL), (int(rare.sum()),), generator=g)]
    return numbers


def test_this_machine_rounds_as_torch_does() -> None:
    assert several.available()


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.sampled_from([0, 1, 7, 8, 31, 64, 1000, several._PIECE, several._PIECE + 9]), max_size=4),
    weights=st.lists(st.floats(1e-3, 1e12), min_size=1, max_size=3 * several.SITES),
    threads=st.sampled_from([1, 2, 3]),
    seed=st.integers(0, 99),
)
def test_a_pass_gives_torchs_bits(sizes: list[int], weights: list[float], threads: int, seed: int) -> None:
    sums = [drawn(seed + 1000 * at, size) for at, size in enumerate(sizes)]
    sites = [[drawn(seed + 1000 * at + 1 + k, size) for at, size in enumerate(sizes)] for k in range(len(weights))]
    expected = []
    for at in range(len(sizes)):
        first, *more = sites
        total = first[at] * weights[0]
        for site, weight in zip(more, weights[1:], strict=True):
            total.add_(site[at], alpha=weight)
        expected.append(total)
    was = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        numbers = [[x.numpy() for x in site] for site in sites]
        assert several.add_up([x.numpy() for x in sums], numbers, weights, LARGEST) == []
    finally:
        torch.set_num_threads(was)
    for found, total in zip(sums, expected, strict=True):
        assert torch.equal(bits(found), bits(total))


@pytest.mark.parametrize(
    "wrong", [math.nan, math.inf, -math.inf, float(np.nextafter(np.float32(1e18), np.float32(2e18))), -2e18]
)
@pytest.mark.parametrize("at", [0, 5, 998, several._PIECE + 2])
@pytest.mark.parametrize("site", [0, 7, 10])
def test_bad_numbers_are_seen_wherever_they_are(wrong: float, at: int, site: int) -> None:
    sites = [[np.full(several._PIECE + 3, 1e18, np.float32)] for _ in range(11)]
    sums = [np.zeros(several._PIECE + 3, np.float32)]
    assert several.add_up(sums, sites, [1.0] * 11, LARGEST) == []
    sites[site][0][at] = wrong
    suspects = several.add_up(sums, sites, [1.0] * 11, LARGEST)
    assert suspects == ([*range(8)] if site < 8 else [8, 9, 10])


# ------------------------------------------------------------ a strategy's round


def model(seed: int) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        "steps": torch.tensor(seed),
        "weight": torch.randn(20, 30, generator=g),
        "none": torch.empty(0, 3),
        "half": torch.randn(9, generator=g).half(),
        "brain": torch.randn(5, generator=g).bfloat16(),
        "double": torch.randn(4, 2, generator=g, dtype=torch.float64),
        "bias": torch.randn((), generator=g),
    }


def with_odd_header(array: Array) -> Array:
    """The same numbers behind a header that numpy reads, at an address where no float32 would lie."""
    head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {tuple(array.shape)}, }}\n".encode()
    head = b" " * ((len(head) + 10 + 1) % 2) + head
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + array.numpy().tobytes()
    return Array(array.dtype, array.shape, array.stype, data)


def record(kind: str, seed: int) -> ArrayRecord:
    tensors = model(seed)
    match kind:
        case "nan":
            tensors["weight"][3, 4] = math.nan
        case "large":
            tensors["bias"].fill_(1e30)
        case "half":
            tensors["half"][2] = math.inf
        case "short":
            del tensors["bias"]
        case "shape":
            tensors["weight"] = tensors["weight"].t()
    arrays = encode(tensors, bare=kind == "bare")
    if kind == "odd":
        arrays = ArrayRecord({**arrays, "weight": with_odd_header(arrays["weight"])})
    return arrays


def reply(kind: str, node: int) -> Message:
    to = Message(RecordDict(), node, "train", group_id="1")
    if kind == "error":
        return Message(Error(0, "it fell over"), reply_to=to)
    examples = -1 if kind == "weight" else 3 * node + 1
    content = {"arrays": record(kind, node), "metrics": MetricRecord({"num-examples": examples, "loss": 1.0 / node})}
    return Message(RecordDict({} if kind == "empty" else content), reply_to=to)


def outcome(replies: Iterable[Message]) -> tuple[dict[str, tuple[str, bytes]] | None, object, dict[int, str]]:
    strategy = FedAvg()
    strategy.configure_train(1, encode(model(0)), ConfigRecord(), Nodes(1))  # type: ignore[arg-type]
    arrays, metrics = strategy.aggregate_train(1, replies)
    found = None if arrays is None else {name: (array.dtype, array.data) for name, array in arrays.items()}
    return found, metrics and dict(metrics), strategy.faults


KINDS = ["good", "bare", "odd", "nan", "large", "half", "short", "shape", "error", "weight", "empty"]


@settings(deadline=None, max_examples=80)
@given(st.lists(st.sampled_from([*["good"] * 10, *KINDS]), max_size=20))
def test_a_list_of_replies_gives_what_one_after_the_other_gives(kinds: Sequence[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(several, "WORTH", 0)
        assert outcome([reply(kind, at + 1) for at, kind in enumerate(kinds)]) == outcome(
            reply(kind, at + 1) for at, kind in enumerate(kinds)
        )


def test_each_kind_of_reply_is_what_it_says() -> None:
    _, _, faults = outcome(reply(kind, at) for at, kind in enumerate(KINDS, 1))
    assert [KINDS[node - 1] for node in faults] == KINDS[3:]
    assert encode(model(1))["weight"].data[-2400:] == record("odd", 1)["weight"].data[-2400:]
    numbers = np.frombuffer(
        record("odd", 1)["weight"].data, np.float32, 600, len(record("odd", 1)["weight"].data) - 2400
    )
    assert not numbers.flags.aligned


def test_what_is_added_at_once_is_the_mean_of_a_float64_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(several, "WORTH", 0)
    passes: list[int] = []
    add_up = several.add_up

    def counted(sums: list[Numbers], sites: list[list[Numbers]], *rest: Any) -> list[int]:
        passes.append(len(sites))
        return add_up(sums, sites, *rest)

    monkeypatch.setattr(mean, "add_up", counted)
    strategy = FedAvg()
    strategy.configure_train(1, encode(model(0)), ConfigRecord(), Nodes(1))  # type: ignore[arg-type]
    arrays, _ = strategy.aggregate_train(1, [reply("nan" if node == 4 else "good", node) for node in range(1, 20)])
    assert arrays is not None
    assert passes == [19, 18]
    nodes = [node for node in range(1, 20) if node != 4]
    weights = torch.tensor([3 * node + 1 for node in nodes], dtype=torch.float64)
    stack = torch.stack([model(node)["weight"].double() for node in nodes])
    exact = torch.einsum("k,kij->ij", weights, stack) / weights.sum()
    assert (decode(arrays)["weight"] - exact).abs().max() < 1e-6


def test_a_bad_reply_keeps_no_other_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(several, "WORTH", 0)
    replies = [reply(kind, node) for node, kind in enumerate(("good", "nan", "short", "good"), 1)]
    contents = [weakref.ref(message.content) for message in replies]
    gc.disable()
    try:
        _, _, faults = outcome(replies)
        replies.clear()
        assert [content() for content in contents] == [None] * 4
    finally:
        gc.enable()
    assert faults.keys() == {2, 3}


def test_few_numbers_and_streams_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WeightedMean, "of_all", None)
    replies = [reply("good", node) for node in (1, 2)]
    few = outcome(replies)
    monkeypatch.setattr(several, "WORTH", 0)
    assert few == outcome(iter(replies))
    with pytest.raises(TypeError):
        outcome(replies)


def test_without_numba_nothing_else_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(several, "WORTH", 0)
    replies = [reply("good", node) for node in range(1, 11)]
    found = outcome(replies)
    monkeypatch.setattr(several, "_kernel", lambda: None)
    assert outcome(replies) == found
    with pytest.raises(RuntimeError, match=r"fl-distill\[fast\]"):
        several.add_up([], [], [], LARGEST)


def test_where_numba_is_not_installed_there_is_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(several, "find_spec", lambda _: None)
    assert several._kernel.__wrapped__() is None


@pytest.mark.parametrize(
    "broken",
    [
        "raise ImportError('numba needs another numpy')",
        "raise OSError('libllvmlite.so: cannot open shared object file')",
        "",
        "njit = lambda **_: lambda add: lambda *_: 1 / 0",
        "njit = lambda **_: lambda add: lambda *_: True",
    ],
)
def test_a_numba_that_does_not_work_is_none(broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "numba.py").write_text(broken)
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("numba", "fl_distill.knowledge.kernel"):
        # Unlike `delitem`, this remembers a module that was not there, and takes the broken one away afterwards.
        monkeypatch.setitem(sys.modules, module, None)
        del sys.modules[module]
    assert several._kernel.__wrapped__() is None


def test_what_does_not_fit_is_an_error() -> None:
    sums, five, three = [np.zeros(5, np.float32)], [np.ones(5, np.float32)], [np.ones(3, np.float32)]
    with pytest.raises(ValueError, match=r"site 1 has vectors of \[3\] numbers, expected \[5\]"):
        several.add_up(sums, [five, three], [1.0, 1.0], LARGEST)
    with pytest.raises(ValueError, match="positive finite"):
        WeightedMean.of_all({"x": (5,)}, [{"x": five[0]}], [{}], [math.nan], LARGEST)


def test_the_kernel_reads_only_where_numbers_may_lie() -> None:
    data = b"\0" + np.arange(9, dtype=np.float32).tobytes()
    readable = several._readable(np.frombuffer(data, np.float32, -1, 1), slice(2, 5))
    assert readable.flags.aligned
    assert readable.tolist() == [2, 3, 4]
