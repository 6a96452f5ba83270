"""Write episodes in the published layouts: raw DROID and AgiBot World with h5py, BRIDGE with pickle and Pillow."""

import json
import pickle
from pathlib import Path

import h5py
import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from tests.data_.conftest import encode
from tests.data_.readers.told import LENGTHS, actions, images, states, tasks

DAY = "2022-04-01_10-00-00"
SERIALS = {"wrist": "13062452", "ext1": "22008760", "ext2": "24400334"}
POSE = [0.3, 0.5, 0.4, -1.7, 0.1, -2.0]
LENS = np.array([[50.0, 0, 32.0], [0, 50.0, 24.0], [0, 0, 1]])
PARAMETERS = {"fx": 50.0, "fy": 51.0, "ppx": 32.0, "ppy": 24.0}
TURN = Rotation.from_euler("xyz", [-1.9, 0.1, -1.6]).as_matrix()
PLACE = np.array([0.1, 0.0, 1.4])


def write_bridge(root: Path, number: int, day: str = DAY, protocol: int = 4) -> Path:
    """A trajectory as the robot's recorder leaves it: images and states, and an action between two of them."""
    folder = root / f"rss/toykitchen2/set_table/00/{day}/raw/traj_group0/traj{number}"
    for camera, look in (("images0", images(number)), ("images1", 255 - images(number))):
        (folder / camera).mkdir(parents=True)
        for index, frame in enumerate(look):
            Image.fromarray(frame).save(folder / camera / f"im_{index}.jpg", quality=95)
    count = LENGTHS[number]
    observed = {"full_state": states(number).astype(np.float64), "time_stamp": np.arange(count) / 5.0}
    acted = [{"actions": action.astype(np.float64), "policy_type": "VR"} for action in actions(number)[:-1]]
    for name, value in (("obs_dict", observed), ("policy_out", acted)):
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(value, protocol))
    (folder / "lang.txt").write_text(f"{tasks(number)}\nconfidence: 1.0\n")
    return folder


def write_bridge_numpy(root: Path, numbers=(0, 1)) -> Path:
    """`out.npy` as `bridgedata_raw_to_numpy.py` saves it."""
    found = []
    for number in numbers:
        seen = [{"images0": frame, "state": state} for frame, state in zip(images(number), states(number), strict=True)]
        acted = list(actions(number)[:-1])
        found.append(
            {
                "observations": seen[:-1],
                "next_observations": seen[1:],
                "actions": acted,
                "terminals": [0] * len(acted),
                "language": [tasks(number)],
            }
        )
    path = root / "rss/toykitchen2/set_table/00/train/out.npy"
    path.parent.mkdir(parents=True)
    np.save(path, np.array(found, dtype=object))
    return path


def append(group: h5py.Group, values: dict) -> None:
    """Adds a row to every data set, as `write_dict_to_hdf5` of droid's trajectory_writer.py does."""
    for key, value in values.items():
        if isinstance(value, dict):
            append(group.require_group(key), value)
            continue
        value = np.asarray(value)
        if key not in group:
            group.create_dataset(key, (0, *value.shape), maxshape=(None, *value.shape), dtype=value.dtype)
        group[key].resize(len(group[key]) + 1, axis=0)
        group[key][-1] = value


