"""One participant with its own rows, the public file and the test file sees what a simulation shows of it."""

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from fl_distill.config.experiment import experiment
from fl_distill.data import Federation, Source, Split, alone, federate, form_of
from fl_distill.data.partitions import Iid, Natural
from fl_distill.data.sources import Digits, ImageFolder, ImageTable, Table, TensorFile
from fl_distill.errors import DataError
from fl_distill.targets import call
from fl_distill.workplace import Workplace

ROOT = Path(__file__).parents[1]
DATA = os.environ.get("FL_DISTILL_DATA")
SCRIPT = ROOT / "scripts" / "share_tables.py"
SHARES: dict[str, Any] = {"seed": 3, "validation": 0.1, "test": 0.2, "public": 0.3}
WARDS: dict[str, Any] = {
    "target": "ill",
    "numeric": ["age", "dose"],
    "categorical": {"ward": ["A", "B", "C"]},
    "threshold": 0,
    "standardise": "public",
}


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FL_DISTILL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def same(one: Split, two: Split) -> bool:
    return torch.equal(one.x, two.x) and torch.equal(one.y, two.y) and one.x.dtype == two.x.dtype


def agree(simulated: Federation, index: int | None, seen: Federation) -> bool:
    """Whether a participant sees all that the simulation shows of it."""
    fixed = ("classes", "input_shape", "image", "augment")
    if any(getattr(simulated, name) != getattr(seen, name) for name in fixed):
        return False
    if not (same(simulated.test, seen.test) and same(simulated.public, seen.public)):
        return False
    if index is None:
        return len(seen) == 0
    there, here = simulated.site(index), seen.site(0)
    parts = ((there.train, here.train), (there.validation, here.validation), (there.test, here.test))
    labels = simulated.label_counts(index) == seen.label_counts(0)
    return (there.name,) == seen.names and labels and all(same(*pair) for pair in parts)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not DATA:
        pytest.skip("FL_DISTILL_DATA is not set: no folder with real data")
    target = tmp_path_factory.mktemp("heart") / "shared"
    subprocess.run([sys.executable, SCRIPT, f"{DATA}/heart_disease", target, "--seed", "1"], check=True)
    return target


def test_four_hospitals_and_their_server_see_alone_what_the_simulation_shows(shared: Path, tmp_path: Path) -> None:
    words = [
        "experiment=heart",
        "dataset.standardise=public",
        f"public_dataset={shared}/public.csv",
        f"test_dataset={shared}/test.csv",
        "public_examples=150",
    ]
    e = experiment([*words, f"dataset.path={shared}/sites"])
    simulated = Workplace(e, tmp_path).federation
    assert simulated.names == ("cleveland", "hungarian", "switzerland", "va")
    assert len(simulated.public) == 150
    assert int(simulated.public.y.min()) == 0
    for index, name in enumerate((*simulated.names, None)):
        own = tmp_path / str(name) / "records.csv"
        if name:
            own.parent.mkdir()
            shutil.copy(shared / "sites" / f"{name}.csv", own)
        e = experiment([*words, f"dataset.path={own}"])
        dataset = call(e.dataset)
        seen = alone(
            form_of(dataset),
            (name, dataset.load()) if name else None,
            seed=e.seed,
            validation=e.split.validation,
            test=e.split.test,
            public=e.public,
            public_source=call(e.public_dataset or {}).load(),
            public_examples=e.public_examples,
            public_labels=e.public_labels,
            test_source=call(e.test_dataset or {}).load(),
        )
        assert agree(simulated, index if name else None, seen), name
        assert not agree(simulated, index if name else None, replace(seen, encode=lambda x, who: x.float()))


def wards(file: Path, count: int, seed: int, gaps: bool = False) -> Path:
    rng = np.random.default_rng(seed)
    rows = [
        f"{rng.normal(50, 9):.3f},{'ABC'[rng.integers(3)]},{'?' if gaps and rng.random() < 0.3 else rng.integers(9)},"
        f"{rng.integers(2)}"
        for _ in range(count)
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(["age,ward,dose,ill", *rows]))
    return file


