"""What the command line does: one run, a sweep, a resumption."""

import itertools
import json
import sys
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from .config.compose import composed, swept
from .errors import ConfigError, FlDistillError
from .importing import in_a_hurry

Config = dict[str, Any]

RESUMABLE = ("rounds", "runtime", "log", "track", "checkpoint")
"""What may differ from the run that is resumed: nothing that changes results up to the round reached."""


def show(overrides: Sequence[str], config_dir: str | None) -> None:
    """Print the composed configuration."""
    import yaml

    config, _ = composed(overrides, config_dir)
    print(yaml.safe_dump({k: v for k, v in config.items() if k not in ("names", "model_specs")}, sort_keys=False))


def single(overrides: Sequence[str], config_dir: str | None) -> None:
    """One run, new or resumed."""
    overrides = [_quoted(text) for text in overrides]
    asked = [text for text in overrides if text.startswith("resume=")]
    resume = composed(asked)[0]["resume"] if asked else None
    if resume:
        _run(_resumed(Path(resume), overrides, config_dir), Path(resume), resume=True)
    else:
        config, places = composed(overrides, config_dir)
        if config["runtime"]["kind"] == "superlink" and config_dir is not None:
            raise ConfigError("--config-dir: real sites compose what is installed there: say it in overrides instead")
        _run(config, Path(places["run_dir"]), overrides=overrides)


def _run(config: Config, folder: Path, *, resume: bool = False, overrides: Sequence[str] = ()) -> None:
    """Run it; Ray, where it is needed, starts while torch and all that the run needs is imported (see `cli.run`)."""
    from .runtime import ray_here

    if config["runtime"]["kind"] == "simulation":
        ray_here.begin(config["runtime"]["address"], debug=config["log"] == "debug")
    with in_a_hurry():
        from .runtime.start import run
    run(config, folder, resume=resume, overrides=overrides)


def sweep(overrides: Sequence[str], config_dir: str | None) -> int:
    """Every combination of the comma-separated values; returns 1 when a job failed, else 0."""
    with in_a_hurry():
        from .files import replace_with
        from .runtime.start import run
        from .tracking import sweep_table

    if any(text.startswith("resume=") for text in overrides):
        raise ConfigError("resume continues one run: leave -m out")
    choices = swept(overrides)
    jobs = [list(combination) for combination in itertools.product(*choices)]
    configs = _checked(jobs, config_dir)
    folder = Path(configs[0][1]["sweep_dir"])
    results: list[dict[str, Any]] = []
    for number, (job, (config, _)) in enumerate(zip(jobs, configs, strict=True)):
        config["track"]["group"] = config["track"]["group"] or folder.name
        config["track"]["job_type"] = "sweep"
        changed = " ".join(text for text, values in zip(job, choices, strict=True) if len(values) > 1)
        print(f"job {number + 1}/{len(jobs)}: {changed}")
        result: dict[str, Any] = {"job": changed, "status": "finished", "folder": str(folder / str(number))}
        try:
            result |= run(config, folder / str(number), overrides=job)
        except FlDistillError as error:
            result |= {"status": "failed", "reason": str(error)}
            print(f"job {number + 1} failed: {error}", file=sys.stderr)
        except Exception as error:  # one broken job must not take the others with it
            result |= {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
            print(f"job {number + 1} failed: {result['reason']}", file=sys.stderr)
        results.append({k: v for k, v in result.items() if k != "sites"})
        replace_with(folder / "sweep.json", json.dumps(results, indent=1).encode())
    print(sweep_table(results))
    return int(any(result["status"] != "finished" for result in results))


def _checked(jobs: Sequence[Sequence[str]], config_dir: str | None) -> list[tuple[Config, Config]]:
    """All configurations, or the faults of all of them before anything starts."""
    from .config.experiment import typed

    faults: list[str] = []
    configs = []
    for job in jobs:
        try:
            config, places = composed(job, config_dir)
            typed(config)
            configs.append((deepcopy(config), places))
        except ConfigError as error:
            faults += [fault for fault in error.faults if fault not in faults]
    if faults:
        raise ConfigError(faults)
    return configs


def _resumed(folder: Path, overrides: Sequence[str], config_dir: str | None) -> Config:
    """The configuration of the run in `folder`, with those overrides that may change it."""
    try:
        saved: Config = json.loads((folder / "job.json").read_text(encoding="utf-8"))["config"]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"resume={folder} is no run folder: its job.json cannot be read ({error})") from error
    same = [] if any(text.startswith("runtime=") for text in overrides) else [f"runtime={saved['runtime']['kind']}"]
    asked, _ = composed([*same, *overrides], config_dir)
    faults = []
    for text in overrides:
        key = text.lstrip("+~").partition("=")[0]
        top, _, inner = key.partition(".")
        if top in RESUMABLE:
            saved[top] = saved[top] | {inner: asked[top].get(inner)} if inner else asked[top]
        elif top not in ("resume", "hydra") and _at(saved, key) != _at(asked, key):
            faults.append(
                f"resume={folder} was run with {key}={_at(saved, key)}, not {_at(asked, key)}: drop {text!r}, or start "
                "a new run"
            )
    if faults:
        raise ConfigError(faults)
    return saved


def _quoted(text: str) -> str:
    """A folder is a folder, whatever characters of Hydra's grammar its name holds."""
    key, _, value = text.partition("=")
    if key not in ("resume", "hydra.run.dir") or value[:1] in ("", "'", '"') or "$" in value or value == "null":
        return text
    escaped = value.replace("'", "\\'")
    return f"{key}='{escaped}'"


def _at(config: Config, key: str) -> Any:
    node: Any = config["names"] if key in config["names"] else config
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node
