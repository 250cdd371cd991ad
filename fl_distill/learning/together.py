"""Many small models trained as one: each has its own weights and examples, and every step is one step of all.

What a step of a small model costs is mostly the overhead of its many small operations, which is paid once for all here:
each operation works on the stacked tensors of K models (`torch.func`). The result is that of `fit` within rounding, and
the same, bit for bit, whatever the others are and however many: so that it depends on no division of the work.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from ..data.types import Split
from ..models.conv2d import Conv2d
from . import optim
from .fit import Augment, Trained, batches
from .settings import Settings

Weights = dict[str, Tensor]

_SAFE = (
    *(nn.Linear, Conv2d, nn.Flatten, nn.Identity, nn.ReLU, nn.GELU, nn.Tanh),
    *(nn.LayerNorm, nn.GroupNorm, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d),
)
"""What treats each example by itself, draws no random numbers, keeps nothing, and gives the same bits in any company.

`nn.Sigmoid` does not, whose last few numbers of all are rounded otherwise; nor a plain `nn.Conv2d`, of which
`models.conv2d.own_convolutions` makes one that does, as it is done with every configured model.
"""
LARGEST = 1 << 18
"""Parameters of a model that is worth it: of larger ones the work itself is what takes the time."""
GRAIN = 8
"""Numbers in 32 bytes: a matrix in a stack that begins elsewhere is multiplied in another way, with other roundings."""
MOST_WORK = 4_000_000
"""Multiplications of one step of one model, above which it does not pay (measured, see docs/performance.md)."""


@dataclass(frozen=True)
class Lesson:
    """What one model is to learn: the arguments of `fit`. `weights` hold the learned ones afterwards."""

    weights: Weights
    data: Split
    generator: torch.Generator
    work: float = 1.0
    augment: Augment | None = None


def can_be_stacked(model: nn.Module, settings: Settings) -> bool:
    """Whether `fit_together` can train this model as `settings` say, as far as its layers tell.

    What a `forward` of one's own does beside them, nobody sees: it must treat each example by itself and draw nothing.
    Of linear layers weights must be a multiple of `GRAIN`.
    """
    leaves = [module for module in model.modules() if not any(module.children())]
    safe = all(type(module) in _SAFE or _is_off(module) for module in leaves)
    plain = settings.optimizer == "sgd" and not settings.quantization_aware and settings.device == "cpu"
    even = all(module.weight.numel() % GRAIN == 0 for module in leaves if isinstance(module, nn.Linear))
    all_of_it = not any(True for _ in model.buffers()) and all(p.requires_grad for p in model.parameters())
    return plain and safe and even and all_of_it


def pays(model: nn.Module, input_shape: Sequence[int], settings: Settings) -> bool:
    """Whether training many such models together is quicker than one after the other, and nothing in it is unknown."""
    own = all(type(module) in (*_SAFE, nn.Dropout, nn.Sequential) or _is_ours(module) for module in model.modules())
    if not own or sum(p.numel() for p in model.parameters()) > LARGEST:
        return False
    rows = _width(model, settings.batch_size, settings.batch_size)
    return rows * multiplications(model, input_shape) <= MOST_WORK


def multiplications(model: nn.Module, input_shape: Sequence[int]) -> int:
    """Of linear and convolution layers for one example."""
    total = 0

    def count(module: nn.Module, _: object, out: Tensor) -> None:
        nonlocal total
        weight: Tensor = module.weight  # type: ignore[assignment]
        total += weight.numel() * out[0].numel() // weight.shape[0]

    counted = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    was, hooks = model.training, [module.register_forward_hook(count) for module in counted]
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(1, *input_shape))
    finally:
        model.train(was)
        for hook in hooks:
            hook.remove()
    return total


def fit_together(model: nn.Module, lessons: Sequence[Lesson], settings: Settings, mu: float = 0.0) -> list[Trained]:
    """Minimise the cross-entropy plus mu / 2 ||w - w_0||^2 of each lesson's weights by mini-batches, all at once.

    `model`, which `can_be_stacked`, says what the weights are of; its own are not used. A loss that is not finite means
    that the lesson diverged; the others are none the worse for it. What is raised leaves every lesson as it was.
    """
    own = [replace(one, weights=dict(one.weights), generator=one.generator.clone_state()) for one in lessons]
    by_width: dict[int, list[Lesson]] = {}
    for lesson in own:
        by_width.setdefault(_width(model, len(lesson.data), settings.batch_size), []).append(lesson)
    done: dict[int, Trained] = {}
    for width, alike in by_width.items():
        plans = [settings.planned_steps(len(lesson.data), lesson.work) for lesson in alike]
        order = sorted(range(len(alike)), key=lambda at: -plans[at])
        losses = _Stack(model, [alike[at] for at in order], [plans[at] for at in order], settings, mu, width).fit()
        for at, loss in zip(order, losses, strict=True):
            done[id(alike[at])] = Trained(loss, plans[at], len(alike[at].data))
    for lesson, learned in zip(lessons, own, strict=True):
        lesson.weights.update(learned.weights)
    return [done[id(lesson)] for lesson in own]


class _Stack:
    """Lessons whose batches all have `width` rows, those with the most steps first."""

    def __init__(
        self,
        model: nn.Module,
        lessons: Sequence[Lesson],
        steps: Sequence[int],
        settings: Settings,
        mu: float,
        width: int,
    ) -> None:
        self._model, self._lessons, self._steps = model, lessons, steps
        self._settings, self._width = settings, width
        rows = [lesson.weights for lesson in lessons]
        rows += rows * (len(rows) == 1)
        self._weights = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        self._start = {name: tensor.clone() for name, tensor in self._weights.items()} if mu else {}
        self._gradients = _gradients(model, mu)
        self._feeds = [
            batches(len(one.data), settings.batch_size, count, 1, one.generator)
            for one, count in zip(lessons, steps, strict=True)
        ]
        self._velocity: Weights = {}

    def fit(self) -> list[float]:
        """Train all; the mean loss of each. The lessons' weights change."""
        self._model.train()
        totals = torch.zeros(len(self._lessons))
        for step in range(self._steps[0]):
            active = sum(count > step for count in self._steps)
            shown = max(2, active)  # one model by itself is computed in another way, with other roundings
            now = {name: tensor[:shown] for name, tensor in self._weights.items()}
            then = {name: tensor[:shown] for name, tensor in self._start.items()}
            grads, losses = self._gradients(now, then, *self._batch(active, shown))
            totals[:active] += losses[:active]
            self._descend({name: grad[:active] for name, grad in grads.items()}, step)
        for at, lesson in enumerate(self._lessons):
            lesson.weights.update({name: tensor[at] for name, tensor in self._weights.items()})
        return (totals / torch.tensor(self._steps)).tolist()

    def _batch(self, active: int, shown: int) -> tuple[Tensor, Tensor, Tensor]:
        """(K, width, ...), (K, width) and what each example counts; rows that stand for no example count nothing."""
        form = self._lessons[0].data.x.shape[1:]
        x, y = torch.zeros(shown, self._width, *form), torch.zeros(shown, self._width, dtype=torch.int64)
        counts = torch.zeros(shown, self._width)
        for at, lesson in enumerate(self._lessons[:active]):
            batch = next(self._feeds[at])
            own = lesson.data.x[batch]
            x[at, : len(batch)] = lesson.augment(own, lesson.generator) if lesson.augment else own
            y[at, : len(batch)] = lesson.data.y[batch]
            counts[at, : len(batch)] = 1 / len(batch)
        return x, y, counts

    @torch.no_grad()
    def _descend(self, grads: Weights, step: int) -> None:
        """v <- m v + (g + d p), first v = g;  p <- p - lr v, for the models that are still at it."""
        settings = self._settings
        if settings.clip_norm is not None:
            _clip(grads, settings.clip_norm)
        constant = settings.schedule == "constant"
        rates = None if constant else torch.tensor([optim.schedule(settings.schedule, n)(step) for n in self._steps])
        for name, grad in grads.items():
            own = self._weights[name][: len(grad)]
            update = grad.add(own, alpha=settings.weight_decay) if settings.weight_decay else grad
            if settings.momentum and step:
                update = self._velocity[name][: len(grad)].mul_(settings.momentum).add_(update)
            elif settings.momentum:
                self._velocity[name] = update
            if rates is None:
                own.add_(update, alpha=-settings.lr)
            else:
                own.addcmul_(update, rates[: len(grad)].view(-1, *[1] * (grad.dim() - 1)), value=-settings.lr)


