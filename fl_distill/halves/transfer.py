"""A site learns stage by stage from what a teacher's inner layers showed: shallow layers first, then deep ones."""

import torch
from torch import Tensor, nn

from ..client import Client
from ..data.types import Split
from ..errors import BadUpdate
from ..learning import mean_squared
from ..learning.losses import attention_distance
from ..learning.transfer import DEEP, FEATURES, SHALLOW, Attending, Projecting, shows_maps
from ..seeds import derive, seed_torch
from ..task import Task


def study_stages(client: Client, task: Task, x: Tensor, epochs: float) -> None:
    """Learn each stage that arrived with the consensus, `epochs` passes over its examples `x` each."""
    arrived = {name: tensor for name, tensor in task.weights.items() if name in (SHALLOW, DEEP, FEATURES)}
    for name, tensor in arrived.items():
        if len(tensor) != len(x) or tensor.dim() != 2:
            raise BadUpdate(f"{name!r} arrived as {list(tensor.shape)}, expected {len(x)} rows")
    if (SHALLOW in arrived or DEEP in arrived) and shows_maps(client.model, x, client.settings.device):
        for name in (SHALLOW, DEEP):
            if name in arrived:
                view = Attending(client.model, deep=name == DEEP)
                client.study(task, name, Split(x, arrived[name].float()), epochs, attention_distance, view)
    if FEATURES in arrived:
        _study_features(client, task, Split(x, arrived[FEATURES].float()), epochs)


def _study_features(client: Client, task: Task, data: Split, epochs: float) -> None:
    """Features of another width are met through a linear map that the site keeps and trains along."""
    with torch.inference_mode():
        seen = client.model.eval().features(data.x[:1].to(client.settings.device))  # type: ignore[operator]
    memory = client.memory("bridge")
    bridge = nn.Linear(seen.shape[1], data.y.shape[1])
    held = memory.load(before=task.round)
    with torch.random.fork_rng(devices=[]):
        seed_torch(derive(client.seed, "bridge", client.site.name))
        bridge.reset_parameters()
    if held is not None and held["weight"].shape == bridge.weight.shape:
        bridge.load_state_dict(held)
    view = Projecting(client.model, bridge.to(client.settings.device))
    client.study(task, FEATURES, data, epochs, mean_squared, view)
    memory.save(task.round, bridge.state_dict(), task.needed_from)
