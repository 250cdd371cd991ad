"""Write `tests/data/wire/`: a message of every preset with what it decodes to, and mutated messages to be refused.

Run it when the wire form gets a new version, never to make a failing test pass.
"""

import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from fl_distill.codec.presets import PRESETS
from fl_distill.files import save_tensors
from tests.test_wire import CORPUS, coded, mutated


def main() -> None:
    dice = random.Random(0)
    CORPUS.mkdir(parents=True, exist_ok=True)
    for old in CORPUS.iterdir():
        old.unlink()
    for name in PRESETS:
        packed, _, base = coded(name, change=name == "int8")
        (CORPUS / f"vector-{name}.bin").write_bytes(packed.data)
        save_tensors(CORPUS / f"vector-{name}.safetensors", packed.tensors)
        if base is not None:
            save_tensors(CORPUS / "base.safetensors", base)
        for number in range(4):
            (CORPUS / f"mutated-{name}-{number}.bin").write_bytes(mutated(packed.data, dice))


if __name__ == "__main__":
    main()
