"""A federation of four hospitals on this machine, from certificates to results: `python scripts/examples/hospitals.py`.

Each hospital is a process of its own that reads only its own CSV, has an architecture of its own and lets only logits
leave; the SuperLink is reached over TLS by registered keys. First FedMD; then, when the hospitals have changed their
policies, FedAvg with a coded way up and down. Every step is one command, printed as it is run.
"""

import argparse
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

HERE = Path(__file__).resolve().parent
FL_DISTILL = str(Path(sys.executable).with_name("fl-distill"))
MODELS = {"cleveland": "tabular", "hungarian": "mlp", "switzerland": "tabular_wide", "va": "linear"}
FEDMD = (
    *("experiment=heart", "strategy=fedmd", "rounds=5", "sites=4", "dataset.standardise=public"),
    *("evaluate.alone=false", "track.plots=false"),
)
FEDAVG = (
    *("dataset=heart_disease", "strategy=fedavg", "model=tabular", "rounds=5", "sites=4"),
    *("dataset.standardise=public", "codec.up=step", "codec.down=step", "track.plots=false"),
)


def run(*line: str | Path, **environment: str) -> None:
    """Run a command to its end, shown as a user would type it."""
    print(f"\n$ {shlex.join(map(str, line))}", flush=True)
    subprocess.run(list(map(str, line)), check=True, env=os.environ | environment, timeout=240)


@contextmanager
def running(*line: str | Path, log: Path) -> Iterator[None]:
    """Run a command beside the others until the block ends, then ask it to stop."""
    print(f"\n$ {shlex.join(map(str, line))} &", flush=True)
    with log.open("wb") as out:
        process = subprocess.Popen(list(map(str, line)), stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield
    except BaseException:
        print(f"--- {log}:\n{log.read_text(errors='replace')[-3000:]}", flush=True)
        raise
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # nobody shall be left
        process.wait(10)


def listening(port: int) -> None:
    """Wait for a server on this machine."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.2)
    raise TimeoutError(f"nothing listens on port {port}")


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses at the moment."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for found in sockets:
            found.bind(("127.0.0.1", 0))
        return [int(found.getsockname()[1]) for found in sockets]


def site_yaml(place: Path, name: str, model: str, port: int, leaves: Sequence[str], strategies: Sequence[str]) -> str:
    """What a hospital decides for itself."""
    return f"""\
name: {name}
federation: {{address: "localhost:{port}", ca: ca.pem, key: key, port: null}}
model: {model}
dataset: {{path: {place}/data/sites/{name}.csv}}
public_dataset: {place}/data/public.csv
test_dataset: {place}/data/test.csv
limits: {{epochs: 10, rounds: 100}}
policy:
  may_leave: [{", ".join(leaves)}]
  strategies: [{", ".join(strategies)}]
  min_examples: 5
  largest_message: 1MB
"""


def federate(source: Path, place: Path) -> None:
    """All of it; the results are in `place`/fedmd and `place`/fedavg."""
    proxy, superlink = free_ports(2)
    federation, shared = place / "federation", ["public_dataset", "test_dataset"]
    files = [f"{name}={place}/data/{name.partition('_')[0]}.csv" for name in shared]
    run(sys.executable, HERE.parent / "share_tables.py", source, place / "data", "--public", "0.2", "--test", "0.2")
    ports = ("--port", str(proxy), "--superlink-port", str(superlink))
    run(FL_DISTILL, "federation", "new", federation, "--host", "localhost", "--name", "hearts", *ports)
    with ExitStack() as stack:
        stack.enter_context(running(FL_DISTILL, "federation", "start", federation, log=place / "superlink.log"))
        listening(superlink)
        for name, model in MODELS.items():
            site, address = place / name, f"localhost:{superlink}"  # without a proxy, on this machine alone
            run(FL_DISTILL, "site", "new", site, "--name", name, "--federation", address, "--ca", federation / "ca.pem")
            run(FL_DISTILL, "federation", "register", federation, site / "key.pub", "--name", name)
            (site / "site.yaml").write_text(site_yaml(place, name, model, superlink, ["logits"], ["fedmd"]))
            stack.enter_context(running(FL_DISTILL, "site", "start", site, log=place / f"{name}.log"))
        connection = ["runtime=superlink", f"runtime.connection={federation}", "collect.join_s=120"]
        run(FL_DISTILL, *connection, *FEDMD, *files, f"hydra.run.dir={place}/fedmd")
        for name in MODELS:
            text = site_yaml(place, name, "tabular", superlink, ["logits", "weights"], ["fedmd", "fedavg"])
            (place / name / "site.yaml").write_text(text)
        run(FL_DISTILL, *connection, *FEDAVG, *files, f"hydra.run.dir={place}/fedavg")


def main() -> None:
    """Find the data, make a folder, run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("FL_DISTILL_DATA", "data")) / "heart_disease")
    parser.add_argument("--folder", type=Path, help="where everything is left (default: a temporary one)")
    asked = parser.parse_args()
    if absent := [name for name in MODELS if not (asked.data / f"{name}.csv").is_file()]:
        print(
            f"{asked.data} lacks {', '.join(f'{name}.csv' for name in absent)}: put the heart disease files there, or "
            "say --data FOLDER (or FL_DISTILL_DATA, whose folder heart_disease is taken)",
            file=sys.stderr,
        )
        sys.exit(2)
    with tempfile.TemporaryDirectory() as made:
        try:
            federate(asked.data.resolve(), (asked.folder or Path(made)).resolve())
        except subprocess.CalledProcessError as error:
            sys.exit(f"`{shlex.join(error.cmd)}` ended with exit code {error.returncode}; why stands above")


if __name__ == "__main__":
    main()
