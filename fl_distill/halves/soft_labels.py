"""What a site hears and says of public examples, as it travels.

Floating formats travel as they are. Soft labels of at most eight bits travel packed, as the change against an earlier
round's where server and site still hold that round: the server says which one it holds of the site (`holds`) and which
one its own labels refer to (`base`), and a site that does not have it refuses, whereupon it is sent everything.
"""

import torch
from torch import Tensor

from ..client import Client
from ..codec import narrowed, simplex, soft_labels
from ..errors import BadUpdate
from ..task import Task, Tensors

PACKED = 8
"""Up to so many bits, labels are points of a simplex and packed."""


def hear(client: Client, task: Task, rows: int) -> Tensor | None:
    """What the server says of the public examples, (rows, classes) float32; None when it says nothing."""
    if "consensus" not in task.weights:
        return None
    bits = int(task.values["bits-down"])
    arrived = task.weights["consensus"]
    if bits > PACKED:
        if arrived.shape != (rows, client.classes):
            raise BadUpdate(f"the consensus is {list(arrived.shape)}, expected [{rows}, {client.classes}]")
        return arrived.float()
    memory, number, base = client.memory("heard"), int(task.weights["round"]), int(task.weights["base"])
    held = memory.at(base) if base else None
    if base and held is None:
        raise BadUpdate(f"the server's labels refer to those of round {base}, which this site does not have")
    levels = soft_labels.unpack(arrived, rows, client.classes, bits, None if held is None else held["levels"])
    # What a resumption after round n needs was heard in round n + 1, and is of round n or the one before.
    memory.save(number, {"levels": levels}, min(base, task.needed_from - 1))
    return simplex.restore(levels, bits)


def say(client: Client, task: Task, said: Tensor) -> Tensors:
    """Logits or probabilities (rows, classes) in the form that travels."""
    bits = int(task.values["bits-up"])
    tensors = {}
    if int(task.values["bits-down"]) <= PACKED:
        tensors["heard"] = task.weights.get("round", torch.tensor(0))
    if bits > PACKED:
        return {"said": narrowed(said, bits), **tensors}
    levels = simplex.quantize(said, bits)
    memory, holds = client.memory("said"), int(task.weights["holds"])
    held = memory.at(holds) if holds else None
    memory.save(task.round, {"levels": levels}, min(holds, task.needed_from))
    packed = soft_labels.pack(levels, bits, None if held is None else held["levels"])
    return {"said": packed, "base": torch.tensor(0 if held is None else holds), **tensors}
