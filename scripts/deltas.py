"""Record what one site changes in its model in one round of local training, for tests and comparisons of codecs.

    FL_DISTILL_DATA=data python scripts/deltas.py FOLDER [small] [NAME ...]

writes FOLDER/deltas-NAME.safetensors, tensor by tensor as in the model: floating weights and running statistics after
the round less those before it. Without names all of `RUNS`; `small` leaves out the statistics, and writes float16.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fl_distill.config.compose import composed
from fl_distill.data import federate
from fl_distill.files import save_tensors
from fl_distill.learning import Settings, fit
from fl_distill.models.build import build
from fl_distill.seeds import derive, generator
from fl_distill.targets import call


@dataclass(frozen=True)
class Run:
    """The configuration of one round; choices as on the command line."""

    dataset: str
    model: str
    settings: Settings
    sites: int


RUNS = {
    "digits-sgd": Run("digits", "cnn", Settings(lr=0.05, epochs=2), 10),
    "mnist-sgd": Run("mnist", "lenet", Settings(lr=0.02, epochs=1), 20),
    "mnist-adam": Run("mnist", "lenet", Settings("adam", lr=1e-3, epochs=1), 20),
    "cifar10-sgd": Run("cifar10", "resnet8", Settings(lr=0.05, epochs=1), 20),
    "cifar10-adam": Run("cifar10", "resnet8", Settings("adam", lr=1e-3, epochs=1), 20),
}


def delta(run: Run, seed: int = 0) -> dict[str, Tensor]:
    """What the first site's round changes in each floating tensor of its model."""
    config = composed([f"dataset={run.dataset}", f"model={run.model}", "partition=dirichlet"])[0]
    parts = {"validation": 0.0, "test": 0.0, "public": 0.0}
    dealt = federate(call(config["dataset"]).load(), call(config["partition"]), sites=run.sites, seed=seed, **parts)
    model = build(config["model"], dealt.input_shape, len(dealt.classes), derive(seed, "model"))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    augment = dealt.augment or None
    fit(model, dealt.site(0).train, run.settings, generator(seed, "fit"), augment=augment)
    after = model.state_dict()
    return {name: after[name] - tensor for name, tensor in before.items() if tensor.is_floating_point()}


def main(arguments: list[str]) -> int:
    names = [name for name in arguments[1:] if name != "small"]
    if not arguments or {*names} - RUNS.keys():
        print(f"usage: python scripts/deltas.py FOLDER [small] [{' '.join(RUNS)}]", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    for name in names or RUNS:
        found = delta(RUNS[name])
        if "small" in arguments[1:]:
            found = {name: t.half() for name, t in found.items() if "running" not in name}
        path = Path(arguments[0]) / f"deltas-{name}.safetensors"
        save_tensors(path, found, {"run": str(RUNS[name])})
        print(f"{path}: {sum(t.numel() for t in found.values())} numbers in {len(found)} tensors")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
