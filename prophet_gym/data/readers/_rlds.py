"""RLDS data sets as `tensorflow_datasets` writes them: Open-X, BRIDGE and DROID; read without TensorFlow.

Layout: tensorflow.org/datasets/format_specific_dataset_builders and github.com/google-research/rlds. A folder holds
`dataset_info.json`, `features.json` and TFRecord shards; a record is an episode, whose steps are lists of its features.
A step is an observation and the action after it; the outcome of the last action was not recorded, so it is left out.
"""

import copy
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, UInt8

from prophet_gym._checks import require_count, require_known, require_number
from prophet_gym._io.files import read_json
from prophet_gym.data._episode import ByRows, Episode, _choose
from prophet_gym.data._reading import ORIENT, ToolReading, cameras_of, decode_images, finite, success_of, upright
from prophet_gym.data.readers._tfrecord import Record, Values, byte_strings, count, examine, list_records, numbers

INFO, FEATURES = "dataset_info.json", "features.json"
_STEPS = "steps/"
_COUNTED = _STEPS + "is_first"


@dataclass(frozen=True)
class RldsLayout:
    """Say what a data set's features mean; their names are those within a step.

    `first` is the number of the first step to read. `fps` and `robot` are what no RLDS set says of itself.
    """

    camera: str
    action: tuple[str, ...]
    instruction: str
    fps: float
    robot: str
    tools: ToolReading | None = None
    first: int = 0


_EULER = ("xyz", "euler", "gripper")
_OPEN_X = ("action/world_vector", "action/rotation_delta")
_TOLD = "observation/natural_language_instruction"
LAYOUTS = {
    # rail-berkeley.github.io/bridgedata: 5 Hz, state x, y, z, roll, pitch, yaw, gripper (1 open). The action of the
    # first step is all zeros: OpenVLA's `oxe/transforms.py` leaves it out, and so do we.
    "bridge_dataset": RldsLayout(
        "observation/image_0", ("action",), "language_instruction", 5.0, "bridge",
        ToolReading(("observation/state",), _EULER), first=1,
    ),
    "bridge": RldsLayout(
        "observation/image", (*_OPEN_X, "action/open_gripper"), _TOLD, 5.0, "bridge",
        ToolReading(("observation/state",), _EULER), first=1,
    ),
    # github.com/droid-dataset/droid, docs/the-droid-dataset.md; control_hz of droid/robot_ik/robot_ik_solver.py.
    "droid": RldsLayout(
        "observation/exterior_image_1_left", ("action_dict/cartesian_velocity", "action_dict/gripper_position"),
        "language_instruction", 15.0, "droid",
        ToolReading(("observation/cartesian_position", "observation/gripper_position"), _EULER, open=0.0, closed=1.0),
    ),
    # RT-1's data in Open-X: 3 Hz, `base_pose_tool_reached` x, y, z, qx, qy, qz, qw, `gripper_closed` 1 closed.
    "fractal20220817_data": RldsLayout(
        "observation/image", (*_OPEN_X, "action/gripper_closedness_action"), _TOLD, 3.0, "google_robot",
        ToolReading(
            ("observation/base_pose_tool_reached", "observation/gripper_closed"), ("xyz", "quaternion", "gripper"),
            open=0.0, closed=1.0,
        ),
    ),
}  # fmt: skip
"""What is known of data sets by their names; of others, say it."""
_VARIANTS = {"droid_100": "droid", "bridge_orig": "bridge_dataset"}


