"""Initial states in the format of `Fleurrr/Bridge-RL-Data`: JSON lines that name an image and a task each."""

import json
from collections import Counter
from pathlib import Path, PurePosixPath

import numpy as np

from prophet_gym._io.files import read_text
from prophet_gym.envs.initial_states._states import InitialStates
from prophet_gym.errors import CheckpointError, MissingWeightsError
from prophet_gym.specs import InitialState

FIELDS = ("task_type", "task_language", "init_state_path")


def read_jsonl_states(path: Path | str) -> InitialStates:
    """Read a manifest, one initial state of suite `bridge` a line: `task_type`, `task_language`, `init_state_path`.

    An image is looked for beside the manifest: under its whole path, then under ever shorter ends of it. Tasks are
    numbered in the order in which a new pair of type and language appears, initial states within each task. Raises
    MissingWeightsError for a file or image that is not there, CheckpointError for a damaged one.
    """
    import cv2

    manifest = Path(path)
    if not manifest.is_file():
        raise MissingWeightsError(f"no initial states at {manifest}")
    tasks: dict[tuple[str, str], int] = {}
    counts: Counter[int] = Counter()
    images: dict[Path, np.ndarray] = {}
    states = []
    # Lines end at "\n" alone: JSON texts may hold the other separators that `splitlines` knows.
    for number, line in enumerate(read_text(manifest, CheckpointError).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"line {number} of {manifest}"
        kind, language, name = _fields(line, where)
        task = tasks.setdefault((kind, language), len(tasks))
        image = _find(manifest.parent, name, where)
        if image not in images:
            pixels = cv2.imread(str(image), cv2.IMREAD_COLOR)
            if pixels is None:
                raise CheckpointError(f"{where}: {image} is no image, or damaged")
            images[image] = np.ascontiguousarray(pixels[..., ::-1])
        states.append(InitialState(images[image][None], language, "bridge", task, counts[task]))
        counts[task] += 1
    if not states:
        raise CheckpointError(f"{manifest} has no rows; each must be JSON with {', '.join(FIELDS)}")
    return InitialStates(states)


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
        if (path := folder.joinpath(*parts[first:])).is_file():
            return path
    raise MissingWeightsError(f"{where}: no image {name!r} beside the manifest in {folder}")
