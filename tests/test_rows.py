"""The row of a round: means over sites, what sites may report, and what learning alone is worth."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_distill.rows import add_scores, mean, open_row, site_entry
from fl_distill.tracking import RoundLog, Row
from fl_distill.tracking.groups import architectures


def row_of(**models: str) -> Row:
    row = open_row(1)
    for name, model in models.items():
        site_entry(row, name, model, 5)
    return row


def scores(**numbers: Any) -> dict[str, Any]:
    """`test=0.5` as a site's reply says it: `score-test-accuracy`."""
    return {f"score-{name}-accuracy": value for name, value in numbers.items()}


def test_an_open_row_has_every_key_of_the_contract(tmp_path: Any) -> None:
    row = row_of(a="mlp")
    RoundLog(tmp_path).append(row)
    unknown = ("alone_accuracy", "gain", "agreement", "entropy", "test_accuracy")
    assert [row[key] for key in unknown] == [None] * 5
    assert (row["knowledge_up"], row["knowledge_down"], row["warnings"]) == (0, 0, [])
    assert row["sites"]["a"]["alone_accuracy"] is None
    assert (row["sites"]["a"]["knowledge_up"], row["sites"]["a"]["knowledge_down"]) == (0, 0)
    assert json.loads((tmp_path / "rounds.jsonl").read_text()) == row


def test_rows_share_no_list_of_warnings() -> None:
    one, other = open_row(1), open_row(2)
    one["warnings"].append("few examples")
    assert other["warnings"] == []


def test_means_are_plain_and_the_gain_is_over_sites_that_know_both() -> None:
    row = row_of(c="cnn", a="mlp", b="mlp")
    told = {
        "a": scores(test=0.75, alone=0.5, local=1.0),
        "b": scores(test=0.25, local=0.5),
        "c": scores(alone=0.25),
    }
    add_scores(row, told, None)
    assert (row["test_accuracy"], row["alone_accuracy"], row["local_accuracy"]) == (0.5, 0.375, 0.75)
    assert row["gain"] == 0.25
    assert list(row["sites"]) == ["a", "b", "c"]
    assert [entry["alone_accuracy"] for entry in row["sites"].values()] == [0.5, None, 0.25]


def test_without_scores_everything_stays_unknown() -> None:
    row = row_of(a="mlp")
    add_scores(row, {}, None)
    assert {row[f"{kind}_accuracy"] for kind in ("test", "alone", "local", "validation")} == {None}
    assert row["gain"] is None


@pytest.mark.parametrize("bad", [1.01, -0.01, math.nan, math.inf, "0.5", [0.5], None, 57])
@pytest.mark.parametrize("kind", ["test", "alone", "local"])
def test_what_cannot_be_an_accuracy_counts_for_nothing(kind: str, bad: Any) -> None:
    row = row_of(a="mlp", b="mlp")
    good = scores(test=0.5, alone=0.25, local=0.75)
    add_scores(row, {"a": good, "b": good | scores(**{kind: bad})}, None)
    assert row["sites"]["b"][f"{kind}_accuracy"] is None
    assert [row[f"{k}_accuracy"] for k in ("test", "alone", "local")] == [0.5, 0.25, 0.75]
    assert row["gain"] == 0.25


def test_what_the_server_measured_stands_for_what_sites_say() -> None:
    row = row_of(a="mlp", b="cnn", c="cnn", d="gru")
    told = {name: scores(test=1.0, alone=0.25) for name in "acd"}
    add_scores(row, told, {"mlp": 0.25, "cnn": 0.5, "vit": 1.0})
    assert [entry["test_accuracy"] for entry in row["sites"].values()] == [0.25, 0.5, 0.5, None]
    assert row["test_accuracy"] == mean([0.25, 0.5, 0.5])
    assert row["gain"] == 0.125


@given(shared=st.floats(0, 1), sites=st.integers(1, 30))
def test_one_model_for_all_scores_the_same_in_the_row(shared: float, sites: int) -> None:
    row = row_of(**{f"site-{at}": "mlp" for at in range(sites)})
    add_scores(row, {}, {"mlp": shared})
    assert row["test_accuracy"] == shared


def test_a_row_without_sites_has_the_score_of_the_one_model_there_is() -> None:
    row, several = open_row(1), open_row(1)
    add_scores(row, {}, {"mlp": 0.5})
    add_scores(several, {}, {"mlp": 0.5, "cnn": 0.25})
    assert (row["test_accuracy"], several["test_accuracy"]) == (0.5, None)


def test_architectures_are_means_over_their_sites() -> None:
    sites: dict[str, dict[str, Any]] = {
        "site-10": {"model": "cnn", "test_accuracy": 0.5, "alone_accuracy": None, "local_accuracy": 1.0},
        "site-2": {"model": "mlp", "test_accuracy": 0.75, "alone_accuracy": 0.25, "local_accuracy": 0.5},
        "site-1": {"model": "cnn", "test_accuracy": 0.25, "alone_accuracy": 0.5, "local_accuracy": None},
        "site-3": {"model": "gru"},
    }
    found = architectures(sites)
    assert list(found) == ["cnn", "mlp", "gru"]
    assert found["cnn"] == {
        "sites": 2,
        "test_accuracy": 0.375,
        "alone_accuracy": 0.5,
        "gain": -0.25,
        "local_accuracy": 1.0,
        "worst": 0.25,
    }
    assert (found["mlp"]["gain"], found["mlp"]["worst"]) == (0.5, 0.75)
    assert found["gru"] == dict.fromkeys(found["cnn"]) | {"sites": 1}


def test_a_run_without_sites_has_no_architectures() -> None:
    assert architectures({}) == {}
