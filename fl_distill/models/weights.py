"""Start a model from a local safetensors file."""

from pathlib import Path

from torch import Tensor

from fl_distill.errors import ConfigError
from fl_distill.models.classifier import Classifier


def load_weights(model: Classifier, head_path: str, adapted: list[str], weights: str | None) -> Classifier:
    """`model` with the tensors of the file `weights` (None: as initialised).

    The file's names are the model's own (`body.*`, `head.*`), or those of the model it was made from, whose
    last layer was called `head_path`. The head and the body's tensors in `adapted` keep their initial values
    where their shapes differ (other classes, channels, image size); any other missing, additional or misshapen
    tensor is a ConfigError.
    """
    if weights is None:
        return model
    held = {_own_name(name, head_path): tensor for name, tensor in _read(weights).items()}
    own = model.state_dict()
    adaptable = {"head.weight", "head.bias", *(f"body.{name}" for name in adapted)}
    skipped = {name for name in adaptable & held.keys() & own.keys() if held[name].shape != own[name].shape}
    faults = [f"{name} is missing" for name in own.keys() - held.keys() if "num_batches_tracked" not in name]
    faults += [f"{name} is not part of the model" for name in held.keys() - own.keys()]
    faults += [
        f"{name} has shape {tuple(held[name].shape)}, the model's is {tuple(own[name].shape)}"
        for name in (held.keys() & own.keys()) - skipped
        if held[name].shape != own[name].shape
    ]
    if faults:
        raise ConfigError(
            f"weights={weights} do not fit the model: {'; '.join(sorted(faults)[:5])} ({len(faults)} in all)"
        )
    model.load_state_dict({name: held[name] for name in held.keys() - skipped}, strict=False)
    return model


def _own_name(name: str, head_path: str) -> str:
    if name.startswith(("body.", "head.")):
        return name
    if name.startswith(f"{head_path}."):
        return f"head.{name.removeprefix(f'{head_path}.')}"
    return f"body.{name}"


def _read(weights: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(weights).expanduser()
    if not path.is_file():
        raise ConfigError(f"weights={weights} is not a file: name a local .safetensors file, or leave it null")
    try:
        return load_file(path, device="cpu")
    except SafetensorError as error:
        raise ConfigError(f"weights={weights} is not a readable safetensors file ({error})") from error
