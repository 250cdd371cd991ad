"""What distillation asks of models: maps by resolution, features of one width, narrower networks."""

from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from fl_distill.models import Classifier
from fl_distill.models.build import build, faults
from fl_distill.models.projected import projected
from fl_distill.models.stages import stage_maps

CONF = Path(__file__).parent.parent / "conf" / "model"


def model_of(name: str, shape: tuple[int, ...], seed: int = 0, **params: object) -> Classifier:
    spec = yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8"))
    model = build(spec | params, shape, 4, seed)
    assert isinstance(model, Classifier)
    return model


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


@pytest.mark.parametrize(
    ("name", "shape", "sides"),
    [
        ("resnet8", (3, 32, 32), [32, 16, 8]),
        ("cnn", (1, 28, 28), [28, 14, 7]),
        ("lenet", (1, 28, 28), [28, 14, 10, 5]),
        ("vit", (1, 28, 28), [7]),  # the embedded patches: later tokens lie in a row
        ("mlp", (1, 28, 28), []),
        ("gru", (1, 28, 28), []),
        ("tabular", (13,), []),
    ],
)
def test_maps_come_from_the_largest_resolution_to_the_smallest(
    name: str, shape: tuple[int, ...], sides: list[int]
) -> None:
    maps = stage_maps(model_of(name, shape), torch.randn(2, *shape))
    assert [tuple(seen.shape[2:]) for seen in maps] == [(side, side) for side in sides]
    assert all(len(seen) == 2 for seen in maps)


def test_the_last_map_at_each_resolution_is_kept() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(2, 5, 1),
        nn.AdaptiveAvgPool2d(1),
    )
    x = torch.randn(3, 1, 8, 8)
    shallow, deep = stage_maps(model, x)
    assert torch.equal(shallow, model[:2](x))
    assert torch.equal(deep, model[:4](x))
    wide, high = stage_maps(nn.Sequential(nn.Conv2d(1, 1, (1, 3)), nn.MaxPool2d((1, 2))), torch.randn(1, 1, 4, 6))
    assert (wide.shape[2:], high.shape[2:]) == ((4, 4), (4, 2))


def test_maps_are_part_of_the_graph_and_leave_the_model_as_it_was() -> None:
    model = model_of("resnet8", (1, 8, 8)).train()
    other = model_of("resnet8", (1, 8, 8)).train()
    x = torch.randn(4, 1, 8, 8)
    maps = stage_maps(model, x)
    sum(seen.pow(2).sum() for seen in maps).backward()  # type: ignore[union-attr]
    silent = [name for name, p in model.body.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []
    assert hooks(model) == 0
    other(x)  # one pass, not two: running statistics moved once
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), other.buffers(), strict=True))
    with torch.inference_mode():
        assert not any(seen.requires_grad for seen in stage_maps(model, x))


def test_hooks_are_gone_after_an_error() -> None:
    model = model_of("cnn", (1, 8, 8))
    with pytest.raises(RuntimeError):
        stage_maps(model, torch.randn(2, 3, 8, 8))
    assert hooks(model) == 0


@pytest.mark.parametrize(
    ("name", "shape"),
    [("cnn", (1, 8, 8)), ("resnet8", (3, 16, 16)), ("vit", (1, 8, 8)), ("gru", (1, 8, 8)), ("mlp", (13,))],
)
def test_every_architecture_gets_features_of_one_width(name: str, shape: tuple[int, ...]) -> None:
    model = model_of(name, shape).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    narrow = projected(model, 24, 5, shape)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    x = torch.randn(3, *shape)
    assert narrow.features(x).shape == (3, 24)
    assert narrow(x).shape == (3, 5)
    narrow(x).sum().backward()
    assert all(p.grad is not None for p in narrow.parameters())
    narrow.eval()
    linear: nn.Linear = narrow.body[1]  # type: ignore[index, assignment]
    torch.testing.assert_close(narrow.features(x), model.features(x) @ linear.weight.T + linear.bias)


def test_projection_is_refused_where_there_are_no_features() -> None:
    with pytest.raises(ValueError, match=r"fl_distill\.models\.Classifier, not Linear"):
        projected(nn.Linear(3, 2), 8, 2, (3,))
    with pytest.raises(ValueError, match="width must be an integer of at least 1"):
        projected(model_of("mlp", (3,)), 0, 2, (3,))
    with pytest.raises(ValueError, match=r"must have shape \(batch, width\)"):
        projected(Classifier(nn.Conv2d(1, 2, 1), nn.Flatten()), 8, 2, (1, 4, 4))


def test_mobilenet_narrows_and_starts_as_ever_by_default() -> None:
    torchvision = pytest.importorskip("torchvision")
    half = model_of("mobilenet_v2", (1, 28, 28), width=0.5)
    full = model_of("mobilenet_v2", (1, 28, 28))
    count = [sum(p.numel() for p in model.parameters()) for model in (half, full)]
    assert count[0] < 0.4 * count[1]
    torch.manual_seed(0)
    plain: dict[str, Tensor] = torchvision.models.mobilenet_v2(num_classes=4, dropout=0.0).state_dict()
    own = build({"_target_": "fl_distill.models.mobilenet_v2", "small_stem": False}, (3, 64, 64), 4, 0).state_dict()
    assert all(torch.equal(value, own[f"body.{key}"]) for key, value in plain.items() if "classifier" not in key)
    (fault,) = faults({"_target_": "fl_distill.models.mobilenet_v2", "width": 0}, (1, 28, 28), 4)
    assert "width must be a number above 0, got 0" in fault
