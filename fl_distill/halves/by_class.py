"""Knowledge without public data: what a site says, or sees, of its own examples, on average over each class."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..client import Client
from ..codec import narrowed
from ..errors import BadUpdate
from ..knowledge import class_means
from ..learning import class_target_loss, predict, prototype_loss
from ..learning.losses import Loss
from ..models.views import ByPrototype, WithFeatures
from ..task import Outcome, Task
from .leaving import lets_out

Targets = tuple[Tensor, Tensor]


@lets_out("class_means")
def by_class(client: Client, task: Task) -> Outcome:
    """FD, FedProto: train with a pull towards the others' class means, then say one's own.

    What arrives is `targets` (C, D) and `known` (C,): which classes have one; nothing does in the first round. Means
    are of softmax outputs (`probabilities`) or of `features`; a class without examples has count 0.
    """
    client.recall(task)
    told = _targets(task)
    features = task.values["exchange"] == "features"
    if told is None:
        metrics = client.train(task)
    elif features:
        metrics = client.train(task, model=WithFeatures(client.model), loss=_to_prototypes(client, task, told))
    else:
        metrics = client.train(task, loss=_to_class_means(task, told))
    client.keep(task)
    means, counts = _means(client, features)
    said = {"means": narrowed(means, int(task.values["bits"])), "counts": counts.to(torch.int32)}
    return client.answer(task, metrics, {str(task.values["exchange"]): said}, _judge(client, task, told))


def _targets(task: Task) -> Targets | None:
    if "targets" not in task.weights or not task.weights["known"].any():
        return None
    return task.weights["targets"].float(), task.weights["known"]


def _to_class_means(task: Task, told: Targets) -> Loss:
    strength = float(task.values["strength"])

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        targets, known = (part.to(logits.device) for part in told)
        return F.cross_entropy(logits, y) + class_target_loss(logits, y, targets, known, strength)

    return loss


def _to_prototypes(client: Client, task: Task, told: Targets) -> Loss:
    strength, classes = float(task.values["strength"]), client.classes

    def loss(both: Tensor, y: Tensor) -> Tensor:
        logits, features = both[:, :classes], both[:, classes:]
        prototypes, known = (part.to(both.device) for part in told)
        if features.shape[1] != prototypes.shape[1]:
            raise BadUpdate(f"prototypes have {prototypes.shape[1]} values, this model's features {features.shape[1]}")
        return F.cross_entropy(logits, y) + prototype_loss(features, y, prototypes, known, strength)

    return loss


def _means(client: Client, features: bool) -> Targets:
    train, device = client.site.train, client.settings.device
    if features:
        seen = predict(WithFeatures(client.model), train.x, device=device)[:, client.classes :]
    else:
        seen = predict(client.model, train.x, device=device).softmax(-1)
    means, counts = class_means(seen, train.y, client.classes)
    few = counts < client.least
    return means.masked_fill(few[:, None], 0.0), counts.masked_fill(few, 0)


def _judge(client: Client, task: Task, told: Targets | None) -> nn.Module | None:
    """The model that scores are of, where it is not the classifier itself."""
    if told is None or task.values.get("predict") != "prototype":
        return None
    return ByPrototype(client.model, *told)
