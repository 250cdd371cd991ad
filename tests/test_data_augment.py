"""Random crops and flips."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_distill.data import Augment, augment
from fl_distill.data.augment import as_augment
from fl_distill.seeds import generator


@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 3), st.integers(1, 7), st.integers(1, 7)),
    crop=st.integers(0, 4),
    flip=st.booleans(),
    seed=st.integers(0, 100),
)
def test_every_image_is_a_window_of_its_padded_or_mirrored_self(
    shape: tuple[int, int, int, int], crop: int, flip: bool, seed: int
) -> None:
    x = torch.rand(shape)
    out = augment(x, generator(seed), crop=crop, flip=flip)
    assert out.shape == x.shape
    assert torch.equal(out, augment(x, generator(seed), crop=crop, flip=flip))
    height, width = shape[2:]
    for image, result in zip(x, out, strict=True):
        sides = [image, image.flip(-1)] if flip else [image]
        padded = [torch.nn.functional.pad(side, (crop,) * 4) for side in sides]
        assert any(
            torch.equal(side[:, down : down + height, right : right + width], result)
            for side in padded
            for down in range(2 * crop + 1)
            for right in range(2 * crop + 1)
        )


def test_about_half_are_mirrored_and_every_shift_occurs() -> None:
    x = torch.arange(9.0).view(1, 1, 3, 3).repeat(2000, 1, 1, 1)
    flipped = augment(x, generator(0), flip=True)
    assert 900 < int((flipped[:, 0, 0, 0] == 2).sum()) < 1100
    assert len({tuple(image.flatten().tolist()) for image in augment(x, generator(0), crop=1)}) == 9


def test_nothing_to_do_leaves_the_batch_and_the_generator_alone() -> None:
    x, draws = torch.rand(2, 1, 4, 4), generator(0)
    assert Augment()(x, draws) is x
    assert torch.equal(torch.rand(3, generator=draws), torch.rand(3, generator=generator(0)))


@pytest.mark.parametrize("value", [{"crop": -1}, {"crop": 1.5}, {"crop": True}, {"flip": 1}, {"zoom": 2}])
def test_impossible_settings_are_refused(value: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="augment"):
        as_augment(value)


def test_tables_cannot_be_augmented() -> None:
    with pytest.raises(ValueError, match=r"expects images \(N, C, H, W\)"):
        augment(torch.rand(4, 3), generator(0), flip=True)
