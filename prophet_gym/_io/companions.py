"""What lies in a checkpoint beside its networks: initial states, success head, object reader, and a model card."""

import shutil
from filecmp import cmpfiles
from pathlib import Path
from typing import Any

from prophet_gym._io.atomic import is_aside

# Folders that stay true of the same scene while the world model is trained further.
COMPANIONS = ("success_head", "object_reader", "starts")
CARD = "README.md"
MARKER = "<!-- written by prophet-gym: remove this line to keep what you write here -->"

_CARD = """---
library_name: prophet-gym
tags:
- robotics
- world-model
- reinforcement-learning
---
# A Prophet world model
{marker}

A learned robot simulator behind Gymnasium: frames and actions in, the frames that follow out.
Scene: suite `{suite}`, look `{look}`.

```python
import gymnasium as gym
import prophet_gym

env = gym.make("Prophet-LIBERO-v0", weights="{weights}"{embodiment})
```

{origin}
{parts}
"""


def carry_companions(source: Path | None, target: Path, temporary: Path) -> list[str]:
    """Copy the companions of the checkpoint that a model began as, and return the names of those that are still its.

    They are copied to `temporary`, the folder that takes the place of `target` at the end; a companion that is there
    already is kept. A `source` of None is a model that was trained from scratch.
    """
    if source is None or source.resolve() == target.resolve():
        return []
    names = [name for name in COMPANIONS if (source / name).is_dir() and not (target / name).exists()]
    for name in names:
        shutil.copytree(source / name, temporary / name, ignore=lambda _folder, found: {*filter(is_aside, found)})
    return names + [name for name in COMPANIONS if name not in names and _same(source / name, target / name)]


def _same(one: Path, other: Path) -> bool:
    """Return whether two folders hold the same files, apart from locks and temporary files."""
    first, second = (
        {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file() and not is_aside(path.name)}
        for root in (one, other)
    )
    return bool(first) and first == second and not any(cmpfiles(one, other, first, shallow=False)[1:])


def card(weights: str, target: Path, *, source: Path | None, carried: list[str], config: Any) -> str:
    """Return the text of a model card: where the checkpoint comes from, what it has, and how to load it by `weights`.

    `source` is the folder of the checkpoint that it began as, whose companions `carried` are.
    """
    if source is None:
        origin = "It was trained from scratch: nothing that was measured for another checkpoint holds for it."
    else:
        origin = (
            f"It began as the checkpoint `{source.name}`. What was measured for that one holds here only if the "
            "weights were not trained further: measure again with `prophet evaluate` and `prophet calibrate`."
        )
    own = sorted(name for name in COMPANIONS if (target / name).is_dir() and name not in carried)
    parts = [f"Taken over from it: {', '.join(f'`{name}`' for name in carried)}."] if carried else []
    parts += [f"Its own: {', '.join(f'`{name}`' for name in own)}."] if own else []
    advice = {"starts": "`prophet starts` or `starts=PATH`", "success_head": "`prophet train-reward` or `reward=...`"}
    parts += [f"It has no `{name}`: {how}." for name, how in advice.items() if name not in (*carried, *own)]
    return _CARD.format(
        marker=MARKER,
        suite=config.suite,
        look=config.look,
        weights=weights,
        embodiment=_embodiment(config.embodiment),
        origin=origin,
        parts="\n".join(parts),
    )


def _embodiment(robot: str) -> str:
    """Return the argument of `gym.make` that a robot other than the default needs."""
    return "" if robot == "libero" else f', embodiment="{robot}"'


def is_ours(path: Path) -> bool:
    """Return whether a card may be written again: it is missing, or a save wrote it."""
    return not path.is_file() or MARKER in path.read_text(encoding="utf-8", errors="replace")


def next_steps(folder: Path, data: Path | str, robot: str) -> str:
    """Return the commands to run next with a robot's checkpoint that a training has written, as text."""
    lines = [
        f"wrote {folder}",
        f'  gym.make("Prophet-LIBERO-v0", weights="{folder}"{_embodiment(robot)})',
        f"  prophet evaluate --world-model {folder} --data {data}",
    ]
    if not (folder / "starts").is_dir():
        lines.append(f"it has no starts yet:\n  prophet starts --world-model {folder}")
    if not (folder / "success_head").is_dir():
        lines.append(
            "it has no reward model yet (every reward is 0 and not scored):\n"
            f"  prophet train-reward --data {data} --out {folder / 'success_head'}"
        )
    return "\n".join(lines)