def _gradients(model: nn.Module, mu: float) -> Callable[..., tuple[Weights, Tensor]]:
    """(weights, weights at the start, x, y, counts) -> (gradients, losses), each with a first dimension K."""
    # Only the model runs under vmap: there a loss is slow, and gradients (torch.func.grad) import torch's compiler.
    logits_of = vmap(lambda weights, x: functional_call(model, weights, (x,)))

    def gradients(weights: Weights, start: Weights, x: Tensor, y: Tensor, counts: Tensor) -> tuple[Weights, Tensor]:
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in weights.items()}
        said = logits_of(leaves, x).log_softmax(-1).gather(-1, y[..., None]).squeeze(-1)
        losses: Tensor = -(said * counts).sum(-1)
        for name in start:
            losses = losses + mu / 2 * (leaves[name] - start[name]).pow(2).reshape(len(x), -1).sum(1)
        grads = torch.autograd.grad(losses.sum(), list(leaves.values()), allow_unused=True)
        # What a model has and does not use stays as it is.
        found = {name: grad for name, grad in zip(leaves, grads, strict=True) if grad is not None}
        return found, losses.detach()

    return gradients


def _clip(grads: Weights, largest: float) -> None:
    """Scale each model's gradients to a norm of at most `largest`."""
    squares = [grad.reshape(len(grad), -1).norm(dim=1).square() for grad in grads.values()]
    # One after the other: a reduction over a short dimension is rounded otherwise for other K.
    scale = (largest / (sum(squares, torch.zeros(())).sqrt() + 1e-6)).clamp(max=1.0)
    for grad in grads.values():
        grad.mul_(scale.view(-1, *[1] * (grad.dim() - 1)))


def _width(model: nn.Module, examples: int, batch_size: int) -> int:
    """Rows of every batch of a site: those of a full one, or where there is none the next power of 2.

    A few more where a linear layer's rows would not be a multiple of `GRAIN` numbers otherwise.
    """
    rows = min(batch_size, 1 << (examples - 1).bit_length())
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    step = math.lcm(*(GRAIN // math.gcd(GRAIN, side) for one in layers for side in (one.in_features, one.out_features)))
    return -(-rows // step) * step


def _is_ours(module: nn.Module) -> bool:
    return type(module).__module__.startswith("fl_distill.models.")


def _is_off(module: nn.Module) -> bool:
    return isinstance(module, nn.Dropout) and module.p == 0
