"""Sites that say wrong things about public examples, each in a process of its own, each costing only themselves."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor

from fl_distill.client_app import make_app
from fl_distill.codec import decode, encode
from fl_distill.config.compose import composed
from fl_distill.guard import worse_than_alone
from fl_distill.runtime.process_grid import ProcessGrid
from fl_distill.server_app import serve
from fl_distill.workplace import job_text

SMALL = ("strategy=fedmd", "sites=4", "rounds=3", "local.epochs=1", "strategy.warmup=0", "strategy.examples=60")
SLIGHT = "models=[mlp,gru]"
QUIET = ("track.console=false", "track.plots=false", "evaluate.alone=false", "collect.join_s=20")
BAD = 1
"""The index of the site that is off."""

Edit = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def job(folder: Path, *overrides: str) -> str:
    return job_text(composed([*SMALL, *QUIET, *overrides])[0], folder)


def of_site(own: str, others: str, context: Context) -> str:
    return own if int(str(context.node_config["partition-id"])) == BAD else others


def tampering(text: str, key: str, edit: Edit) -> ClientApp:
    """A site's app whose knowledge is edited on its way out of the bad site."""
    inner, app = make_app(partial(of_site, text, text)), ClientApp()

    def answer(message: Message, context: Context) -> Message:
        reply = inner(message, context)
        if int(str(context.node_config["partition-id"])) != BAD or not reply.has_content():
            return reply
        records: dict[str, Any] = dict(reply.content)
        records[key] = encode(edit(dict(decode(records[key]))))
        return Message(RecordDict(records), reply_to=message)

    app.train("mutual")(answer)
    app.query()(inner)
    return app


def shorter(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return tensors | {"said": tensors["said"][:-1].contiguous()}


def narrower(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return tensors | {"said": tensors["said"][:, :-1].contiguous()}


def run(app: ClientApp, text: str) -> dict[str, Any]:
    with ProcessGrid(app, nodes=4, workers=2) as grid:
        return serve(grid, text)


@pytest.mark.parametrize(
    ("overrides", "key", "edit", "sentence"),
    [
        ((), "logits", lambda t: t | {"said": t["said"] * float("nan")}, "NaN or infinity"),
        (
            (),
            "logits",
            shorter,
            "is float16[59, 10], expected float16[60, 10]",
        ),
        (
            (),
            "logits",
            narrower,
            "is float16[60, 9], expected float16[60, 10]",
        ),
        (("combine=era",), "probabilities", lambda t: t | {"said": t["said"] * 2}, "do not sum to 1"),
    ],
)
def test_knowledge_that_is_off_costs_its_sender_each_round(
    overrides: tuple[str, ...], key: str, edit: Edit, sentence: str, tmp_path: Path
) -> None:
    text = job(tmp_path, SLIGHT, *overrides)
    summary = run(tampering(text, key, edit), text)
    assert summary["status"] == "finished"
    rows = [json.loads(line) for line in (tmp_path / "rounds.jsonl").read_text().splitlines()]
    assert [list(row["failures"]) for row in rows] == [["site-1"]] * 3
    assert all(sentence in row["failures"]["site-1"] for row in rows)
    assert summary["sites"]["site-0"]["test_accuracy"] > 0.1


@pytest.mark.parametrize(
    ("here", "sentence"),
    [
        (("public=0.2",), "give all the same file"),
        (("seed=1",), "give all the same file"),
        (("public=0",), "raised ConfigError"),
    ],
)
def test_a_site_with_another_public_set_or_none_takes_no_part(
    here: tuple[str, ...], sentence: str, tmp_path: Path
) -> None:
    text = job(tmp_path, SLIGHT, "collect.join_s=2", "collect.min_sites=2")
    own = job_text({**composed([*SMALL, *QUIET, SLIGHT])[0], **_changed(here)}, tmp_path)
    summary = run(make_app(partial(of_site, own, text)), text)
    assert sorted(summary["sites"]) == ["site-0", "site-2", "site-3"]
    first = json.loads((tmp_path / "rounds.jsonl").read_text().splitlines()[0])
    assert len(first["warnings"]) == 1
    assert first["warnings"][0].startswith("1 node left out: ")
    assert sentence in first["warnings"][0]


def _changed(overrides: tuple[str, ...]) -> dict[str, Any]:
    """The settings that `overrides` change; what only a site can find out is not checked here."""
    return {key: float(value) if "." in value else int(value) for key, value in (text.split("=") for text in overrides)}


def shouting(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    said = torch.zeros_like(tensors["said"])
    said[:, 0] = 60000.0
    return {"said": said, "known": torch.ones_like(tensors["known"])}


@pytest.mark.parametrize(("rule", "collapses"), [("mean", True), ("median", False)])
def test_one_site_that_shouts_collapses_a_mean_which_is_said_but_no_median(
    rule: str, collapses: bool, tmp_path: Path
) -> None:
    text = job(tmp_path, f"combine={rule}", "local.epochs=3")
    assert run(tampering(text, "logits", shouting), text)["status"] == "finished"
    rows = [json.loads(line) for line in (tmp_path / "rounds.jsonl").read_text().splitlines()]
    assert any("consensus is collapsing" in text for text in rows[-1]["warnings"]) == collapses


def test_accuracy_under_local_trainings_is_said() -> None:
    assert worse_than_alone({"gain": -0.021})
    assert not worse_than_alone({"gain": -0.019})
    assert not worse_than_alone({"gain": None})
