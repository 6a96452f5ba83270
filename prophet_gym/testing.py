"""Check your own world model, reward model or env; and a world model that can be predicted by hand.

The checks raise AssertionError, which says what must hold and what was found; they need no test framework.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from prophet_gym._batches import batch_size, concat_batches, scatter_batch, select_batch
from prophet_gym.envs._env_checks import assert_same, check_prophet_env
from prophet_gym.envs._initial_states import InitialStates
from prophet_gym.errors import InvalidRewardError
from prophet_gym.specs import InitialState
from prophet_gym.world_model import Chunk, DecodesOnDemand, RewardModel, RewardOutput, State, WorldModel

__all__ = [
    "CountingWorldModel",
    "assert_same",
    "check_prophet_env",
    "check_reward_model",
    "check_world_model",
    "counting_starts",
]

_Result = TypeVar("_Result")


class CountingWorldModel:
    """Count actions in the colours of the frames: a world model with known answers, for tests.

    After action number j of an episode (1, 2, ...) every pixel of the first frame has been raised, modulo 256,
    by j in red, by the sum of round(100 * first dimension of the action) over the actions so far in green, and in
    blue by the j-th integer below 256 drawn from the generator (`noise=True`) or by nothing.

    Attributes:
        batch_sizes: The batch size of every rollout so far, for tests of what a step costs.
    """

    def __init__(
        self, *, chunk: int = 8, frame_size: tuple[int, int] = (8, 8), action_dim: int = 7, noise: bool = True
    ) -> None:
        self.chunk, self.frame_size, self.action_dim, self.noise = chunk, frame_size, action_dim, noise
        self.batch_sizes: list[int] = []

    def encode(self, frames: UInt8[Tensor, "b t h w 3"]) -> State:
        """Return the last frame, with nothing counted yet."""
        return {"start": frames[:, -1].clone(), "raised": torch.zeros(len(frames), 3, dtype=torch.int64)}

    def rollout(self, state: State, actions: Float[Tensor, "b k a"], *, generators: Sequence[torch.Generator]) -> Chunk:
        """Raise the colours by the actions, see the class."""
        rows, steps = actions.shape[:2]
        self.batch_sizes.append(rows)
        red = torch.arange(1, steps + 1).expand(rows, steps)
        green = torch.round(100 * actions[..., 0]).to(torch.int64).cumsum(1)
        raised = state["raised"][:, None] + torch.stack([red, green, torch.zeros_like(red)], -1)
        raised[..., 2] = 0
        if self.noise:
            blue = [torch.randint(256, (steps,), generator=generator) for generator in generators]
            raised[..., 2] = torch.stack(blue)
        frames = (state["start"][:, None].to(torch.int64) + raised[:, :, None, None]) % 256
        return Chunk({"start": state["start"].clone(), "raised": raised[:, -1].clone()}, frames.to(torch.uint8))


def counting_starts(tasks: int = 2, per_task: int = 3, size: tuple[int, int] = (8, 8)) -> InitialStates:
    """Return initial states of flat frames: value 40 * task + 4 * index, instruction `count task N`."""
    return InitialStates(
        InitialState(
            frames=np.full((1, *size, 3), 40 * task + 4 * index, np.uint8),
            instruction=f"count task {task}",
            suite="counting",
            task=task,
            index=index,
            split="train",
        )
        for task in range(tasks)
        for index in range(per_task)
    )


def check_world_model(model: WorldModel, *, tolerance: int = 0) -> None:
    """Check a world model against its contract: shapes, purity, seeds, batch elements that do not affect each other.

    An element alone and in a batch may differ by `tolerance` pixel levels (matmul kernels differ with the batch size),
    in uncertainty and state in the same proportion.
    """
    height, width = model.frame_size
    sides = {"frame_size[0]": height, "frame_size[1]": width}
    _require_counts({"chunk": model.chunk, "action_dim": model.action_dim} | sides)
    source = torch.Generator().manual_seed(0)
    # Three, so that turning the batch around changes neighbours and leaves one element in its place.
    rows = range(3)
    images = torch.randint(256, (len(rows), 1, height, width, 3), generator=source, dtype=torch.uint8)
    actions = torch.rand(len(rows), model.chunk, model.action_dim, generator=source) * 2 - 1
    state = _unchanged("encode", {"frames": images}, lambda: model.encode(images))
    assert batch_size(state) == len(rows), f"encode must return a batch of {len(rows)}, got {batch_size(state)}"
    global_random = torch.get_rng_state()
    result = _roll(model, state, actions, rows)
    _require_form("frames", result.frames, (len(rows), model.chunk, height, width, 3), torch.uint8)
    told = result.uncertainty
    assert told is None or told.shape == (len(rows),), f"uncertainty must have shape ({len(rows)},) or be None"
    forms = [{name: (tuple(t.shape), t.dtype) for name, t in each.items()} for each in (state, result.state)]
    assert forms[0] == forms[1], "the state must keep its names, shapes and dtypes, was {}, became {}".format(*forms)
    assert torch.equal(global_random, torch.get_rng_state()), "rollout must draw from its generators alone"
    again = _roll(model, state, actions, rows)
    _close("the same state, actions and seeds must give the same chunk", result, again, 0)
    turned = _roll(model, select_batch(state, rows[::-1]), actions.flip(0), rows[::-1])
    for row in rows:
        one = _row(result, row)
        alone = _roll(model, select_batch(state, [row]), actions[row : row + 1], [row])
        _close(f"element {row} must not depend on the others of its batch", one, alone, tolerance)
        place = f"element {row} must not depend on its place in the batch"
        _close(place, one, _row(turned, len(rows) - 1 - row), tolerance)
    encoded = concat_batches([model.encode(images[row : row + 1]) for row in rows])
    _close("encode must treat elements alone", result, _roll(model, encoded, actions, rows), tolerance)
    # As an env resets one sub-environment beside others.
    mixed = scatter_batch(result.state, [0], select_batch(state, [0]))
    message = "an element that starts beside older ones must do as in a batch that starts"
    _close(message, _row(result, 0), _row(_roll(model, mixed, actions, rows), 0), tolerance)
    if isinstance(model, DecodesOnDemand):
        _check_on_demand(model, state, actions, result, tolerance)


def _check_on_demand(model: DecodesOnDemand, state: State, actions: Tensor, whole: Chunk, tolerance: int) -> None:
    """Compare what `rollout` gave with the same chunk, decoded frame by frame."""
    generators = [torch.Generator().manual_seed(1000 + row) for row in range(len(actions))]  # those of `_roll`
    following = model.advance(state, actions, generators=generators)
    ages = range(min(whole.frames.shape[1], model.decodable))
    frames = [model.decode(following, torch.full((len(actions),), age)) for age in reversed(ages)]
    again = Chunk(following, torch.stack(frames, dim=1), model.uncertainty(following))
    newest = Chunk(whole.state, whole.frames[:, -len(ages) :], whole.uncertainty)
    _close("advance, decode and uncertainty must give what rollout gives", newest, again, tolerance)


def check_reward_model(
    reward_model: RewardModel,
    *,
    videos: Sequence[UInt8[Tensor, "_ h w 3"]] | None = None,
    instructions: Sequence[str] | None = None,
    tolerance: float = 1e-5,
) -> None:
    """Check a reward model against its contract: form, purity, determinism, videos that do not affect each other.

    It is shown at least two videos, random ones of different lengths if none are given; rewards of a video alone and in
    a batch may differ by `tolerance`.
    """
    assert reward_model.when in {"chunk", "end"}, f"when must be 'chunk' or 'end', got {reward_model.when!r}"
    _require_counts({"stride": reward_model.stride, "max_frames": reward_model.max_frames})
    if videos is None:
        source = torch.Generator().manual_seed(0)
        lengths = sorted({1, min(2, reward_model.max_frames), reward_model.max_frames})
        videos = [torch.randint(256, (n, 128, 128, 3), generator=source, dtype=torch.uint8) for n in [1, *lengths]]
    texts = [f"pick up object {row}" for row in range(len(videos))] if instructions is None else list(instructions)
    assert len(videos) == len(texts) >= 2, f"needs two or more videos, one text each: {len(videos)}, {len(texts)}"
    arguments = {f"videos[{row}]": video for row, video in enumerate(videos)}
    try:
        output = _unchanged("score", arguments, lambda: reward_model.score(videos, texts))
    except InvalidRewardError as error:
        raise AssertionError(str(error)) from error
    # A RewardOutput has checked that its parts fit each other, and that its numbers are finite.
    assert isinstance(output, RewardOutput), f"score must return a RewardOutput, got {type(output).__name__}"
    for name, part in (("reward", output.reward), ("probability", output.probability)):
        if part is not None:
            _require_form(name, part, (len(videos),), torch.float32)
    assert (output.reward[~output.scored] == 0).all(), "the reward of a video that was not scored must be 0.0"
    _same_output("the same videos must get the same output", output, reward_model.score(videos, texts), 0.0)
    for row in range(len(videos)):
        alone = reward_model.score([videos[row]], [texts[row]])
        done = None if output.done is None else output.done[row : row + 1]
        here = RewardOutput(output.reward[row : row + 1], output.scored[row : row + 1], done)
        _same_output(f"video {row} must not depend on the others", here, alone, tolerance)


def _require_counts(values: Mapping[str, object]) -> None:
    for name, value in values.items():
        good = isinstance(value, int) and value >= 1
        assert good, f"{name} must be an integer of at least 1, got {value!r}"


def _require_form(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    wanted, found = (dtype, shape), (tensor.dtype, tuple(tensor.shape))
    assert wanted == found, f"{name} must be {wanted[0]} {wanted[1]}, got {found[0]} {found[1]}"


def _roll(model: WorldModel, state: State, actions: Tensor, seeds: Sequence[int]) -> Chunk:
    generators = [torch.Generator().manual_seed(1000 + seed) for seed in seeds]
    arguments = {f"state[{name!r}]": tensor for name, tensor in state.items()} | {"actions": actions}
    return _unchanged("rollout", arguments, lambda: model.rollout(state, actions, generators=generators))


def _unchanged(call: str, arguments: dict[str, Tensor], run: Callable[[], _Result]) -> _Result:
    before = {name: tensor.clone() for name, tensor in arguments.items()}
    result = run()
    for name, tensor in arguments.items():
        assert torch.equal(before[name], tensor), f"{call} must not change its arguments, but changed {name}"
    return result


def _row(chunk: Chunk, row: int) -> Chunk:
    uncertainty = None if chunk.uncertainty is None else chunk.uncertainty[row : row + 1]
    return Chunk(select_batch(chunk.state, [row]), chunk.frames[row : row + 1], uncertainty)


def _close(message: str, one: Chunk, other: Chunk, tolerance: int) -> None:
    difference = int((one.frames.int() - other.frames.int()).abs().max())
    assert difference <= tolerance, f"{message}: frames differ by up to {difference} levels of 255"
    pairs = [(f"state[{name!r}]", one.state[name], other.state[name]) for name in one.state]
    if one.uncertainty is not None and other.uncertainty is not None:
        pairs.append(("uncertainty", one.uncertainty, other.uncertainty))
    for name, left, right in pairs:
        if not left.numel():
            continue
        scale = max(1.0, float(left.double().abs().max()))
        gap = float((left.double() - right.double()).abs().max())
        assert gap <= tolerance / 255 * scale, f"{message}: {name} differs by up to {gap:g}"


def _same_output(message: str, one: RewardOutput, other: RewardOutput, tolerance: float) -> None:
    gap = float((one.reward - other.reward).abs().max())
    assert torch.equal(one.scored, other.scored), f"{message}: scored {one.scored.tolist()} and {other.scored.tolist()}"
    assert gap <= tolerance, f"{message}: rewards differ by up to {gap:g}"
    assert torch.equal(one.success, other.success), f"{message}: done {one.success} and {other.success}"
