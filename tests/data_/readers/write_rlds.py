"""Write the RLDS sets of this folder, with the original writer: run it where tensorflow-datasets is installed.

    python -m venv tfds && tfds/bin/pip install tensorflow-datasets==4.9.10 tensorflow-cpu==2.21.0
    tfds/bin/python -m tests.data_.readers.write_rlds

TensorFlow is too large for the tests, so what it wrote is kept here. The features are those of the published sets, with
smaller images: `bridge_dataset` (rail.eecs.berkeley.edu/datasets/bridge_release/data/tfds), `droid` (the schema in
github.com/droid-dataset/droid, docs/the-droid-dataset.md) and Open-X's `bridge` 0.1.0 (its `features.json`).
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from tests.data_.readers.told import LENGTHS, actions, images, states, tasks

WRITER = "4.9.10"
FLAGS = ("is_first", "is_last", "is_terminal")


def steps(episode: int, step) -> list[dict]:
    """`step(frame, state, action, task)` gives what a set says of a step besides its flags."""
    count, told = LENGTHS[episode], zip(images(episode), states(episode), actions(episode), strict=True)
    flags = [{"is_first": i == 0, "is_last": i == count - 1, "is_terminal": i == count - 1} for i in range(count)]
    ends = [{"reward": float(flag["is_last"]), "discount": 1.0, **flag} for flag in flags]
    return [{**step(*each, tasks(episode)), **end} for each, end in zip(told, ends, strict=True)]


def image(tfds: Any, encoding: str) -> Any:
    return tfds.features.Image(shape=(48, 64, 3), dtype=np.uint8, encoding_format=encoding)


def tensor(tfds: Any, width: int, dtype: Any = np.float32) -> Any:
    return tfds.features.Tensor(shape=(width,), dtype=dtype)


def layout(tfds: Any, observation: dict, action: Any, metadata: dict, more: dict) -> Any:
    scalars = {name: tfds.features.Scalar(dtype=np.bool_) for name in FLAGS}
    numbers = {name: tfds.features.Scalar(dtype=np.float32) for name in ("reward", "discount")}
    step = {"observation": observation, "action": action, **scalars, **numbers, **more}
    return tfds.features.FeaturesDict({"steps": tfds.features.Dataset(step), "episode_metadata": metadata})


def bridge_dataset(tfds: Any) -> Any:
    text = tfds.features.Text()

    class BridgeDataset(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            seen = {name: image(tfds, "jpeg") for name in ("image_0", "image_1")} | {"state": tensor(tfds, 7)}
            told = {"file_path": text, "has_image_0": np.bool_, "has_language": np.bool_, "episode_id": np.int32}
            more = {"language_instruction": text, "language_embedding": tensor(tfds, 8)}
            features = layout(tfds, seen, tensor(tfds, 7), told, more)
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples((0, 1, 2)), "val": self._generate_examples((3, 4))}

        def _generate_examples(self, episodes):
            for number in episodes:
                told = {"file_path": f"/bridge/{number}", "has_image_0": True, "has_language": True}
                yield str(number), {"episode_metadata": {**told, "episode_id": number}, "steps": steps(number, step)}

    def step(frame, state, action, task):
        seen = {"image_0": frame, "image_1": 255 - frame, "state": state}
        language = {"language_instruction": task, "language_embedding": np.zeros(8, np.float32)}
        return {"observation": seen, "action": action, **language}

    return BridgeDataset


def droid(tfds: Any) -> Any:
    text, wide = tfds.features.Text(), np.float64

    class Droid(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.1")

        def _info(self):
            views = ("exterior_image_1_left", "exterior_image_2_left", "wrist_image_left")
            seen = {name: image(tfds, "jpeg") for name in views}
            seen |= {"cartesian_position": tensor(tfds, 6, wide), "gripper_position": tensor(tfds, 1, wide)}
            parts = {"cartesian_velocity": tensor(tfds, 6, wide), "gripper_position": tensor(tfds, 1, wide)}
            more = {"action_dict": parts, "language_instruction": text, "language_instruction_2": text}
            features = layout(tfds, seen, tensor(tfds, 7, wide), {"file_path": text}, more)
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for number in (0, 1):
                told = {"file_path": f"success/{number}/trajectory.h5"}
                yield str(number), {"episode_metadata": told, "steps": steps(number, step)}

    def step(frame, state, action, task):
        seen = {"exterior_image_1_left": frame, "exterior_image_2_left": 255 - frame, "wrist_image_left": frame // 2}
        seen |= {"cartesian_position": state[:6].astype(wide), "gripper_position": state[6:].astype(wide)}
        parts = {"cartesian_velocity": action[:6].astype(wide), "gripper_position": action[6:].astype(wide)}
        language = {"language_instruction": task, "language_instruction_2": ""}
        return {"observation": seen, "action": action.astype(wide), "action_dict": parts, **language}

    return Droid


def open_x(tfds: Any) -> Any:
    text = tfds.features.Text()

    class Bridge(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("0.1.0")

        def _info(self):
            seen = {"image": image(tfds, "png"), "state": tensor(tfds, 7), "natural_language_instruction": text}
            parts = {"world_vector": tensor(tfds, 3), "rotation_delta": tensor(tfds, 3), "open_gripper": np.bool_}
            features = layout(tfds, seen, {**parts, "terminate_episode": np.float32}, {"file_path": text}, {})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for number in (0, 1):
                yield str(number), {"episode_metadata": {"file_path": str(number)}, "steps": steps(number, step)}

    def step(frame, state, action, task):
        parts = {"world_vector": action[:3], "rotation_delta": action[3:6], "open_gripper": bool(action[6] > 0.5)}
        seen = {"image": frame, "state": state, "natural_language_instruction": task}
        return {"observation": seen, "action": {**parts, "terminate_episode": 0.0}}

    return Bridge


def main() -> None:
    import tensorflow_datasets as tfds

    assert tfds.__version__ == WRITER, "the tests name the version that wrote the files"
    root = Path(__file__).parent / "rlds"
    for builder, shards in ((bridge_dataset, 2), (droid, 1), (open_x, 1)):
        made = builder(tfds)(data_dir=str(root), file_format="tfrecord")
        shutil.rmtree(made.data_path, ignore_errors=True)
        made.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=shards, max_shard_size=None))


if __name__ == "__main__":
    main()
