"""Where a URDF's joints take the tool, and where calibrated cameras see it; what does not fit is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.robot import arm
from prophet_gym.data._windows import fitted
from prophet_gym.embodiments._urdf import UrdfOptions, read_calibration, read_chain, tool_path
from prophet_gym.errors import UnknownOptionError

NAMES = tuple(f"{joint}.pos" for joint in arm.JOINTS)
CAMERAS = {f"observation.images.{name}": arm.SIZE for name in arm.CAMERAS}
TWISTED = """
<robot name="twisted">
  <link name="root"/>{links}
  <joint name="a" type="revolute"><parent link="root"/><child link="l0"/><origin xyz="0.1 -0.2 0.3" rpy="0.3 -0.5 1.1"/>
    <axis xyz="0 1 1"/><limit lower="-3" upper="3" effort="1" velocity="1"/></joint>
  <joint name="b" type="prismatic"><parent link="l0"/><child link="l1"/><origin xyz="0 0.2 0" rpy="-0.7 0.2 0.4"/>
    <axis xyz="1 0 0"/><limit lower="-1" upper="1" effort="1" velocity="1"/></joint>
  <joint name="mount" type="fixed"><parent link="l1"/><child link="l2"/><origin xyz="0.05 0 0.1" rpy="0 1.2 0"/></joint>
  <joint name="c" type="continuous"><parent link="l2"/><child link="l3"/><origin rpy="0.1 0.1 0.1"/>
    <axis xyz="0 0 1"/></joint>
  <joint name="tip" type="fixed"><parent link="l3"/><child link="tool"/><origin xyz="0.02 0.03 0.2"/></joint>
