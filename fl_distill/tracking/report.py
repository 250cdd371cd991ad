"""`plots/` and `report.html`: a run on one page that needs nothing beside itself."""

import base64
import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import final

from . import text
from .coded import LAYERS_HEAD, by_layer, codings
from .groups import TWINS, architectures, comparison, newest_sites
from .jsonl import read, strict
from .observer import Observer, Row, RunInfo, Status, Summary
from .plots import draw
from .spent import spent

_STYLE = """
:root { color-scheme: light }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem }
body { margin: 2.5rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem; margin-bottom: .2rem } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem }
.sub { color: #666 } .bad { color: #b3261e } img { max-width: 100%; display: block; margin: 1rem 0 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } .wide { overflow-x: auto }
th, td { text-align: right; padding: .25rem .8rem; border-bottom: 1px solid #e6e6e6 }
th { color: #666; font-weight: 600 } th:first-child, td:first-child, .text td { text-align: left }
pre { background: #f6f6f6; padding: 1rem; overflow-x: auto; font-size: 13px }
.cards { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1.2rem 0 }
.card { border: 1px solid #e6e6e6; border-radius: .5rem; padding: .7rem 1.1rem; min-width: 7rem }
.card b { display: block; font-size: 1.4rem; font-weight: 600 } .card span { color: #666; font-size: .85rem }
"""
_LINES = 500
"""No table is longer."""


@final
class ReportObserver(Observer):
    """Draws the plots and writes the report when the run ends, whatever the reason, from all its rounds."""

    def __init__(self) -> None:
        self._run: RunInfo | None = None

    def started(self, run: RunInfo) -> None:
        """Remember what the report is about."""
        self._run = run

    def finished(self, summary: Summary, status: Status) -> None:
        """Write `plots/*.png` and `report.html`; rounds of before a resumption are in `rounds.jsonl`."""
        if self._run is not None:
            write_report(self._run, summary, status)


def write_report(run: RunInfo, summary: Summary, status: str) -> Path:
    """Draw the plots of the run in `run.folder` and write its `report.html`; returns the page's path."""
    rows = read(run.folder)
    page = run.folder / "report.html"
    pictures = draw(run.folder / "plots", rows, run, summary)
    page.write_text(render(run, rows, strict(summary), status, pictures), encoding="utf-8")
    return page


def render(run: RunInfo, rows: Sequence[Row], summary: Summary, status: str, pictures: Iterable[Path]) -> str:
    """The page as HTML: everything that came from outside is escaped, and pictures are part of the text."""
    name = escape(text.clean(run.name))
    parts = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}</title>',
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>',
        f"<h1>{name}</h1>{_subtitle(run, summary, status)}{_cards(summary)}",
        f"<h2>Result</h2>{_result(summary)}",
        *map(_picture, pictures),
        _coding(run, summary),
        f"<h2>Architectures</h2>{_architectures(rows, summary)}" if rows else "",
        f"<h2>Sites</h2>{_sites(rows)}" if rows else "",
        _warnings(rows),
        f"<h2>Failures</h2>{_failures(rows)}",
        f"<h2>Configuration</h2><pre>{escape(json.dumps(strict(run.config), indent=2))}</pre>",
        "</body></html>\n",
    ]
    return "\n".join(part for part in parts if part)


def _subtitle(run: RunInfo, summary: Summary, status: str) -> str:
    facts = [
        f"{len(run.sites)} sites",
        f"{summary.get('rounds', 0)} rounds",
        f"seed {summary.get('seed', '–')}",
    ]
    facts.append(f"fl-distill {summary.get('version', '')}".strip())
    reason = f": {summary['reason']}" if summary.get("reason") else ""
    kind = "sub" if status == "finished" else "sub bad"
    line = escape(text.clean(f"{status}{reason} · {' · '.join(facts)}"))
    return f'<p class="{kind}">{line}</p>'


def _cards(summary: Summary) -> str:
    values = [
        ("server's model", text.accuracy(summary.get("server_accuracy"))),
        ("sites, test set", text.accuracy(summary.get("test_accuracy"))),
        ("sites, own data", text.accuracy(summary.get("local_accuracy"))),
        *((label, shown(summary[key])) for key, label, shown in TWINS if summary.get(key) is not None),
        (_sent(summary, "up"), text.size(summary.get("bytes_up"))),
        (_sent(summary, "down"), text.size(summary.get("bytes_down"))),
        ("time", text.seconds(summary.get("wall_s"))),
    ]
    cards = "".join(f'<div class="card"><b>{escape(value)}</b><span>{label}</span></div>' for label, value in values)
    parts = spent(summary)
    return f'<div class="cards">{cards}</div>' + (f'<p class="sub">time of the rounds: {parts}</p>' if parts else "")


