"""The observers that a run has unless it says otherwise."""

from collections.abc import Sequence
from typing import Protocol

from .observer import Observer


class Track(Protocol):
    """What of a run is told, and where: the `track` part of the configuration."""

    @property
    def console(self) -> bool: ...  # noqa: D102
    @property
    def plots(self) -> bool: ...  # noqa: D102
    @property
    def wandb(self) -> bool: ...  # noqa: D102
    @property
    def project(self) -> str: ...  # noqa: D102
    @property
    def group(self) -> str | None: ...  # noqa: D102
    @property
    def tags(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def job_type(self) -> str | None: ...  # noqa: D102


def default_observers(track: Track, log: str = "info") -> list[Observer]:
    """Console, plots with report, and W&B, as far as `track` wants them; `log` is quiet, info or debug.

    W&B comes last because it uploads what the others leave in the run's folder.
    """
    from .console import ConsoleObserver
    from .report import ReportObserver
    from .wandb import WandbObserver

    observers: list[Observer] = []
    if track.console:
        observers.append(ConsoleObserver(log=log))
    if track.plots:
        observers.append(ReportObserver())
    if track.wandb:
        observers.append(
            WandbObserver(track.project, group=track.group, job_type=track.job_type, tags=tuple(track.tags))
        )
    return observers
