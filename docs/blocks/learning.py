"""Algorithms and the proof: blocks of figures."""

from docs.blocks.common import ROOT, load, markdown_table, where
from prophet_gym.cli.report import interval


def bandit() -> str:
    """How every algorithm does on the bandit, and what one optimiser step makes of the difference."""
    command = "python benchmarks/bandit.py --json benchmarks/results/bandit.json"
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
        f"{settings['rollouts']} pulls and {settings['epochs']} optimiser steps an update, K = "
        f"{settings['flow_steps']}, AdamW at {settings['learning_rate']:g}; the optimum is 1. `{command}` on "
        f"{where(report['machine'])}.\n\nOn policy, FA-GRPO's gradient and K times Flow-GRPO's differ by at most "
        f"{max(report['one_step_identity']):.1e} of their norm."
    )


def gradient_spread() -> str:
    """Greatest over least gradient of a flow step."""
    report = load("bandit.json")
    if report is None:
        return "Not measured yet: `python benchmarks/bandit.py --json benchmarks/results/bandit.json`."
    rows = [[name, f"{found['spread']:.1f}"] for name, found in report["gradient"].items()]
    return markdown_table(["FlowScale", "gradient of a flow step, greatest by least (K = 10)"], rows)


def algorithm_cost() -> str:
    command = "python benchmarks/algos.py --json benchmarks/results/algos.json"
    report = load("algos.json")
    if report is None:
        return f"Not measured yet: `{command}`."
    update, rollout = report["update"], report["rollout"]
    rows = [
        ["an update, by the same forward and backward passes alone", f"{update['update_by_bare']:.2f}"],
        ["bookkeeping of a rollout in the dream, by the env's time", f"{rollout['bookkeeping_by_env']:.2%}"],
    ]
    about = f"{update['weights']:,} weights, {update['decisions']} decisions"
    return f"{markdown_table(['', 'ratio'], rows)}\n\n{about}; `{command}` on {where(report['machine'])}."


def reach_headline() -> str:
    """The same in a picture and a sentence."""
    report = load("reach.json")
    if report is None or report["scores"]["real"] is None:
        return "Not measured yet: `python benchmarks/reach.py --json benchmarks/results/reach.json`."
    real, settings = report["scores"]["real"], report["settings"]
    return (
        "![learning curves in the dream, scores in both worlds](docs/reach.png)\n\n"
        f"In LIBERO the gripper ends {interval(real['ppo']['gripper_cm'], 1)} cm from its mark, "
        f"with random actions {interval(real['random']['gripper_cm'], 1)} cm: {settings['seeds']} seeds of "
        f"{settings['chunk_steps']:,} chunk-steps in the dream, {settings['episodes']} official starts. "
        f"`python benchmarks/reach.py --chunk-steps {settings['chunk_steps']} --json benchmarks/results/reach.json` "
        f"on {where(report['machine'])}."
    )


def reach() -> str:
    """PPO's reach in the dream and in LIBERO."""
    command = "python benchmarks/reach.py --json benchmarks/results/reach.json"
    report = load("reach.json")
    if report is None:
        return f"Not measured yet: `{command}`."
    settings, worlds = report["settings"], {"dream": "dream", "real": "LIBERO"}
    command = command.replace("--json", f"--chunk-steps {settings['chunk_steps']} --json")
    arms = {"random": "random actions", "still": "no action", "ppo": "PPO, mean of its seeds"}
    rows = [
        [
            f"{world}, {label}",
            interval(found[arm]["return"], 2),
            interval(found[arm]["judged_px"], 1),
            interval(found[arm]["gripper_cm"], 1),
        ]
        for name, world in worlds.items()
        if (found := report["scores"][name]) is not None
        for arm, label in arms.items()
    ]
    gains = [
        f"In {world.replace('dream', 'the dream')} PPO's return is {interval(found['return_over_random'], 2)} above "
        f"random actions' and "
        f"{interval(found['return_over_still'], 2)} above no action's (paired by start); over seeds it is "
        f"{interval(found['over_seeds']['return'], 2)}."
        for name, world in worlds.items()
        if (found := report["scores"][name]) is not None
    ]
    header = ["", f"return of {settings['chunks']} chunks", "judged distance at the end, px", "the gripper's, cm"]
    head = (
        f"{settings['seeds']} seeds of {settings['chunk_steps']:,} chunk-steps "
        f"({report['curves']['chunk_steps_per_second']:g} a second), {settings['episodes']} official starts a policy; "
        f"mean [95% interval: bootstrap over starts, Student's t over seeds]. Made by `{command}` on "
        f"{where(report['machine'])}."
    )
    picture = "![learning curves and scores](reach.png)\n\n" if (ROOT / "docs" / "reach.png").is_file() else ""
    return f"{picture}{head}\n\n{markdown_table(header, rows)}\n\n{' '.join(gains)}"


def reach_judge() -> str:
    """What the judge of reaching sees on recorded frames."""
    command = "python benchmarks/reach_judge.py --json benchmarks/results/reach_judge.json"
    report = load("reach_judge.json")
    if report is None:
        return f"Not measured yet: `{command}`."
    rows = [
        [f"{label} of the distance to the true gripper", f"{report[f'px_{share}']:.2f}", f"{report[f'mm_{share}']:.1f}"]
        for share, label in {50: "median", 90: "90th percentile", 99: "99th percentile"}.items()
    ]
    return (
        f"{markdown_table(['', 'pixels of 128', 'mm in space'], rows)}\n\nCorrelation with the truth: "
        f"{report['correlation_right']:.4f} sideways, {report['correlation_down']:.4f} downwards. "
        f"{report['frames']} frames of {report['episodes']} held-out episodes from official starts, each frame on its "
        f"own: `{command}` on {where(report['machine'])}."
    )
