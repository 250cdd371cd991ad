"""What was freed serves again: models that come and go cost no fresh pages."""

import ctypes
import os
import subprocess
import sys

import pytest

PAGES = """
import resource, threading
from fl_distill.runtime.memory import keep_freed_memory

def models(rounds):
    for _ in range(rounds):
        [b"x" * (9 << 20) for _ in range(12)]

def faults(rounds=5):
    models(2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    models(rounds)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def in_a_thread(found=[]):
    thread = threading.Thread(target=lambda: found.append(WORK()))
    thread.start()
    thread.join()
    return found[0]

def late():
    models(1)
    keep_freed_memory()
    return faults()
"""

HERE = "keep_freed_memory(); print(faults())"
BEFORE = "WORK = faults; keep_freed_memory(); print(in_a_thread())"
AFTERWARDS = "WORK = late; print(in_a_thread())"


GLIBC = os.name == "posix" and hasattr(ctypes.CDLL(None), "mallopt")


@pytest.mark.skipif(not GLIBC, reason="not glibc, which alone can be told so")
@pytest.mark.parametrize("where", [HERE, BEFORE, AFTERWARDS], ids=["here", "before a thread", "in a thread"])
def test_models_that_come_and_go_need_no_fresh_pages(where: str) -> None:
    done = subprocess.run([sys.executable, "-c", PAGES + where], capture_output=True, text=True, check=True, timeout=60)
    whole = 5 * 12 * (9 << 20) // 4096
    assert int(done.stdout) < whole / 20
