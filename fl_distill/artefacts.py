"""`fl-distill export`: from the folder of a run to a file that runs elsewhere, and a table of what it costs."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .config.experiment import typed
from .errors import ConfigError
from .export import FORMATS, Measured, measured
from .files import load_tensors
from .quantize import PRECISIONS
from .targets import nearest
from .workplace import Workplace

CALIBRATION = 512
"""Examples on which ranges of activations and shifts of biases are measured, at most."""
DEFAULTS = {"run": "", "format": "onnx", "precision": "full", "model": "server", "out": "", "runs": "200"}

HELP = f"""\
usage: fl-distill export run=FOLDER [format=onnx] [precision=full] [model=server] [out=FILE] [runs=200]

Write a model of a run's models/ as float32 and at a precision; show size, accuracy on the test set and latency of both.

  run        the folder of a finished run
  format     {", ".join(FORMATS)}
  precision  {", ".join(PRECISIONS)}: int8, float16, or whichever of them suits each layer
  model      server, or the name of a site
  out        the file; beside it lies the float32 one
  runs       how often one example is timed
"""


@dataclass(frozen=True)
class Order:
    """What the command line asks for, checked."""

    run: Path
    config: Mapping[str, Any]
    format: str
    precision: str
    model: str
    out: Path
    runs: int


def export(arguments: Sequence[str], show: Callable[[str], None] = print) -> list[Measured]:
    """Write the model as float32 and at the precision asked for, measure both, and show them side by side."""
    order = _order(arguments)
    place = Workplace(typed(order.config), order.run)
    model = _model(place, order)
    calibration, test = _calibration(place), place.federation.test
    kind = FORMATS[order.format]
    found = []
    for precision, path in ((None, _float32(order)), (order.precision, order.out)):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            kind.write(model, precision, calibration, path)
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror or error}; set out=…") from error
        except Exception as error:  # a model of the user's own may fail to trace in any way
            reason = (str(error).splitlines() or [""])[0]
            raise ConfigError(f"{order.model} has no {order.format} form: {type(error).__name__}: {reason}") from error
        found.append(measured(path, kind.load(path), test, calibration[:1], order.runs))
    show(_table(order, found, len(test)))
    return found


# ------------------------------------------------------------ what is asked for


def _order(arguments: Sequence[str]) -> Order:
    given = {key: value for key, _, value in (text.partition("=") for text in arguments)}
    asked = DEFAULTS | given
    faults = [f"export {key}: no such setting{nearest(key, DEFAULTS)}" for key in given if key not in DEFAULTS]
    faults += _choice_faults(asked)
    run, config = Path(asked["run"]), {}
    if not asked["run"]:
        faults.append("export needs run=<run folder>, such as run=outputs/2026-01-31/12-00-00-000000")
    else:
        try:
            config = json.loads((run / "job.json").read_text(encoding="utf-8"))["config"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            faults.append(f"run={run} is no run folder: its job.json cannot be read ({error})")
        else:
            faults += _model_faults(run, asked["model"])
    if faults:
        raise ConfigError(faults)
    name = f"{asked['model']}-{asked['precision']}.{asked['format']}"
    out = Path(asked["out"]) if asked["out"] else run / "export" / name
    return Order(run, config, asked["format"], asked["precision"], asked["model"], out, int(asked["runs"]))


def _choice_faults(asked: Mapping[str, str]) -> list[str]:
    faults = [
        f"{key}={asked[key]}: choose {', '.join(choices)}"
        for key, choices in (("format", [*FORMATS]), ("precision", PRECISIONS))
        if asked[key] not in choices
    ]
    if not asked["runs"].isdecimal() or int(asked["runs"]) < 1:
        faults.append(f"runs must be a whole number >= 1, not {asked['runs']!r}")
    needs = FORMATS[asked["format"]].needs if asked["format"] in FORMATS else ()
    if absent := [name for name in needs if find_spec(name) is None]:
        faults.append(f"format={asked['format']} needs {', '.join(absent)}: pip install 'fl-distill[export]'")
    return faults


def _model_faults(run: Path, name: str) -> list[str]:
    held = sorted(path.stem for path in (run / "models").glob("*.safetensors"))
    if not held:
        return [f"run={run} holds no models yet: they are written when a run ends"]
    return [] if name in held else [f"model={name} is not in {run / 'models'}: choose {', '.join(held)} with model=…"]


def _float32(order: Order) -> Path:
    return order.out.with_name(f"{order.model}-float32.{order.format}")


# ------------------------------------------------------------ what there is


def _model(place: Workplace, order: Order) -> nn.Module:
    """The saved weights in the architecture that they fit: the one that their name suggests, else any of the run's."""
    path = order.run / "models" / f"{order.model}.safetensors"
    try:
        weights, _ = load_tensors(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if bad := [name for name, t in weights.items() if t.is_floating_point() and not t.isfinite().all()]:
        raise ConfigError(f"{path} holds numbers that are not finite in {bad[0]}: this model diverged")
    for name in _likely(place, order.model):
        model = place.fresh_model(name)
        if _shapes(model.state_dict()) == _shapes(weights):
            model.load_state_dict(weights)
            return model.eval()
    raise ConfigError(f"the tensors of {path} fit none of the run's models: {', '.join(_likely(place, order.model))}")


def _likely(place: Workplace, stem: str) -> list[str]:
    names = place.federation.names
    first = [place.model_name(names.index(stem))] if stem in names else [stem.partition("-")[2], place.server_model]
    known = place.experiment.raw["model_specs"]
    return list(dict.fromkeys(name for name in (*first, place.model_name(0), *known) if name in known))


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _calibration(place: Workplace) -> Tensor:
    """Rows that no site trains on and no score is taken on: the public set, else the sites' validation parts."""
    data = place.federation
    rows = data.public.x
    if not len(rows):
        rows = torch.cat([data.site(index).validation.x for index in range(len(data))])
    if not len(rows):
        raise ConfigError("nothing to calibrate on: the run had neither a public set nor validation data")
    return rows[:: -(-len(rows) // CALIBRATION)]


# ------------------------------------------------------------ what is shown


def _table(order: Order, found: Sequence[Measured], examples: int) -> str:
    head = ("file", "accuracy", "bytes", "size", "ms for one example")
    base = found[0].size
    rows = [
        (str(m.path), f"{100 * m.accuracy:.2f} %", f"{m.size:,}", f"{m.size / base:.2f}", f"{m.latency_ms:.3f}")
        for m in found
    ]
    widths = [max(len(row[at]) for row in (head, *rows)) for at in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
    note = f"accuracy on {examples} shared test examples; median of {order.runs} runs on {_threads()}"
    return "\n".join([*(line.rstrip() for line in lines), note])


def _threads() -> str:
    count = torch.get_num_threads()
    return f"{count} thread{'s' * (count > 1)}"
