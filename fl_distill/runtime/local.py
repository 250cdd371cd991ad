"""Sites in this machine's processes, without Ray."""

from collections.abc import Callable
from typing import TypeVar

from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from ..config.schema import Runtime

T = TypeVar("T")


def run_locally(client_app: ClientApp, serve: Callable[[Grid], T], *, nodes: int, runtime: Runtime) -> T:
    """Run `serve(grid)` with `nodes` sites served by `runtime.workers` processes; returns what it returns."""
    from .process_grid import ProcessGrid

    with ProcessGrid(client_app, nodes=nodes, workers=runtime.workers, threads=runtime.threads) as grid:
        return serve(grid)