@given(counts=st.lists(st.integers(1, 30), min_size=2, max_size=4), seed=st.integers(0, 99), gaps=st.booleans())
def test_any_sites_see_alone_what_the_simulation_shows(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], seed: int, gaps: bool
) -> None:
    folder = tmp_path_factory.mktemp("tables")
    for number, count in enumerate(counts):
        wards(folder / "sites" / f"clinic {number}.csv", count, number, gaps)
    elsewhere = {
        "public_source": Table(str(wards(folder / "public.csv", 20, 77, gaps=seed % 2 == 0)), **WARDS).load(),
        "test_source": Table(str(wards(folder / "test.csv", 20, 78, gaps)), **WARDS).load(),
    }
    settings = SHARES | elsewhere | {"seed": seed}
    table = Table(str(folder / "sites"), **WARDS)
    simulated = federate(table.load(), Natural(), sites=1, **settings)
    assert agree(simulated, None, alone(form_of(table), None, **settings))
    for index, name in enumerate(simulated.names):
        own = Table(str(folder / "sites" / f"{name}.csv"), **WARDS)
        assert agree(simulated, index, alone(form_of(own), (name, own.load()), **settings))


def test_gaps_that_no_public_row_has_become_the_mean_without_a_flag(tmp_path: Path) -> None:
    own = Table(str(wards(tmp_path / "own.csv", 40, 0, gaps=True)), **WARDS)
    public = Table(str(wards(tmp_path / "public.csv", 20, 1)), **WARDS).load()
    seen = alone(form_of(own), ("own", own.load()), **SHARES, public_source=public, test_source=public)
    assert seen.input_shape == (5,)
    train = seen.site(0).train.x
    assert int((train[:, 1] == 0).sum()) == int(seen.stored.x[seen.parts[0].train][:, 1].isnan().sum()) > 3
    assert abs(float(seen.public.x[:, 1].mean())) < 1e-6
    assert seen.public.y.tolist() == [-1] * 20
    assert seen.test.y.tolist() == public.train.y.tolist()


def test_numbered_sites_divide_their_rows_by_number() -> None:
    federation = federate(Digits().load(), Iid(), sites=3, **SHARES)
    assert [int(federation.parts[index].train.sum()) for index in range(3)] == [213013, 220661, 206988]


def refusal(form: Source, own: tuple[str, Source] | None, **settings: Any) -> list[str]:
    with pytest.raises(DataError) as caught:
        alone(form, own, **SHARES | settings)
    return caught.value.faults


def test_what_needs_the_rows_of_others_is_refused_at_once(tmp_path: Path) -> None:
    file = str(wards(tmp_path / "own.csv", 30, 0, gaps=True))
    for kind in ("federated", "site"):
        table = Table(file, **WARDS | {"standardise": kind})
        for own in (None, ("own", table.load())):
            public, test, scale = refusal(form_of(table), own)
            assert public.endswith("set public_dataset to examples that all have, or public=0")
            assert test.endswith("set test_dataset to examples that all have")
            assert scale.startswith(f"dataset.standardise={kind} needs statistics")
            assert scale.endswith("set dataset.standardise=public")
    table = Table(file, **WARDS | {"standardise": "none"})
    guest = Table(str(wards(tmp_path / "guest.csv", 30, 1)), **WARDS).load()
    elsewhere = {"public_source": guest, "test_source": guest}
    (gap,) = refusal(form_of(table), ("own", table.load()), **elsewhere)
    assert "found gaps in dose: set dataset.standardise=public" in gap
    full = Table(str(tmp_path / "guest.csv"), **WARDS | {"standardise": "none"})
    assert alone(form_of(full), ("own", full.load()), **SHARES, **elsewhere).input_shape == (5,)
    assert refusal(form_of(Table(file, **WARDS)), None, public=0, test_source=guest)[0].startswith("standardise=public")


