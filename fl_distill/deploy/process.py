"""The process of a site that does the work: `python -m fl_distill.deploy.process FOLDER`, started by `site start`."""

import logging
import signal
import sys
from functools import partial
from pathlib import Path
from types import FrameType

from ..client_app import app
from ..runtime.link import linked
from ..runtime.node import Node
from ..runtime.patience import Reasons
from .joining import Barred, Joining
from .processes import BARRED
from .settings import read_site


def main(folder: Path) -> int:
    """Serve until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("flwr").handlers.clear()  # its lines come through the root's handler, once
    log = logging.getLogger("fl_distill.site")
    log.setLevel(logging.DEBUG)  # whole texts of errors belong in the site's log
    signal.signal(signal.SIGTERM, _stop)
    site, reasons = read_site(folder), Reasons(log.warning)
    node = Node(app, site.settings, site.state, site.online, site.name)
    connect = partial(linked, site.address, site.ca, site.key, reasons)
    try:
        Joining(site, connect, node.run, reasons).stay()
    except KeyboardInterrupt:
        return 0
    except Barred as barred:
        print(f"fl-distill: stopped: {barred}", file=sys.stderr)
        return BARRED


def _stop(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
