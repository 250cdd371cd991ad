"""What sites exchange and how it is combined: pure functions on tensors."""

from .mean import WeightedMean
from .rules import Confidence, DropWorst, Era, Mean, Median, Power, Rule, TrimmedMean, Vote

__all__ = [
    "Confidence",
    "DropWorst",
    "Era",
    "Mean",
    "Median",
    "Power",
    "Rule",
    "TrimmedMean",
    "Vote",
    "WeightedMean",
]
