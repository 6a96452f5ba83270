"""The whole recipe on a toy recording: every stage runs, is resumed, and ends in a checkpoint that dreams."""

import os
import shutil
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from prophet_gym.data._latents import LatentEpisodes
from prophet_gym.data._recording import episode_path, write_episode
from prophet_gym.errors import RunInUseError
from prophet_gym.prophet import Prophet
from prophet_gym.prophet._autoencoder import FrameAutoencoder
from prophet_gym.rewards import SuccessHead
from prophet_gym.train._autoencoder import load_footage, tune_decoder
from prophet_gym.train._run_folder import run_lock, steps_done
from prophet_gym.train._small import Args, main


def recipe(data, folder, **changes):
    sizes = {
        "autoencoder_steps": 2,
        "decoder_steps": 2,
        "tracker_steps": 2,
        "steps": 2,
        "batch_size": 4,
        "layers": 1,
        "held_out": 4,
    }
    return Args(data=(data,), out=folder / "out", width=96, device="cpu", **{**sizes, **changes})


@pytest.fixture(scope="module")
def folder(toy_recording, tmp_path_factory):
    """All stages, done."""
    folder = tmp_path_factory.mktemp("recipe")
    main(recipe(toy_recording, folder))
    return folder


def test_all_stages_end_in_a_checkpoint_that_dreams(toys, folder):
    prophet = Prophet.from_pretrained(folder / "out" / "checkpoint")
    np.testing.assert_allclose(np.array(prophet.config.camera), toys.camera, atol=1e-6)
    _, frames = toys.episode(9)
    state = prophet.encode(torch.from_numpy(frames[None, :1]))
    chunk = prophet.rollout(state, torch.zeros(1, 8, 7), generators=[torch.Generator().manual_seed(0)])
    assert chunk.frames.shape == (1, 8, 128, 128, 3)
    assert all(torch.isfinite(value).all() for value in chunk.state.values())


def test_bf16_learns_what_float32_learns(toy_recording, folder, tmp_path):
    found = {}
    for precision in ("no", "bf16"):
        shutil.copytree(folder / "out", tmp_path / precision / "out", ignore=shutil.ignore_patterns("states"))
        main(recipe(toy_recording, tmp_path / precision, precision=precision, stage="decoder", decoder_steps=4))
        path = tmp_path / precision / "out" / "autoencoder" / "diffusion_pytorch_model.safetensors"
        found[precision] = load_file(path)
    both = [torch.cat([w.flatten() for w in each.values()]) for each in (found["no"], found["bf16"])]
    assert not torch.equal(*both)
    torch.testing.assert_close(*both, atol=2e-3, rtol=0)


def test_a_finished_stage_is_not_trained_again_and_a_longer_one_goes_on(toy_recording, folder):
    path = folder / "out" / "transformer" / "diffusion_pytorch_model.safetensors"
    before = path.read_bytes()
    main(recipe(toy_recording, folder, stage="transformer"))
    assert path.read_bytes() == before
    main(recipe(toy_recording, folder, stage="transformer", steps=3))
    assert path.read_bytes() != before
    assert steps_done(folder / "out", "transformer") == 3


def test_the_decoder_is_tuned_without_changing_a_latent(toys, toy_recording, folder, tmp_path):
    before = FrameAutoencoder.from_pretrained(folder / "out" / "autoencoder")
    before.save_pretrained(tmp_path / "autoencoder")
    paths = [episode_path(toy_recording, 0, index) for index in range(2)]
    tune_decoder(paths, tmp_path, steps=2, device=torch.device("cpu"), rows=4)
    after = FrameAutoencoder.from_pretrained(tmp_path / "autoencoder")
    frames = torch.from_numpy(toys.episode(0)[1][:2])
    assert torch.equal(before.encode(frames), after.encode(frames))
    assert not torch.equal(before.decode(before.encode(frames)), after.decode(after.encode(frames)))


def test_footage_of_a_task_about_a_fixture_looks_at_the_gripper(toys, tmp_path):
    episode, frames = toys.episode(0)
    write_episode(
        episode_path(tmp_path, 0, 0), replace(episode, simulation=replace(episode.sim, target="cabinet")), frames
    )
    centres = load_footage([episode_path(tmp_path, 0, 0)], stride=1).centres
    np.testing.assert_array_equal(centres[:, 1], centres[:, 0])
    expected = (episode.gripper_position[:, [1, 0]] * 0.5 + 0.5) * 128
    np.testing.assert_allclose(centres[:, 0], expected, atol=1e-3)


def test_several_recordings_are_one(toy_recording, tmp_path):
    twice = replace(recipe(toy_recording, tmp_path, stage="latents"), data=(toy_recording, toy_recording))
    FrameAutoencoder().save_pretrained(tmp_path / "out" / "autoencoder")
    main(replace(twice, data=(toy_recording,)))
    once = LatentEpisodes.load(tmp_path / "out" / "latents.npz")
    main(twice)
    both = LatentEpisodes.load(tmp_path / "out" / "latents.npz")
    assert len(both.starts) - 1 == 2 * (len(once.starts) - 1)
    np.testing.assert_array_equal(both.actions, np.concatenate([once.actions] * 2))


