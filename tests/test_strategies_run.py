"""Every strategy that exchanges knowledge, through the command line: same result anywhere, resumable, counted bytes."""

import pytest

from fl_distill import cli
from fl_distill.checkpoint import Checkpoints, Saved

from .conftest import Launch, same

QUICK = ("public=0.3", "rounds=4", "local.epochs=1", "sites=4")
SLIGHT = ("models=[mlp,gru]", "evaluate.alone=false")
"""For what does not depend on architectures."""
LESSON = ("strategy.server.epochs=1",)
SETTINGS: dict[str, tuple[str, ...]] = {
    "cfd": ("strategy.examples=100", "strategy.warmup=1", *LESSON),
    "cross_silo": ("strategy.examples=100", "strategy.transfer=attention", *LESSON),
    "dsfl": ("strategy.examples=100", "strategy.warmup=1", "strategy.mask=true", *LESSON),
    "fd": (),
    "feddf": ("strategy.examples=100", "strategy.server.steps=20", "strategy.patience=10"),
    "fedmd": ("strategy.examples=100", "strategy.warmup=1", "strategy.pretrain_epochs=1"),
    "fedproto": ("strategy.predict=prototype",),
    "split_teacher": (*LESSON,),
    "teacher_student": ("strategy.examples=100", "strategy.warmup=1", "strategy.transfer=attention+features", *LESSON),
}
TWINS = ("fedmd", "fedproto", "split_teacher")
"""One for each way in which sites train a twin."""


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_the_same_with_any_number_of_workers_and_after_resuming(name: str, launch: Launch) -> None:
    twins = f"evaluate.alone={'true' if name in TWINS else 'false'}"
    base = (f"strategy={name}", *QUICK, *SETTINGS[name], twins, "collect.fraction=0.75", "checkpoint.every=2")
    one, two = launch(*base), launch(*base, "rounds=3", "runtime.workers=2")
    assert one.rows[:2] == two.rows[:2]
    assert all(not row["failures"] for row in one.rows)
    assert cli.run([f"resume={two.folder}", "rounds=4", "log=quiet"]) == 0
    assert two.rows == one.rows
    for file in sorted(path.stem for path in (one.folder / "models").iterdir()):
        assert same(two.weights(file), one.weights(file)), file


def test_packed_labels_survive_a_kill_between_the_sites_work_and_the_checkpoint(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = ("strategy=cfd", *QUICK, *SLIGHT, *SETTINGS["cfd"], "rounds=6", "checkpoint.every=2", "checkpoint.keep=1")
    whole = launch(*base)
    save = Checkpoints.save

    def fail_at_four(self: Checkpoints, state: Saved) -> None:
        if state.round == 4:
            raise OSError("No space left on device")
        save(self, state)

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "save", fail_at_four)
        broken = launch(*base, code=1)
    assert cli.run([f"resume={broken.folder}", "log=quiet"]) == 0
    assert broken.rows == whole.rows


@pytest.mark.parametrize("name", ["cfd", "cross_silo", "dsfl", "teacher_student"])
def test_a_model_at_the_server_learns_and_is_kept(name: str, launch: Launch) -> None:
    work = ("public=0.3", "local.epochs=5", "rounds=5", "sites=4", *SLIGHT)
    done = launch(f"strategy={name}", *work, "strategy.server_model=cnn")
    accuracies = [row["server_accuracy"] for row in done.rows]
    assert accuracies[-1] > max(0.4, accuracies[0])
    assert done.rows[-1]["server_models"] == {"cnn": accuracies[-1]}
    assert "head.weight" in done.weights("server")


def test_the_twin_that_hears_nobody_is_the_model_of_local_training(launch: Launch) -> None:
    base = ("model=mixed", *QUICK, "rounds=3")
    alone = launch("strategy=local", *base)
    together = launch("strategy=fedmd", *base, "strategy.warmup=1")
    for lonely, row in zip(alone.rows, together.rows, strict=True):
        twins = {site: entry["alone_accuracy"] for site, entry in row["sites"].items()}
        assert twins == {site: entry["test_accuracy"] for site, entry in lonely["sites"].items()}
    assert together.rows[-1]["gain"] == pytest.approx(
        together.rows[-1]["test_accuracy"] - alone.rows[-1]["test_accuracy"]
    )
    assert alone.rows[-1]["gain"] is None
    assert together.summary["architectures"].keys() == {"mlp", "cnn", "gru", "vit"}


