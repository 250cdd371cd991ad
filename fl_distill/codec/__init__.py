"""How tensors become bytes and come back."""

from .arrays import (
    Form,
    Schema,
    encode,
    narrowed,
    payload_bytes,
    record_bytes,
    records_of,
    schema_of,
    sizes,
)
from .decoding import Latest, decode

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
