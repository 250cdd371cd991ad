"""Numbers of bytes that no message about a run's models can keep to, found before anything trains."""

from collections.abc import Iterator, Mapping, Sequence

from flwr.app import ArrayRecord, Message

from ..codec import Schema, records_of, schema_of
from ..codec.budget import fewest
from ..codec.layout import schema_id
from ..codec.ways import Codecs, Way
from ..codec.wire import codes_anything
from ..errors import BadUpdate


def budget_faults(codecs: Codecs, messages: Mapping[str, Message], changes: Sequence[str]) -> list[str]:
    """A sentence for each way whose `bytes_per_round` is too few for the models in the messages, by site.

    Where sites answer with `changes` of another form, what they need is not known yet.
    """
    asked = {
        (setting, schema_id(schema)): (way, schema)
        for site, message in messages.items()
        for setting, way in _ways(codecs, site, changes)
        if way.bytes_per_round is not None
        for schema in _models(message)
    }
    faults = [_fault(setting, way, schema) for (setting, _), (way, schema) in asked.items()]
    return [fault for fault in faults if fault is not None]


def _ways(codecs: Codecs, site: str, changes: Sequence[str]) -> Iterator[tuple[str, Way]]:
    yield "codec.down", codecs.down
    if not changes:
        yield (f"codec.sites.{site}", codecs.sites[site]) if site in codecs.sites else ("codec.up", codecs.up)


def _models(message: Message) -> list[Schema]:
    schemas = [schema_of(record) for record in records_of(message.content, ArrayRecord).values()]
    return [schema for schema in schemas if codes_anything(schema)]


def _fault(setting: str, way: Way, schema: Schema) -> str | None:
    if way.bytes_per_round is None or way.chain is None:
        return None
    try:
        least, around = fewest(schema, way.chain, way.chain.delta)
    except BadUpdate:  # a codec that is not for models says so itself when it is used
        return None
    if way.bytes_per_round >= least:
        return None
    return (
        f"{setting}.bytes_per_round={way.bytes_per_round} is too few for the model: {way.codec!r} needs more than "
        f"{least}, {around} of them for what is not coded; ask for more, or choose another codec"
    )