def write_droid(root: Path, number: int, *, lens: bool = True, success: bool = True) -> Path:
    folder = root / ("success" if success else "failure") / f"2023-07-0{number + 1}" / "Fri_Jul__7_09:42:23_2023"
    (folder / "recordings/MP4").mkdir(parents=True)
    poses = {f"{serial}_left": POSE for serial in SERIALS.values()}
    with h5py.File(folder / "trajectory.h5", "w") as file:
        for state, action in zip(states(number).astype(float), actions(number).astype(float), strict=True):
            robot = {"cartesian_position": state[:6], "gripper_position": float(state[6]), "joint_positions": [0.0] * 7}
            seen = {"robot_state": robot, "camera_extrinsics": poses}
            seen["camera_type"] = {serial: int(view != "wrist") for view, serial in SERIALS.items()}
            if lens:
                seen["camera_intrinsics"] = {f"{serial}_left": LENS for serial in SERIALS.values()}
            done = {"cartesian_velocity": action[:6], "gripper_position": float(action[6])}
            append(file, {"observation": seen, "action": done})
        file.attrs["success"] = success
    told = {"uuid": f"LAB+1+{number}", "lab": "LAB", "current_task": tasks(number), "success": success}
    told["trajectory_length"] = LENGTHS[number]
    for view, serial in SERIALS.items():
        told |= {f"{view}_cam_serial": serial, f"{view}_cam_extrinsics": POSE}
        look = {"ext1": images(number), "ext2": 255 - images(number), "wrist": images(number) // 2}[view]
        # The ZED cameras record 60 frames a second at most; the file of an episode states that, whatever its rows do.
        encode(folder / "recordings/MP4" / f"{serial}.mp4", look, fps=60)
    (folder / f"metadata_LAB+1+{number}.json").write_text(json.dumps(told))
    return folder


def poses(number: int, ahead: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Positions (rows, 2, 3) and quaternions (rows, 2, 4) of both flanges."""
    steps = np.arange(LENGTHS[number])[:, None, None] + ahead
    places = np.array([[0.6, 0.3, 0.8], [0.6, -0.3, 0.8]]) + 0.01 * steps * np.array([[1.0, 0, 0.5], [0, 1.0, 0]])
    turns = Rotation.from_euler(
        "xyz", np.stack([0.02 * steps[:, 0, 0], 0.1 + 0 * steps[:, 0, 0], 0 * steps[:, 0, 0]], 1)
    )
    return places, np.stack([turns.as_quat(), turns.inv().as_quat()], axis=1)


def grippers(number: int) -> np.ndarray:
    return np.stack([np.arange(LENGTHS[number]) % 2, np.zeros(LENGTHS[number])], axis=1)


def write_agibot(root: Path, task: int, number: int, *, moves: float = 0.0, calibrated: bool = True) -> str:
    name, rows = f"{task}/{648640 + number}", LENGTHS[number]
    (root / "proprio_stats" / name).mkdir(parents=True)
    with h5py.File(root / "proprio_stats" / name / "proprio_stats.h5", "w") as file:
        file["timestamp"] = (np.arange(rows) * 1e9 / 30).astype(np.int64) + 1_700_000_000_000_000_000
        for kind, ahead in (("state", 0), ("action", 1)):
            places, turns = poses(number, ahead)
            file[f"{kind}/end/position"], file[f"{kind}/end/orientation"] = places, turns
            file[f"{kind}/joint/position"] = np.zeros((rows, 14))
            file[f"{kind}/joint/velocity"] = np.zeros(0, np.float32)
        file["state/effector/position"] = 35 + 85 * grippers(number)
        file["action/effector/position"] = grippers(number)
        file["action/end/index"] = np.arange(rows - 1)
    for camera, look in (("head", images(number)), ("hand_left", 255 - images(number))):
        encode(root / "observations" / name / "videos" / f"{camera}_color.mp4", look, fps=30)
    listed = root / "task_info" / f"task_{task}.json"
    listed.parent.mkdir(exist_ok=True)
    told = json.loads(listed.read_text()) if listed.exists() else []
    told.append({"episode_id": 648640 + number, "task_name": tasks(number), "label_info": {"action_config": []}})
    listed.write_text(json.dumps(told))
    if calibrated:
        below = root / "parameters" / name / "parameters" / "camera"
        below.mkdir(parents=True)
        (below / "head_intrinsic_params.json").write_text(json.dumps({"intrinsic": PARAMETERS}))
        turned = {"rotation_matrix": TURN.tolist()}
        moved = [{**turned, "translation_vector": (PLACE + moves * row).tolist()} for row in range(rows)]
        outer = [{"extrinsic": each} for each in moved]
        (below / "head_extrinsic_params_aligned.json").write_text(json.dumps(outer))
    return name
