"""Algorithms: blocks of figures."""

from collections.abc import Iterable

from docs.blocks.common import load, markdown_table, where
from prophet_gym.train import _fit
from prophrl_algos.trainer import _metrics


def bandit() -> str:
    """Return how every algorithm does on the bandit, and that one optimizer step shows no difference."""
    command = "python -m benchmarks.bandit --json benchmarks/results/bandit.json"
    report = load("bandit.json")
    if report is None:
        return f"Not measured yet: `{command}`."
    settings = report["settings"]
    updates = next(iter(report["curves"].values()))["updates"]
    rows = [
        [
            name,
            *(f"{point['mean']:.3f} [{point['low']:.3f}, {point['high']:.3f}]" for point in found["curve"][1:]),
            f"{min(found['final']):.3f}",
            f"{found['seeds_at_90_percent']} of {len(found['final'])}",
        ]
        for name, found in report["curves"].items()
    ]
    header = ["mean reward after", *(f"{update} updates" for update in updates[1:]), "worst seed", "seeds at 0.9"]
    return (
        f"{markdown_table(header, rows)}\n\nMean over {settings['seeds']} seeds [95% bootstrap interval]; "
        f"{settings['rollouts']} pulls and {settings['epochs']} optimizer steps an update, K = "
        f"{settings['flow_steps']}, AdamW at {settings['learning_rate']:g}; the optimum is 1. `{command}` on "
        f"{where(report['machine'])}.\n\nOn policy, FA-GRPO's gradient and K times Flow-GRPO's differ by at most "
        f"{max(report['one_step_identity']):.1e} of their norm."
    )


def gradient_spread() -> str:
    """Return the greatest gradient of a flow step over the least."""
    report = load("bandit.json")
    if report is None:
        return "Not measured yet: `python -m benchmarks.bandit --json benchmarks/results/bandit.json`."
    rows = [[name, f"{found['spread']:.1f}"] for name, found in report["gradient"].items()]
    return markdown_table(["FlowScale", "gradient of a flow step, greatest over least (K = 10)"], rows)


def algorithm_cost() -> str:
    """Return what an update and a rollout cost beside their bare computation."""
    command = "python -m benchmarks.algos --json benchmarks/results/algos.json"
    report = load("algos.json")
    if report is None:
        return f"Not measured yet: `{command}`."
    update, rollout = report["update"], report["rollout"]
    rows = [
        ["an update, relative to its forward and backward passes alone", f"{update['update_by_bare']:.2f}"],
        ["bookkeeping of a rollout in the dream, relative to the env's time", f"{rollout['bookkeeping_by_env']:.2%}"],
    ]
    about = f"{update['weights']:,} weights, {update['chunks']} chunks"
    return f"{markdown_table(['', 'ratio'], rows)}\n\n{about}; `{command}` on {where(report['machine'])}."


def metrics() -> str:
    """Return what each metric of `prophrl` means, as the code says it."""
    return _explained((name, text) for texts in _metrics.MEANINGS.values() for name, text in texts.items())


def events() -> str:
    """Return what each event of a training of `prophet` means, as the code says it."""
    return _explained(_fit.MEANINGS.items())


def _explained(meanings: Iterable[tuple[str, str]]) -> str:
    lines = [f"| `{name}` | {text} |" for name, text in meanings]
    return "\n".join(["| metric | meaning |", "| --- | --- |", *lines])
