"""The round loop: ask sites, combine what comes back, score, save, tell."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from .asked import Asked
from .codec import records_of
from .collect import Collector, Reply, in_order
from .config.schema import Experiment
from .errors import BadUpdate, RunStopped
from .guard import collapse, worse_than_alone
from .owed import Owed
from .phases import Exchange
from .progress import Progress
from .roster import Member, Roster
from .rows import add_scores, finite, mean, open_row, site_entry
from .selection import away, sample, stragglers
from .strategies import Coding, SiteStrategy
from .tracking import TRAFFIC, Row

Metrics = Mapping[str, Any]


@dataclass(frozen=True)
class Hooks:
    """What the loop calls as it goes."""

    score_server: Callable[[ArrayRecord], Mapping[str, tuple[float, float]]]
    """Architecture of a model at the server -> its accuracy and loss on the shared test set."""
    closed: Callable[[Row], None]
    saved: Callable[[Progress], None]
    oldest_saved: Callable[[], int]
    """The earliest round that a resumption may start after: newer checkpoints may turn out to be damaged."""
    replied: Callable[[int, str, str | None], None]


class Rounds:
    """Runs rounds on any Flower strategy and any Grid.

    Where the server holds a model, sites score what they receive while they train, so the row of round t closes
    with the replies of round t + 1, and one evaluation ends the run; where no site scores (`evaluate.sites_every=0`) it
    closes at once. Replies are combined in the order of site names whatever arrives first, and one by one: the server
    holds one model plus what is out of order.
    """

    def __init__(
        self,
        e: Experiment,
        strategy: Strategy,
        coding: Coding,
        grid: Grid,
        roster: Roster,
        collector: Collector,
        hooks: Hooks,
    ) -> None:
        self._e, self._strategy, self._coding, self._grid = e, strategy, coding, grid
        self._roster, self._collector, self._hooks = roster, collector, hooks
        self._owed = Owed(roster.ask)
        self._shared_model = bool(getattr(strategy, "has_server_model", True))
        self._partial = bool(getattr(strategy, "partial_work", True))

    def run(self, progress: Progress) -> str:
        """Go on from `progress` to the end; returns why it ended."""
        ended = progress.ended(self._e)  # a run that was killed after its last round needs no other
        while ended is None and progress.round < self._e.rounds:
            self._round(progress)
            ended = progress.ended(self._e)
        if progress.open is not None:
            self._score_round(progress)
        return ended or "all rounds done"

    # ------------------------------------------------------------ one round

    def _round(self, progress: Progress) -> None:
        number, began = progress.round + 1, time.monotonic()
        asked, row = self._ask(number)
        slow = stragglers(asked, self._e.collect.stragglers, self._e.seed, number)
        if not self._partial:
            row["failures"] |= {name: "straggler: it did not finish its work in time (simulated)" for name in slow}
            asked = [member for member in asked if member.name not in slow]
        score = not self._shared_model or (progress.open is not None and not self._e.evaluate.separately)
        config = ConfigRecord(
            {
                "score": score and self._sites_score(number - 1 if self._shared_model else number),
                "alone": self._e.evaluate.alone and not self._shared_model,
                "needed-from": self._hooks.oldest_saved(),
            }
        )
        view = Asked(self._grid, [member.node for member in asked])
        messages = list(self._strategy.configure_train(number, progress.arrays, config, view)) if asked else []
        _slow_down(messages, {m.node: slow[m.name] for m in asked if m.name in slow})
        messages = self._coding.outgoing(number, messages, self._hooks.oldest_saved() or -1)
        by_node = {member.node: member for member in asked}
        told: dict[str, Metrics] = {}
        exchange = Exchange(self._grid)
        replies = self._replies(number, messages, by_node, row, told, exchange)
        arrays, _ = self._strategy.aggregate_train(number, replies)
        for node, fault in getattr(self._strategy, "faults", {}).items():
            self._fail(row, number, by_node[node].name, fault)
            told.pop(by_node[node].name, None)
        self._coding.used(number, [member.node for member in asked if member.name in told])
        row["codec"] = self._coding.figures()
        self._describe(row, by_node, told)
        self._close_previous(progress, told, by_node)
        enough = self._e.collect.min_results
        if len(told) < enough:
            row |= exchange.phases(began, scoring=time.monotonic())
            self._close(progress, row)
            raise RunStopped(_too_few(number, len(told), enough, row["failures"]))
        progress.round, progress.arrays = number, progress.arrays if arrays is None else arrays
        scoring = time.monotonic()
        self._score_server(progress, row)
        self._judge(row)
        row |= exchange.phases(began, scoring)
        if self._shared_model:
            progress.open = row
            if self._e.evaluate.separately or self._e.evaluate.sites_every == 0:
                self._score_round(progress)
        else:
            add_scores(row, told, None)
            row["warnings"] += worse_than_alone(row)
            self._close(progress, row)
        if number % self._e.checkpoint.every == 0 or number == self._e.rounds:
            self._hooks.saved(progress)

    def _ask(self, number: int) -> tuple[list[Member], Row]:
        policy = self._e.collect
        members = self._present(number)
        if len(members) < policy.min_sites:
            raise RunStopped(f"round {number}: {len(members)} sites are there, collect.min_sites={policy.min_sites}")
        row = open_row(number)
        row["warnings"] += self._refusals()
        free = self._free(members, row)
        return sample(free, policy.fraction, policy.min_sites, self._e.seed, number), row

    def _free(self, members: Sequence[Member], row: Row) -> list[Member]:
        """The sites that owe no answer to an earlier round; all where those would be too few."""
        free, owing = self._owed.split(members, self._e.collect.min_results)
        for name, why in owing.items():
            if name not in row["failures"]:
                self._fail(row, row["round"], name, why)
        return free

    def _present(self, number: int) -> list[Member]:
        """The sites that are there in round `number`."""
        self._owed.free(self._roster.refresh())
        absent = self._e.collect.away
        return [member for member in self._roster.members if not away(absent.get(member.name, ""), number)]

    def _refusals(self) -> list[str]:
        """A sentence for each reason why nodes may not take part."""
        reasons = Counter(self._roster.refused.values())
        return [f"{count} node{'s' * (count > 1)} left out: {reason}" for reason, count in sorted(reasons.items())]

    def _replies(
        self,
        number: int,
        messages: Sequence[Message],
        members: Mapping[int, Member],
        row: Row,
        told: dict[str, Metrics],
        exchange: Exchange,
    ) -> Iterator[Message]:
        """Usable replies in site order; the others become failures of `row`."""
        arriving = exchange.until(self._collector.collect(self._grid, messages))
        for reply in in_order(arriving, [m.metadata.dst_node_id for m in messages]):
            member = members[reply.node]
            entry = site_entry(row, member.name, member.model, member.examples)
            for key in TRAFFIC:
                entry[key] += getattr(reply, key)
                row[key] += getattr(reply, key)
            if reply.owing:
                self._owed.add(reply.node, number)
            message, fault = self._decoded(reply)
            del reply
            if message is None:
                self._fail(row, number, member.name, fault)
                continue
            told[member.name] = _metrics(message)
            self._hooks.replied(number, member.name, None)
            yield message
            del message  # not held while the next one is awaited

    def _decoded(self, reply: Reply) -> tuple[Message | None, str]:
        """What a site said, or None and what is wrong with it."""
        if reply.fault is not None or reply.message is None:
            return None, reply.fault or "no answer"
        try:
            return self._coding.incoming(reply.message), ""
        except BadUpdate as fault:
            return None, str(fault)

    def _fail(self, row: Row, number: int, name: str, fault: str) -> None:
        row["failures"][name] = fault
        self._hooks.replied(number, name, fault)

    def _describe(self, row: Row, members: Mapping[int, Member], told: Mapping[str, Metrics]) -> None:
        for member in members.values():
            entry = site_entry(row, member.name, member.model, member.examples)
            entry["loss"] = finite(told.get(member.name, {}).get("train-loss"))
        row["failures"] = dict(sorted(row["failures"].items()))
        row["sites"] = dict(sorted(row["sites"].items()))

    def _score_server(self, progress: Progress, row: Row) -> None:
        due = row["round"] % self._e.evaluate.server_every == 0 or row["round"] == self._e.rounds
        scores = self._hooks.score_server(progress.arrays) if due else {}
        row["server_models"] = {name: accuracy for name, (accuracy, _) in scores.items()}
        row["server_accuracy"] = mean(accuracy for accuracy, _ in scores.values())
        row["server_loss"] = mean(loss for _, loss in scores.values())

    def _judge(self, row: Row) -> None:
        """What the round's knowledge was like, and whether it is about to collapse."""
        notes = self._strategy.notes() if isinstance(self._strategy, SiteStrategy) else {}
        row |= {key: finite(notes[key]) for key in ("agreement", "entropy") if key in notes}
        row["warnings"] += [*getattr(self._strategy, "troubles", ()), *collapse(notes)]

    def _sites_score(self, of: int, last: bool = False) -> bool:
        """Whether sites score the model of round `of`, while they train or on their own; the last one always."""
        every = self._e.evaluate.sites_every
        return every > 0 and (last or of % every == 0 or of == self._e.rounds)

    # ------------------------------------------------------------ rows and their ends

    def _close_previous(self, progress: Progress, told: Mapping[str, Metrics], members: Mapping[int, Member]) -> None:
        row = progress.open
        if row is None:
            return
        scores = {name: metrics for name, metrics in told.items() if "score-local-accuracy" in metrics}
        for member in members.values():
            if member.name in scores:
                site_entry(row, member.name, member.model, member.examples)
        add_scores(row, scores, row["server_models"] or None)
        progress.open = None
        self._close(progress, row)

    def _close(self, progress: Progress, row: Row) -> None:
        # `arrays` are still those of this row's round: the next round's are taken over after it closed.
        progress.close(row, progress.arrays if self._shared_model else None, self._e.stop.min_delta)
        self._hooks.closed(row)

    def _score_round(self, progress: Progress) -> None:
        """Sites score the model, where that is due, which closes the row; its bytes belong to that row."""
        row = progress.open
        told: dict[str, Metrics] = {}
        if row is None:
            return
        due = self._sites_score(row["round"], last=not self._e.evaluate.separately)
        began = time.monotonic()
        asked = self._free(self._present(row["round"]), row) if due else []
        members = {member.node: member for member in asked}
        if members:
            view = Asked(self._grid, list(members))
            messages = list(self._strategy.configure_evaluate(row["round"], progress.arrays, ConfigRecord(), view))
            messages = self._coding.outgoing(row["round"], messages, self._hooks.oldest_saved() or -1)
            for _ in self._replies(row["round"], messages, members, row, told, Exchange(self._grid)):
                pass
        took = time.monotonic() - began
        row |= {key: row.get(key, 0.0) + took for key in ("wall_s", "evaluation_s")}
        self._close_previous(progress, told, members)


def _slow_down(messages: Sequence[Message], work: Mapping[int, float]) -> None:
    for message in messages:
        node = message.metadata.dst_node_id
        if node in work:
            records: dict[str, Any] = dict(message.content)
            config = message.content.config_records.get("config", ConfigRecord())
            message.content = RecordDict({**records, "config": ConfigRecord({**config, "work": work[node]})})


def _metrics(message: Message) -> Metrics:
    return {k: v for record in records_of(message.content, MetricRecord).values() for k, v in record.items()}


def _too_few(number: int, usable: int, needed: int, failures: Mapping[str, str]) -> str:
    reasons = "; ".join(f"{site}: {reason}" for site, reason in list(failures.items())[:5])
    more = f" and {len(failures) - 5} more" if len(failures) > 5 else ""
    return f"round {number}: {usable} usable results, collect.min_results={needed}. {reasons}{more}"