class RldsSource(ByRows):
    """Read one split of an RLDS data set from disk.

    Args:
        root: The folder of a version, which holds `features.json`, or the one above it if it has one version alone.
        layout: What its features mean; by default what is known of its name, see `LAYOUTS`.
        split: Name of the split; by default the first, which is `train` in published sets.
        orient: How to turn the images upright, see `ORIENT`.
        success: A feature of numbers whose value above 0.5 says that the task is done after a step's action.
        calibration: The camera's matrix, one for all episodes or one for each by number; NaN if not known.
        episodes: Numbers of the episodes to read, in the order of the shards; by default all.
        without: Numbers of episodes to leave out.
        changes: Fields of the layout that are otherwise: camera, action, instruction, fps, robot, tools, first.

    Opening reads the lengths of all records, and of the chosen ones how many steps they have.

    Raises:
        FileNotFoundError: A file that `dataset_info.json` names is missing.
        ValueError: A shard is cut or damaged, holds another number of episodes, or the layout is not known.
        UnknownOptionError: There is no such split, feature or episode.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        layout: RldsLayout | None = None,
        *,
        split: str | None = None,
        orient: str = "as_stored",
        success: str | None = None,
        calibration: Float[np.ndarray, "*_ 3 4"] | None = None,
        episodes: Sequence[int] | None = None,
        without: Sequence[int] = (),
        **changes: Any,
    ):
        self.root = _version_folder(Path(root))
        info = read_json(self.root / INFO)
        self.set = str(info.get("name", ""))
        self.split, records = _records(self.root, info, split)
        self.layout = _layout(self.root, self.set, layout, changes)
        self.features = dict(_flattened(read_json(self.root / FEATURES), str(self.root / FEATURES)))
        require_known("orient", orient, ORIENT)
        self.orient, self.success = orient, success
        self._require_features()
        kept = _choose(f"{self.split} of {self.root}", range(len(records)), episodes, without)
        self.numbers, self.records = kept, [records[number] for number in kept]
        self.rows = [self._rows(record) for record in self.records]
        matrices = cameras_of(calibration, len(records))
        self.cameras = [matrices[number] for number in kept]

    @property
    def views(self) -> tuple[str, ...]:
        """Return the names of the features that are images."""
        return tuple(name for name, feature in self.features.items() if feature.kind == "image")

    def looking_through(self, camera: str) -> "RldsSource":
        """Return the same data set with the frames of another camera."""
        other = copy.copy(self)
        other.layout = replace(self.layout, camera=camera)
        other._require_features()
        return other

    def episode(self, index: int) -> Episode:
        """Read the actions and tool poses of episode `index`; ValueError if they contradict the features."""
        record, layout, rows = self.records[index], self.layout, self.rows[index]
        name = f"episode {self.numbers[index]} of {self.split} of {self.root}"
        found = _example(record)
        actions = np.hstack([self._numbers(found, feature, index) for feature in layout.action])
        told = None if self.success is None else success_of(self._numbers(found, self.success, index)[:, 0] > 0.5)
        tools = None
        if layout.tools is not None:
            states = np.hstack([self._numbers(found, feature, index) for feature in layout.tools.columns])
            tools = layout.tools.read(states, name)
        return Episode(
            name=name,
            actions=actions[: self.steps(index)].astype(np.float32),
            instruction=_text(found, layout.instruction, layout.first, name) if rows else "",
            fps=layout.fps,
            robot=layout.robot,
            read=partial(_read, record, layout.camera, layout.first, self.orient),
            tools=tools if rows else None,
            camera=self.cameras[index],
            success=told,
        )

    def _rows(self, record: Record) -> int:
        """Count the steps to read of a record."""
        found = examine(record, check=False)
        counted = _COUNTED if _COUNTED in found else _STEPS + self.layout.camera
        return max(count(_feature(found, counted, str(record))) - self.layout.first, 0)

    def _numbers(self, found: Mapping[str, Values], feature: str, index: int) -> Float64[np.ndarray, "f n"]:
        """Return a feature's numbers at every step that is read."""
        where = f"{feature} of {self.records[index]}"
        values = numbers(_feature(found, _STEPS + feature, str(self.records[index])), where)
        width, rows = self.features[feature].width, self.rows[index] + self.layout.first
        if len(values) != width * rows:
            raise ValueError(
                f"{where} must have {width} numbers at each of {rows} steps, as {FEATURES} and {_COUNTED} have it, has "
                f"{len(values)} in all; leave this episode out"
            )
        return finite(where, values.reshape(rows, width)[self.layout.first :])

    def _require_features(self) -> None:
        layout, known = self.layout, self.features
        tools = () if layout.tools is None else layout.tools.columns
        success = () if self.success is None else (self.success,)
        wanted = [("camera", [layout.camera], "image"), ("instruction", [layout.instruction], "text")]
        wanted += [("action", list(layout.action), "numbers"), ("state", [*tools, *success], "numbers")]
        for what, names, kind in wanted:
            fitting = [name for name, feature in known.items() if feature.kind == kind]
            for name in names:
                require_known(f"{what} (a feature of {kind})", name, fitting)


@dataclass(frozen=True)
class _Feature:
    """Say what a feature of a step is: `image`, `text` or `numbers`, and how many numbers."""

    kind: str
    width: int = 1


def _version_folder(root: Path) -> Path:
    """Return the folder with the features: the one named, or the only version in it."""
    found = [root] if (root / FEATURES).is_file() else sorted(path.parent for path in root.glob(f"*/{FEATURES}"))
    if not found:
        raise FileNotFoundError(
            f"{root} is no RLDS data set (it has no {FEATURES}); give the folder of a version, such as droid/1.0.1"
        )
    if len(found) > 1:
        raise ValueError(f"{root} has the versions {', '.join(path.name for path in found)}; give the folder of one")
    return found[0]


