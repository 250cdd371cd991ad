"""One seed, many independent streams: every random decision draws from a generator named after it."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive(seed: int, *labels: str | int) -> int:
    """A 63-bit seed for the stream named by `labels`, stable across processes, machines and versions."""
    text = "\x1f".join([str(seed), *map(str, labels)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def seed_torch(seed: int, device: str = "cpu") -> None:
    """Seed torch's global generator of the CPU, and that of `device`, for what draws from them, such as dropout."""
    # torch.manual_seed would also note, for every other kind of device and with a traceback, that it has to be seeded
    # if it is ever used: a millisecond a call, and a note that stays.
    torch.default_generator.manual_seed(seed)
    if (kind := torch.device(device).type) != "cpu":
        module = torch.get_device_module(kind)
        getattr(module, "manual_seed_all", module.manual_seed)(seed)  # Apple's has but one device


@contextmanager
def untouched() -> Iterator[None]:
    """Whatever is drawn or seeded inside, the global generators of Python, numpy and torch (CPU) are as before."""
    before = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.default_generator.set_state(before[2])


def generator(seed: int, *labels: str | int) -> torch.Generator:
    """A CPU generator for the stream named by `labels`, for example `generator(0, "fit", "site-3", 7)`."""
    return torch.Generator().manual_seed(derive(seed, *labels))
