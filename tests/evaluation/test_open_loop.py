"""Open-loop evaluation against a world model whose every frame is known, and against one that only copies."""

import numpy as np
import pytest
import torch

from prophet_gym.data import Episode
from prophet_gym.evaluation import Window, dream, evaluate_open_loop, windows_of
from prophet_gym.testing import CountingWorldModel
from prophet_gym.world_model import Chunk

SIZE = (16, 16)


def episode(steps: int, green_per_step: int, kind: type[Episode] = Episode) -> Episode:
    """An episode of the world that `CountingWorldModel(noise=False)` predicts exactly, from a flat frame of 100."""
    actions = np.zeros((steps, 7), np.float32)
    actions[:, 0] = green_per_step / 100
    tools = np.zeros((steps + 1, 1, 7), np.float32)
    tools[:, 0, 0] = 0.01 * np.arange(steps + 1)

    def read(start: int, stop: int) -> np.ndarray:
        count = np.arange(steps + 1)
        green = np.concatenate([[0], np.round(100 * actions[:, 0]).cumsum()])
        levels = (100 + np.stack([count, green, 0 * count], axis=-1)) % 256
        return np.broadcast_to(levels[start:stop, None, None], (stop - start, *SIZE, 3)).astype(np.uint8)

    return kind("counted", actions, "watch the green", 20.0, "libero", read, tools)


def counting() -> CountingWorldModel:
    return CountingWorldModel(frame_size=SIZE, noise=False)


class Copying(CountingWorldModel):
    """Dreams that nothing moves."""

    def rollout(self, state, actions, *, generators):
        frames = state["start"][:, None].expand(-1, actions.shape[1], -1, -1, -1)
        return Chunk(dict(state), frames.clone())


class WithExtras(CountingWorldModel):
    """Reads a gripper that moves 1 cm a step but sees it 5 mm too high; its autoencoder darkens by 10."""

    def read_gripper(self, state):
        steps = state["raised"][:, 0].float()
        return torch.stack([0.01 * steps, 0 * steps, 0 * steps + 0.005], dim=-1)

    def reconstruct(self, frames):
        return frames - 10


class Resuming(CountingWorldModel):
    """Notes what each dream began from."""

    def __init__(self):
        super().__init__(frame_size=SIZE, noise=False)
        self.begun: list[tuple[int, np.ndarray | None]] = []

    def encode(self, frames):
        self.begun.append((frames.shape[1], None))
        return super().encode(frames)

    def resume(self, frames, past_actions):
        self.begun.append((frames.shape[1], past_actions.numpy()))
        return super().encode(frames)


def psnr(differences: np.ndarray) -> float:
    """Mean over frames of the PSNR, from the differences (frame, channel) in gray levels."""
    return float((-10 * np.log10(np.maximum(((differences / 255) ** 2).mean(axis=-1), 1e-10))).mean())


def test_every_condition_scores_what_is_known_by_hand():
    episodes = [episode(8, 1), episode(8, 3)]
    scores = evaluate_open_loop(counting(), episodes, [8])[8]
    step = np.arange(1, 9)
    assert scores.keys() == {"copy", "dream", "other_actions"}
    np.testing.assert_allclose(scores["dream"]["psnr"], 100.0)
    np.testing.assert_allclose(scores["dream"]["ssim"], 1.0, atol=1e-6)
    copied = [psnr(np.stack([step, green * step, 0 * step], axis=-1)) for green in (1, 3)]
    np.testing.assert_allclose(scores["copy"]["psnr"], copied, rtol=1e-5)
    wrong = psnr(np.stack([0 * step, 2 * step, 0 * step], axis=-1))
    np.testing.assert_allclose(scores["other_actions"]["psnr"], [wrong, wrong], rtol=1e-5)


def test_a_model_that_copies_scores_as_copying_does():
    episodes = [episode(16, green) for green in (1, 2, 5)]
    scores = evaluate_open_loop(Copying(frame_size=SIZE), episodes, [8, 16], spacing=8)
    for horizon in (8, 16):
        for metric, values in scores[horizon]["copy"].items():
            np.testing.assert_array_equal(scores[horizon]["dream"][metric], values)
            np.testing.assert_array_equal(scores[horizon]["other_actions"][metric], values)


def test_long_and_short_windows_are_each_scored_over_their_own_frames():
    """Windows of 8 begin at 0 and 8, the window of 16 at 0; the second is scored from the frame it was given."""
    scores = evaluate_open_loop(Copying(frame_size=SIZE), [episode(16, 1)], [8, 16], spacing=8)
    step = np.arange(1, 17)
    by_length = {n: psnr(np.stack([step[:n], step[:n], 0 * step[:n]], axis=-1)) for n in (8, 16)}
    assert scores[8]["copy"]["psnr"][0] == pytest.approx(by_length[8], rel=1e-5)
    assert scores[16]["copy"]["psnr"][0] == pytest.approx(by_length[16], rel=1e-5)


def test_episodes_that_are_too_short_are_left_out_of_a_horizon():
    scores = evaluate_open_loop(counting(), [episode(8, 1), episode(17, 1), episode(16, 2)], [8, 16])
    assert not np.isnan(scores[8]["dream"]["psnr"]).any()
    np.testing.assert_array_equal(np.isnan(scores[16]["dream"]["psnr"]), [True, False, False])


def test_an_only_episode_has_no_other_actions():
    assert evaluate_open_loop(counting(), [episode(8, 1)], [8])[8].keys() == {"copy", "dream"}


