"""One seed, many independent streams: every random decision draws from a generator named after it."""

import hashlib

import torch


def derive(seed: int, *labels: str | int) -> int:
    """A 63-bit seed for the stream named by `labels`, stable across processes, machines and versions."""
    text = "\x1f".join([str(seed), *map(str, labels)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *labels: str | int) -> torch.Generator:
    """A CPU generator for the stream named by `labels`, for example `generator(0, "fit", "site-3", 7)`."""
    return torch.Generator().manual_seed(derive(seed, *labels))
