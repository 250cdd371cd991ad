"""Ray that is begun early: what goes wrong there is said to whoever asks, and another start is possible."""

import sys
from collections.abc import Iterator

import pytest

from fl_distill.errors import ConfigError
from fl_distill.runtime import ray_here


@pytest.fixture(autouse=True)
def _ended() -> Iterator[None]:
    yield
    ray_here.end()


def test_a_missing_ray_is_told_by_who_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    ray_here.begin(None)
    for _ in range(2):
        with pytest.raises(ConfigError, match="needs Ray: pip install"):
            ray_here.resources(None)


def test_a_start_that_failed_can_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses: list[str | None] = []

    def unreachable(address: str | None, debug: bool) -> None:
        addresses.append(address)
        raise ConnectionError(f"nobody at {address}")

    monkeypatch.setattr(ray_here, "_init", unreachable)
    for address in ("first:1", "second:2"):
        ray_here.begin(address)
        ray_here.begin("none:0")  # one was begun
        with pytest.raises(ConnectionError, match=address):
            ray_here.resources(address)
        ray_here.end()
        ray_here.end()
    assert addresses == ["first:1", "second:2"]
