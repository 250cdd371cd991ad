"""An ONNX model: int8 with calibrated activations by ONNX Runtime's static quantization, or small weights."""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from .measure import Run
from .onnx_weights import int8_nodes, shrink, unsigned
from .traced import any_batch, example, ready, without_notices


@final
class OnnxFile:
    """`onnxruntime.InferenceSession(path)`: input `x` (N, …), output `scores` (N, classes), both float32."""

    needs: tuple[str, ...] = ("onnx", "onnxscript", "onnxruntime")

    @staticmethod
    def write(model: nn.Module, precision: str | None, calibration: Tensor, path: Path) -> None:
        """Save `model` at `precision` (None: float32) to `path`; activations are calibrated on `calibration`."""
        with tempfile.TemporaryDirectory() as folder, _quietly():
            plain = Path(folder) / "plain.onnx"
            _trace(ready(model, precision, calibration), example(calibration), plain)
            nodes = int8_nodes(plain, inner=precision == "mixed")
            if precision in ("full", "mixed") and nodes:
                plain = _int8(plain, calibration, nodes)
            shrink(plain, path, {None: None, "full": "int8"}.get(precision, "half"))

    @staticmethod
    def load(path: Path) -> Run:
        """The model as a function, on as many threads as torch uses."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return lambda x: torch.from_numpy(session.run(["scores"], {"x": x.numpy()})[0])


def _trace(model: nn.Module, x: Tensor, path: Path) -> None:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with without_notices(), torch.no_grad():
        torch.onnx.export(
            model,
            (x,),
            path,
            dynamo=True,
            external_data=False,
            verbose=False,
            input_names=["x"],
            output_names=["scores"],
            dynamic_shapes=any_batch(),
        )
    quant_pre_process(path, path, skip_symbolic_shape=True)  # folds constants, some of which were there twice


def _int8(plain: Path, calibration: Tensor, nodes: list[str]) -> Path:
    """QDQ nodes around `nodes`: weights in 8 bits by channel, activations by tensor, ranges seen on `calibration`."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    done = plain.with_name("int8.onnx")
    quantize_static(
        plain,
        done,
        _Reader(calibration),
        quant_format=QuantFormat.QDQ,
        nodes_to_quantize=nodes,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,  # whose grid is that of `quantize`
    )
    unsigned(done)
    return done


class _Reader:
    """What `quantize_static` reads: one feed after another, then None."""

    def __init__(self, calibration: Tensor) -> None:
        self._feeds: Iterator[dict[str, Any]] = iter([{"x": part.numpy()} for part in torch.split(calibration, 64)])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)


@contextmanager
def _quietly() -> Iterator[None]:
    """Hide what the quantizer logs about tensors that it leaves alone."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
