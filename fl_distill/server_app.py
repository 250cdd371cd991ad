"""The Flower ServerApp: wiring between a job, a strategy, the round loop and what a run leaves behind."""

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from torch import Tensor

from . import __version__
from .checkpoint import Checkpoints, Saved
from .codec import decode, encode
from .collect import Collector, never
from .errors import ConfigError, RunStopped, told
from .final_models import keep_models
from .jobs import run_job
from .learning import evaluate
from .progress import NOTED, Progress
from .registered import Registered
from .roster import Member, Roster
from .rounds import Hooks, Rounds
from .store import SiteStore
from .strategies import Coding, Facts, SiteStrategy
from .summary import summarise
from .targets import call
from .tracking import (
    Observer,
    Observers,
    RoundLog,
    Row,
    RunInfo,
    SiteInfo,
    Status,
    Summary,
    default_observers,
    write_json_atomic,
    write_summary,
)
from .tracking.relay import Relay
from .workplace import Workplace, workplace


def serve(
    grid: Grid,
    job: str,
    *,
    check_stop: Callable[[], None] = never,
    poll_s: float = 0.05,
    resume: bool = False,
    relay: bool = False,
    registered: Registered = None,
) -> Summary:
    """Run a job to its end on a grid; returns what `summary.json` holds.

    With `relay` another process shows what happens: it goes to a file instead of the console. `registered` says which
    node may bear which name; without it a name is that of the first who takes it.

    Raises `RunStopped` when the run cannot go on, after everything was saved, and whatever `check_stop` raises.
    """
    place = workplace(job)
    place.check()
    return _Server(grid, place, check_stop, poll_s, resume, relay, registered).run()


