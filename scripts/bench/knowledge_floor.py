"""The floor of methods that speak of public examples: the work of one of our runs in bare PyTorch, without a framework.

    python scripts/bench/knowledge_floor.py J1 --method fedmd --procs 2

`--method fedmd` does what `conf/experiment/K1md.yaml` asks for, `--method dsfl` what `K1ds.yaml` asks for: data, split,
public set, rounds, batches and settings are read from there, so that the numbers of steps are equal. A round is

1. for each site, in one of the forked workers (one torch thread each), longest work first from a common counter:
   - from round 2 on, SGD with momentum over the public examples of the round before, in batches, towards what all said
     of them. The loss is the cross-entropy to probabilities, whose gradient is that of FedMD's KL;
   - SGD with fresh momentum over the site's own examples;
   - what it says of this round's public examples, as logits (FedMD) or probabilities (DS-FL);
2. in the parent: the mean over the sites that know a class, softmax of it (FedMD) or of it over T (DS-FL's ERA);
3. DS-FL: Adam with fresh state over the same examples for the server's model, in the parent, then its accuracy on the
   test set. FedMD has no model at the server: after the last round all sites' models are scored.

The sites' models lie in shared memory, where every worker changes them, and so does what sites say: nothing is copied,
sent, checked, stored or measured. Of this package the floor uses how data is dealt, before the first round, and the
allocator's setting that our workers have too. Needs `fljobs` on PYTHONPATH (see `run.py`).
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import fljobs  # type: ignore[import-not-found]
import jobs
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from fl_distill.data import Federation, federate
from fl_distill.data.partitions import Natural
from fl_distill.runtime.memory import keep_freed_memory

CONF = Path(__file__).resolve().parent / "conf" / "experiment"
EXPERIMENTS = {"fedmd": "K1md.yaml", "dsfl": "K1ds.yaml"}


@dataclass(frozen=True)
class Plan:
    """One method's experiment."""

    job: str
    method: str

    @cached_property
    def asked(self) -> dict[str, Any]:
        """The experiment as YAML says it."""
        asked: dict[str, Any] = yaml.safe_load((CONF / EXPERIMENTS[self.method]).read_text(encoding="utf-8"))
        return asked

    @cached_property
    def federation(self) -> Federation:
        """Sites, public set and test set: those of our own run."""
        sites, split = fljobs.JOBS[self.job].clients, self.asked["split"]
        source = jobs.JobData(self.job).load()
        return federate(source, Natural(), sites=sites, seed=0, public=self.asked["public"], **split)

    @property
    def examples(self) -> int:
        """Public examples of a round."""
        return min(int(self.asked["strategy"]["examples"]), len(self.federation.public))


class Shared:
    """What parent and workers see alike."""

    def __init__(self, plan: Plan) -> None:
        data = plan.federation
        self.models = [fljobs.make_model(fljobs.JOBS[plan.job].model, seed=0) for _ in data.names]
        for model in self.models:
            model.share_memory()
        classes, sites = len(data.classes), len(data)
        self.said = torch.zeros(sites, plan.examples, classes)
        self.answer = torch.zeros(plan.examples, classes)
        self.rows = torch.zeros(2, plan.examples, dtype=torch.long)
        """Public examples that the answer speaks of, and those that sites shall speak of."""
        for tensor in (self.said, self.answer, self.rows):
            tensor.share_memory_()  # type: ignore[no-untyped-call]


def batches(x: Tensor, y: Tensor, size: int, epochs: float) -> Iterator[tuple[Tensor, Tensor]]:
    for _ in range(int(epochs)):
        for batch in torch.split(torch.randperm(len(x)), size):
            yield x[batch], y[batch]


def descend(model: nn.Module, steps: Iterator[tuple[Tensor, Tensor]], lr: float, momentum: float) -> None:
    """SGD; targets are classes or probabilities."""
    params: list[Tensor] = list(model.parameters())
    velocity: list[Tensor] = []
    for x, y in steps:
        grads = list(torch.autograd.grad(F.cross_entropy(model(x), y), params))
        with torch.no_grad():
            if velocity:
                torch._foreach_mul_(velocity, momentum)
                torch._foreach_add_(velocity, grads)
            else:
                velocity = grads
            torch._foreach_add_(params, velocity, alpha=-lr)


