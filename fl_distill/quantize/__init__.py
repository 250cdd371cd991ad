"""A model with fewer bits: which weight takes which form, rounding, folding, bias correction, training for it."""

from .adjust import correct_biases
from .fold import folded
from .forms import PRECISIONS, forms
from .rounding import rounded, to_half, to_int8
from .stored import Stored
from .weights import quantize_, rounded_weights

__all__ = [
    "PRECISIONS",
    "Stored",
    "correct_biases",
    "folded",
    "forms",
    "quantize_",
    "rounded",
    "rounded_weights",
    "to_half",
    "to_int8",
]
