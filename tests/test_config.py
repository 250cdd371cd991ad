"""Configuration: every file composes and builds, and every fault is told at once, before anything starts."""

import threading
from pathlib import Path

import pytest

from fl_distill import cli
from fl_distill.codec.ways import Way, way
from fl_distill.config.compose import composed, options, swept
from fl_distill.config.experiment import experiment
from fl_distill.config.notes import notes
from fl_distill.errors import ConfigError
from fl_distill.targets import call

ROOT = Path(__file__).parent.parent
CHOICES = [
    path.relative_to(ROOT / "conf").with_suffix("").as_posix().replace("/", "=", 1)
    for path in sorted((ROOT / "conf").rglob("*.yaml"))
    if path.parent != ROOT / "conf"
]


@pytest.mark.parametrize("choice", CHOICES)
def test_every_configuration_file_composes_and_builds(choice: str) -> None:
    needed = {"dataset=csv": ["dataset.path=x.csv", "dataset.target=y"], "dataset=hub": ["dataset.hub=a/b"]}
    needed["dataset=image_folder"] = needed["dataset=tensor_file"] = ["dataset.path=x"]
    found = experiment([choice, *needed.get(choice, [])])
    for part in (found.strategy, found.dataset, found.partition):
        call(part)


@pytest.mark.parametrize(("overrides", "count"), [(["rounds=5"], 1), (["rounds=6"], 0), (["strategy=fedavg"], 0)])
def test_a_warm_up_that_never_ends_is_noted(overrides: list[str], count: int) -> None:
    found = notes(experiment(overrides))
    assert len(found) == count
    assert all("strategy.warmup=5 covers all rounds=5" in note for note in found)


