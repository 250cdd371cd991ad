"""The models that a run leaves in its `models/`."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from .files import save_tensors

Tensors = Mapping[str, Tensor]


def keep_models(
    folder: Path,
    final: Mapping[str, Tensors],
    selected: Mapping[str, Tensors],
    sites: Mapping[str, str],
    own: Callable[[str], Tensors | None],
) -> None:
    """Write `server….safetensors`, `selected….safetensors` and the model that each site would deploy.

    `final` and `selected` are the server's by architecture, `sites` each site's architecture by its name. A site would
    deploy the server's model of its architecture where the server selects models, else its `own`, where it has one.
    """
    names = {name: f"-{name}.safetensors" if len(final) > 1 else ".safetensors" for name in final}
    for name, weights in final.items():
        save_tensors(folder / f"server{names[name]}", weights)
    for name, weights in selected.items():
        save_tensors(folder / f"selected{names[name]}", weights)
    for site, model in sites.items():
        target = folder / f"{site}.safetensors"
        if selected and model in final:
            _link(folder / f"server{names[model]}", target)
        elif (kept := own(site)) is not None:
            save_tensors(target, kept)


def _link(source: Path, target: Path) -> None:
    """One copy on disk, many names; a copy where the file system has no hard links."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        target.write_bytes(source.read_bytes())
