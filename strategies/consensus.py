"""The server's half of knowledge about public examples: collect, combine, perhaps learn, answer."""

from collections.abc import Mapping
from typing import final

import torch
from flwr.app import ArrayRecord, RecordDict
from torch import Tensor

from ..codec import Form, decode, encode, schema_of, simplex
from ..codec.nearest import BALL, SIMPLEX
from ..errors import BadUpdate
from ..knowledge import Mean, Rule
from ..knowledge.agreement import describe
from ..knowledge.public import FIXED, public_rows
from ..learning import Diverged
from ..learning.transfer import DEEP, GRID, SHALLOW
from .combiner import LARGEST, ROUNDING, Combiner, Facts, Sender, check_probabilities, record_of
from .deltas import Deltas
from .student import ServerModel, Student
from .talk import Talk, check_transfer

_SHOWN = (SHALLOW, DEEP)


@final
class Consensus(Combiner):
    """One rule makes one answer of what sites say of the same examples; a `student` may learn it.

    What sites receive is the rule's answer, or, with `student_answers`, what the student says after its lesson.
    """

    def __init__(
        self,
        rule: Rule,
        talk: Talk,
        student: Student | None = None,
        *,
        student_answers: bool = False,
        transfer_down: str = "",
        tells: bool = True,
    ) -> None:
        if rule.of_probabilities and not talk.probabilities:
            raise ValueError(
                f"{type(rule).__name__} combines probabilities: set exchange=probabilities, or choose another rule"
            )
        self._rule, self._talk, self._tells = rule, talk, tells
        self._student = ServerModel(student) if student is not None else None
        self._answers, self._transfer = student_answers, transfer_down
        check_transfer(transfer_down)
        self._facts = Facts()
        self._deltas = Deltas(talk.bits_up, talk.bits_down)
        self._form: Form | None = None
        self._notes: dict[str, float] = {}

    @property
    def uses_labels(self) -> bool:
        """Whether the server learns from the public set's labels."""
        return self._student is not None and self._student.uses_labels

    @property
    def idle_ways(self) -> Mapping[str, str]:
        """Where labels travel packed, or not at all, and no inner layers beside them."""
        talk, ways = self._talk, {}
        if talk.bits_up < 16 and not talk.transfer_up:
            ways["up"] = _packed("bits_up", talk.bits_up)
        if not self._tells:
            ways["down"] = "sites receive nothing"
        elif talk.bits_down < 16 and not (self._answers and self._transfer):
            ways["down"] = _packed("bits_down", talk.bits_down)
        return ways

    @property
    def rows(self) -> Mapping[str, str]:
        """What sites say and hear where it is probabilities, and inner layers' maps."""
        maps = dict.fromkeys(_SHOWN, BALL)
        return maps | dict.fromkeys(("said", "consensus"), SIMPLEX) if self._talk.probabilities else maps

    # ------------------------------------------------------------ a round

    def meet(self, facts: Facts) -> None:
        """Know what a site must send, whatever the first one sends."""
        self._facts = facts
        if self._student is not None:
            self._student.meet(facts)
        if facts.public is not None and self._talk.bits_up >= 16:
            rows = min(self._talk.examples, len(facts.public))
            self._form = Form((rows, facts.classes), f"float{self._talk.bits_up}")

    def begin(self, sent: ArrayRecord, number: int) -> None:
        """Forget the round before."""
        self._said: list[Tensor] = []
        self._known: list[Tensor] = []
        self._weights: list[float] = []
        self._shown: dict[str, list[tuple[Tensor, float]]] = {}
        self._round = number

    def take(self, content: RecordDict, weight: float, sender: Sender) -> None:
        """Keep what one site says."""
        record = record_of(content, self._talk.exchange)
        parts = decode(record, self._schema(schema_of(record)))
        if self._deltas.up:
            said = self._deltas.read(parts, sender.name, self._rows(), self._facts.classes)
        else:
            said = parts["said"].float()
        if self._talk.probabilities:
            check_probabilities(said, "probabilities")
        if not said.abs().max() <= LARGEST:
            raise BadUpdate(f"it says numbers beyond {LARGEST:g}")
        if any(not _is_map(parts[name]) for name in _SHOWN if name in parts):
            raise BadUpdate("its attention maps are not rows of numbers >= 0 of length 1")
        if "known" in parts and not parts["known"].any():
            raise BadUpdate("it says that it has seen no class at all")
        self._said.append(said)
        self._weights.append(weight)
        self._known.append(parts.get("known", torch.ones(said.shape[1], dtype=torch.bool)))
        for name in _SHOWN:
            if name in parts:
                self._shown.setdefault(name, []).append((parts[name].float(), weight))
        if not self._deltas.up:
            self._form = Form(tuple(said.shape), f"float{self._talk.bits_up}")
        self._deltas.accept(parts, sender.name, said, self._round)

    def settle(self) -> ArrayRecord:
        """The answer, and the round whose examples it speaks of."""
        stack, weights, known = torch.stack(self._said), torch.tensor(self._weights), torch.stack(self._known)
        answer = self._rule(stack, weights, known if self._talk.mask else None)
        if self._talk.probabilities:
            answer = _normalised(answer, Mean()(stack, weights))
        self._notes = describe(stack, answer if self._talk.probabilities else answer.softmax(-1))
        said = {"consensus": answer}
        if self._student is not None:
            rows = self._public_rows(self._round)
            shown = {name: _mean_map(maps) for name, maps in self._shown.items()}
            self._student.learn(rows, answer, self._talk.probabilities, self._round, shown)
            if self._answers:
                said = self._student.say(rows, self._transfer)
                if self._talk.probabilities:
                    said["consensus"] = (said["consensus"] / self._talk.temperature).softmax(-1)
        return self._written(said)

    def share(self, arrays: ArrayRecord, to: Sender) -> ArrayRecord:
        """The answer; packed labels as the change against what this site has."""
        if not self._tells:
            arrays = ArrayRecord()
        return self._deltas.share(arrays, to.name)

    def models(self, arrays: ArrayRecord) -> Mapping[str, Mapping[str, Tensor]]:
        """The student, once it had a lesson."""
        state = self._student.state() if self._student is not None else {}
        return {self._student.architecture: state} if self._student is not None and state else {}

    def notes(self) -> Mapping[str, float]:
        """`agreement`, `entropy` and `spread` of the last round."""
        return self._notes

    # ------------------------------------------------------------ what survives

    def state(self) -> dict[str, Tensor]:
        """The student's weights, and the labels that packed ones refer to."""
        student = self._student.state() if self._student is not None else {}
        return {**{f"student/{k}": v for k, v in student.items()}, **self._deltas.state()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave."""
        if self._student is not None:
            self._student.restore({k[8:]: v for k, v in state.items() if k.startswith("student/")})
        self._deltas.restore({k: v for k, v in state.items() if not k.startswith("student/")})

    # ------------------------------------------------------------ in detail

    def _rows(self) -> int:
        public = self._facts.public
        if public is None:
            raise ValueError("the server must know the public set: call `meet` with Facts(public=...) before the start")
        return min(self._talk.examples, len(public))

    def _public_rows(self, number: int) -> Tensor:
        total = len(self._facts.public or ())
        of = number if self._talk.fresh else FIXED
        return public_rows(total, self._talk.examples, self._facts.seed, of)

    def _schema(self, declared: Mapping[str, Form]) -> dict[str, Form]:
        """The form that the tensors of a reply must have."""
        if self._deltas.up:
            said, (rows, classes) = self._deltas.form(declared, self._rows(), self._facts.classes), (self._rows(), 0)
        else:
            said = self._form or declared.get("said", Form((0, 0), "float16"))
            if len(said.shape) != 2:
                raise BadUpdate(f"it says {said}, expected one row for each public example")
            rows, classes = said.shape
        schema = {"said": said, **self._deltas.numbers()}
        if self._talk.mask:
            schema["known"] = Form((self._facts.classes or classes,), "bool")
        if self._talk.transfer_up:
            schema |= {name: Form((rows, GRID * GRID), "float16") for name in _SHOWN if name in declared}
        return schema

    def _written(self, said: Mapping[str, Tensor]) -> ArrayRecord:
        number = torch.tensor(self._round)
        extras = {name: tensor for name, tensor in said.items() if name != "consensus"}
        answer, bits = said["consensus"].clamp(-LARGEST, LARGEST), self._talk.bits_down
        if not torch.isfinite(answer).all():
            raise Diverged("the server's answer is not finite")
        if bits < 16:
            answer = simplex.quantize(answer, bits)
            self._deltas.answered(answer, self._round)
        else:
            answer = answer.to(torch.float16 if bits == 16 else torch.float32)
        return encode({"consensus": answer, **extras, "round": number}, bare=True)


def _normalised(answer: Tensor, mean: Tensor) -> Tensor:
    """Rows that sum to 1: classes that different sites know need not add up, and a median of votes may be all zeros."""
    total = answer.sum(-1, keepdim=True)
    return torch.where(total > 1e-6, answer / total.clamp_min(1e-6), mean)


def _packed(setting: str, bits: int) -> str:
    return f"the strategy packs its own soft labels ({setting} is {bits}; 16 or 32 leave them to a codec)"


def _is_map(shown: Tensor) -> bool:
    return bool(shown.min() >= 0 and (shown.float().norm(dim=1) <= 1 + ROUNDING).all())


def _mean_map(maps: list[tuple[Tensor, float]]) -> Tensor:
    """The weighted mean of rows of length 1, brought back to that length."""
    total = torch.stack([shown * weight for shown, weight in maps]).sum(0)
    return torch.nn.functional.normalize(total, dim=1)
