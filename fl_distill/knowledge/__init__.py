"""What sites exchange and how it is combined: pure functions on tensors."""

from .mean import WeightedMean

__all__ = ["WeightedMean"]
