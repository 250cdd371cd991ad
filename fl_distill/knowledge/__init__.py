"""What sites exchange and how it is combined: pure functions on tensors."""

from .class_means import Weigh, class_means, leave_one_out, masked_mean
from .mean import WeightedMean
from .robust import DropWorst, Median, TrimmedMean
from .rules import Confidence, Era, Mean, Power, Rule, Vote

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
    "Weigh",
    "WeightedMean",
    "class_means",
    "leave_one_out",
    "masked_mean",
]
