"""Open data sets that a command line names: `PATH`, or `PATH,kind=libero,weight=2`."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prophet_gym._checks import unknown_option
from prophet_gym.data._episode import EpisodeSource
from prophet_gym.data._reading import Calibration, ToolReading, as_stored, columns_reversed, rows_reversed
from prophet_gym.data._recording import META, RecordingSource
from prophet_gym.data._windows import MixtureEntry, ToModelActions, ToPlan

ORIENT = {"as_stored": as_stored, "rows_reversed": rows_reversed, "columns_reversed": columns_reversed}
HDF5_KINDS = ("libero", "libero_regenerated", "robomimic")
CHOICE = ("episodes", "without")
TOOLS = ("state", "numbers", "open", "closed", "calibration")
OPTIONS = {
    "recording": ("robot", *CHOICE),
    "lerobot": ("camera", "action", "robot", "orient", "tolerance", *CHOICE, *TOOLS),
    **dict.fromkeys(HDF5_KINDS, ("split", "instruction", "fps", "robot", *CHOICE, *TOOLS)),
}
"""What can be said of each kind of data set besides kind, weight and actions: arguments of its reader, and `TOOLS`."""


def read_mixture_entry(
    text: str, actions: Mapping[str, ToModelActions], plans: Mapping[str, ToPlan] | None = None
) -> MixtureEntry:
    """Open a data set that is named in words: its folder or file, then options `name=value`, all separated by commas.

    `kind` is needed for HDF5 files alone, `camera` for LeRobot sets; `weight` counts only if every data set of the
    mixture has one. `state` names the columns that say where the tools are and `numbers` what they hold, both joined by
    +, `open` and `closed` the gripper's numbers (see `ToolReading`); `calibration` is a file of camera matrices.
    `episodes` names those to read and `without` those to leave out, joined by +, as their reader calls them. `actions`
    is one of the names in `actions`: how a robot's actions become the model's, the first by default; `plans`, by the
    same names, says how they do where the tools' poses are known (see `MixtureEntry.plan`).
    """
    path, *words = text.split(",")
    given = dict(_option(text, word) for word in words)
    if not Path(path).expanduser().exists():
        raise FileNotFoundError(f"no data set at {path}")
    kind = given.pop("kind", None) or _kind(Path(path).expanduser())
    if kind not in OPTIONS:
        raise unknown_option("kind of data set", kind, OPTIONS)
    weight, chosen = given.pop("weight", None), given.pop("actions", next(iter(actions)))
    if chosen not in actions:
        raise unknown_option("way of reading actions", chosen, actions)
    odd = [name for name in given if name not in OPTIONS[kind]]
    if odd:
        raise unknown_option(f"option of a {kind} data set", odd[0], ["kind", "weight", "actions", *OPTIONS[kind]])
    source = _open(Path(path).expanduser(), kind, given)
    number = None if weight is None else _number("weight", weight)
    return MixtureEntry(source, number, actions[chosen], (plans or {}).get(chosen))


def _option(text: str, word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals or not value:
        raise ValueError(f"a data set is PATH,name=value,..., got {word!r} in {text!r}")
    return name, value


def _number(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise ValueError(f"{name} must be a number, got {value!r}") from error


def _whole(name: str, value: str) -> int:
    if not (value.isascii() and value.isdigit()):
        raise ValueError(f"{name} must be numbers of episodes joined by +, got {value!r}")
    return int(value)


def _tools(words: dict[str, str]) -> dict[str, Any]:
    """Build the arguments of a reader from what was said of tools and camera."""
    found: dict[str, Any] = {}
    if "calibration" in words:
        found["calibration"] = Calibration.load(words.pop("calibration"))
    if words and not {"state", "numbers"} <= words.keys():
        raise ValueError(
            f"where the tools are is said with both state=COLUMN+... and numbers=xyz+..., got {', '.join(words)}"
        )
    if words:
        bounds = {name: _number(name, words[name]) for name in ("open", "closed") if name in words}
        found["tools"] = ToolReading(tuple(words["state"].split("+")), tuple(words["numbers"].split("+")), **bounds)
    return found


def _kind(path: Path) -> str:
    if (path / META).is_file():
        return "recording"
    if (path / "meta" / "info.json").is_file():
        return "lerobot"
    raise ValueError(
        f"{path} is neither a recording of ours ({META}) nor a LeRobot data set (meta/info.json); "
        f"for HDF5 files say who wrote them: {path},kind=" + "|".join(HDF5_KINDS)
    )


def _open(path: str | os.PathLike, kind: str, given: Mapping[str, str]) -> EpisodeSource:
    chosen: dict[str, Any] = {name: given[name].split("+") for name in CHOICE if name in given}
    if kind == "recording":
        return RecordingSource(path, robot=given.get("robot"), **chosen)
    words = {name: value for name, value in given.items() if name not in (*TOOLS, *CHOICE)}
    rest: dict[str, Any] = _tools({name: value for name, value in given.items() if name in TOOLS})
    if kind == "lerobot":
        from prophet_gym.data._lerobot import LeRobotSource

        if "camera" not in given:
            raise ValueError(f"say which camera to read: {path},camera=observation.images.NAME")
        orient = given.get("orient", "as_stored")
        if orient not in ORIENT:
            raise unknown_option("orient", orient, ORIENT)
        rest |= {name: value for name, value in words.items() if name not in ("camera", "orient", "tolerance")}
        rest |= {name: [_whole(name, number) for number in numbers] for name, numbers in chosen.items()}
        if "tolerance" in words:
            rest["tolerance"] = _number("tolerance", words["tolerance"])
        return LeRobotSource(path, given["camera"], orient=ORIENT[orient], **rest)
    from prophet_gym.data._hdf5 import LIBERO, LIBERO_REGENERATED, ROBOMIMIC, Hdf5Source

    layout = {"libero": LIBERO, "libero_regenerated": LIBERO_REGENERATED, "robomimic": ROBOMIMIC}[kind]
    fps = _number("fps", given["fps"]) if "fps" in given else None
    rest |= {name: value for name, value in words.items() if name != "fps"} | chosen
    return Hdf5Source(path, layout, fps=fps, **rest)
