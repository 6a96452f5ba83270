"""RLDS sets that tensorflow-datasets 4.9.10 wrote (`write_rlds.py`), read without it: what is in them, and damage."""

import json
import pickle
import shutil
import struct
from pathlib import Path

import google_crc32c
import numpy as np
import pytest

from prophet_gym.cli.main import main
from prophet_gym.data import EpisodeSource
from prophet_gym.data._mixture import read_mixture_entry
from prophet_gym.data._windows import as_given
from prophet_gym.data.readers import RldsSource
from prophet_gym.data.readers._tfrecord import count, examine, list_records, numbers
from prophet_gym.embodiments import get_embodiment
from prophet_gym.errors import UnknownOptionError
from prophet_gym.train._pretrain import WAYS, poses_plan
from tests.data_.readers.told import LENGTHS, actions, images, level, states, tasks

SETS = Path(__file__).parent / "rlds"
SHARD = "bridge_dataset-train.tfrecord-00000-of-00002"


def number_of(instruction: str) -> int:
    """The writer shuffles its episodes; their tasks say which they are."""
    return next(number for number in range(len(LENGTHS)) if tasks(number) == instruction)


@pytest.fixture
def bridge(tmp_path):
    """A copy of BRIDGE that a test may damage."""
    return Path(shutil.copytree(SETS / "bridge_dataset" / "1.0.0", tmp_path / "bridge"))


def test_bridge_is_read_as_it_was_written():
    source = RldsSource(SETS / "bridge_dataset")
    assert isinstance(source, EpisodeSource)
    assert len(source) == 3, "two shards of one split"
    seen = set()
    for index in range(3):
        episode = source.episode(index)
        number = number_of(episode.instruction)
        seen.add(number)
        assert (len(episode), episode.fps, episode.robot) == (LENGTHS[number] - 2, 5.0, "bridge")
        np.testing.assert_array_equal(episode.actions, actions(number)[1:-1], "the first action is a placeholder")
        np.testing.assert_allclose(episode.tools[:, 0], states(number)[1:])
        np.testing.assert_allclose(level(episode.frames()), level(images(number))[1:], atol=2)
        np.testing.assert_allclose(level(episode.frames(1, 3)), level(images(number))[2:4], atol=2)
    assert seen == {0, 1, 2}
    assert number_of(RldsSource(SETS / "bridge_dataset", split="val").episode(0).instruction) in (3, 4)


def test_droid_is_read_as_it_was_written():
    source = RldsSource(SETS / "droid" / "1.0.1")
    for index in range(len(source)):
        episode = source.episode(index)
        number = number_of(episode.instruction)
        assert (len(episode), episode.fps, episode.robot) == (LENGTHS[number] - 1, 15.0, "droid")
        np.testing.assert_allclose(episode.actions, actions(number)[:-1])
        pose = states(number)
        np.testing.assert_allclose(episode.tools[:, 0], np.hstack([pose[:, :6], 1 - pose[:, 6:]]), rtol=1e-6)
        other = source.looking_through("observation/exterior_image_2_left").episode(index)
        np.testing.assert_allclose(level(other.frames()), 255 - level(images(number)), atol=2)
        wide = source.looking_through("observation/wrist_image_left").episode(index)
        np.testing.assert_allclose(level(wide.frames()), level(images(number)) // 2, atol=2)


def test_open_x_has_its_action_in_parts_and_its_images_in_png():
    source = RldsSource(SETS / "bridge")
    for index in range(len(source)):
        episode = source.episode(index)
        number = number_of(episode.instruction)
        np.testing.assert_array_equal(episode.actions, actions(number)[1:-1])
        np.testing.assert_array_equal(episode.frames(), images(number)[1:])


def test_what_is_not_known_of_a_set_is_said_in_words(bridge):
    info = json.loads((bridge / "dataset_info.json").read_text())
    (bridge / "dataset_info.json").write_text(json.dumps({**info, "name": "my_arm"}))
    for path in bridge.glob("bridge_dataset-*"):
        path.rename(bridge / path.name.replace("bridge_dataset", "my_arm"))
    with pytest.raises(ValueError, match=r"of my_arm mean is not known.*say its camera, action, instruction, fps"):
        RldsSource(bridge)
    words = "camera=observation/image_1,action=action,instruction=language_instruction,fps=12,robot=my_arm"
    words += ",state=observation/state,numbers=xyz+euler+gripper,without=1,success=reward"
    source = read_mixture_entry(f"rlds:{bridge},{words}", {"given": as_given}).source
    assert len(source) == 2
    episode = source.episode(1)
    number = number_of(episode.instruction)
    assert (len(episode), episode.fps, episode.robot) == (LENGTHS[number] - 1, 12.0, "my_arm")
    np.testing.assert_allclose(level(episode.frames(0, 1)), 255 - level(images(number, 1)), atol=2)
    np.testing.assert_array_equal(episode.done, np.arange(LENGTHS[number]) == LENGTHS[number] - 1)


def test_a_source_can_be_sent_to_a_worker_and_gives_the_full_models_actions():
    source = pickle.loads(pickle.dumps(RldsSource(SETS / "droid")))
    episode = source.episode(0)
    given, tools = poses_plan(episode.actions, episode.tools, action_dim=14)
    assert (given.shape, "poses" in WAYS) == ((len(episode), 14), True)
    robot = get_embodiment("droid")
    assert robot.action_spec.dim == episode.actions.shape[1]
    assert tools is episode.tools


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (SHARD, lambda data: data[:-1], r"is cut inside record 1, 1 bytes lack"),
        (SHARD, lambda data: data[:5], "is cut inside the header of record 0"),
        (SHARD, lambda data: bytes([data[0] ^ 1]) + data[1:], "length of record 0 of .* does not fit its checksum"),
        (SHARD, lambda data: b"", "must hold the 2 episodes that dataset_info.json states, holds 0"),
        (SHARD, lambda data: b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        ("features.json", lambda data: data[:100], r"features\.json must be whole JSON"),
        ("features.json", lambda data: b"{}", "must describe episodes with `steps`"),
        ("dataset_info.json", lambda data: b'{"name": "droid"}', "must state the data set's name and its splits"),
    ],
)
def test_a_damaged_set_is_refused_when_it_is_opened(name, change, message, bridge):
    path = bridge / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=message):
        RldsSource(bridge)


