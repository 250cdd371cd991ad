"""Means by class against loops in exact order, and what must not matter."""

import math
import statistics
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fl_distill.knowledge import Weigh, class_means, leave_one_out, masked_mean
from fl_distill.models.views import ByPrototype


class Sites(NamedTuple):
    means: Tensor
    counts: Tensor


def sites_of(size: tuple[int, int, int, int]) -> Sites:
    sites, classes, width, seed = size
    g = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 4, (sites, classes), generator=g) * torch.randint(0, 2, (sites, classes), generator=g)
    return Sites(torch.randn(sites, classes, width, generator=g), counts)


many = st.tuples(st.integers(1, 6), st.integers(1, 5), st.integers(1, 4), st.integers(0, 10**6)).map(sites_of)


@given(st.integers(0, 30), st.integers(1, 6), st.integers(1, 4), st.integers(0, 10**6))
def test_class_means_equal_a_loop(n: int, classes: int, width: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    values, labels = torch.randn(n, width, generator=g), torch.randint(classes, (n,), generator=g)
    means, counts = class_means(values, labels, classes)
    assert means.dtype is torch.float32
    assert counts.dtype is torch.int64
    assert counts.tolist() == [labels.tolist().count(c) for c in range(classes)]
    for c in range(classes):
        rows = [row for row, label in zip(values.tolist(), labels.tolist(), strict=True) if label == c]
        expected = [statistics.fmean(column) for column in zip(*rows, strict=True)] or [0.0] * width
        assert means[c].tolist() == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_class_means_are_summed_in_double_precision_and_refuse_strange_labels() -> None:
    values = torch.cat([torch.full((1, 1), 2.0**30), torch.ones(2**12, 1)])
    means, _ = class_means(values, torch.zeros(len(values), dtype=torch.long), 1)
    assert means.item() == pytest.approx((2.0**30 + 2**12) / (2**12 + 1), rel=1e-7)
    with pytest.raises(ValueError, match="labels must be below 2"):
        class_means(torch.ones(2, 1), torch.tensor([0, 2]), 2)


@given(many, st.sampled_from(["sites", "examples"]))
def test_the_mean_over_holders_equals_a_loop(sites: Sites, weigh: Weigh) -> None:
    mean, holders = masked_mean(*sites, weigh)
    counts = sites.counts.tolist()
    for c in range(sites.means.shape[1]):
        held = [k for k, row in enumerate(counts) if row[c]]
        assert holders[c] == len(held)
        shares = [counts[k][c] if weigh == "examples" else 1 for k in held]
        expected = torch.zeros(sites.means.shape[2], dtype=torch.float64)
        for k, share in zip(held, shares, strict=True):
            expected += share / sum(shares) * sites.means[k, c].double()
        torch.testing.assert_close(mean[c].double(), expected, rtol=1e-6, atol=1e-7)


@given(many)
def test_leaving_one_out_equals_the_mean_of_the_others(sites: Sites) -> None:
    targets, known = leave_one_out(*sites)
    assert targets.dtype is torch.float32
    for k in range(len(sites.means)):
        others = [j for j in range(len(sites.means)) if j != k]
        mean, holders = masked_mean(sites.means[others], sites.counts[others])
        assert torch.equal(known[k], holders > 0)
        torch.testing.assert_close(targets[k], mean)


@given(many)
def test_what_a_site_does_not_hold_changes_no_bit(sites: Sites) -> None:
    spoilt = torch.where((sites.counts > 0)[..., None], sites.means, math.nan)
    for got, expected in zip(
        (*masked_mean(spoilt, sites.counts), *leave_one_out(spoilt, sites.counts)),
        (*masked_mean(*sites), *leave_one_out(*sites)),
        strict=True,
    ):
        assert torch.equal(got, expected)


@given(many)
def test_the_order_of_sites_has_no_say(sites: Sites) -> None:
    order = torch.randperm(len(sites.means), generator=torch.Generator().manual_seed(1))
    shuffled = sites.means[order], sites.counts[order]
    torch.testing.assert_close(masked_mean(*shuffled), masked_mean(*sites))
    targets, known = leave_one_out(*sites)
    torch.testing.assert_close(leave_one_out(*shuffled), (targets[order], known[order]))


def test_a_site_with_huge_numbers_still_hears_the_others() -> None:
    means = torch.tensor([[[1e30]], [[0.25]], [[0.75]]])
    targets, _ = leave_one_out(means, torch.ones(3, 1, dtype=torch.long))
    assert targets[0].item() == 0.5


def test_an_unknown_way_to_weigh_is_refused() -> None:
    with pytest.raises(ValueError, match="weigh is sites or examples"):
        masked_mean(torch.ones(1, 1, 1), torch.ones(1, 1), "size")  # type: ignore[arg-type]


@given(st.integers(1, 40), st.integers(1, 6), st.integers(1, 4), st.integers(0, 10**6))
def test_the_nearest_known_prototype_equals_a_loop(n: int, classes: int, width: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    features, prototypes = torch.randn(n, width, generator=g), torch.randn(classes, width, generator=g)
    known = torch.rand(classes, generator=g) < 0.6
    known[seed % classes] = True
    view = ByPrototype(Itself(), torch.where(known[:, None], prototypes, 0.0), known)
    got = view(features).argmax(1)
    for row, c in zip(features.tolist(), got.tolist(), strict=True):
        away = {c: math.dist(row, p) for c, p in enumerate(prototypes.tolist()) if known[c]}
        assert away[c] == pytest.approx(min(away.values()), rel=1e-5)


class Itself(torch.nn.Module):
    """A model whose features are its input."""

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_near_prototypes_of_long_vectors_are_told_apart() -> None:
    prototypes = torch.tensor([[1000.0, 1000.0], [1000.0, 1000.01]])
    view = ByPrototype(Itself(), prototypes, torch.tensor([True, True]))
    assert view(prototypes.repeat(40, 1)).argmax(1).tolist() == [0, 1] * 40
