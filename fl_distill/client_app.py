"""The Flower ClientApp: from messages to a site's work and back, and nothing else."""

import logging
import traceback
import uuid
from collections.abc import Callable
from functools import partial

from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from . import __version__, halves
from .client import Client
from .codec import Latest, encode, payload_bytes, records_of
from .codec.records import make_records, make_scalars
from .errors import BadUpdate
from .jobs import JobOf, site_job
from .learning import Diverged
from .mods import Call, FileMemory, quantizing
from .policy import Policy, Refused
from .task import Outcome, Task
from .workplace import Workplace, workplace

Work = Callable[[Client, Task], Outcome]

SITE_FAILED = 1001
"""Error code of a site whose work failed for a reason that may be told."""
SITE_RAISED = 1002
"""Error code of a site whose code raised: the text stays at the site."""
SITE_REFUSED = 1004
"""Error code of a site whose policy does not allow what it was asked."""


def make_app(job_of: JobOf) -> ClientApp:
    """A ClientApp that serves the job (see `workplace.job_text`) which `job_of` finds for a context."""
    app = ClientApp(mods=[partial(_guard, job_of), quantizing(partial(_memory, job_of))])
    app.train()(partial(_serve, job_of, halves.averaged))
    for work in (halves.alone, halves.by_class, halves.gradient, halves.mutual, halves.split):
        app.train(work.__name__)(partial(_serve, job_of, work))
    app.evaluate()(partial(_serve, job_of, halves.scored))
    app.query()(partial(_describe, job_of))
    return app


def _serve(job_of: JobOf, work: Work, message: Message, context: Context) -> Message:
    place: Workplace | None = None
    try:
        place = workplace(job_of(context))
        outcome = work(_client(place, _index(place, context)), _task(message))
    except (BadUpdate, Diverged) as fault:  # their sentences hold nothing of the site's own
        return Message(Error(SITE_FAILED, str(fault)), reply_to=message)
    except Exception as error:
        return Message(Error(SITE_RAISED, _scrubbed(error, place)), reply_to=message)
    arrays = {key: encode(tensors, bare=outcome.bare) for key, tensors in outcome.tensors.items()}
    content = make_records({**arrays, "metrics": make_scalars(MetricRecord, dict(outcome.metrics))})
    return Message(content, reply_to=message)


def _guard(job_of: JobOf, message: Message, context: Context, call_next: Call) -> Message:
    """Around everything: nothing that the policy forbids is worked on, and no exception's text gets out."""
    place: Workplace | None = None
    try:
        place = workplace(job_of(context))
        if place.policy is not None and message.has_content():
            _admit(place, place.policy, _index(place, context), message)
        reply = call_next(message, context)
        if reply.has_content() and place.policy is not None:
            place.policy.admit_size(payload_bytes(reply.content))
    except Refused as refused:
        who = "" if place is None else f"{place.federation.names[_index(place, context)]}: "
        return Message(Error(SITE_REFUSED, f"{who}{refused}"), reply_to=message)
    except Exception as error:
        return Message(Error(SITE_RAISED, _scrubbed(error, place)), reply_to=message)
    return reply


def _admit(place: Workplace, policy: Policy, index: int, message: Message) -> None:
    """Raise `Refused` where a message asks for another strategy's work, or for more than the site does or lets out."""
    kind, strategy, e = message.metadata.message_type, place.strategy, place.experiment
    place.limits.admit(vars(e.settings(place.federation.names[index])), e.rounds)
    if kind not in (MessageType.QUERY, MessageType.EVALUATE, strategy.action):
        raise Refused(f"this run's strategy is {place.strategy_name}, which does not ask for {kind!r}")
    asked = message.content.config_records.get("config", ConfigRecord())
    if int(str(asked.get("server-round", 0))) > e.rounds + 1:
        raise Refused(f"this run was announced with {e.rounds} rounds")
    half = halves.of(strategy.action)
    kinds = {*halves.leaves(half, asked), *halves.leaves(half, strategy.site_config())}
    policy.admit(place.strategy_name, sorted(kinds), sum(place.federation.label_counts(index)))
    if kind == MessageType.EVALUATE and "arrays" in message.content and "weights" not in kinds:
        raise Refused(f"strategy={place.strategy_name} exchanges no weights: there are none to score")


def _describe(job_of: JobOf, message: Message, context: Context) -> Message:
    place: Workplace | None = None
    try:
        place = workplace(job_of(context))
        place.renew()
        index = _index(place, context)
        if index >= len(place.federation.names):
            return Message(RecordDict({"site": ConfigRecord({"spare": True})}), reply_to=message)
        about = ConfigRecord(
            {
                "name": place.federation.names[index],
                "version": __version__,
                "model": place.model_name(index),
                "classes": list(place.federation.classes),
                "label-counts": place.federation.label_counts(index),
                "public": place.public_fingerprint,
            }
        )
    except Exception as error:
        return Message(Error(SITE_RAISED, _scrubbed(error, place)), reply_to=message)
    return Message(RecordDict({"site": about}), reply_to=message)


def _client(place: Workplace, index: int) -> Client:
    e, site = place.experiment, place.site(index)
    settings, name = e.settings(site.name), place.model_name(index)
    return Client(
        site=site,
        model=place.model(name, settings.device),
        settings=settings,
        seed=e.seed,
        folder=place.folder / "sites",
        initial=place.initial(name),
        classes=len(place.federation.classes),
        shared_test=place.federation.test,
        augment=place.federation.augment or None,
        public_set=place.federation.public if place.uses_public else None,
        together=place.together[index],
        precision=e.quantized_model,
        least=place.policy.min_examples if place.policy else 1,
        most_epochs=place.limits.epochs,
    )


def _memory(job_of: JobOf, context: Context) -> FileMemory:
    place = workplace(job_of(context))
    return FileMemory(place.folder / "sites", place.federation.names[_index(place, context)])


_received = Latest()


def _task(message: Message) -> Task:
    arrays = records_of(message.content, ArrayRecord).get("arrays")
    values = dict(records_of(message.content, ConfigRecord).get("config", ConfigRecord()).items())
    return Task(
        round=int(str(values.get("server-round", 0))),
        weights=_received(arrays) if arrays else {},
        mu=float(str(values.get("proximal-mu", 0.0))),
        work=min(1.0, float(str(values.get("work", 1.0)))),
        score=bool(values.get("score", True)),
        weigh_by_validation=values.get("weight") == "validation",
        alone=bool(values.get("alone", False)),
        needed_from=int(str(values.get("needed-from", 0))),
        values=values,
    )


def _index(place: Workplace, context: Context) -> int:
    return int(context.node_config["partition-id"]) if place.index is None else place.index


def _scrubbed(error: Exception, place: Workplace | None) -> str:
    """The kind of the error and a reference; its text and traceback go to the site's own log."""
    reference = uuid.uuid4().hex[:8]
    text = "".join(traceback.format_exception(error))
    logging.getLogger("fl_distill.site").debug("%s\n%s", reference, text)
    if place is not None:
        log = place.folder / "sites" / "errors.log"
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("a", encoding="utf-8") as file:
                file.write(f"[{reference}]\n{text}\n")
        except OSError:
            pass  # a full disk must not hide the first error
    return f"the site's code raised {type(error).__name__} (reference {reference} in the site's sites/errors.log)"


app = make_app(site_job)
