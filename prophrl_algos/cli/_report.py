"""`prophrl report`: one HTML file about runs of `prophrl train` or `prophrl sft`."""

from dataclasses import dataclass

from prophet_gym._arguments import CountOrNone, DeviceOrAuto, resolved_device
from prophet_gym.cli.report import ReportOptions, write_report


@dataclass(frozen=True, kw_only=True)
class Args(ReportOptions):
    """Write one HTML file about runs, which needs no network and no other file.

    It has curves with intervals, films, settings, machines and commands, and says what each metric means.
    """

    films: CountOrNone = 0
    """Number of episodes to film first, before and after learning, in the env of each run of `prophrl train`. Films
    are kept in the run's folder and shown in its later reports; 0 films nothing."""
    device: DeviceOrAuto = "auto"
    """Device to film on."""


def main(args: Args) -> None:
    """Run the command."""
    from prophrl_algos.trainer._metrics import MEANINGS

    if args.films:
        from prophet_gym.cli.report._runs import read_run
        from prophrl_algos.cli._films import film_run

        for run in [read_run(folder) for folder in args.runs]:
            film_run(run, args.films, resolved_device(args.device))
    write_report(args, MEANINGS, "update")
