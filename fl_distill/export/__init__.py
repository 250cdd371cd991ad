"""A trained model as a file that runs without this package, and what such a file does, measured."""

from .measure import Measured, measured
from .onnx_file import OnnxFile
from .pt2_file import Pt2File

FORMATS = {"onnx": OnnxFile, "pt2": Pt2File}

__all__ = ["FORMATS", "Measured", "OnnxFile", "Pt2File", "measured"]
