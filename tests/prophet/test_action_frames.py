"""End-effector pictures: answers by hand, and the real simulator's camera."""

import numpy as np
import pytest
import torch

from prophet_gym.embodiments import _libero as libero
from prophet_gym.prophet._action_frames import AXIS_METRES, DISC_METRES, draw_tools
from prophet_gym.sims.libero import _install as install
from prophet_gym.sims.libero.simulator import LiberoSimulator

# Looks along z from the origin; a picture at 1 m is 1 m wide.
AHEAD = torch.tensor([[1.0, 0, 0.5, 0], [0, 1.0, 0.5, 0], [0, 0, 1.0, 0]])
SIZE = (101, 101)
RED, GREEN, BLUE, YELLOW, MAGENTA = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255)


def draw(position, openness=1.0, rotation=None, size=SIZE):
    """One tool; its axes are x right, y down, z away from the camera unless given."""
    turn = torch.eye(3) if rotation is None else rotation
    return draw_tools(torch.tensor([[position]]), turn[None, None], torch.tensor([[openness]]), AHEAD, size)[0]


def lit(pixel) -> tuple[int, ...]:
    """Its colour at full brightness: edges are antialiased."""
    return tuple((255 * (pixel > 127)).tolist())


def disc(image, colour) -> int:
    """Pixels in about the colour."""
    return int((image.int() - torch.tensor(colour)).abs().amax(-1).le(2).sum())


def test_the_disc_lies_where_the_tool_projects_and_the_axes_point_where_they_point():
    image = draw([0.2, -0.1, 1.0])
    row, column, tip = 40, 70, round(100 * AXIS_METRES)
    assert tuple(image[row - 1, column - 1].tolist()) == YELLOW
    assert lit(image[row, column + tip]) == RED
    assert lit(image[row + tip, column]) == GREEN
    assert image[row, column - 4 :].amax() > 0
    assert not image[:, : column - 4].any()
    assert not image[: row - 4].any()


def test_nearly_all_of_the_picture_is_black():
    assert (draw([0.2, -0.1, 1.0]) == 0).all(dim=-1).float().mean() > 0.98


def test_colour_goes_from_magenta_closed_to_yellow_open():
    assert disc(draw([0.0, 0.0, 0.5], 0.0), MAGENTA) > 10
    assert disc(draw([0.0, 0.0, 0.5], 1.0), YELLOW) > 10
    half = draw([0.0, 0.0, 0.5], 0.5)
    assert disc(half, (255, 128, 128)) > 10
    assert disc(half, YELLOW) == disc(half, MAGENTA) == 0


@pytest.mark.parametrize("depth", [0.4, 0.8])
def test_the_disc_is_as_large_as_a_ball_at_its_depth(depth):
    away = torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    image = draw([0.0, 0.0, depth], 1.0, away, (401, 401))
    rows = (image[..., 1] > 127).any(dim=1).nonzero()
    radius = 400 * DISC_METRES / depth
    assert 200 - rows.min().item() == pytest.approx(radius, abs=1)


def test_a_nearer_tool_covers_a_farther_one_whatever_their_order():
    positions = torch.tensor([[0.0, 0.0, 0.4], [0.0, 0.0, 0.8]])
    turns, openness = torch.eye(3).expand(2, 3, 3), torch.tensor([1.0, 0.0])
    one = draw_tools(positions, turns, openness, AHEAD, SIZE)
    other = draw_tools(positions.flip(0), turns, openness.flip(0), AHEAD, SIZE)
    torch.testing.assert_close(one, other)
    assert disc(one, YELLOW) > 10
    assert disc(one, MAGENTA) == 0


def test_what_is_behind_the_camera_or_outside_is_not_drawn():
    assert not draw([0.0, 0.0, -1.0]).any()
    assert not draw([3.0, 0.0, 1.0]).any()
    backwards = torch.diag(torch.tensor([-1.0, 1.0, -1.0]))
    assert disc(draw([0.0, 0.0, 0.1], 1.0, backwards), BLUE) == 0


def test_each_frame_and_row_is_drawn_alone():
    random = torch.Generator().manual_seed(0)
    positions = torch.rand(2, 3, 2, 3, generator=random) * 0.4 + torch.tensor([0.0, 0.0, 0.5])
    turns = torch.linalg.qr(torch.randn(2, 3, 2, 3, 3, generator=random)).Q
    openness = torch.rand(2, 3, 2, generator=random)
    cameras = torch.stack([AHEAD, 1.2 * AHEAD])[:, None]
    images = draw_tools(positions, turns, openness, cameras, (24, 32))
    assert images.shape == (2, 3, 24, 32, 3)
    for row in range(2):
        for frame in range(3):
            alone = draw_tools(
                positions[row, frame], turns[row, frame], openness[row, frame], cameras[row, 0], (24, 32)
            )
            assert (images[row, frame].int() - alone.int()).abs().max() <= 1


@pytest.mark.libero
@pytest.mark.skipif(install.missing() is not None, reason=str(install.missing()))
def test_in_libero_the_disc_covers_a_ball_that_the_simulators_camera_sees():
    sim = LiberoSimulator("libero_object", 3)
    try:
        sim.reset(seed=0)
        before = sim.render().astype(int)
        site, matrix = (
            sim._env.robots[0].eef_site_id,
            torch.tensor(libero.camera("libero_object", 3).matrix, dtype=torch.float32),
        )
        sim.model.site_rgba[site], sim.model.site_size[site] = [0, 1, 0, 1], DISC_METRES
        for point in ([0.25, 0.0, 0.4], [0.1, 0.2, 0.35], [0.25, -0.15, 0.2]):
            sim.data.site_xpos[site] = point
            ball = np.abs(sim.render().astype(int) - before).max(axis=-1) > 20
            no_axes, one = torch.zeros(1, 3, 3), torch.ones(1)
            disc = draw_tools(torch.tensor([point]), no_axes, one, matrix, ball.shape)[..., 0].numpy() > 127
            assert (ball & disc).sum() / (ball | disc).sum() > 0.8
    finally:
        sim.close()
