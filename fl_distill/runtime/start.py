"""One experiment, any runtime: from composed configuration to the summary of a run."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from flwr.serverapp import Grid

from ..client_app import make_app
from ..config.experiment import typed
from ..config.notes import notes
from ..errors import ConfigError
from ..jobs import job_is, server_of
from ..server_app import serve
from ..tracking import Observers, Summary, default_observers
from ..workplace import job_text, workplace

ABREAST = 32
"""Sites whose training is one stack, at most."""


def run(config: dict[str, Any], folder: Path, *, resume: bool = False, overrides: Sequence[str] = ()) -> Summary:
    """Run the experiment that `config` (composed, plain values) describes, and leave its results in `folder`.

    `overrides` are those that it was composed of: all that real sites hear of it.
    Raises `ConfigError` before anything starts, `RunStopped` when the run cannot go on, KeyboardInterrupt on SIGINT
    or SIGTERM, after the run was left in a state that can be resumed.
    """
    experiment = typed(config)
    _quiet(debug=experiment.log == "debug")
    job = job_text(config, folder.resolve(), server_of(config))
    place = workplace(job)
    place.check()
    for note in notes(experiment):
        print(f"note: {note}", file=sys.stderr)
    _make(folder)
    if experiment.runtime.kind == "superlink":
        from .superlink import run_on_superlink

        console = Observers(
            [o for o in default_observers(replace(experiment.track, plots=False, wandb=False), experiment.log)]
        )
        with _interruptible() as check_stop:
            return run_on_superlink(config, folder, overrides, console, check_stop, resume)
    nodes = len(place.federation.names)
    app, runtime = make_app(job_is(job)), experiment.runtime
    abreast = ABREAST if runtime.threads == 1 and any(place.together) else 1
    with _interruptible() as check_stop:
        if runtime.kind == "local":
            from .local import run_locally

            server_here = _serving(job, check_stop, 0.01, resume)
            return run_locally(app, server_here, nodes=nodes, runtime=runtime, abreast=abreast)
        from .simulation import simulate

        def server(grid: Grid, check_engine: Callable[[], None]) -> Summary:
            def check() -> None:
                check_stop()
                check_engine()

            return _serving(job, check, 0.1, resume)(grid)

        return simulate(app, server, nodes=nodes, runtime=runtime, abreast=abreast, debug=experiment.log == "debug")


def _serving(job: str, check: Callable[[], None], poll_s: float, resume: bool) -> Callable[[Grid], Summary]:
    return lambda grid: serve(grid, job, check_stop=check, poll_s=poll_s, resume=resume)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the run folder {folder}: {error.strerror}; set hydra.run.dir") from error
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"the run folder {folder} is read-only; set hydra.run.dir to one that is not")


@contextmanager
def _interruptible() -> Iterator[Callable[[], None]]:
    """The first SIGINT or SIGTERM ends the run at the next safe point, a second one at once."""
    asked = threading.Event()

    def ask(number: int, frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    def check() -> None:
        if asked.is_set():
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _quiet(debug: bool) -> None:
    """Hide Flower's own messages: what matters of them is said by this package."""
    logging.getLogger("flwr").setLevel(logging.DEBUG if debug else logging.CRITICAL + 1)
    if debug:
        logging.getLogger("fl_distill").setLevel(logging.DEBUG)
