"""Write recorded episodes as LeRobot data sets, with lerobot's own writer (0.4.4).

    .venv-vla/bin/python -m experiments.other_arms.write --recorded outputs/arms/recorded --out outputs/arms/sets

Each arm has a set for training, of its first `--train` episodes, and one for testing where there are more.
"""

import argparse
from pathlib import Path

import numpy as np

CAMERAS = ("agentview", "frontview")
NAMES = ["x", "y", "z", "yaw", "gripper"]
TASK = "lift the cube"


def write(paths: list[Path], out: Path, arm: str) -> None:
    """Write some episodes as a set."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset  # pyright: ignore[reportMissingImports]

    vector = {"dtype": "float32", "shape": (len(NAMES),), "names": NAMES}
    image = {"dtype": "video", "shape": (64, 64, 3), "names": ["height", "width", "channels"]}
    features = {
        "action": vector,
        "observation.state": vector,
        "next.success": {"dtype": "bool", "shape": (1,), "names": None},
        **{f"observation.images.{name}": image for name in CAMERAS},
    }
    how = {"robot_type": arm.lower(), "vcodec": "h264"}
    data = LeRobotDataset.create(f"local/{out.name}", 20, features, root=out, **how)
    for path in paths:
        episode = np.load(path)
        kept = {name: episode[name] for name in (*CAMERAS, "action", "state", "success")}
        for row, action in enumerate(kept["action"]):
            seen = {f"observation.images.{name}": kept[name][row] for name in CAMERAS}
            told = {"observation.state": kept["state"][row], "next.success": kept["success"][row + 1 : row + 2]}
            data.add_frame({**seen, **told, "action": action, "task": TASK})
        data.save_episode()
    data.finalize()


def main() -> None:
    """Write the sets that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recorded", type=Path, default=Path("outputs/arms/recorded"))
    parser.add_argument("--out", type=Path, default=Path("outputs/arms/sets"))
    parser.add_argument("--train", type=int, default=100, help="episodes of the training set")
    given = parser.parse_args()
    for folder in sorted(path for path in given.recorded.iterdir() if path.is_dir()):
        paths = sorted(folder.glob("*.npz"))
        for name, part in (("train", paths[: given.train]), ("test", paths[given.train :])):
            out = given.out / f"{folder.name}_{name}"
            if part and not out.exists():
                write(part, out, folder.name)


if __name__ == "__main__":
    main()
