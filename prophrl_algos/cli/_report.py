"""`prophrl report`: one HTML file about runs of `prophrl train` or `prophrl sft`."""

from typing import Any

from prophet_gym.cli.report._command import Args, write_report


def main(args: Args) -> dict[str, Any]:
    """Run the command."""
    from prophrl_algos.cli._films import film_run
    from prophrl_algos.trainer._metrics import MEANINGS

    return write_report(args, MEANINGS, "update", film_run)
