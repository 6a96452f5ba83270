"""Start sets in the format of `Fleurrr/Bridge-RL-Data`: JSON lines that name a picture and a task each."""

import json
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import UInt8

from prophet_gym._io.files import read_text
from prophet_gym.envs.initial_states import InitialStates
from prophet_gym.errors import CheckpointError, MissingWeightsError
from prophet_gym.specs import InitialState

FIELDS = ("task_type", "task_language", "init_state_path")


def read_jsonl_states(path: Path | str, suite: str = "bridge") -> InitialStates:
    """Read a manifest of start pictures, one row each: `task_type`, `task_language`, `init_state_path`.

    A picture is looked for beside the manifest: under its whole path, then under ever shorter ends of it. Tasks are
    numbered in the order in which a new pair of type and language appears, starts within each task.

    Args:
        path: the `.jsonl` file.
        suite: name of the suite that the starts are of.

    Raises:
        MissingWeightsError: there is no such file, or a picture is not there.
        CheckpointError: a row is damaged, or a picture cannot be read.
    """
    manifest = Path(path)
    if not manifest.is_file():
        raise MissingWeightsError(f"no start set at {manifest}")
    tasks: dict[tuple[str, str], int] = {}
    counts: dict[int, int] = {}
    images: dict[Path, np.ndarray] = {}
    states = []
    for number, line in enumerate(_lines(manifest), start=1):
        if not line.strip():
            continue
        where = f"line {number} of {manifest}"
        kind, language, name = _fields(line, where)
        task = tasks.setdefault((kind, language), len(tasks))
        index = counts.setdefault(task, 0)
        counts[task] += 1
        found = _find(manifest.parent, name, where)
        if found not in images:
            images[found] = _read(found, where)
        states.append(InitialState(images[found][None], language, suite, task, index))
    if not states:
        raise CheckpointError(f"{manifest} has no rows; each must be JSON with {', '.join(FIELDS)}")
    return InitialStates(states)


def _lines(path: Path) -> list[str]:
    return read_text(path, CheckpointError).split("\n")


def _fields(line: str, where: str) -> list[str]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{where} must be JSON: {error}") from error
    texts = [row[name] for name in FIELDS if isinstance(row.get(name), str)] if isinstance(row, dict) else []
    if len(texts) != len(FIELDS):
        raise CheckpointError(f"{where} must have the texts {', '.join(FIELDS)}, got {line.strip()[:200]}")
    return texts


def _find(folder: Path, name: str, where: str) -> Path:
    parts = PurePosixPath(name).parts
    if ".." in parts:
        raise CheckpointError(f"{where}: init_state_path={name!r} must not lead out of the folder")
    for first in range(len(parts)):
        candidate = folder.joinpath(*parts[first:])
        if candidate.is_file():
            return candidate
    raise MissingWeightsError(f"{where}: no picture {name!r} beside the manifest in {folder}")


def _read(path: Path, where: str) -> UInt8[np.ndarray, "h w 3"]:
    import cv2

    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise CheckpointError(f"{where}: {path} is no picture, or damaged")
    return np.ascontiguousarray(image[..., ::-1])
