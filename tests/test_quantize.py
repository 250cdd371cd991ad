"""Quantized weights: the grid, folding, bias correction, training for it; then whole runs."""

import copy
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fl_distill import models
from fl_distill.data.types import Split
from fl_distill.learning import Settings, evaluate, fit, proximal, trainable
from fl_distill.quantize import PRECISIONS, Stored, folded, forms, quantize_, rounded, rounded_weights, to_half, to_int8

from .conftest import Launch, same

MODELS = ("mlp", "lenet", "cnn", "gru", "vit", "resnet8")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def warmed(name: str, seed: int = 0) -> nn.Module:
    """A model whose running statistics are not those of a fresh one."""
    torch.manual_seed(seed)
    model: nn.Module = getattr(models, name)((1, 8, 8), 10)
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.randn(32, 1, 8, 8) * 2 + 0.5)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(torch.randn(module.num_features))  # some below zero
                module.bias.copy_(torch.randn(module.num_features))
    return model.eval()


def images(count: int = 64, seed: int = 1) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- one tensor


@given(st.integers(0, 2**31), st.sampled_from([(5, 7), (4, 3, 3, 3), (1, 6), (12, 1), (2, 3, 4)]))
def test_int8_is_the_nearest_point_of_each_channels_own_grid(seed: int, shape: tuple[int, ...]) -> None:
    drawn = np.random.default_rng(seed)
    exact = drawn.normal(size=shape) * drawn.lognormal(sigma=3, size=(shape[0], *[1] * (len(shape) - 1)))
    codes, scale = to_int8(torch.tensor(exact, dtype=torch.float64))
    assert codes.dtype == torch.int8
    for channel in range(shape[0]):
        step = np.abs(exact[channel]).max() / 127
        grid = np.arange(-127, 128) * step
        nearest = np.abs(exact[channel][..., None] - grid).min(-1)
        found = np.abs(exact[channel] - codes[channel].numpy() * float(scale[channel].flatten()[0]))
        np.testing.assert_allclose(found, nearest, rtol=0, atol=1e-9 * step * 127)
    np.testing.assert_array_equal(rounded(torch.tensor(exact), "int8"), codes * scale)


def test_a_channel_of_zeros_stays_zero_and_rounding_twice_is_rounding_once() -> None:
    weight = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    weight[2] = 0
    once = rounded(weight, "int8")
    assert once[2].eq(0).all()
    assert torch.equal(to_int8(once)[0], to_int8(weight)[0])


def test_half_stays_finite_and_what_is_not_finite_has_no_code() -> None:
    assert to_half(torch.tensor([1e6, -1e6, 0.1])).isfinite().all()
    assert rounded(torch.tensor([[math.nan, 1.0]]), "int8").isnan().any()  # the loss will say that training diverged
    with pytest.raises(ValueError, match="not finite"):
        to_int8(torch.tensor([[math.nan, 1.0]]))


# ---------------------------------------------------------------- which form


def test_each_precision_takes_the_parameters_it_should() -> None:
    model = models.lenet((1, 8, 8), 10)
    names = {name for name, _ in model.named_parameters()}
    assert forms(model, "half") == dict.fromkeys(names, "half")
    assert forms(model, "full") == {name: "int8" for name in names if name.endswith("weight")}
    mixed = forms(model, "mixed")
    assert mixed.keys() == names
    assert {n for n, f in mixed.items() if f == "int8"} == {"body.3.weight", "body.7.weight", "body.9.weight"}
    with pytest.raises(ValueError, match="precision is one of full, half, mixed, not 'int4'"):
        forms(model, "int4")


