"""What coding made of what a run sent: a line for each way, and one for each tensor of the last model sent."""

from collections.abc import Mapping, Sequence
from typing import Any

from . import text
from .observer import Row, Summary

WAYS = ("up", "down")
HEAD = ("way", "codec", "bits a number", "NMSE", "encoding", "decoding", "bytes, all rounds")
LAYERS_HEAD = ("tensor", "bytes down", "part of all", "NMSE")
Layers = Sequence[tuple[str, int, float | None]]

_SECONDS = {
    "up": (("site_encode_s", "a site"), ("decode_s", "server")),
    "down": (("encode_s", "server"), ("site_decode_s", "a site")),
}
"""Who encodes and who decodes, by way: the server spends its seconds on all sites, a site on its own."""
_NAMED = 3
"""So many sites with a codec of their own are named."""


def bits(row: Row | Summary, way: str) -> float | None:
    """Bits a number of a round, or of the last one of a run; None where nothing was coded that way."""
    found: float | None = (row.get("codec") or {}).get(f"bits_{way}")
    return found


def codings(config: Mapping[str, Any], summary: Summary) -> list[tuple[str, ...]]:
    """A table of both ways in the last round, its first line the head; empty where nothing was coded."""
    if all(bits(summary, way) is None for way in WAYS):
        return []
    said = config.get("codec")
    return [HEAD, *(_line(way, said if isinstance(said, Mapping) else {}, summary) for way in WAYS)]


def layers(summary: Summary) -> Layers:
    """Tensor, bytes and normalised squared error in the last message down; the largest first."""
    found = (summary.get("codec") or {}).get("layers") or {}
    return sorted(((name, *told) for name, told in found.items()), key=lambda layer: -layer[1])


def by_layer(summary: Summary) -> list[tuple[str, ...]]:
    """A table of the layers, without a head."""
    every = layers(summary)
    whole = sum(count for _, count, _ in every)
    return [(name, text.size(count), _part(count, whole), text.error(nmse)) for name, count, nmse in every]


def _line(way: str, said: Mapping[str, Any], summary: Summary) -> tuple[str, ...]:
    sent, number = text.size(summary.get(f"bytes_{way}")), bits(summary, way)
    if number is None:
        return (way, _codec(way, said), "–", "–", "–", "–", sent)
    figures = summary["codec"]
    spent = (_seconds(figures.get(key), who) for key, who in _SECONDS[way])
    return (way, _codec(way, said), f"{number:.2f}", text.error(figures.get(f"nmse_{way}")), *spent, sent)


def _seconds(value: float | None, who: str) -> str:
    return "–" if value is None else f"{text.moment(value)} {who}"


def _codec(way: str, said: Mapping[str, Any]) -> str:
    """`int8`, `step, at most 20kB`, and what sites have of their own: `int8; site-3: eden1`."""
    shared, sites = _sentence(said.get(way)), said.get("sites")
    if way == "down" or not isinstance(sites, Mapping) or not sites:
        return shared
    own = [f"{text.clean(site)}: {_sentence(sites[site])}" for site in text.natural(sites)]
    more = [f"and {len(own) - _NAMED} more"] if len(own) > _NAMED else []
    return "; ".join([shared, *own[:_NAMED], *more])


def _sentence(said: Any) -> str:
    """A way as people write it: a name, a list of steps, or a map with a number of bytes."""
    if isinstance(said, Mapping):
        codec, most = _sentence(said.get("codec")), said.get("bytes_per_round")
        if most is None:
            return codec
        bound = text.size(most) if isinstance(most, int) else text.clean(most)
        return f"{'step' if codec == 'none' else codec}, at most {bound}"
    return text.clean((said or "none") if isinstance(said, str | None) else " ".join(map(str, said)))


def _part(count: int, whole: int) -> str:
    return f"{count / whole:.1%}" if whole else "–"
