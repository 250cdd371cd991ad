"""What of a site's data a site's half of an algorithm lets leave, in the words of a site's policy."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Half = TypeVar("Half", bound=Callable[..., object])

KINDS = ("weights", "logits", "class_means", "features")
"""Kinds of knowledge, besides scores and counts: what a policy may allow."""


def lets_out(*kinds: str) -> Callable[[Half], Half]:
    """Mark a half with the kinds of knowledge that its answers hold."""

    def mark(half: Half) -> Half:
        half.leaves = kinds  # type: ignore[attr-defined]
        return half

    return mark


def leaves(half: Callable[..., object], values: Mapping[str, Any]) -> tuple[str, ...]:
    """The kinds that a half lets out when it is asked with these values of a task.

    Feature transfer shows features of public examples too. Raises AttributeError for a half that is not marked.
    """
    return (*half.leaves, *(("features",) if values.get("transfer-up") else ()))  # type: ignore[attr-defined]
