"""Weights & Biases: one run per experiment, offline without a key, and never in the way."""

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, final
from urllib.parse import urlsplit

from . import text
from .coded import layers
from .groups import comparable, of_run
from .jsonl import strict
from .observer import Observer, Row, RunInfo, Status, Summary

INIT_S = 10.0
"""How long the service may take to answer before the run is kept offline."""
FINISH_S = 120.0
"""How long the upload at the end may take; what is left stays on disk for `wandb sync`."""
MODELS_BYTES = 100_000_000
"""Models of sites are uploaded only where all of them together are smaller than this."""
_SITE_KEYS = ("loss", "test_accuracy", "alone_accuracy", "local_accuracy", "bytes_up", "bytes_down")
_COUNTED = ("failures", "warnings")
_APART = ("sites", "codec")
"""Maps of a row or summary that have keys, or a table, of their own."""


@final
class WandbObserver(Observer):
    """Logs rounds, the summary, plots and final models to W&B, with files in the run's own `wandb` folder.

    W&B's environment variables keep their meaning, but `WANDB_MODE=online` without a key means offline.
    """

    def __init__(
        self,
        project: str = "fl-distill",
        *,
        group: str | None = None,
        job_type: str | None = None,
        tags: tuple[str, ...] = (),
    ) -> None:
        self._place = {"project": project, "group": group, "job_type": job_type or "run"}
        self._tags = tags
        self._run: Any = None
        self._id = ""
        self._info: RunInfo | None = None
        self._failures: list[tuple[int, str, str]] = []

    def started(self, run: RunInfo) -> None:
        """Open the W&B run, or the one that this run had before it was killed."""
        self._info = run
        self._id = run.tracker_ids.get("wandb", "")
        self._run = _open(run, self._id, {**self._place, "tags": self._tags or None})
        self._id = str(self._run.id)
        self._run.define_metric("round", hidden=True)
        self._run.define_metric("*", step_metric="round")

    def round_done(self, row: Row) -> None:
        """One step, with `round` as its axis."""
        self._failures += [(row["round"], site, reason) for site, reason in row["failures"].items()]
        if self._run is not None:
            self._run.log(history(row))

    def finished(self, summary: Summary, status: Status) -> None:
        """Store the summary and files, then end the run, with exit code 0 if it did all it should."""
        if self._run is None or self._info is None:
            return
        code = 0 if status == "finished" else 1
        try:
            self._run.summary.update(_flat({k: v for k, v in strict(summary).items() if k not in _APART}))
            self._run.summary["status"] = status
            self._log_tables(strict(summary))
            _upload(self._run, self._info.folder)
        except BaseException:
            code = 1
            raise
        finally:
            self._end(code)

    def close(self) -> None:
        """End a run that never finished, as a crash."""
        self._end(1)

    def state(self) -> dict[str, str]:
        """The W&B run's id."""
        return {"wandb": self._id} if self._id else {}

    def _log_tables(self, summary: Summary) -> None:
        import wandb

        lost: list[Any] = [[number, text.clean(site), text.clean(why)] for number, site, why in self._failures]
        groups = of_run(summary)
        if lost:
            self._run.log({"failures_table": wandb.Table(columns=["round", "site", "reason"], data=lost)})
        if comparable(groups):
            head: list[Any] = ["architecture", *next(iter(groups.values()))]
            lines: list[Any] = [[text.clean(model), *map(group.get, head[1:])] for model, group in groups.items()]
            self._run.log({"architectures_table": wandb.Table(columns=head, data=lines)})
        sent: list[Any] = [[text.clean(name), count, nmse] for name, count, nmse in layers(summary)]
        if sent:
            self._run.log({"layers_table": wandb.Table(columns=["tensor", "bytes", "nmse"], data=sent)})

    def _end(self, code: int) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.finish(exit_code=code)


