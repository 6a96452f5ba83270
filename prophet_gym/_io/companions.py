"""What lies in a checkpoint beside its networks: initial states, success head, object reader, and a model card."""

import shutil
from filecmp import cmpfiles
from pathlib import Path

from prophet_gym._io.atomic import is_aside

COMPANIONS = ("success_head", "object_reader", "starts")
"""Folders that stay true of the same scene while the world model is trained further."""
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
    """Copy the companions of the checkpoint that a model came from beside the model that is saved.

    Args:
        source: Folder of that checkpoint; None for a model that was trained from scratch.
        target: Where the model is saved; a companion that is there already is kept.
        temporary: The folder that takes the place of the target at the end.

    Returns:
        The names of the companions that are that checkpoint's: copied now, or by an earlier save.
    """
    if source is None or source.resolve() == target.resolve():
        return []
    names = [name for name in COMPANIONS if (source / name).is_dir() and not (target / name).exists()]
    for name in names:
        shutil.copytree(
            source / name, temporary / name, ignore=lambda _folder, found: [n for n in found if is_aside(n)]
        )
    return names + [name for name in COMPANIONS if name not in names and _same(source / name, target / name)]


def _same(one: Path, other: Path) -> bool:
    """Return whether two folders hold the same files, apart from locks and temporary files."""
    found = [
        {
            path.relative_to(folder).as_posix()
            for path in folder.rglob("*")
            if path.is_file() and not is_aside(path.name)
        }
        for folder in (one, other)
    ]
    return bool(found[0]) and found[0] == found[1] and not any(cmpfiles(one, other, found[0], shallow=False)[1:])


def card(
    weights: str, target: Path, *, source: Path | None, carried: list[str], scene: tuple[str, str], robot: str
) -> str:
    """Return the text of a model card: where the checkpoint comes from, what it has, and how to use it.

    Args:
        weights: The name to load it by, its repository on the Hub or a path.
        target: Its folder.
        source: Folder of the checkpoint that it began as.
        carried: Companions that are that checkpoint's.
        scene: Suite and look of the training data.
        robot: The embodiment whose actions it takes.
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
    missing = [name for name in ("starts", "success_head") if name not in (*carried, *own)]
    advice = {"starts": "`prophet starts` or `starts=PATH`", "success_head": "`prophet train-reward` or `reward=...`"}
    parts += [f"It has no `{name}`: {advice[name]}." for name in missing]
    suite, look = scene
    return _CARD.format(
        marker=MARKER,
        suite=suite,
        look=look,
        weights=weights,
        embodiment=_embodiment(robot),
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
