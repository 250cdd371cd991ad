"""Images channels last, where a processor's convolutions are quicker so: by a tenth to a half, measured.

Only what goes in is laid out so: what convolutions make of it follows by itself, and weights stay as they are.
"""

import copy
from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..seeds import untouched

Layout = Callable[[Tensor], Tensor]

_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
_KNOWN = ("torch.nn.", f"{__name__.partition('.')[0]}.")
_bearing: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def layout(model: nn.Module, x: Tensor, device: str = "cpu") -> Layout:
    """How batches of examples like `x` (N, …) are laid out for `model`: the same numbers in the quickest order."""
    convolves = any(isinstance(module, _CONVOLUTIONS) for module in model.modules())
    if device != "cpu" or x.dim() != 4 or not len(x) or not convolves:
        return _as_they_are
    foreign = next((module for module in model.modules() if not type(module).__module__.startswith(_KNOWN)), None)
    if foreign is None:
        return channels_last
    if foreign not in _bearing:
        _bearing[foreign] = _bears(model, x.shape[1:])
    return channels_last if _bearing[foreign] else _as_they_are


def channels_last(x: Tensor) -> Tensor:
    """(N, C, H, W) with the channels of a pixel side by side."""
    if x.shape[1] == 1 and x.is_contiguous():  # one channel is both already: it is the strides that say which
        height, width = x.shape[2:]
        return x.as_strided(x.shape, (height * width, 1, width, 1))
    return x.contiguous(memory_format=torch.channels_last)


def _as_they_are(x: Tensor) -> Tensor:
    return x


def _bears(model: nn.Module, form: torch.Size) -> bool:
    """Whether code that is not this package's learns from such images, and says the same of them: `view` does not.

    Tried with a copy and without a trace, so that results depend on nothing that was done before.
    """
    with untouched(), torch.inference_mode(False), torch.enable_grad():
        try:
            mine = copy.deepcopy(model)
            x = torch.linspace(-7, 7, 2 * form.numel()).cos().view(2, *form)
            first = [p for p in mine.train().parameters() if p.requires_grad][:1]  # the way back to it is the longest
            torch.autograd.grad(mine(channels_last(x)).sum(), first, allow_unused=True)
            mine.eval()
            return torch.allclose(mine(channels_last(x)), mine(x), rtol=1e-3, atol=1e-4)
        except Exception:  # whatever it is: it will be said of images as they are, if of those too
            return False