def further(folder, out, **changes):
    """A run that goes on from the recipe's checkpoint, with its latents and without recordings."""
    out.mkdir()
    shutil.copy(folder / "out" / "latents.npz", out)
    base = folder / "out" / "checkpoint"
    (base / "success_head").mkdir(exist_ok=True)
    (base / "success_head" / "config.json").write_text("{}")
    main(Args(out=out, base=str(base), device="cpu", **{"steps": 1, "batch_size": 2, "single_until": 1.0, **changes}))
    return Prophet.from_pretrained(base), Prophet.from_pretrained(out / "checkpoint")


def test_a_checkpoint_is_trained_on_from_latents_alone(folder, tmp_path):
    base, same = further(folder, tmp_path / "same", learning_rate=1e-30)
    assert same.config == base.config
    assert (tmp_path / "same" / "checkpoint" / "success_head" / "config.json").is_file()
    for name, value in base.state_dict().items():
        assert torch.equal(value, same.state_dict()[name]), name
    base, other = further(folder, tmp_path / "other", learning_rate=0.1)
    changed = {name for name, value in base.state_dict().items() if not torch.equal(value, other.state_dict()[name])}
    assert changed
    assert all(name.startswith("transformer.") for name in changed)


def test_a_base_keeps_its_autoencoder_and_its_absence_needs_recordings(folder, tmp_path):
    with pytest.raises(ValueError, match="its autoencoder is kept"):
        main(Args(out=tmp_path, base=str(folder / "out" / "checkpoint"), stage="autoencoder"))
    with pytest.raises(ValueError, match="give --data"):
        main(Args(out=tmp_path))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layers": 2}, r"\(transformer\): layers was 1, is 2"),
        ({"batch_size": 8}, r"\(transformer\): batch_size was 4, is 8"),
        ({"held_out": 3}, r"\(autoencoder\): held_out was 4, is 3"),
        ({"steps": 1}, r"transformer has [23] steps already, and 1 are asked for"),
    ],
)
def test_other_settings_in_a_used_folder_are_refused_and_change_nothing(toy_recording, folder, changes, said):
    before = {path: path.read_bytes() for path in (folder / "out").rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=said):
        main(recipe(toy_recording, folder, **{"stage": "transformer" if "steps" in changes else "all", **changes}))
    after = {path: path.read_bytes() for path in (folder / "out").rglob("*") if path.is_file()}
    assert after.keys() == before.keys()
    assert [path.name for path in before if before[path] != after[path]] == []


def test_other_recordings_in_a_used_folder_are_refused(toys, toy_recording, folder, tmp_path):
    other = toys.write(tmp_path / "other", 4, shade=90)
    with pytest.raises(ValueError, match=rf"data was \['{toy_recording}'\], is \['{other}'\]"):
        main(recipe(other, folder))
    grown = shutil.copytree(toy_recording, tmp_path / "grown")
    main(recipe(grown, tmp_path, stage="autoencoder"))
    episode, frames = toys.episode(8)
    write_episode(episode_path(grown, 0, 8), episode, frames)
    with pytest.raises(ValueError, match=r"episodes was .*'4 \(.*, is .*'5 \("):
        main(recipe(grown, tmp_path, stage="autoencoder"))


def test_a_run_is_refused_while_another_is_there(toy_recording, folder):
    with run_lock(folder / "out"), pytest.raises(RunInUseError, match=f"process {os.getpid()} on"):
        main(recipe(toy_recording, folder))


def scored(weights):
    """The rewards of an episode of the env that these weights make, and whether each was scored."""
    env = gym.make("Prophet-LIBERO-v0", weights=str(weights), max_episode_steps=2)
    _, info = env.reset(seed=0)
    assert info["instruction"] == "push the square"
    steps = [env.step(env.action_space.sample()) for _ in range(2)]
    env.close()
    return [(reward, bool(step_info["scored"])) for _, reward, _, _, step_info in steps]


def test_what_was_trained_makes_an_env_whose_episodes_are_scored(toy_recording, folder, tmp_path, capsys):
    trained = shutil.copytree(
        folder / "out" / "checkpoint", tmp_path / "trained", ignore=shutil.ignore_patterns("success_head")
    )
    with pytest.warns(UserWarning, match="no success head"):
        assert [scored for _, scored in scored(trained)] == [False, False]
    assert "no `success_head`" in (trained / "README.md").read_text()
    SuccessHead().save_pretrained(trained / "success_head")
    assert [scored for _, scored in scored(trained)] == [True, True]

    loaded = Prophet.from_pretrained(trained)
    for _ in range(2):  # a second save finds there what the first one brought along
        loaded.save_pretrained(tmp_path / "saved")
        assert "It has `starts`, `success_head`." in (tmp_path / "saved" / "README.md").read_text()
    assert scored(tmp_path / "saved") == scored(trained)

    capsys.readouterr()
    out = tmp_path / "further"
    main(recipe(toy_recording, tmp_path / "further", base=str(trained), single_until=1.0))
    assert [scored for _, scored in scored(out / "out" / "checkpoint")] == [True, True]
    printed = capsys.readouterr().out
    assert f'gym.make("Prophet-LIBERO-v0", weights="{out / "out" / "checkpoint"}")' in printed
    assert f"prophet evaluate --world-model {out / 'out' / 'checkpoint'} --data {toy_recording}" in printed
    assert "train-reward" not in printed
