"""Dream two cameras with a small Prophet: the view of the hand lies below that of the fixed one, in one latent.

The hand moves the whole view of its camera, and where it goes is known: the flow therefore starts at the last frame as
it would look from there if all that is seen were a plane, which leaves objects on it and the fingers to be learned.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn import functional as F

from prophet_gym._checks import require_none
from prophet_gym.embodiments._kinematics import axis_angle, turn_between, turned
from prophet_gym.errors import InvalidStartError
from prophet_gym.prophet._autoencoder import FRAMES_PER_LATENT, SPATIAL_COMPRESSION, stack_frames
from prophet_gym.prophet._frames import latents_at
from prophet_gym.prophet._gripper import (
    ChunkInputs,
    ChunkStart,
    GripperTracker,
    discs_of,
    follow_chunk,
    given_and_history,
)
from prophet_gym.prophet._small import SmallConfig, SmallProphet
from prophet_gym.specs import CAMERAS, STATE_NAMES, WRIST_CAMERA, InitialState
from prophet_gym.world_model import State

HAND_DIM = 8  # the gripper's four numbers, the hand's rotation vector from rest, the middle between the finger joints
_WRIST_IMAGE = CAMERAS[WRIST_CAMERA]
# Standard deviations by which latents of what has moved differ, and how much more it counts than what has not.
_MOVED, _MOVED_COUNTS = 0.5, 4.0
_UNEXPLAINED_COUNTS = 2.0
_NEAR = 0.02  # metres before the camera; what is nearer, or behind it, is not moved


@dataclass(frozen=True)
class TwoViewConfig(SmallConfig):
    """Add where the second camera sits, and what it sees most of."""

    # Point in the hand's frame (metres, 1) to unit image of the camera at the hand, as `camera` for the world's.
    wrist: tuple[tuple[float, ...], ...] = ((0.0, 1.0, 0.0, 0.0), (-1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.1))
    plane: float = 0.0  # height in metres of the plane that most of the view shows
    hand_rest: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0)  # quaternion xyzw from which the hand's rotation is measured
    opening: float = 0.08  # metres between the finger joints of an open gripper
    # How much of each latent cell stays where it is when the hand moves: the fingers. Rows of cells, 0..1.
    steady: tuple[tuple[float, ...], ...] = ()
    # Half-widths that hold 90% of a dream's errors of position (metres), rotation (radians) and finger joints (metres),
    # for each age in chunks from 1; none if not measured. See `prophet evaluate --save-state-errors`.
    state_errors: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        cells = [side // SPATIAL_COMPRESSION for side in self.frame_size]
        require_none(
            {
                f"wrist must be three rows of four numbers, got rows of {[*map(len, self.wrist)]}": (
                    [*map(len, self.wrist)] != [4, 4, 4]
                ),
                f"hand_rest must be a quaternion xyzw of length 1, got {self.hand_rest}": (
                    len(self.hand_rest) != 4 or abs(sum(n * n for n in self.hand_rest) - 1) > 1e-3
                ),
                f"steady must have {cells[0]} rows of {cells[1]} numbers in 0..1, or none": (
                    bool(self.steady)
                    and (
                        [*map(len, self.steady)] != [cells[1]] * cells[0]
                        or not all(0 <= number <= 1 for row in self.steady for number in row)
                    )
                ),
                f"state_errors must be rows of three numbers above 0, got {self.state_errors}": any(
                    len(row) != 3 or not min(row) > 0 for row in self.state_errors
                ),
                f"plane must be within 10 metres, got {self.plane}": not abs(self.plane) <= 10,
                f"opening must be above 0 and at most 10 metres, got {self.opening}": not 0 < self.opening <= 10,
            }
        )

    def inputs(self, tracker: GripperTracker, start: ChunkStart) -> ChunkInputs:
        """Return the inputs of one chunk: those of one camera, the first frame, and how the second view moves.

        Beside the discs of the first view the second has, for each frame, how far every cell of the last one has moved
        (across and down, in eighths of the image) and the openness of the gripper. Of the first frame, every slot reads
        the first view as it was and the second as it would look from where the hand is at the slot's end.
        """
        past, camera = start.past, torch.tensor(self.camera)
        path, numbers = follow_chunk(tracker, start, camera)
        discs = discs_of(path, camera, (past.shape[-2] // 2, past.shape[-1]))
        now, ends = FRAMES_PER_LATENT - 1, slice(FRAMES_PER_LATENT - 1, None, FRAMES_PER_LATENT)
        view = partial(plane_grid, torch.tensor(self.wrist), self.plane, torch.tensor(self.hand_rest))
        grid = view(path, now, past.shape)
        since = view(torch.cat([start.first_gripper[:, None], path[:, ends]], dim=1), 0, past.shape)[:, 1:]
        moved = 4 * (grid - plane_grid_at_rest(past)).permute(0, 1, 4, 2, 3)
        sign = (2 * path[..., 3] - 1)[..., None, None, None].expand(-1, -1, 1, *moved.shape[-2:])
        drawn = stack_frames(torch.cat([discs, torch.cat([moved, sign], dim=2)], dim=-2))
        # What lay outside the first image is not guessed at: it is the mean of what there is.
        shown = self.start(start.first, since, padding="zeros").transpose(1, 2)
        return ChunkInputs(
            **given_and_history(past),
            actions=numbers,
            action_frames=torch.cat([drawn, shown], dim=1),
            path=path[:, FRAMES_PER_LATENT:],
            source=stack_frames(self.start(past[:, -1], grid[:, FRAMES_PER_LATENT:])),
        )

    def loss_weight(
        self,
        target: Float[Tensor, "b k c h w"],
        initial: Float[Tensor, "b c h w"],
        source: Float[Tensor, "b k c h w"],
        known: Bool[Tensor, " b"],
    ) -> Float[Tensor, "b k c h w"]:
        """Return how much every number of a chunk's latents counts: more where something moved.

        In the first view that is where the latents are no longer those of the initial frame, in the second where the
        motion of the hand alone does not explain them. A second view that is not `known` does not count.
        """
        half = target.shape[-2] // 2
        since, unexplained = (
            (target - other).square().mean(dim=2, keepdim=True).sqrt() > _MOVED for other in (initial[:, None], source)
        )
        front = 1 + _MOVED_COUNTS * since[..., :half, :].to(target)
        wrist = known[:, None, None, None, None] * (1 + _UNEXPLAINED_COUNTS * unexplained[..., half:, :].to(target))
        return torch.cat([front, wrist], dim=-2).expand_as(target)

    def start(
        self, last: Float[Tensor, "b c h w"], grid: Float[Tensor, "b k y w 2"], padding: str = "border"
    ) -> Float[Tensor, "b k c h w"]:
        """Return a frame as it would be from other places of the hand: its second view moved but for what is steady.

        `padding` is that of `grid_sample`, for what lies outside the frame.
        """
        height, frames = last.shape[-2] // 2, grid.shape[1]
        front, wrist = last[:, None].expand(-1, frames, -1, -1, -1).split(height, dim=-2)
        warped = F.grid_sample(
            wrist.flatten(0, 1), grid.flatten(0, 1), padding_mode=padding, align_corners=False
        ).unflatten(0, (-1, frames))
        if self.steady:
            steady = torch.tensor(self.steady).to(warped)
            warped = steady * wrist + (1 - steady) * warped
        return torch.cat([front, warped], dim=-2)


class TwoViewProphet(SmallProphet):
    """Dream two cameras and the robot's state: also what the camera at the hand sees.

    Args:
        transformer: Predicts the flow of a chunk's latents, of which each holds both views.
        autoencoder: Encodes frames of both cameras as latents and decodes them.
        tracker: Estimates where the hand is, and where actions move it.
        config: All other settings.
    """

    config_class = TwoViewConfig
    gripper_dim = HAND_DIM
    views = 2
    config: TwoViewConfig

    @torch.no_grad()
    def encode_initial_states(self, frames: UInt8[Tensor, "b t h w 3"], starts: Sequence[InitialState]) -> State:
        """Begin dreams, with `wrist_image` and the robot's `state` of the initial states that have them.

        Where the state is not known, the tracker estimates it from the first frame.

        Raises:
            InvalidStartError: An initial state's `wrist_image` is not as large as its frames, or its `state` is wrong.
        """
        seen = [start.extra.get(_WRIST_IMAGE) for start in starts]
        for image, start in zip(seen, starts, strict=True):
            if image is not None and (image.shape != (1, *self.frame_size, 3) or image.dtype != np.uint8):
                raise InvalidStartError(
                    f"{_WRIST_IMAGE} in the extra of an initial state must be uint8 {(1, *self.frame_size, 3)}, got "
                    f"{image.dtype} {image.shape} (task {start.task}, index {start.index}); `prophet starts` renders it"
                )
        black = torch.zeros((*self.frame_size, 3), dtype=torch.uint8)
        wrist = torch.stack([black if image is None else torch.from_numpy(image[0]) for image in seen])
        known = torch.tensor([image is not None for image in seen])
        begun = self._begin_both(self._checked_frames(frames), wrist[:, None], known)
        told = [(row, start.extra["state"]) for row, start in enumerate(starts) if "state" in start.extra]
        for row, own in told:
            if own.shape != (len(STATE_NAMES),) or not np.isfinite(own).all():
                raise InvalidStartError(
                    f"state in the extra of an initial state must be {len(STATE_NAMES)} finite numbers, got {own} "
                    f"(task {starts[row].task}, index {starts[row].index}); leave it out where it is not known"
                )
        if told:
            rows, states = zip(*told, strict=True)
            hand = hand_of(np.stack(states), np.array(self.config.hand_rest), self.config.opening)
            hand = torch.from_numpy(hand).to(begun["gripper"])
            begun["gripper"][list(rows)] = hand[:, None]
            if frames.shape[1] == 1:  # else the first frame is an earlier one
                begun["initial_gripper"][list(rows)] = hand
        return begun

    @torch.no_grad()
    def resume_both(
        self,
        frames: UInt8[Tensor, "b t h w 3"],
        wrist: UInt8[Tensor, "b t h w 3"],
        past_actions: Float[Tensor, "b k a"] | None,
    ) -> State:
        """Begin in the middle of an episode as `resume` does, from the frames of both cameras."""
        known = torch.ones(len(frames), dtype=torch.bool)
        return self._begin_both(self._checked_frames(frames), wrist, known, past_actions)

    def read_wrist(self, state: State) -> UInt8[Tensor, "b h w 3"]:
        """Return what the camera at the hand sees at the newest frame of a state.

        Raises:
            InvalidStartError: A dream began at an initial state without `wrist_image`, so nobody knows.
        """
        return self.decode_wrist(state, torch.zeros(len(state["latents"]), dtype=torch.long))

    @torch.no_grad()
    def decode_wrist(self, state: State, ages: Int[Tensor, " b"]) -> UInt8[Tensor, "b h w 3"]:
        """Return what the camera at the hand saw at one frame of each element, `ages[i]` before its newest."""
        if not state["wrist_known"].all():
            raise InvalidStartError(
                f"these dreams began without an image of the camera at the hand: give their initial states "
                f"extra['{_WRIST_IMAGE}'] (`prophet starts --cameras agentview wrist` does), or leave cameras= away"
            )
        chosen = latents_at(state, ages)
        return self.autoencoder.decode(chosen[..., chosen.shape[-2] // 2 :, :])

    @torch.no_grad()
    def reconstruct_wrist(self, frames: UInt8[Tensor, "b t h w 3"]) -> UInt8[Tensor, "b t h w 3"]:
        """Return recorded frames of the camera at the hand, encoded and decoded: an upper bound on dreams."""
        latents = self._encoded_view(self._checked_frames(frames))
        return self.autoencoder.decode(latents.flatten(0, 1)).unflatten(0, latents.shape[:2])

    def read_robot_state(self, state: State) -> Float[Tensor, "b 8"]:
        """Return position, orientation (axis times angle, as robosuite has it) and both finger joints."""
        position, openness, turn, middle = state["gripper"][:, -1].cpu().split([3, 1, 3, 1], dim=1)
        rest = torch.tensor(self.config.hand_rest).numpy()
        axis = torch.from_numpy(axis_angle(turned(turn.double().numpy(), rest))).float()
        half = openness * self.config.opening / 2
        return torch.cat([position, axis, middle + half, middle - half], dim=1)

    def read_state_error(self, state: State) -> Float[Tensor, "b 3"] | None:
        """Return half-widths that hold 90% of the errors of position, rotation and finger joints at a dream's age.

        Metres, radians (the angle of the turn between) and metres; they are those of held-out episodes, None where
        nobody measured them. Older dreams than were measured have those of the oldest.
        """
        if not self.config.state_errors:
            return None
        known = torch.tensor(self.config.state_errors, device=state["age"].device)
        return known[(state["age"] - 1).clamp(0, len(known) - 1)]

    def see_gripper(self, frames: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b 3"]:
        """Return the gripper's position (metres, world frame) as estimated from each frame of the fixed camera."""
        front = self._checked_frames(frames[:, None])
        return self.tracker.read(self._encoded(front, None)[:, 0])[:, :3]

    def _begin(self, frames: UInt8[Tensor, "b t h w 3"], past_actions: Float[Tensor, "b k a"] | None = None) -> State:
        return self._begin_both(frames, None, torch.zeros(len(frames), dtype=torch.bool), past_actions)

    def _begin_both(
        self,
        frames: UInt8[Tensor, "b t h w 3"],
        wrist: UInt8[Tensor, "b s h w 3"] | None,
        known: Bool[Tensor, " b"],
        past_actions: Float[Tensor, "b k a"] | None = None,
    ) -> State:
        known = known.to(frames.device)
        newest = slice(-self.config.past_frames, None)
        frames, wrist = frames[:, newest], None if wrist is None else self._checked_frames(wrist[:, newest])
        latents = self._encoded(frames, wrist)
        height = latents.shape[-2] // 2
        # What is not known is the mean of what there is, as in training.
        latents[..., height:, :] *= known[:, None, None, None, None]
        carried = self._carried(frames, latents, past_actions)
        return {
            **carried,
            "initial": latents[:, 0].clone(),
            "initial_gripper": self.tracker.read(latents[:, 0]),
            "wrist_known": known,
            "age": torch.zeros(len(frames), dtype=torch.long, device=frames.device),
        }

    def _advance(
        self, state: State, actions: Float[Tensor, "b k a"], generators: Sequence[torch.Generator]
    ) -> tuple[State, Float[Tensor, "b k c h w"]]:
        following, latents = super()._advance(state, actions, generators)
        return {**following, "age": state["age"] + 1}, latents

    def _encoded(
        self, frames: UInt8[Tensor, "b t h w 3"], wrist: UInt8[Tensor, "b s h w 3"] | None
    ) -> Float[Tensor, "b t c rows columns"]:
        """Return latents of both views; the second's first frame stands for those that it lacks, zeros for all."""
        front = self._encoded_view(frames)
        if wrist is None:
            return torch.cat([front, torch.zeros_like(front)], dim=-2)
        own = self._encoded_view(wrist)
        own = torch.cat([own[:, :1].expand(-1, front.shape[1] - own.shape[1], -1, -1, -1), own], dim=1)
        return torch.cat([front, own], dim=-2)

    def _known(self, state: State, latents: Float[Tensor, "b k c rows columns"]) -> Float[Tensor, "b k c rows columns"]:
        front, wrist = latents.split(latents.shape[-2] // 2, dim=-2)
        return torch.cat([front, wrist * state["wrist_known"][:, None, None, None, None]], dim=-2)

    def _front(self, latents: Float[Tensor, "*b rows columns"]) -> Float[Tensor, "*b half columns"]:
        return latents[..., : latents.shape[-2] // 2, :]


def hand_of(state: Float[np.ndarray, "b 8"], rest: Float[np.ndarray, " 4"], opening: float) -> Float[np.ndarray, "b 8"]:
    """Return the hand's numbers of robot states: what `TwoViewProphet.read_robot_state` undoes."""
    turn = turn_between(rest, Rotation.from_rotvec(state[:, 3:6]).as_quat())
    left, right = state[:, 6:7], state[:, 7:8]
    return np.concatenate([state[:, :3], (left - right) / opening, turn, (left + right) / 2], axis=1)


def plane_grid(
    wrist: Float[Tensor, "3 4"],
    plane: float,
    rest: Float[Tensor, " 4"],
    hand: Float[Tensor, "b f g"],
    now: int,
    shape: Sequence[int],
) -> Float[Tensor, "b f h w 2"]:
    """Return where each cell of the hand's view at every frame was seen in frame `now`, if it shows a plane.

    That is a homography of both poses and the plane. Coordinates are those of `grid_sample`, -1..1; a cell whose line
    of sight does not meet the plane before the camera stays where it is. `shape` is that of latents of both views.
    """
    wrist, rest = wrist.to(hand), rest.to(hand)
    inverse, offset = torch.linalg.inv(wrist[:, :3]), wrist[:, 3]
    position, turn = hand[..., :3], rotation_of(hand[..., 4:7], rest)
    base = plane_grid_at_rest(hand.new_empty(shape))
    pixels = torch.cat([(base + 1) / 2, torch.ones_like(base[..., :1])], dim=-1)
    sight = torch.einsum("bfij,hwj->bfhwi", turn @ inverse, pixels)
    eye = position - turn @ (inverse @ offset)
    depth = (plane - eye[..., None, None, 2]) / sight[..., 2].clamp(max=-1e-3)
    met = eye[..., None, None, :] + depth[..., None] * sight
    back = met - position[:, now, None, None, None]
    seen = torch.einsum("ij,bfhwj->bfhwi", wrist[:, :3], torch.einsum("bji,bfhwj->bfhwi", turn[:, now], back)) + offset
    grid = 2 * seen[..., :2] / seen[..., 2:].clamp(min=_NEAR) - 1
    usable = (depth > _NEAR) & (seen[..., 2] > _NEAR) & (sight[..., 2] < -1e-3)
    return torch.where(usable[..., None], grid.clamp(-2, 2), base)


def plane_grid_at_rest(latents: Tensor) -> Float[Tensor, "h w 2"]:
    """Return the middles of the cells of a latent's second view in the coordinates of `grid_sample`."""
    height, width = latents.shape[-2] // 2, latents.shape[-1]
    down = (torch.arange(height, device=latents.device) + 0.5) * 2 / height - 1
    across = (torch.arange(width, device=latents.device) + 0.5) * 2 / width - 1
    return torch.stack(torch.meshgrid(across, down, indexing="xy"), dim=-1)


def rotation_of(vector: Float[Tensor, "*b 3"], rest: Float[Tensor, " 4"]) -> Float[Tensor, "*b 3 3"]:
    """Return the rotation matrix of a hand that turned by a rotation vector from a quaternion xyzw of rest."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    i, j, k, real = rest.unbind()
    turned = torch.stack(
        [
            torch.stack([1 - 2 * (j * j + k * k), 2 * (i * j - k * real), 2 * (i * k + j * real)]),
            torch.stack([2 * (i * j + k * real), 1 - 2 * (i * i + k * k), 2 * (j * k - i * real)]),
            torch.stack([2 * (i * k - j * real), 2 * (j * k + i * real), 1 - 2 * (i * i + j * j)]),
        ]
    )
    return torch.matrix_exp(skew) @ turned