def _layout(root: Path, name: str, layout: RldsLayout | None, changes: dict[str, Any]) -> RldsLayout:
    known = layout or LAYOUTS.get(_VARIANTS.get(name, name))
    if known is not None:
        changed = replace(known, **changes)
    else:
        needed = [field for field in ("camera", "action", "instruction", "fps", "robot") if field not in changes]
        if needed:
            raise ValueError(
                f"what the features of {name or root} mean is not known, only that of {', '.join(LAYOUTS)}; say its "
                f"{', '.join(needed)}: rlds:{root},camera=observation/image,action=action,fps=5,..."
            )
        changed = RldsLayout(**changes)
    require_number("fps", changed.fps, above=0)
    require_count("first", changed.first, 0)
    return changed


def _records(root: Path, info: Mapping[str, Any], split: str | None) -> tuple[str, list[Record]]:
    """List the records of a split, shard by shard."""
    where, name = root / INFO, info.get("name")
    splits = info.get("splits")
    stated = splits if isinstance(splits, list) and all(isinstance(each, dict) for each in splits) else []
    lengths = {str(each.get("name")): _lengths(each.get("shardLengths"), where) for each in stated}
    if not lengths or not isinstance(name, str):
        raise ValueError(f"{where} must state the data set's name and its splits; fetch it again")
    if info.get("fileFormat", "tfrecord") != "tfrecord":
        raise ValueError(f"the files of {root} must be TFRecords, are {info['fileFormat']}; convert them with tfds")
    chosen = next(iter(lengths)) if split is None else split
    require_known("split", chosen, lengths)
    found: list[Record] = []
    for number, stated_length in enumerate(lengths[chosen]):
        path = root / f"{name}-{chosen}.tfrecord-{number:05d}-of-{len(lengths[chosen]):05d}"
        records = list_records(path)
        if len(records) != stated_length:
            raise ValueError(f"{path} must hold the {stated_length} episodes that {INFO} states, holds {len(records)}")
        found += records
    return chosen, found


def _lengths(stated: object, where: Path) -> list[int]:
    """Return how many episodes each shard has; protobuf's JSON writes these numbers as texts."""
    texts = [str(each) for each in stated] if isinstance(stated, list) else []
    if not texts or not all(text.isascii() and text.isdigit() for text in texts):
        raise ValueError(f"shardLengths in {where} must be whole numbers, are {stated!r}; fetch it again")
    return list(map(int, texts))


def _flattened(tree: Mapping[str, Any], where: str) -> Iterator[tuple[str, _Feature]]:
    """Walk the features of a step by their names; ValueError for a data set that has no steps."""
    step = _at(tree, "featuresDict", "features", "steps", "sequence", "feature")
    if not isinstance(step, dict):
        raise ValueError(f"{where} must describe episodes with `steps`, so it is no RLDS data set; give another folder")
    yield from _leaves(step, "")


def _leaves(node: Mapping[str, Any], name: str) -> Iterator[tuple[str, _Feature]]:
    children = _at(node, "featuresDict", "features")
    if isinstance(children, dict):
        for key, child in children.items():
            if isinstance(child, dict):
                yield from _leaves(child, f"{name}/{key}" if name else key)
    elif "image" in node:
        yield name, _Feature("image")
    elif "text" in node or _at(node, "tensor", "dtype") == "string":
        yield name, _Feature("text")
    elif "tensor" in node and _at(node, "tensor", "encoding") in (None, "none"):
        dimensions = _at(node, "tensor", "shape", "dimensions") or []
        # A dimension that is not fixed is -1, or no number in a damaged file: no such feature can be read.
        if all(str(each).isdigit() for each in dimensions):
            yield name, _Feature("numbers", math.prod(map(int, dimensions)))


def _at(node: Any, *keys: str) -> Any:
    for key in keys:
        node = node.get(key) if isinstance(node, dict) else None
    return node


@lru_cache(maxsize=2)
def _example(record: Record) -> dict[str, Values]:
    """Read a whole record and check it; windows ask for actions and then for frames of the same one."""
    return examine(record)


def _feature(found: Mapping[str, Values], name: str, where: str) -> Values:
    if name not in found:
        raise ValueError(f"{where} must have the feature {name} that {FEATURES} states; leave this episode out")
    return found[name]


def _text(found: Mapping[str, Values], feature: str, row: int, name: str) -> str:
    """Return the text of a step; all of an episode's have the same."""
    texts = byte_strings(_feature(found, _STEPS + feature, name), f"{feature} of {name}")
    if row >= len(texts):
        raise ValueError(f"{feature} of {name} must be a text at every step, has {len(texts)}; leave this episode out")
    return bytes(texts[row]).decode(errors="replace")


def _read(record: Record, camera: str, first: int, orient: str, start: int, stop: int) -> UInt8[np.ndarray, "f h w 3"]:
    """Decode the frames of some steps."""
    where = f"{camera} of {record}"
    cells = byte_strings(_feature(_example(record), _STEPS + camera, str(record)), where)
    return upright(decode_images([bytes(cell) for cell in cells[first + start : first + stop]], where), orient)
