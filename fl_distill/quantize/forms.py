"""Which form each parameter of a model takes at a precision."""

from torch import Tensor, nn

PRECISIONS = ("full", "half", "mixed")

_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


def forms(model: nn.Module, precision: str) -> dict[str, str]:
    """Name of each parameter that changes -> `int8` or `half`; buffers and whatever is not named stay as they are.

    `full`: int8 for all with two dimensions or more; biases stay float32. `half`: float16 for all. `mixed`: int8 for
    the weights between the first and the last layer, float16 for those two, for normalisation and for all the rest.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is one of {', '.join(PRECISIONS)}, not {precision!r}")
    floating = {name: p for name, p in model.named_parameters() if p.is_floating_point()}
    if precision == "half":
        return dict.fromkeys(floating, "half")
    if precision == "full":
        return {name: "int8" for name, p in floating.items() if p.dim() > 1}
    inner = _inner(model)
    return {name: "int8" if p.dim() > 1 and name in inner else "half" for name, p in floating.items()}


def _inner(model: nn.Module) -> set[str]:
    """The weights of all layers but the first and the last, in the order in which the model names them."""
    layers: list[list[str]] = []
    for path, module in model.named_modules():
        own = [] if isinstance(module, _NORMS) else [n for n, p in module.named_parameters(path, False) if _is(n, p)]
        layers += [own] if own else []
    return {name for own in layers[1:-1] for name in own}


def _is(name: str, parameter: Tensor) -> bool:
    """Whether a parameter multiplies what a layer is given: learned positions and tokens do not."""
    return parameter.dim() > 1 and "weight" in name.rpartition(".")[2]
