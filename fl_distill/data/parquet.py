"""Image sets in the shape of Hugging Face's: rows of an encoded image and a whole-number label."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from fl_distill.errors import DataError

IMAGE_NAMES = ("image", "img", "images", "picture")
LABEL_NAMES = ("label", "labels", "fine_label", "target", "class")


@final
@dataclass(frozen=True)
class Rows:
    """Encoded images and labels with the place of each; `classes` where the file names them."""

    blobs: list[bytes]
    labels: list[int]
    places: list[tuple[str, int]]
    classes: tuple[str, ...] | None

    def place(self, index: int) -> str:
        """Where the row at `index` came from, counted from the file's row 0."""
        file, first = next((name, first) for name, first in reversed(self.places) if first <= index)
        return f"{file}, row {index - first}"


def read_parquet(files: Sequence[Path], image: str | None, label: str | None) -> Rows:
    """The rows of all files in order; DataError names the file and column that cannot be used."""
    rows = Rows([], [], [], None)
    for file in files:
        rows = join(rows, _table(file), str(file), image, label)
    return rows


def _table(file: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(file).read()
    except (pa.ArrowException, OSError) as cause:
        raise DataError(
            f"{file}: expected a parquet file, but it cannot be read ({cause}); download or write it again"
        ) from cause


def join(rows: Rows, table: Any, file: str, image: str | None, label: str | None) -> Rows:
    """`rows` followed by those of an arrow table."""
    images = table.column(column(table.schema, file, image, IMAGE_NAMES, "image_column", is_image))
    labels = table.column(column(table.schema, file, label, LABEL_NAMES, "label_column", is_whole))
    for name, values in (("image", images), ("label", labels)):
        if values.null_count:
            raise DataError(f"{file}: {values.null_count} rows have no {name}; remove those rows")
    return Rows(
        [*rows.blobs, *_bytes(images)],
        [*rows.labels, *labels.to_pylist()],
        [*rows.places, (file, len(rows.labels))],
        rows.classes or names_in(table.schema.metadata, label),
    )


def _bytes(images: Any) -> list[bytes]:
    from pyarrow import types

    if types.is_struct(images.type):
        images = images.combine_chunks()
        images = images.field("bytes") if hasattr(images, "field") else images
    return [blob or b"" for blob in images.to_pylist()]


def column(schema: Any, file: str, wanted: str | None, usual: Sequence[str], key: str, fits: Any) -> str:
    """The column asked for, else one with a usual name, else the only one that fits."""
    names = list(schema.names)
    if wanted is None:
        candidates = [name for name in names if fits(schema.field(name).type)]
        known = [name for name in usual if name in candidates]
        found = known[:1] or (candidates if len(candidates) == 1 else [])
        if found:
            return str(found[0])
    elif wanted in names and fits(schema.field(wanted).type):
        return wanted
    asked = f"column '{wanted}'" if wanted else f"one of the columns {', '.join(usual)}"
    kind = "encoded images" if key == "image_column" else "whole-number labels"
    raise DataError(f"{file}: expected {asked} with {kind}, found columns {', '.join(names)}; set dataset.{key}")


def is_image(kind: Any) -> bool:
    """Whether an arrow type can hold encoded images."""
    from pyarrow import types

    if types.is_struct(kind):
        return any(kind.field(index).name == "bytes" for index in range(kind.num_fields))
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def is_whole(kind: Any) -> bool:
    """Whether an arrow type holds whole numbers."""
    from pyarrow import types

    return bool(types.is_integer(kind))


def names_in(metadata: dict[bytes, bytes] | None, label: str | None) -> tuple[str, ...] | None:
    """Class names that Hugging Face keeps in a file's metadata; None when there are none."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        wanted = [label] if label else [name for name in LABEL_NAMES if name in features]
        return tuple(str(name) for name in features[wanted[0]]["names"])
    except (KeyError, IndexError, TypeError, ValueError):
        return None