def test_gripper_error_and_ceiling_where_the_model_has_them():
    scores = evaluate_open_loop(WithExtras(frame_size=SIZE, noise=False), [episode(16, 1), episode(16, 2)], [8, 16])
    for horizon in (8, 16):
        np.testing.assert_allclose(scores[horizon]["dream"]["gripper_mm"], 5.0, rtol=1e-5)
        np.testing.assert_allclose(scores[horizon]["autoencoder"]["psnr"], psnr(np.full((1, 3), 10.0)), rtol=1e-5)


def test_results_do_not_depend_on_the_rows_dreamt_at_once():
    model, episodes = CountingWorldModel(frame_size=SIZE), [episode(24, green) for green in (1, 2, 3)]
    one, many = (evaluate_open_loop(model, episodes, [8, 24], rows=rows, spacing=8, seed=5) for rows in (1, 4))
    for horizon, conditions in one.items():
        for condition, metrics in conditions.items():
            for metric, values in metrics.items():
                np.testing.assert_array_equal(values, many[horizon][condition][metric])


def test_a_window_in_the_middle_is_given_the_frames_and_commands_before_it():
    model = Resuming()
    recorded = episode(48, 1)
    recorded.actions[:, 1] = np.arange(48)
    evaluate_open_loop(model, [recorded], [8], spacing=24)
    assert [(count, None if past is None else past[0, :, 1].tolist()) for count, past in model.begun] == [
        (1, None),
        (20, list(range(16, 24))),
    ]


def test_windows_do_not_overlap_and_share_their_beginnings():
    windows = windows_of([episode(20, 1), episode(7, 1)], horizons=[16, 8], spacing=4)
    assert windows == [Window(0, 0, (8, 16)), Window(0, 8, (8,))]
    assert windows_of([episode(20, 1)], horizons=[8], spacing=100) == [Window(0, 0, (8,))]


def test_windows_in_which_the_arm_rests_are_left_out():
    """The gripper moves during the first ten of 24 steps: by 8, 2 and 0 cm in the three windows of 8."""
    rests = episode(24, 1)
    rests.gripper_position[10:] = rests.gripper_position[10]
    assert windows_of([rests], [8, 24], spacing=8) == [Window(0, 0, (8, 24)), Window(0, 8, (8,))]
    assert len(windows_of([rests], [8], spacing=8, still=0.0)) == 3
    assert len(windows_of([rests], [8], spacing=8, still=0.03)) == 1


def test_a_dream_is_its_chunks_one_after_the_other():
    model = counting()
    start = torch.full((1, 1, *SIZE, 3), 50, dtype=torch.uint8)
    actions = np.zeros((1, 16, 7))
    dreamt = dream(model, model.encode(start), actions, [0])
    np.testing.assert_array_equal(dreamt.frames[0, :, 0, 0, 0], 50 + np.arange(1, 17))
    assert dreamt.gripper is None


@pytest.mark.parametrize(("horizons", "message"), [([12], "multiples of the chunk"), ([400], "long enough")])
def test_horizons_that_cannot_be_evaluated_are_refused(horizons, message):
    with pytest.raises(ValueError, match=message):
        evaluate_open_loop(counting(), [episode(64, 1)], horizons)


def test_actions_that_are_no_whole_chunk_are_refused():
    model = counting()
    with pytest.raises(ValueError, match="multiple of the chunk"):
        dream(model, model.encode(torch.zeros(1, 1, *SIZE, 3, dtype=torch.uint8)), np.zeros((1, 9, 7)), [0])


class Tasked(Episode):
    """The target's place is the green level in centimetres along x."""

    @property
    def target_positions(self) -> np.ndarray:
        green = self.frames()[:, 0, 0, 1].astype(float)
        return np.stack([0.01 * green, 0 * green, 0 * green], axis=1)


def read_green(frames, instruction):
    assert instruction == "watch the green"
    green = 0.01 * frames[:, 0, 0, 1].float() + 0.001
    return torch.stack([green, 0 * green, 0 * green], dim=1)


def test_object_error_is_read_off_the_last_frame_of_windows_in_which_it_moves():
    still, moving = episode(16, 0, Tasked), episode(16, 3, Tasked)
    scores = evaluate_open_loop(counting(), [still, moving], (8, 16), read_object=read_green)
    for horizon, path in ((8, 240), (16, 480)):
        found = {condition: metrics["object_mm"] for condition, metrics in scores[horizon].items()}
        assert all(np.isnan(values[0]) for values in found.values())
        assert found["real"][1] == pytest.approx(1, abs=1e-3)
        assert found["dream"][1] == pytest.approx(1, abs=1e-3)
        assert found["copy"][1] == pytest.approx(path - 1, abs=1e-3)
        assert found["other_actions"][1] == pytest.approx(path - 1, abs=1e-3)


def test_windows_whose_real_frame_cannot_be_read_have_no_object_error():
    """The reader is lost where green is above 130: after 16 frames of three levels each from 100, not after 8."""

    def read_dark(frames, instruction):
        read = read_green(frames, instruction)
        return torch.where(frames[:, 0, 0, 1:2] > 130, read + 0.1, read)

    scores = evaluate_open_loop(counting(), [episode(16, 3, Tasked)], (8, 16), read_object=read_dark)
    assert scores[8]["dream"]["object_mm"][0] == pytest.approx(1, abs=1e-3)
    assert "object_mm" not in scores[16]["dream"]


def test_episodes_about_a_fixture_have_no_object_error():
    scores = evaluate_open_loop(counting(), [episode(16, 3)], (8,), read_object=read_green)
    assert "object_mm" not in scores[8]["dream"]
    assert "real" not in scores[8]
