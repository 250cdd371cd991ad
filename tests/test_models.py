"""Models: every configuration builds, learns and starts from its seed; what does not fit is told in a sentence."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from fl_distill.errors import ConfigError
from fl_distill.models import Classifier
from fl_distill.models.build import build, faults

ROOT = Path(__file__).parent.parent
SPECS: dict[str, dict[str, Any]] = {
    path.stem: spec
    for path in sorted(ROOT.glob("conf/model/*.yaml"))
    if "mix" not in (spec := yaml.safe_load(path.read_text(encoding="utf-8")))
}
IMAGES = ((1, 8, 8), (1, 28, 28), (3, 32, 32))
TABLE = (13,)
SHAPES: dict[str, tuple[tuple[int, ...], ...]] = {
    "cnn": IMAGES,
    "gru": (*IMAGES, (12, 5)),
    "lenet": IMAGES,
    "linear": (*IMAGES, TABLE),
    "mlp": (*IMAGES, TABLE),
    "mlp_wide": (*IMAGES, TABLE),
    "resnet8": IMAGES,
    "tabular": (TABLE,),
    "tabular_wide": (TABLE,),
    "vit": IMAGES,
}
# torchvision's; what keeps its own stem has nothing left of small images
FAMILIES = sorted(SPECS.keys() - SHAPES.keys() - {"mobilenet_v2_small"})
CASES = [(name, shape) for name, shapes in SHAPES.items() for shape in shapes]
PARAMETERS = {  # what the documentation promises, for ten classes
    ("cnn", (1, 8, 8)): 38_282,
    ("cnn", (3, 32, 32)): 136_874,
    ("lenet", (1, 28, 28)): 61_706,
    ("lenet", (3, 32, 32)): 62_006,
    ("resnet8", (3, 32, 32)): 78_042,
}


def batch(shape: tuple[int, ...], size: int = 6, classes: int = 4) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(size, *shape, generator=g), torch.arange(size) % classes


def backward(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The loss of one batch, its gradient left in every parameter."""
    model.train().zero_grad()
    scores = model(x)
    assert scores.shape == (len(x), 4)
    loss = F.cross_entropy(scores, y)
    loss.backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not silent, f"no gradient reaches {silent}"
    return loss.item()


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_our_models_learn(name: str, shape: tuple[int, ...]) -> None:
    model = build(SPECS[name], shape, 4, 0)
    assert isinstance(model, Classifier)
    losses = []
    for _ in range(6):
        losses.append(backward(model, *batch(shape, 8)))
        with torch.no_grad():
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter -= 0.05 * parameter.grad
    assert losses[-1] < losses[0], losses
    model.eval()
    x, _ = batch(shape, 3)
    with torch.no_grad():
        features = model.features(x)
        assert features.shape == (3, model.head.in_features)
        assert torch.equal(model.head(features), model(x))
        assert model(x[:1]).shape == (1, 4)
        torch.testing.assert_close(model(x)[:1], model(x[:1]))  # examples do not see each other


@pytest.mark.parametrize("name", FAMILIES)
def test_torchvision_families_take_small_grey_images(name: str) -> None:
    pytest.importorskip("torchvision")
    model = build(SPECS[name], (1, 28, 28), 4, 0)
    assert isinstance(model, Classifier)
    nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))  # torchvision's ViT starts at zero
    backward(model, *batch((1, 28, 28), 2))


@pytest.mark.parametrize("name", sorted(SPECS))
def test_every_configured_model_scores_a_colour_image_or_a_table(name: str) -> None:
    if name in FAMILIES:
        pytest.importorskip("torchvision")
    shape = SHAPES.get(name, IMAGES)[-1]
    assert faults(SPECS[name], shape, 7) == []


@pytest.mark.parametrize(("name", "shape"), PARAMETERS)
def test_models_are_as_large_as_promised(name: str, shape: tuple[int, ...]) -> None:
    model = build(SPECS[name], shape, 10, 0)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name, shape]