class _Server:
    def __init__(
        self,
        grid: Grid,
        place: Workplace,
        check_stop: Callable[[], None],
        poll_s: float,
        resume: bool,
        relay: bool,
        registered: Registered,
    ) -> None:
        e = place.experiment
        self._relay = [Relay(place.folder)] if relay else []
        self._grid, self._place, self._e, self._stop = grid, place, e, check_stop
        self._strategy: SiteStrategy = call(e.strategy)
        self._collector = Collector(e.collect.timeout_s, e.collect.grace_s, e.collect.min_results, poll_s, check_stop)
        # Saying who one is may include loading the data: no grace, and at least the time given for joining.
        patient = replace(self._collector, grace_s=None, timeout_s=max(e.collect.timeout_s, e.collect.join_s))
        # Where the server averages weights it must know every architecture; otherwise a site's model is its own affair.
        models = e.raw["model_specs"].keys() if self._strategy.has_server_model else None
        self._roster = Roster(grid, patient, place.federation.classes, place.public_fingerprint, models, registered)
        self._strategy.meet(self._facts())
        self._coding = Coding(
            e.codec,
            seed=e.seed,
            weights=self._strategy.has_server_model,
            changes=self._strategy.changes,
            rows=self._strategy.rows,
            name_of=lambda node: self._roster.sender(node).name,
        )
        self._checkpoints = Checkpoints(place.folder / "checkpoints", e.checkpoint.keep)
        self._log = RoundLog(place.folder)
        self._saved = self._checkpoints.newest() if resume else None
        self._observers = Observers(self._relay)

    def _facts(self) -> Facts:
        place = self._place
        return Facts(
            trainable=self._trainable(),
            classes=len(place.federation.classes),
            seed=self._e.seed,
            public=place.federation.public if place.uses_public else None,
            sender=lambda node: self._roster.sender(node),
            model=place.fresh_model,
            default=place.model_name(0),
        )

    def _trainable(self) -> frozenset[str]:
        if not self._strategy.has_server_model or self._strategy.mixes:
            return frozenset()
        model = self._place.model(self._place.model_name(0))
        return frozenset(name for name, p in model.named_parameters() if p.requires_grad)

    def run(self) -> Summary:
        progress, again = Progress(0, ArrayRecord()), f"fl-distill resume={self._place.folder}"
        status: Status = "failed"
        reason, refused = "", False
        try:
            progress = self._start()
            reason, status = self._rounds().run(progress), "finished"
            self._keep_models(progress)
        except RunStopped as stop:
            status, reason = "stopped", str(stop)
            raise
        except ConfigError:
            refused = True  # found in the first round: there is nothing to sum up or to resume
            raise
        except KeyboardInterrupt:
            status, reason = "interrupted", f"interrupted; resume it with {again}"
            raise
        except Exception as error:
            status, reason = "failed", f"{type(error).__name__}: {error}"
            if not isinstance(error, OSError) or isinstance(error, ConnectionError | TimeoutError):
                raise
            status, reason = "stopped", f"cannot write the run folder: {error}. Free space, then {again}"
            raise RunStopped(reason) from error
        finally:
            summary = self._summary(progress, status, reason)
            if not refused:
                self._finish(summary, status)
            self._observers.close()
        return summary

    def _rounds(self) -> Rounds:
        """The loop, once the sites are there and the observers know them."""
        e = self._e
        self._roster.wait_for(self._place.sites, e.collect.min_sites, e.collect.join_s, self._stop)
        self._observers = self._observe()
        hooks = Hooks(self._score, self._closed, self._save, self._checkpoints.oldest, self._observers.site_replied)
        return Rounds(e, self._strategy, self._coding, self._grid, self._roster, self._collector, hooks)

    # ------------------------------------------------------------ start

    def _start(self) -> Progress:
        folder = self._place.folder
        folder.mkdir(parents=True, exist_ok=True)
        if self._saved is None:
            self._log.truncate(0)
            # What another run left in this folder, no resumption may take for this one's.
            self._checkpoints.drop_after(0)
            shutil.rmtree(folder / "sites", ignore_errors=True)
        write_json_atomic(folder / "job.json", {"version": __version__, "config": self._e.raw})
        self._write_config(folder)
        if self._saved is None:
            return Progress(0, self._initial())
        saved, notes = self._saved, self._saved.notes
        self._strategy.restore(saved.strategy)
        self._coding.restore(saved.codec)
        self._checkpoints.drop_after(saved.round)
        self._log.truncate(notes["logged"])
        return Progress(
            round=saved.round,
            arrays=encode(saved.arrays, bare=not self._strategy.has_server_model),
            best_arrays=encode(saved.selected) if saved.selected else None,
            **{key: notes[key] for key in NOTED if key in notes},
        )

    def _initial(self) -> ArrayRecord:
        if not self._strategy.has_server_model or self._strategy.mixes:
            return ArrayRecord()
        return encode(self._place.initial(self._place.model_name(0)))

    def _write_config(self, folder: Path) -> None:
        import yaml

        shown = {k: v for k, v in self._e.raw.items() if k != "model_specs"}
        (folder / "config.yaml").write_text(yaml.safe_dump(shown, sort_keys=False), encoding="utf-8")

    def _observe(self) -> Observers:
        members: Sequence[Member] = self._roster.members
        info = RunInfo(
            folder=self._place.folder,
            config=dict(self._e.raw),
            name=f"{self._e.raw['names']['strategy']}-{self._e.raw['names']['dataset']}-{self._e.seed}",
            sites={m.name: _site_info(m) for m in members},
            classes=self._place.federation.classes,
            resumed_from=self._saved.round if self._saved else None,
            tracker_ids=self._saved.notes["trackers"] if self._saved else {},
        )
        extra: list[Observer] = [call({"_target_": path}) for path in self._e.track.observers]
        track = replace(self._e.track, console=False) if self._relay else self._e.track
        observers = Observers([*default_observers(track, self._e.log), *extra, *self._relay])
        observers.started(info)
        return observers

    # ------------------------------------------------------------ what the loop calls

    def _models(self, arrays: ArrayRecord) -> dict[str, Mapping[str, Tensor]]:
        """The server's models by architecture."""
        return {name or self._place.model_name(0): w for name, w in self._strategy.models(arrays).items()}

    def _score(self, arrays: ArrayRecord) -> dict[str, tuple[float, float]]:
        device, threads, scores = self._e.local.device, self._e.runtime.cores, {}  # while the sites wait
        for name, weights in self._models(arrays).items():
            model = self._place.model(name)
            model.load_state_dict(dict(weights))
            score = evaluate(model.to(device), self._place.federation.test, device=device, threads=threads)
            scores[name] = score.accuracy, score.loss
        return scores

    def _closed(self, row: Row) -> None:
        self._log.append(row)
        self._observers.round_done(row)

    def _save(self, progress: Progress) -> None:
        notes = {key: getattr(progress, key) for key in NOTED} | {"trackers": self._observers.state()}
        best = progress.best_arrays
        self._checkpoints.save(
            Saved(
                round=progress.round,
                arrays=decode(progress.arrays),
                strategy=self._strategy.state(),
                selected=decode(best) if best is not None else {},
                codec=self._coding.state(),
                notes=notes,
            )
        )

    # ------------------------------------------------------------ the end

    def _keep_models(self, progress: Progress) -> None:
        arrays, selected = progress.arrays, progress.best_arrays or progress.arrays
        keep_models(
            self._place.folder / "models",
            self._models(arrays),
            self._models(selected) if self._strategy.has_server_model else {},
            {member.name: member.model for member in self._roster.members},
            lambda name: SiteStore(self._place.folder / "sites", name).load(before=progress.round + 1),
        )

    def _summary(self, progress: Progress, status: str, reason: str) -> Summary:
        return summarise(
            self._e, progress, self._roster, status, reason, sites=self._place.sites, layers=self._coding.layers
        )

    def _finish(self, summary: Summary, status: Status) -> None:
        try:
            write_summary(self._place.folder, summary)
        except OSError as error:
            summary["reason"] = f"{summary['reason']} (summary.json could not be written: {error})"
        self._observers.finished(summary, status)


def _site_info(member: Member) -> SiteInfo:
    return SiteInfo(member.model, member.examples, member.label_counts)


app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """What a SuperLink starts."""
    try:
        serve(grid, run_job(context))
    except (ConfigError, RunStopped) as error:
        print(f"fl-distill: {told(error)}", file=sys.stderr, flush=True)
        raise  # Flower's simulation engine takes a SystemExit for success
