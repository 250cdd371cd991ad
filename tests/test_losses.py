"""Distillation losses and terms against formulas written out in double precision, and their limits."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fl_distill.learning import (
    attention_distance,
    attention_map,
    class_target_loss,
    digest_loss,
    distillation,
    on_public,
    prototype_loss,
    taught,
    taught_target,
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient(value: Tensor, of: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(value, of)
    return found


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_distillation_is_t_squared_times_kl_summed_over_classes(temperature: float) -> None:
    g = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(5, 4, generator=g, dtype=torch.float64) for _ in range(2))
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        p = [math.exp(v / temperature) for v in t]
        q = [math.exp(v / temperature) for v in s]
        p, q = [v / sum(p) for v in p], [v / sum(q) for v in q]
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert distillation(student, teacher, temperature).item() == pytest.approx(temperature**2 * total / 5, rel=1e-9)
    assert distillation(teacher, teacher, temperature).item() == pytest.approx(0, abs=1e-12)


def test_digest_losses_are_chosen_by_name_and_checked() -> None:
    a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])
    assert digest_loss("mae", 1.0)(a, b).item() == 1.5
    assert digest_loss("mse", 1.0)(a, b).item() == 2.5
    with pytest.raises(ValueError, match="loss is one of"):
        digest_loss("kld", 1.0)
    with pytest.raises(ValueError, match="temperature"):
        digest_loss("kl", 0.0)(a, b)


@given(
    st.lists(st.integers(-1, 3), min_size=1, max_size=6),
    st.floats(0, 1),
    st.sampled_from([0.5, 1.0, 3.0]),
    st.integers(0, 99),
)
def test_taught_equals_its_formula_written_as_a_loop(labels: list[int], alpha: float, t: float, seed: int) -> None:
    logits, teacher = draw(len(labels), 4, seed=seed), draw(len(labels), 4, seed=seed + 100)
    hard, soft = [], []
    for z, v, label in zip(logits.tolist(), teacher.tolist(), labels, strict=True):
        if label >= 0:
            hard.append(math.log(sum(math.exp(a) for a in z)) - z[label])
        q, p = ([math.exp(a / t) for a in row] for row in (z, v))
        q, p = [a / sum(q) for a in q], [a / sum(p) for a in p]
        soft.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    expected = alpha * sum(hard) / max(1, len(hard)) + (1 - alpha) * t**2 * sum(soft) / len(soft)
    got = taught(alpha, t)(logits, taught_target(teacher, torch.tensor(labels)))
    assert got.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_the_ends_of_taught_have_the_gradients_of_its_halves() -> None:
    logits, teacher, labels = draw(6, 5).requires_grad_(), draw(6, 5, seed=1), torch.arange(6) % 5
    target = taught_target(teacher, labels)
    hard, soft = (gradient(taught(alpha, 3.0)(logits, target), logits) for alpha in (1.0, 0.0))
    torch.testing.assert_close(hard, gradient(F.cross_entropy(logits, labels), logits), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(soft, gradient(distillation(logits, teacher, 3.0), logits), rtol=1e-12, atol=1e-15)


def test_taught_without_labels_is_its_soft_half_and_trains_on() -> None:
    logits, teacher = draw(3, 4).requires_grad_(), draw(3, 4, seed=1)
    value = taught(1.0, 2.0)(logits, taught_target(teacher, torch.full((3,), -1)))
    assert value.item() == 0
    assert gradient(value, logits).abs().sum() == 0


def test_a_taught_target_keeps_labels_that_float16_could_not() -> None:
    target = taught_target(torch.zeros(1, 4, dtype=torch.float16), torch.tensor([4097]))
    assert target.dtype is torch.float32
    assert target[0, -1].item() == 4097


@pytest.mark.parametrize(("alpha", "temperature"), [(-0.1, 1.0), (1.1, 1.0), (0.5, 0.0), (math.nan, 1.0)])
def test_impossible_lessons_are_refused(alpha: float, temperature: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        taught(alpha, temperature)


def test_an_attention_map_is_the_normalised_energy_of_each_cell() -> None:
    maps = draw(2, 3, 4, 6)
    got = attention_map(maps, 2)
    for n in range(2):
        cells = [
            sum(maps[n, c, y, x].item() ** 2 for c in range(3) for y in rows for x in columns) / 6
            for rows in (range(2), range(2, 4))
            for columns in (range(3), range(3, 6))
        ]
        norm = math.sqrt(sum(cell**2 for cell in cells))
        assert got[n].tolist() == pytest.approx([cell / norm for cell in cells], rel=1e-9)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), st.integers(0, 99))
def test_attention_maps_of_any_size_compare(height: int, width: int, grid: int, seed: int) -> None:
    a, b = attention_map(draw(2, 3, height, width, seed=seed), grid), attention_map(draw(2, 1, 4, 4, seed=seed), grid)
    assert a.shape == (2, grid * grid)
    torch.testing.assert_close(a.norm(dim=1), torch.ones(2, dtype=torch.float64))
    assert attention_distance(a, a).item() == 0
    expected = sum(math.dist(p, q) ** 2 for p, q in zip(a.tolist(), b.tolist(), strict=True)) / 2
    assert attention_distance(a, b).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert expected <= 2 + 1e-9


def test_attention_has_no_scale_and_a_dead_map_no_gradient_that_is_not_finite() -> None:
    maps = draw(2, 3, 5, 5)
    torch.testing.assert_close(attention_map(7 * maps, 3), attention_map(maps, 3))
    dead = torch.zeros(2, 3, 5, 5, dtype=torch.float64, requires_grad=True)
    value = attention_distance(attention_map(dead, 3), attention_map(maps, 3))
    assert value.item() == pytest.approx(1)
    assert bool(gradient(value, dead).isfinite().all())


labels_and_known = st.tuples(
    st.lists(st.integers(-1, 3), min_size=1, max_size=6),
    st.lists(st.booleans(), min_size=4, max_size=4),
    st.integers(0, 99),
)


@given(labels_and_known)
def test_pulls_towards_class_targets_equal_loops(drawn: tuple[list[int], list[bool], int]) -> None:
    labels, has, seed = drawn
    said, targets = draw(len(labels), 4, seed=seed), draw(4, 4, seed=seed + 100).softmax(-1)
    known = torch.tensor(has)
    rows = [(z, targets[y].tolist()) for z, y in zip(said.tolist(), labels, strict=True) if y >= 0 and has[y]]
    squares = [sum((a - b) ** 2 for a, b in zip(z, t, strict=True)) / 4 for z, t in rows]
    crosses = []
    for z, t in rows:
        log_sum = math.log(sum(math.exp(a) for a in z))
        crosses.append(sum(b * (log_sum - a) for a, b in zip(z, t, strict=True)))
    spoilt = torch.where(known[:, None], targets, math.nan)
    for loss, values in ((prototype_loss, squares), (class_target_loss, crosses)):
        got = loss(said, torch.tensor(labels), spoilt, known, 0.3).item()
        assert got == pytest.approx(0.3 * sum(values) / max(1, len(values)), rel=1e-9, abs=1e-12), loss


def test_pulls_without_targets_are_zero_and_train_on() -> None:
    said, nobody = draw(3, 4).requires_grad_(), torch.zeros(4, dtype=torch.bool)
    for loss in (prototype_loss, class_target_loss):
        value = loss(said, torch.tensor([0, 1, 2]), draw(4, 4), nobody)
        assert value.item() == 0
        assert gradient(value, said).abs().sum() == 0


def test_the_public_term_walks_through_all_examples_anew_each_pass() -> None:
    x, target = torch.arange(10.0)[:, None], torch.arange(10.0)[:, None] + 100
    model, seen = nn.Linear(1, 1), []

    def loss(said: Tensor, told: Tensor) -> Tensor:
        seen.append(told.flatten() - 100)
        torch.testing.assert_close(said, model(seen[-1][:, None]))  # each example beside its own target
        return said.mean()

    term = on_public(x, target, loss, 4, torch.Generator().manual_seed(3))
    for _ in range(6):
        term(model)
    assert [len(batch) for batch in seen] == [4, 4, 2] * 2
    first, second = torch.cat(seen[:3]), torch.cat(seen[3:])
    assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(10))
    assert first.tolist() != second.tolist()
    again = on_public(x, target, loss, 4, torch.Generator().manual_seed(3))
    again(model)
    assert torch.equal(seen[-1], seen[0])


def test_the_public_term_weighs_its_loss_and_reaches_the_model() -> None:
    x, target, model = draw(6, 2), draw(6, 3), nn.Linear(2, 3).double()
    term = on_public(x, target, F.mse_loss, 6, torch.Generator(), weight=0.25)
    full = F.mse_loss(model(x), target)
    value = term(model)
    assert value.item() == pytest.approx(0.25 * full.item(), rel=1e-12)
    torch.testing.assert_close(gradient(value, model.weight), 0.25 * gradient(full, model.weight))


def test_a_last_public_batch_of_one_trains_batch_norm() -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).double()
    term = on_public(draw(3, 2), draw(3, 3), distillation, 2, torch.Generator())
    assert all(math.isfinite(term(model).item()) for _ in range(4))


def test_impossible_public_terms_are_refused() -> None:
    for x, target, size, weight in ((0, 0, 1, 1.0), (2, 3, 1, 1.0), (2, 2, 0, 1.0), (2, 2, 1, -1.0)):
        with pytest.raises(ValueError, match="must be"):
            on_public(torch.ones(x, 1), torch.ones(target, 1), distillation, size, torch.Generator(), weight)