def faults(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        experiment(list(overrides))
    return caught.value.faults


def test_misspelt_groups_choices_and_keys_come_together_with_the_nearest_names() -> None:
    found = faults("strategy=fedporx", "ruonds=3", "partition=dirchlet", "local.lrr=1")
    assert found == [
        "strategy=fedporx: no such choice; did you mean 'fedprox'?",
        "partition=dirchlet: no such choice; did you mean 'dirichlet'?",
        "ruonds: no such setting; did you mean 'rounds'?",
        "local.lrr: no such setting; did you mean 'local.lr'?",
    ]


def test_impossible_values_come_together() -> None:
    found = faults(
        "rounds=0",
        "sites=-1",
        "local.lr=-1",
        "local.batch_size=0",
        "partition.alpha=0",
        "strategy=fedprox",
        "strategy.mu=-1",
        "collect.fraction=2",
        "split.test=1",
        "public=2",
        "seed=x",
        "runtime.threads=0",
        "stop.patience=0",
    )
    text = "\n".join(found)
    for key in (
        "lr must be a positive",
        "batch_size must be",
        "alpha",
        "mu must be",
        "fraction must be",
        "validation and test",
        "threads must be",
        "patience must be",
        "rounds must be",
        "sites must be",
        "seed must be",
        "public must be",
    ):
        assert key in text, key


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["models=[mpl,cnn]"], "models: 'mpl' is no model; did you mean 'mlp'?"),
        (["strategy=fedavg", "models=[mlp,cnn]"], "averages weights, so every site needs the same model"),
        (["strategy.mu=1"], "strategy.mu: no such setting"),
        (["per_site.site-1.lrr=1"], "per_site.site-1.lrr: no such setting; did you mean 'lr'?"),
        (["per_site.site-1.lr=-1"], "per_site.site-1: lr must be a positive number"),
        (["a b"], "cannot read 'a b'"),
        (["model=cnn", "+model.depth=3"], "has no setting 'depth'"),
        (["model=cnn", "model._target_=no.such.net"], "cannot import 'no.such.net'"),
        (["models=7"], "models must be a list"),
        (["+model.depth=3"], "model.depth: a mix has no settings of its own"),
        (["codec.sites=int8"], "codec: sites is a map site -> codec, such as {site-3: eden1}, not 'int8'"),
        (["strategy=fedavg", "codec.up=classes3"], "codec.up='classes3' is for rows of probabilities, and none travel"),
        (["exprot", "run=x"], "it is no setting=value; did you mean 'export'?"),
        (["codec.up.codex=int8"], "codec.up.codex: no such setting; did you mean 'codec.up.codec'"),
        (["codec.up={codex: int8}"], "codec.up.codex: no such setting; did you mean 'codec.up.codec'"),
        (["+codec.upp=int8"], "codec.upp: no such setting; did you mean 'up'"),
        (["codec.up=8"], "codec: up: expected a preset such as int8, a sentence or a list of steps, not 8"),
        (["local={lrr: 1}"], "local.lrr: no such setting; did you mean 'local.lr'"),
        (["per_site={site-1: {lrr: 1}}"], "per_site.site-1.lrr: no such setting; did you mean 'lr'?"),
        (["codec.up=itn8"], "codec: up: there is no codec or step 'itn8', did you mean 'int8'?"),
        (["codec.down=foo"], "codec: down: there is no codec or step 'foo', there are fp16, bf16, int8"),
        (["strategy=cfd", "codec.up=int8"], "codec.up has no effect with strategy=cfd: the strategy packs its own"),
        (["strategy=cfd", "codec.down=int8"], "soft labels (bits_down is 1; 16 or 32 leave them to a codec)"),
        (["strategy=local", "codec.sites.site-1=int8"], "codec.sites.site-1 has no effect with strategy=local: sites"),
        (["strategy=cross_silo", "strategy.teachers_learn=false", "codec.down=int8"], "sites receive nothing"),
        (["collect.away.site-1=soon"], "away.site-1 must be rounds like 3, 3-5"),
        (["public_dataset=cifra10"], "public_dataset: 'cifra10' is no data set; did you mean 'cifar10'?"),
        (["test_dataset=cifra10"], "test_dataset: 'cifra10' is no data set; did you mean 'cifar10'?"),
        (["test_dataset=a.csv"], "test_dataset=a.csv: a CSV file is read with the dataset's own settings, and this"),
        (["public_dataset=a.csv"], "public_dataset=a.csv: a CSV file is read with the dataset's own settings, and"),
        (["test_dataset={_target_: no.such.set}"], "test_dataset: cannot import 'no.such.set'"),
        (
            ["dataset=heart_disease", "dataset.standardise=public", "public=0", "strategy=fedavg"],
            "dataset.standardise=public scales by the public rows: set public > 0, or public_dataset",
        ),
        (["strategy=cfd", "strategy.bits_up=9"], "bits_up is 16 or 32; 1 to 8 pack, not 9"),
        (["strategy.bits=8"], "16 or 32; exchange=probabilities allows 1 to 8, not 8"),
        (["strategy=dsfl", "strategy.server_model=cnnn"], "'cnnn' is no model; did you mean 'cnn'"),
        (["local=null"], "local must hold settings"),
        (["dataset=null"], "dataset=None: no such choice; there are cifar10"),
        (["split=5"], "split must hold settings, not 5"),
        (["track.wandb=maybe"], "wandb must be true or false"),
        (["track.observers=a.B"], "observers must be a list of texts"),
        (["track.observers=[no.such.Observer]"], "track.observers: cannot import"),
        (["evaluate.separately=7"], "separately must be true or false"),
        (["seed=0,1"], "add -m"),
        (["stop.patience=3", "split.validation=0"], "stop judges by validation data"),
    ],
)
def test_each_fault_has_its_sentence(overrides: list[str], sentence: str) -> None:
    assert any(sentence in fault for fault in faults(*overrides))


def test_data_from_elsewhere_is_at_fault_as_a_whole() -> None:
    found = faults("dataset=mnist", "public_dataset=p.csv", "test_dataset=cifra10")
    assert [fault.partition("=")[0].partition(":")[0] for fault in found] == ["public_dataset", "test_dataset"]


