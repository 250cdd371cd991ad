"""The process of a site that does the work: `python -m fl_distill.deploy.process FOLDER`, started by `site start`."""

import logging
import signal
import sys
from pathlib import Path
from types import FrameType

from ..client_app import app
from ..runtime.node import Node, serve
from .settings import read_site


def main(folder: Path) -> None:
    """Serve until SIGTERM or SIGINT; Flower's own words on standard output explain a refusal."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("flwr").handlers.clear()  # its lines come through the root's handler, once
    logging.getLogger("fl_distill.site").setLevel(logging.DEBUG)  # whole texts of errors belong in the site's log
    signal.signal(signal.SIGTERM, _stop)
    site = read_site(folder)
    try:
        serve(Node(app, site.settings, site.state, site.online, site.name), site.address, site.ca, site.key)
    except KeyboardInterrupt:
        sys.exit(0)


def _stop(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main(Path(sys.argv[1]))
