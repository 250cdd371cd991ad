"""The CRC-32 of zlib over parts whose own are known, without reading them again."""

_REVERSED = 0xEDB88320  # x^32 + x^26 + ... + 1, the bit of x^31 first; so are all numbers here
_ONE = 1 << 31


def joined(first: int, second: int, length: int) -> int:
    """The CRC-32 of A and B end to end, from that of A, that of B, and the length of B in bytes.

    CRC(A B) = CRC(A) x^(8 length) + CRC(B), polynomials over two elements modulo x^32 + x^26 + ... + 1.
    """
    shift, power = _ONE, _ONE >> 8  # 1, x^8
    while length:
        if length & 1:
            shift = _product(shift, power)
        power, length = _product(power, power), length >> 1
    return _product(first, shift) ^ second


def _product(a: int, b: int) -> int:
    total = 0
    for place in range(31, -1, -1):
        if a >> place & 1:
            total ^= b
        b = b >> 1 ^ (_REVERSED if b & 1 else 0)
    return total
