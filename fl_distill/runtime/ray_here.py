"""Ray, begun early: its processes start while this one still imports what a simulation needs.

They end with the thread that started them, which therefore stays until `end`.
"""

import logging
import os
import sys
import threading
from dataclasses import dataclass, field

from ..errors import ConfigError


@dataclass
class _Start:
    """Ray on its way up, and what came of it."""

    address: str | None
    debug: bool
    up: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None

    def run(self) -> None:
        """Start Ray where it is not running, then wait for the end."""
        try:
            _init(self.address, self.debug)
        except BaseException as error:  # raised by `resources`, in the thread that asks
            self.error = error
        finally:
            self.up.set()
        self.over.wait()


_started: _Start | None = None


def begin(address: str | None, *, debug: bool = False) -> None:
    """Start Ray, or reach the cluster at `address`, in the background; nothing where that was begun."""
    global _started
    if _started is None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(filter(None, sys.path)))
        _started = _Start(address, debug)
        threading.Thread(target=_started.run, name="ray", daemon=True).start()


def resources(address: str | None, *, debug: bool = False) -> dict[str, float]:
    """What Ray has of CPUs, GPUs and the like, once it is up; raises what its start raised."""
    begin(address, debug=debug)
    assert _started is not None
    _started.up.wait()
    if _started.error is not None:
        raise _started.error
    import ray

    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return found


def end() -> None:
    """Stop Ray, or leave the cluster, where `begin` was called; whoever had connected before is cut off too."""
    global _started
    started, _started = _started, None
    if started is not None:
        started.up.wait()
        ray = sys.modules.get("ray")  # it may not even be installed
        try:
            if ray is not None and ray.is_initialized():
                ray.shutdown()
        finally:
            started.over.set()


def _init(address: str | None, debug: bool) -> None:
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ConfigError("runtime=simulation needs Ray: pip install 'flwr[simulation]', or runtime=local") from error
    # The main thread handles signals, and Ray need not say that it does not.
    logging.getLogger("ray._private.worker").addFilter(lambda record: "SIGTERM handler" not in record.getMessage())
    if not ray.is_initialized():
        ray.init(
            # Ray's own default would go for the address that a cluster left on this disk, though it may be gone.
            address=address or os.environ.get("RAY_ADDRESS") or "local",
            include_dashboard=False,
            configure_logging=debug,
            logging_level=logging.INFO if debug else logging.CRITICAL,
            log_to_driver=debug,
        )
