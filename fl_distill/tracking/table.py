"""A table on standard output: ruled on a terminal, otherwise plain columns."""

import os
from collections.abc import Sequence
from typing import TextIO

from . import text


def show(lines: Sequence[Sequence[str]], stream: TextIO) -> None:
    """Print lines whose first is the head; the first column to the left, the others to the right."""
    if not stream.isatty() or os.environ.get("TERM") in ("dumb", "unknown"):
        print("\n".join(text.columns(lines)), file=stream)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for at, name in enumerate(lines[0]):
        table.add_column(name, justify="left" if at == 0 else "right")
    for line in lines[1:]:
        table.add_row(*map(Text, line))
    Console(file=stream, highlight=False).print(table)