def test_files_from_elsewhere_are_read_with_the_settings_of_the_dataset() -> None:
    words = ["dataset=heart_disease", "dataset.standardise=public", "test_dataset=/x/test.csv"]
    found = experiment([*words, "public_dataset=/x/public.csv"])
    assert found.test_dataset == {**found.dataset, "path": "/x/test.csv"}
    assert found.public_dataset == {**found.dataset, "path": "/x/public.csv"}
    assert found.public_labels
    assert not experiment([*words, "public_dataset=/x/public.safetensors"]).public_labels
    assert not experiment(words).public_labels
    images = experiment(["dataset=cifar10", "test_dataset=/x/t.safetensors", "public_dataset=/x/p.safetensors"])
    assert images.test_dataset is not None
    assert images.test_dataset["classes"] == images.dataset["classes"]
    assert images.public_dataset == {"_target_": "fl_distill.data.sources.TensorFile", "path": "/x/p.safetensors"}


def test_two_data_sets_from_elsewhere_compose_beside_the_chosen_one() -> None:
    found = experiment(["dataset=digits", "partition=iid", "public_dataset=heart_disease", "test_dataset=mnist"])
    alone = {name: experiment([f"dataset={name}"]).dataset for name in ("heart_disease", "mnist")}
    assert found.public_dataset == alone["heart_disease"]
    assert found.test_dataset == alone["mnist"]
    assert found.raw["names"]["partition"] == "iid"


def test_a_bad_command_line_exits_with_2_and_names_every_fault(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["strategy=fedporx", "rounds=0", "ruonds=1"]) == 2
    shown = capsys.readouterr().err
    assert "did you mean 'fedprox'" in shown
    assert "did you mean 'rounds'" in shown


def test_the_command_line_reads_like_a_sentence() -> None:
    found = experiment(
        [
            "strategy=fedprox",
            "strategy.mu=0.1",
            "dataset=mnist",
            "partition=dirichlet",
            "partition.alpha=0.1",
            "sites=20",
            "model=lenet",
            "rounds=50",
        ]
    )
    assert (found.sites, found.rounds, found.strategy["mu"], found.partition["alpha"]) == (20, 50, 0.1, 0.1)
    assert found.model(3, "site-03")[0] == "lenet"


def test_models_are_dealt_round_robin_or_by_site_and_settings_by_site() -> None:
    mixed = experiment(["strategy=local", "models=[mlp,cnn,gru,vit]", "per_site.site-1.lr=0.5", "local.epochs=3"])
    assert [mixed.model(i, f"site-{i}")[0] for i in range(6)] == ["mlp", "cnn", "gru", "vit", "mlp", "cnn"]
    assert mixed.settings("site-1").lr == 0.5
    assert mixed.settings("site-1").epochs == mixed.settings("site-2").epochs == 3
    by_site = experiment(["strategy=local", "models={site-1: gru}", "model=mlp"])
    assert [by_site.model(i, f"site-{i}")[0] for i in range(3)] == ["mlp", "gru", "mlp"]


def test_a_data_set_may_choose_its_partition_and_a_user_may_choose_another() -> None:
    assert composed(["dataset=heart_disease"])[0]["names"]["partition"] == "natural"
    assert composed(["dataset=heart_disease", "partition=iid"])[0]["names"]["partition"] == "iid"


