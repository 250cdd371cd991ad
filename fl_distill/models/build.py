"""From a configuration to a model, with initial weights from a seed of its own."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fl_distill.errors import ConfigError
from fl_distill.models.conv2d import own_convolutions
from fl_distill.models.projected import projected
from fl_distill.targets import TARGET, resolve

# Weights are drawn from torch's global CPU generator: two threads that build at once would mix their streams.
_SEEDED = threading.RLock()
_GIVEN = ("input_shape", "classes")


def build(
    spec: Mapping[str, Any],
    input_shape: tuple[int, ...],
    classes: int,
    generator_seed: int,
    feature_width: int | None = None,
) -> nn.Module:
    """The model that `spec` describes, with initial weights that depend on `generator_seed` alone.

    `spec` holds `_target_`, the import path of a builder (`fl_distill.models.mlp`, or a user's own function
    or class), and its parameters; the builder is called as `builder(input_shape, classes, **params)`. The
    caller's random state is left as it was. `feature_width` projects the features to that width. ConfigError
    names an unknown builder or parameter, and what the builder says against the values.
    """
    builder, params = resolve(spec, _GIVEN)
    with _SEEDED, torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(generator_seed)
        model = _call(spec[TARGET], builder, tuple(input_shape), classes, params)
        if feature_width is not None:
            model = _widened(spec[TARGET], model, feature_width, classes, input_shape)
        return own_convolutions(model)


def _widened(target: str, model: nn.Module, width: int, classes: int, input_shape: tuple[int, ...]) -> nn.Module:
    try:
        return projected(model, width, classes, tuple(input_shape))
    except ValueError as error:
        raise ConfigError(f"model {target}: {error}") from error


def faults(
    spec: Mapping[str, Any],
    input_shape: tuple[int, ...] | None = None,
    classes: int | None = None,
    feature_width: int | None = None,
) -> list[str]:
    """Every reason why `spec` cannot be built and score a batch, one sentence each.

    Where shape or classes are not known yet, only the builder's path and the names of its parameters are checked.
    """
    try:
        if input_shape is None or classes is None:
            resolve(spec, _GIVEN)
        else:
            model = build(spec, input_shape, classes, 0, feature_width)
            _check_scores(spec[TARGET], model, tuple(input_shape), classes)
    except ConfigError as error:
        return error.faults
    return []


def _call(
    target: str, builder: Callable[..., Any], input_shape: tuple[int, ...], classes: int, params: Mapping[str, Any]
) -> nn.Module:
    try:
        model = builder(input_shape, classes, **params)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"model {target}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model {target} must return a torch.nn.Module, got {type(model).__name__}")
    return model


def _check_scores(target: str, model: nn.Module, input_shape: tuple[int, ...], classes: int) -> None:
    """Score two examples; raise ConfigError unless that works and the scores have the shape (2, classes)."""
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            seen = model.eval()(torch.zeros(2, *input_shape))
    except Exception as error:  # a user's model may fail in any way
        raise ConfigError(f"model {target} fails on its first batch: {type(error).__name__}: {error}") from error
    expected = (2, classes)
    if not isinstance(seen, Tensor) or tuple(seen.shape) != expected:
        got = tuple(seen.shape) if isinstance(seen, Tensor) else type(seen).__name__
        raise ConfigError(f"model {target} must give scores of shape {expected} for two examples, got {got}")
