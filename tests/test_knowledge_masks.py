"""Combine rules where sites know some classes only: against loops over those that know, and what must not matter."""

import math
import statistics
from itertools import pairwise
from typing import NamedTuple

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from fl_distill.knowledge import Confidence, DropWorst, Era, Mean, Median, Power, Rule, TrimmedMean, Vote

RULES: list[Rule] = [Mean(), Era(0.3), Power(3.0), Vote(), Median(), TrimmedMean(0.3), DropWorst(1), Confidence()]


class Case(NamedTuple):
    stack: Tensor
    weights: Tensor
    known: Tensor


def case_of(size: tuple[int, int, int, int]) -> Case:
    """Random probabilities; about two thirds of the entries known, no class without a site that knows it."""
    sites, examples, classes, seed = size
    g = torch.Generator().manual_seed(seed)
    stack = torch.randn(sites, examples, classes, generator=g, dtype=torch.float64).softmax(-1)
    known = torch.rand(sites, classes, generator=g) < 0.65
    known[torch.randint(sites, (classes,), generator=g), torch.arange(classes)] = True
    return Case(stack, torch.rand(sites, generator=g, dtype=torch.float64) + 0.1, known)


sizes = st.tuples(st.integers(1, 7), st.integers(1, 4), st.integers(2, 6), st.integers(0, 10**6))
cases = sizes.map(case_of)


def means(w: list[float], rows: list[list[float]], holders: list[list[int]]) -> list[float]:
    """The weighted mean of each class over the sites in `holders`."""
    return [
        sum(w[k] * rows[k][c] for k in sites) / sum(w[k] for k in sites) if sum(w[k] for k in sites) else math.nan
        for c, sites in enumerate(holders)
    ]


def scaled(values: list[float]) -> list[float]:
    return [v / sum(values) for v in values]


def distances(case: Case) -> dict[int, float]:
    """How far each site that knows something is from the medians of those that know, per class that it knows."""
    sites, examples, classes = case.stack.shape
    away = {}
    for k in range(sites):
        gaps = []
        for c in [c for c in range(classes) if case.known[k, c]]:
            held = case.stack[case.known[:, c], :, c]
            gaps += [
                (case.stack[k, n, c].item() - statistics.median(held[:, n].tolist())) ** 2 for n in range(examples)
            ]
        if gaps:
            away[k] = math.sqrt(statistics.fmean(gaps))
    return away


def clear(case: Case) -> bool:
    """Whether no two sites are as far from the medians; where they are, rounding decides which one is dropped."""
    return all(b - a > 1e-9 for a, b in pairwise(sorted(distances(case).values())))


@given(cases)
def test_masked_rules_equal_loops_over_the_sites_that_know(case: Case) -> None:
    stack, weights, known = case
    sites, examples, classes = stack.shape
    w = weights.tolist()
    knows = [[c for c in range(classes) if known[k, c]] for k in range(sites)]
    holders = [[k for k in range(sites) if known[k, c]] for c in range(classes)]
    said = [[stack[k, n].tolist() for k in range(sites)] for n in range(examples)]
    middles = [[statistics.median(rows[k][c] for k in holders[c]) for c in range(classes)] for rows in said]
    for n, rows in enumerate(said):
        mean = means(w, rows, holders)
        sharp = [math.exp(p / 0.3) for p in scaled(mean)]
        choice = [max(knows[k], key=lambda c: rows[k][c]) if knows[k] else -1 for k in range(sites)]
        shares = means(w, [[float(choice[k] == c) for c in range(classes)] for k in range(sites)], holders)
        trimmed = []
        for c, held in enumerate(holders):
            cut = math.floor(0.3 * len(held))
            trimmed.append(statistics.fmean(sorted(rows[k][c] for k in held)[cut : len(held) - cut]))
        spread = [statistics.pvariance([rows[k][c] for c in knows[k]]) if knows[k] else 0.0 for k in range(sites)]
        sure = means([a * b for a, b in zip(w, spread, strict=True)], rows, holders)
        references: list[tuple[Rule, list[float]]] = [
            (Mean(), mean),
            (Era(0.3), scaled(sharp)),
            (Power(3.0), scaled([p**3 for p in mean])),
            (Vote(), scaled(shares)),
            (Median(), middles[n]),
            (TrimmedMean(0.3), trimmed),
            (Confidence(), [m if math.isnan(s) else s for s, m in zip(sure, mean, strict=True)]),
        ]
        for rule, expected in references:
            got = rule(stack, weights, known)[n].tolist()
            assert got == pytest.approx(expected, rel=1e-9, abs=1e-12), rule