def work(plan: Plan, shared: Shared, order: Sequence[int], counter: Any, start: Any, done: Any) -> None:
    """A worker: one site after the other, round after round."""
    torch.set_num_threads(1)
    local, public = plan.asked["local"], plan.federation.public.x
    sites = [plan.federation.site(index).train for index in range(len(plan.federation))]
    size, how = local["batch_size"], (local["lr"], local["momentum"])
    for number in range(plan.asked["rounds"]):
        start.acquire()
        told, asked = public[shared.rows[0]], public[shared.rows[1]]
        while (at := _next(counter)) < len(order):
            index = order[at]
            model, own = shared.models[index], sites[index]
            if number:
                descend(model, batches(told, shared.answer, size, plan.asked["strategy"]["digest_epochs"]), *how)
            descend(model, batches(own.x, own.y, size, local["epochs"]), *how)
            with torch.inference_mode():
                said = model(asked)
                shared.said[index] = said.softmax(-1) if plan.method == "dsfl" else said
        done.release()


def _next(counter: Any) -> int:
    with counter.get_lock():
        counter.value += 1
        return int(counter.value) - 1


class Server:
    """The parent's part of a round."""

    def __init__(self, plan: Plan, shared: Shared) -> None:
        self._plan, self._shared, self._data = plan, shared, plan.federation
        counts = torch.tensor([self._data.label_counts(index) for index in range(len(self._data))])
        known = (counts > 0) | ~(counts > 0).any(0)
        self._share = (known / known.sum(0))[:, None]
        self._student = fljobs.make_model(fljobs.JOBS[plan.job].model, seed=0)

    def ask(self) -> None:
        """Draw the public examples of the next round."""
        drawn = torch.randperm(len(self._data.public))[: self._plan.examples]
        self._shared.rows.copy_(torch.stack([self._shared.rows[1], drawn]))

    def combine(self) -> None:
        """The answer to the round's public examples, as probabilities; DS-FL's model learns it."""
        mean = (self._shared.said * self._share).sum(0)
        if self._plan.method == "dsfl":
            mean = mean / mean.sum(-1, keepdim=True) / self._plan.asked["combine"]["temperature"]
        torch.softmax(mean, -1, out=self._shared.answer)
        if self._plan.method == "dsfl":
            self._learn(self._plan.asked["strategy"]["server"])

    def _learn(self, how: dict[str, Any]) -> None:
        optimizer = torch.optim.Adam(self._student.parameters(), lr=how["lr"], fused=True)
        x = self._data.public.x[self._shared.rows[1]]
        for inputs, target in batches(x, self._shared.answer, how["batch_size"], how["epochs"]):
            optimizer.zero_grad()
            F.cross_entropy(self._student(inputs), target).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    def accuracy(self, last: bool) -> float:
        """Of the server's model; where there is none, of the sites' at the end, in the mean."""
        if self._plan.method == "dsfl":
            return self._score(self._student)
        models = self._shared.models if last else ()
        return sum(map(self._score, models)) / len(models) if models else 0.0

    @torch.inference_mode()
    def _score(self, model: nn.Module) -> float:
        test = self._data.test
        return float((model(test.x).argmax(1) == test.y).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=fljobs.JOBS)
    parser.add_argument("--method", choices=EXPERIMENTS, required=True)
    parser.add_argument("--procs", type=int, default=2)
    options = parser.parse_args()
    clock = fljobs.Clock()
    clock.mark("imports")
    torch.set_num_threads(1)  # two beside two workers are slower for steps as small as the server's
    torch.manual_seed(0)
    keep_freed_memory()  # page faults would take a quarter of the time in which a model speaks
    plan = Plan(options.job, options.method)
    shared = Shared(plan)
    server = Server(plan, shared)
    parts = plan.federation.parts
    order = sorted(range(len(parts)), key=lambda index: -len(parts[index].train))
    context = mp.get_context("fork")
    counter, done = context.Value("i", 0), context.Semaphore(0)
    starts = [context.Semaphore(0) for _ in range(options.procs)]
    workers = [context.Process(target=work, args=(plan, shared, order, counter, s, done), daemon=True) for s in starts]
    for worker in workers:
        worker.start()
    clock.mark("loop")
    for number in range(1, plan.asked["rounds"] + 1):
        server.ask()
        counter.value = 0
        for start in starts:
            start.release()
        for _ in starts:
            done.acquire()
        server.combine()
        clock.round_end(server.accuracy(last=number == plan.asked["rounds"]))
    for worker in workers:
        worker.join()
    clock.report(f"floor{options.procs}-{plan.method}", options.job)


if __name__ == "__main__":
    main()
