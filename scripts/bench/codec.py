"""Time codecs on one thread, beside the copy of the same numbers, and say what their errors are.

    python scripts/bench/codec.py "uniform8x256" "rotate lloydmax4" --numel 10000000 --reps 7

GB/s are of float32 handled, medians. `--clock cpu` counts this thread's own time, for a machine that others load too;
copies are timed between the codecs, and the column beside each figure is its ratio to them.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from fl_distill.codec.chain import chain
from fl_distill.codec.coder import About

CODECS = [
    "float16",
    "uniform8x256",
    "uniform4x64",
    "stochastic8x256",
    "dither8x256",
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("codecs", nargs="*", default=CODECS, help="chain sentences")
    parser.add_argument("--numel", type=int, default=10_000_000)
    parser.add_argument("--reps", type=int, default=5)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--spread", choices=["normal", "lognormal"], default="normal")
    args = parser.parse_args()
    torch.set_num_threads(1)
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
