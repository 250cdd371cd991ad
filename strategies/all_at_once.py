"""The mean of replies that are all there: several are looked at and added in one pass over memory."""

import math
from collections.abc import Mapping, Sequence

from flwr.app import RecordDict
from torch import Tensor

from ..codec import Schema, decode
from ..codec.decoding import LARGEST, Vectors, decode_unread
from ..errors import BadUpdate
from ..knowledge import WeightedMean, several
from .combiner import ARRAYS, record_of

Model = tuple[Vectors, Mapping[str, Tensor]]
"""A site's float32 tensors, at whose numbers nobody has looked, and its others."""


def worth_it(schema: Schema, count: int) -> bool:
    """Whether `count` replies have so many numbers that it is faster, and numba is at hand."""
    numbers = sum(math.prod(form.shape) for form in schema.values() if form.dtype == "float32")
    return count * numbers >= several.WORTH and several.available()


def mean_of(
    schema: Schema, contents: Sequence[RecordDict], weights: Sequence[float]
) -> tuple[WeightedMean, dict[int, str]]:
    """The mean of the replies that are in order, bit for bit that of one after the other; by place what others lack."""
    models: dict[int, Model] = {}
    suspects: list[int] = []
    for place, content in enumerate(contents):
        try:
            models[place] = decode_unread(record_of(content, ARRAYS), schema)
        except BadUpdate:
            suspects.append(place)
    mean, more = _mean(schema, models, weights)
    faults = {place: fault for place in [*suspects, *more] if (fault := _fault(contents[place], schema)) is not None}
    if more:
        del mean  # its memory is for the next one
        mean, _ = _mean(schema, {place: model for place, model in models.items() if place not in faults}, weights)
    return mean, faults


def _mean(schema: Schema, models: Mapping[int, Model], weights: Sequence[float]) -> tuple[WeightedMean, list[int]]:
    """The mean, and the places of models among which some have bad numbers."""
    if not models:
        return WeightedMean(), []
    shapes = {name: form.shape for name, form in schema.items()}
    vectors, others = zip(*models.values(), strict=True)
    mean, suspects = WeightedMean.of_all(shapes, vectors, others, [weights[place] for place in models], LARGEST)
    places = list(models)
    return mean, [places[suspect] for suspect in suspects]


def _fault(content: RecordDict, schema: Schema) -> str | None:
    """What one would hear who takes this reply by itself."""
    try:
        decode(record_of(content, ARRAYS), schema)
    except BadUpdate as fault:
        return str(fault)  # the error itself would hold all replies, by its traceback
    return None
