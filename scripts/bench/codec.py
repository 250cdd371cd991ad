"""Time codecs on one thread, beside the copy of the same numbers, and say what their errors are.

    python scripts/bench/codec.py "uniform8x64" "rotate lloydmax4" --numel 10000000 --reps 7
    python scripts/bench/codec.py --message int8 step eden4 --reps 15 --clock cpu

GB/s are of float32 handled, medians. `--clock cpu` counts this thread's own time, for a machine that others load too;
copies are timed between the codecs, and the column beside each figure is its ratio to them.

`--message`: the change of a ResNet-18 from one state dict to another: `pack` with its error, Flower's objects to bytes
and back, `unpack`, in turns with Flower's own float32 for the same model.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from flwr.app import ArrayRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from torch import Tensor

from fl_distill import models
from fl_distill.codec.chain import Chain, chain
from fl_distill.codec.coder import About
from fl_distill.codec.frame import Head
from fl_distill.codec.wire import KEY, pack, unpack

CODECS = [
    "float16",
    "uniform8x64",
    "uniform4x64",
    "stochastic8x64",
    "dither8x64",
    "nf4x64",
    "rotate lloydmax1",
    "rotate lloydmax2",
    "rotate lloydmax3",
    "rotate lloydmax4",
    "rotate leastmax4",
    "sign",
    "ring8x16",
]
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.thread_time}


def rate(work: Callable[[], object], nbytes: int, reps: int, clock: Callable[[], float]) -> float:
    """GB/s, the median of `reps`."""
    work()
    seconds = []
    for _ in range(reps):
        began = clock()
        work()
        seconds.append(clock() - began)
    return nbytes / statistics.median(seconds) / 1e9


def travelled(content: RecordDict) -> tuple[RecordDict, int]:
    """The content as the other side has it, and its bytes: each object by itself, named by its SHA-256."""
    objects = get_all_nested_objects(content)
    contents = {name: found.deflate() for name, found in objects.items()}
    there = inflate_object_from_contents(list(objects)[-1], dict(contents))
    assert isinstance(there, RecordDict)
    return there, sum(map(len, contents.values()))


def plain(model: dict[str, Tensor]) -> int:
    """One model as Flower sends it."""
    there, size = travelled(RecordDict({"arrays": ArrayRecord(model)}))
    there.array_records["arrays"].to_torch_state_dict()
    return size


def coded(model: dict[str, Tensor], base: dict[str, Tensor], by: Chain) -> int:
    """The same model, coded, with the error that a site reports."""
    packed = pack(model, by, Head(1, 7, 0, 9), base if by.delta else None)
    assert packed.nmse < 1
    there, size = travelled(RecordDict({"arrays": packed.record()}))
    unpack(there.array_records["arrays"][KEY].data, lambda _: base)
    return size


def messages(sentences: list[str], reps: int, clock: Callable[[], float]) -> None:
    torch.manual_seed(0)
    base = models.resnet18((3, 32, 32), 10).state_dict()
    model = {name: t + 1e-3 * torch.randn(t.shape) if t.is_floating_point() else t for name, t in base.items()}
    ways: dict[str, Callable[[], int]] = {"Flower float32": lambda: plain(model)}
    for sentence in sentences:
        if (by := chain(sentence)) is not None:
            ways[sentence] = lambda by=by: coded(model, base, by)  # type: ignore[misc]
    source = torch.cat([t.float().flatten() for t in base.values()])
    into = torch.zeros_like(source)
    ways["copy"] = lambda: into.copy_(source).nbytes
    spent: dict[str, list[float]] = {name: [] for name in ways}
    sizes = {name: way() for name, way in ways.items()}
    for _ in range(reps):  # in turns, so that a machine's slow moments meet all of them
        for name, way in ways.items():
            began = clock()
            way()
            spent[name].append(1e3 * (clock() - began))
    own = statistics.median(spent["Flower float32"])
    print(f"{'message':<24}{'MB':>8}{'ms':>9}{'/Flower':>9}")
    for name, times in spent.items():
        median = statistics.median(times)
        print(f"{name:<24}{sizes[name] / 1e6:>8.2f}{median:>9.1f}{median / own:>9.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("codecs", nargs="*", default=CODECS, help="chain sentences")
    parser.add_argument("--numel", type=int, default=10_000_000)
    parser.add_argument("--reps", type=int, default=5)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--spread", choices=["normal", "lognormal"], default="normal")
    parser.add_argument("--message", action="store_true", help="whole messages beside Flower's own")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.message:
        messages(["int8", "step", "eden4"] if args.codecs == CODECS else args.codecs, args.reps, CLOCKS[args.clock])
        return
    x = torch.randn(args.numel, generator=torch.Generator().manual_seed(0)) * 0.02
    if args.spread == "lognormal":
        x = x.mul_(50).exp_()
    about, into, clock = About(((args.numel,),), 1), torch.zeros(args.numel), CLOCKS[args.clock]
    energy = x.double().square().sum()
    print(f"{'codec':<24}{'bits':>8}{'NMSE':>12}{'encode':>9}{'/copy':>7}{'add':>9}{'/copy':>7}{'copy':>9}  (GB/s)")
    for sentence in args.codecs:
        found = chain(sentence)
        if found is None:
            continue
        coder = found.coder
        data = coder.encode(x, about)
        error = float((coder.decode(data, about).double() - x).square().sum() / energy)

        def timed(work: Callable[[], object]) -> float:
            return rate(work, 4 * args.numel, args.reps, clock)

        copy = timed(lambda: into.copy_(x))
        encode = timed(lambda coder=coder: coder.encode(x, about))
        add = timed(lambda coder=coder, data=data: coder.add(data, about, into, 0.1))
        copy = (copy + timed(lambda: into.copy_(x))) / 2
        figures = f"{encode:>9.2f}{encode / copy:>7.2f}{add:>9.2f}{add / copy:>7.2f}{copy:>9.2f}"
        print(f"{sentence:<24}{8 * len(data) / args.numel:>8.3f}{error:>12.3g}{figures}", flush=True)


if __name__ == "__main__":
    main()
