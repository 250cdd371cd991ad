"""What a site decides for itself: no request goes past it, and every fault in its file is told at once."""

import json
import os
import shlex
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_distill.errors import ConfigError
from fl_distill.policy import Limits, Own, Policy, Refused, checked, compose_request, read, shared
from fl_distill.policy.request import SHARED

LOGITS = Policy(may_leave=["logits"], strategies=["fedmd"], min_examples=20, largest_message="1kB")


def own(**values: object) -> Own:
    return Own(name="mercy", folder=Path("state"), **values)  # type: ignore[arg-type]


def test_nothing_leaves_unless_the_policy_says_so() -> None:
    Policy().admit("local", (), 1)
    for kind in ("weights", "logits", "class_means", "features"):
        with pytest.raises(Refused, match=f"lets nothing leave, not {kind}"):
            Policy().admit("any", (kind,), 1000)


@pytest.mark.parametrize(
    ("strategy", "kinds", "examples", "reason"),
    [
        ("fedavg", ("weights",), 100, "allows strategies fedmd, not fedavg"),
        ("fedmd", ("logits", "features"), 100, "lets logits leave, not features"),
        ("fedmd", ("logits",), 19, "wants 20 examples behind what leaves"),
    ],
)
def test_a_policy_names_what_it_forbids(strategy: str, kinds: tuple[str, ...], examples: int, reason: str) -> None:
    LOGITS.admit("fedmd", ("logits",), 20)
    with pytest.raises(Refused, match=reason):
        LOGITS.admit(strategy, kinds, examples)


def test_a_reply_beyond_the_size_allowed_is_refused() -> None:
    LOGITS.admit_size(1000)
    with pytest.raises(Refused, match="replies of 1kB leave; this one has 1001 bytes"):
        LOGITS.admit_size(1001)


def test_where_privacy_is_asked_for_nothing_leaves_without_it() -> None:
    with pytest.raises(Refused, match="differential privacy"):
        Policy(may_leave=["logits"], dp_epsilon=1.0).admit("fedmd", ("logits",), 100)


def test_limits_bound_the_work_of_one_request() -> None:
    limits = Limits(epochs=5, steps=100, rounds=10)
    limits.admit({"epochs": 5.0, "steps": None}, 10)
    limits.admit({"epochs": 50.0, "steps": 100}, 10)  # steps replace epochs
    with pytest.raises(Refused, match="ask for local.epochs, not local.steps"):
        Limits(epochs=5).admit({"epochs": 1.0, "steps": 10**9}, 1)
    for local, rounds, named in (
        ({"epochs": 5.1}, 10, "5 epochs"),
        ({"steps": 101}, 10, "100 steps"),
        ({}, 11, "10 rounds"),
    ):
        with pytest.raises(Refused, match=named):
            limits.admit(local, rounds)


@pytest.mark.parametrize(
    "override",
    [
        "dataset.path=/etc/passwd",
        "public_dataset=/etc/shadow.csv",
        "test_dataset=x.csv",
        "hydra.run.dir=/tmp",
        "hydra.searchpath=[file:///tmp]",
        "track.observers=[os.system]",
        "runtime=local",
        "resume=x",
        "local.device=cuda",
        "per_site.mercy.device=cuda",
        "+strategy._target_=os.system",
        "strategy._target_=os.system",
        "strategy={_target_: os.system}",
        "combine._target_=os.system",
        "~strategy",
        "++local.lr=1",
        "local.lr=${oc.env:HOME}",
        "local.lr=$\\{oc.env\\:HOME\\}",
        "models=[$\\{oc.env\\:HOME\\}]",
        "strategy.combine=$\\{oc.create\\:x\\}",
        "strategy.combine={_target_: os.system}",
        "per_site={mercy: {device: cuda}}",
        "local={device: cuda}",
        "dataset.classes=[a,b]",
        "dataset.target=age",
        "dataset={target: age}",
        "model.weights=/etc/passwd",
        "model={weights: /etc/passwd}",
        "model@strategy=mlp",
        "seed",
        "=",
        "",
    ],
)
def test_a_request_may_not_reach_beyond_the_experiment(override: str) -> None:
    with pytest.raises((Refused, ConfigError)):
        compose_request(f"model=cnn rounds=2 '{override}'", own())


pieces = st.sampled_from(
    [
        *"${}[]:,.=_'\\\"() ",
        *("\\\\", "$\\{", "\\}", "_target_", "os.system", "oc.env:HOME", "oc.create:", "device", "path", "x", "1"),
    ]
)
keys = st.sampled_from([*SHARED, "strategy.combine", "local.lr", "local.device", "per_site.mercy.lr", "model.hidden"])
values = st.lists(pieces, max_size=10).map("".join)


