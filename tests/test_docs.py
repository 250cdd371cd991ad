"""What the pages under `docs/` say of the code is what the code does."""

import re
from pathlib import Path

import pytest

from fl_distill.codec.chain import SOURCES, chain
from fl_distill.codec.coder import Coder, words
from fl_distill.codec.presets import PRESETS, STEPS

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


def test_the_words_of_the_page_are_those_that_a_wrong_word_is_answered_with() -> None:
    page = (DOCS / "codecs.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"\| place \| words \|\n\|---\|---\|\n((?:\|.*\|\n)+)", page)
    assert re.findall("`(.+?)`", table) == [*SOURCES, *STEPS.values()]
    assert {*STEPS} == {word for word, step in words(Coder).items() if step.__module__.startswith("fl_distill.")}  # type: ignore[type-abstract]
    with pytest.raises(ValueError, match="there is no codec or step 'foo'; there are fp16, ") as raised:
        chain("foo")
    said = str(raised.value).partition("there are ")[2].split(", ")
    known = [*PRESETS, *SOURCES, *(step for step in STEPS.values() if step not in PRESETS), "none"]
    assert [word for word in said if word in known] == known  # a test may have made a step of its own


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("floot16", "did you mean 'float16' or 'bfloat16'"),
        ("lloyd4", "did you mean 'lloydmax2'"),
        ("noen", "did you mean 'none'"),
        ("delta none", "'none' stands alone"),
    ],
)
def test_words_are_suggested_as_they_are_written(said: str, answer: str) -> None:
    with pytest.raises(ValueError, match=re.escape(answer)):
        chain(said)
