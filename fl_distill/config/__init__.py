"""Configuration: Hydra's YAML in, typed values out."""

from .compose import composed, options, swept
from .experiment import experiment, typed
from .notes import notes
from .schema import Experiment, Spec

__all__ = ["Experiment", "Spec", "composed", "experiment", "notes", "options", "swept", "typed"]