@given(cases)
def test_numbers_outside_the_mask_change_no_bit(case: Case) -> None:
    stack, weights, known = case
    g = torch.Generator().manual_seed(0)
    garbage = torch.randn(stack.shape, generator=g, dtype=torch.float64) * 1e300
    spoilt = torch.where(known[:, None], stack, garbage)
    for rule in RULES:
        assert torch.equal(rule(spoilt, weights, known), rule(stack, weights, known)), rule


@given(cases)
def test_a_mask_of_all_is_no_mask(case: Case) -> None:
    stack, weights, known = case
    for rule in RULES:
        assert torch.equal(rule(stack, weights, torch.ones_like(known)), rule(stack, weights)), rule
        assert torch.equal(rule(stack, weights, torch.zeros_like(known)), rule(stack, weights)), rule


@given(cases)
def test_a_class_that_nobody_knows_is_taken_as_known_to_all(case: Case) -> None:
    stack, weights, known = case
    nobody, everybody = known.clone(), known.clone()
    nobody[:, 0], everybody[:, 0] = False, True
    for rule in RULES:
        assert torch.equal(rule(stack, weights, nobody), rule(stack, weights, everybody)), rule
    for plain in (Mean(), Median(), TrimmedMean(0.3)):
        torch.testing.assert_close(plain(stack, weights, nobody)[:, 0], plain(stack, weights)[:, 0])


@given(cases)
def test_a_site_that_knows_nothing_has_no_say(case: Case) -> None:
    stack, weights, known = case
    more = torch.cat([stack, stack[:1].flip(-1) + 1]), torch.cat([weights, weights[:1] * 9])
    masked = torch.cat([known, torch.zeros_like(known[:1])])
    for rule in RULES if clear(case) else [rule for rule in RULES if not isinstance(rule, DropWorst)]:
        got, expected = rule(*more, masked), rule(stack, weights, known)
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-14, msg=str(rule))


@given(cases)
def test_the_order_of_sites_has_no_say(case: Case) -> None:
    stack, weights, known = case
    order = torch.randperm(len(stack), generator=torch.Generator().manual_seed(1))
    for rule in RULES if clear(case) else [rule for rule in RULES if not isinstance(rule, DropWorst)]:
        got = rule(stack[order], weights[order], known[order])
        torch.testing.assert_close(got, rule(stack, weights, known), rtol=1e-9, atol=1e-12)


@given(cases, st.integers(0, 3))
def test_dropping_leaves_the_mean_of_the_nearest_in_any_order(case: Case, count: int) -> None:
    stack, weights, known = case
    assume(clear(case))
    away = distances(case)
    stay = sorted(away, key=lambda k: away[k])[: max(1, len(away) - count)]
    holders = [[k for k in range(len(stack)) if known[k, c]] for c in range(stack.shape[2])]
    kept = [[k for k in held if k in stay] or held for held in holders]
    got = DropWorst(count)(stack, weights, known)
    for n, row in enumerate(got.tolist()):
        assert row == pytest.approx(means(weights.tolist(), stack[:, n].tolist(), kept), rel=1e-9)
    order = torch.randperm(len(stack), generator=torch.Generator().manual_seed(1))
    shuffled = DropWorst(count)(stack[order], weights[order], known[order])
    torch.testing.assert_close(shuffled, got, rtol=1e-9, atol=1e-12)


