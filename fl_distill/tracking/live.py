"""The console on a terminal: finished rounds scroll up as a table, the current one fills a bar below them."""

from collections.abc import Callable
from typing import TextIO, final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from . import text
from .console import View
from .observer import Row

_COLUMNS: tuple[tuple[str, int, Callable[[Row], str]], ...] = (
    ("server", 7, lambda row: text.accuracy(row["server_accuracy"])),
    ("local", 7, lambda row: text.accuracy(row["local_accuracy"])),
    ("test", 7, lambda row: text.accuracy(row["test_accuracy"])),
    ("alone", 7, lambda row: text.accuracy(row.get("alone_accuracy"))),
    ("gain", 6, lambda row: text.points(row.get("gain"))),
    ("loss", 8, lambda row: text.loss(text.mean_loss(row))),
    ("up", 8, lambda row: text.size(row["bytes_up"])),
    ("down", 8, lambda row: text.size(row["bytes_down"])),
    ("time", 11, lambda row: text.seconds(row["wall_s"])),
)
_OF_TWINS = ("alone", "gain")


@final
class LiveView(View):
    """Rows are printed once and stay in the terminal's memory, so a thousand rounds are no trouble."""

    def __init__(self, stream: TextIO, rounds: int) -> None:
        self._console = Console(file=stream, highlight=False)
        self._rounds = rounds
        self._headed = self._twins = False
        self._bar = Progress(
            TextColumn("{task.description}", style="bold"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("replies"),
            TextColumn("{task.fields[refused]}", style="red"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            refresh_per_second=8,
        )
        self._task = self._bar.add_task("waiting for the first reply", total=None, refused="")
        self._shown = 0
        self._bar.start()

    def say(self, line: str, *, bad: bool = False) -> None:
        """Print the line above the bar."""
        self._console.print(Text(f"  ✗ {line}" if bad else line, style="red" if bad else ""))

    def warn(self, line: str) -> None:
        """Print it in yellow."""
        self._console.print(Text(f"  ! {line}", style="yellow"))

    def progress(self, round: int, replied: int, refused: int, asked: int) -> None:
        """Fill the bar, from the start for a new round."""
        if round != self._shown:
            self._bar.reset(self._task, total=asked)
            self._shown = round
        self._bar.update(
            self._task,
            description=f"round {round}/{self._rounds}",
            completed=replied,
            total=asked,
            refused=f"{refused} refused" if refused else "",
        )

    def row(self, row: Row) -> None:
        """Print the round under its column heads, which come again where twins are first scored."""
        twins = self._twins or row.get("alone_accuracy") is not None
        if not self._headed or twins != self._twins:
            self._headed, self._twins = True, twins
            self._line("round", [f"{name:>{width}}" for name, width, _ in self._columns()], "bold cyan")
        cells = [f"{shown(row):>{width}}" for _, width, shown in self._columns()]
        failed = [f"{len(row['failures'])} failed".rjust(12)] if row["failures"] else []
        self._line(f"{row['round']}/{self._rounds}", cells + failed)

    def table(self, lines: list[tuple[str, ...]]) -> None:
        """A ruled table."""
        table = Table(header_style="bold cyan", border_style="dim")
        for at, head in enumerate(lines[0]):
            table.add_column(head, justify="right" if at else "left")
        for line in lines[1:]:
            table.add_row(*map(Text, line))
        self._console.print(table)

    def close(self) -> None:
        """Take the bar away."""
        self._bar.stop()

    def _columns(self) -> list[tuple[str, int, Callable[[Row], str]]]:
        return [column for column in _COLUMNS if self._twins or column[0] not in _OF_TWINS]

    def _line(self, first: str, cells: list[str], style: str = "") -> None:
        self._console.print(Text(" ".join([f"{first:>9}", *cells]), style=style), soft_wrap=True)
