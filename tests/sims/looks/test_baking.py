from itertools import pairwise

import numpy as np
import pytest

from prophet_gym.sims.libero import _baking as baking
from prophet_gym.sims.libero._baking import Surface, bake, cell_size, most_faces, patch_corners, spatial_order


def grid(cells: int, charts: int) -> tuple[np.ndarray, np.ndarray]:
    """The unit square as 2 n^2 triangles, corners (f, 3, 3) and uv; charts are strips that lie in turned order."""
    lines = np.linspace(0, 1, cells + 1)
    flat = np.array(
        [
            triangle
            for x0, x1 in pairwise(lines)
            for y0, y1 in pairwise(lines)
            for triangle in ([(x0, y0), (x1, y0), (x1, y1)], [(x0, y0), (x1, y1), (x0, y1)])
        ]
    )
    strip = np.floor(flat[..., 0].mean(axis=1) * charts)
    uv = flat + np.stack([(charts - 1 - 2 * strip) / charts, np.zeros(len(flat))], axis=-1)[:, None]
    return np.concatenate([flat, np.zeros_like(flat[..., :1])], axis=-1), uv


def ramp(side: int, charts: int) -> np.ndarray:
    """A texture for `grid` in which red is 200 x and green is 200 y on the surface."""
    middles = (np.arange(side) + 0.5) / side
    strip = np.floor(middles * charts)
    x = middles - (charts - 1 - 2 * (charts - 1 - strip)) / charts
    image = np.zeros((side, side, 3))
    image[..., 0], image[..., 1] = 200 * x, 200 * middles[:, None]
    return image.round().astype(np.uint8)


def seen(baked: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """The texels at texture coordinates (n, 2)."""
    side = len(baked)
    columns, rows = np.clip((uv * side).astype(int), 0, side - 1).T
    return baked[rows, columns].astype(float)


@pytest.mark.parametrize("charts", [1, 4])
def test_few_faces_show_the_colours_of_the_full_surface_whatever_its_charts(charts):
    corners, uv = grid(16, charts)
    few, _ = grid(2, 1)
    new, baked = bake(few, Surface(corners, uv), ramp(256, charts), 128)
    weights = np.random.default_rng(0).dirichlet(np.ones(3), 200)
    places = np.einsum("tc,fcd->ftd", weights, few).reshape(-1, 3)
    colours = seen(baked, np.einsum("tc,fcd->ftd", weights, new).reshape(-1, 2))
    away = np.abs(colours[:, :2] - 200 * places[:, :2])
    assert away.mean() < 4
    # Next to a seam, and to the border of a texture that repeats, what is averaged comes from both of its sides.
    assert (away > 12).mean() < 0.02 * charts


def test_of_two_sheets_the_one_that_looks_the_same_way_is_seen():
    front, uv = grid(8, 1)
    back = front[:, ::-1] - [0, 0, 1e-4]
    corners = np.concatenate([back, front])
    halves = np.concatenate([uv[:, ::-1] * [0.5, 1], uv * [0.5, 1] + [0.5, 0]])
    texture = np.zeros((64, 64, 3), np.uint8)
    texture[:, :32, 0], texture[:, 32:, 1] = 200, 200
    few, _ = grid(1, 1)
    for face, channel in ((few - [0, 0, 2e-4], 1), (few[:, ::-1], 0)):
        new, baked = bake(face, Surface(corners, halves), texture, 64)
        middle = seen(baked, new.mean(axis=1))
        assert (middle[:, channel] == 200).all()
        assert not middle[:, 1 - channel].any()


def test_patches_fill_the_texture_without_overlap_and_neighbours_lie_together():
    for faces, side in ((1, 16), (7, 64), (100, 64), (most_faces(64), 64), (145, 128)):
        cell = cell_size(faces, side)
        corners = patch_corners(faces, side)
        assert corners.min() == 0
        assert corners.max() + cell <= side
        assert len(np.unique(corners, axis=0)) == faces
        assert not (corners % cell).any()
    blocks = patch_corners(100, 64) // cell_size(100, 64)
    assert np.ptp(blocks[:16], axis=0).tolist() == [3, 3]


def test_a_texture_too_small_for_its_faces_has_no_patches():
    assert cell_size(most_faces(64), 64) == baking._LEAST_CELL
    assert cell_size(most_faces(64) + 1, 64) == 0


def test_the_order_in_space_keeps_neighbours_together():
    points = np.random.default_rng(0).random((1000, 3))
    ordered = points[spatial_order(points)]
    steps = np.linalg.norm(np.diff(ordered, axis=0), axis=1)
    assert steps.mean() < 0.25 * np.linalg.norm(np.diff(points, axis=0), axis=1).mean()
