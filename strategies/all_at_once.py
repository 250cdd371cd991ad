"""The mean of replies that are all there: several are looked at and added in one pass over memory."""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from flwr.app import RecordDict
from torch import Tensor

from ..codec import Schema
from ..codec.decoding import LARGEST, Vectors, check_numbers, decode_unread
from ..errors import BadUpdate
from ..knowledge import WeightedMean, several
from .combiner import ARRAYS, record_of

Models = Mapping[int, tuple[Vectors, Mapping[str, Tensor]]]
"""By place among the replies: a site's float32 tensors, at whose numbers nobody has looked, and its others."""


def worth_it(schema: Schema, count: int) -> bool:
    """Whether `count` replies have so many numbers that it is faster, and numba is at hand."""
    numbers = sum(math.prod(form.shape) for form in schema.values() if form.dtype == "float32")
    return count * numbers >= several.WORTH and several.available()


def mean_of(
    schema: Schema, contents: Sequence[RecordDict], weights: Sequence[float]
) -> tuple[WeightedMean, dict[int, BadUpdate]]:
    """The mean of the replies that are in order, bit for bit that of one after the other; by place what others lack."""
    models: dict[int, tuple[Vectors, Mapping[str, Tensor]]] = {}
    faults: dict[int, BadUpdate] = {}
    for place, content in enumerate(contents):
        try:
            models[place] = decode_unread(record_of(content, ARRAYS), schema)
        except BadUpdate as fault:
            faults[place] = fault
    mean, suspects = _added(schema, models, weights)
    if bad := _faults(models, suspects):
        good = {place: model for place, model in models.items() if place not in bad}
        mean, _ = _added(schema, good, weights)
    return mean, faults | bad


def _added(schema: Schema, models: Models, weights: Sequence[float]) -> tuple[WeightedMean, list[int]]:
    """The mean, and the places of models among which some have bad numbers."""
    mean, places = WeightedMean(), list(models)
    if not places:
        return mean, []
    shapes = {name: form.shape for name, form in schema.items()}
    vectors, others = zip(*models.values(), strict=True)
    suspects = mean.add_all(shapes, vectors, others, [weights[place] for place in places], LARGEST)
    return mean, [places[suspect] for suspect in suspects]


def _faults(models: Models, suspects: Iterable[int]) -> dict[int, BadUpdate]:
    faults = {}
    for place in suspects:
        try:
            for name, numbers in models[place][0].items():
                check_numbers(name, torch.from_numpy(numbers))
        except BadUpdate as fault:
            faults[place] = fault
    return faults
