"""Datasets, how they are dealt to sites, and what the sites then hold."""

from fl_distill.data.augment import Augment, augment
from fl_distill.data.federate import federate
from fl_distill.data.participant import alone, form_of
from fl_distill.data.types import Federation, Site, Source, Split

__all__ = ["Augment", "Federation", "Site", "Source", "Split", "alone", "augment", "federate", "form_of"]
