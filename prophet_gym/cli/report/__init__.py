"""`prophet report`: one HTML file about runs of `prophet train`, `pretrain` or `distill`."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from prophet_gym._arguments import Arguments, OutFile, Positive, Several


@dataclass(frozen=True, kw_only=True)
class ReportOptions(Arguments):
    """Choose the runs and the file of a report."""

    runs: Annotated[tuple[Path, ...], Several(), tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Folders of runs, their `--out`; several are drawn on the same axes, and those that differ in their seed alone as
    one curve with an interval."""
    out: OutFile | None = None
    """HTML file to write; report.html in the folder of the first run by default."""
    live: bool = False
    """Write the file again as long as a run goes on; the page loads itself again."""
    every: Positive = 15
    """Seconds between two writings of a live report."""


@dataclass(frozen=True, kw_only=True)
class Args(ReportOptions):
    """Write one HTML file about training runs, which needs no network and no other file."""


def main(args: Args) -> None:
    """Run the command."""
    from prophet_gym.train._fit import MEANINGS

    stages = ("autoencoder", "decoder", "tracker", "transformer", "full", "distill")
    meanings = {stage: {f"{stage}/{name}": text for name, text in MEANINGS.items()} for stage in stages[::-1]}
    write_report(args, meanings, "step")


def write_report(args: ReportOptions, meanings: dict[str, dict[str, str]], unit: str) -> None:
    """Write a report of the runs; a live one until the last of them has ended."""
    from prophet_gym._io.atomic import atomic_write
    from prophet_gym.cli.report._page import page
    from prophet_gym.cli.report._runs import group_runs, read_run

    out = args.out or args.runs[0] / "report.html"
    while True:
        runs = [read_run(folder, waiting=args.live) for folder in args.runs]
        going = args.live and any(run.running for run in runs)
        atomic_write(out, page(group_runs(runs), meanings, unit, args.every if going else None))
        if not going:
            break
        time.sleep(args.every)
    print(f"wrote {out}")
