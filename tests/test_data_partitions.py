"""Deals: no row twice, no site without, the same for the same seed, and a sentence when impossible."""

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fl_distill.data import Source, Split, federate
from fl_distill.data.partitions import ClassesPerSite, Dirichlet, Iid, Natural, Partition, Scarce
from fl_distill.data.pixels import Pixels
from fl_distill.errors import DataError

LABELS = np.random.default_rng(0).integers(0, 10, 1257)
OWNERS = tuple(f"hospital {number % 3}" for number in range(1257))
KINDS = [
    Iid(),
    Dirichlet(0.1),
    Dirichlet(1.0, min_examples=5),
    ClassesPerSite(2),
    ClassesPerSite(4, spread=2),
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


@pytest.mark.parametrize(
    "partition", [*KINDS[:5], ClassesPerSite(2, examples_per_class=9), Scarce(3, 5, 100)], ids=repr
)
def test_another_seed_is_another_deal(partition: Partition) -> None:
    one, two = partition(LABELS, None, 10, 1), partition(LABELS, None, 10, 2)
    assert any(not np.array_equal(np.sort(a), np.sort(b)) for a, b in zip(one, two, strict=True))


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    sites=st.integers(1, 12),
    seed=st.integers(0, 2**63 - 1),
    make=st.sampled_from(
        [
            Iid,
            lambda: Dirichlet(0.05),
            lambda: Dirichlet(50),
            lambda: ClassesPerSite(2),
            lambda: ClassesPerSite(2, spread=3),
        ]
    ),
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


@pytest.mark.parametrize(
    ("sites", "classes", "seed", "digest"),
    [
        (10, 2, 0, "1832a4fd7021bf41"),
        (10, 2, 7, "794412bb76a61ce0"),
        (30, 3, 0, "556a348fd853f3c0"),
        (5, 2, 7, "0edd6327a4ff8489"),
        (1, 10, 0, "70de8f087fb1df2a"),
    ],
)
def test_classes_per_site_deals_as_it_always_did(sites: int, classes: int, seed: int, digest: str) -> None:
    parts = ClassesPerSite(classes)(LABELS, None, sites, seed)
    assert hashlib.sha256(b"|".join(part.tobytes() for part in parts)).hexdigest()[:16] == digest


@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    sites=st.integers(1, 12),
    classes=st.integers(1, 8),
    spread=st.integers(1, 4),
    few=st.none() | st.integers(1, 10),
    seed=st.integers(0, 2**63 - 1),
)
def test_any_spread_of_classes_covers_them_all_and_shares_each_evenly(
    counts: list[int], sites: int, classes: int, spread: int, few: int | None, seed: int
) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    try:
        parts = ClassesPerSite(classes, few, spread)(labels, None, sites, seed)
    except DataError:
        assert classes > len(counts) or sites * classes < len(counts) or min(counts) < sites
        return
    table = np.stack([np.bincount(labels[part], minlength=len(counts)) for part in parts])
    rows = np.concatenate(parts)
    assert len(rows) == len(set(rows))
    assert (table.sum(axis=0) > 0).all()
    seen = (table > 0).sum(axis=1)
    assert seen.min() >= max(1, min(classes - spread, len(counts)))
    assert seen.max() <= min(classes + spread, len(counts))
    for label, column in enumerate(table.T):
        shares = column[column > 0]
        assert shares.max() - shares.min() <= 1
        assert few is not None or column.sum() == counts[label]
        assert few is None or shares.max() <= few


def test_the_number_of_classes_varies_uniformly() -> None:
    labels = np.arange(20_000) % 10
    seen = [len(set(labels[part])) for part in ClassesPerSite(4, spread=2)(labels, None, 500, 0)]
    assert set(seen) == {2, 3, 4, 5, 6}
    assert all(70 < seen.count(number) < 130 for number in set(seen))
    assert min(len(set(labels[part])) for part in ClassesPerSite(2, spread=5)(labels, None, 50, 0)) == 1


@pytest.mark.parametrize("seed", range(20))
def test_a_spread_that_just_reaches_leaves_no_class_out(seed: int) -> None:
    parts = ClassesPerSite(2, spread=1)(LABELS, None, 5, seed)
    assert whole(parts, len(LABELS))
    assert all(1 <= len(set(LABELS[part])) <= 3 for part in parts)