def test_rows_that_are_not_one_sites_are_refused(tmp_path: Path) -> None:
    for name in "ab":
        wards(tmp_path / "sites" / f"{name}.csv", 20, 0)
    table = Table(str(tmp_path / "sites"), **WARDS)
    guest = Table(str(tmp_path / "sites" / "a.csv"), **WARDS).load()
    elsewhere = {"public_source": guest, "test_source": guest}
    (several,) = refusal(form_of(table), ("a", table.load()), **elsewhere)
    assert "expected the rows of one site, found those of a, b; set dataset.path to one" in several
    (other,) = refusal(form_of(table), ("a", replace(guest, classes=("0", "1", "2"))), **elsewhere)
    assert "expected rows of shape (3,) with classes 0, 1, columns age, dose" in other
    assert "found rows of shape (3,) with classes 0, 1, 2" in other


@pytest.mark.parametrize(
    ("dataset", "told"),
    [
        (
            Table("x.csv", "ill", categorical={"ward": None, "sex": [0, 1]}, classes=["a", "b"]),
            "set dataset.numeric, dataset.labels (or dataset.threshold), dataset.categorical.ward",
        ),
        (Table("x.csv", "ill", ["age"], ["ward"], threshold=0), "set dataset.categorical.ward"),
        (ImageFolder("x"), "set dataset.classes, dataset.channels"),
        (ImageTable("x"), "set dataset.classes, dataset.size, dataset.channels"),
        (TensorFile("x"), "set dataset.classes, dataset.shape"),
        (Digits(), "dataset Digits: expected a method form()"),
    ],
)
def test_a_form_left_to_the_rows_names_the_settings(dataset: Any, told: str) -> None:
    with pytest.raises(DataError) as caught:
        form_of(dataset)
    assert told in str(caught.value)


def test_forms_are_those_of_loaded_rows(tmp_path: Path) -> None:
    table = Table(str(wards(tmp_path / "t.csv", 9, 0)), **WARDS | {"threshold": None, "labels": {0: "no", "1": "yes"}})
    save_file({"x": torch.rand(5, 3), "y": torch.arange(5) % 2}, tmp_path / "x.safetensors")
    tensors = TensorFile(str(tmp_path / "x.safetensors"), classes=["a", "b"], shape=[3])
    for dataset in (table, tensors):
        form, loaded = form_of(dataset), dataset.load()
        assert len(form.train) == len(form.train.x) == 0
        assert (form.classes, form.image, form.encoder) == (loaded.classes, loaded.image, loaded.encoder)
        assert form.train.x.shape[1:] == loaded.train.x.shape[1:]
        assert form.train.x.dtype == loaded.train.x.dtype
    with pytest.raises(DataError, match=r"expected rows of shape \(4,\), found \(3,\); correct the file, or"):
        replace(tensors, shape=[4]).load()
    for shape in ([], [1, 2], [3.5], [0]):
        with pytest.raises(ValueError, match="shape must be"):
            TensorFile("x", shape=shape)


def picture(file: Path, shade: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (5, 4), (shade, 0, 255 - shade)).save(file)


def test_a_sites_own_folder_of_images_may_lack_a_class(tmp_path: Path) -> None:
    for number in range(20):
        picture(tmp_path / "own" / "cat" / f"{number}.png", number)
    folder = ImageFolder(str(tmp_path / "own"), size=4, channels=3, mean=0.4, std=0.3, classes=["ant", "bee", "cat"])
    elsewhere: dict[str, Any] = {}
    for name in ("public", "test"):
        save_file({"x": torch.full((6, 3, 8, 8), 7, dtype=torch.uint8), "y": torch.arange(6) % 3}, tmp_path / name)
        elsewhere[f"{name}_source"] = TensorFile(str(tmp_path / name), classes=["cat", "ant", "bee"]).load()
    seen = alone(form_of(folder), ("zoo", folder.load()), **SHARES, **elsewhere)
    server = alone(form_of(folder), None, **SHARES, **elsewhere)
    assert seen.label_counts(0) == [0, 0, 14]
    assert seen.input_shape == server.input_shape == (3, 4, 4)
    assert same(seen.public, server.public)
    assert same(seen.test, server.test)
    assert seen.test.y.tolist() == [2, 0, 1, 2, 0, 1]
    torch.testing.assert_close(seen.test.x, torch.full((6, 3, 4, 4), (7 / 255 - 0.4) / 0.3))
    picture(tmp_path / "own" / "dog" / "1.png", 1)
    with pytest.raises(DataError, match=r"named like classes \(ant, bee, cat\), found dog; add it to dataset.classes"):
        folder.load()
    (tmp_path / "bare" / "bee").mkdir(parents=True)
    with pytest.raises(DataError, match=r"expected images .*, found none"):
        replace(folder, path=str(tmp_path / "bare")).load()


