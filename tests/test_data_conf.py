"""The files of conf/dataset and conf/partition make what they promise."""

import os
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from fl_distill.data import Augment, federate
from fl_distill.data.augment import as_augment
from fl_distill.data.partitions import ClassesPerSite, Dirichlet, Iid, Natural, Scarce

CONF = Path(__file__).parents[1] / "conf"
DATA = os.environ.get("FL_DISTILL_DATA")
GAPS = {"path": "somewhere", "hub": "some/set", "target": "column"}
PARTITIONS = {
    "iid": Iid(),
    "dirichlet": Dirichlet(0.5),
    "classes": ClassesPerSite(2),
    "natural": Natural(),
    "scarce": Scarce(labels=3, keep=5, examples=2000),
}


def settings_of(file: Path) -> DictConfig:
    """What a file says of its own group; Hydra takes the rest."""
    config = OmegaConf.load(file)
    assert isinstance(config, DictConfig)
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "defaults"])


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FL_DISTILL_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("file", sorted(CONF.glob("dataset/*.yaml")), ids=lambda file: file.stem)
@pytest.mark.parametrize("convert", ["none", "all"])
def test_every_dataset_file_makes_a_dataset(file: Path, convert: str) -> None:
    config = settings_of(file)
    filled = {key: GAPS[str(key)] for key in config if OmegaConf.is_missing(config, str(key))}
    source = instantiate(OmegaConf.merge(config, filled), _convert_=convert)
    expected = Augment(crop=4, flip=True) if file.stem == "cifar10" else Augment()
    assert as_augment(source.augment) == expected
    fields = set(type(source).__dataclass_fields__)
    assert fields == {str(key) for key in config} - {"_target_"}, "every setting stands in the file"


def test_every_partition_file_makes_a_partition() -> None:
    made = {file.stem: instantiate(OmegaConf.load(file)) for file in CONF.glob("partition/*.yaml")}
    assert made == PARTITIONS


@pytest.mark.skipif(not DATA, reason="FL_DISTILL_DATA is not set: no folder with real data")
@pytest.mark.parametrize(
    ("name", "partition", "sites", "shape"),
    [("heart_disease", "natural", 4, (35,)), ("german_credit", "dirichlet", 5, (61,))],
)
def test_real_tables_through_their_files(name: str, partition: str, sites: int, shape: tuple[int, ...]) -> None:
    source = instantiate(settings_of(CONF / f"dataset/{name}.yaml")).load()
    federation = federate(source, PARTITIONS[partition], sites=5, seed=0, validation=0.1, test=0.1, public=0.1)
    assert len(federation) == sites
    assert federation.input_shape == shape
    assert len(federation.classes) == 2