@given(cases)
def test_masked_probabilities_stay_probabilities_and_have_their_limits(case: Case) -> None:
    stack, weights, known = case
    for rule in (Era(0.3), Power(3.0), Vote()):
        answer = rule(stack, weights, known)
        assert bool((answer >= 0).all())
        torch.testing.assert_close(answer.sum(-1), torch.ones(stack.shape[1], dtype=torch.float64))
    mean = Mean()(stack, weights, known)
    mean = mean / mean.sum(-1, keepdim=True)
    torch.testing.assert_close(Power(1.0)(stack, weights, known), mean)
    clear = mean.topk(2).values.diff(dim=-1).abs().squeeze(-1) > 1e-4
    hard = torch.nn.functional.one_hot(mean.argmax(-1), mean.shape[-1]).double()
    torch.testing.assert_close(Era(1e-6)(stack, weights, known)[clear], hard[clear])


@given(cases)
def test_masked_distances_order_sites_as_plain_ones(case: Case) -> None:
    stack, weights, known = case
    assume(len(stack) != 2)  # both are as far
    away = (stack - Median()(stack, weights)).flatten(1).norm(dim=1)
    farthest = away.argsort()[max(1, len(stack) - 2) :]
    kept = DropWorst(2)._kept(stack, weights, torch.ones_like(known))
    assert sorted((~kept).nonzero().flatten().tolist()) == sorted(farthest.tolist())


def test_a_class_that_only_dropped_sites_know_keeps_what_they_say() -> None:
    stack = torch.tensor([[[0.5, 0.5, 0.0]], [[0.5, 0.4, 0.0]], [[0.4, 0.5, 0.0]], [[9.0, -9.0, 7.0]]])
    known = torch.tensor([[True, True, False]] * 3 + [[True, True, True]])
    answer = DropWorst(1)(stack, torch.ones(4), known)
    torch.testing.assert_close(answer, torch.tensor([[1.4 / 3, 1.4 / 3, 7.0]]))


def test_robust_rules_withstand_one_liar_among_those_that_know() -> None:
    honest = torch.tensor([[0.7, 0.2, 0.1]]).repeat(6, 1, 1)
    stack = torch.cat([honest, torch.tensor([[[-100.0, 50.0, 900.0]]])])
    known = torch.ones(7, 3, dtype=torch.bool)
    known[0, 0] = known[1, 1] = known[2, 2] = False
    for rule in (Median(), TrimmedMean(0.2), DropWorst(1)):
        torch.testing.assert_close(rule(stack, torch.ones(7), known), honest[0])


def test_probabilities_that_are_all_zero_where_known_make_no_nan() -> None:
    stack = torch.tensor([[[0.0, 0.0, 1.0]], [[0.0, 0.0, 1.0]]])
    known = torch.tensor([[True, True, False], [True, False, True]])
    stack[1, 0, 2] = 0
    for rule in (Era(), Power()):
        torch.testing.assert_close(rule(stack, torch.ones(2), known), torch.full((1, 3), 1 / 3))


def test_a_site_votes_for_a_class_that_it_knows_even_if_it_gives_it_nothing() -> None:
    stack = torch.tensor([[[1.0, 0.0, 0.0]], [[0.9, 0.1, 0.0]]])
    known = torch.tensor([[False, True, True], [True, True, True]])
    answer = Vote()(stack, torch.ones(2), known)  # shares: class 0 one of one, class 1 one of two, class 2 none
    torch.testing.assert_close(answer, torch.tensor([[2 / 3, 1 / 3, 0.0]]))


def test_trimming_counts_in_double_precision() -> None:
    stack = torch.arange(101.0)[:, None, None].pow(2).repeat(1, 1, 2)
    known = torch.ones(101, 2, dtype=torch.bool)
    known[100, 0] = False  # of the 100 that are left, 0.29 cuts 28: in float32 it would be 29
    expected = stack[28:72, 0, 0].mean()
    torch.testing.assert_close(TrimmedMean(0.29)(stack, torch.ones(101), known)[0, 0], expected)


@pytest.mark.parametrize("known", [torch.ones(2, 3), torch.ones(3, 2, dtype=torch.bool)])
def test_a_mask_of_another_kind_is_refused(known: Tensor) -> None:
    with pytest.raises(ValueError, match=r"known must be a bool tensor \(2, 3\)"):
        Mean()(torch.ones(2, 1, 3), torch.ones(2), known)
