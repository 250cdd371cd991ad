"""The price of a round across real processes: this package's sites beside stock SuperNodes, which do nothing.

    python scripts/bench/deployment.py

Four sites on this machine, TLS and registered keys for both. Stock: Flower's FedAvg, `flower-supernode`, a small model
that comes back as it went. Ours: FedAvg with one step of training on an MLP; the work of the slowest site, as it says
itself, is taken off. Both use one SuperLink, one after the other.
"""

import json
import os
import re
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "examples"))

from hospitals import FL_DISTILL, free_ports, listening, run, running  # noqa: E402

SITES, ROUNDS = 4, 10
BIN = Path(sys.executable).parent
WORK = re.compile(r"train[.\w]*: ([0-9.]+) s")


def stock(place: Path, federation: Path, address: str, names: list[str]) -> list[float]:
    """Seconds of each round of stock Flower."""
    out = place / "stock.json"
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "FLWR_HOME": str(federation / "flwr")}
    os.environ.update(quiet, PATH=f"{BIN}{os.pathsep}{os.environ['PATH']}")
    with ExitStack() as stack:
        for name, port in zip(names, free_ports(SITES), strict=True):
            node = [BIN / "flower-supernode", "--superlink", address, "--root-certificates", federation / "ca.pem"]
            node += ["--auth-supernode-private-key", place / name / "key", "--port", str(port)]
            stack.enter_context(running(*node, log=place / f"stock-{name}.log"))
        time.sleep(10)
        values = f'rounds={ROUNDS} out="{out}"'
        run(BIN / "flwr", "run", HERE / "stock", "--run-config", values, "--stream")
    ends = json.loads(out.read_text())
    return [later - earlier for earlier, later in pairwise(ends)]


def ours(place: Path, federation: Path, names: list[str]) -> tuple[list[float], float]:
    """Seconds of each round of this package, and the most work that a site had in one."""
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(running(FL_DISTILL, "site", "start", place / name, log=place / f"{name}.log"))
        words = ["runtime=superlink", f"runtime.connection={federation}", "runtime.parts=true", f"sites={SITES}"]
        words += ["strategy=fedavg", "model=mlp", f"rounds={ROUNDS}", "local.steps=1", "track.plots=false"]
        words += ["collect.join_s=90", "evaluate.sites_every=0", "checkpoint.every=100"]
        run(FL_DISTILL, *words, f"hydra.run.dir={place}/run")
    rows = [json.loads(line) for line in (place / "run" / "rounds.jsonl").read_text().splitlines()]
    works = [[float(s) for s in WORK.findall((place / f"{name}.log").read_text())] for name in names]
    return [row["wall_s"] for row in rows], max(statistics.median(found) for found in works)


def main() -> None:
    """Both, and a table of medians; the first round, which loads the data, is left out."""
    with tempfile.TemporaryDirectory() as made, ExitStack() as stack:
        place, (proxy, port) = Path(made), free_ports(2)
        federation, names = place / "federation", [f"site-{number}" for number in range(SITES)]
        ports = ("--port", str(proxy), "--superlink-port", str(port))
        run(FL_DISTILL, "federation", "new", federation, "--host", "localhost", *ports)
        stack.enter_context(running(FL_DISTILL, "federation", "start", federation, log=place / "superlink.log"))
        listening(port)
        for number, name in enumerate(names):
            site, ca = place / name, federation / "ca.pem"
            address = f"localhost:{port}"
            run(FL_DISTILL, "site", "new", site, "--name", name, "--federation", address, "--ca", ca)
            run(FL_DISTILL, "federation", "register", federation, site / "key.pub", "--name", name)
            text = f"name: {name}\npart: {number}\nfederation: {{address: {address!r}, ca: ca.pem, key: key}}\n"
            (site / "site.yaml").write_text(f"{text}policy: {{may_leave: [weights]}}\n")
        walls, work = ours(place, federation, names)
        theirs = stock(place, federation, f"localhost:{port}", names)
    mine = statistics.median(walls[1:]) - work
    print(f"\n{'':<12}seconds a round beyond the slowest site's work, median of {ROUNDS - 1}")
    print(f"{'stock':<12}{statistics.median(theirs[1:]):.2f}")
    print(f"{'fl-distill':<12}{mine:.2f}  (work {work:.2f})")


if __name__ == "__main__":
    main()
