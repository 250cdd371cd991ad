"""What a round's knowledge is like, before anybody learns from it."""

import math

import torch
from torch import Tensor


def describe(stack: Tensor, answer: Tensor) -> dict[str, float]:
    """How far sites agree, how unsure the answer is, and over how many classes it spreads; each in [0, 1].

    `stack` (K, N, C) is what K sites say, `answer` (N, C) probabilities. agreement: part of pairs of sites that name
    the same class; entropy: mean over examples of H(p) / log C; spread: H(mean over examples of p) / log C, which
    falls to 0 when all examples are said to be of one class.
    """
    sites, _, classes = stack.shape
    notes = {"entropy": _entropy(answer).mean().item() / math.log(classes)}
    notes["spread"] = _entropy(answer.mean(0)).item() / math.log(classes)
    if sites > 1:
        votes = torch.nn.functional.one_hot(stack.argmax(-1), classes).sum(0).double()
        pairs = (votes * (votes - 1)).sum(-1) / (sites * (sites - 1))
        notes["agreement"] = pairs.mean().item()
    return notes


def _entropy(p: Tensor) -> Tensor:
    entropy: Tensor = torch.special.entr(p.double().clamp_min(0)).sum(-1)
    return entropy
