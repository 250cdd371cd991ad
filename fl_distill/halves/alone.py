"""Local training: nothing is exchanged."""

from dataclasses import replace

from ..client import Client
from ..task import Outcome, Task
from .leaving import lets_out


@lets_out()
def alone(client: Client, task: Task) -> Outcome:
    """Go on with the site's own model; nothing but scores leaves."""
    client.recall(task)
    metrics = client.train(task)
    client.keep(task)
    return client.answer(replace(task, alone=False), metrics, {})  # it is its own twin
