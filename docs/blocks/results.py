"""Write the README's results as one table: a line for each question, its answer beside what limits it."""

from typing import Any

from docs.blocks.common import load, points, share
from experiments.reach_with_ppo import figures as reach
from experiments.reinforce_in_dream import headline
from experiments.reinforce_in_dream.files import read_summary
from experiments.reinforce_in_dream.protocol import DREAM, LIBERO
from prophet_gym.evaluation._report import interval

_HORIZON = "64"
_OWN, _PAPER = "fa-grpo-forward", "fa-grpo-cps+flowscale (the paper's scoring)"


def results() -> str:
    """Return the README's table of results."""
    evaluation, reached, learned = load("dream/evaluation.json"), reach.load("reach.json"), read_summary("cpu")
    rows = []
    if evaluation is not None:
        rows += _dreams(evaluation)
    if reached is not None and reached["scores"]["libero"] is not None:
        rows.append(_reach(reached))
    if learned is not None:
        rows += _reinforced(learned)
    more = "[All results](docs/evaluation.md#results), with costs and protocols. In brackets: 95% confidence intervals."
    table = "\n".join("| " + " | ".join(row) + " |" for row in [["question", "answer", "command"], ["---"] * 3, *rows])
    return f"{table}\n\n{more}"


def _dreams(report: dict[str, Any]) -> list[list[str]]:
    """Return how far a dream follows the simulator."""
    found = report["horizons"][_HORIZON]
    gains = found["margins"]
    answer = (
        f"PSNR over {_HORIZON} frames {interval(found['conditions']['dream']['psnr'], 2)} dB: "
        f"{interval(gains['psnr_over_copy'], 2)} more than the first frame repeated, "
        f"{interval(gains['psnr_over_other_actions'], 2)} more than a dream under other actions"
    )
    return [["Does the dream follow LIBERO?", answer, "`prophet evaluate`"]]


def _reach(report: dict[str, Any]) -> list[str]:
    """Return what PPO learned in the dream alone."""
    libero = report["scores"]["libero"]
    answer = (
        f"Yes: in LIBERO the gripper ends {interval(libero['ppo']['gripper_cm'], 1)} cm from its target, with random "
        f"actions {interval(libero['random']['gripper_cm'], 1)} cm"
    )
    return ["Does PPO learn in it to reach a target?", answer, "`python -m experiments.reach_with_ppo.run`"]


def _reinforced(summary: dict[str, Any]) -> list[list[str]]:
    """Return what a cloned policy gains, what costs no learning, and what it takes."""
    command = "`make reinforce-cpu`"
    arms = {headline.label_of(arm, found["about"]): found["final"] for arm, found in summary["arms"].items()}
    own, paper = arms[_OWN], arms[_PAPER]
    # In the order of `headline.controls`.
    who = ("The cloned policy, denoising from zeros in place of noise", "a policy cloned without those demonstrations")
    controls = [f"{name}: {row[1]}, a gain of {row[2]}" for name, row in zip(who, headline.controls(), strict=True)]
    dream, libero = (headline.env_seconds(summary, world) for world in (DREAM, LIBERO))
    return [
        [
            "Does reinforcement learning in it improve a small VLA?",
            f"Success in LIBERO {share(summary['sft'])} after cloning, which on purpose "
            f"includes demonstrations that drop the object; {share(own)} after `{_OWN}` in the dream, a gain of "
            f"{points(own['gain'])} points; {share(paper)} after FA-GRPO with the sampled path's log-probs, as in the "
            "paper (one run)",
            command,
        ],
        [
            "How much of that gain needs no reinforcement learning?",
            f"{'; '.join(controls)} points. The first alone is more than half of the gain; that learning beats it is "
            "[not shown](experiments/reinforce_in_dream/README.md#what-costs-no-learning)",
            "`prophrl evaluate`",
        ],
        [
            "Does it save time?",
            "Not yet in a whole run; it saves steps of the simulator. During learning the dream "
            f"takes {dream:.1f} s per 1,000 frames, LIBERO {libero:.1f}{_faster() if dream > libero else ''}",
            command,
        ],
    ]


def _faster() -> str:
    """Return why docs/speed.md has other figures: the runs are older than what makes dreams fast today."""
    short = load("speed/learning.json")
    if short is None:
        return ""
    dream, libero = (short[world]["seconds_env"] for world in ("dream", "simulator"))
    return (
        ". These runs are older than frames on demand and OpenVINO; with both, a short measurement has "
        f"{dream:.1f} and {libero:.1f} ([speed](docs/speed.md#a-step-of-rl))"
    )
