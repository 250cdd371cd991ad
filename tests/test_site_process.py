"""A site with a `site.yaml`, asked directly: what it answers, what it refuses, what it remembers."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from fl_distill import jobs
from fl_distill.client_app import SITE_RAISED, SITE_REFUSED, app
from fl_distill.codec import encode
from fl_distill.runtime.envelope import MARK, is_sealed, opened, sealed
from fl_distill.runtime.flower_private import identity, stamp
from fl_distill.runtime.node import INTERRUPTED, Node
from fl_distill.workplace import workplace

JOB = "0123456789abcdef"
SITE = "name: mercy\npart: 0\nmodel: {model}\npolicy: {{{policy}}}\n"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "site.yaml").write_text(SITE.format(model="mlp", policy="may_leave: [logits, weights]"))
    with identity(7):
        yield tmp_path


def message(kind: str, content: RecordDict | None = None, **values: Any) -> Message:
    content = content or RecordDict()
    content["config"] = ConfigRecord({"server-round": 1, **values})
    made = Message(content, 5, kind)
    stamp(made, f"{kind}-{time.time_ns()}")
    return made


def ask(site: Path, kind: str, request: str, content: RecordDict | None = None, **values: Any) -> Message:
    config: dict[str, Any] = {"overrides": request, "job": JOB}
    context = Context(7, 5, {"site-config": str(site / "site.yaml")}, RecordDict(), config)
    return app(message(kind, content, **values), context)


def error(reply: Message, code: int) -> str:
    assert reply.has_error(), reply.content
    assert reply.error.code == code, reply.error
    return str(reply.error.reason)


REQUEST = "strategy=fedavg model=mlp sites=2 rounds=2 local.epochs=1 public=0"


def weights(site: Path) -> RecordDict:
    context = Context(7, 5, {"site-config": str(site / "site.yaml")}, RecordDict(), {"overrides": REQUEST, "job": JOB})
    place = workplace(jobs.site_job(context))
    return RecordDict({"arrays": encode(place.initial("mlp"))})


def test_only_the_strategys_own_work_is_done(site: Path) -> None:
    """A request that is allowed to speak of FedMD does not get weights out by asking for FedAvg's work."""
    for kind in ("train", "train.gradient", "train.split", "train.by_class"):
        reply = ask(site, kind, "strategy=fedmd model=mlp sites=2 rounds=2", weights(site))
        assert "which does not ask for" in error(reply, SITE_REFUSED)
    assert ask(site, "train", REQUEST, weights(site)).has_content()


def test_no_scores_of_hand_made_weights_where_none_are_exchanged(site: Path) -> None:
    reply = ask(site, "evaluate", "strategy=local model=mlp sites=2 rounds=2 public=0", weights(site))
    assert "exchanges no weights" in error(reply, SITE_REFUSED)


def test_too_few_examples_give_no_score(site: Path) -> None:
    policy = "may_leave: [weights], min_examples: 100"
    (site / "site.yaml").write_text(SITE.format(model="mlp", policy=policy))
    told = ask(site, "train", f"{REQUEST} split.validation=0.001", weights(site), score=True).content["metrics"]
    assert "num-examples" in told
    assert not [name for name in told if name.startswith("score-")], told


def test_a_message_cannot_ask_for_more_work_than_was_announced(site: Path) -> None:
    once = ask(site, "train", REQUEST, weights(site)).content["metrics"]["steps"]
    assert ask(site, "train", REQUEST, weights(site), work=1000.0).content["metrics"]["steps"] == once
    reply = ask(site, "train", REQUEST, weights(site), **{"server-round": 9})
    assert "announced with 2 rounds" in error(reply, SITE_REFUSED)


def test_limits_hold_for_the_settings_that_a_part_has(site: Path) -> None:
    """The site calls itself mercy, and trains with what is said of site-0."""
    with (site / "site.yaml").open("a") as file:
        file.write("limits: {epochs: 5}\n")
    for kind in ("query", "train"):
        reply = ask(site, kind, f"{REQUEST} per_site.site-0.epochs=50")
        assert "does at most 5 epochs for one request, not 50" in error(reply, SITE_REFUSED)
    assert "at most 5 epochs" in error(ask(site, "query", f"{REQUEST} local.epochs=50"), SITE_REFUSED)
    for fine in ("per_site.mercy.epochs=50", "per_site.site-1.epochs=50", "local.epochs=50 per_site.site-0.epochs=1"):
        assert ask(site, "query", f"{REQUEST} {fine}").has_content()


def test_a_refusal_happens_before_anything_is_stored(site: Path) -> None:
    (site / "site.yaml").write_text(SITE.format(model="mlp", policy="may_leave: []"))
    assert "lets nothing leave" in error(ask(site, "train", REQUEST, weights(site)), SITE_REFUSED)
    assert not list((site / "state").rglob("*.safetensors"))


def test_errors_keep_their_texts_at_home(site: Path) -> None:
    (site / "site.yaml").write_text("name: [secret")
    reason = error(ask(site, "query", REQUEST), SITE_RAISED)
    assert "secret" not in reason
    assert str(site) not in reason