@pytest.mark.parametrize("sites", [3, 20])
@pytest.mark.parametrize("spread", [0, 1])
def test_few_examples_of_each_class(sites: int, spread: int) -> None:
    alike = ClassesPerSite(4, None, spread)(LABELS, None, sites, 5)
    parts = ClassesPerSite(4, 6, spread)(LABELS, None, sites, 5)
    for all_rows, few in zip(alike, parts, strict=True):
        assert set(few) <= set(all_rows)
        expected = np.minimum(np.bincount(LABELS[all_rows], minlength=10), 6)
        assert np.bincount(LABELS[few], minlength=10).tolist() == expected.tolist()


@given(
    classes=st.integers(1, 8),
    sites=st.integers(1, 8),
    labels=st.integers(0, 4),
    keep=st.integers(0, 6),
    examples=st.integers(1, 60),
    rows=st.integers(1, 100),
    seed=st.integers(0, 2**63 - 1),
)
def test_scarce_classes_are_exactly_scarce(
    classes: int, sites: int, labels: int, keep: int, examples: int, rows: int, seed: int
) -> None:
    pool = np.random.default_rng(seed).permutation(np.repeat(np.arange(classes) * 2, rows))
    scarce = Scarce(labels, keep, examples)
    share = -(-(examples - labels * keep) // max(classes - labels, 1))
    possible = labels < classes and keep * classes <= examples
    try:
        parts = scarce(pool, None, sites, seed)
    except DataError:
        assert not possible or sites > len(pool) or rows < sites * share
        return
    assert possible
    every = np.concatenate(parts)
    assert len(every) == len(set(every)) == sites * examples
    for part in parts:
        counts = np.sort(np.bincount(pool[part] // 2, minlength=classes))
        assert counts[:labels].tolist() == [keep] * labels
        assert counts[-1] - counts[labels] <= 1
        assert counts[-1] == share
    again = scarce(pool, None, sites, seed)
    assert all(np.array_equal(one, two) for one, two in zip(parts, again, strict=True))


def test_the_scarce_classes_are_drawn_for_each_site() -> None:
    labels = np.arange(60_000) % 10
    parts = Scarce(3, 5, 200)(labels, None, 200, 0)
    rare = np.stack([np.bincount(labels[part], minlength=10) == 5 for part in parts])
    assert (rare.sum(axis=1) == 3).all()
    assert len({tuple(row) for row in rare}) > 60
    assert (np.abs(rare.mean(axis=0) - 0.3) < 0.12).all()


@pytest.mark.parametrize("partition", [Scarce(3, 5, 100), ClassesPerSite(3, 10, 1)], ids=repr)
def test_rows_that_nobody_gets_are_simply_not_used(partition: Partition) -> None:
    x = torch.arange(len(LABELS) * 2).view(-1, 2, 1, 1)
    source = Source(Split(x, torch.from_numpy(LABELS)), None, tuple("0123456789"), Pixels((0.0,), (1.0,), 1.0))
    federation = federate(source, partition, sites=5, seed=0, validation=0.1, test=0.2, public=0.1)
    sites = [federation.site(index) for index in range(5)]
    splits = [*(split for site in sites for split in (site.train, site.validation, site.test))]
    rows = torch.cat([split.x[:, 0].flatten() for split in (*splits, federation.test, federation.public)])
    assert len(rows) == len(rows.unique()) < len(LABELS)
    assert all(len(site.train) and len(site.validation) and len(site.test) for site in sites)
    assert federation.label_counts(2) == torch.bincount(sites[2].train.y, minlength=10).tolist()


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
    with pytest.raises(DataError, match=r"cannot give each of 20 sites .* 1 in the rarest class\): lower sites"):
        ClassesPerSite(2, spread=1)(np.array([0] * 50 + [1]), None, 20, 0)
    scarce = "partition=scarce labels=3 keep=5 examples=2000"
    with pytest.raises(DataError, match=rf"{scarce} needs \d+ examples of class \d for 10 sites, there are \d+: lower"):
        Scarce()(LABELS, None, 10, 0)
    with pytest.raises(DataError, match=r"below 10, and partition.examples to at least 50, 5 for each class"):
        Scarce(labels=10)(LABELS, None, 1, 0)
    with pytest.raises(DataError, match=r"cannot make 3 of 10 classes scarce: .* at least 50, 5 for each class"):
        Scarce(examples=49)(LABELS, None, 1, 0)
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
        lambda: ClassesPerSite(2, examples_per_class=0),
        lambda: ClassesPerSite(2, spread=-1),
        lambda: ClassesPerSite(2, spread=1.5),
        lambda: Scarce(labels=-1),
        lambda: Scarce(keep=-1),
        lambda: Scarce(examples=0),
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
