"""Loss and conditioning: known answers, and a tiny model that learns to obey commands."""

import numpy as np
import pytest
import torch

from prophet_gym.data._latents import LatentEpisodes
from prophet_gym.prophet import small_transformer
from prophet_gym.prophet._action_frames import draw_discs, project
from prophet_gym.prophet._autoencoder import stack_frames
from prophet_gym.prophet._flow import flow_loss, flow_times, interpolate, sample_sigmas, velocity_loss
from prophet_gym.prophet._gripper import ChunkInputs, ChunkStart, GripperTracker, chunk_inputs, flow_source

CAMERA = torch.tensor([[1.0, 0, 0.5, 0], [0, 1.0, 0.5, 0], [0, 0, 1.0, 0]])


def test_projection_divides_by_depth():
    uvz = project(torch.tensor([[0.0, 0.0, 2.0], [0.4, -0.2, 2.0]]), CAMERA)
    torch.testing.assert_close(uvz, torch.tensor([[0.5, 0.5, 2.0], [0.7, 0.4, 2.0]]))


def test_disc_lies_where_the_gripper_projects():
    positions = torch.tensor([[[0.4, -0.2, 2.0]]])
    image = draw_discs(positions, torch.tensor([[0.0]]), CAMERA[None], (16, 16))[0, 0]
    row, column = divmod(image[0].argmax().item(), 16)
    assert (row, column) == (int(0.4 * 16), int(0.7 * 16))
    torch.testing.assert_close(image[1], -image[0])
    torch.testing.assert_close(image[2], 20 * image[0])


def test_flow_starts_at_the_last_given_frame():
    given = torch.randn(2, 16, 1, 4, 4)
    inputs = ChunkInputs(given, None, torch.zeros(2, 12, 11), torch.zeros(2, 12, 3, 4, 4), torch.zeros(2, 8, 4))
    source = flow_source(inputs, torch.ones(2, 16, 2, 4, 4), 0.5)
    for frame in range(4):
        torch.testing.assert_close(source[:, 4 * frame : 4 * frame + 4, 1], given[:, 12:, 0] + 0.5)


def test_interpolation_reaches_both_ends():
    clean, source = torch.randn(3, 2), torch.randn(3, 2)
    out = interpolate(clean, source, torch.tensor([0.0, 1.0, 0.25]))
    torch.testing.assert_close(out, torch.stack([clean[0], source[1], 0.75 * clean[2] + 0.25 * source[2]]))


def test_an_untrained_small_model_predicts_the_source_and_its_loss_is_the_change():
    model = small_transformer(width=24, layers=1, head=12)
    past, target = torch.randn(2, 20, 4, 8, 8), torch.randn(2, 8, 4, 8, 8)
    tracker = GripperTracker(latent_size=(8, 8), hidden=8)
    still = torch.zeros(2, 8, 7)
    start = ChunkStart(past, torch.zeros(2, 4, 4), still, still, past[:, 0], torch.zeros(2, 4))
    inputs = chunk_inputs(tracker, start, CAMERA)
    noise = torch.zeros(2, 16, 2, 8, 8)
    loss, predicted = flow_loss(model, inputs, target, torch.ones(2), noise, 0.1)
    torch.testing.assert_close(loss, (target - past[:, -1:]).square().mean())
    torch.testing.assert_close(predicted, stack_frames(past[:, -1:].expand(-1, 8, -1, -1, -1)))