def test_what_a_run_in_use_remembers_is_kept(site: Path) -> None:
    (site / "site.yaml").write_text(SITE.format(model="mlp", policy="may_leave: [weights]") + "keep_runs: 1\n")
    ask(site, "query", REQUEST)
    other = site / "state" / "runs" / "ffffffffffffffff"
    other.mkdir()
    jobs._own_job.cache_clear()
    ask(site, "query", REQUEST)
    assert other.exists(), "it was made a moment ago"


OWN = """\
name: mercy
model: mlp
dataset: {path: data.csv, target: y, numeric: [a], labels: {0: "no", 1: "yes"}}
test_dataset: data.csv
policy: {may_leave: [weights], min_examples: 1}
"""


def test_a_changed_file_is_read_anew_at_the_next_roll_call(tmp_path: Path) -> None:
    def counts() -> Any:
        return ask(
            tmp_path,
            "query",
            f"dataset=csv dataset.standardise=none strategy=fedavg sites=2 rounds=2 public=0 seed={seed}",
        ).content["site"]["label-counts"]

    seed = time.time_ns() % 10_000
    (tmp_path / "site.yaml").write_text(OWN)
    with identity(7):
        seen = []
        for extra in (0, 0, 10):
            rows = [f"{at / 99},{at % 2}" for at in range(100)] + ["0.5,1"] * extra
            (tmp_path / "data.csv").write_text("\n".join(["a,y", *rows, ""]))
            seen.append(counts())
    assert seen[0] == seen[1]
    assert sum(seen[2]) > sum(seen[1])


class Wire:
    """Stands for a connection: what a node is handed, and what it sends."""

    node = 5

    def __init__(self, *messages: Message, sending: Exception | None = None) -> None:
        self.messages, self.sent, self.sending = list(messages), [], sending  # type: ignore[var-annotated]

    def receive(self, largest: int, note: Any) -> Message | None:
        if not self.messages:
            raise EOFError
        note(self.messages[0])
        return self.messages.pop(0)

    def send(self, reply: Message, seconds: float) -> None:
        if self.sending:
            raise self.sending
        self.sent.append(reply)

    def run_config(self, run: int) -> dict[str, Any]:
        return {"overrides": REQUEST, "job": JOB}


def node(site: Path) -> Node:
    return Node(app, site / "site.yaml", site / "state", site / "state" / "online")


def test_a_node_answers_and_notes_what_it_has_in_hand(site: Path) -> None:
    wire = Wire(message("query"))
    with pytest.raises(EOFError):
        node(site).run(wire)  # type: ignore[arg-type]
    (reply,) = wire.sent
    assert reply.content["site"]["name"] == "site-0"
    assert MARK in reply.content
    assert not (site / "state" / "in-hand.json").exists()


def test_a_node_answers_an_envelope_with_an_envelope(site: Path) -> None:
    asked = message("train", weights(site))
    enveloped = Message(sealed(asked.content), 5, "train")
    wire = Wire(enveloped)
    with pytest.raises(EOFError):
        node(site).run(wire)  # type: ignore[arg-type]
    (reply,) = wire.sent
    assert is_sealed(reply.content)
    assert isinstance(opened(reply.content)["arrays"], ArrayRecord)


def test_the_seconds_of_work_that_are_told_are_not_those_of_sending(
    site: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Slow(Wire):
        def send(self, reply: Message, seconds: float) -> None:
            time.sleep(3.0)

    caplog.set_level("INFO", logger="fl_distill.site")
    one = node(site)
    one.app = lambda asked, context: Message(RecordDict(), reply_to=asked)  # type: ignore[assignment]
    with pytest.raises(EOFError):
        one.run(Slow(message("train")))  # type: ignore[arg-type]
    (told,) = [record for record in caplog.records if "bytes" in record.getMessage()]
    assert told.args[1] < 2.0  # type: ignore[index, operator]


def test_what_a_crash_lost_is_told_once(site: Path) -> None:
    """Whatever happens while it is told, the site is not locked out by it."""
    for sending in (None, RuntimeError("the SuperLink knows nothing of it")):
        one = node(site)
        one.folder.mkdir(exist_ok=True)
        one._note(message("train"))
        wire = Wire(sending=sending)
        with pytest.raises(EOFError):
            one.run(wire)  # type: ignore[arg-type]
        assert not (site / "state" / "in-hand.json").exists()
        assert [reply.error.code for reply in wire.sent] == ([] if sending else [INTERRUPTED])


def test_what_nobody_waits_for_any_more_is_not_told(site: Path) -> None:
    one = node(site)
    one.folder.mkdir(exist_ok=True)
    one._note(message("train"))
    path = site / "state" / "in-hand.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps({**fields, "created_at": time.time() - 10_000, "ttl": 60.0}))
    wire = Wire()
    with pytest.raises(EOFError):
        one.run(wire)  # type: ignore[arg-type]
    assert not wire.sent