def history(row: Row) -> dict[str, Any]:
    """What was measured, as flat W&B keys: `sites/<name>/loss`, `codec/bits_up`; failures and warnings as counts."""
    plain = strict(row)
    flat = {key: value for key, value in plain.items() if key not in (*_APART, *_COUNTED)}
    flat |= {key: len(plain[key]) for key in _COUNTED if key in plain} | {"loss": text.mean_loss(plain)}
    flat |= {f"codec/{key}": value for key, value in plain.get("codec", {}).items()}
    for site, values in plain["sites"].items():
        name = text.clean(site).replace("/", "_")
        flat |= {f"sites/{name}/{key}": values.get(key) for key in _SITE_KEYS}
    return _flat(flat)


def has_credentials(base_url: str) -> bool:
    """Whether a key for the service is in the environment or in a netrc file: then no one has to be asked."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    from netrc import NetrcParseError, netrc

    chosen = os.environ.get("NETRC")
    places = [Path(chosen)] if chosen else [Path.home() / ".netrc", Path.home() / "_netrc"]
    for path in places:
        try:
            if netrc(str(path)).authenticators(urlsplit(base_url).netloc):
                return True
        except (OSError, NetrcParseError):
            continue
    return False


def _open(run: RunInfo, known: str, place: Mapping[str, Any]) -> Any:
    """Online where that works within `INIT_S`, else offline; which of them is said in one line."""
    import wandb

    logging.getLogger("wandb").setLevel(logging.ERROR)
    mode = _mode(str(wandb.setup(settings=_settings(wandb)).settings.base_url))
    arguments = {
        "dir": str(run.folder),
        "config": strict(run.config),
        "name": run.name,
        "id": known or None,
        "resume": "allow",
        "reinit": "create_new",
        "settings": _settings(wandb),
        **place,
    }
    if mode != "offline":
        try:
            opened = wandb.init(mode=mode, **arguments)
            _say(f"W&B: {opened.url}" if mode == "online" else f"W&B is {mode}")
            return opened
        except Exception as error:
            _say(f"W&B cannot be reached ({text.clean(error)[:160]}); the run is kept offline")
    opened = wandb.init(mode="offline", **arguments)
    _say(f"W&B is offline; upload later with: wandb sync {Path(opened.dir).parent}")
    return opened


def _mode(base_url: str) -> Literal["online", "offline", "disabled"]:
    asked = os.environ.get("WANDB_MODE", "").strip().lower()
    if asked in ("offline", "dryrun"):
        return "offline"
    if asked == "disabled":
        return "disabled"
    return "online" if has_credentials(base_url) else "offline"


def _settings(wandb: Any) -> Any:
    """Quiet, bounded in time, and only what the installed version knows."""
    wanted = {"silent": True, "console": "off", "init_timeout": INIT_S, "login_timeout": INIT_S}
    wanted |= {"finish_timeout": FINISH_S, "disable_git": True, "x_save_requirements": False}
    known = getattr(wandb.Settings, "model_fields", {})
    return wandb.Settings(**{key: value for key, value in wanted.items() if key in known})


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _upload(run: Any, folder: Path) -> None:
    import wandb

    plots = sorted((folder / "plots").glob("*.png"))
    report = folder / "report.html"
    _artifact(run, "plots", [*plots, *([report] if report.exists() else [])])
    _artifact(run, "model", _models(folder / "models"))
    if plots:
        run.log({f"plots/{path.stem}": wandb.Image(str(path)) for path in plots})


def _models(folder: Path) -> list[Path]:
    """The server's models; where there is none, those of all sites if they are small together."""
    server = [path for name in ("server", "selected") if (path := folder / f"{name}.safetensors").exists()]
    sites = sorted(folder.glob("*.safetensors"))
    return server or (sites if sum(path.stat().st_size for path in sites) < MODELS_BYTES else [])


def _artifact(run: Any, kind: str, files: list[Path]) -> None:
    import wandb

    if not files:
        return
    artifact = wandb.Artifact(f"{kind}-{run.id}", type=kind)
    for path in files:
        artifact.add_file(str(path), name=path.name, policy="immutable")  # no second copy in W&B's staging folder
    run.log_artifact(artifact)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return {key: value for key, value in flat.items() if value is not None}
