"""Observers of a run: console, JSON lines, plots and report, Weights & Biases."""

from .defaults import default_observers
from .jsonl import RoundLog, read, write_json_atomic, write_summary
from .observer import SCORES, TRAFFIC, Observer, Observers, Row, RunInfo, SiteInfo, Status, Summary
from .sweep import sweep_table

__all__ = [
    "SCORES",
    "TRAFFIC",
    "Observer",
    "Observers",
    "RoundLog",
    "Row",
    "RunInfo",
    "SiteInfo",
    "Status",
    "Summary",
    "default_observers",
    "read",
    "sweep_table",
    "write_json_atomic",
    "write_summary",
]
