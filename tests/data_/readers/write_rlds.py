"""Write the RLDS sets of this folder, with the original writer: run it where tensorflow-datasets is installed.

    python -m venv tfds && tfds/bin/pip install tensorflow-datasets==4.9.10 tensorflow-cpu==2.21.0
    tfds/bin/python tests/data_/readers/write_rlds.py

TensorFlow is too large for the tests, so what it wrote is kept here. The features are those of the published sets, with
smaller images: `bridge_dataset` (rail.eecs.berkeley.edu/datasets/bridge_release/data/tfds), `droid` (the schema in
github.com/droid-dataset/droid, docs/the-droid-dataset.md) and Open-X's `bridge` 0.1.0 (its `features.json`).
"""

import shutil
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from told import LENGTHS, actions, images, states, tasks

FLAGS = ("is_first", "is_last", "is_terminal")


def steps(episode: int, observe, act, more) -> list[dict]:
    count = LENGTHS[episode]
    frames, at, done = images(episode), states(episode), actions(episode)
    flags = [{"is_first": i == 0, "is_last": i == count - 1, "is_terminal": i == count - 1} for i in range(count)]
    return [
        {
            "observation": observe(frames[i], at[i], tasks(episode)),
            "action": act(done[i]),
            "reward": float(i == count - 1),
            "discount": 1.0,
            **flags[i],
            **more(done[i], tasks(episode)),
        }
        for i in range(count)
    ]


def main() -> None:
    import tensorflow as tf
    import tensorflow_datasets as tfds

    def image(encoding: str):
        return tfds.features.Image(shape=(48, 64, 3), dtype=np.uint8, encoding_format=encoding)

    def tensor(width: int, dtype=np.float32):
        return tfds.features.Tensor(shape=(width,), dtype=dtype)

    def layout(observation: dict, action, metadata: dict, more: dict):
        scalars = {name: tfds.features.Scalar(dtype=np.bool_) for name in FLAGS}
        numbers = {name: tfds.features.Scalar(dtype=np.float32) for name in ("reward", "discount")}
        step = {"observation": observation, "action": action, **scalars, **numbers, **more}
        return tfds.features.FeaturesDict({"steps": tfds.features.Dataset(step), "episode_metadata": metadata})

    text = tfds.features.Text()

    class BridgeDataset(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            seen = {"image_0": image("jpeg"), "image_1": image("jpeg"), "state": tensor(7)}
            told = {"file_path": text, "has_image_0": np.bool_, "has_language": np.bool_, "episode_id": np.int32}
            more = {"language_instruction": text, "language_embedding": tensor(8)}
            return tfds.core.DatasetInfo(builder=self, features=layout(seen, tensor(7), told, more))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples((0, 1, 2)), "val": self._generate_examples((3, 4))}

        def _generate_examples(self, episodes):
            for number in episodes:
                yield str(number), {
                    "episode_metadata": {
                        "file_path": f"/bridge/{number}", "has_image_0": True, "has_language": True, "episode_id": number,
                    },
                    "steps": steps(
                        number,
                        lambda frame, state, _: {"image_0": frame, "image_1": 255 - frame, "state": state},
                        lambda action: action,
                        lambda _, task: {"language_instruction": task, "language_embedding": np.zeros(8, np.float32)},
                    ),
                }  # fmt: skip

    class Droid(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.1")

        def _info(self):
            views = ("exterior_image_1_left", "exterior_image_2_left", "wrist_image_left")
            wide = np.float64
            seen = {name: image("jpeg") for name in views}
            seen |= {"cartesian_position": tensor(6, wide), "gripper_position": tensor(1, wide)}
            parts = {"cartesian_velocity": tensor(6, wide), "gripper_position": tensor(1, wide)}
            more = {"action_dict": parts, "language_instruction": text, "language_instruction_2": text}
            told = {"recording_folderpath": text, "file_path": text}
            return tfds.core.DatasetInfo(builder=self, features=layout(seen, tensor(7, wide), told, more))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for number in (0, 1):
                yield str(number), {
                    "episode_metadata": {"recording_folderpath": "r", "file_path": f"success/{number}/trajectory.h5"},
                    "steps": steps(
                        number,
                        lambda frame, state, _: {
                            "exterior_image_1_left": frame, "exterior_image_2_left": 255 - frame,
                            "wrist_image_left": frame // 2, "cartesian_position": state[:6].astype(np.float64),
                            "gripper_position": state[6:].astype(np.float64),
                        },
                        lambda action: action.astype(np.float64),
                        lambda action, task: {
                            "action_dict": {
                                "cartesian_velocity": action[:6].astype(np.float64),
                                "gripper_position": action[6:].astype(np.float64),
                            },
                            "language_instruction": task,
                            "language_instruction_2": "",
                        },
                    ),
                }  # fmt: skip

    class Bridge(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("0.1.0")

        def _info(self):
            seen = {"image": image("png"), "state": tensor(7), "natural_language_instruction": text}
            action = {"world_vector": tensor(3), "rotation_delta": tensor(3)}
            action |= {"open_gripper": np.bool_, "terminate_episode": tfds.features.Scalar(np.float32)}
            return tfds.core.DatasetInfo(builder=self, features=layout(seen, action, {"file_path": text}, {}))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for number in (0, 1):
                yield str(number), {
                    "episode_metadata": {"file_path": str(number)},
                    "steps": steps(
                        number,
                        lambda frame, state, task: {
                            "image": frame, "state": state, "natural_language_instruction": task
                        },
                        lambda action: {
                            "world_vector": action[:3], "rotation_delta": action[3:6],
                            "open_gripper": bool(action[6] > 0.5), "terminate_episode": 0.0,
                        },
                        lambda *_: {},
                    ),
                }  # fmt: skip

    root = Path(__file__).parent / "rlds"
    for builder, shards in ((BridgeDataset, 2), (Droid, 1), (Bridge, 1)):
        made = builder(data_dir=str(root), file_format="tfrecord")
        shutil.rmtree(made.data_path, ignore_errors=True)
        made.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=shards, max_shard_size=None))
    print("written with tensorflow-datasets", tfds.__version__, "and tensorflow", tf.__version__)


if __name__ == "__main__":
    main()
