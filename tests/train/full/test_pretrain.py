"""`prophet pretrain` and `prophet merge`, from data sets in words to a checkpoint that dreams."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from prophet_gym.cli import _merge as merge
from prophet_gym.embodiments._libero import to_model_actions
from prophet_gym.errors import CheckpointError, InvalidStartError, MissingWeightsError
from prophet_gym.prophet import FullProphet, Prophet, tiny_full_prophet, tiny_prophet
from prophet_gym.train._pretrain import Args, main, open_clips
from tests.data_.readers.writers import write_agibot, write_bridge, write_droid

pytest.importorskip("accelerate")
pytest.importorskip("peft")
pytest.importorskip("tensorboard")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    prophet = tiny_full_prophet()
    config = replace(prophet.config, history_frames=1)
    FullProphet(prophet.transformer, prophet.autoencoder, config).save_pretrained(folder, half=False)
    return folder


@pytest.fixture(autouse=True)
def _fresh_accelerator():
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


def arguments(base, data, out, **options) -> Args:
    return Args(str(base), (str(data),), out, cpu=True, steps=2, warmup=1, workers=0, learning_rate=1e-2, **options)


def dream(prophet: Prophet) -> torch.Tensor:
    frames = torch.full((1, 1, 32, 32, 3), 60, dtype=torch.uint8)
    generators = [torch.Generator().manual_seed(0)]
    return prophet.rollout(prophet.encode(frames), torch.ones(1, 4, 7), generators=generators).frames


def test_all_weights_become_a_checkpoint(base, toy_recording, tmp_path):
    args = arguments(base, toy_recording, tmp_path / "out", self_forcing=2, sampler_steps=1)
    main(args)
    trained = Prophet.from_pretrained(tmp_path / "out" / "checkpoint")
    assert trained.config == Prophet.from_pretrained(base).config
    assert dream(trained).shape == (1, 4, 32, 32, 3)
    name = "diffusion_pytorch_model.safetensors"
    before, after = (load_file(folder / "transformer" / name) for folder in (base, tmp_path / "out" / "checkpoint"))
    changed = {key.split(".")[0] for key, value in before.items() if not torch.equal(value, after[key])}
    assert {"patch_embed", "transformer_blocks", "action_embedder", "history_memory"} <= changed
    assert "action_frame_embedder" not in changed
    same = "autoencoder/" + name
    assert (base / same).read_bytes() == (tmp_path / "out" / "checkpoint" / same).read_bytes()


def test_what_the_paper_s_mixture_is_made_of_trains_together(base, tmp_path):
    """RLDS, AgiBot World, raw DROID and BRIDGE as one mixture, in the paper's way of reading actions."""
    write_agibot(tmp_path / "agibot", 327, 1)
    write_droid(tmp_path / "droid", 1)
    write_bridge(tmp_path / "bridge", 1)
    rlds = Path(__file__).parents[2] / "data_/readers/rlds"
    sets = [f"rlds:{rlds / 'bridge'}", f"rlds:{rlds / 'droid'}"]
    sets += [f"{kind}:{tmp_path / kind}" for kind in ("agibot", "droid", "bridge")]
    args = Args(str(base), tuple(f"{each},actions=poses,weight=1" for each in sets), tmp_path / "out")
    main(replace(args, cpu=True, steps=2, warmup=1, workers=0, draw_tools=True))
    assert Prophet.from_pretrained(tmp_path / "out" / "checkpoint").config.draw_tools
    clips = open_clips(Prophet.from_pretrained(base), args.data, 1)
    cameras = [clips[number, 0].cameras[0] is not None for number in range(len(sets))]
    assert cameras == [False, False, True, True, False]
    assert all(clips[number, 0].tools[0] is not None for number in range(len(sets)))


def test_a_model_trained_on_pictures_of_the_tools_says_so_and_draws_them(base, toy_recording, tmp_path):
    main(arguments(base, toy_recording, tmp_path / "out", draw_tools=True))
    checkpoint = tmp_path / "out" / "checkpoint"
    trained = Prophet.from_pretrained(checkpoint)
    assert trained.config == replace(Prophet.from_pretrained(base).config, draw_tools=True)
    name = "transformer/diffusion_pytorch_model.safetensors"
    before, after = load_file(base / name), load_file(checkpoint / name)
    assert not torch.equal(*(weights["action_frame_embedder.proj_in.weight"] for weights in (before, after)))
    with pytest.raises(InvalidStartError, match="draws the tools"):
        dream(trained)
    with pytest.raises(ValueError, match="adapters do not train the action-frame conditioner"):
        main(arguments(base, toy_recording, tmp_path / "lora", draw_tools=True, lora_rank=2))


def test_adapters_travel_alone_and_merge_into_their_base(base, toy_recording, tmp_path, capsys):
    main(arguments(base, toy_recording, tmp_path / "out", lora_rank=2))
    lora = tmp_path / "out" / "lora"
    assert f"prophet merge --base {base} --lora {lora}" in capsys.readouterr().out
    assert not (tmp_path / "out" / "checkpoint").exists()
    adapted = Prophet.from_pretrained(base, lora=lora)
    assert not any("lora" in name for name in adapted.state_dict())
    plain = Prophet.from_pretrained(base)
    moved = {
        name.split(".", 2)[2]
        for name, value in adapted.transformer.state_dict().items()
        if not torch.equal(value, plain.transformer.state_dict()[name])
    }
    layers = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "ff.net.0.proj", "ff.net.2")
    assert moved == {f"{layer}.weight" for layer in layers}
    merge.main(merge.Args(str(base), str(lora), tmp_path / "merged", half=False))
    merged = Prophet.from_pretrained(tmp_path / "merged")
    assert torch.equal(dream(merged), dream(adapted))
    with pytest.raises(CheckpointError, match="holds something already"):
        merge.main(merge.Args(str(base), str(lora), tmp_path / "merged"))
    with pytest.raises(CheckpointError, match="no adapter at"):
        merge.main(merge.Args(str(base), str(tmp_path / "out"), tmp_path / "other"))
    with pytest.raises(MissingWeightsError, match="found no folder or file"):
        merge.main(merge.Args(str(base), str(tmp_path / "nothing"), tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def test_commands_are_read_as_the_checkpoint_takes_them(toy_recording, toys):
    clips = open_clips(tiny_full_prophet(), (str(toy_recording),), 2)
    episode, _ = toys.episode(0)
    clip = clips[0, 3]
    np.testing.assert_allclose(clip.actions[0], to_model_actions(episode.actions[3:11]), atol=1e-6)
    assert clip.frames.shape == (1, 9, 32, 32, 3)
    with pytest.raises(ValueError, match=r"takes actions of 7 dimensions, the data have 5; add actions=given"):
        clips.entries[0].plan(np.zeros((3, 5), np.float32), None)


def test_what_cannot_be_trained_is_refused_in_one_line(base, toy_recording, tmp_path):
    tiny_prophet().save_pretrained(tmp_path / "small")
    with pytest.raises(ValueError, match="`prophet train` is for those"):
        main(arguments(tmp_path / "small", toy_recording, tmp_path / "out"))
    with pytest.raises(ValueError, match="reads actions of 14 dimensions, data set 0, a RecordingSource, gives 7"):
        main(arguments(base, f"{toy_recording},actions=given", tmp_path / "out"))
    with pytest.raises(ValueError, match="accumulate must be an integer of at least 1, got 0"):
        main(arguments(base, toy_recording, tmp_path / "out", accumulate=0))
    assert not (tmp_path / "out").exists()
