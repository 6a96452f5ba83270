"""Open data sets that a command line names: `PATH`, or `PATH,kind=libero,weight=2`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from prophet_gym._checks import read_options, require_known
from prophet_gym.data._episode import EpisodeSource
from prophet_gym.data._hdf5 import LIBERO, LIBERO_REGENERATED, ROBOMIMIC, Hdf5Source
from prophet_gym.data._lerobot import INFO, LeRobotSource
from prophet_gym.data._reading import ToolReading, load_cameras
from prophet_gym.data._recording import META, RecordingSource, recording_folder, refuse_official_export
from prophet_gym.data._windows import MixtureEntry, ToPlan
from prophet_gym.data.readers import AgibotSource, BridgeSource, DroidSource, RldsSource
from prophet_gym.data.readers._rlds import FEATURES

LAYOUTS = {"libero": LIBERO, "libero_regenerated": LIBERO_REGENERATED, "robomimic": ROBOMIMIC}


_READERS: dict[str, Callable[..., EpisodeSource]] = {
    "rlds": RldsSource,
    "agibot": AgibotSource,
    "droid": DroidSource,
    "bridge": BridgeSource,
}


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split("+"))


def _numbers(text: str) -> tuple[int, ...]:
    if not all(name.isascii() and name.isdigit() for name in _names(text)):
        raise ValueError(f"episodes and without must be numbers of episodes joined by +, got {text!r}")
    return tuple(map(int, _names(text)))


def _lens(text: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, _names(text)))
    except ValueError as error:
        raise ValueError(f"intrinsics must be fx+fy+cx+cy, four numbers, got {text!r}") from error


_TOOLS = {"state": _names, "numbers": _names, "open": float, "closed": float}
_CHOICE = {"episodes": _names, "without": _names}
LEROBOT = {"camera": str, "action": str, "orient": str, "tolerance": float, "episodes": _numbers, "without": _numbers}
RLDS = {
    "camera": str, "action": _names, "instruction": str, "fps": float, "robot": str, "first": int, "split": str,
    "orient": str, "success": str, "episodes": _numbers, "without": _numbers,
}  # fmt: skip
_HDF5 = {"split": str, "instruction": str, "fps": float, **_CHOICE}
_OPTIONS: dict[str, dict[str, Callable[[str], Any]]] = {
    "recording": _CHOICE,
    "lerobot": {**LEROBOT, **_TOOLS, "calibration": load_cameras},
    **{layout: {**_HDF5, **_TOOLS, "calibration": load_cameras} for layout in LAYOUTS},
    "rlds": {**RLDS, **_TOOLS, "calibration": load_cameras},
    "agibot": {"camera": str, "tasks": _names, **_CHOICE},
    "droid": {"camera": str, "outcome": str, "intrinsics": _lens, **_CHOICE},
    "bridge": {"camera": str, **_CHOICE},
}
"""What can be said of each kind of data set besides kind, weight and actions: arguments of its reader, and `_TOOLS`,
which become a `ToolReading`."""


def read_mixture_entry(text: str, plans: Mapping[str, ToPlan], *, evaluating: bool = False) -> MixtureEntry:
    """Open a data set that is named in words: its folder or file, then options `name=value`, all separated by commas.

    `kind` is needed for HDF5 files, raw DROID and raw BRIDGE alone, and may stand before the path: `droid:PATH`;
    `camera` is needed for LeRobot sets; `weight` counts only if every data set of the mixture has one. `state` names
    the columns that say where the tools are and `numbers` what they hold, both joined by
    +, `open` and `closed` the gripper's numbers (see `ToolReading`); `calibration` is a file of camera matrices.
    `episodes` names those to read and `without` those to leave out, joined by +, as their reader calls them. `actions`
    is one of the names in `plans`: how a robot's actions become the model's, the first by default. Nothing is fitted to
    what is read for `evaluating`, so it may start from official initial states.
    """
    kind, path, given = split_named(text)
    if not path.exists():
        raise FileNotFoundError(f"no data set at {path}: there is no such folder or file")
    kind = kind or kind_of(path)
    chosen = given.pop("actions", next(iter(plans)))
    require_known("way of reading actions", chosen, plans)
    options = read_options(f"option of a {kind} data set", given, options_of(kind))
    weight = options.pop("weight", None)
    return MixtureEntry(_open(path, kind, options, evaluating=evaluating), weight, plans[chosen])


def options_of(kind: str) -> dict[str, Callable[[str], Any]]:
    """Return the options of a kind of data set, with what reads their texts; UnknownOptionError for another kind."""
    require_known("kind of data set", kind, _OPTIONS)
    return {"actions": str, "weight": float, **_OPTIONS[kind]}


def split_named(text: str) -> tuple[str | None, Path, dict[str, str]]:
    """Return the kind, where it is said, the place and the options of a data set that is named in words."""
    name, given = named_options(text)
    said = given.pop("kind", None)
    before, colon, rest = name.partition(":")
    # A path may have a colon of its own, so only a kind is one.
    if colon and before in _OPTIONS:
        if said not in (None, before):
            raise ValueError(f"{text!r} must name one kind of data set, names {before} and {said}")
        said, name = before, rest
    if said is not None:
        options_of(said)
    return said, recording_folder(Path(name).expanduser()), given


def kind_named(text: str) -> tuple[str, dict[str, str]]:
    """Return the kind of a data set that is named in words, as it says or as its folder shows, and its options."""
    said, path, given = split_named(text)
    return said or kind_of(path), given


def named_options(text: str) -> tuple[str, dict[str, str]]:
    """Return the folder or file of a data set that is named in words, and the options behind it."""
    name, *words = text.split(",")
    given: dict[str, str] = {}
    for word in words:
        option, _, value = word.partition("=")
        if not value:
            raise ValueError(f"a data set is PATH,name=value,..., got {word!r} in {text!r}")
        given[option] = value
    return name, given


def kind_of(path: Path) -> str:
    """Return whose recordings a folder holds, by its index; ValueError for files, which do not say."""
    if not path.exists():
        raise FileNotFoundError(
            f"no data set at {path}: there is no such folder or file; one on the Hub is named lerobot:owner/repo"
        )
    if (path / META).is_file():
        return "recording"
    if (path / INFO).is_file():
        return "lerobot"
    if (path / FEATURES).is_file() or any(path.glob(f"*/{FEATURES}")):  # the folder of a version, or the one above
        return "rlds"
    if (path / "proprio_stats").is_dir():
        return "agibot"
    raise ValueError(
        f"{path} is neither a recording of ours ({META}) nor a LeRobot data set ({INFO}), an RLDS one ({FEATURES}) or "
        f"AgiBot World (proprio_stats); for HDF5 files say who wrote them: {path},kind="
        + "|".join(LAYOUTS)
        + "; raw DROID and BRIDGE are kind=droid and kind=bridge"
    )


def _open(path: Path, kind: str, options: dict[str, Any], *, evaluating: bool) -> EpisodeSource:
    if kind == "recording":
        return RecordingSource(path, **options, evaluating=evaluating)
    if kind == "lerobot" and not evaluating:
        refuse_official_export(path)
    tools = {name: options.pop(name) for name in _TOOLS if name in options}
    if tools and not {"state", "numbers"} <= tools.keys():
        raise ValueError(
            f"where tools are is said with both state=COLUMN+... and numbers=xyz+..., got {', '.join(tools)}"
        )
    if tools:
        options["tools"] = ToolReading(tools.pop("state"), **tools)
    if kind == "lerobot":
        if "camera" not in options:
            raise ValueError(f"say which camera to read: {path},camera=observation.images.NAME")
        return LeRobotSource(path, **options)
    if kind in _READERS:
        return _READERS[kind](path, **options)
    return Hdf5Source(path, LAYOUTS[kind], **options)
