"""Real processes for tests of deployments: they are started, waited for, killed, and gone afterwards."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from fl_distill.deploy import federation, site, sites

from .conftest import ROOT, without_times

_CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static long offset(void) {
    long seconds = 0;
    FILE *file = fopen(getenv("CLOCK_OFFSET_FILE"), "r");
    if (file) {
        if (fscanf(file, "%ld", &seconds) != 1) seconds = 0;
        fclose(file);
    }
    return seconds;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(clock, now);
    if (clock == CLOCK_REALTIME) now->tv_sec += offset();
    return code;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    return 0;
}
"""
NGINX = shutil.which("nginx", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin")))
SITE_YAML = """\
name: {name}
part: {part}
federation: {{address: "{address}", ca: ca.pem, key: key}}
policy: {{may_leave: [logits, weights], largest_message: 1GB}}
"""


def ours(*words: str | Path) -> list[str]:
    """One of our commands."""
    return [sys.executable, "-m", "fl_distill.cli", *map(str, words)]


def bad_clock(folder: Path) -> dict[str, str]:
    """Environment of a process whose clock is ahead by the seconds in `folder`/clock; empty without a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return {}
    source, library, clock = folder / "clock.c", folder / "clock.so", folder / "clock"
    source.write_text(_CLOCK)
    clock.write_text("0")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return {"LD_PRELOAD": str(library), "CLOCK_OFFSET_FILE": str(clock)}


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@contextmanager
def started(
    log: Path, command: Sequence[str | Path], environment: Mapping[str, str] | None = None, patience_s: float = 15
) -> Iterator[subprocess.Popen[bytes]]:
    """A process; it and whatever it started are gone afterwards."""
    variables = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} if environment is None else environment
    with log.open("ab") as out:
        process = subprocess.Popen(command, env=variables, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            yield process
        finally:
            family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(patience_s)
            for left in [*family, process]:
                with suppress(psutil.Error, ProcessLookupError):
                    left.kill()
            process.wait(10)


def until(
    what: Callable[[], object],
    why: str,
    seconds: float = 90.0,
    process: subprocess.Popen[bytes] | None = None,
    log: Path | None = None,
) -> None:
    """Wait for something; the process that should bring it about must live on."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and (process is None or process.poll() is None):
        with suppress(OSError):
            if what():
                return
        time.sleep(0.05)
    said = log.read_text(encoding="utf-8", errors="replace")[-3000:] if log else ""
    raise AssertionError(f"waited in vain for {why}\n{said}")


@dataclass
class Running:
    """A federation on this machine, whose sites are processes that play parts of the digits."""

    folder: Path
    inner: int = field(default_factory=free_port)
    outer: int = field(default_factory=free_port)
    stack: ExitStack = field(default_factory=ExitStack)

    @property
    def fed(self) -> Path:
        return self.folder / "fed"

    def new(self) -> None:
        """The federation's folder."""
        federation.new(self.fed, ["localhost"], port=self.outer, superlink_port=self.inner)

    def superlink(self) -> subprocess.Popen[bytes]:
        """Start it, and wait until it answers."""
        log = self.folder / "link.log"
        process = self.stack.enter_context(started(log, ours("federation", "start", self.fed)))
        until(lambda: listens(self.inner), "the SuperLink", 150, process, log)
        return process

    def proxy(self) -> None:
        """Start nginx in front of it, as the folder says."""
        assert NGINX
        command = [NGINX, "-e", "stderr", "-p", str(self.fed), "-c", "nginx.conf", "-g", "daemon off;"]
        log = self.folder / "nginx.log"
        process = self.stack.enter_context(started(log, command))
        until(lambda: listens(self.outer), "nginx", 30, process, log)

    def admit(self, name: str, part: int, port: int | None = None) -> Path:
        """A new site's folder, its key registered; it goes to a port, by default the SuperLink's."""
        folder, address = self.folder / name, f"localhost:{port or self.inner}"
        site.new(folder, name, address, self.fed / "ca.pem")
        sites.register(self.fed, folder / "key.pub", name)
        (folder / "site.yaml").write_text(SITE_YAML.format(name=name, part=part, address=address))
        return folder

    def site(self, name: str) -> subprocess.Popen[bytes]:
        """Start a site that was admitted."""
        process = started(self.folder / f"{name}.log", ours("site", "start", self.folder / name))
        return self.stack.enter_context(process)

    def online(self, *names: str) -> bool:
        """Whether these sites are online, and no others."""
        found = [line.split()[0] for line in sites.listed(self.fed) if "online" in line.split()]
        return sorted(found) == sorted(names)

    @contextmanager
    def run(self, place: Path, *overrides: str) -> Iterator[subprocess.Popen[bytes]]:
        """An experiment on it."""
        words = ["runtime=superlink", f"runtime.connection={self.fed}", "runtime.parts=true", "track.plots=false"]
        words += ["collect.join_s=60", "log=quiet", *overrides]
        with started(place.with_suffix(".log"), ours(*words)) as process:
            yield process

    def text(self) -> str:
        """The ends of all logs."""
        logs = sorted(self.folder.rglob("*.log"))
        return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-1500:]}" for log in logs)


def rows(place: Path) -> list[dict[str, Any]]:
    """The rounds of a run so far."""
    path = place / "rounds.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def untimed(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [without_times(row) for row in found]


def processes_of(*words: str) -> list[psutil.Process]:
    """The processes whose command line holds all these words."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if all(word in " ".join(process.cmdline()) for word in words) and process.pid != os.getpid():
                found.append(process)
    return found


def workers(folder: Path) -> list[psutil.Process]:
    """The working process of the site in a folder."""
    return processes_of("fl_distill.deploy.process", str(folder))


def kill_all(*words: str) -> int:
    """Kill -9 the processes whose command line holds all these words."""
    found = processes_of(*words)
    for process in found:
        with suppress(psutil.Error):
            process.send_signal(signal.SIGKILL)
    return len(found)