def test_a_flipped_bit_of_an_episode_is_found_and_no_other_is_lost(bridge):
    path = bridge / SHARD
    first = list_records(path)[0]
    data = bytearray(path.read_bytes())
    place = bytes(data).index(struct.pack("<f", actions(number_of(RldsSource(bridge).episode(0).instruction))[2, 0]))
    data[place] ^= 1
    path.write_bytes(data)
    source = RldsSource(bridge)
    assert place < first.start + first.length
    with pytest.raises(ValueError, match=f"the data of record 0 of .*{SHARD} do not fit their checksum"):
        source.episode(0)
    assert len(source.episode(1)) == source.steps(1)
    assert len(RldsSource(bridge, without=[0])) == 2


def test_missing_files_and_names_are_said(bridge, tmp_path):
    (bridge / SHARD).unlink()
    with pytest.raises(FileNotFoundError, match=f"no file at .*{SHARD}; fetch the data set again"):
        RldsSource(bridge)
    with pytest.raises(FileNotFoundError, match="is no RLDS data set"):
        RldsSource(tmp_path / "nowhere")
    with pytest.raises(UnknownOptionError, match=r"unknown split 'test'. Known: train, val"):
        RldsSource(SETS / "bridge_dataset", split="test")
    with pytest.raises(UnknownOptionError, match=r"unknown camera .a feature of image. 'image_0'"):
        RldsSource(SETS / "bridge_dataset", camera="image_0")
    with pytest.raises(UnknownOptionError, match=r"has no episode 9; it has 3 episodes: 0 .. 2"):
        RldsSource(SETS / "bridge_dataset", episodes=[9])
    shutil.copytree(SETS / "droid" / "1.0.1", tmp_path / "two" / "1.0.0")
    shutil.copytree(SETS / "droid" / "1.0.1", tmp_path / "two" / "1.0.1")
    with pytest.raises(ValueError, match=r"has the versions 1.0.0, 1.0.1; give the folder of one"):
        RldsSource(tmp_path / "two")


def test_numbers_are_read_however_a_writer_packs_them(tmp_path):
    """Protobuf lets a writer give each number a field of its own; negative numbers take ten bytes."""

    def varint(value: int) -> bytes:
        value &= 2**64 - 1
        out = b""
        while value > 127:
            out, value = out + bytes([value & 127 | 128]), value >> 7
        return out + bytes([value])

    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2]) + varint(len(content)) + content

    loose = b"".join(b"\x08" + varint(value) for value in (3, -2, 2**40))
    packed = field(1, b"".join(map(varint, (3, -2, 2**40))))
    floats = b"".join(b"\x0d" + struct.pack("<f", value) for value in (0.5, -1.5))
    lists = {b"loose": field(3, loose), b"packed": field(3, packed), b"floats": field(2, floats)}
    entries = b"".join(field(1, field(1, key) + field(2, value)) for key, value in lists.items())
    example = field(1, entries)

    def masked(content: bytes) -> bytes:
        checksum = google_crc32c.value(content)
        return struct.pack("<I", ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    length = struct.pack("<Q", len(example))
    (tmp_path / "one").write_bytes(length + masked(length) + example + masked(example))
    found = examine(*list_records(tmp_path / "one"))
    assert numbers(found["loose"], "").tolist() == numbers(found["packed"], "").tolist() == [3, -2, 2**40]
    assert numbers(found["floats"], "").tolist() == [0.5, -1.5]
    assert [count(found[key]) for key in ("loose", "packed", "floats")] == [3, 3, 2]


def test_inspect_says_what_a_set_has(capsys):
    main(["inspect", f"rlds:{SETS / 'droid'}"])
    page = capsys.readouterr().out
    assert page.startswith("rlds, robot droid\nepisodes  2, 13 actions; length 5 .. 8, median 6; 15 a second\n")
    assert "observation/wrist_image_left 48x64" in page
    assert page.rstrip().endswith("the full Prophet alone: prophet pretrain --data PATH")
    main(["inspect", str(SETS / "bridge_dataset" / "1.0.0"), "--json", "-", "--max-episodes", "1"])
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["episodes"], sum(found["tasks"].values())) == ("rlds", 3, 1)
    assert found["missing"] == ["camera matrix", "success"]
