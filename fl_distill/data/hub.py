"""Image sets from the Hugging Face hub, through `datasets`."""

from typing import Any

from fl_distill.data import parquet
from fl_distill.errors import DataError


def read_hub(name: str, image: str | None, label: str | None, missing: str) -> dict[str, parquet.Rows]:
    """The splits `train` and, where there is one, `test` of the image set `name`.

    `missing` says what was looked for on this machine first; a DataError repeats it.
    """
    splits = _download(name, missing)
    if "train" not in splits:
        raise DataError(f"{name}: expected a split 'train' on the hub, found {', '.join(splits)}")
    wanted = [split for split in ("train", "test") if split in splits]
    return {split: _rows(splits[split], f"{name}/{split}", image, label) for split in wanted}


def _download(name: str, missing: str) -> Any:
    import datasets

    try:
        return datasets.load_dataset(name)
    except Exception as cause:  # no network, no such set, offline mode: each library has its own kind
        reason = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
        raise DataError(
            f"{missing}, and '{name}' cannot be loaded from the Hugging Face hub ({reason}); "
            "set FL_DISTILL_DATA to the folder that holds your datasets, or dataset.path to this one's "
            "folder of parquet files"
        ) from cause


def _rows(split: Any, where: str, image: str | None, label: str | None) -> parquet.Rows:
    schema = split.features.arrow_schema
    images = parquet.column(schema, where, image, parquet.IMAGE_NAMES, "image_column", parquet.is_image)
    labels = parquet.column(schema, where, label, parquet.LABEL_NAMES, "label_column", parquet.is_whole)
    names = getattr(split.features[labels], "names", None)
    table = split.select_columns([images, labels]).with_format("arrow")[:]
    rows = parquet.join(parquet.Rows([], [], [], None), table, where, images, labels)
    return parquet.Rows(rows.blobs, rows.labels, rows.places, tuple(names) if names else rows.classes)
