"""Check that a vector env keeps the contract of `ProphetVectorEnv`, whatever world is behind it."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, VectorEnv

from prophet_gym.envs._episodes import sub_env_info

STEPS = 3
LONGEST = 400
STEP_KEYS = {"executed": int, "live": bool, "scored": bool, "success": bool}


def check_prophet_env(envs: VectorEnv, *, tolerance: int = 0, seed_matters: bool = True) -> None:
    """Check a vector env against the contract of `ProphetVectorEnv`; it is reset and stepped.

    It checks spaces, `info`, seeds, that sub-environments do not depend on each other, masked resets, that arguments
    are left alone and outputs are fresh, that bad input changes nothing, and the autoreset mode that it names.

    Args:
        envs: At least two sub-environments. Give it a horizon, so that episodes end.
        tolerance: Largest difference in pixel levels between a sub-environment in one batch and in another.
        seed_matters: Whether different seeds must give different episodes; False for a world with one start and no
            noise.

    Raises:
        AssertionError: Says what must hold and what was found.
    """
    assert envs.num_envs >= 2, f"check_prophet_env needs at least two sub-environments, got {envs.num_envs}"
    _check_spaces(envs)
    _check_info(envs)
    _check_copies(envs)
    first = _run(envs, 0)
    assert_same(_run(envs, 0), first, "the same seed and actions must give the same results: result")
    # Two seeds may draw the same initial state where there are few; five are unlikely to.
    different = not all(data_equivalence(_run(envs, 1000 * seed), first, exact=True) for seed in range(1, 5))
    assert different or not seed_matters, "different seeds must give different episodes, and five gave the same"
    _check_arguments(envs)
    _check_apart(envs, tolerance)
    _check_masks(envs, tolerance)
    _check_bad_input(envs)
    _check_ends(envs)


def assert_same(one: Any, other: Any, where: str = "result") -> None:
    """Check that two results are bitwise equal, in types and dtypes too; name the first place where they differ."""
    assert type(one) is type(other), f"{where}: {type(one).__name__} and {type(other).__name__}"
    if isinstance(one, dict):
        assert set(one) == set(other), f"{where}: only one of them has {sorted(set(one) ^ set(other))}"
        for key in one:
            assert_same(one[key], other[key], f"{where}[{key!r}]")
    elif isinstance(one, tuple | list) or (isinstance(one, np.ndarray) and one.dtype == object):
        assert len(one) == len(other), f"{where}: {len(one)} and {len(other)} entries"
        for place, (left, right) in enumerate(zip(one, other, strict=True)):
            assert_same(left, right, f"{where}[{place}]")
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype, f"{where}: {one.dtype} and {other.dtype}"
        assert one.shape == other.shape, f"{where}: {one.shape} and {other.shape}"
        assert np.array_equal(one, other), f"{where}: {int((one != other).sum())} of {one.size} numbers differ"
    else:
        assert one == other, f"{where}: {one!r} and {other!r}"


def _actions(envs: VectorEnv, seed: int, steps: int = STEPS) -> list[np.ndarray]:
    space = envs.action_space
    assert isinstance(space, gym.spaces.Box)
    # Away from the bounds, which rounding might cross.
    drawn = np.random.default_rng(seed).uniform(0.3, 0.7, (steps, *space.shape))
    return list((drawn * (space.high - space.low) + space.low).astype(np.float32))


def _run(envs: VectorEnv, seed: Any, actions: list[np.ndarray] | None = None) -> list[Any]:
    return [envs.reset(seed=seed), *map(envs.step, _actions(envs, 0) if actions is None else actions)]


def _same_images(message: str, one: list[Any], other: list[Any], rows: tuple[int, int], tolerance: int) -> None:
    """Compare the images of a sub-environment in some results with those of another in others, of every camera."""
    for name in [name for name, value in one[0][0].items() if value.dtype == np.uint8]:
        left, right = (
            np.stack([each[0][name][row] for each in part]) for part, row in zip((one, other), rows, strict=True)
        )
        gap = np.abs(left.astype(int) - right.astype(int)).max()
        assert gap <= tolerance, f"{message}: images ({name}) differ by up to {gap} levels of 255"


def _check_spaces(envs: VectorEnv) -> None:
    actions, single, parts = envs.action_space, envs.single_action_space, envs.single_observation_space
    boxes = isinstance(actions, gym.spaces.Box) and isinstance(single, gym.spaces.Box)
    assert boxes, f"actions must be a Box, got {single}"
    assert actions.shape == (envs.num_envs, *(single.shape or ())), f"{actions} must be {envs.num_envs} times {single}"
    has_image = isinstance(parts, gym.spaces.Dict) and "image" in parts.spaces
    assert has_image, f"an observation must be a Dict with an image, got {parts}"
    for result in _run(envs, 0):
        for name, space in getattr(envs.observation_space, "spaces", {}).items():
            value = result[0][name]
            assert space.contains(value), f"observation[{name!r}] must lie in {space}, got {value.dtype} {value.shape}"
    assert envs.metadata.get("autoreset_mode") in set(AutoresetMode), "metadata['autoreset_mode'] must name the mode"


def _check_info(envs: VectorEnv) -> None:
    _, start = envs.reset(seed=0)
    observation, rewards, terminated, truncated, infos = envs.step(_actions(envs, 0, 1)[0])
    forms = {"rewards": (rewards, np.float64), "terminated": (terminated, np.bool_), "truncated": (truncated, np.bool_)}
    for name, (value, dtype) in forms.items():
        good = isinstance(value, np.ndarray) and value.shape == (envs.num_envs,) and value.dtype == dtype
        assert good, f"{name} must be a {np.dtype(dtype)} array ({envs.num_envs},), got {value!r}"
    for row in range(envs.num_envs):
        told = isinstance(sub_env_info(start, row).get("instruction"), str)
        assert told, f"info['instruction'] must be a text, not so in sub-environment {row}"
        info = sub_env_info(infos, row)
        info = info.get("final_info", info)
        for name, kind in STEP_KEYS.items():
            assert type(info.get(name)) is kind, f"info[{name!r}] must be {kind.__name__}, got {info.get(name)!r}"
        # An episode that ended may show its next one already.
        if "frames" in info and not (terminated[row] or truncated[row]):
            last = info["frames"][info["executed"] - 1]
            same = np.array_equal(last, observation["image"][row])
            assert same, f"observation {row} must be the last executed frame of info['frames']"


def _check_copies(envs: VectorEnv) -> None:
    given, _ = envs.reset(seed=0)
    before = {name: value.copy() for name, value in given.items()}
    envs.step(_actions(envs, 0, 1)[0])
    assert_same(given, before, "observations must be fresh copies, and a step changed an old one: observation")


def _check_apart(envs: VectorEnv, tolerance: int) -> None:
    seeds = list(range(100, 100 + envs.num_envs))
    actions = _actions(envs, 1)
    plain = _run(envs, seeds, actions)
    turned = _run(envs, seeds[::-1], [action[::-1].copy() for action in actions])
    # Mirrored in the middle of the space: a gripper's numbers may reach from 0 to 1.
    low, high = (getattr(envs.action_space, side)[1:] for side in ("low", "high"))
    other = _run(envs, seeds, [np.concatenate([action[:1], low + high - action[1:]]) for action in actions])
    for row in range(envs.num_envs):
        message = f"sub-environment {row} must not depend on its place in the batch"
        _same_images(message, plain, turned, (row, envs.num_envs - 1 - row), tolerance)
    _same_images("sub-environment 0 must not depend on the actions of others", plain, other, (0, 0), tolerance)


def _check_masks(envs: VectorEnv, tolerance: int) -> None:
    actions = _actions(envs, 2, 2)
    plain = _run(envs, 5, actions)
    mask = np.arange(envs.num_envs) == 0
    _run(envs, 5, actions[:1])
    _, infos = envs.reset(options={"reset_mask": mask})
    found = infos["_instruction"].tolist()
    assert found == mask.tolist(), f"a masked reset must report the mask {mask.tolist()}, and reported {found}"
    after = envs.step(actions[1])
    for row in range(1, envs.num_envs):
        message = f"sub-environment {row} must continue undisturbed when another is reset"
        _same_images(message, plain[-1:], [after], (row, row), tolerance)


def _check_arguments(envs: VectorEnv) -> None:
    actions = _actions(envs, 3, 2)
    expected = _run(envs, 6, actions)
    options = {"reset_mask": np.ones(envs.num_envs, bool)}
    given = [action.copy() for action in actions]
    results: list[Any] = [envs.reset(seed=6, options=options)]
    assert list(options) == ["reset_mask"], "reset must not change the caller's options"
    for action in given:
        # The caller owns what it is given.
        for shown in results[-1][0].values():
            shown[:] = 0
        results.append(envs.step(action))
    assert all(np.array_equal(*pair) for pair in zip(given, actions, strict=True)), "step must not change the actions"
    assert_same(results[-1], expected[-1], "writing into an observation must not change what follows: result")


def _check_bad_input(envs: VectorEnv) -> None:
    actions = _actions(envs, 4, 1)
    expected = _run(envs, 7, actions)
    envs.reset(seed=7)
    broken = actions[0].copy()
    broken.flat[-1] = np.nan
    nobody = np.zeros(envs.num_envs, bool)
    attempts = {
        "an action that is not finite": lambda: envs.step(broken),
        "actions of another shape": lambda: envs.step(actions[0][:-1]),
        "an unknown option": lambda: envs.reset(seed=8, options={"no such option": 1}),
        "a mask of none": lambda: envs.reset(seed=8, options={"reset_mask": nobody}),
        "too few seeds": lambda: _run(envs, [1], []),
    }
    for name, attempt in attempts.items():
        try:
            attempt()
        except (ValueError, KeyError):
            continue
        raise AssertionError(f"{name} must be a ValueError or KeyError, and passed")
    assert_same(envs.step(actions[0]), expected[-1], "bad input must leave every episode as it was: result")


def _check_ends(envs: VectorEnv) -> None:
    mode = envs.metadata["autoreset_mode"]
    envs.reset(seed=9)
    action = _actions(envs, 5, 1)[0]
    for _ in range(LONGEST):
        _, _, terminated, truncated, infos = envs.step(action)
        ended = terminated | truncated
        if ended.any():
            break
    else:
        return
    wanted = (ended & (mode == AutoresetMode.SAME_STEP)).tolist()
    for name in ("final_obs", "final_info"):
        masked = infos[f"_{name}"].tolist() if name in infos else [False] * envs.num_envs
        assert masked == wanted, f"under {mode.name} info[{name!r}] must be there for {wanted}, got {masked}"
    _, rewards, terminated, truncated, infos = envs.step(action)
    for row in np.flatnonzero(ended) if mode != AutoresetMode.SAME_STEP else ():
        quiet = rewards[row] == 0 and not terminated[row] and not truncated[row]
        assert quiet, f"under {mode.name} the step after the end must have reward 0 and no flag, got others for {row}"
        info = sub_env_info(infos, int(row))
        if mode == AutoresetMode.DISABLED:
            live = info.get("live")
            assert live is False, f"under DISABLED info['live'] must be False after the end, got {live} for {row}"
        else:
            assert "executed" not in info, f"under NEXT_STEP the step after the end runs no action, but did for {row}"
