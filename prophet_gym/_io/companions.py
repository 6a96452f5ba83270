"""What lies in a checkpoint beside its networks: initial states, success head, object reader, and a model card."""

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

from prophet_gym._io.atomic import atomic_write, is_aside

# Folders that stay true of the same scene while the world model is trained further.
COMPANIONS = ("success_head", "object_reader", "starts")
CARD = "README.md"
MARKER = "<!-- written by prophet-gym: remove this line to keep what you write here -->"

_BEGIN, _END = "<!-- measured by prophet evaluate -->", "<!-- /measured -->"
_MEASURED = re.compile(rf"\n*{_BEGIN}.*?{_END}", re.DOTALL)

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

env = gym.make("{id}", weights="{weights}")
```

{origin}
{parts}
"""


def carry_companions(source: Path | None, target: Path, temporary: Path) -> list[str]:
    """Copy the companions of the checkpoint that a model began as, and return the names of all that it then has.

    They are copied to `temporary`, the folder that takes the place of `target` at the end; a companion that is there
    already is kept. A `source` of None is a model that was trained from scratch.
    """
    own = [name for name in COMPANIONS if (target / name).is_dir()]
    if source is None or source.resolve() == target.resolve():
        return own
    names = [name for name in COMPANIONS if (source / name).is_dir() and not (target / name).exists()]
    for name in names:
        shutil.copytree(source / name, temporary / name, ignore=lambda _folder, found: {*filter(is_aside, found)})
    return sorted(own + names)


def card(weights: str, *, source: Path | None, companions: list[str], config: Any) -> str:
    """Return the text of a model card: where the checkpoint comes from, what it has, and how to load it by `weights`.

    `source` is the folder of the checkpoint that it began as.
    """
    if source is None:
        origin = "It was trained from scratch: nothing that was measured for another checkpoint holds for it."
    else:
        origin = (
            f"It began as the checkpoint `{source.name}`. What was measured for that one holds here only if the "
            "weights were not trained further: measure again with `prophet evaluate` and `prophet calibrate`."
        )
    return _CARD.format(
        marker=MARKER,
        suite=config.suite,
        look=config.look,
        weights=weights,
        id=env_id(config.embodiment),
        origin=origin,
        parts="\n".join(_parts(companions)),
    )


def env_id(robot: str) -> str:
    """Return the id of an env that takes weights of a robot."""
    return "Prophet-LIBERO-v0" if robot == "libero" else "Prophet-v0"


def measured_card(folder: Path, tables: str, what: str) -> None:
    """Put what was measured of a checkpoint, and what it has by now, into its card, unless someone else wrote that."""
    path = folder / CARD
    if not path.is_file() or not is_ours(path):
        return
    text = _MEASURED.sub("", path.read_text(encoding="utf-8"))
    lines = [line for line in text.splitlines() if not line.startswith(("It has ", "It has no "))]
    parts = _parts([name for name in COMPANIONS if (folder / name).is_dir()])
    measured = f"{_BEGIN}\n## Measured\n\n{what}\n\n```text\n{tables}\n```\n{_END}"
    atomic_write(path, "\n".join([*lines, *parts]).rstrip() + f"\n\n{measured}\n")


def _parts(companions: list[str]) -> list[str]:
    """Say what a checkpoint has beside its networks, and how to make what it lacks."""
    parts = [f"It has {', '.join(f'`{name}`' for name in companions)}."] if companions else []
    advice = {"starts": "`prophet starts` or `starts=PATH`", "success_head": "`prophet train-reward` or `reward=...`"}
    return parts + [f"It has no `{name}`: {how}." for name, how in advice.items() if name not in companions]


def is_ours(path: Path) -> bool:
    """Return whether a card may be written again: it is missing, or a save wrote it."""
    return not path.is_file() or MARKER in path.read_text(encoding="utf-8", errors="replace")


def recorded(folder: Path, episodes: int, new: int) -> str:
    """Return what a recording has come to, and the commands to run next with it, as text."""
    place = shlex.quote(str(folder))
    return f"wrote {new} of {episodes} episodes to {folder}\n  prophet inspect {place}\n  prophet train --data {place}"


def next_steps(folder: Path, data: Path | str, robot: str) -> str:
    """Return the commands to run next with a robot's checkpoint that a training has written, as text."""
    foreign = str(data).startswith("lerobot:")
    lines = [f"wrote {folder}", f'  gym.make("{env_id(robot)}", weights="{folder}")']
    lines.append(f"  prophet evaluate --world-model {folder} --data {data}" + (" --card" if foreign else ""))
    if not (folder / "starts").is_dir():
        lines.append(f"it has no starts yet:\n  prophet starts --world-model {folder}")
    if not (folder / "success_head").is_dir():
        lines.append(
            "it has no reward model yet (every reward is 0 and not scored):\n"
            f"  prophet train-reward --data {data} --out {folder / 'success_head'}"
            + (f" --world-model {folder}" if foreign else "")
        )
    return "\n".join(lines)