</robot>
"""
MASS = '<inertial><mass value="1"/><inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/></inertial>'


@pytest.fixture
def folder(tmp_path) -> Path:
    """Has `arm.urdf` and `cameras.json`."""
    arm.describe(tmp_path)
    return tmp_path


def told(folder: Path, **changes) -> UrdfOptions:
    return UrdfOptions(**{"urdf": folder / "arm.urdf", "tool_link": "tool", "joint_units": "degrees", **changes})


def degrees(count: int = 5) -> np.ndarray:
    return np.random.default_rng(0).uniform(-90, 90, (count, 6))


def test_the_tool_is_where_mujoco_says(tmp_path):
    mujoco = pytest.importorskip("mujoco")
    links = "".join(f'<link name="{name}">{MASS}</link>' for name in ("l0", "l1", "l2", "l3", "tool"))
    text = TWISTED.format(links=links)
    (tmp_path / "twisted.urdf").write_text(text)
    kept = '<mujoco><compiler fusestatic="false"/></mujoco>'
    model = mujoco.MjModel.from_xml_string(text.replace('<robot name="twisted">', f'<robot name="twisted">{kept}'))
    data = mujoco.MjData(model)
    asked = np.random.default_rng(1).uniform(-0.9, 0.9, (8, 4))
    names = ("c", "unused", "b.pos", "a")
    chain = read_chain(UrdfOptions(urdf=tmp_path / "twisted.urdf", tool_link="tool"), names, asked)
    found = tool_path(chain, torch.from_numpy(asked)).numpy()
    for row, place in zip(asked, found, strict=True):
        for name, value in zip(("c", "b", "a"), row[[0, 2, 3]], strict=True):
            data.qpos[model.joint(name).qposadr[0]] = value
        mujoco.mj_kinematics(model, data)
        np.testing.assert_allclose(place, data.body("tool").xpos, atol=1e-9)


def test_degrees_of_the_arm_lead_to_where_it_is_drawn(folder):
    asked = degrees()
    found = tool_path(read_chain(told(folder), NAMES, asked), torch.from_numpy(asked)).numpy()
    np.testing.assert_allclose(found, [arm.places(joints)[-1] for joints in asked], atol=1e-7)
    named = told(folder, joints=NAMES[:5])
    assert read_chain(named, NAMES, asked) == read_chain(told(folder), NAMES, asked)


@pytest.mark.parametrize("size", [(96, 128), (64, 64), (48, 128)])
def test_a_matrix_leads_to_the_pixel_that_shows_the_tool_also_where_the_image_is_cut(size, folder):
    matrices = read_calibration(folder / "cameras.json", CAMERAS, size)
    place = np.array([[0.15, 0.04, 0.05]])
    for matrix, camera in zip(matrices, arm.CAMERAS.values(), strict=True):
        u, v, depth = np.array(matrix) @ np.append(place[0], 1)
        shown = np.zeros((1, *arm.SIZE, 3), np.uint8)
        column, row = camera.pixels(place)[0]
        # A dot as large as four pixels keeps its middle where images are averaged down.
        grid = np.stack(np.meshgrid(np.arange(arm.SIZE[1]), np.arange(arm.SIZE[0])), axis=-1)
        shown[0] = (250 * np.exp(-(((grid - (column, row)) / 3) ** 2).sum(-1) / 2))[..., None]
        seen = fitted(shown, size)[0, ..., 0].astype(float)
        middle = [(seen * axis).sum() / seen.sum() for axis in np.meshgrid(np.arange(size[1]), np.arange(size[0]))]
        assert u / depth * size[1] - 0.5 == pytest.approx(middle[0], abs=0.3)
        assert v / depth * size[0] - 0.5 == pytest.approx(middle[1], abs=0.3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"urdf": Path("nowhere.urdf")}, "no URDF at nowhere.urdf"),
        ({"tool_link": None}, "--tool-link must say which link .* is the tool: base, shoulder_pan_link"),
        ({"tool_link": "tol"}, "unknown link of .*'tol'. Did you mean 'tool'"),
        ({"tool_link": "base"}, "is moved by 0 joints"),
        ({"joint_units": "radians"}, "actions must be positions that joint .* can take, -3.2 .. 3.2"),
        ({"joints": NAMES[:4]}, "is moved by 5 joints .*, and --joints names 4 dimensions"),
        ({"joints": (*NAMES[:4], "wrist.pos")}, "unknown dimension of the action 'wrist.pos'"),
    ],
)
def test_what_does_not_fit_the_urdf_is_refused_in_one_sentence(changes, said, folder):
    with pytest.raises((ValueError, FileNotFoundError, UnknownOptionError), match=said):
        read_chain(told(folder, **changes), NAMES, degrees())


def test_joints_of_other_names_are_listed_beside_those_of_the_action(folder):
    with pytest.raises(ValueError, match=r"no dimension of the action has the name shoulder_pan, .*there are 0, 1, 2"):
        read_chain(told(folder), tuple("012345"), degrees())


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("</robot>", "", "must be a URDF, which is XML"),
        ("<robot", "<!DOCTYPE a><robot", "without a document type"),
        ('type="revolute"', 'type="floating"', "must be revolute, continuous, prismatic or fixed"),
        ('<axis xyz="0 0 1"/>', '<axis xyz="0 0 0"/>', "must have a direction"),
        ('rpy="0 0 0"', 'rpy="0 0"', r"rpy of joint .* must be 3 finite numbers, is '0 0'"),
        ('<parent link="base"/>', '<parent link="tool"/>', "lead round in a circle"),
    ],
)
def test_a_damaged_urdf_is_refused(old, new, said, folder):
    path = folder / "arm.urdf"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=said):
        read_chain(told(folder), NAMES, degrees())


def test_a_calibration_that_does_not_fit_is_refused(folder):
    path = folder / "cameras.json"
    given = json.loads(path.read_text())
    for changes, said in [
        ({"front": given["up"]}, "must know one of the cameras up, side, knows front"),
        ({"up": {**given["up"], "size": [100, 100]}}, "must be of images of the proportions"),
        ({"up": {**given["up"], "intrinsics": [[1, 2], [3, 4]]}}, r"intrinsics of .*up .*of shape \(3, 3\)"),
        ({"up": {**given["up"], "extrinsics": (2 * np.eye(4)).tolist()}}, "must be a rotation and a translation"),
        ([], "must map names of cameras"),
    ]:
        path.write_text(json.dumps(changes))
        with pytest.raises(ValueError, match=said):
            read_calibration(path, CAMERAS, (96, 128))
    path.write_text(json.dumps({"side": given["side"]}))
    assert [*map(len, read_calibration(path, CAMERAS, (96, 128)))] == [0, 3]
    with pytest.raises(ValueError, match="--urdf says what tool_link is about"):
        UrdfOptions(tool_link="tool").known()
