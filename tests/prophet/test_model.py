"""Prophet as a world model: purity, rows apart, what reaches the dream, save and load."""

import json
import math
from dataclasses import replace

import pytest
import torch

from prophet_gym.errors import CheckpointError
from prophet_gym.prophet import Prophet, SmallProphet, tiny_prophet
from prophet_gym.prophet._autoencoder import keep_background, stack_frames, unstack_frames
from prophet_gym.prophet._frames import inconsistency, keep_still


@pytest.fixture(scope="module")
def prophet():
    return tiny_prophet()


def start(rows, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (rows, 2, 64, 64, 3), generator=g, dtype=torch.uint8)


def generators(rows, seed=0):
    return [torch.Generator().manual_seed(seed + i) for i in range(rows)]


def some_actions(rows, seed=1):
    return 2 * torch.rand(rows, 8, 7, generator=torch.Generator().manual_seed(seed)) - 1


def test_rows_are_apart(prophet):
    whole = prophet.rollout(prophet.encode(start(3)), some_actions(3), generators=generators(3))
    alone = prophet.rollout(prophet.encode(start(3)[1:2]), some_actions(3)[1:2], generators=generators(3)[1:2])
    assert (whole.frames[1].int() - alone.frames[0].int()).abs().max() <= 2
    for name, value in whole.state.items():
        torch.testing.assert_close(value[1:2].float(), alone.state[name].float(), atol=2, rtol=1e-3, msg=name)


def test_a_frame_alone_shows_the_gripper_that_a_dream_begins_with(prophet):
    frames = start(3)[:, 1]
    seen = prophet.see_gripper(frames)
    torch.testing.assert_close(seen, prophet.read_gripper(prophet.encode(frames[:, None])))
    assert not torch.allclose(seen[0], seen[1])
    with pytest.raises(ValueError, match=r"frames must be \(64, 64\) pixels, got \(32, 32\)"):
        prophet.see_gripper(frames[:, :32, :32])


def test_rollout_changes_none_of_its_arguments(prophet):
    state, actions = prophet.encode(start(2)), some_actions(2)
    before = {name: value.clone() for name, value in state.items()}
    first = prophet.rollout(state, actions, generators=generators(2))
    assert all(torch.equal(before[name], state[name]) for name in state)
    assert torch.equal(actions, some_actions(2))
    again = prophet.rollout(state, actions, generators=generators(2))
    assert torch.equal(first.frames, again.frames)


@pytest.mark.parametrize("what", ["actions", "seed", "start", "past actions"])
def test_the_dream_depends_on(prophet, what):
    state, actions = prophet.encode(start(1)), some_actions(1)
    base = prophet.rollout(state, actions, generators=generators(1))
    if what == "actions":
        actions = some_actions(1, seed=9)
    seeds = generators(1, seed=5 if what == "seed" else 0)
    if what == "start":
        state = prophet.encode(start(1, seed=3))
    if what == "past actions":
        state = {**state, "commands": some_actions(1, seed=7)}
    other = prophet.rollout(state, actions, generators=seeds)
    assert not torch.equal(base.state["latents"], other.state["latents"])


def test_the_next_chunk_starts_where_this_one_ended(prophet):
    state = prophet.encode(start(1))
    chunk = prophet.rollout(state, some_actions(1), generators=generators(1))
    kept = prophet.config.past_frames - prophet.chunk
    assert torch.equal(chunk.state["latents"][:, :kept], state["latents"][:, -kept:])
    assert torch.equal(chunk.state["commands"], some_actions(1))


def test_before_the_first_frame_it_is_repeated(prophet):
    latents = prophet.encode(start(1))["latents"]
    assert torch.equal(latents[:, 0], latents[:, -2])
    assert not torch.equal(latents[:, -2], latents[:, -1])


def test_save_and_load_give_the_same_dream(prophet, tmp_path):
    prophet.save_pretrained(tmp_path, half=False)
    loaded = Prophet.from_pretrained(tmp_path)
    assert loaded.config == prophet.config
    frames = [
        m.rollout(m.encode(start(1)), some_actions(1), generators=generators(1)).frames for m in (prophet, loaded)
    ]
    assert torch.equal(*frames)


def test_half_precision_files_are_half_as_large_and_close(prophet, tmp_path):
    prophet.save_pretrained(tmp_path / "full", half=False)
    prophet.save_pretrained(tmp_path / "half")
    size = lambda d: sum(f.stat().st_size for f in (tmp_path / d).rglob("*.safetensors"))  # noqa: E731
    assert size("half") < 0.7 * size("full")
    assert next(prophet.parameters()).dtype == torch.float32
    loaded = Prophet.from_pretrained(tmp_path / "half")
    dreams = [m.rollout(m.encode(start(1)), some_actions(1), generators=generators(1)).state for m in (prophet, loaded)]
    torch.testing.assert_close(dreams[0]["latents"], dreams[1]["latents"], atol=2e-2, rtol=2e-2)
    assert not torch.equal(dreams[0]["latents"], dreams[1]["latents"])


