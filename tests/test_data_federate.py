"""One dataset to many sites: nothing twice, nothing lost, the same again."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fl_distill.data import Augment, Federation, Source, Split, federate
from fl_distill.data.partitions import Dirichlet, Iid, Natural, Partition
from fl_distill.data.pixels import Pixels
from fl_distill.data.sources import Digits
from fl_distill.errors import DataError

PLAIN = {"seed": 0, "validation": 0.1, "test": 0.1, "public": 0.1}


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FL_DISTILL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def numbered(labels: list[int], owners: list[int] | None = None, test: int | None = None) -> Source:
    """A source whose every row is an image of one pixel that holds the row's number."""

    def split(first: int, y: list[int]) -> Split:
        numbers = torch.arange(first, first + len(y), dtype=torch.uint8)
        return Split(numbers.view(-1, 1, 1, 1), torch.tensor(y, dtype=torch.int64))

    return Source(
        train=split(0, labels),
        test=None if test is None else split(len(labels), [0] * test),
        classes=("a", "b", "c"),
        encoder=Pixels(mean=(0.0,), std=(1.0,), scale=1.0),
        owners=None if owners is None else tuple(f"owner {number}" for number in owners),
    )


def rows(split: Split) -> list[int]:
    return [int(value) for value in split.x.flatten()]


def everything(federation: Federation) -> list[int]:
    found = rows(federation.test) + rows(federation.public)
    for index in range(len(federation)):
        site = federation.site(index)
        found += rows(site.train) + rows(site.validation) + rows(site.test)
    return found


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_every_row_lands_in_exactly_one_place(data: st.DataObject) -> None:
    labels = data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=120))
    size = len(labels)
    owned = data.draw(st.none() | st.lists(st.integers(0, 3), min_size=size, max_size=size))
    official = data.draw(st.none() | st.integers(1, 20))
    fraction = st.floats(0, 0.49)
    shares = {name: data.draw(fraction) for name in ("validation", "test", "public")}
    source, seed = numbered(labels, owned, official), data.draw(st.integers(0, 1000))
    partition: Partition = Natural() if owned is not None else _Thirds()
    federation = federate(source, partition, sites=1, seed=seed, **shares)
    assert sorted(everything(federation)) == list(range(size + (official or 0)))
    assert all(len(federation.site(index).train) for index in range(len(federation)))
    assert everything(federation) == everything(federate(source, partition, sites=1, seed=seed, **shares))
    if owned is not None:
        assert federation.names == tuple(f"owner {number}" for number in sorted(set(owned)))


class _Thirds:
    """A partition of the user's own: up to three sites, in turn."""

    def __call__(self, labels: np.ndarray, owners: tuple[str, ...] | None, sites: int, seed: int) -> list[np.ndarray]:
        count = min(3, len(labels))
        return [np.arange(start, len(labels), count) for start in range(count)]


def test_held_out_parts_are_stratified_by_owner_and_class() -> None:
    owners = [0] * 100 + [1] * 50 + [2] * 20
    labels = [0] * 80 + [1] * 20 + [2] * 50 + [0] * 10 + [1] * 10
    federation = federate(numbered(labels, owners), Natural(), sites=9, **{**PLAIN, "public": 0.25})
    taken = np.array(labels)[rows(federation.test)], np.array(owners)[rows(federation.test)]
    for owner, label, count in [(0, 0, 80), (0, 1, 20), (1, 2, 50), (2, 0, 10), (2, 1, 10)]:
        found = int(((taken[0] == label) & (taken[1] == owner)).sum())
        assert abs(found - 0.2 * count) <= 1.3
    assert abs(len(federation.public) - 0.25 * 0.8 * 170) <= 1.5


def test_splits_are_ready_for_a_model() -> None:
    federation = federate(Digits().load(), Dirichlet(0.5), sites=12, **PLAIN)
    assert federation.input_shape == (1, 8, 8)
    assert federation.classes == tuple("0123456789")
    assert federation.image
    assert federation.names == tuple(f"site-{number:02d}" for number in range(12))
    assert list(federation.names) == sorted(federation.names)
    for split in (federation.test, federation.public, federation.site(3).train):
        assert split.x.dtype == torch.float32
        assert split.y.dtype == torch.int64
        assert split.x.shape == (len(split), 1, 8, 8)
    assert abs(len(federation.test) - 359) <= 1
    assert abs(float(federation.test.x.mean())) < 0.05
    assert abs(float(federation.test.x.std()) - 1) < 0.05
    assert federation.label_counts(3) == torch.bincount(federation.site(3).train.y, minlength=10).tolist()
    with pytest.raises(IndexError, match="site index 12"):
        federation.site(12)


def test_pixels_are_converted_as_written() -> None:
    x = torch.arange(0, 24, dtype=torch.uint8).view(2, 3, 2, 2)
    encode = Pixels(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), scale=16.0).fit(x, [], x)
    mean, std = np.array([0.1, 0.2, 0.3]).reshape(3, 1, 1), np.array([0.5, 0.6, 0.7]).reshape(3, 1, 1)
    reference = (x.numpy() / 16.0 - mean) / std
    np.testing.assert_allclose(encode(x, torch.zeros(2)).numpy(), reference, rtol=1e-5, atol=1e-6)


FEDERATION = """
import hashlib, sys
from fl_distill.data import federate
from fl_distill.data.partitions import Dirichlet
from fl_distill.data.sources import Digits

def digest(seed):
    shares = dict(validation=0.1, test=0.1, public=0.1)
    federation = federate(Digits().load(), Dirichlet(), sites=5, seed=seed, **shares)
    splits = [federation.test, federation.public, *(federation.site(index).train for index in range(5))]
    return hashlib.sha256(b"".join(part.numpy().tobytes() for s in splits for part in (s.x, s.y))).hexdigest()
"""


def test_same_seed_same_federation_in_another_process_and_another_seed_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here: dict[str, Any] = {}
    exec(FEDERATION, here)
    one, two = here["digest"](1), here["digest"](2)
    monkeypatch.setenv("FL_DISTILL_CACHE", str(tmp_path))
    code = FEDERATION + "print(digest(1), 'sklearn' in sys.modules)"
    root = Path(__file__).parents[1]
    run = subprocess.run([sys.executable, "-c", code], check=True, cwd=root, capture_output=True, text=True)
    assert run.stdout.split() == [one, "False"]
    assert one != two


def test_shares_that_cannot_be_are_reported_together() -> None:
    source = numbered([0, 1, 2])
    with pytest.raises(DataError) as caught:
        federate(source, Iid(), sites=1, seed=0, validation=-0.1, test=1.0, public=float("nan"))
    assert [fault.split()[0] for fault in caught.value.faults] == ["validation", "test", "public"]
    with pytest.raises(DataError, match="must leave something to train on, got 1 of 1"):
        federate(source, Iid(), sites=1, seed=0, validation=0.5, test=0.5, public=0.0)
    with pytest.raises(DataError, match="partition=iid cannot give 4 sites"):
        federate(source, Iid(), sites=4, seed=0, validation=0, test=0, public=0)


def test_augment_travels_with_the_federation() -> None:
    federation = federate(Digits({"crop": 1, "flip": True}).load(), Iid(), sites=2, **PLAIN)
    assert federation.augment == Augment(crop=1, flip=True)