def test_configuration_of_the_users_own_joins(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("_target_: fl_distill.models.mlp\nhidden: [7]\n")
    for overrides, folder in (
        (["model=mine"], str(tmp_path)),
        (["model=mine", f"hydra.searchpath=[file://{tmp_path}]"], None),
    ):
        assert experiment(overrides, folder).model(0, "x")[1]["hidden"] == [7]
    with pytest.raises(ConfigError, match="no such folder"):
        composed([], str(tmp_path / "absent"))


@pytest.mark.parametrize(
    ("yaml", "overrides", "up", "down"),
    [
        ("{up: int8, down: step}", [], Way("int8"), Way("step")),
        ("{up: [delta, residual, uniform4x64]}", [], Way("delta residual uniform4x64"), Way()),
        ("{up: {codec: step, bytes_per_round: 20kB}}", [], Way("step", 20_000), Way()),
        ("{up: eden4}", ["codec.up.bytes_per_round=20kB"], Way("eden4", 20_000), Way()),
        ("{up: [delta, sign]}", ["codec.up=int8", "codec.down=[delta,sign]"], Way("int8"), Way("delta sign")),
        ("{up: {codec: step, bytes_per_round: 20kB}}", ["codec.up=eden4"], Way("eden4", 20_000), Way()),
        ("{}", ["codec.up.bytes_per_round=20kB", "codec.up=eden4"], Way("eden4", 20_000), Way()),
        ("{}", ["codec.up={codec: eden4, bytes_per_round: 20kB}"], Way("eden4", 20_000), Way()),
        ("{down: step}", ["codec={up: int8}"], Way("int8"), Way("step")),
    ],
)
def test_a_codec_is_said_in_yaml_as_on_the_command_line(
    yaml: str, overrides: list[str], up: Way, down: Way, tmp_path: Path
) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\ncodec: {yaml}\n")
    found = experiment(["experiment=mine", *overrides], str(tmp_path))
    assert (found.codec.up, found.codec.down) == (up, down)
    assert way(found.raw["codec"]["up"]) == up
    assert found.raw["codec"]["up"].keys() == {"codec", "bytes_per_round"}


def test_a_part_of_a_site_s_codec_changes_alone(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ncodec: {sites: {site-1: eden4, Dr. (Who): int8}}\n"
    )
    found = experiment(["experiment=mine", "codec.sites.site-1.bytes_per_round=5kB"], str(tmp_path))
    assert found.codec.sites == {"site-1": Way("eden4", 5000), "Dr. (Who)": Way("int8")}


@pytest.mark.parametrize(
    "overrides",
    [
        ["strategy=cfd", "strategy.bits_up=16", "codec.up=int8"],
        ["strategy=dsfl", "codec.up=classes3", "codec.down=int8"],
        ["strategy=teacher_student", "codec.up=int8"],
        ["strategy=cfd"],
    ],
)
def test_a_codec_that_finds_something_to_do_is_no_fault(overrides: list[str]) -> None:
    experiment(overrides)


def test_maps_of_sites_are_given_whole_or_name_by_name() -> None:
    whole = experiment(["collect.away={site-1: 3-5}", "per_site={site-2: {lr: 0.1}}", "codec.sites={site-3: eden1}"])
    dotted = experiment(["collect.away.site-1=3-5", "per_site.site-2.lr=0.1", "codec.sites.site-3=eden1"])
    assert whole.collect.away == dotted.collect.away == {"site-1": "3-5"}
    assert whole.per_site == dotted.per_site == {"site-2": {"lr": 0.1}}
    assert whole.codec.sites == dotted.codec.sites == {"site-3": Way("eden1")}
    assert experiment(["collect={fraction: 0.5, away: {site-1: 3-5}}"]).collect.away == {"site-1": "3-5"}


def test_sweeps_expand_lists_and_ranges_but_not_values_that_are_lists() -> None:
    assert swept(["strategy=fedavg,fedprox", "seed=range(0,3)", "models=[mlp,cnn]"]) == [
        ["strategy=fedavg", "strategy=fedprox"],
        ["seed=0", "seed=1", "seed=2"],
        ["models=[mlp,cnn]"],
    ]


def test_help_lists_every_group_and_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--help"]) == 0
    shown = capsys.readouterr().out
    for group, names in options().items():
        assert f"{group}=" in shown
        assert all(name in shown for name in names)
    assert "fl-distill -m" in shown
    assert "timeout_s" in shown


def test_composing_works_in_threads_and_leaves_other_hydra_users_alone() -> None:
    from hydra import compose, initialize_config_dir

    results: list[int] = []
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        threads = [
            threading.Thread(target=lambda n=n: results.append(experiment([f"rounds={n}"]).rounds)) for n in range(1, 9)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert compose("config", ["rounds=77"]).rounds == 77
    assert sorted(results) == list(range(1, 9))
