"""Measure what the second view of a two-view Prophet rests on: the plane that it shows, and what stays in place."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from prophet_gym.data._latents import LatentEpisodes
from prophet_gym.prophet import TwoViewConfig
from prophet_gym.prophet._wrist import plane_grid

_WINDOWS, _AHEAD = 1024, 4
"""Measure so many windows, in each of which the view moves for so many frames."""


def measure_view(config: TwoViewConfig, data: LatentEpisodes) -> TwoViewConfig:
    """Return the config with the plane whose motion explains recorded views best, and with what does not move.

    The plane is that of the least error among heights 2 cm apart, from below the lowest hand up to it. A cell is as
    steady as copying it errs less than moving it: from 0 where both err alike to 1 where moving it errs three times as
    much, measured by the square of one error in the sum of both squares.
    """
    generator = torch.Generator().manual_seed(0)
    windows = data.draw(_WINDOWS, past=1, chunk=_AHEAD, chunks=1, generator=generator)
    last, after = windows.past[:, -1], windows.future[:, -1:]
    half = last.shape[-2] // 2
    wanted = after[..., half:, :]
    low = float(data.gripper[:, 2].min())
    plain = replace(config, steady=())

    def error(plane: float) -> Float[Tensor, "h w"]:
        hand = windows.gripper[:, [0, -1]]
        rest = torch.tensor(config.hand_rest)
        grid = plane_grid(torch.tensor(config.wrist), plane, rest, hand, 0, last.shape)[:, 1:]
        return (plain.start(last, grid)[..., half:, :] - wanted).square().mean(dim=(0, 1, 2))

    heights = [round(low - 0.3 + 0.02 * step, 3) for step in range(16)]
    plane = min(heights, key=lambda height: float(error(height).mean()))
    moved, copied = error(plane), (last[:, None, :, half:] - wanted).square().mean(dim=(0, 1, 2))
    # Where both are right, the cell stays. Hands that rest make both errors alike everywhere: that is not steady.
    share = (moved.square() + 1e-9) / (moved.square() + copied.square() + 1e-9)
    steady = ((share - 0.5) / 0.4).clamp(0, 1)
    return replace(config, plane=plane, steady=tuple(tuple(round(n, 4) for n in row) for row in steady.tolist()))