@pytest.mark.parametrize("name", [*SHAPES, "resnet18"])
def test_initial_weights_depend_on_the_seed_alone(name: str) -> None:
    if name in FAMILIES:
        pytest.importorskip("torchvision")
    shape = SHAPES.get(name, IMAGES)[0]
    built = []
    for state, seed in ((5, 0), (6, 0), (6, 1)):
        torch.manual_seed(state)
        before = torch.get_rng_state()
        built.append(build(SPECS[name], shape, 4, seed).state_dict())
        assert torch.equal(torch.get_rng_state(), before), "building moved the caller's random state"
    first, again, other = built
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_checking_a_model_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    assert faults(SPECS["vit"] | {"dropout": 0.5}, (1, 8, 8), 4) == []
    assert torch.equal(torch.get_rng_state(), before)


@settings(max_examples=15)
@given(
    st.sampled_from(["cnn", "gru", "resnet8", "vit", "mlp"]), st.tuples(*[st.integers(1, 3), *[st.integers(1, 40)] * 2])
)
def test_images_of_any_size_fit(name: str, shape: tuple[int, int, int]) -> None:
    assert faults(SPECS[name], shape, 3) == []


@pytest.mark.parametrize(
    ("change", "shape", "sentence"),
    [
        (
            {"_target_": "fl_distill.models.cnn"},
            TABLE,
            "cnn takes images of shape (channels, height, width), got (13,)",
        ),
        (
            {"_target_": "fl_distill.models.vit"},
            (8, 8),
            "vit takes images of shape (channels, height, width), got (8, 8)",
        ),
        ({"_target_": "fl_distill.models.lenet"}, (1, 3, 3), "lenet takes images of at least 4x4 pixels, got 3x3"),
        (
            {"_target_": "fl_distill.models.gru"},
            TABLE,
            "gru takes images of shape (channels, rows, columns) or sequences",
        ),
        ({"_target_": "fl_distill.models.tabular"}, (1, 8, 8), "tabular takes rows of a table, shape (columns,), got"),
        ({"_target_": "fl_distill.models.resnet18"}, TABLE, "resnet18 takes images of shape (channels, height, width)"),
        (
            {"_target_": "fl_distill.models.mlp", "hidden": [0]},
            TABLE,
            "hidden[0] must be an integer of at least 1, got 0",
        ),
        ({"_target_": "fl_distill.models.mlp", "hidden": 64}, TABLE, "hidden must be a list of integers"),
        ({"_target_": "fl_distill.models.cnn", "channels": [1]}, (1, 8, 8), "channels must be a list of 2 integers"),
        ({"_target_": "fl_distill.models.vit", "width": 10}, (1, 8, 8), "width must be a multiple of heads"),
        ({"_target_": "fl_distill.models.tabular", "dropout": 1}, TABLE, "dropout must be a number from 0 up to"),
        ({"_target_": "fl_distill.models.resnet8", "norm": "layer"}, (1, 8, 8), "norm must be one of"),
        (
            {"_target_": "fl_distill.models.mlp", "hiden": [3]},
            TABLE,
            "mlp has no setting 'hiden'; did you mean 'hidden'?",
        ),
        ({"_target_": "fl_distill.models.mlp", "classes": 3}, TABLE, "mlp has no setting 'classes'"),
        ({"_target_": "fl_distill.models.mpl"}, TABLE, "has no function or class 'mpl'; did you mean 'mlp'?"),
        ({"_target_": "no.such.net"}, TABLE, "cannot import 'no.such.net': ModuleNotFoundError"),
        ({"_target_": "mlp"}, TABLE, "expected an import path such as 'my_package.MyNet', not 'mlp'"),
        ({}, TABLE, "expected an import path such as 'my_package.MyNet', not None"),
        ({"_target_": "torch.nn.ReLU"}, TABLE, "torch.nn.ReLU must take (input_shape, classes, ...); its signature is"),
        ({"_target_": "fl_distill.models.resnet8", "weights": "x"}, (1, 8, 8), "resnet8 has no setting 'weights'"),
    ],
)
def test_what_does_not_fit_has_its_sentence(change: Mapping[str, Any], shape: tuple[int, ...], sentence: str) -> None:
    if "resnet18" in str(change):
        pytest.importorskip("torchvision")
    found = faults(change, shape, 4)
    assert len(found) == 1
    assert sentence in found[0]
    with pytest.raises(ConfigError) as caught:
        build(change, shape, 4, 0)
    assert caught.value.faults == found


