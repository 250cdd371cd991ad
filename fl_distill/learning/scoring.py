"""What a model says of examples, and how often it is right."""

import copy
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.types import Split
from .layout import Layout, layout

PIECES, LARGEST_PIECE = 4, 128
"""What threads share out: pieces of at most so many examples, their number a multiple of four."""
WORTH = 1 << 27
"""Parameters times examples from which on it pays: threads wait for each other at every operation (measured)."""


@dataclass(frozen=True)
class Score:
    """Mean cross-entropy and accuracy in [0, 1] over `examples`; both NaN where there are none."""

    loss: float
    accuracy: float
    examples: int


def predict(model: nn.Module, x: Tensor, batch_size: int = 512, device: str = "cpu") -> Tensor:
    """Logits of `model` in evaluation mode, shape (len(x), classes), on the CPU."""
    return torch.cat(_logits(model, torch.split(x, batch_size), layout(model, x, device), device))


def predict_abreast(model: nn.Module, x: Tensor, threads: int) -> Tensor:
    """The logits of a model on the CPU, worked out by `threads` threads; the same bits for any number of them."""
    pieces = torch.tensor_split(x, min(PIECES * -(-len(x) // (PIECES * LARGEST_PIECE)), len(x)))
    arrange = layout(model, x)
    if threads == 1 or len(x) * sum(p.numel() for p in model.parameters()) < WORTH:
        return torch.cat(_logits(model, pieces, arrange))

    threads = min(threads, len(pieces))
    try:
        own = [_sharing_parameters(model) for _ in range(threads)]  # a forward may note things in its modules
    except Exception:  # what else a model of the user's own holds need not be something that can be copied
        return torch.cat(_logits(model, pieces, arrange))

    def logits(at: int) -> list[Tensor]:
        torch.set_num_threads(1)
        return _logits(own[at], pieces[at::threads], arrange)

    before = torch.get_num_threads()
    with ThreadPoolExecutor(threads) as pool:
        shares = list(pool.map(logits, range(threads)))
    torch.set_num_threads(before)  # the last word is what new threads begin with
    return torch.cat([shares[at % threads][at // threads] for at in range(len(pieces))])


@torch.inference_mode()
def _logits(model: nn.Module, parts: Sequence[Tensor], arrange: Layout, device: str = "cpu") -> list[Tensor]:
    model.eval()
    return [model(arrange(part).to(device)).cpu() for part in parts]


def evaluate(
    model: nn.Module, data: Split, batch_size: int = 512, device: str = "cpu", threads: int | None = None
) -> Score:
    """Cross-entropy and accuracy of `model` on `data`; `threads`: see `predict_abreast`, on the CPU."""
    if not len(data):
        return Score(math.nan, math.nan, 0)
    if threads is None or device != "cpu":
        logits = predict(model, data.x, batch_size, device)
    else:
        logits = predict_abreast(model, data.x, threads)
    correct = (logits.argmax(1) == data.y).sum().item()
    return Score(F.cross_entropy(logits, data.y).item(), correct / len(data), len(data))


def _sharing_parameters(model: nn.Module) -> nn.Module:
    """A copy with the same parameters."""
    return copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})
