"""Any number of sites with a few random 8x8 images each, and an observer that notes when what happened."""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fl_distill.data.types import Source, Split
from fl_distill.tracking import Observer, RunInfo

CLASSES, TEST_ROWS = 10, 200
MARKS: dict[str, Any] = {}
"""Seconds since the epoch at which this process was somewhere."""


@dataclass(frozen=True)
class AsStored:
    """Rows are stored as the model reads them."""

    def fit(self, x: Tensor, parts: Any, public: Tensor) -> Any:
        return lambda rows, who: rows


@dataclass(frozen=True)
class Toy:
    """`sites` natural sites with `rows` examples each."""

    sites: int
    rows: int

    def load(self) -> Source:
        MARKS.setdefault("data", time.time())
        draw = torch.Generator().manual_seed(0)
        train, test = (
            Split(torch.randn(count, 1, 8, 8, generator=draw), torch.randint(0, CLASSES, (count,), generator=draw))
            for count in (self.sites * self.rows, TEST_ROWS)
        )
        owners = tuple(f"site-{at // self.rows:04d}" for at in range(len(train)))
        return Source(train, test, tuple(map(str, range(CLASSES))), AsStored(), owners)


class Marks(Observer):
    """Leaves the marks in the file that BENCH_OUT names."""

    def started(self, run: RunInfo) -> None:
        MARKS["started"] = time.time()

    def round_done(self, row: dict[str, Any]) -> None:
        MARKS.setdefault("rounds", []).append(row["wall_s"])
        MARKS["rounds over"] = time.time()

    def finished(self, summary: dict[str, Any], status: str) -> None:
        traffic = {key: summary[key] for key in ("bytes_up", "bytes_down")}
        MARKS.update(traffic, finished=time.time(), failures=len(summary["left_out"]))
        Path(os.environ["BENCH_OUT"]).write_text(json.dumps(MARKS), encoding="utf-8")