USERS = """
import torch
from torch import nn

class Net(nn.Linear):
    def __init__(self, shape, n_out, /, *, gain=1.0):
        super().__init__(shape[0], n_out)

def wide(input_shape, classes, **anything):
    return Net(input_shape, classes + anything["more"])

def text(input_shape, classes):
    return "a net"

def needy(input_shape, classes, width):
    return Net(input_shape, width)

def failing(input_shape, classes):
    return nn.Sequential(nn.Linear(input_shape[0] + 1, classes))
"""


def test_a_users_own_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_nets.py").write_text(USERS)
    (tmp_path / "my_broken_nets.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, rest, sentence in (
        ("my_nets.Net", {"gain": 2.0}, None),
        ("my_nets.Net", {"gian": 2.0}, "Net has no setting 'gian'; did you mean 'gain'?"),
        ("my_nets.wide", {"more": 0}, None),
        ("my_nets.wide", {"more": 1}, "must give scores of shape (2, 4) for two examples, got (2, 5)"),
        ("my_nets.text", {}, "must return a torch.nn.Module, got str"),
        ("my_nets.needy", {}, "needy needs a value for 'width'"),
        ("my_nets.failing", {}, "my_nets.failing fails on its first batch: RuntimeError: "),
        ("my_broken_nets.Net", {}, "cannot import 'my_broken_nets.Net': ZeroDivisionError"),
    ):
        found = faults({"_target_": name, **rest}, TABLE, 4)
        assert [sentence in fault for fault in found] == ([] if sentence is None else [True]), found


def test_weights_from_a_file(tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    spec = {"_target_": "fl_distill.models.resnet18"}
    trained = build(spec, (3, 32, 32), 10, 1).state_dict()
    file = tmp_path / "trained.safetensors"
    save_file(trained, file)
    started = build(spec | {"weights": str(file)}, (1, 8, 8), 4, 2).state_dict()
    fresh = build(spec, (1, 8, 8), 4, 2).state_dict()
    own = {"head.weight", "head.bias", "body.conv1.weight"}  # other classes, other channels: as initialised
    assert all(torch.equal(started[key], (fresh if key in own else trained)[key]) for key in started)

    save_file({k: v for k, v in trained.items() if k != "body.bn1.weight"} | {"more": torch.ones(1)}, file)
    text = " ".join(faults(spec | {"weights": str(file)}, (3, 32, 32), 10))
    assert "body.bn1.weight is missing" in text
    assert "body.more is not part of the model" in text
    file.write_bytes(b"not tensors")
    assert "is not a readable safetensors file" in faults(spec | {"weights": str(file)}, (3, 32, 32), 10)[0]
    assert "is not a file" in faults(spec | {"weights": str(tmp_path / "none")}, (3, 32, 32), 10)[0]


def test_torchvision_waits_until_it_is_asked_for() -> None:
    code = """
import sys
import fl_distill.models.build as b
assert b.faults({"_target_": "fl_distill.models.cnn"}, (1, 8, 8), 10) == []
assert b.faults({"_target_": "fl_distill.models.resnet18"}) == []
print([name for name in sys.modules if name.partition(".")[0] in ("torchvision", "flwr", "hydra", "torch._dynamo")])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
