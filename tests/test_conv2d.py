"""Convolutions that are linear where one pixel is left: the same numbers, and only there."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fl_distill.learning import Settings
from fl_distill.learning.together import can_be_stacked
from fl_distill.models.build import build
from fl_distill.models.conv2d import Conv2d, own_convolutions
from fl_distill.seeds import generator

SMALL = st.integers(1, 4)


def watched(convolution: nn.Conv2d) -> nn.Module:
    return own_convolutions(copy.deepcopy(convolution))


def gradients(module: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """What comes out, and the gradients of its squares' sum for the input and each parameter."""
    x = x.clone().requires_grad_()
    out = module(x)
    return [out.detach(), *torch.autograd.grad(out.square().sum(), [x, *module.parameters()])]


def linear_calls(module: nn.Module, x: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> int:
    calls, linear = [], nn.functional.linear
    monkeypatch.setattr("fl_distill.models.conv2d.F.linear", lambda *args: calls.append(args) or linear(*args))
    module(x)
    return len(calls)


@given(
    size=st.tuples(SMALL, SMALL),
    kernel=st.tuples(SMALL, SMALL),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    stride=st.tuples(SMALL, SMALL),
    dilation=st.sampled_from([1, 1, 1, 2]),
    bias=st.booleans(),
    last=st.booleans(),
)
def test_nothing_else_comes_out(
    size: tuple[int, int],
    kernel: tuple[int, int],
    padding: tuple[int, int],
    stride: tuple[int, int],
    dilation: int,
    bias: bool,
    last: bool,
) -> None:
    plain = nn.Conv2d(2, 3, kernel, stride, padding, dilation, bias=bias, dtype=torch.float64)
    x = torch.randn(2, 2, *size, dtype=torch.float64, generator=generator(0, "x"))
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    try:
        wanted = gradients(plain, x)
    except RuntimeError as error:  # the kernel is larger than the image
        with pytest.raises(RuntimeError, match=str(error)[:20]):
            gradients(watched(plain), x)
        return
    for found, expected in zip(gradients(watched(plain), x), wanted, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("convolution", "size", "examples", "calls"),
    [
        (nn.Conv2d(2, 3, 3, padding=1), 1, 2, 1),
        (nn.Conv2d(2, 3, 3, stride=2, padding=1), 2, 2, 1),
        (nn.Conv2d(2, 3, 4), 4, 2, 1),
        (nn.Conv2d(2, 3, 3, stride=3, padding=1), 3, 2, 1),
        (nn.Conv2d(2, 3, 1), 1, 2, 1),
        (nn.Conv2d(2, 3, 3, padding=1), 1, 1, 0),
        (nn.Conv2d(2, 3, 3, padding=1), 2, 2, 0),
        (nn.Conv2d(2, 3, 3, stride=2, padding=1), 3, 2, 0),
        (nn.Conv2d(2, 2, 3, padding=1, groups=2), 1, 2, 0),
        (nn.Conv2d(2, 3, 3, padding=1, padding_mode="replicate"), 1, 2, 0),
        (nn.Conv2d(2, 3, 3, padding="same"), 1, 2, 0),
    ],
)
def test_it_is_linear_where_one_pixel_is_left(
    convolution: nn.Conv2d, size: int, examples: int, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(examples, 2, size, size)
    assert linear_calls(watched(convolution), x, monkeypatch) == calls
    torch.testing.assert_close(watched(convolution)(x), convolution(x))


@pytest.mark.parametrize("outputs", [6, 8])
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
@pytest.mark.parametrize("shape", [(5, 2, 3, 6, 7), (5, 3, 6, 7)])
def test_nothing_else_comes_out_of_a_stack(shape: tuple[int, ...], padding_mode: str, outputs: int) -> None:
    plain = nn.Conv2d(3, outputs, 3, padding=1, padding_mode=padding_mode, dtype=torch.float64)
    own, x = watched(plain), torch.randn(*shape, dtype=torch.float64)
    weights = {name: torch.stack([p * at for at in range(5)]) for name, p in plain.state_dict().items()}

    def said(module: nn.Module) -> torch.Tensor:
        return torch.func.vmap(lambda w, one: torch.func.functional_call(module, w, (one,)))(weights, x)

    torch.testing.assert_close(said(own), said(plain))


def test_models_that_are_built_have_them() -> None:
    model = build({"_target_": "fl_distill.models.resnet8"}, (3, 8, 8), 10, 0)
    kinds = {type(module) for module in model.modules() if isinstance(module, nn.Conv2d)}
    assert kinds == {Conv2d}
    assert can_be_stacked(build({"_target_": "fl_distill.models.cnn"}, (1, 8, 8), 10, 0), Settings())


def test_users_own_kinds_of_convolution_stay_theirs() -> None:
    class Mine(nn.Conv2d):
        pass

    assert type(watched(Mine(1, 1, 1))) is Mine


def test_an_export_holds_convolutions() -> None:
    program = torch.export.export(watched(nn.Conv2d(2, 3, 3, padding=1)).eval(), (torch.zeros(2, 2, 1, 1),))
    assert any("conv2d" in str(node.target) for node in program.graph.nodes)
