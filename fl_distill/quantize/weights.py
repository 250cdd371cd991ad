"""The weights of a model, as they would run at a precision: for good, or for the length of one step."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .adjust import correct_biases
from .forms import forms
from .rounding import rounded


@torch.no_grad()
def quantize_(model: nn.Module, precision: str, calibration: Tensor) -> None:
    """Give `model` the values that it runs with at `precision`, biases corrected on the batch `calibration` (N, …).

    Names, shapes and dtypes stay. A BatchNorm need not be folded first: it scales whole output channels, and so does
    the grid, hence folding what was rounded gives the same model as rounding what was folded.
    """
    chosen, params = forms(model, precision), dict(model.named_parameters())
    exact = {name: params[name].clone() for name, form in chosen.items() if form == "int8"}
    for name in exact:
        params[name].copy_(rounded(params[name], "int8"))
    if exact and len(calibration):
        correct_biases(model, exact, calibration)
    for name in chosen.keys() - exact.keys():  # after the correction, which moves biases
        params[name].copy_(rounded(params[name], "half"))


@contextmanager
def rounded_weights(model: nn.Module, chosen: Mapping[str, str]) -> Iterator[None]:
    """Inside, the parameters hold what `chosen` (see `forms`) makes of them; afterwards they are what they were.

    A gradient that is taken inside and applied outside is the straight-through estimate: dL/dw := L'(q(w)).
    Sources: Bengio et al. 2013, arXiv 1308.3432; Jacob et al. 2018, arXiv 1712.05877, section 3. Activations and
    names stay as they are.
    """
    params = {name: p for name, p in model.named_parameters() if name in chosen}
    exact = {name: p.detach().clone() for name, p in params.items()}
    try:
        with torch.no_grad():
            for name, param in params.items():
                param.copy_(rounded(param, chosen[name]))
        yield
    finally:
        with torch.no_grad():
            for name, param in params.items():
                param.copy_(exact[name])
