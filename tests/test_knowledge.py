"""Combine rules against float64 brute force, and their limits; test_knowledge_masks has the masks."""

import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fl_distill.knowledge import Confidence, DropWorst, Era, Mean, Median, Power, Rule, TrimmedMean, Vote

sizes = st.tuples(st.integers(1, 7), st.integers(1, 5), st.integers(2, 6), st.integers(0, 10**6))
RULES = [Mean(), Era(0.3), Power(3.0), Vote(), Median(), TrimmedMean(0.2), DropWorst(1), Confidence()]


def stack_of(size: tuple[int, int, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    sites, examples, classes, seed = size
    g = torch.Generator().manual_seed(seed)
    stack = torch.randn(sites, examples, classes, generator=g, dtype=torch.float64).softmax(-1)
    return stack, torch.rand(sites, generator=g, dtype=torch.float64) + 0.1


@given(sizes)
def test_rules_equal_their_formulas_written_as_loops(size: tuple[int, int, int, int]) -> None:
    stack, weights = stack_of(size)
    sites, examples, classes = stack.shape
    total = sum(weights.tolist())
    for n in range(examples):
        p = [sum(weights[k].item() * stack[k, n, c].item() for k in range(sites)) / total for c in range(classes)]
        sharp = [math.exp(v / 0.3) for v in p]
        powers = [v**3 for v in p]
        votes = [
            sum(weights[k].item() for k in range(sites) if stack[k, n].argmax() == c) / total for c in range(classes)
        ]
        middle = [statistics.median(stack[:, n, c].tolist()) for c in range(classes)]
        cut = math.floor(0.2 * sites)
        trimmed = [statistics.fmean(sorted(stack[:, n, c].tolist())[cut : sites - cut]) for c in range(classes)]
        sure = [weights[k].item() * statistics.pvariance(stack[k, n].tolist()) for k in range(sites)]
        confident = [sum(s * stack[k, n, c].item() for k, s in enumerate(sure)) / sum(sure) for c in range(classes)]
        references: list[tuple[Rule, list[float]]] = [
            (Mean(), p),
            (Era(0.3), [v / sum(sharp) for v in sharp]),
            (Power(3.0), [v / sum(powers) for v in powers]),
            (Vote(), votes),
            (Median(), middle),
            (TrimmedMean(0.2), trimmed),
            (Confidence(), confident),
        ]
        for rule, expected in references:
            got = rule(stack, weights)[n].tolist()
            assert got == pytest.approx(expected, rel=1e-9, abs=1e-12), rule


@given(sizes)
def test_the_order_of_sites_has_no_say(size: tuple[int, int, int, int]) -> None:
    stack, weights = stack_of(size)
    order = torch.randperm(len(stack), generator=torch.Generator().manual_seed(1))
    clear = len(stack) != 2  # of two sites both are as far from the median: either may be dropped
    for rule in RULES if clear else [rule for rule in RULES if not isinstance(rule, DropWorst)]:
        torch.testing.assert_close(rule(stack, weights), rule(stack[order], weights[order]), rtol=1e-9, atol=1e-12)


@given(sizes)
def test_probabilities_stay_probabilities(size: tuple[int, int, int, int]) -> None:
    stack, weights = stack_of(size)
    for rule in (Mean(), Era(0.3), Power(3.0), Vote(), DropWorst(1), Confidence()):
        answer = rule(stack, weights)
        assert answer.shape == stack.shape[1:]
        torch.testing.assert_close(answer.sum(-1), torch.ones(stack.shape[1], dtype=torch.float64))


@given(sizes)
def test_limits(size: tuple[int, int, int, int]) -> None:
    stack, weights = stack_of(size)
    mean = Mean()(stack, weights)
    torch.testing.assert_close(Power(1.0)(stack, weights), mean)
    hard = torch.nn.functional.one_hot(mean.argmax(-1), mean.shape[-1]).double()
    assert (Era(1e-6)(stack, weights) - hard).abs().max() < 1e-3 or mean.topk(2).values.diff().abs().min() < 1e-4
    torch.testing.assert_close(TrimmedMean(0.0)(stack, weights), stack.mean(0))
    one = stack[:1]
    for rule in (Mean(), Median(), TrimmedMean(0.4), DropWorst(5), Confidence()):
        torch.testing.assert_close(rule(one, weights[:1]), one[0])


def test_robust_rules_withstand_one_liar() -> None:
    honest = torch.tensor([[0.7, 0.2, 0.1]]).repeat(6, 1, 1) + 0.01 * torch.randn(6, 1, 3)
    stack = torch.cat([honest, torch.tensor([[[-100.0, 50.0, 900.0]]])])
    weights = torch.ones(7)
    for rule in (Median(), TrimmedMean(0.2), DropWorst(1)):
        assert (rule(stack, weights) - honest.mean(0)).abs().max() < 0.05, rule
    assert (Mean()(stack, weights) - honest.mean(0)).abs().max() > 1


def test_impossible_settings_are_refused() -> None:
    for make in (lambda: Era(0), lambda: Power(-1), lambda: TrimmedMean(0.5), lambda: DropWorst(-1)):
        with pytest.raises(ValueError, match="must be"):
            make()
