"""What all partitions share: their form, their complaints, and the cache of deals that are slow to make."""

import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from fl_distill.data import cache
from fl_distill.errors import DataError

Rows = npt.NDArray[np.int64]
Owners = tuple[str, ...] | None


class Partition(Protocol):
    """Deals rows to sites: for each site the indices of its rows, no row to two sites, no site without.

    A row that no site gets is not used.
    """

    def __call__(self, labels: Rows, owners: Owners, sites: int, seed: int) -> list[Rows]:
        """The deal; DataError says why it is impossible."""
        ...


def check_sites(setting: str, labels: Rows, sites: int, least: int = 1) -> None:
    """DataError unless there are sites, and `least` rows for each."""
    if sites < 1:
        raise DataError(f"sites must be a whole number >= 1, got {sites}")
    if sites * least > len(labels):
        raise too_many(setting, labels, sites, least)


def too_many(setting: str, labels: Rows, sites: int, least: int) -> DataError:
    """What to raise when there are too few rows for so many sites."""
    advice = "lower sites or raise alpha" if "alpha" in setting else "lower sites"
    return DataError(
        f"{setting} cannot give {sites} sites at least {least} example{'s' * (least > 1)} each "
        f"of {len(labels)}: {advice}"
    )


def load(partitioner: Any, labels: Rows, sites: int) -> list[Rows]:
    """What a flwr-datasets partitioner makes of these labels, as row indices."""
    from datasets import Dataset

    partitioner.dataset = Dataset.from_dict({"label": labels, "row": np.arange(len(labels))})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns at each redraw; the DataError says it once
        parts = [partitioner.load_partition(index)[:]["row"] for index in range(sites)]
    return [np.asarray(part, dtype=np.int64) for part in parts]


def remembered(partition: Partition, labels: Rows, sites: int, seed: int, deal: Callable[[], list[Rows]]) -> list[Rows]:
    """The deal from the cache, so that only the first of many processes imports flwr-datasets (seconds)."""
    name = cache.key("partition", labels.tobytes(), repr(partition), sites, seed, version("flwr-datasets"))
    entry = cache.read(name)
    if entry is not None and {"rows", "sizes"} <= set(entry.tensors):
        kept = np.split(entry.tensors["rows"].numpy(), np.cumsum(entry.tensors["sizes"].numpy())[:-1])
        if len(kept) == sites and _whole(kept, len(labels)):
            return kept
    parts = deal()
    if not _whole(parts, len(labels)):
        raise too_many(f"partition {partition}", labels, sites, 1)
    sizes = torch.tensor([len(part) for part in parts])
    cache.write(name, cache.Entry({"rows": torch.from_numpy(np.concatenate(parts)), "sizes": sizes}, {}))
    return parts


def _whole(parts: list[Rows], count: int) -> bool:
    """Whether every row is in exactly one part and no part is empty."""
    return all(map(len, parts)) and np.array_equal(np.sort(np.concatenate(parts)), np.arange(count))
