"""Average replies of an 11.2-million-parameter model: speed and memory, beside Flower's FedAvg.

    python scripts/bench/aggregation.py --replies 10 50 200

Every number is of a process of its own, which keeps freed memory as this package's servers do. GB/s are of the
replies' float32 numbers, which lie in memory as messages, each in its own (200 take 9 GB). Memory is the peak above
what was there before, the replies and numba among it, in models. `one by one`: the replies come from an iterator, which
says nothing of the next one. `as they come`: each of them is copied when it is asked for, as if it arrived then, and
the copies count, their time and their memory.
"""

import argparse
import copy
import ctypes
import gc
import json
import math
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from torch import Tensor

from fl_distill.knowledge import several
from fl_distill.runtime.flower_private import identity
from fl_distill.runtime.memory import keep_freed_memory

DRAWN = 20
Aggregate = Callable[[Iterable[Message]], object]


def model(seed: int) -> dict[str, Tensor]:
    """Tensors of the shapes of a ResNet-18's for ten classes."""
    draw = torch.Generator().manual_seed(seed)
    shapes: list[tuple[int, ...]] = [(64, 3, 7, 7), (10, 512), (10,)]
    for before, width, count in ((64, 64, 4), (64, 128, 3), (128, 256, 3), (256, 512, 3)):
        shapes += [(width, width, 3, 3)] * count + [(width,)] * 10
        shapes += [] if before == width else [(width, before, 3, 3), (width, before, 1, 1)]
    return {f"tensor-{at}": torch.randn(shape, generator=draw) for at, shape in enumerate(shapes)}


class Nodes:
    """All that a strategy asks of a grid to make its messages."""

    def get_node_ids(self) -> list[int]:
        return [1]


def ours() -> Aggregate:
    from fl_distill.codec import encode
    from fl_distill.strategies import FedAvg

    strategy = FedAvg()
    strategy.configure_train(1, encode(model(0)), ConfigRecord(), Nodes())  # type: ignore[arg-type]
    return lambda replies: strategy.aggregate_train(1, replies)[0]


def one_by_one() -> Aggregate:
    aggregate = ours()
    return lambda replies: aggregate(iter(replies))


def as_they_come() -> Aggregate:
    aggregate = ours()
    return lambda replies: aggregate(map(arrived, replies))


def stock() -> Aggregate:
    from flwr.serverapp.strategy import FedAvg

    strategy = FedAvg(fraction_evaluate=0.0)
    return lambda replies: strategy.aggregate_train(1, replies)[0]


def bare() -> Aggregate:
    """What the machine can: numbers added in place, and nothing looked at."""

    def added(replies: Iterable[Message]) -> object:
        models = map(parts, replies)
        sums = [part * 0.1 for part in next(models)]
        for more in models:
            torch._foreach_add_(sums, more, alpha=0.1)
        return sums

    return added


def reading() -> Aggregate:
    """What it takes to see that numbers are finite, however they are added afterwards."""
    return lambda replies: [float(torch.dot(part, part)) for reply in replies for part in parts(reply)]


def parts(reply: Message) -> list[Tensor]:
    return [numbers(array) for array in reply.content.array_records["arrays"].values()]


def numbers(array: Array) -> Tensor:
    """What lies behind the header, as a vector."""
    return torch.frombuffer(array.data, dtype=torch.float32, offset=len(array.data) - 4 * math.prod(array.shape))


def copied(record: ArrayRecord) -> ArrayRecord:
    """The same numbers in other memory."""
    return ArrayRecord({key: Array(a.dtype, a.shape, a.stype, bytes(bytearray(a.data))) for key, a in record.items()})


def arrived(reply: Message) -> Message:
    """The same reply in other memory."""
    fresh = copy.copy(reply)
    fresh.content = RecordDict({**reply.content, "arrays": copied(reply.content.array_records["arrays"])})
    return fresh


CASES = {
    "fl-distill": ours,
    "fl-distill, one by one": one_by_one,
    "fl-distill, as they come": as_they_come,
    "flower": stock,
    "adding alone": bare,
    "reading alone": reading,
}


def replies(count: int, record: Callable[[int], ArrayRecord]) -> Iterator[Message]:
    for at in range(count):
        asked = Message(RecordDict(), at + 1, "train")
        asked.metadata.__dict__["_message_id"] = str(at)
        metrics = MetricRecord({"num-examples": 10 + at % 7, "train-loss": 0.1})
        yield Message(RecordDict({"arrays": record(at), "metrics": metrics}), reply_to=asked)


def measured(case: str, count: int, reps: int, threads: int) -> dict[str, float]:
    """Seconds are medians; all replies are there before the clock starts."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    keep_freed_memory()
    size = sum(tensor.numel() * 4 for tensor in model(0).values())
    held = [ArrayRecord.from_torch_state_dict(model(at)) for at in range(min(count, DRAWN))]
    messages = list(replies(count, lambda at: held[at] if at < DRAWN else copied(held[at % DRAWN])))
    several.available()  # numba and what it compiles are there once a process
    aggregate, seconds = CASES[case](), []
    before = peak_from_here()
    for _ in range(reps):
        began = time.perf_counter()
        aggregate(messages)
        seconds.append(time.perf_counter() - began)
    return {"speed": count * size / statistics.median(seconds) / 1e9, "models": (memory("VmHWM") - before) / size}


def peak_from_here() -> int:
    """Give back what is free, and begin the peak anew: bytes in use."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")
    return memory("VmRSS")


def memory(key: str) -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replies", type=int, nargs="+", default=[10, 50, 200])
    parser.add_argument("--reps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", nargs=2, metavar=("CASE", "COUNT"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        with identity(1):
            print(json.dumps(measured(asked.one[0], int(asked.one[1]), asked.reps, asked.threads)))
        return
    print("| replies | | GB/s | memory, models |\n|---|---|---|---|")
    for count in asked.replies:
        for case in CASES:
            one = [sys.executable, __file__, "--one", case, str(count)]
            how = [f"--reps={asked.reps}", f"--threads={asked.threads}"]
            done = subprocess.run([*one, *how], capture_output=True, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            print(f"| {count} | {case} | {found['speed']:.1f} | {found['models']:.1f} |", flush=True)


if __name__ == "__main__":
    main()