def truncate(folder):
    file = next((folder / "transformer").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:1000])


def misspell(folder):
    config = json.loads((folder / "prophet.json").read_text())
    (folder / "prophet.json").write_text(json.dumps({**config, "chunck": 8}))


def shrink(folder):
    config = folder / "autoencoder" / "config.json"
    config.write_text(config.read_text().replace('"coarse_channels": 8', '"coarse_channels": 4'))


@pytest.mark.parametrize(
    ("damage", "message"),
    [(truncate, "cannot load .*transformer"), (misspell, "chunck"), (shrink, "cannot load .*autoencoder")],
)
def test_damaged_checkpoints_are_refused(prophet, tmp_path, damage, message):
    prophet.save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        Prophet.from_pretrained(tmp_path)


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"prophet\.json not found"):
        Prophet.from_pretrained(tmp_path / "nowhere")


def test_wrong_shapes_are_refused(prophet):
    with pytest.raises(ValueError, match=r"frames must be \(64, 64\)"):
        prophet.encode(torch.zeros(1, 1, 32, 64, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="one generator for each batch element"):
        prophet.rollout(prophet.encode(start(2)), some_actions(2), generators=generators(1))


def test_stacking_follows_time():
    latents = torch.arange(8.0).reshape(1, 8, 1, 1, 1).expand(1, 8, 2, 1, 1)
    stacked = stack_frames(latents)
    assert stacked[0, :, 1, 0, 0].tolist() == [4, 4, 5, 5, 6, 6, 7, 7]
    assert torch.equal(unstack_frames(stacked), latents)


def test_background_is_kept_where_nothing_changed():
    reference = torch.full((1, 8, 8, 3), 100, dtype=torch.uint8)
    decoded_reference = torch.full((1, 8, 8, 3), 90, dtype=torch.uint8)
    decoded = decoded_reference[:, None].clone()
    decoded[:, :, :, 4:] = 200
    frames = keep_background(decoded, reference, decoded_reference, threshold=10.0, softness=1.0, window=1)
    assert (frames[0, 0, :, :4] == 100).all()
    assert (frames[0, 0, :, 4:] == 200).all()


@pytest.mark.parametrize("softness", [0.5, 2.0, 8.0])
def test_the_real_background_fades_over_the_softness(softness):
    """By hand: a change of c grey levels shows the share 1 / (1 + exp((threshold - c) / softness)) of the decoded."""
    reference = torch.full((1, 4, 4, 3), 100, dtype=torch.uint8)
    before = torch.full((1, 4, 4, 3), 20, dtype=torch.uint8)
    for change in (4, 10, 13):
        frames = keep_background(
            (before + change)[:, None], reference, before, threshold=10.0, softness=softness, window=1
        )
        share = 1 / (1 + math.exp((10 - change) / softness))
        expected = 100 + share * (20 + change - 100)
        assert (frames.float() - expected).abs().max() <= 0.5


def test_latents_that_hardly_change_stay_and_others_pass():
    last = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    sampled = last[:, None].repeat(1, 2, 1, 1, 1) + 0.05
    sampled[0, 1, :, 5, 5] += 2.0
    kept = keep_still(sampled, last, threshold=0.3, softness=0.02)
    torch.testing.assert_close(kept[0, 0], last[0], atol=1e-5, rtol=0)
    moved = torch.zeros(8, 8, dtype=torch.bool)
    moved[4:7, 4:7] = True
    torch.testing.assert_close(kept[0, 1][:, moved], sampled[0, 1][:, moved], atol=1e-5, rtol=0)
    torch.testing.assert_close(kept[0, 1][:, ~moved], last[0][:, ~moved], atol=1e-5, rtol=0)


def test_a_dream_of_small_changes_stands_still_only_with_the_gate(prophet):
    gated = SmallProphet(
        prophet.transformer, prophet.autoencoder, prophet.tracker, replace(prophet.config, stillness=(1e3, 1.0))
    )
    for model, still in ((prophet, False), (gated, True)):
        state = model.encode(start(1))
        dreamt = model.rollout(state, some_actions(1), generators=generators(1)).state["latents"][:, -8:]
        assert torch.equal(dreamt, state["latents"][:, -1:].expand_as(dreamt)) is still


def test_doubt_is_the_distance_between_latents_and_what_they_decode_to(prophet):
    state = prophet.encode(start(2))
    chunk = prophet.rollout(state, some_actions(2), generators=generators(2))
    latents = chunk.state["latents"][:, -1]
    again = prophet.autoencoder.encode(prophet.autoencoder.decode(latents))
    expected = ((again - latents) ** 2).mean(dim=(1, 2, 3)) ** 0.5
    torch.testing.assert_close(chunk.uncertainty, expected)
    assert torch.equal(inconsistency(latents, latents), torch.zeros(2))
    torch.testing.assert_close(inconsistency(latents, latents + 3.0), torch.full((2,), 3.0))
