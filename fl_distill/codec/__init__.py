"""How tensors become bytes and come back."""

from .arrays import (
    Form,
    Latest,
    Schema,
    decode,
    encode,
    narrowed,
    payload_bytes,
    record_bytes,
    records_of,
    schema_of,
    sizes,
)

__all__ = [
    "Form",
    "Latest",
    "Schema",
    "decode",
    "encode",
    "narrowed",
    "payload_bytes",
    "record_bytes",
    "records_of",
    "schema_of",
    "sizes",
]