def test_packed_attention_recurrent_weights_and_positions_are_found() -> None:
    attention = nn.Sequential(nn.Linear(4, 4), nn.MultiheadAttention(4, 2), nn.Linear(4, 4))
    assert forms(attention, "mixed")["1.in_proj_weight"] == "int8"
    assert {"body.1.gru.weight_ih_l0", "body.1.gru.weight_hh_l0"} < forms(models.gru((1, 8, 8), 10), "full").keys()
    vit = models.vit((1, 8, 8), 10)
    assert forms(vit, "full")["body.0.positions"] == "int8"
    mixed = forms(vit, "mixed")
    assert {mixed[name] for name in ("body.0.positions", "body.0.project.weight", "head.weight")} == {"half"}
    assert mixed["body.1.attend.1.out.weight"] == "int8"


# ---------------------------------------------------------------- folding


def test_a_folded_convolution_is_the_formula_in_float64() -> None:
    model = warmed("resnet8").double()
    weight, norm = model.body[0].weight.detach().numpy(), model.body[1]  # type: ignore[index, union-attr]
    gain = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach().numpy()
    conv = folded(model, images(4).double()).body[0]  # type: ignore[index]
    np.testing.assert_allclose(conv.weight.detach().numpy(), weight * gain[:, None, None, None], rtol=1e-12)
    expected = norm.bias.detach().numpy() - norm.running_mean.numpy() * gain
    np.testing.assert_allclose(conv.bias.detach().numpy(), expected, rtol=1e-12)


def test_a_folded_model_says_the_same_and_has_no_batchnorm() -> None:
    model = warmed("resnet8")
    small = folded(model, images(4))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in small.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    torch.testing.assert_close(small(images()), model(images()), rtol=1e-5, atol=1e-5)


