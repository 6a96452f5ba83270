"""Reward models: blocks of figures."""

import json
from collections.abc import Mapping
from typing import Any

from docs.blocks.common import CHECKPOINT, load, markdown_table, where
from prophet_gym.evaluation._calibration import CARD_NAME, RATES, SOURCES, grouped, summary
from prophet_gym.evaluation._report import interval

HEADER = ["source", "scored", *RATES.values()]
WORLDS = {"real": "recorded frames", "dream": "dreams"}


def calibration() -> str:
    """Return how far the checkpoint's reward model is to be trusted."""
    path = CHECKPOINT / CARD_NAME
    if not path.is_file():
        return f"Not measured yet: `{calibrate_command(None)}`."
    card = json.loads(path.read_text())
    tables = [markdown_table(HEADER, summary(card)), markdown_table(*by_actor(card))]
    for source in WORLDS:
        for group, label in (("by_age", "frames since the start"), ("by_policy", "who acted"), ("by_task", "task")):
            counted = "scored steps" if group == "by_age" else "episodes"
            header = [f"{SOURCES[source]}: {label}", counted, *RATES.values()]
            tables.append(markdown_table(header, grouped(card, source, group)))
    return "\n\n".join([*tables, f"`{calibrate_command(card)}` on {where(card['machine'])}."])


def calibrate_command(card: Mapping[str, Any] | None) -> str:
    """Return the command that made the bundled card."""
    out = "prophet_gym/checkpoints/libero_small/calibration.json"
    episodes = "" if card is None else f"--episodes {card['real']['episodes']['count']} "
    return f"prophet calibrate {episodes}--json {out}"


def by_actor(card: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return success rates, true and as the reward model sees them, of everyone who acted."""
    header = ["who acted", "episodes", "true success", *(f"success as scored on {name}" for name in WORLDS.values())]
    found = card["real"]["by_policy"]
    rows = [
        [
            name,
            str(rates["count"]),
            interval(rates["success_true"], 2),
            *(interval(card[source]["by_policy"][name]["success_seen"], 2) for source in WORLDS),
        ]
        for name, rates in sorted(found.items(), key=lambda item: -item[1]["success_true"]["mean"])
    ]
    return header, rows


def dreams_for_the_reward_model() -> str:
    """Return what it adds to train the reward model on dreams too."""
    card, path = load("dream/calibration_dreams.json"), CHECKPOINT / CARD_NAME
    command = "prophet calibrate --reward OUT2 --json benchmarks/results/dream/calibration_dreams.json"
    if card is None or not path.is_file():
        return f"Not measured yet: `{command}`."
    both = {"recorded episodes": json.loads(path.read_text()), "these and dreams of them": card}
    rows = [
        [f"trained on {name}" if first else "", *row]
        for name, each in both.items()
        for first, row in zip((True, False), summary(each), strict=True)
    ]
    about = command.replace("--out", f"--episodes {card['real']['episodes']['count']} --out")
    return f"{markdown_table(['', *HEADER], rows)}\n\n`{about}` on {where(card['machine'])}."


def speed() -> str:
    """Return the time to score a chunk beside the time to dream it."""
    command = "python benchmarks/reward_speed.py --json benchmarks/results/reward_speed.json"
    report = load("reward_speed.json")
    if report is None:
        return f"Not measured yet: `{command}`."
    return (
        f"To score a chunk of {report['rows']} dreams takes {report['ratio']:.1%} of the time to dream it: "
        f"`{command}` on {where(report['machine'])}."
    )


def robustness() -> str:
    """Return how good a policy becomes under degraded rewards."""
    command = "python benchmarks/reward_robustness.py --json benchmarks/results/reward_robustness.json"
    report = load("reward_robustness.json")
    if report is None:
        return f"Not measured yet: `{command}`."
    recalls, precisions = (sorted({cell[name] for cell in report["cells"]}) for name in ("recall", "precision"))
    cells = {(cell["recall"], cell["precision"]): cell for cell in report["cells"]}
    rows = [
        [f"{recall:g}", *(interval(cells.get((recall, precision)) or {"mean": None}, 2) for precision in precisions)]
        for recall in recalls
    ]
    header = ["recall", *(f"precision {precision:g}" for precision in precisions)]
    return (
        f"{markdown_table(header, rows)}\n\nTrue success after {report['updates']} updates, mean [95%] of "
        f"{report['seeds']} seeds; it was {report['start']:.2f} before. `{command}` on {where(report['machine'])}."
    )
