"""Every kind of dataset, for `_target_` in `conf/dataset/*.yaml`."""

from typing import Protocol

from fl_distill.data.crops import Crops
from fl_distill.data.digits import Digits
from fl_distill.data.folder import ImageFolder
from fl_distill.data.images import ImageTable
from fl_distill.data.table import Table
from fl_distill.data.tensor_file import TensorFile
from fl_distill.data.types import Source

__all__ = ["Crops", "Digits", "ImageFolder", "ImageTable", "Loads", "Table", "TensorFile"]


class Loads(Protocol):
    """A dataset that can be loaded; a class of your own needs no more than this."""

    def load(self) -> Source:
        """The dataset as stored."""
        ...
