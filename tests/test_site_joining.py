"""When a site goes on trying to come to its federation, and when it gives up and says what to do."""

import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fl_distill.deploy import certificates, joining, keys, probe, processes, site
from fl_distill.deploy.joining import Barred, Joining
from fl_distill.deploy.settings import Site
from fl_distill.runtime.faults import NotAdmitted, Unsigned, Untrusted
from fl_distill.runtime.patience import MOST_S, Reasons, growing


class Play:
    """A federation that does one thing after the other, and a clock that runs while a site waits."""

    def __init__(self, folder: Path, *script: BaseException | None) -> None:
        self.now, self.slept, self.said = 0.0, list[float](), list[str]()
        self.script, self.served = [*script], 0
        (folder / "key").write_bytes(keys.new_pair()[0])
        self.site = Site(folder, "mercy", "fl.example.org:9092", folder / "ca.pem", folder / "key", folder)

    @contextmanager
    def connect(self) -> Iterator[Any]:
        if (fault := self._next()) is not None:
            raise fault
        yield SimpleNamespace(node=5)

    def serve(self, link: Any) -> None:
        self.served += 1
        raise self._next() or KeyboardInterrupt

    def _next(self) -> BaseException | None:
        return (self.script.pop(0) if len(self.script) > 1 else self.script[0]) if self.script else None

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def joining(self) -> Joining:
        reasons = Reasons(self.said.append)
        return Joining(self.site, self.connect, self.serve, reasons, self.sleep, lambda: self.now)


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Play]:
    monkeypatch.setattr(probe, "refusals", lambda *_: ([], []))
    return lambda *script: Play(tmp_path, *script)


def test_a_key_that_was_never_admitted_ends_the_site_at_once(play: Callable[..., Play]) -> None:
    found = play(NotAdmitted())
    with pytest.raises(
        Barred, match=r"does not admit mercy: .* is not registered there \(send key.pub to the operator"
    ):
        found.joining().stay()
    assert found.slept == []


def test_who_crashed_waits_until_it_counts_as_gone(play: Callable[..., Play]) -> None:
    for crashed, itself in ((True, False), (False, True)):
        refusal = NotAdmitted()
        refusal.perhaps_online = itself
        found = play(refusal)
        if crashed:
            found.site.online.touch()
        with pytest.raises(Barred):
            found.joining().stay()
        assert joining.CRASHED_S <= found.now < joining.CRASHED_S + MOST_S
        assert len(found.said) == 1
        assert "trying again for 90 s" in found.said[0]
        assert not found.site.online.exists(), "the next start shall not wait for a crash of long ago"


