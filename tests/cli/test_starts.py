"""`prophet starts`: where the sets go, and what a checkpoint needs of them."""

import gymnasium as gym
import pytest

import prophet_gym  # noqa: F401 registers the ids
from prophet_gym.cli._starts import Args, resolved
from prophet_gym.cli.main import main
from prophet_gym.embodiments._embodiment import start_pose
from prophet_gym.envs import read_initial_states
from prophet_gym.prophet import tiny_full_prophet
from prophet_gym.sims.libero import _install as install


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full")
    tiny_full_prophet().save_pretrained(folder)
    return folder


def test_size_look_and_folder_are_the_checkpoints(full, tmp_path):
    assert resolved(Args(world_model=str(full))) == (full / "starts", "official", 32)
    assert resolved(Args(world_model=str(full), out=tmp_path, look="light", size=64)) == (tmp_path, "light", 64)
    assert resolved(Args(out=tmp_path)) == (tmp_path, "light", 128)


@pytest.mark.parametrize("words", [[], ["--world-model", "libero_small"]])
def test_without_a_place_it_says_what_to_give(words, capsys):
    with pytest.raises(SystemExit):
        main(["starts", *words])
    assert "give --out FOLDER" in capsys.readouterr().err


@pytest.mark.libero
@pytest.mark.skipif(install.missing() is not None, reason=str(install.missing()))
def test_one_command_makes_the_starts_that_a_checkpoint_lacks(full, capsys):
    words = ["--suite", "libero_object", "--tasks", "0", "--per-task", "1", "--look", "light"]
    main(["starts", "--world-model", str(full), *words])
    assert "32x32 pixels, look light" in capsys.readouterr().out
    env = gym.make("Prophet-LIBERO-Object-v0", weights=str(full), reward=None)
    assert env.reset(seed=0)[1]["split"] == "train"
    start = read_initial_states(full / "starts" / "official")[0]
    pose = start_pose(start, 1)
    assert pose is not None
    assert 0.1 < pose.position[0, 2] < 0.4
    assert abs(abs(pose.euler_xyz[0, 0]) - 3.14) < 0.3
