"""Algorithms that exchange weights: train what arrived, and return it or its gradient."""

from ..client import Client
from ..learning import full_gradient
from ..task import Outcome, Scalars, Task
from .leaving import lets_out


@lets_out("weights")
def averaged(client: Client, task: Task) -> Outcome:
    """FedAvg, FedProx, FedDF: train the weights that arrived and return them."""
    scores: Scalars = {}
    if task.score:
        client.receive(task.weights)
        scores = client.scores()
    metrics, learned = client.improved(task, loaded=task.score)
    return Outcome({**metrics, **scores}, {"arrays": learned})


@lets_out("weights")
def gradient(client: Client, task: Task) -> Outcome:
    """FedSGD: the gradient over all training examples, and the buffers that computing it moved."""
    client.receive(task.weights)
    scores = client.scores() if task.score else {}
    site, device = client.site, client.settings.device
    loss = client.score(site.train).loss
    gradients = full_gradient(client.model, site.train, device=device)
    buffers = {k: v for k, v in client.model.state_dict().items() if k not in gradients}
    metrics: Scalars = {"num-examples": len(site.train), "train-loss": loss, "steps": 1, "work": 1.0}
    if task.weigh_by_validation and len(site.validation) >= client.least:
        metrics["trained-validation-accuracy"] = client.score(site.validation).accuracy
    return Outcome({**metrics, **scores}, {"gradients": gradients, "buffers": buffers})


@lets_out()
def scored(client: Client, task: Task) -> Outcome:
    """Score the weights that arrived, or the site's own model when none did."""
    own = None if task.weights else client.memory().load(before=task.round + 1)
    if task.weights:
        client.receive(task.weights)
    else:
        client.load(own or client.initial)
    return Outcome({"num-examples": len(client.site.test), **client.scores(own_model=not task.weights)})