class Tangled(nn.Module):
    """Neighbours by structure, but the convolution's output is used a second time."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.conv(x)
        scores: Tensor = self.out((self.norm(seen) + seen).mean((2, 3)))
        return scores


def test_a_pair_that_is_no_pair_stays() -> None:
    torch.manual_seed(0)
    model = Tangled()
    model.train()(images() * 3 + 2)
    kept = folded(model, images(4))
    assert isinstance(kept.norm, nn.BatchNorm2d)
    torch.testing.assert_close(kept(images()), model.eval()(images()))


def test_folding_what_was_rounded_is_rounding_what_was_folded() -> None:
    a = warmed("resnet8")
    b = folded(a, images(4))
    quantize_(a, "full", images())
    quantize_(b, "full", images())
    torch.testing.assert_close(a(images()), b(images()), rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------- bias correction


@pytest.mark.parametrize("name", MODELS)
def test_correction_lowers_the_error_of_the_mean_output(name: str) -> None:
    plain, errors = warmed(name), []
    for calibration in (images(), images(0)):
        model = copy.deepcopy(plain)
        quantize_(model, "full", calibration)
        assert model.state_dict().keys() == plain.state_dict().keys()
        with torch.no_grad():
            errors.append(float((model(images()) - plain(images())).mean(0).norm()))
    assert errors[0] < (1.0 if name == "gru" else 0.6) * errors[1]  # a recurrent layer keeps its biases


def test_the_correction_is_the_shift_of_the_mean_in_float64() -> None:
    torch.manual_seed(0)
    layer, x = nn.Conv2d(3, 5, 3, stride=2, padding=1).double(), torch.rand(20, 3, 9, 9, dtype=torch.float64)
    model = nn.Sequential(copy.deepcopy(layer))
    quantize_(model, "full", x)
    weight = rounded(layer.weight.detach(), "int8")
    shift = (F.conv2d(x, weight - layer.weight, stride=2, padding=1)).mean((0, 2, 3))
    torch.testing.assert_close(model[0].bias, (layer.bias - shift).detach(), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(model(x).mean((0, 2, 3)), layer(x).mean((0, 2, 3)), rtol=1e-12, atol=1e-12)


def test_without_a_bias_the_normalisation_takes_the_shift() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 6, 3, bias=False), nn.BatchNorm2d(6)).eval()
    plain = copy.deepcopy(model)
    quantize_(model, "full", images())
    assert not torch.equal(model[1].running_mean, plain[1].running_mean)
    torch.testing.assert_close(model(images()).mean((0, 2, 3)), plain(images()).mean((0, 2, 3)), rtol=0, atol=1e-6)


# ---------------------------------------------------------------- whole models


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_stored_small_a_model_says_what_its_rounded_form_says(name: str, precision: str) -> None:
    model = warmed(name)
    exact = model(images()).detach()
    quantize_(model, precision, images())
    stored = Stored(model, precision)
    held = sum(t.numel() * t.element_size() for t in stored.state_dict().values())
    assert held < (0.45 if precision == "full" else 0.55) * sum(4 * p.numel() for p in model.parameters())
    torch.testing.assert_close(stored(images()), model(images()), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model(images()), exact, rtol=0, atol=0.05 * float(exact.abs().max()))


def test_gradients_are_those_at_the_rounded_weights_and_weights_come_back() -> None:
    model, x = models.cnn((1, 8, 8), 10), images()
    before = copy.deepcopy(model.state_dict())
    twin = copy.deepcopy(model)
    quantize_(twin, "full", x[:0])
    with rounded_weights(model, forms(model, "full")):
        assert same(model.state_dict(), twin.state_dict())
        grads = torch.autograd.grad(model(x).square().sum(), trainable(model))
    assert same(model.state_dict(), before)
    for grad, expected in zip(grads, torch.autograd.grad(twin(x).square().sum(), trainable(twin)), strict=True):
        torch.testing.assert_close(grad, expected)
    with pytest.raises(RuntimeError, match="stop"), rounded_weights(model, forms(model, "full")):
        raise RuntimeError("stop")
    assert same(model.state_dict(), before)


@pytest.mark.parametrize("name", MODELS)
def test_training_aware_of_rounding_learns(name: str) -> None:
    x, y = images(96), torch.arange(96) % 2
    data = Split(x + y.view(-1, 1, 1, 1) * torch.linspace(-1, 1, 8), y)
    model = warmed(name)
    settings = Settings(lr=0.03, epochs=20, quantization_aware=True)
    terms = [proximal(1e-4, trainable(model))]
    fit(model, data, settings, torch.Generator().manual_seed(0), terms=terms)
    quantize_(model, "full", x[:0])
    assert evaluate(model, data).accuracy > 0.9


# ---------------------------------------------------------------- runs


def test_a_run_of_int8_models_learns_and_sites_score_what_they_run(launch: Launch) -> None:
    settings = ("rounds=4", "local.epochs=3", "strategy=fedprox", "evaluate.separately=true")
    plain = launch(*settings)
    small = launch(*settings, "quantized_model=full", "local.quantization_aware=true")
    assert small.summary["local_accuracy"] > 0.85
    assert small.summary["server_accuracy"] > 0.85
    assert not same(small.weights(), plain.weights())
    assert {n: t.shape for n, t in small.weights().items()} == {n: t.shape for n, t in plain.weights().items()}


@pytest.mark.parametrize("strategy", ["fedavg", "fedsgd"])
def test_sites_start_from_the_rounded_weights(launch: Launch, strategy: str) -> None:
    few = (f"strategy={strategy}", "rounds=1", "local.steps=1")
    a, b = (launch(*few, f"quantized_model={form}").weights()["body.0.weight"] for form in ("null", "full"))
    assert not torch.equal(a, b)
    torch.testing.assert_close(a, b, rtol=0, atol=1e-2)


def test_faults_are_sentences(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    launch("quantized_model=int4", "local.quantization_aware=3", code=2)
    told = capsys.readouterr().err
    assert "quantized_model is one of full, half, mixed, or null, not 'int4'" in told
    assert "quantization_aware must be true or false" in told
    launch("strategy=fedmd", "quantized_model=half", code=2)
    assert "quantized_model has no effect: with strategy=fedmd sites receive no model" in capsys.readouterr().err
