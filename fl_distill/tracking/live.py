"""The console on a terminal: finished rounds scroll up as a table, the current one fills a bar below them."""

from typing import TextIO, final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from . import text
from .console import View
from .observer import Row

_HEAD = (
    ("round", 9),
    ("server", 7),
    ("local", 7),
    ("test", 7),
    ("loss", 8),
    ("up", 8),
    ("down", 8),
    ("time", 11),
)


@final
class LiveView(View):
    """Rows are printed once and stay in the terminal's memory, so a thousand rounds are no trouble."""

    def __init__(self, stream: TextIO, rounds: int) -> None:
        self._console = Console(file=stream, highlight=False)
        self._rounds = rounds
        self._headed = False
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
        """Print the round under its column heads."""
        if not self._headed:
            self._headed = True
            self._line([name for name, _ in _HEAD], "bold cyan")
        numbers = [row["server_accuracy"], row["local_accuracy"], row["test_accuracy"]]
        self._line(
            [
                f"{row['round']}/{self._rounds}",
                *map(text.accuracy, numbers),
                text.loss(text.mean_loss(row)),
                text.size(row["bytes_up"]),
                text.size(row["bytes_down"]),
                text.seconds(row["wall_s"]),
                f"{len(row['failures'])} failed" if row["failures"] else "",
            ]
        )

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

    def _line(self, cells: list[str], style: str = "") -> None:
        widths = [width for _, width in _HEAD] + [12] * (len(cells) - len(_HEAD))
        padded = [f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)]
        self._console.print(Text(" ".join(padded), style=style), soft_wrap=True)
