"""`fl-distill export`: files that ONNX Runtime and torch run by themselves, and the numbers told about them."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fl_distill import artefacts, cli
from fl_distill.artefacts import export
from fl_distill.data.types import Split
from fl_distill.errors import ConfigError
from fl_distill.export import FORMATS, Measured, measured
from fl_distill.files import load_tensors, save_tensors
from fl_distill.learning import evaluate
from fl_distill.quantize import to_int8
from fl_distill.workplace import job_text, workplace

from .test_quantize import images, warmed

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

RUN = (
    "strategy=fedavg",
    "runtime=local",
    "runtime.workers=0",
    "rounds=3",
    "sites=3",
    "local.epochs=3",
    "split.test=0.05",
)
QUIET = ("track.plots=false", "track.console=false", "log=quiet")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose model is large enough that what a file holds beside weights does not count."""
    folder = tmp_path_factory.mktemp("run")
    assert cli.run([*RUN, *QUIET, "model=cnn", "model.hidden=256", f"hydra.run.dir={folder}"]) == 0
    return folder


@pytest.fixture(scope="module")
def held_out(run: Path) -> Split:
    config = json.loads((run / "job.json").read_text())["config"]
    return workplace(job_text(config, run)).federation.test


def scores_of(path: Path, x: Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(["scores"], {"x": x.numpy()})[0]
    return found


def accuracy(scores: np.ndarray, y: Tensor) -> float:
    return float((scores.argmax(1) == y.numpy()).mean())


# ---------------------------------------------------------------- a run, exported


@pytest.fixture(scope="module")
def exported(run: Path) -> tuple[Measured, Measured, str]:
    """The float32 and the int8 ONNX file, and what was shown."""
    shown: list[str] = []
    before, after = export([f"run={run}", "format=onnx", "precision=full"], show=shown.append)
    return before, after, "\n".join(shown)


def test_full_onnx_is_small_and_as_good(run: Path, held_out: Split, exported: tuple[Measured, Measured, str]) -> None:
    before, after, told = exported
    assert after.path == run / "export" / "server-full.onnx"
    assert before.path == run / "export" / "server-float32.onnx"
    exact, small = (accuracy(scores_of(m.path, held_out.x), held_out.y) for m in (before, after))
    assert exact > 0.9
    assert small > exact - 0.01
    assert after.path.stat().st_size <= 0.3 * before.path.stat().st_size
    assert (before.accuracy, after.accuracy) == (exact, small)
    assert (before.size, after.size) == (before.path.stat().st_size, after.path.stat().st_size)
    assert 0 < after.latency_ms < 1000
    assert f"{after.path}" in told
    assert f"{100 * small:.2f} %" in told
    assert f"{after.size:,}" in told


def test_full_onnx_computes_in_int8_with_the_codes_of_the_pure_function(
    run: Path, exported: tuple[Measured, Measured, str]
) -> None:
    graph = onnx.load(exported[1].path).graph
    held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = load_tensors(run / "models" / "server.safetensors")[0]
    for name in ("body.0.weight", "body.3.weight", "body.7.weight", "head.weight"):
        codes, scale = to_int8(weights[name])
        assert held[f"{name}_quantized"].dtype == np.uint8  # uint8 by int8 saturates on some processors
        np.testing.assert_array_equal(held[f"{name}_quantized"] - 128.0, codes.numpy())
        assert (held[f"{name}_zero_point"] == 128).all()
        np.testing.assert_allclose(held[f"{name}_scale"], scale.flatten().numpy(), rtol=1e-6)
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("QuantizeLinear") >= 4  # activations too
    assert [node.output[0] for node in graph.node if node.op_type == "Gemm"][-1] == "scores"


@pytest.mark.parametrize("wanted", ["onnx half", "onnx mixed", "pt2 half", "pt2 mixed"])
def test_the_other_forms(run: Path, held_out: Split, wanted: str) -> None:
    kind, precision = wanted.split()
    order = [f"run={run}", f"format={kind}", f"precision={precision}", "model=site-1", "runs=3"]
    before, after = export(order, show=lambda text: None)
    assert after.size < (0.62 if precision == "half" else 0.45) * before.size
    assert after.accuracy > before.accuracy - 0.01 > 0.89
    if kind == "onnx":
        held = {tensor.data_type for tensor in onnx.load(after.path).graph.initializer if len(tensor.dims) > 1}
        types = onnx.TensorProto
        assert held == ({types.FLOAT16} if precision == "half" else {types.FLOAT16, types.UINT8})


def test_torch_alone_runs_a_pt2_file(run: Path, held_out: Split, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "model.pt2"
    (_, after) = export([f"run={run}", "format=pt2", f"out={out}", "runs=2"], show=lambda text: None)
    torch.save({"x": held_out.x, "y": held_out.y}, tmp_path / "data.pt")
    code = f"""
import sys, torch
data = torch.load({str(tmp_path / "data.pt")!r})
scores = torch.export.load({str(out)!r}).module()(data["x"])
assert not any(name.startswith("fl_distill") for name in sys.modules)
print(float((scores.argmax(1) == data["y"]).double().mean()))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(after.accuracy)


# ---------------------------------------------------------------- every architecture


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("name", "kind"), [(n, k) for n in ("gru", "vit", "resnet8") for k in sorted(FORMATS)])
def test_every_architecture_has_an_int8_form(name: str, kind: str, tmp_path: Path) -> None:
    model, x, path = warmed(name), images(96), tmp_path / f"model.{kind}"
    with torch.no_grad():
        exact = model(x)
    FORMATS[kind].write(model, "full", x, path)
    run = FORMATS[kind].load(path)
    error = (run(x) - exact).norm() / exact.norm()
    assert error < 0.1
    assert run(x[:1]).shape == (1, 10)  # any number of examples
    found = measured(path, run, Split(x, exact.argmax(1)), x[:1], 3)
    assert found.accuracy > 0.85  # agreement with the float32 model, whose weights are random
    assert evaluate(model, Split(x, exact.argmax(1))).accuracy == 1  # which stays as it was


# ---------------------------------------------------------------- faults


def faults(*arguments: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        export(arguments)
    return caught.value.faults


def test_every_fault_of_an_order_is_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    order = ["export", f"run={tmp_path}", "format=onx", "precision=int4", "presicion=full", "runs=0"]
    assert cli.run(order) == cli.CONFIGURATION
    told = capsys.readouterr().err
    for sentence in (
        "format=onx: choose onnx, pt2",
        "precision=int4: choose full, half, mixed",
        "export presicion: no such setting; did you mean 'precision'?",
        "runs must be a whole number >= 1, not '0'",
        f"run={tmp_path} is no run folder: its job.json cannot be read",
    ):
        assert sentence in told


def test_what_is_missing_is_named(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert faults() == ["export needs run=<run folder>, such as run=outputs/2026-01-31/12-00-00-000000"]
    (fault,) = faults(f"run={run}", "model=sitte-1")
    assert "choose selected, server, site-0, site-1, site-2 with model=" in fault
    (tmp_path / "job.json").write_text((run / "job.json").read_text())
    assert faults(f"run={tmp_path}") == [f"run={tmp_path} holds no models yet: they are written when a run ends"]
    monkeypatch.setattr(artefacts, "find_spec", lambda name: None if name != "onnx" else object())
    sentence = "format=onnx needs onnxscript, onnxruntime: pip install 'fl-distill[export]'"
    assert faults(f"run={run}", "format=onnx") == [sentence]


def test_weights_that_no_model_fits_or_that_diverged_are_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text((run / "job.json").read_text())
    weights = load_tensors(run / "models" / "server.safetensors")[0]
    save_tensors(tmp_path / "models" / "server.safetensors", {**weights, "head.bias": torch.zeros(3)})
    assert "fit none of the run's models: cnn" in faults(f"run={tmp_path}", "format=pt2")[0]
    save_tensors(tmp_path / "models" / "server.safetensors", {**weights, "head.bias": torch.full((10,), torch.nan)})
    assert "not finite in head.bias: this model diverged" in faults(f"run={tmp_path}", "format=pt2")[0]