def targets(node: object) -> list[str]:
    if isinstance(node, dict):
        mine = [str(value) for key, value in node.items() if key == "_target_"]
        return mine + [found for value in node.values() for found in targets(value)]
    return [found for value in node for found in targets(value)] if isinstance(node, list) else []


@settings(max_examples=60)
@given(st.lists(st.tuples(keys, values), max_size=2))
def test_whatever_a_request_says_is_composed_or_refused(said: list[tuple[str, str]]) -> None:
    """Nothing in it reaches code, the environment, or what the site owns."""
    try:
        text = shlex.join(f"{key}={value}" for key, value in said)
        config = compose_request(text, own(device="cuda", model="mlp"))
    except (Refused, ConfigError):
        return
    assert config["local"]["device"] == "cuda"
    assert config["track"]["observers"] == []
    assert os.environ["HOME"] not in json.dumps(config, default=str).replace(os.getcwd(), "")
    assert all(name.startswith("fl_distill.") for name in targets(config))


def test_what_the_site_owns_stays_its_own(tmp_path: Path) -> None:
    mine = own(model="mlp", device="cpu", dataset={"path": "it\\'s {here}, [now]\\", "target": "y"})
    config = compose_request("dataset=csv strategy=fedmd model=cnn model.hidden=3 rounds=3 local.epochs=2", mine)
    assert config["dataset"]["path"] == "it\\'s {here}, [now]\\"
    assert config["names"]["model"] == "mlp"
    assert (config["rounds"], config["local"]["epochs"], config["local"]["device"]) == (3, 2, "cpu")
    with pytest.raises(Refused, match=r"dataset\.standardise.* is this site's own"):
        compose_request("dataset.standardise=none", own(dataset={"standardise": "public"}))


def test_a_deal_that_needs_all_sites_is_refused() -> None:
    with pytest.raises(Refused, match="name this site's `model`"):
        compose_request("models=[mlp,cnn]", own())
    assert compose_request("models=[mlp,cnn]", own(model="gru"))["names"]["model"] == "gru"
    assert compose_request("models=[mlp,cnn]", own(part=1))["models"] == ["mlp", "cnn"]


def test_limits_hold_for_settings_meant_for_this_site() -> None:
    limited = own(limits=Limits(epochs=5))
    compose_request("per_site.other.epochs=50 model=cnn", limited)
    with pytest.raises(Refused, match="5 epochs"):
        compose_request("per_site.mercy.epochs=50 model=cnn", limited)


def test_the_command_line_is_cut_into_what_all_hear_and_what_is_the_servers() -> None:
    assert not shared("dataset.target=age")
    said = ["strategy=fedmd", "local.lr=0.1", "track.wandb=true", "dataset.path=/srv", "public_dataset=p.csv"]
    assert [shared(text) for text in said] == [True, True, False, False, False]
    assert checked(["collect.away={a: 3}"]) == "'collect.away={a: 3}'"
    with pytest.raises(ConfigError, match="may not choose code"):
        checked(["strategy._target_=x.Y"])


SITE = """\
name: mercy
federation: {address: "fl.example.org:9092", ca: ca.pem, key: key, port: null}
model: mlp
dataset: {path: data.csv}
public_dataset: shared/public.csv
test_dataset: digits
limits: {epochs: 10}
policy: {may_leave: [logits], min_examples: 20, largest_message: 20MB}
"""


def test_a_site_file_is_read_with_paths_against_its_folder(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(SITE)
    found = read(tmp_path / "site.yaml")
    assert found.dataset["path"] == str(tmp_path / "data.csv")
    assert found.public_dataset == str(tmp_path / "shared" / "public.csv")
    assert found.test_dataset == "digits"
    assert found.folder == tmp_path / "state"
    assert found.policy == Policy(may_leave=["logits"], min_examples=20, largest_message="20MB")


def test_every_fault_of_a_site_file_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(
        "modell: x\nthreads: 0\npolicy: {may_leave: [wieghts], min_examples: 0}\nlimits: {epochs: -1, hours: 2}\n"
    )
    with pytest.raises(ConfigError) as caught:
        read(path)
    text = "\n".join(caught.value.faults)
    for named in ("modell", "did you mean 'model'", "may_leave is a list of", "min_examples must", "limits", "threads"):
        assert named in text
    assert "name must be" in text
    for broken in ("- a list", "{", "name: [1, 2"):
        path.write_text(broken)
        with pytest.raises(ConfigError, match=r"site\.yaml"):
            read(path)