def test_packed_labels_cost_little_and_less_once_they_settle(launch: Launch) -> None:
    base = ("strategy=cfd", "public=0.3", "strategy.warmup=0", "strategy.examples=400", "evaluate.alone=false")
    wide = ("rounds=2", "strategy.bits_up=32", "strategy.bits_down=32")  # its size is the same in every round
    float_labels = launch(*base, *SLIGHT, *wide, *LESSON)
    packed = launch(*base, "rounds=5", "local.epochs=1", "local.lr_decay=0.1")  # models that hardly move in the end
    rows = packed.rows
    assert max(row["knowledge_up"] for row in rows) < float_labels.rows[-1]["knowledge_up"] / 30
    assert rows[-1]["knowledge_up"] < 0.8 * rows[0]["knowledge_up"]
    assert rows[-1]["knowledge_down"] < float_labels.rows[-1]["knowledge_down"] / 30


def test_a_site_that_missed_rounds_of_packed_labels_catches_up(launch: Launch) -> None:
    base = ("strategy=cfd", *QUICK, *SLIGHT, "strategy.warmup=0", "strategy.examples=200", "rounds=6")
    done = launch(*base, "collect.away.site-1=3-4")
    assert all(not row["failures"] for row in done.rows)
    down = [row["sites"].get("site-1", {}).get("knowledge_down") for row in done.rows]
    assert down[2] is None
    assert down[3] is None
    assert down[4] > down[5]  # everything first, then what changed


def test_two_leave_one_returns_and_a_new_architecture_joins(launch: Launch) -> None:
    mix = ("strategy=fedmd", "models=[mlp,cnn,gru,mlp,cnn,gru,mlp,vit]", "sites=8", "partition.alpha=1")
    work = ("rounds=15", "local.epochs=2", "strategy.warmup=3", "evaluate.alone=false", "evaluate.sites_every=15")
    base = (*mix, *work, "runtime.workers=2")
    away = ("collect.away.site-0=3-", "collect.away.site-1=3-5", "collect.away.site-7=1-4")
    calm, disturbed = launch(*base), launch(*base, *away)
    here = [set(row["sites"]) for row in disturbed.rows]
    assert "site-7" not in here[3]
    assert "site-7" in here[4]
    assert "site-1" not in here[4]
    assert "site-1" in here[5]
    assert all("site-0" not in names for names in here[2:])
    assert all(not row["failures"] for row in disturbed.rows)
    assert disturbed.summary["test_accuracy"] > calm.summary["test_accuracy"] - 0.02


def test_what_averages_weights_by_architecture_serves_each_its_own(launch: Launch) -> None:
    done = launch("strategy=feddf", *QUICK, *SETTINGS["feddf"], "rounds=3")
    last = done.rows[-1]
    assert last["server_models"].keys() == {"mlp", "cnn", "gru", "vit"}
    for entry in last["sites"].values():
        assert entry["test_accuracy"] == last["server_models"][entry["model"]]
    assert same(done.weights("site-1"), done.weights("server-cnn"))


def test_public_examples_from_elsewhere_serve_as_well(launch: Launch) -> None:
    crops = ("public=0", "public_dataset=crops", "public_examples=150")
    done = launch("strategy=fedmd", *QUICK, *SLIGHT, *crops, "strategy.warmup=0", "rounds=2")
    assert done.rows[-1]["sites"]["site-0"]["knowledge_up"] == pytest.approx(150 * 10 * 2, abs=300)


@pytest.mark.parametrize(
    "setting", ["strategy.pretrain_epochs=1", "strategy=teacher_student strategy.public_labels=true"]
)
def test_labels_that_a_public_set_lacks_are_asked_for_before_the_start(
    setting: str, launch: Launch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = setting.split()
    strategy = [] if any(word.startswith("strategy=") for word in words) else ["strategy=fedmd"]
    launch(*strategy, *words, "public_dataset=crops", "public_examples=50", "rounds=1", code=2)
    assert "public labels" in capsys.readouterr().err


def test_one_round_is_enough_for_a_student_better_than_its_teachers(launch: Launch) -> None:
    done = launch("experiment=one_shot", "strategy=cross_silo", "rounds=1", "sites=8", "runtime.workers=2")
    assert done.summary["server_accuracy"] > done.summary["test_accuracy"] + 0.2
    assert done.summary["knowledge_down"] == 0
