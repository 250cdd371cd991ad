"""FedGKT's site half: features and logits of the site's own examples go up, the large network's logits come back."""

import torch

from ..client import Client
from ..codec import narrowed
from ..data.types import Split
from ..errors import BadUpdate
from ..learning import predict, taught, taught_target
from ..models.views import WithFeatures
from ..task import Outcome, Task
from .leaving import lets_out


@lets_out("features", "logits")
def split(client: Client, task: Task) -> Outcome:
    """Train on labels and, once it is there, on what the server's network says of the same examples; then show them.

    What leaves is more than any other method's: for every training example its features, its logits and its label.
    """
    client.recall(task)
    train, values = client.site.train, task.values
    if "logits" in task.weights:
        taught_by = task.weights["logits"].float()
        if taught_by.shape != (len(train), client.classes):
            raise BadUpdate(f"logits arrived as {list(taught_by.shape)}, expected [{len(train)}, {client.classes}]")
        data = Split(train.x, taught_target(taught_by, train.y))
        metrics = client.train(task, data=data, loss=taught(float(values["hard"]), float(values["temperature"])))
    else:
        metrics = client.train(task)
    client.keep(task)
    both = predict(WithFeatures(client.model), train.x, device=client.settings.device)
    shown = narrowed(both, 16)
    tensors = {
        "logits": shown[:, : client.classes].contiguous(),
        "features": shown[:, client.classes :].contiguous(),
        "labels": train.y.to(torch.int16),
    }
    return client.answer(task, metrics, {"examples": tensors})