@pytest.mark.parametrize("refusal", [NotAdmitted, Unsigned])
def test_who_was_connected_bears_refusals_for_a_while(play: Callable[..., Play], refusal: type[Exception]) -> None:
    """A SuperLink may be started again before its database was restored."""
    found = play(None, Unsigned(), refusal(), refusal(), None, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        found.joining().stay()
    assert found.served == 2
    assert "refuses key SHA256:" in found.said[0]
    assert "trying again for 120 s" in found.said[0]
    assert found.said[-1] == "that has passed: going on"
    found = play(None, Unsigned(), refusal())
    with pytest.raises(Barred, match="removed by the operator|is not registered there"):
        found.joining().stay()
    assert joining.REFUSED_S <= found.now < joining.REFUSED_S + MOST_S


def test_a_refused_signature_is_no_reason_to_end_at_the_first_connection(play: Callable[..., Play]) -> None:
    found = play(Unsigned(), Unsigned(), None, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        found.joining().stay()
    assert found.served == 1


def test_a_wrong_clock_is_waited_for_however_long(play: Callable[..., Play], monkeypatch: pytest.MonkeyPatch) -> None:
    found = play(None, Unsigned(), NotAdmitted(), None, KeyboardInterrupt())
    wrong = "this machine's clock is 600 s ahead"
    monkeypatch.setattr(probe, "refusals", lambda *_: ([wrong] * (found.now < 10_000), []))
    with pytest.raises(KeyboardInterrupt):
        found.joining().stay()
    assert found.said[0] == f"{wrong}; this site goes on by itself when that is done"
    assert found.served == 2


def test_a_certificate_that_does_not_count_ends_the_site_whenever(play: Callable[..., Play]) -> None:
    error = ssl.SSLCertVerificationError()
    error.verify_code, error.verify_message = 10, "certificate has expired"
    for script in ([Untrusted(error)], [None, RuntimeError("x"), Untrusted(error)]):
        with pytest.raises(Barred, match="has expired: its operator runs `fl-distill federation renew`"):
            play(*script).joining().stay()


def test_a_transport_that_breaks_is_opened_again_less_and_less_often(play: Callable[..., Play]) -> None:
    found = play(*[None, RuntimeError("broken")] * 12, None, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        found.joining().stay()
    assert len(found.slept) == 12
    assert all(after > 1.5 * before for before, after in pairwise(found.slept[:4]))
    assert max(found.slept) <= MOST_S
    assert "the connection failed (RuntimeError: broken): trying again" in found.said


def test_after_a_good_connection_the_next_try_is_soon(play: Callable[..., Play]) -> None:
    found = play(*[None, RuntimeError()] * 8, None, KeyboardInterrupt())
    joined, served = found.joining(), found.serve

    def long_one(link: Any) -> None:
        found.now += 2 * joining.STEADY_S if found.served == 5 else 0
        served(link)

    joined.serve = long_one
    with pytest.raises(KeyboardInterrupt):
        joined.stay()
    assert found.slept[4] > 5
    assert found.slept[5] <= 1


def test_pauses_grow_to_a_cap_and_differ_between_processes() -> None:
    pauses = [next(found) for found in [growing()] for _ in range(9)]
    assert MOST_S / 2 < pauses[-1] <= MOST_S
    assert pauses[:4] == sorted(pauses[:4])
    assert len({next(growing()) for _ in range(5)}) > 1


# ------------------------------------------------------------ the process around it


@pytest.fixture
def mercy(tmp_path: Path) -> Site:
    (tmp_path / "ca.pem").write_bytes(certificates.authority("x").pem)
    site.new(tmp_path / "mercy", "mercy", "fl.example.org:9092", tmp_path / "ca.pem")
    return site.read_site(tmp_path / "mercy")


def ends(monkeypatch: pytest.MonkeyPatch, *codes: str) -> None:
    """The working process is one line of Python after the other."""
    left = iter(codes)
    monkeypatch.setattr(site, "node_command", lambda _: [sys.executable, "-c", next(left)])


KILLED = "import os; os.kill(os.getpid(), 9)"


def test_a_working_process_that_dies_is_replaced_whatever_it_died_of(
    mercy: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ends(monkeypatch, KILLED, "raise SystemExit(1)", "raise SystemExit(0)", f"raise SystemExit({processes.BARRED})")
    monkeypatch.setattr(site, "growing", lambda: iter([0.01, 0.02, 0.04]))
    assert site._supervised(mercy) == site.STOPPED
    told = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in told] == [
        "the working process was killed by signal 9",
        "the working process ended with exit code 1",
        "the working process ended with exit code 0",
    ]


def test_a_stop_reaches_a_working_process_and_a_pause(mercy: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    sleeper = "import os, signal, time; os.kill(os.getppid(), signal.SIGTERM); time.sleep(60)"
    ends(monkeypatch, sleeper)
    assert site._supervised(mercy) == 0
    late = "import os, subprocess, sys; subprocess.Popen(['sh', '-c', f'sleep 1; kill -TERM {os.getppid()}'])"
    ends(monkeypatch, f"{late}; sys.exit(9)")
    monkeypatch.setattr(site, "growing", lambda: iter([60.0]))
    before = time.monotonic()
    assert site._supervised(mercy) == 0
    assert time.monotonic() - before < 30
