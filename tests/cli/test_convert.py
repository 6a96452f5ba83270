"""`prophet convert`: from a released file to a step of the environment."""

import gymnasium as gym
import numpy as np
import pytest
import torch

import prophet_gym  # noqa: F401 registers the ids
from prophet_gym.cli.main import main
from prophet_gym.envs import write_initial_states
from prophet_gym.prophet._presets import tiny_vae
from prophet_gym.specs import InitialState

TINY = {
    "num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 1, "text_embed_dim": 6, "adaln_lora_dim": 4,
    "actions_per_slot": 4, "history_order": "oldest_finest", "action_frames": "pooled",
}  # fmt: skip


@pytest.fixture
def released(release, tmp_path):
    torch.save(release(torch.bfloat16, **TINY), tmp_path / "prophet.pt")
    torch.manual_seed(0)
    tiny_vae().save_pretrained(tmp_path / "wan" / "vae")
    return tmp_path


def test_from_a_released_file_to_a_step_of_the_environment(released, capsys):
    folder = released / "prophet"
    source, vae = str(released / "prophet.pt"), str(released / "wan")
    main(["convert", source, str(folder), "--vae", vae, "--frame-size", "64", "64"])
    assert "chunks of 4 actions and 64x64 frames" in capsys.readouterr().out
    starts = [InitialState(np.full((1, 64, 64, 3), 90, np.uint8), "own", "libero_object")]
    write_initial_states(released / "starts", starts)
    settings = {"weights": str(folder), "starts": str(released / "starts"), "reward": None}
    env = gym.make("Prophet-LIBERO-v0", **settings)
    env.reset(seed=0)
    _, reward, _, _, info = env.step(np.zeros((4, 7), np.float32))
    assert info["frames"].shape == (4, 64, 64, 3)
    assert reward == 0.0


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("prophet.pt:x", "found no folder"),
        ("wan", "is a folder; name the file"),
        ("nowhere.pt", "found no folder"),
    ],
)
def test_a_source_that_cannot_be_read_is_one_line(released, source, said, capsys):
    with pytest.raises(SystemExit, match="1"):
        main(["convert", str(released / source), str(released / "out"), "--vae", "none"])
    error = capsys.readouterr().err
    assert error.startswith("prophet convert: ")
    assert said in error
    assert error.count("\n") == 1
    assert not (released / "out").exists()


def test_a_released_file_as_weights_names_the_command(released):
    with pytest.raises(FileNotFoundError, match=r"prophet convert .*prophet\.pt FOLDER"):
        gym.make("Prophet-LIBERO-v0", weights=str(released / "prophet.pt"))
