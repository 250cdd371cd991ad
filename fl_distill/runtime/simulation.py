"""Sites in Flower's simulation engine: Ray actors on this machine or on a cluster."""

import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from ..config.schema import Runtime
from ..errors import ConfigError, RunStopped
from . import ray_here
from .carrier import carrier
from .packing import Packing

STAY_S = 10.0
"""How long a worker stays between two rounds; Flower's engine takes a tenth of a second for what is sent anew."""
T = TypeVar("T")
Serve = Callable[[Grid, Callable[[], None]], T]


def simulate(
    client_app: ClientApp, serve: Serve[T], *, nodes: int, runtime: Runtime, abreast: int = 1, debug: bool = False
) -> T:
    """Run `serve(grid, check)` as the ServerApp of a simulation with `nodes` sites; returns what it returns.

    The engine sees a few nodes, which carry the messages of all sites (see `packing`); `abreast`: see `carrier`.

    `check` raises once the engine is gone, so that nothing waits for replies that cannot come. What `serve` raises is
    raised here again, in the thread that called.
    """
    try:
        ray_here.begin(runtime.address, debug=debug)
        import_module("flwr.simulation")  # takes about as long as Ray's start
        workers = min(nodes, _fitting(runtime, debug))
        engine = {"backend_config": {"client_resources": _resources(runtime)}, "verbose_logging": debug}
        return _served(carrier(client_app, nodes, abreast), serve, nodes, workers, engine)
    finally:
        ray_here.end()


def _served(client_app: ClientApp, serve: Serve[T], nodes: int, workers: int, engine: dict[str, Any]) -> T:
    from flwr.simulation import run_simulation

    results: list[T] = []
    failures: list[BaseException] = []
    gone = threading.Event()
    done = threading.Event()

    def check() -> None:
        if gone.is_set():
            raise RunStopped("Flower's simulation engine ended before the run did")

    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            packing = Packing(grid, sites=nodes, workers=workers, stay_s=STAY_S, check=check)
            try:
                results.append(serve(packing, check))
            finally:
                packing.close()
        except BaseException as error:  # handed to the caller's thread, interrupts too
            failures.append(error)
        finally:
            done.set()

    try:
        run_simulation(server_app=server, client_app=client_app, num_supernodes=workers, **engine)
    except Exception as error:
        failures.append(RunStopped(f"Flower's simulation engine failed: {error}"))
    finally:
        gone.set()
        done.wait(timeout=30)
    if failures:
        raise failures[0]
    return results[0]


def _resources(runtime: Runtime) -> dict[str, Any]:
    # Ray hands these to `.options()` of each actor: with max_restarts a worker that dies comes back, where Flower by
    # itself would go on giving messages to the dead one.
    return {"num_cpus": runtime.cpus_per_site, "num_gpus": runtime.gpus_per_site, "max_restarts": -1}


def _fitting(runtime: Runtime, debug: bool) -> int:
    """How many sites fit on Ray at a time, once it is up."""
    resources = ray_here.resources(runtime.address, debug=debug)
    cpus, gpus = (float(resources.get(kind, 0.0)) for kind in ("CPU", "GPU"))
    if runtime.cpus_per_site > cpus or runtime.gpus_per_site > gpus:
        raise ConfigError(
            f"runtime: a site needs {runtime.cpus_per_site:g} CPUs and {runtime.gpus_per_site:g} GPUs, Ray has "
            f"{cpus:g} and {gpus:g}: lower runtime.cpus_per_site or runtime.gpus_per_site"
        )
    fitting = cpus / runtime.cpus_per_site
    return int(min(fitting, gpus / runtime.gpus_per_site) if runtime.gpus_per_site else fitting)
