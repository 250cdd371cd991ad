"""Sites in this machine's processes, without Ray."""

from collections.abc import Callable
from contextlib import closing
from typing import TypeVar

from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from ..config.schema import Runtime
from .carrier import carrier

T = TypeVar("T")


def run_locally(app: ClientApp, serve: Callable[[Grid], T], *, nodes: int, runtime: Runtime, abreast: int = 1) -> T:
    """Run `serve(grid)` with `nodes` sites served by `runtime.workers` processes; returns what it returns.

    `abreast`: see `carrier`.
    """
    from .packing import Packing
    from .process_grid import ProcessGrid

    workers = min(nodes, runtime.workers)
    if not workers:
        with ProcessGrid(app, nodes=nodes, workers=0, threads=runtime.threads) as grid:
            return serve(grid)
    app = carrier(app, nodes, abreast)
    below = ProcessGrid(app, nodes=workers, workers=workers, threads=runtime.threads, patience_s=0.0)
    with below, closing(Packing(below, sites=nodes, workers=workers, worth_s=0.01)) as packing:
        return serve(packing)
