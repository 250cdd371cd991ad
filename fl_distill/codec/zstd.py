"""Zstandard behind any grid: RFC 8878, one frame that says how long its content is.

bytes = RAW (1) | the inner bytes, where compression does not help
      = FRAME (1) | frame
"""

from typing import final

import zstandard
from torch import Tensor

from ..checks import require, whole
from ..errors import BadUpdate
from .coder import About, Bytes, Coder, Entropy

_RAW, _FRAME = b"\0", b"\1"
_MAGIC = b"\x28\xb5\x2f\xfd"
_SHORTEST = 9  # bytes of a frame: magic, header, one block


@final
class Zstd(Entropy):
    """The inner bytes by Zstandard, level 1 (the fastest) to 19; the same level and library give the same bytes."""

    word = "zstd"

    def __init__(self, inner: Coder, level: int = 1) -> None:
        require((whole(level) and level <= 19, f"zstd: the level must be a whole number from 1 to 19, not {level}"))
        super().__init__(inner)
        self.level = level

    def encode(self, x: Tensor, about: About) -> bytes:
        """A byte that says which, then the shorter of frame and inner bytes."""
        inner = self.inner.encode(x, about)
        frame = zstandard.ZstdCompressor(compression_params=self._parameters()).compress(inner)
        return _FRAME + frame if len(frame) < len(inner) else _RAW + inner

    def decode(self, data: Bytes, about: About) -> Tensor:
        """What the inner bytes stand for."""
        return self.inner.decode(self._inner(data, about), about)

    def add(self, data: Bytes, about: About, into: Tensor, weight: float) -> None:
        """As the inner coder adds."""
        self.inner.add(self._inner(data, about), about, into, weight)

    def lengths(self, about: About) -> tuple[int, int]:
        """One byte more than the inner coder's most; a frame of zeros is almost nothing."""
        least, most = self.inner.lengths(about)
        return 1 + min(least, _SHORTEST), 1 + most

    def _parameters(self) -> zstandard.ZstdCompressionParameters:
        # Codes repeat by chance alone; a small table finds fewer such repetitions, which is faster and no longer.
        small = {"hash_log": 10} if self.level == 1 else {}
        return zstandard.ZstdCompressionParameters.from_level(self.level, **small)

    def _inner(self, data: Bytes, about: About) -> Bytes:
        """The inner bytes, their length checked before anything is decompressed."""
        view = memoryview(data)
        least, most = self.inner.lengths(about)
        if view[:1] == _RAW:
            return view[1:]
        if view[:1] != _FRAME or view[1:5] != _MAGIC:
            raise BadUpdate("zstd: neither raw bytes nor a Zstandard frame follow")
        frame = view[1:]
        try:
            size = zstandard.get_frame_parameters(frame).content_size
            if not least <= size <= most:
                raise BadUpdate(f"zstd: the frame says it holds {size} bytes, expected {least} to {most}")
            decompressor = zstandard.ZstdDecompressor()
            return decompressor.decompress(frame, max_output_size=most, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise BadUpdate(f"zstd: the frame is damaged: {error}") from error
