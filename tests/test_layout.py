"""Images channels last: the same results, for every model that can bear it."""

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


class Viewing(nn.Module):
    """What many a tutorial shows: `view` asks for memory in the order of the dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Linear(4 * 8 * 8, 10)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            torch.rand(1)
        return self.head(self.convolution(x).relu().view(-1, 4 * 8 * 8))


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
        torch.manual_seed(0)
        model = make(shape, 10)
        if not last:
            monkeypatch.setattr("fl_distill.learning.layout._CONVOLUTIONS", ())
        said = predict(model, x)
        fit(model, data, Settings(lr=0.01, batch_size=8, epochs=1.0), generator(0, "fit"))
        found.append((said, *(p.detach().clone() for p in model.parameters())))
        assert all(p.is_contiguous() for p in model.parameters())
    assert any(not torch.equal(one, other) for one, other in zip(*found, strict=True)) or name == "vit"
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_a_forward_that_cannot_bear_it_gets_images_as_they_are() -> None:
    model, x = Viewing(), images(12, 3, 8, 8)
    with pytest.raises(RuntimeError, match="view"):
        model(channels_last(x))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert layout(model, x)(x) is x
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    fit(model, Split(x, torch.arange(12) % 10), Settings(batch_size=5, epochs=2.0), generator(0, "fit"))
    assert predict(model, x).shape == (12, 10)


def test_what_convolves_nothing_gets_images_as_they_are() -> None:
    x = images(4, 3, 8, 8)
    assert layout(models.mlp((3, 8, 8), 10), x)(x) is x
    assert layout(nn.Linear(3, 4), x[:, :, 0, 0])(x) is x
    assert layout(models.cnn((3, 8, 8), 10), x, "cuda")(x) is x
    assert layout(models.cnn((3, 8, 8), 10), x[:0])(x) is x
