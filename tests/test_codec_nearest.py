"""Rows that a codec moved out of the set that they belong to, and knowledge of such rows in whole runs."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fl_distill.codec.nearest import BALL, SIMPLEX, in_ball, on_simplex, within
from fl_distill.errors import BadUpdate

from .conftest import Launch

SHAPES = st.tuples(st.integers(0, 5), st.integers(1, 20))


def noise(shape: tuple[int, int], seed: int, size: float) -> Tensor:
    return size * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@given(SHAPES, st.integers(0, 1000), st.sampled_from([1e-3, 0.1, 1.0, 1e4]))
def test_the_nearest_probabilities(shape: tuple[int, int], seed: int, size: float) -> None:
    x = noise(shape, seed, size)
    p = on_simplex(x)
    assert p.shape == x.shape
    if not p.numel():
        return
    assert p.min() >= 0
    assert torch.allclose(p.sum(-1), torch.ones(len(p)), atol=1e-3 * max(1.0, size))
    # The condition for the nearest point of a convex set: (x - p) . (q - p) <= 0 for all q of it, so for its corners.
    slack = ((x - p)[:, None] * (torch.eye(shape[1])[None] - p[:, None])).sum(-1)
    assert slack.max() <= 1e-4 * max(1.0, size) ** 2


@given(SHAPES, st.integers(0, 1000))
def test_probabilities_stay_what_they_are(shape: tuple[int, int], seed: int) -> None:
    p = noise(shape, seed, 3.0).softmax(-1)
    assert torch.allclose(on_simplex(p), p, atol=1e-6)


@given(SHAPES, st.integers(0, 1000), st.sampled_from([0.1, 1.0, 10.0]))
def test_the_nearest_point_of_the_ball(shape: tuple[int, int], seed: int, size: float) -> None:
    x = noise(shape, seed, size)
    p = in_ball(x)
    assert (p >= 0).all()
    assert (p.norm(dim=-1) <= 1 + 1e-5).all()
    other = in_ball(noise(shape, seed + 1, 1.0))
    assert ((x - p) * (other - p)).sum() <= 1e-4 * size**2


def test_only_what_is_named_is_moved_and_keeps_its_dtype() -> None:
    tensors = {"a": torch.tensor([[0.5, -0.5]], dtype=torch.float16), "b": torch.tensor([[2.0, -1.0]])}
    found = within(tensors, {"a": SIMPLEX, "c": BALL})
    assert found["a"].tolist() == [[1.0, 0.0]]
    assert found["a"].dtype == torch.float16
    assert found["b"] is tensors["b"]


@pytest.mark.parametrize("rows", [[[1e9, 0.0]], [[-5.0, -5.0]], [[20.0, 20.0]], [[float("nan"), 1.0]], [3.0, 4.0], 1.0])
def test_what_no_codec_can_have_made_is_refused(rows: object) -> None:
    with pytest.raises(BadUpdate, match="'said'"):
        within({"said": torch.tensor(rows)}, {"said": SIMPLEX})


def test_large_numbers_have_a_nearest_point_too() -> None:
    assert on_simplex(torch.tensor([[1e9, 0.0], [3e18, 3e18]])).tolist() == [[1.0, 0.0], [0.5, 0.5]]
    packed = torch.tensor([1, 2], dtype=torch.uint8)
    assert within({"said": packed}, {"said": SIMPLEX})["said"] is packed


@pytest.mark.parametrize("codec", ["int8", "eden1", "step", "topk"])
@pytest.mark.parametrize("strategy", ["dsfl", "fd"])
def test_coded_probabilities_cost_no_site_its_round(launch: Launch, strategy: str, codec: str) -> None:
    done = launch(f"strategy={strategy}", f"codec.up={codec}", f"codec.down={codec}", "local.epochs=1", "model=mlp")
    assert [row["failures"] for row in done.rows] == [{}] * 3


def test_coded_inner_layers_cost_no_site_its_round(launch: Launch) -> None:
    coded = ("codec.up=eden1", "codec.down=eden1", "local.epochs=1")
    done = launch("strategy=cross_silo", "strategy.transfer=attention", "models=[cnn,lenet]", *coded)
    assert [row["failures"] for row in done.rows] == [{}] * 3
