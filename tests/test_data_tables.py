"""CSV tables against plain numpy, and a sentence for every cell that cannot be."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fl_distill.data import Federation, Split, federate
from fl_distill.data.cells import category
from fl_distill.data.columns import Columns
from fl_distill.data.moments import moments, pool_moments
from fl_distill.data.partitions import Iid, Natural
from fl_distill.data.sources import Table
from fl_distill.errors import DataError

DATA = os.environ.get("FL_DISTILL_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="FL_DISTILL_DATA is not set: no folder with real data")
PLAIN = {"seed": 0, "validation": 0.1, "test": 0.1, "public": 0.1}
SMALL = "age,ward,dose,ill\n30,A,1.5,0\n40,B,?,1\n,A,2.5,3\n50.0, C ,4,0\n"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FL_DISTILL_CACHE", str(tmp_path / "cache"))


def table(tmp_path: Path, text: str = SMALL, **settings: Any) -> Table:
    (tmp_path / "data.csv").write_text(text)
    chosen = {"target": "ill", "categorical": ["ward"], "threshold": 0} | settings
    return Table(str(tmp_path / "data.csv"), **chosen)


@given(
    arrays(np.float64, (12, 3), elements=st.floats(-1e3, 1e3) | st.just(float("nan"))),
    st.lists(st.integers(1, 11), unique=True, max_size=4),
)
def test_pooled_moments_are_those_of_all_rows(x: np.ndarray, cuts: list[int]) -> None:
    pooled = pool_moments([moments(part) for part in np.split(x, sorted(cuts))])
    for column in range(3):
        present = x[~np.isnan(x[:, column]), column]
        assert pooled.count[column] == len(present)
        if len(present):
            np.testing.assert_allclose(pooled.mean()[column], present.mean(), rtol=1e-9, atol=1e-9)
            if present.std() > 1e-3:
                np.testing.assert_allclose(pooled.std()[column], present.std(), rtol=1e-4)


def test_a_constant_column_has_no_deviation_whatever_rounding_says() -> None:
    found = moments(np.full((1000, 2), [0.1, 123456.789]))
    assert found.std().tolist() == [0.0, 0.0]


PUBLIC = np.array([20, 21, 22, 23])


def encoded(standardise: str) -> tuple[np.ndarray, list[np.ndarray], Callable[..., np.ndarray]]:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(5, 3, (30, 2)), rng.integers(0, 3, (30, 1)).astype(float)], axis=1)
    x[rng.random(x.shape) < 0.2] = np.nan
    x[:10, 1] = np.nan  # the first site does not know the second column at all
    x[10:20, 0] = 7.0  # the second site always writes the same number in the first
    parts = [np.arange(0, 8), np.arange(10, 18), np.arange(20, 30)]
    encode = Columns(("a", "b"), (("x", "y", "z"),), (0, 2), standardise).fit(
        torch.from_numpy(x), [torch.from_numpy(part) for part in parts], torch.from_numpy(x[PUBLIC])
    )
    return (
        x,
        parts,
        lambda rows, who: encode(torch.from_numpy(x[rows]), torch.full((len(rows),), who)).numpy(),
    )


@pytest.mark.parametrize("standardise", ["site", "federated", "public", "none"])
def test_encoded_rows_equal_the_numpy_reference(standardise: str) -> None:
    x, parts, encode = encoded(standardise)
    everyone = np.concatenate(parts)
    for who in (0, 1, 2, -1):
        rows = np.arange(30)
        own = everyone if standardise == "federated" or who == -1 else parts[who]
        own = PUBLIC if standardise == "public" else own
        flagged = np.flatnonzero(np.isnan(x[PUBLIC]).any(axis=0)) if standardise == "public" else [0, 2]
        reference = np.zeros((30, 5 + len(flagged)))
        for column in range(2):
            pooled, here = x[everyone, column], x[own, column]
            known = here[~np.isnan(here)]
            mean = known.mean() if len(known) else np.nanmean(pooled)
            std = known.std() if len(known) and known.std() > 0 else np.nanstd(pooled)
            if standardise == "none":
                mean, std = 0.0, 1.0
            reference[:, column] = np.nan_to_num((x[:, column] - mean) / std)
        for level in range(3):
            reference[:, 2 + level] = x[:, 2] == level
        reference[:, 5:] = np.isnan(x[:, flagged])
        np.testing.assert_allclose(encode(rows, who), reference, rtol=1e-5, atol=1e-6)


def test_public_rows_must_be_there_and_tell_of_every_number(tmp_path: Path) -> None:
    x, columns = torch.tensor([[1.0, torch.nan], [2.0, torch.nan]]), Columns(("age", "dose"), (), (), "public")
    with pytest.raises(DataError, match=r"expected public rows .* found none; set public > 0 or public_dataset"):
        columns.fit(x, [], x[:0])
    with pytest.raises(DataError, match=r"expected values in column 'dose' of the public rows"):
        columns.fit(x, [], x)
    source = table(tmp_path, "age,ward,ill\n" + "".join(f"{n},A,{n % 2}\n" for n in range(40)), standardise="public")
    federation = federate(source.load(), Iid(), sites=2, **PLAIN)
    assert abs(float(federation.public.x[:, 0].mean())) < 1e-6
    with pytest.raises(DataError, match="standardise=public"):
        federate(source.load(), Iid(), sites=2, **PLAIN | {"public": 0})


def test_a_small_file_by_hand(tmp_path: Path) -> None:
    source = table(tmp_path).load()
    assert isinstance(source.encoder, Columns)
    assert source.encoder.numeric == ("age", "dose")
    assert source.encoder.levels == (("A", "B", "C"),)
    assert source.encoder.flags == (0, 1)
    expected = [[30, 1.5, 0], [40, np.nan, 1], [np.nan, 2.5, 0], [50, 4, 2]]
    np.testing.assert_array_equal(source.train.x.numpy(), np.array(expected))
    assert source.train.y.tolist() == [0, 1, 1, 0]
    assert source.classes == ("0", "1")
    assert source.owners is None
    assert not source.image


def test_targets_by_threshold_labels_or_value(tmp_path: Path) -> None:
    def target(**settings: Any) -> tuple[list[int], tuple[str, ...]]:
        source = table(tmp_path, **{"threshold": None, **settings}).load()
        return source.train.y.tolist(), source.classes

    assert target() == ([0, 1, 2, 0], ("0", "1", "3"))
    assert target(classes=["none", "mild", "severe"]) == ([0, 1, 2, 0], ("none", "mild", "severe"))
    assert target(labels={0: "well", "1": "ill", 3: "ill"}) == ([0, 1, 1, 0], ("well", "ill"))
    assert target(threshold=1.5, classes=["low", "high"]) == ([0, 0, 1, 0], ("low", "high"))


@given(st.integers(-1000, 1000))
def test_a_number_is_one_category_however_it_is_written(number: int) -> None:
    assert category(str(number)) == category(f"{number}.0") == category(f"{number}.00") == str(number)
    assert category(f"A{number}") == f"A{number}"


@pytest.mark.parametrize(
    ("text", "settings", "told"),
    [
        (SMALL, {"target": "sick"}, "expected a column 'sick', found age, ward, dose, ill"),
        (SMALL, {"numeric": ["weight"]}, "expected a column 'weight'"),
        (
            SMALL,
            {"categorical": {"ward": ["A", "B"]}},
            "data.csv, line 5, column 'ward': expected one of A, B, found 'C'; correct the cell, or add it",
        ),
        (SMALL, {"categorical": []}, "line 2, column 'ward': expected a finite number, found 'A'"),
        (SMALL, {"missing": ["?"]}, "line 4, column 'age': expected a finite number, found ''"),
        (SMALL, {"threshold": None, "labels": {0: "no", 1: "yes"}}, "expected one of 0, 1, found '3'"),
        (SMALL, {"threshold": None, "classes": ["a", "b"]}, "expected 2 classes (a, b) in column 'ill'"),
        (
            "age,ward,ill\n?,A,0\n,B,1\n",
            {},
            "expected values in column 'age', found only missing cells in every row of every file",
        ),
        ("age,ward,ill\n1,A,?\n", {}, "line 2, column 'ill': expected a target, found '?'"),
        ("age,ward,ill\n1,A\n", {}, "data.csv, line 2: expected 3 cells (age, ward, ill), found 2"),
        ("age,ward,ill\ninf,A,1\n", {}, "expected a finite number, found 'inf'"),
        ("age,age,ill\n1,2,1\n", {}, "expected distinct column names"),
        ("age,ward,ill\n", {}, "expected rows of data, found none"),
        ("", {}, "expected rows of data, found none"),
        ('age,ward,ill\n1,"A,1\n', {}, "expected a CSV file in UTF-8"),
    ],
)
def test_faults_name_file_line_and_column(tmp_path: Path, text: str, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(DataError) as caught:
        table(tmp_path, text, **settings).load()
    assert told in str(caught.value)
    assert "data.csv" in str(caught.value)


def test_faults_of_paths(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"found nothing there; set dataset.path, or FL_DISTILL_DATA"):
        Table(str(tmp_path / "absent"), "ill").load()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"expected \*.csv files, found none"):
        Table(str(tmp_path / "empty"), "ill").load()
    (tmp_path / "latin.csv").write_bytes("age,ill\n1,été\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin.csv: expected a CSV file in UTF-8"):
        Table(str(tmp_path / "latin.csv"), "ill").load()


@pytest.mark.parametrize(
    "settings",
    [
        {"path": ""},
        {"path": []},
        {"path": 3},
        {"standardise": "global"},
        {"threshold": 0, "labels": {0: "a"}},
        {"threshold": 0, "classes": ["a"]},
        {"numeric": "age"},
        {"numeric": ["age"], "categorical": ["age"]},
        {"numeric": ["ill"]},
        {"numeric": []},
        {"delimiter": ", "},
        {"header": ["age"], "numeric": ["age"]},
        {"augment": {"flip": True}},
    ],
)
def test_impossible_settings_are_refused_at_once(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        Table(**({"path": "x.csv", "target": "ill"} | settings))


def hospitals(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    (tmp_path / "sites").mkdir()
    for name, count, mean in [("west", 60, 10.0), ("east", 30, 50.0), ("north", 12, -5.0)]:
        rows = [
            f"{rng.normal(mean, 2):.6f},{'' if name == 'north' else rng.random()},{rng.integers(2)}"
            for _ in range(count)
        ]
        (tmp_path / "sites" / f"{name}.csv").write_text("\n".join(["a,b,ill", *rows]))
    return tmp_path / "sites"


def join(federation: Federation, index: int) -> Split:
    site = federation.site(index)
    parts = (site.train, site.validation, site.test)
    return Split(torch.cat([part.x for part in parts]), torch.cat([part.y for part in parts]))


@pytest.mark.parametrize("as_list", [False, True])
def test_each_file_is_a_site_with_its_own_or_the_federations_statistics(tmp_path: Path, as_list: bool) -> None:
    folder = hospitals(tmp_path)
    path = [str(file) for file in sorted(folder.glob("*.csv"))] if as_list else str(folder)
    own = federate(Table(path, "ill", standardise="site").load(), Natural(), sites=10, **PLAIN)
    assert own.names == ("east", "north", "west")
    assert own.input_shape == (3,)
    assert not own.image
    for index in range(3):
        train = own.site(index).train.x[:, 0].double()
        assert abs(float(train.mean())) < 1e-5
        assert abs(float(train.std(correction=0)) - 1) < 1e-5
    assert torch.equal(own.site(1).train.x[:, 1], torch.zeros(len(own.site(1).train)))
    assert torch.equal(own.site(1).train.x[:, 2], torch.ones(len(own.site(1).train)))
    assert float(own.test.x[:, 0].abs().max()) < 6  # each row by the statistics of the site it came from
    shared = federate(Table(path, "ill").load(), Natural(), sites=10, **PLAIN)
    pooled = torch.cat([shared.site(index).train.x[:, 0] for index in range(3)]).double()
    assert abs(float(pooled.mean())) < 1e-5
    assert abs(float(pooled.std(correction=0)) - 1) < 1e-5
    assert float(shared.site(0).train.x[:, 0].mean()) > 1


def test_rows_of_nobody_take_the_pooled_statistics(tmp_path: Path) -> None:
    source = Table(str(hospitals(tmp_path) / "west.csv"), "ill", standardise="site").load()
    federation = federate(source, Iid(), sites=4, **PLAIN)
    assert federation.names == ("site-0", "site-1", "site-2", "site-3")
    assert abs(float(federation.test.x[:, 0].mean())) < 1


HEART = {
    "numeric": ["age", "trestbps", "chol", "thalach", "oldpeak", "ca"],
    "categorical": ["sex", "cp", "fbs", "restecg", "exang", "slope", "thal"],
    "zero_missing": ["trestbps", "chol"],
    "threshold": 0,
}


@needs_data
def test_heart_disease_has_four_hospitals() -> None:
    source = Table(f"{DATA}/heart_disease", "target", **HEART).load()
    assert len(source.train) == 920
    federation = federate(source, Natural(), sites=10, **PLAIN)
    assert federation.names == ("cleveland", "hungarian", "switzerland", "va")
    assert isinstance(source.encoder, Columns)
    assert source.encoder.levels[1] == ("1", "2", "3", "4")
    assert source.encoder.levels[6] == ("3", "6", "7")
    counts = [federation.label_counts(index) for index in range(4)]
    assert counts[2][0] < counts[2][1] / 5
    swiss = join(federation, 2).x
    assert torch.equal(swiss[:, 2], torch.zeros(len(swiss)))
    assert all(torch.isfinite(join(federation, index).x).all() for index in range(4))
    held = sum(len(join(federation, index)) for index in range(4))
    assert held + len(federation.test) + len(federation.public) == 920


@needs_data
def test_german_credit_reads_without_a_header() -> None:
    names = [f"c{number}" for number in range(20)] + ["risk"]
    numeric = [f"c{number}" for number in (1, 4, 7, 10, 12, 15, 17)]
    words = [name for name in names[:20] if name not in numeric]
    source = Table(
        f"{DATA}/german_credit/german.csv",
        "risk",
        numeric,
        words,
        header=names,
        labels={1: "good", 2: "bad"},
    ).load()
    assert torch.bincount(source.train.y).tolist() == [700, 300]
    assert source.classes == ("good", "bad")
    federation = federate(source, Iid(), sites=5, **PLAIN)
    assert federation.input_shape == (61,)
    assert abs(float(federation.test.y.float().mean()) - 0.3) < 0.01
