"""`prophet report`: one HTML file about runs of `prophet train`, `pretrain` or `distill`."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from prophet_gym._arguments import Arguments, CountOrNone, DeviceOrAuto, OutFile, Positive, Several, resolved_device

if TYPE_CHECKING:
    from prophet_gym.cli.report._runs import Run


@dataclass(frozen=True, kw_only=True)
class Args(Arguments):
    """Write one HTML file about runs, which needs no network and no other file.

    It has curves with intervals, films, settings, machines and commands, and says what each metric means.
    """

    run: Annotated[tuple[Path, ...], Several(), tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Folders of runs, their `--out`; several are drawn on the same axes, and those that differ in their seed alone as
    one curve with an interval."""
    out: OutFile | None = None
    """HTML file to write; report.html in the folder of the first run by default."""
    live: bool = False
    """Write the file again as long as a run goes on; the page loads itself again."""
    every: Positive = 15.0
    """Seconds between two writings of a live report."""
    films: CountOrNone = 0
    """Number of episodes to film first: of `prophrl train` in the run's env, before and after learning; of `prophet
    train` the dreams of held-out episodes beside their recordings. Their run's folder keeps them for later reports."""
    device: DeviceOrAuto = "auto"
    """Device to film on."""


def main(args: Args) -> dict[str, Any]:
    """Run the command."""
    from prophet_gym.cli.report._dreams import film_dreams
    from prophet_gym.train._fit import MEANINGS

    stages = ("autoencoder", "decoder", "tracker", "transformer", "full", "distill")
    meanings = {stage: {f"{stage}/{name}": text for name, text in MEANINGS.items()} for stage in stages[::-1]}
    return write_report(args, meanings, "step", film_dreams)


def write_report(
    args: Args, meanings: dict[str, dict[str, str]], unit: str, film: Callable[["Run", int, str], None]
) -> dict[str, Any]:
    """Write a report of the runs, a live one until the last of them has ended; `film` films a run first if asked to."""
    from prophet_gym._io.atomic import atomic_write
    from prophet_gym.cli.report._page import page
    from prophet_gym.cli.report._runs import group_runs, read_run

    rates = {name for texts in meanings.values() for name, text in texts.items() if text.startswith("Fraction")}
    out = args.out or args.run[0] / "report.html"
    if args.films:
        for folder in args.run:
            film(read_run(folder), args.films, resolved_device(args.device))
    while True:
        runs = [read_run(folder, waiting=args.live) for folder in args.run]
        going = args.live and any(run.running for run in runs)
        atomic_write(out, page(group_runs(runs, rates), meanings, unit, args.every if going else None))
        if not going:
            break
        time.sleep(args.every)
    print(f"wrote {out}")
    return {"report": out, "runs": list(args.run)}
