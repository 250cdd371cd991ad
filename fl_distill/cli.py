"""The `fl-distill` command."""

import argparse
import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from .importing import in_a_hurry
from .runtime.memory import keep_freed_memory

# Nothing here may reach the network by itself; whoever wants Flower's telemetry sets these.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

CONFIGURATION, STOPPED, INTERRUPTED = 2, 1, 130

EXAMPLES = """\
examples:
  fl-distill                                            8 sites, four architectures, scikit-learn's digits, FedMD
  fl-distill strategy=fedprox strategy.mu=0.1 dataset=mnist partition.alpha=0.1 sites=20 model=lenet rounds=50
  fl-distill strategy=local models=[mlp,cnn,gru,vit]    four architectures, dealt round robin
  fl-distill dataset=heart_disease partition=natural model=tabular
  fl-distill per_site.site-3.lr=0.01 local.epochs=2     settings for all sites, and for one
  fl-distill -m strategy=fedavg,fedprox seed=0,1,2      a sweep: one run for each combination
  fl-distill runtime=local runtime.workers=0            everything in this process (for a debugger)
  fl-distill resume=outputs/2026-01-31/12-00-00         go on where a run stopped
  fl-distill export run=outputs/2026-01-31/12-00-00 format=onnx precision=full    its model with int8 weights
  fl-distill federation --help                          over a network: the operator's side (docs/deploy.md)
  fl-distill site --help                                over a network: a site's side

`fl-distill --cfg` prints the whole configuration. Your own YAML joins with --config-dir DIR, for example
DIR/model/mine.yaml holding `_target_: my_package.MyNet`, then `model=mine`.
exit codes: 0 done, 1 stopped (resumable), 2 bad configuration, 130 interrupted (resumable)
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the console script."""
    if argv is None:  # the process is ours
        keep_freed_memory()  # before any other thread begins
    code = run(sys.argv[1:] if argv is None else argv)
    if argv is None:
        gc.freeze()  # all of it ends now: nobody need look for garbage in it
    sys.exit(code)


def run(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    from .errors import ConfigError, FlDistillError, told
    from .runtime import ray_here

    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a model or data set of the user's own may lie here
    try:
        if argv and argv[0] in ("federation", "site"):
            from .deploy.command import run as deploy

            return deploy(argv)
        return _dispatch(_parser().parse_intermixed_args(list(argv)))
    except FlDistillError as error:
        print(f"fl-distill: {told(error)}", file=sys.stderr)
        return CONFIGURATION if isinstance(error, ConfigError) else STOPPED
    except KeyboardInterrupt:
        print("fl-distill: interrupted; the run can be resumed", file=sys.stderr)
        return INTERRUPTED
    finally:
        ray_here.end()  # where a run did not come so far; what went wrong has been said by now


def _dispatch(arguments: argparse.Namespace) -> int:
    with in_a_hurry():
        from . import commands

    exports = arguments.overrides[:1] == ["export"]
    if arguments.help:
        print(_export_help() if exports else _help())
        return 0
    if arguments.cfg:
        commands.show(arguments.overrides, arguments.config_dir)
        return 0
    if exports:
        from .artefacts import export

        export(arguments.overrides[1:])
        return 0
    if arguments.multirun:
        return commands.sweep(arguments.overrides, arguments.config_dir)
    commands.single(arguments.overrides, arguments.config_dir)
    return 0


def _parser() -> argparse.ArgumentParser:
    from . import __version__

    parser = argparse.ArgumentParser(prog="fl-distill", add_help=False)
    parser.add_argument("overrides", nargs="*", help="Hydra overrides such as strategy=fedprox rounds=50")
    parser.add_argument("-m", "--multirun", action="store_true", help="a sweep over comma-separated values")
    parser.add_argument("--config-dir", metavar="DIR", help="a folder with configuration of your own")
    parser.add_argument("--cfg", action="store_true", help="print the configuration and stop")
    parser.add_argument("-h", "--help", action="store_true", help="show this and stop")
    parser.add_argument("--version", action="version", version=__version__)
    return parser


def _export_help() -> str:
    from .artefacts import HELP

    return HELP


def _help() -> str:
    from .config.compose import options

    groups = "\n".join(f"  {group + '=':<12} {', '.join(names)}" for group, names in options().items())
    settings = Path(__file__).with_name("conf") / "config.yaml"
    if not settings.is_file():
        settings = Path(__file__).parent.parent / "conf" / "config.yaml"
    plain = [line for line in settings.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    body = "\n".join(f"  {line}" for line in plain[plain.index("") :] if line)
    usage = _parser().format_help()
    return f"{usage}\ngroups (group=choice):\n{groups}\n\nsettings and their defaults:\n{body}\n\n{EXAMPLES}"


if __name__ == "__main__":
    main()
