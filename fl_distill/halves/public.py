"""Knowledge about public examples: FedMD and what descends from it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..client import Client
from ..data.types import Split
from ..errors import BadUpdate
from ..knowledge.public import FIXED, public_rows
from ..learning import Term, digest_loss, on_public, predict, taught, taught_target
from ..learning.losses import Loss
from ..learning.transfer import express
from ..task import Outcome, Task
from .leaving import lets_out
from .soft_labels import hear, say
from .transfer import study_stages


@lets_out("logits")
def mutual(client: Client, task: Task) -> Outcome:
    """Digest what is said of public examples, revisit the own data, say something of the next public examples.

    What arrives is `consensus` (n, C) and the `round` whose examples it speaks of; nothing does in the first round. A
    site that missed rounds, or that is new, digests the newest consensus like everybody else.
    """
    public, values = _public(client), task.values
    first = not client.recall(task)
    if first and values["pretrain-epochs"]:
        _check_labels(public)
        client.study(task, "pretrain", public, values["pretrain-epochs"], F.cross_entropy)
    loss, terms = _digest(client, task, public)
    metrics = client.train(task, loss=loss, terms=terms)
    client.keep(task)
    x = public.x[_rows(len(public), task, task.round)]
    said = predict(client.model, x, device=client.settings.device)
    if values["exchange"] == "probabilities":
        said = (said / values["digest-temperature"]).softmax(-1)
    tensors = {**say(client, task, said), **express(client.model, x, values["transfer-up"], client.settings.device)}
    if values["mask"]:
        tensors["known"] = torch.bincount(client.site.train.y, minlength=client.classes) > 0
    return client.answer(task, metrics, {str(values["exchange"]): tensors})


def _public(client: Client) -> Split:
    if client.public_set is None or not len(client.public_set):
        raise BadUpdate("there is no public set at this site; set public > 0, or public_dataset")
    return client.public_set


def _check_labels(public: Split) -> None:
    if bool((public.y < 0).any()):
        raise BadUpdate("the public set has no labels, which this strategy's settings ask for")


def _rows(total: int, task: Task, number: int) -> Tensor:
    """The public examples of a round: every site and round draws the same ones from the seed alone."""
    values = task.values
    of = number if values["fresh"] else FIXED
    return public_rows(total, int(values["public-examples"]), int(values["public-seed"]), of)


def _digest(client: Client, task: Task, public: Split) -> tuple[Loss, list[Term]]:
    """Learn from what arrived, before the local training or, as a term of its loss, together with it."""
    values = task.values
    rows = _rows(len(public), task, int(task.weights.get("round", torch.tensor(0))))
    heard = hear(client, task, len(rows))
    if heard is None or task.round <= int(values["warmup"]):
        return F.cross_entropy, []
    agreed = Split(public.x[rows], heard)
    study_stages(client, task, agreed.x, float(values["digest-epochs"]))
    alpha, temperature = float(values["hard"]), float(values["digest-temperature"])
    loss = digest_loss(str(values["digest-loss"]), temperature)
    if values["digest"] == "joint":
        batch, order = client.settings.batch_size, client.stream("digest", task)
        soft = on_public(agreed.x, heard, loss, batch, order, 1 - alpha)
        return (lambda logits, y: alpha * F.cross_entropy(logits, y)), [soft]
    if alpha > 0:
        _check_labels(public)
        agreed, loss = Split(agreed.x, taught_target(heard, public.y[rows])), taught(alpha, temperature)
    client.study(task, "digest", agreed, float(values["digest-epochs"]), loss)
    return F.cross_entropy, []
