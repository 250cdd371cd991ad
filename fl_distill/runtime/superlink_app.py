"""The ServerApp of a run that `runtime=superlink` submitted: its folder is watched, its requests are few."""

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from ..errors import ConfigError, RunStopped
from ..jobs import orders
from ..server_app import serve
from .deployed import Deployed
from .envelope import Sealing

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """What a SuperLink starts."""
    try:
        asked = orders(context)
        grid = Sealing(Deployed.over(grid))
        serve(grid, asked.job, resume=asked.resume, relay=True, registered=asked.registered)
    except (ConfigError, RunStopped) as error:
        raise SystemExit(f"fl-distill: {error}") from error