def blob_world(episodes=12, steps=40, seed=0):
    """A blob that moves by 0.6 cells per unit of command x; its place is also the gripper's."""
    rng = np.random.default_rng(seed)
    grid = np.arange(8)
    latents, actions, gripper = [], [], []
    for _ in range(episodes):
        moves = np.repeat(rng.uniform(-1, 1, 1 + steps // 8), 8)[: steps + 1]
        place = 3.5 + np.concatenate([[0], np.cumsum(0.6 * moves[:-1])])
        place = np.abs((place - 0.5) % 12 - 6) + 0.5
        blob = np.exp(-0.5 * (grid - place[:, None]) ** 2)
        latents.append(np.tile(blob[:, None, None, :], (1, 4, 8, 1)))
        command = np.zeros((steps + 1, 7))
        command[:, 0] = np.append(np.diff(place), 0) / 0.6
        actions.append(command)
        x = (place + 0.5) / 8 - 0.5
        gripper.append(np.stack([x, 0 * x, 0 * x + 1, 0 * x], axis=1))
    return LatentEpisodes(
        np.concatenate(latents).astype(np.float16),
        np.concatenate(actions).astype(np.float32),
        np.concatenate(gripper).astype(np.float32),
        np.arange(episodes + 1) * (steps + 1),
    )


def test_a_tiny_model_learns_to_obey():
    """After short training the right commands predict better than copying, and better than another row's commands."""
    data = blob_world()
    torch.manual_seed(0)
    model = small_transformer(width=48, layers=2, head=12)
    tracker = GripperTracker(latent_size=(8, 8), hidden=16, gripper_std=(0.2, 1.0, 1.0, 1.0))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def loss_of(clips, actions):
        now = clips.gripper[:, 0]
        start = ChunkStart(
            clips.past, now[:, None].expand(-1, 4, -1), clips.past_actions, actions, clips.past[:, 0], now
        )
        inputs = chunk_inputs(tracker, start, CAMERA)
        noise = torch.zeros(len(actions), 16, 2, 8, 8)
        return flow_loss(model, inputs, clips.future, torch.ones(len(actions)), noise, 0.0)[0]

    for step in range(150):
        clips = data.draw(16, past=20, chunk=8, chunks=1, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss_of(clips, clips.actions).backward()
        optimizer.step()
    with torch.no_grad():
        clips = blob_world(seed=1).draw(64, past=20, chunk=8, chunks=1, generator=torch.Generator().manual_seed(0))
        copy = (clips.future - clips.past[:, -1:]).square().mean()
        right, wrong = loss_of(clips, clips.actions), loss_of(clips, clips.actions.roll(1, 0))
    assert right < 0.5 * copy
    assert right < 0.5 * wrong


def test_training_sigmas_are_log_normal_times_the_video_factor_with_a_share_of_high_ones():
    """reference.md, "Training objective"."""
    sigmas = sample_sigmas(40_000, 6, generator=torch.Generator().manual_seed(0)).double()
    # A log-normal reaches 200 with probability P(z > ln(200 / sqrt(6)) = 4.4): never here.
    high = sigmas >= 200
    assert high.double().mean() == pytest.approx(0.05, abs=0.004)
    usual = (sigmas[~high] / 6**0.5).log()
    assert usual.mean() == pytest.approx(0, abs=0.02)
    assert usual.std() == pytest.approx(1, abs=0.02)
    rare = sigmas[high].log()
    assert rare.mean() == pytest.approx((np.log(200) + np.log(1e5)) / 2, abs=0.12)
    assert rare.std() == pytest.approx((np.log(1e5) - np.log(200)) / 12**0.5, rel=0.05)
    assert sigmas.max() <= 1e5 * 1.001


@pytest.mark.parametrize("sigma", [0.05, 1.0, 300.0])
def test_the_loss_is_the_weighted_error_of_the_edm_form_on_generated_slots(sigma):
    """(1 + sigma)^2 / sigma^2 ||x0 - x0_hat||^2 with x = x0 + sigma eps, c_skip = 1 - tau, c_out = -tau."""
    from prophet_gym.prophet import tiny_full_prophet
    from prophet_gym.prophet._transformer import SIGMA_COND, Conditions

    transformer = tiny_full_prophet().transformer
    g = torch.Generator().manual_seed(0)
    video, eps, history, actions = (
        torch.randn(shape, generator=g) for shape in [(2, 16, 3, 4, 4), (2, 16, 2, 4, 4), (2, 16, 2, 4, 4), (2, 4, 14)]
    )
    conditions = Conditions(video[:, :, :1], history, actions, None)
    with torch.no_grad():
        loss, predicted = velocity_loss(
            transformer, conditions, video[:, :, 1:], eps, flow_times(torch.full((2,), sigma))
        )
        tau = sigma / (1 + sigma)
        noisy = video[:, :, 1:] + sigma * eps
        out = transformer(
            torch.cat([video[:, :, :1], (1 - tau) * noisy], dim=2),
            torch.tensor([[SIGMA_COND, tau, tau]] * 2),
            condition_mask=torch.tensor([1.0, 0.0, 0.0])[None, None, :, None, None].expand(2, 1, 3, 4, 4),
            actions=actions,
            history=history,
        )[:, :, 1:]
    clean = (1 - tau) * noisy - tau * out
    expected = ((1 + sigma) / sigma) ** 2 * (video[:, :, 1:] - clean).square().mean()
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=0)
    torch.testing.assert_close(predicted, clean, rtol=1e-3, atol=1e-3)
