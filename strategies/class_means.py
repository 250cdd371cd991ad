"""The server's half of FD and FedProto: means over the sites that hold a class, never over those that do not."""

from collections.abc import Mapping
from typing import final

import torch
from flwr.app import ArrayRecord, RecordDict
from torch import Tensor

from ..codec import Form, decode, encode, schema_of
from ..codec.nearest import SIMPLEX
from ..errors import BadUpdate
from ..knowledge import leave_one_out, masked_mean
from .combiner import Combiner, Facts, Sender, check_probabilities, record_of

MOST = 10**9
"""Examples of one class that a site may claim to have."""


@final
class ClassMeans(Combiner):
    """targets_c = mean over the sites that hold class c of their means; with `others_only`, without the receiver's own.

    Where a site may hear itself, a class that nobody named this round keeps its last target; otherwise what it last
    said of a class could come back to it as the others' word.
    """

    def __init__(
        self, exchange: str, bits: int, *, others_only: bool, by_examples: bool = False, width: int | None = None
    ) -> None:
        self._exchange, self._dtype, self._width = exchange, f"float{bits}", width
        self._others_only, self._by_examples = others_only, by_examples
        self._form: Form | None = None

    def meet(self, facts: Facts) -> None:
        """Know how many classes there are."""
        if facts.classes:
            self._form = Form((facts.classes, self._width or facts.classes), self._dtype)

    @property
    def rows(self) -> Mapping[str, str]:
        """Mean probabilities are probabilities."""
        return dict.fromkeys(("means", "targets"), SIMPLEX) if self._exchange == "probabilities" else {}

    def begin(self, sent: ArrayRecord, number: int) -> None:
        """Forget the round before, but for what nobody will speak of."""
        self._sites: list[str] = []
        self._means: list[Tensor] = []
        self._counts: list[Tensor] = []
        self._before = decode(sent)

    def take(self, content: RecordDict, weight: float, sender: Sender) -> None:
        """Keep one site's means."""
        record = record_of(content, self._exchange)
        form = self._form or schema_of(record).get("means", Form((0, 0), self._dtype))
        if len(form.shape) != 2 or 0 in form.shape or self._width not in (None, form.shape[1]):
            raise BadUpdate(f"its class means are {form}, expected one row for each class")
        parts = decode(record, {"means": form, "counts": Form((form.shape[0],), "int32")})
        means, counts = parts["means"].float(), parts["counts"].long()
        if counts.min() < 0 or not 0 < counts.max() <= MOST:
            raise BadUpdate(f"its class counts must be 0 to {MOST:g}, and not all 0")
        if self._exchange == "probabilities":
            check_probabilities(means[counts > 0], "mean probabilities")
        self._form = form
        self._sites.append(sender.name)
        self._means.append(means)
        self._counts.append(counts)

    def settle(self) -> ArrayRecord:
        """For everybody, and where a site may not hear itself for each who spoke: targets and which are known."""
        means, counts = torch.stack(self._means), torch.stack(self._counts)
        mean, holders = masked_mean(means, counts, "examples" if self._by_examples else "sites")
        answers = {"": (mean, holders > 0)}
        if self._others_only:
            targets, known = leave_one_out(means, counts)
            answers |= {site: (targets[k], known[k]) for k, site in enumerate(self._sites)}
        tensors: dict[str, Tensor] = {}
        for site, (target, known) in answers.items():
            if not self._others_only:  # what is not spoken of this time is still the best that is known of it
                target, known = self._completed(target, known)
            tensors |= {f"targets/{site}": target.to(getattr(torch, self._dtype)), f"known/{site}": known}
        return encode(tensors, bare=True)

    def share(self, arrays: ArrayRecord, to: Sender) -> ArrayRecord:
        """The targets for one site."""
        site = to.name if f"targets/{to.name}" in arrays else ""
        return ArrayRecord({n: arrays[f"{n}/{site}"] for n in ("targets", "known") if f"{n}/{site}" in arrays})

    def _completed(self, target: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        if "known/" not in self._before:
            return target, known
        old = self._before["targets/"].float()
        return torch.where(known[:, None], target, old), known | self._before["known/"]
