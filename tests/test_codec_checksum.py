"""Check sums of parts against zlib's own of the whole."""

import zlib

from hypothesis import given
from hypothesis import strategies as st

from fl_distill.codec.checksum import joined


@given(st.binary(), st.binary())
def test_joined_is_the_sum_of_both_end_to_end(first: bytes, second: bytes) -> None:
    assert joined(zlib.crc32(first), zlib.crc32(second), len(second)) == zlib.crc32(first + second)


def test_joined_takes_long_parts() -> None:
    first, second = b"head", bytes(range(256)) * 40_000
    assert joined(zlib.crc32(first), zlib.crc32(second), len(second)) == zlib.crc32(first + second)
