"""Image sets: decoded once, cached, and a sentence for everything that can be wrong with them."""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from fl_distill.data import federate
from fl_distill.data.partitions import ClassesPerSite
from fl_distill.data.sources import Digits, ImageFolder, ImageTable
from fl_distill.errors import DataError

DATA = os.environ.get("FL_DISTILL_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="FL_DISTILL_DATA is not set: no folder with real data")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FL_DISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return tmp_path / "cache"


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def pixels(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def parquet(
    path: Path, blobs: list[bytes | None], labels: list[Any], image: str = "image", label: str = "label"
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    structs = [None if blob is None else {"bytes": blob, "path": "x.png"} for blob in blobs]
    table = pa.table({image: structs, label: labels, "note": ["-"] * len(blobs)})
    pq.write_table(table, path)


def write(folder: Path, grey: np.ndarray, **names: str) -> None:
    parquet(folder / "train.parquet", [png(image) for image in grey], [0, 1] * (len(grey) // 2), **names)
    parquet(folder / "test-00000.parquet", [png(image) for image in grey[:3]], [1, 0, 1], **names)


def test_pixels_and_labels_arrive_as_written(tmp_path: Path, cache: Path) -> None:
    grey = pixels(600, 5, 4)
    write(tmp_path / "set", grey)
    for source in (ImageTable(str(tmp_path / "set")).load(), ImageTable(str(tmp_path / "set")).load()):
        assert source.train.x.dtype == torch.uint8
        assert torch.equal(source.train.x, torch.from_numpy(grey)[:, None])
        assert source.train.y.tolist() == [0, 1] * 300
        assert source.test is not None
        assert torch.equal(source.test.x, torch.from_numpy(grey[:3])[:, None])
        assert source.test.y.tolist() == [1, 0, 1]
        assert source.classes == ("0", "1")
        assert source.owners is None
    assert len(list(cache.iterdir())) == 1


def test_colour_other_names_and_class_names(tmp_path: Path) -> None:
    colour = pixels(4, 3, 3, 3)
    write(tmp_path, colour, image="img", label="fine_label")
    source = ImageTable(str(tmp_path), classes=["cat", "dog"]).load()
    assert torch.equal(source.train.x, torch.from_numpy(colour).permute(0, 3, 1, 2))
    assert source.classes == ("cat", "dog")
    grey = ImageTable(str(tmp_path), image_column="img", label_column="fine_label", channels=1, size=2).load()
    assert grey.train.x.shape == (4, 1, 2, 2)


def test_class_names_of_the_files_are_used(tmp_path: Path) -> None:
    write(tmp_path, pixels(4, 2, 2))
    table = pq.read_table(tmp_path / "train.parquet")
    features = {"label": {"names": ["no", "yes"], "_type": "ClassLabel"}}
    words = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    pq.write_table(table.replace_schema_metadata(words), tmp_path / "train.parquet")
    assert ImageTable(str(tmp_path)).load().classes == ("no", "yes")


def test_a_changed_file_is_decoded_again(tmp_path: Path) -> None:
    write(tmp_path / "set", pixels(4, 2, 2))
    ImageTable(str(tmp_path / "set")).load()
    write(tmp_path / "set", pixels(6, 2, 2, seed=1))
    assert len(ImageTable(str(tmp_path / "set")).load().train) == 6


@pytest.mark.parametrize("spoil", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: data[::-1]])
def test_a_spoilt_cache_is_ignored(tmp_path: Path, cache: Path, spoil: Callable[[bytes], bytes]) -> None:
    write(tmp_path / "set", pixels(4, 2, 2))
    first = ImageTable(str(tmp_path / "set")).load()
    expected = first.train.x.clone()
    del first
    (kept,) = cache.iterdir()
    kept.write_bytes(spoil(kept.read_bytes()))
    assert torch.equal(ImageTable(str(tmp_path / "set")).load().train.x, expected)


def test_a_hub_set_loads_through_datasets(tmp_path: Path) -> None:
    grey = pixels(6, 3, 3)
    write(tmp_path / "set", grey)
    source = ImageTable(hub=str(tmp_path / "set"), path=str(tmp_path / "absent")).load()
    assert torch.equal(source.train.x, torch.from_numpy(grey)[:, None])
    assert source.test is not None
    assert source.test.y.tolist() == [1, 0, 1]


def test_a_hub_set_out_of_reach_says_what_to_set(tmp_path: Path) -> None:
    source = ImageTable(str(tmp_path / "absent"), hub=str(tmp_path / "nor-here"), name="mine")
    with pytest.raises(DataError, match=r"mine: there is no folder .*absent, and .*set FL_DISTILL_DATA") as caught:
        source.load()
    assert "dataset.path" in str(caught.value)


def test_faults_of_parquet_files_name_the_file(tmp_path: Path) -> None:
    def refused(folder: str, **settings: Any) -> str:
        with pytest.raises(DataError) as caught:
            ImageTable(str(tmp_path / folder), **settings).load()
        return str(caught.value)

    assert "set dataset.path, or FL_DISTILL_DATA" in refused("absent")
    (tmp_path / "empty").mkdir()
    assert "expected train*.parquet, found none" in refused("empty")
    write(tmp_path / "corrupt", pixels(4, 2, 2))
    file = tmp_path / "corrupt" / "train.parquet"
    file.write_bytes(file.read_bytes()[:200])
    assert f"{file}: expected a parquet file" in refused("corrupt")
    write(tmp_path / "set", pixels(4, 2, 2))
    told = refused("set", image_column="picture")
    assert "expected column 'picture' with encoded images, found columns image, label, note" in told
    assert "set dataset.label_column" in refused("set", label_column="note")
    told = refused("set", classes=["only"])
    assert "train.parquet, row 1: expected a label from 0 to 0, found 1" in told
    blobs: list[bytes | None] = [png(image) for image in pixels(3, 2, 2)]
    parquet(tmp_path / "cut" / "train.parquet", [*blobs[:2], (blobs[2] or b"")[:40]], [0, 1, 0])
    assert "train.parquet, row 2: expected a complete image" in refused("cut")
    parquet(tmp_path / "null" / "train.parquet", [*blobs[:2], None], [0, 1, 0])
    assert "1 rows have no image" in refused("null")
    parquet(tmp_path / "mixed" / "train.parquet", [blobs[0], png(pixels(1, 3, 2)[0])], [0, 1])
    assert "row 1: expected 2x2 pixels like the first image, found 2x3; set dataset.size" in refused("mixed")
    assert ImageTable(str(tmp_path / "mixed"), size=[4, 5]).load().train.x.shape == (2, 1, 4, 5)


def picture(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def test_an_image_folder_with_and_without_a_test_split(tmp_path: Path) -> None:
    images = pixels(6, 4, 4, 3)
    for index, name in enumerate(["cat/1.png", "cat/2.png", "dog/1.png", "dog/deep/2.PNG"]):
        picture(tmp_path / "set/train" / name, images[index])
    picture(tmp_path / "set/test/dog/9.png", images[4])
    (tmp_path / "set/train/dog/notes.txt").write_text("not an image")
    for source in (
        ImageFolder(str(tmp_path / "set"), 4).load(),
        ImageFolder(str(tmp_path / "set"), 4).load(),
    ):
        assert torch.equal(source.train.x, torch.from_numpy(images[:4]).permute(0, 3, 1, 2))
        assert source.train.y.tolist() == [0, 0, 1, 1]
        assert source.classes == ("cat", "dog")
        assert source.test is not None
        assert source.test.y.tolist() == [1]
    plain = ImageFolder(str(tmp_path / "set/train"), size=[3, 2], channels=1).load()
    assert plain.test is None
    assert plain.train.x.shape == (4, 1, 3, 2)


def test_faults_of_an_image_folder_name_the_file(tmp_path: Path) -> None:
    def refused(folder: str) -> str:
        with pytest.raises(DataError) as caught:
            ImageFolder(str(tmp_path / folder), 4).load()
        return str(caught.value)

    assert "expected a folder with one folder per class" in refused("absent")
    picture(tmp_path / "set/cat/1.png", pixels(1, 40, 40)[0])
    picture(tmp_path / "set/dog/1.jpg", pixels(1, 40, 40)[0])
    whole = (tmp_path / "set/dog/1.jpg").read_bytes()
    (tmp_path / "set/dog/1.jpg").write_bytes(whole[: len(whole) // 2])
    told = refused("set")
    assert f"{tmp_path / 'set/dog/1.jpg'}: expected a complete image" in told
    assert "replace or remove it" in told
    (tmp_path / "set/dog/1.jpg").unlink()
    assert f"{tmp_path / 'set/dog'}: expected images" in refused("set")
    picture(tmp_path / "two/train/cat/1.png", pixels(1, 4, 4)[0])
    picture(tmp_path / "two/test/owl/1.png", pixels(1, 4, 4)[0])
    assert "class owl has no training images" in refused("two")


@pytest.mark.parametrize(
    "make",
    [
        lambda: ImageTable(),
        lambda: ImageTable(path=3),
        lambda: ImageTable("x", std=0.0),
        lambda: ImageTable("x", mean=[0.1, 0.2]),
        lambda: ImageTable("x", mean="grey"),
        lambda: ImageTable("x", size=0),
        lambda: ImageTable("x", channels=2),
        lambda: ImageTable("x", classes="cat"),
        lambda: ImageTable("x", augment={"zoom": 1}),
        lambda: ImageFolder(""),
        lambda: ImageFolder("x", size=None),
        lambda: ImageFolder("x", size=[1, 2, 3]),
        lambda: Digits({"crop": -1}),
    ],
)
def test_impossible_settings_are_refused_at_once(make: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=r"must be|expected|has no setting"):
        make()


@needs_data
def test_mnist_as_it_is(tmp_path: Path) -> None:
    source = ImageTable(f"{DATA}/mnist", mean=0.1307, std=0.3081).load()
    assert source.train.x.shape == (60000, 1, 28, 28)
    assert source.test is not None
    assert torch.bincount(source.train.y).tolist()[:3] == [5923, 6742, 5958]
    assert torch.bincount(source.test.y).tolist()[:3] == [980, 1135, 1032]
    federation = federate(source, ClassesPerSite(2), sites=20, seed=0, validation=0.1, test=0.1, public=0.1)
    assert len(federation.test) == 10000
    assert len(federation.public) == 6000
    assert abs(float(federation.public.x.mean())) < 0.02
    assert abs(float(federation.public.x.std()) - 1) < 0.02
    assert sum(count > 0 for count in federation.label_counts(0)) == 2


@needs_data
def test_cifar10_test_images_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "cifar").mkdir()
    (tmp_path / "cifar/train.parquet").symlink_to(Path(str(DATA)).resolve() / "cifar10/test.parquet")
    source = ImageTable(str(tmp_path / "cifar")).load()
    assert source.train.x.shape == (10000, 3, 32, 32)
    assert torch.bincount(source.train.y).tolist() == [1000] * 10
