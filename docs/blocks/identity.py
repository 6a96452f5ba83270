"""Whether a grasped object stays itself in the dream: a block of figures."""

from typing import Any

from docs.blocks.common import ROOT, load, markdown_table, where
from prophet_gym.evaluation._report import interval

COMMAND = "python -m benchmarks.identity --json benchmarks/results/dream/identity.json --images docs/images"
CONDITIONS = {
    "recorded": "recorded",
    "recorded_at_dream": "recorded, cut where the dream's hand is",
    "autoencoder": "recorded, through the autoencoder",
    "dream": "dream",
    "other_actions": "dream, other actions",
    "another_object": "recorded, another object carried",
    "background": "recorded background",
}
SCORES = {"true": "probability of its class", "right": "named right", "nothing": "named nothing", "colour": "CIE Lab"}
FEWEST = 5
"""Episodes that a line of ages needs."""


def identity() -> str:
    """Return what the classifier says of dreams and controls, by start, by object and by age, with the pictures."""
    found = load("dream/identity.json")
    if found is None:
        return f"Not measured yet: `{COMMAND}`."
    judge, count = found["classifier"], found["episodes"]
    held = "; ".join(f"{kind} {each['accuracy']:.1%} of {each['crops']}" for kind, each in judge["held_out"].items())
    head = (
        f"{sum(count.values())} episodes ({count['official']} from official states, {count['random']} from random "
        f"ones), {found['moments']} moments. In {interval(_percent(found['hand_elsewhere']), 1)}% of an episode's "
        f"moments the dream's hand is more than {100 * found['near_metres']:g} cm away; they are left out. The "
        f"classifier learned from {judge['train_episodes']} episodes; on frames of {judge['held_out_episodes']} others "
        f"it is right: {held}. Means over episodes [95%]. `{COMMAND}` on {where(found['machine'])}."
    )
    starts = [
        _row(f"{CONDITIONS[name]}, {start} states", found["starts"][start][name])
        for start in sorted(found["starts"])
        for name in ("recorded", "dream")
    ]
    rows = [_row(label, found["conditions"][name]) for name, label in CONDITIONS.items() if name in found["conditions"]]
    objects = [
        [
            _plain(name),
            *(interval(each[condition]["true"], 2) for condition in ("recorded", "autoencoder", "dream")),
            interval(each["dream"]["colour"], 1),
            _becomes(found["becomes"][name]),
        ]
        for name, each in found["objects"].items()
    ]
    ages = [
        [
            f"{name.split('_')[1]}, from frame {age}",
            *_cells(each["dream"]),
            str(each["dream"]["true"]["episodes"]),
        ]
        for name in ("since_grasp", "since_start")
        for age, each in found[name].items()
        if each["dream"]["true"]["episodes"] >= FEWEST
    ]
    header = ["recorded", "autoencoder", "dream", "dream, CIE Lab", "the dream's moments are named"]
    images = [
        f"![{text}](images/{name}.png)" for name, text in IMAGES.items() if (ROOT / f"docs/images/{name}.png").is_file()
    ]
    return "\n\n".join([
        markdown_table(["", *SCORES.values()], rows + starts),
        markdown_table(["object, probability of its class", *header], objects),
        markdown_table(["dream, since the", *SCORES.values(), "episodes"], ages),
        *images,
        head,
    ])  # fmt: skip


IMAGES = {
    "identity": "probability of the true class and colour distance by the dream's age and by object",
    "identity_worst": "the worst crops, recorded and dreamt",
}


def _cells(scores: dict[str, Any]) -> list[str]:
    return [interval(scores[name], 1 if name == "colour" else 2) for name in SCORES]


def _row(label: str, scores: dict[str, Any]) -> list[str]:
    return [label, *_cells(scores)]


def _percent(rate: dict[str, Any]) -> dict[str, Any]:
    return {name: None if rate[name] is None else 100 * rate[name] for name in ("mean", "low", "high")}


def _becomes(shares: dict[str, float]) -> str:
    most = sorted(shares.items(), key=lambda each: -each[1])[:3]
    return ", ".join(f"{_plain(name)} {share:.0%}" for name, share in most if share >= 0.05)


def _plain(name: str) -> str:
    return name.removesuffix("_1").replace("_", " ")