def test_an_official_test_split_is_the_shared_one(tmp_path: Path) -> None:
    for split, count in (("train", 10), ("test", 4)):
        for number in range(count):
            picture(tmp_path / split / "ab"[number % 2] / f"{number}.png", number)
    folder = ImageFolder(str(tmp_path), size=4, channels=3, classes=["a", "b"])
    settings = SHARES | {"public": 0}
    simulated = federate(folder.load(), Iid(), sites=1, **settings)
    for own in (("site", folder.load()), None):
        seen = alone(folder.load(), own, **settings)
        assert same(seen.test, simulated.test)
        assert len(seen.public) == 0


def test_a_test_set_from_elsewhere_replaces_the_held_out_one(tmp_path: Path) -> None:
    digits = Digits().load()
    save_file({"x": torch.zeros(7, 1, 8, 8, dtype=torch.uint8), "y": torch.arange(7)}, tmp_path / "x")
    federation = federate(
        digits, Iid(), sites=3, **SHARES | {"public": 0}, test_source=TensorFile(str(tmp_path / "x")).load()
    )
    assert federation.test.y.tolist() == list(range(7))
    assert sum(len(part.train) + len(part.validation) + len(part.test) for part in federation.parts) == 1797
    official = replace(digits, train=digits.train.take(torch.arange(5)), test=digits.train.take(torch.arange(9)))
    assert len(federate(digits, Iid(), sites=3, **SHARES, test_source=official).test) == 9, "its official test split"
    strange = TensorFile(str(tmp_path / "x"), classes=[*"0123456x"]).load()
    with pytest.raises(DataError, match=r"the test set: expected the dataset's classes, 0, 1, .* found x; choose one"):
        federate(digits, Iid(), sites=3, **SHARES, test_source=strange)
    table = Table(str(wards(tmp_path / "t.csv", 9, 0)), **WARDS).load()
    with pytest.raises(DataError, match="the test set: expected images like the dataset, found a table"):
        federate(digits, Iid(), sites=3, **SHARES, test_source=table)


def test_rows_are_shared_out_once_with_their_text(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    texts = {name: [f'"{name} {row}, ""{row}"" \n second",{row}.50 , ?' for row in range(20)] for name in ("a", "b")}
    (tmp_path / "source" / "a.csv").write_bytes("\r\n".join(["p,q,r", *texts["a"]]).encode("utf-8-sig"))
    (tmp_path / "source" / "b.csv").write_bytes("\n".join(["p,q,r", *texts["b"], "", ""]).encode())

    def run(target: str, *more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, SCRIPT, tmp_path / "source", tmp_path / target, "--public", "0.25", *more]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert run("one").returncode == 0
    found = {}
    for file in (tmp_path / "one").rglob("*.csv"):
        text = file.read_bytes().decode()
        assert text.startswith("p,q,r\n")
        with file.open(newline="") as stream:
            assert all(len(row) == 3 for row in csv.reader(stream))
        found[file.name] = [row for rows in texts.values() for row in rows if f"{row}\n" in text]
    assert sorted(found) == ["a.csv", "b.csv", "public.csv", "test.csv"]
    assert sorted(row for rows in found.values() for row in rows) == sorted([*texts["a"], *texts["b"]])
    assert [len(set(found[part]) & set(texts["a"])) for part in ("public.csv", "test.csv", "a.csv")] == [5, 4, 11]
    again = run("one")
    assert again.returncode == 2
    assert "or an empty one, found files" in again.stderr
    assert run("two").returncode == run("three", "--seed", "1").returncode == 0
    public = [(tmp_path / name / "public.csv").read_bytes() for name in ("one", "two", "three")]
    assert public[0] == public[1] != public[2]
    (tmp_path / "source" / "b.csv").write_text("p,q\n1,2\n")
    assert "b.csv: expected the first line of a.csv, 'p,q,r'" in run("four").stderr
