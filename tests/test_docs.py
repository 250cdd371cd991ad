"""What the pages under `docs/` say of the code is what the code does."""

import re
from pathlib import Path

from fl_distill.codec.chain import chain
from fl_distill.codec.presets import PRESETS

DOCS = Path(__file__).parent.parent / "docs"


def test_the_table_of_presets_is_that_of_the_code() -> None:
    page = (DOCS / "codecs.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"\| preset \| sentence \|\n\|---\|---\|\n((?:\|.*\|\n)+)", page)
    assert re.findall(r"^\| `(.+?)` \| `(.+?)` \|$", table, re.MULTILINE) == list(PRESETS.items())


def test_codecs_that_the_page_writes_can_be_read() -> None:
    page = (DOCS / "codecs.md").read_text(encoding="utf-8")
    said = re.findall(r"codec\.(?:up|down|full|sites\.[\w-]+)=\[?([a-z0-9,.]+)", page)
    assert len(said) >= 6
    assert all(chain(text.replace(",", " ")) is not None for text in said)
