"""Which job a Flower context is about: of a simulation, of `flwr run` on a folder, of a site with a `site.yaml`."""

import json
import os
import re
import shlex
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from flwr.app import Context

from .config.compose import composed
from .errors import ConfigError, DataError
from .policy import Refused, compose_request, read
from .registered import Registered, nodes
from .workplace import job_text, workplace

JobOf = Callable[[Context], str]

SITE_FILE = "site-config"
"""Key of a node's configuration: the path of its `site.yaml`."""
ORDERS = "server.json"
"""What a submitter leaves in the run folder for the ServerApp."""

IN_USE_S = 86_400.0
"""For how long after its last message a run may still go on."""

_NAME = re.compile(r"[0-9a-f]{8,64}")


def job_is(text: str) -> JobOf:
    """The same job for every context: simulations inside one process."""
    return partial(_constant, text)


def _constant(text: str, _: Context) -> str:
    return text


def site_job(context: Context) -> str:
    """The job of a node that a SuperLink asks: by its own `site.yaml`, or as in a simulation of all sites."""
    overrides, site_file = str(context.run_config.get("overrides", "")), context.node_config.get(SITE_FILE)
    if site_file is not None:
        path, run = Path(str(site_file)), str(context.run_config.get("job") or f"{context.run_id:08x}")
        job = _own_job(path, path.stat().st_mtime_ns, overrides, run)
        os.utime(workplace(job).folder)  # in use: nothing may forget it now
        return job
    if context.run_config.get("job"):
        raise Refused(f"a node without a site.yaml: start it with --node-config '{SITE_FILE}=\"PATH\"'")
    return run_job(context)


def run_job(context: Context) -> str:
    """The job that `flwr run --run-config 'overrides="…"'` describes, for its server and its sites alike."""
    overrides, config_dir = (str(context.run_config.get(key, "")) for key in ("overrides", "config-dir"))
    return _composed_job(overrides, config_dir, context.run_id)


@dataclass(frozen=True)
class Orders:
    """What a submitter wants of the ServerApp."""

    job: str
    resume: bool
    registered: Registered


def orders(context: Context) -> Orders:
    """What a submitter left in the run folder for the ServerApp."""
    folder = Path(str(context.run_config["folder"]))
    said = json.loads((folder / ORDERS).read_text(encoding="utf-8"))
    job = job_text(said["config"], folder, server_of(said["config"]))
    return Orders(job, bool(said["resume"]), partial(nodes, Path(said["sites"])) if said.get("sites") else None)


def server_of(config: Mapping[str, Any]) -> str | None:
    """As whom the server of a run sees the data: as one without any where real sites hold their own."""
    runtime = config["runtime"]
    return "" if runtime["kind"] == "superlink" and not runtime.get("parts") else None


@lru_cache(maxsize=4)
def _own_job(path: Path, _: int, overrides: str, run: str) -> str:
    if not _NAME.fullmatch(run):
        raise Refused("the job's name is none: 8 to 64 hexadecimal digits")
    own = read(path)
    try:
        config = compose_request(overrides, own)
    except DataError:
        raise
    except ConfigError as error:
        fault = error.faults[0]
        if any(str(value) in fault for value in own.overrides().values() if isinstance(value, str)):
            raise  # it speaks of what is the site's own
        raise Refused(f"{own.name}: the request does not fit what is installed here: {fault}") from error
    except Refused as refused:
        raise Refused(f"{own.name}: {refused}") from refused
    folder = own.folder / "runs" / run
    folder.mkdir(parents=True, exist_ok=True)
    _forget(folder, own.keep_runs)
    participant = own.name if own.part is None else None
    return job_text(config, folder, participant, own.part, asdict(own.policy), asdict(own.limits))


def _forget(current: Path, keep: int) -> None:
    """Drop what the site remembers of all but its `keep` newest runs, unless it was in use within a day."""
    others = [path for path in current.parent.iterdir() if path.is_dir() and path != current]
    for old in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True)[keep - 1 :]:
        if time.time() - old.stat().st_mtime > IN_USE_S:
            shutil.rmtree(old, ignore_errors=True)


@lru_cache(maxsize=4)
def _composed_job(overrides: str, config_dir: str, run_id: int) -> str:
    config, _ = composed(shlex.split(overrides), config_dir or None)
    if config["resume"]:
        raise ConfigError("resume continues a run of this machine: use `fl-distill resume=<folder>`, not `flwr run`")
    return job_text(config, bundle_folder(run_id))


def bundle_folder(run_id: int) -> Path:
    """Where a run that `flwr run` started leaves its files, seen from server and simulated sites alike."""
    return Path.home() / ".fl-distill" / "runs" / str(run_id)
