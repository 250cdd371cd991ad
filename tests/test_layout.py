"""Images channels last: the same results, for every model that can bear it."""

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fl_distill import models
from fl_distill.data.types import Split
from fl_distill.learning import Settings, fit, predict
from fl_distill.learning.layout import channels_last, layout
from fl_distill.seeds import generator

BUILT = {
    "cnn": (models.cnn, (1, 8, 8)),
    "cnn of colours": (models.cnn, (3, 8, 8)),
    "lenet": (models.lenet, (1, 28, 28)),
    "resnet8": (models.resnet8, (3, 16, 16)),
    "vit": (models.vit, (3, 16, 16)),
}


class Foreign(nn.Module):
    """A user's own network, whose forward does `between` with what the convolution says."""

    def __init__(self, between: "Between") -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Linear(4 * 64, 10)
        self.register_buffer("seen", torch.zeros(()))
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        random.random(), np.random.rand(), torch.rand(1)
        return self.head(self.between(self, self.convolution(x)))


Between = Callable[[Foreign, Tensor], Tensor]


def flattens(_: Foreign, x: Tensor) -> Tensor:
    return x.relu().flatten(1)


def views(_: Foreign, x: Tensor) -> Tensor:
    return x.relu().view(-1, 256)


def views_in_training(model: Foreign, x: Tensor) -> Tensor:
    return x.view(-1, 256) if model.training else x.flatten(1)


def reads_memory(_: Foreign, x: Tensor) -> Tensor:
    return x.as_strided((len(x), 256), (256, 1))


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(0, "images"))


@pytest.mark.parametrize("channels", [1, 3])
def test_only_the_order_in_memory_changes(channels: int) -> None:
    x = images(4, channels, 6, 5)
    there = channels_last(x)
    assert torch.equal(there, x)
    assert there.stride() == (30 * channels, 1, 5 * channels, channels)


@pytest.mark.parametrize("name", BUILT)
def test_a_model_says_and_learns_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, shape = BUILT[name]
    x = images(24, *shape)
    data = Split(x, torch.arange(24) % 10)
    found = []
    for last in (True, False):
        if not last:
            monkeypatch.setattr("fl_distill.learning.layout._CONVOLUTIONS", ())
        torch.manual_seed(0)
        model = make(shape, 10)
        strides: set[bool] = set()
        first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
        first.register_forward_pre_hook(lambda _, args, strides=strides: strides.add(args[0].stride(1) == 1))
        said = predict(model, x)
        fit(model, data, Settings(lr=0.01, batch_size=8, epochs=1.0), generator(0, "fit"))
        assert strides == {last}
        found.append((said, *(p.detach().clone() for p in model.parameters())))
        assert all(p.is_contiguous() for p in model.parameters())
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(
    ("between", "bears"), [(flattens, True), (views, False), (views_in_training, False), (reads_memory, False)]
)
def test_a_network_of_ones_own_is_tried_once_and_without_a_trace(between: Between, bears: bool) -> None:
    model, x = Foreign(between), images(12, 3, 8, 8)
    model.convolution.eval()
    torch.manual_seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    with torch.inference_mode():
        arranged = layout(model, x)(x)
    assert arranged.stride() == ((192, 1, 24, 3) if bears else (192, 64, 8, 1))
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before
    assert model.training
    assert not model.convolution.training
    assert model.seen == 0
    assert layout(nn.Sequential(model), x)(x).stride() == arranged.stride()
    fit(model, Split(x, torch.arange(12) % 10), Settings(batch_size=5, epochs=2.0), generator(0, "fit"))
    assert predict(model, x).shape == (12, 10)


def test_what_convolves_nothing_gets_images_as_they_are() -> None:
    x = images(4, 3, 8, 8)
    assert layout(models.mlp((3, 8, 8), 10), x)(x) is x
    assert layout(nn.Linear(3, 4), x[:, :, 0, 0])(x) is x
    assert layout(models.cnn((3, 8, 8), 10), x, "cuda")(x) is x
    assert layout(models.cnn((3, 8, 8), 10), x[:0])(x) is x