def _sent(summary: Summary, way: str) -> str:
    told = text.knowledge(summary, way)
    return f"sent {way}" + (f", {told}" if told else "")


def _result(summary: Summary) -> str:
    chosen = summary.get("selected") or {}
    number = chosen.get("round")
    head = [
        "accuracy",
        "last round",
        f"selected on validation data (round {'–' if number is None else number})",
    ]
    lines = [
        [label, text.accuracy(summary.get(key)), text.accuracy(chosen.get(key))]
        for label, key in (
            ("server's model, test set", "server_accuracy"),
            ("sites' models, test set (mean)", "test_accuracy"),
            ("sites' models, own data (mean)", "local_accuracy"),
        )
    ]
    for key, label, shown in TWINS:
        if summary.get(key) is not None:
            lines.append([label, shown(summary[key]), shown(chosen.get(key))])
    return _table(head, lines)


def _coding(run: RunInfo, summary: Summary) -> str:
    """Both ways, and what each tensor of the last message down took; nothing where nothing was coded."""
    if not (ways := codings(run.config, summary)):
        return ""
    layers = by_layer(summary)
    told = f"<h2>Layers, last message down</h2>{_table(LAYERS_HEAD, layers[:_LINES])}" if layers else ""
    more = f"<p>and {len(layers) - _LINES} more in summary.json</p>" if len(layers) > _LINES else ""
    return f"<h2>Codec, last round</h2>{_table(ways[0], ways[1:])}{told}{more}"


def _architectures(rows: Sequence[Row], summary: Summary) -> str:
    head, *lines = comparison(summary.get("architectures") or architectures(newest_sites(rows)))
    return _table(head, lines)


def _sites(rows: Sequence[Row]) -> str:
    """Newest measurements and the traffic of all rounds."""
    up, down, failed = (_total(rows, of) for of in ("bytes_up", "bytes_down", ""))
    newest, lines = newest_sites(rows), []
    twins = any(values.get("alone_accuracy") is not None for values in newest.values())
    kinds = {"test": "test set"} | ({"alone": "alone"} if twins else {}) | {"local": "own data"}
    for site, values in newest.items():
        scores = [text.accuracy(values.get(f"{kind}_accuracy")) for kind in kinds]
        traffic = [text.size(up[site]), text.size(down[site])]
        lost = failed.get(site, 0)
        loss = text.loss(values.get("loss"))
        lines.append([site, values.get("model"), values.get("examples"), loss, *scores, *traffic, lost])
    head = ["site", "model", "examples", "loss", *kinds.values(), "up", "down", "rounds lost"]
    return _table(head, lines)


def _total(rows: Sequence[Row], key: str) -> dict[str, int]:
    """Over all rounds and per site: the sum under `key`, or without a key the number of failures."""
    total: dict[str, int] = {}
    for row in rows:
        counted = {site: values.get(key) or 0 for site, values in row["sites"].items()} if key else {}
        for site, count in (counted if key else dict.fromkeys(row["failures"], 1)).items():
            total[site] = total.get(site, 0) + count
    return total


def _warnings(rows: Sequence[Row]) -> str:
    """Each warning once, with when it came up; nothing where all was well."""
    lines = [[numbers[0], len(numbers), told] for told, numbers in text.warnings(rows).items()]
    return f"<h2>Warnings</h2>{_table(['since round', 'rounds', 'warning'], lines, kind='wide text')}" if lines else ""


def _failures(rows: Sequence[Row]) -> str:
    lines = [[row["round"], site, reason] for row in rows for site, reason in row["failures"].items()]
    if not lines:
        return "<p>No site lost a round.</p>"
    shown = _table(["round", "site", "reason"], lines[:_LINES], kind="wide text")
    return shown + (f"<p>and {len(lines) - _LINES} more in rounds.jsonl</p>" if len(lines) > _LINES else "")


def _table(head: Iterable[object], lines: Iterable[Iterable[object]], kind: str = "wide") -> str:
    def row(cells: Iterable[object], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(text.clean(cell))}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(row(line, "td") for line in lines)
    return f'<div class="{kind}"><table><thead>{row(head, "th")}</thead><tbody>{body}</tbody></table></div>'


def _picture(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f'<img alt="{escape(path.stem.replace("_", " "))}" src="data:image/png;base64,{data}">'
