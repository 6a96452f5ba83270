"""`prophet.json`: the class of a checkpoint's world model, its config, and the marks of the parts that belong to it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prophet_gym._checks import shown
from prophet_gym._io.atomic import atomic_write
from prophet_gym._io.files import read_json, reading
from prophet_gym._io.tensor_files import MARK
from prophet_gym.errors import CheckpointError

# The file that makes a folder a checkpoint.
CONFIG = "prophet.json"
# Key of the name that a class is registered under, see `prophet_gym.checkpoint.register_world_model`.
CLASS = "class"

# What commit f4e30db and earlier wrote: the small Prophet was named by no key at all.
_OLD_CLASS = "recipe"
_OLD_CLASSES = {"small": "SmallProphet", "full": "FullProphet"}
_OLD_KEYS = {"hold": "no_op", "reader_trust": "reader_weight"}


@dataclass(frozen=True)
class Header:
    """Hold what `prophet.json` says.

    `config` is as the class wrote it; commands read `embodiment`, `suite`, `look` and `frame_size` of it. `marks` has
    the mark of the save of each part; None for a checkpoint of a version that wrote none.
    """

    class_name: str
    config: dict[str, Any]
    marks: dict[str, str] | None


def read_header(folder: Path) -> Header:
    """Read `prophet.json`; raise CheckpointError if it is missing, damaged, or names its class or marks as no text."""
    path = folder / CONFIG
    if folder.is_file():
        raise CheckpointError(f"{folder} is a file, not a checkpoint folder: convert it first with `prophet convert`")
    if not path.is_file():
        raise CheckpointError(
            f"no Prophet checkpoint at {folder}: {CONFIG} not found; give a folder that save_pretrained wrote, "
            'or weights="bundled"'
        )
    with reading(f"{path} must be JSON with the config of a world model", "fetch or save it again", CheckpointError):
        values = read_json(path)
    marks = values.pop(MARK, None)
    if marks is not None and not (isinstance(marks, dict) and all(isinstance(mark, str) for mark in marks.values())):
        raise CheckpointError(f"{path} must have the parts' marks as {MARK}, got {shown(repr(marks))}")
    if CLASS not in values:
        old = values.pop(_OLD_CLASS, "small")
        values = {_OLD_KEYS.get(key, key): value for key, value in values.items()}
        values[CLASS] = _OLD_CLASSES.get(old, old) if isinstance(old, str) else old
    name = values.pop(CLASS)
    if not isinstance(name, str):
        raise CheckpointError(f"{path}: {CLASS} must be a text, the name of a world model, got {shown(repr(name))}")
    return Header(name, values, marks)


def write_header(folder: Path, class_name: str, config: Mapping[str, Any], marks: Mapping[str, str]) -> None:
    """Write `prophet.json` into a folder, which should be one of `atomic_directory`."""
    text = json.dumps({CLASS: class_name, **config, MARK: dict(marks)}, indent=2, allow_nan=False)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def write_entries(folder: Path, **entries: Any) -> None:
    """Set entries of a checkpoint's config in place; its networks and their marks stay as they are."""
    values = read_json(folder / CONFIG, CheckpointError)
    atomic_write(folder / CONFIG, json.dumps({**values, **entries}, indent=2, allow_nan=False) + "\n")
