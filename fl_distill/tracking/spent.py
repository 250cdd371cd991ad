"""Where the time of a run's rounds went."""

from collections.abc import Mapping
from typing import Any

PHASES = ("compute_s", "transport_s", "idle_s", "sites_s", "aggregation_s", "evaluation_s")
"""Keys of a row, and of a summary as sums over rounds; those of the sites' part depend on what the grid knows.

Rounds that an older version had written before a run was resumed have none.
"""


def spent(summary: Mapping[str, Any]) -> str:
    """`compute 61 %, transport 12 %, …`, the largest part first."""
    parts = {key.removesuffix("_s"): summary.get(key) or 0.0 for key in PHASES}
    whole = sum(parts.values())
    told = sorted(parts.items(), key=lambda part: -part[1])
    return ", ".join(f"{name} {100 * part / whole:.0f} %" for name, part in told if part) if whole else ""
