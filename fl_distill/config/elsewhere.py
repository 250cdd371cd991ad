"""Public and test examples from elsewhere: what `public_dataset` and `test_dataset` name."""

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..targets import TARGET, nearest

SETTINGS = ("public_dataset", "test_dataset")


def elsewhere(setting: str, config: DictConfig, known: Sequence[str], faults: list[str]) -> Any:
    """The settings of the data that `setting` names, or the name itself where it is one of the data sets `known`.

    A CSV file is read with the dataset's own settings; a safetensors file of test examples has the dataset's classes.
    Appends to `faults` what cannot be.
    """
    chosen = config[setting]
    try:
        if chosen is None or isinstance(chosen, DictConfig):
            return OmegaConf.to_container(chosen, resolve=True) if chosen is not None else None
        if str(chosen).endswith(".csv"):
            return _table(setting, str(chosen), _dataset(config), faults)
        if str(chosen).endswith(".safetensors"):
            classes = _dataset(config).get("classes") if setting == "test_dataset" else None
            return {
                TARGET: "fl_distill.data.sources.TensorFile",
                "path": str(chosen),
                **({"classes": classes} if classes else {}),
            }
    except OmegaConfBaseException as error:
        faults.append(f"{setting}: {str(error).strip().splitlines()[0]}")
        return None
    if chosen not in known:
        faults.append(f"{setting}: {chosen!r} is no data set{nearest(str(chosen), known)}")
    return str(chosen)


def _dataset(config: DictConfig) -> dict[str, Any]:
    found = OmegaConf.to_container(config.dataset, resolve=True) if isinstance(config.dataset, DictConfig) else {}
    return {str(key): value for key, value in found.items()} if isinstance(found, dict) else {}


def _table(setting: str, file: str, dataset: dict[str, Any], faults: list[str]) -> dict[str, Any]:
    if str(dataset.get(TARGET)).rpartition(".")[2] != "Table":
        faults.append(
            f"{setting}={file}: a CSV file is read with the dataset's own settings, and this dataset is no table: "
            "choose a .safetensors file or the name of a data set"
        )
    return {**dataset, "path": file}
