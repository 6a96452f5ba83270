"""The page of a report: one HTML file without scripts that asks the network for nothing."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from prophet_gym import __version__
from prophet_gym.cli.report._plot import Line, bare, chart, short, swatch
from prophet_gym.cli.report._runs import Group, Run, differing, is_end, named

Meanings = Mapping[str, Mapping[str, str]]
"""Section -> metric -> meaning; `NAME*` is a family of metrics, which share a chart."""
UNKNOWN = "Other metrics"
_ROWS = 12
_CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")


def page(groups: Sequence[Group], meanings: Meanings, unit: str, reload: float | None = None) -> str:
    """Return the report of some runs as HTML; it loads itself again after `reload` seconds, if that is given.

    `unit` is what the runs count: updates or steps.
    """
    runs = [run for group in groups for run in group.runs]
    title = ", ".join(group.label for group in groups)
    refresh = "" if reload is None else f'<meta http-equiv="refresh" content="{reload:g}">'
    sections = sectioned(dict.fromkeys(name for run in runs for name in run.columns), meanings)
    body = [
        f"<header><h1>{escape(title)}</h1><p>{escape(_status(runs, unit))}</p>{_notes(runs)}{_legend(groups)}</header>",
        _tiles(groups, meanings, unit),
        *(_section(name, families, groups, unit) for name, families in list(sections.items())[:1]),
        *(_films(run, runs) for run in runs),
        *(_section(name, families, groups, unit) for name, families in list(sections.items())[1:]),
        _table_of_metrics(groups, sections),
        _settings(groups, runs),
        "<footer>The band around a curve is a 95% interval: the one that the run logged, that of a mean over runs, or "
        "that of a mean over neighbouring values, where the faint curve is what was measured. "
        f"Made by version {escape(__version__)} at {datetime.now().astimezone():%Y-%m-%d %H:%M}.</footer>",
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # A browser that obeys this loads nothing, whatever else the page says.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        f'img-src data:">{refresh}<link rel="icon" href="data:,"><title>{escape(title)}</title>'
        f"<style>{_CSS}</style></head><body>{''.join(body)}</body></html>\n"
    )


def sectioned(names: Iterable[str], meanings: Meanings) -> dict[str, dict[str, tuple[str, list[str]]]]:
    """Return section -> family -> its meaning and its metrics, in the order of `meanings`; unknown metrics are last."""
    left, found = list(names), {}
    for section, texts in meanings.items():
        for pattern, text in texts.items():
            family = [
                name for name in left if name == pattern or (pattern[-1] == "*" and name.startswith(pattern[:-1]))
            ]
            left = [name for name in left if name not in family]
            if family:
                found.setdefault(section, {})[pattern.rstrip("/_*")] = text, sorted(family)
    unknown = {name: ("This version does not know this metric.", [name]) for name in left}
    return found | ({UNKNOWN: unknown} if unknown else {})


def _section(name: str, families: Mapping[str, tuple[str, list[str]]], groups: Sequence[Group], unit: str) -> str:
    shown = {family: found for family, found in families.items() if not is_end(family, families)}
    lines = {(metric, line.style): line for _, metrics in families.values() for metric in metrics
             for group in groups if (line := group.line(metric)) is not None}  # fmt: skip
    still = {
        family: value for family, (_, metrics) in shown.items() if (value := _constant(metrics, groups)) is not None
    }
    cards = [
        card
        for family, (text, metrics) in shown.items()
        if family not in still
        for card in _cards(family, text, metrics, groups, unit)
    ]
    constants = "".join(
        f"<div><dt>{escape(family)} = {short(value)}</dt><dd>{escape(shown[family][0])}</dd></div>"
        for family, value in still.items()
    )
    return (
        f'<section><h2>{escape(name)}</h2><div class="cards">{"".join(cards)}</div>'
        f"{f'<p>One value:</p><dl>{constants}</dl>' if constants else ''}"
        f"<details><summary>The same in numbers</summary>{_numbers(lines, len(groups) > 1, unit)}</details></section>"
    )


def _constant(metrics: Sequence[str], groups: Sequence[Group]) -> float | None:
    """Return the value of a metric that only ever had this one; None for others, and for those with an interval."""
    runs = [run for group in groups for run in group.runs]
    if any(f"{name}_low" in run.columns for name in metrics for run in runs):
        return None
    values = np.concatenate([run.columns[name][1] for name in metrics for run in runs if name in run.columns])
    return float(values[0]) if (values == values[0]).all() else None


def _cards(name: str, text: str, metrics: Sequence[str], groups: Sequence[Group], unit: str) -> list[str]:
    """Return the charts of a metric; those of a family have a curve for each metric, and one chart for each group."""
    values = [run.columns[each][1] for each in metrics for group in groups for run in group.runs if each in run.columns]
    # A rate is shown against all that it may be, unless that would make it a line at the bottom.
    bounds = (0.0, 1.0) if metrics[0] in groups[0].rates and (np.concatenate(values) > 0.2).any() else None
    if len(metrics) == 1:
        lines = [line for group in groups if (line := group.line(metrics[0])) is not None]
        return [_card(name, text, lines, unit, bounds)]
    cards = []
    for group in groups:
        found = [(metric, group.line(metric)) for metric in metrics]
        lines = [
            Line(metric.removeprefix(name).strip("/_"), line.x, *bare(line.y), style=n)
            for n, (metric, line) in enumerate(found)
            if line is not None
        ]
        title = name if len(groups) == 1 else f"{name}, {group.label}"
        cards += [_card(title, text, lines, unit, bounds)] if lines else []
    return cards


def _card(title: str, text: str, lines: Sequence[Line], unit: str, bounds: tuple[float, float] | None) -> str:
    legend = _swatches((line.style, line.label) for line in lines) if len(lines) > 1 else ""
    drawn = chart(lines, title, unit, bounds)
    return f"<figure><h3>{escape(title)}</h3>{drawn}{legend}<figcaption>{escape(text)}</figcaption></figure>"


def _swatches(labels: Iterable[tuple[int, str]]) -> str:
    items = "".join(f"<li>{swatch(style)}{escape(label)}</li>" for style, label in labels)
    return f'<ul class="legend">{items}</ul>'


def _legend(groups: Sequence[Group]) -> str:
    return _swatches((group.style, group.label) for group in groups) if len(groups) > 1 else ""


def _numbers(lines: Mapping[tuple[str, int], Line], several: bool, unit: str) -> str:  # noqa: FBT001
    """Return the values of the charts as a table: at a few steps of the rarest metric, the latest one of each."""
    steps = min((line.x for line in lines.values()), key=len)
    rows = steps[np.unique(np.linspace(0, len(steps) - 1, min(len(steps), _ROWS)).round().astype(int))]
    header = [unit, *(f"{name}, {line.label}" if several else name for (name, _), line in lines.items())]
    cells = [
        [short(row), *(short(float(line.y[line.x <= row][-1])) if line.x[0] <= row else "" for line in lines.values())]
        for row in rows.tolist()
    ]
    return _table(header, cells)


def _breakable(text: str) -> str:
    """Return text as HTML, whose paths a narrow column breaks after a slash."""
    return escape(text).replace("/", "/<wbr>")


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    lines = ["".join(f"<td>{_breakable(cell)}</td>" for cell in row) for row in rows]
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll" tabindex="0"><table class="{kind}"><tr>{head}</tr>{body}</table></div>'


def _ends(line: Line) -> tuple[str, str]:
    """Return the first and the last value of a curve, the last with its interval."""
    first, last, low, high = (float(value) for value in (line.y[0], line.y[-1], line.low[-1], line.high[-1]))
    return short(first), short(last) + (f" [{short(low)}, {short(high)}]" if high > low else "")


def _unbroken(line: Line) -> list[str]:
    """Return the ends of a curve, whose intervals no line breaks."""
    return [end.replace(", ", ",\u00a0") for end in _ends(line)]


def _table_of_metrics(groups: Sequence[Group], sections: Mapping[str, Mapping[str, tuple[str, list[str]]]]) -> str:
    rows = []
    for families in sections.values():
        for text, metrics in families.values():
            for metric in metrics:
                found = [group.line(metric) for group in groups]
                ends = [end for line in found for end in (("", "") if line is None else _unbroken(line))]
                rows.append([metric, *ends, text])
    named_ = [""] if len(groups) == 1 else [f", {group.label}" for group in groups]
    header = ["metric", *(f"{end}{name}" for name in named_ for end in ("first", "last")), "meaning"]
    return f"<section><h2>All metrics</h2>{_table(header, rows, 'meanings')}</section>"


def _tiles(groups: Sequence[Group], meanings: Meanings, unit: str) -> str:
    """Return the last value of the first metrics that the runs have, in large letters."""
    tiles = []
    for group in groups:
        names = [name for texts in meanings.values() for name in texts if name in group.runs[0].columns]
        shown = sorted((name for name in names if not is_end(name, names)), key=lambda name: name not in group.rates)
        for name in shown[: 4 if len(groups) == 1 else 2]:
            if (line := group.line(name)) is not None:
                first, last = _ends(line)
                value, _, interval = last.partition(" ")
                whose = name if len(groups) == 1 else f"{group.label}: {name}"
                told = f"{interval} at {unit} {short(line.x[-1])}, from {first} at {short(line.x[0])}"
                tiles.append(
                    f"<div><b>{escape(value)}</b><span>{_breakable(whose)}</span><small>{escape(told)}</small></div>"
                )
    return f'<section class="tiles">{"".join(tiles)}</section>'


def _status(runs: Sequence[Run], unit: str) -> str:
    last = max((int(xs[-1]) for run in runs for xs, _ in run.columns.values()), default=None)
    going = sum(run.running for run in runs)
    planned = max((run.planned for run in runs if run.planned), default=None)
    # An evaluation at the end stands behind the last update.
    count = 0 if last is None else min(last + 1, planned or last + 1)
    done = f"{count}{f' of {planned}' if planned else ''} {unit}s" if count else f"no {unit} yet"
    return f"{len(runs)} run{'s' * (len(runs) > 1)}, {done}, " + (f"{going} still running" if going else "ended")


def _notes(runs: Sequence[Run]) -> str:
    items = "".join(f"<li>{escape(named(run, runs))}: {escape(note)}</li>" for run in runs for note in run.notes)
    return f'<ul class="notes">{items}</ul>' if items else ""


def _films(run: Run, runs: Sequence[Run]) -> str:
    films = run.films
    if films is None:
        return ""
    figures = "".join(
        f'<figure><img src="{films.data(name)}" alt="{escape(caption, quote=True)}"><figcaption>{escape(caption)}'
        "</figcaption></figure>"
        for name, caption in films.films.items()
    )
    lines = [
        Line(label, np.arange(1.0, len(values) + 1), *bare(np.array(values)), style=style)
        for style, (label, values) in enumerate(films.curves.items())
    ]
    curves = _card("Uncertainty along the episodes", "Mean over the episodes.", lines, "chunk", None) if lines else ""
    return (
        f"<section><h2>Films{escape('' if len(runs) == 1 else f' of {named(run, runs)}')}</h2>"
        f"<p>{escape(films.about)}</p>"
        f'<div class="cards films">{figures}{curves}</div>{_table(films.header, films.rows)}</section>'
    )


def _settings(groups: Sequence[Group], runs: Sequence[Run]) -> str:
    """Return what differs between the runs, and each run's settings, machines and commands."""
    parts = ["<section><h2>Settings, machine, commands</h2>"]
    if len(groups) > 1 and (rows := differing(groups)):
        table = [[name, *map(str, values)] for name, values in rows]
        parts.append(f"<h3>What differs</h3>{_table(['setting', *(group.label for group in groups)], table)}")
    for run in runs:
        given = dict.fromkeys(str(each.get("command", "")).replace(" --", " \\\n    --") for each in run.history)
        commands = "".join(f"<pre>{escape(command)}</pre>" for command in given)
        began = [[str(each.get("time", "not known"))[:16].replace("T", " "), _machine(each)] for each in run.history]
        machines = _table(["begun", "machine"], began, "begun") if began else ""
        settings = _table(["setting", "value"], [[name, str(value)] for name, value in run.settings.items()])
        folded = f"<details><summary>All settings</summary>{settings}</details>"
        told = f"{commands}{machines}{folded if run.settings else ''}"
        several = f"<details><summary>{escape(named(run, runs))}</summary>{told}</details>"
        parts.append(told if len(runs) == 1 else several)
    return "".join([*parts, "</section>"])


def _machine(entry: Mapping[str, Any]) -> str:
    machine = entry.get("machine", {})
    versions = ", ".join(f"{name} {version}" for name, version in machine.get("versions", {}).items() if version)
    parts = [f"{machine.get('cores', '?')} cores ({machine.get('processor', '?')})", *machine.get("gpus", ())]
    return (
        f"{', '.join(parts)}; {entry.get('processes', 1)} process(es); Python {machine.get('python', '?')}, {versions}"
    )
