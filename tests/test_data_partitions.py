"""Deals: every row once, no site without, the same for the same seed, and a sentence when impossible."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fl_distill.data.partitions import ClassesPerSite, Dirichlet, Iid, Natural, Partition
from fl_distill.errors import DataError

LABELS = np.random.default_rng(0).integers(0, 10, 1257)
OWNERS = tuple(f"hospital {number % 3}" for number in range(1257))
KINDS = [
    Iid(),
    Dirichlet(0.1),
    Dirichlet(1.0, min_examples=5),
    ClassesPerSite(2),
    ClassesPerSite(10),
    Natural(),
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FL_DISTILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def whole(parts: list[np.ndarray], count: int) -> bool:
    return all(len(part) for part in parts) and np.array_equal(np.sort(np.concatenate(parts)), np.arange(count))


@pytest.mark.parametrize("partition", KINDS, ids=repr)
def test_every_row_once_and_the_same_for_a_seed(
    partition: Partition, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = partition(LABELS, OWNERS, 10, 7)
    cached = partition(LABELS, OWNERS, 10, 7)
    monkeypatch.setenv("FL_DISTILL_CACHE", str(tmp_path / "elsewhere"))
    fresh = partition(LABELS, OWNERS, 10, 7)
    assert whole(first, len(LABELS))
    for other in (cached, fresh):
        assert len(first) == len(other)
        assert all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("partition", KINDS[:4], ids=repr)
def test_another_seed_is_another_deal(partition: Partition) -> None:
    one, two = partition(LABELS, None, 10, 1), partition(LABELS, None, 10, 2)
    assert any(not np.array_equal(np.sort(a), np.sort(b)) for a, b in zip(one, two, strict=True))


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    sites=st.integers(1, 12),
    seed=st.integers(0, 2**63 - 1),
    make=st.sampled_from([Iid, lambda: Dirichlet(0.05), lambda: Dirichlet(50), lambda: ClassesPerSite(2)]),
)
def test_any_labels_are_dealt_whole_or_refused(
    labels: list[int], sites: int, seed: int, make: Callable[[], Partition]
) -> None:
    refusal = ""
    try:
        parts = make()(np.array(labels), None, sites, seed)
    except DataError as error:
        parts, refusal = [], str(error)
    if refusal:
        assert f"{sites} sites" in refusal
        assert "lower sites" in refusal or "raise sites" in refusal
    else:
        assert len(parts) == sites
        assert whole(parts, len(labels))


def test_iid_sites_are_of_equal_size() -> None:
    sizes = [len(part) for part in Iid()(LABELS, None, 10, 0)]
    assert max(sizes) - min(sizes) <= 1


def test_dirichlet_skew_grows_as_alpha_falls() -> None:
    def skew(alpha: float) -> float:
        parts = Dirichlet(alpha)(LABELS, None, 10, 0)
        return float(np.mean([np.bincount(LABELS[part], minlength=10).max() / len(part) for part in parts]))

    assert skew(0.1) > skew(1.0) > skew(100.0)


def test_dirichlet_keeps_its_smallest_site() -> None:
    assert min(map(len, Dirichlet(0.3, min_examples=20)(LABELS, None, 10, 0))) >= 20


@pytest.mark.parametrize(("sites", "classes"), [(10, 2), (30, 3), (5, 2), (4, 3), (2, 5), (1, 10)])
def test_classes_per_site_covers_all_classes(sites: int, classes: int) -> None:
    seen = [set(LABELS[part]) for part in ClassesPerSite(classes)(LABELS, None, sites, 3)]
    assert set.union(*seen) == set(range(10))
    assert all(len(group) <= classes for group in seen)
    assert sites < 10 or all(len(group) == classes for group in seen)


def test_natural_groups_by_owner_without_importing_flwr_datasets() -> None:
    code = (
        "import sys, numpy as np\n"
        "from fl_distill.data import federate, sources\n"
        "from fl_distill.data.partitions import Natural\n"
        "parts = Natural()(np.zeros(4, dtype=int), ('b', 'a', 'b', 'c'), 99, 0)\n"
        "assert [list(p) for p in parts] == [[1], [0, 2], [3]], parts\n"
        "heavy = {'flwr_datasets', 'datasets', 'sklearn', 'pandas', 'PIL', 'pyarrow', 'flwr'}\n"
        "assert not heavy & set(sys.modules)\n"
    )
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


def test_impossible_deals_say_why() -> None:
    with pytest.raises(DataError) as caught:
        Dirichlet(0.1)(LABELS, None, 2000, 0)
    assert str(caught.value) == (
        "partition=dirichlet alpha=0.1 cannot give 2000 sites at least 1 example each of 1257: "
        "lower sites or raise alpha"
    )
    with pytest.raises(DataError, match=r"at least 100 examples each of 1257: lower sites or raise alpha"):
        Dirichlet(0.01, min_examples=100)(LABELS, None, 10, 0)
    with pytest.raises(DataError, match=r"partition=iid cannot give 1258 sites .*: lower sites"):
        Iid()(LABELS, None, 1258, 0)
    with pytest.raises(DataError, match=r"sites must be a whole number >= 1, got 0"):
        Iid()(LABELS, None, 0, 0)
    with pytest.raises(DataError, match=r"set partition.classes between 4 and 10, or raise sites"):
        ClassesPerSite(2)(LABELS, None, 3, 0)
    with pytest.raises(DataError, match=r"between 2 and 10"):
        ClassesPerSite(11)(LABELS, None, 5, 0)
    with pytest.raises(DataError, match=r"1 in the rarest class\): lower sites or partition.classes"):
        ClassesPerSite(2)(np.array([0] * 50 + [1]), None, 10, 0)
    with pytest.raises(DataError, match=r"partition=natural needs a dataset that names the site"):
        Natural()(LABELS, None, 4, 0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Dirichlet(0),
        lambda: Dirichlet(-1.0),
        lambda: Dirichlet(float("nan")),
        lambda: Dirichlet(True),
        lambda: Dirichlet(1.0, min_examples=0),
        lambda: ClassesPerSite(0),
    ],
)
def test_impossible_values_are_refused_at_once(make: Callable[[], Partition]) -> None:
    with pytest.raises(ValueError, match=r"partition\.\w+ must be"):
        make()


def test_a_broken_or_read_only_cache_changes_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = Iid()(LABELS, None, 4, 0)
    (kept,) = cache.iterdir()
    kept.write_bytes(kept.read_bytes()[:40])
    again = Iid()(LABELS, None, 4, 0)
    (tmp_path / "file").touch()
    monkeypatch.setenv("FL_DISTILL_CACHE", str(tmp_path / "file" / "below"))
    nowhere = Iid()(LABELS, None, 4, 0)
    for other in (again, nowhere):
        assert all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    assert [path.suffix for path in cache.iterdir()] == [".safetensors"]
