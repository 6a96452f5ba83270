"""Plain data in, live envs out: the ids, on a tiny untrained checkpoint."""

import gc
import json
import threading
import warnings
from pathlib import Path

import gymnasium as gym
import jaxtyping
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

import prophet_gym  # noqa: F401 registers the ids
from prophet_gym import checkpoint as checkpoints
from prophet_gym.envs import ProphetVectorEnv, sub_env_info, write_initial_states
from prophet_gym.errors import CheckpointError, InvalidActionError, MissingWeightsError, UnknownOptionError
from prophet_gym.prophet import tiny_prophet
from prophet_gym.rewards import SuccessHead, SuccessHeadConfig
from prophet_gym.specs import InitialState
from prophet_gym.testing import assert_same

DREAM_IDS = ["Prophet-LIBERO-v0", *(f"Prophet-LIBERO-{name}-v0" for name in ("Object", "Spatial", "Goal", "10"))]
REAL_IDS = [f"LIBERO-{name}-v0" for name in ("Object", "Spatial", "Goal", "10")]


def save_checkpoint(folder: Path, suite: str = "libero_object") -> Path:
    torch.manual_seed(0)
    tiny_prophet().save_pretrained(folder)
    SuccessHead(SuccessHeadConfig(threshold=1.0)).save_pretrained(folder / "success_head")
    rng = np.random.default_rng(0)
    for name, count in (("train", 3), ("official", 2)):
        states = [
            InitialState(
                rng.integers(256, size=(1, 64, 64, 3), dtype=np.uint8), f"task {task}", suite, task, index, name
            )
            for task in range(2)
            for index in range(count)
        ]
        write_initial_states(folder / "starts" / name, states)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    return str(save_checkpoint(tmp_path_factory.mktemp("checkpoint")))


@pytest.mark.parametrize("name", DREAM_IDS + REAL_IDS)
def test_the_ids_are_registered_with_a_horizon_and_a_vector_entry_point(name):
    spec = gym.spec(name)
    assert spec.max_episode_steps is not None
    assert 30 <= spec.max_episode_steps <= 65
    assert spec.vector_entry_point is not None


def test_a_dream_passes_gymnasiums_checker_without_a_warning(checkpoint):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make("Prophet-LIBERO-v0", weights=checkpoint, render_mode="rgb_array").unwrapped)


def test_make_reads_the_module_of_an_id(checkpoint):
    env = gym.make("prophet_gym:Prophet-LIBERO-v0", weights=checkpoint)
    _, info = env.reset(seed=0)
    assert (info["suite"], info["split"]) == ("libero_object", "train")
    assert env.action_space == gym.spaces.Box(-1, 1, (8, 7), np.float32)


def test_rows_of_make_vec_dream_like_single_envs(checkpoint):
    envs = gym.make_vec("Prophet-LIBERO-v0", num_envs=3, weights=checkpoint)
    assert isinstance(envs, ProphetVectorEnv)
    assert envs.max_episode_steps == 30
    single = gym.make("Prophet-LIBERO-v0", weights=checkpoint)
    envs.reset(seed=4)
    single.reset(seed=5)
    actions = np.random.default_rng(0).uniform(-1, 1, envs.action_space.shape).astype(np.float32)
    for _ in range(2):
        info = sub_env_info(envs.step(actions)[4], 1)
        frames = single.step(actions[1])[4]["frames"].astype(int)
        assert np.abs(frames - info["frames"]).max() <= 2


def test_make_vec_gives_tensors_where_it_is_asked_to(checkpoint):
    arrays, tensors = (gym.make_vec(DREAM_IDS[0], 2, weights=checkpoint, tensors=wanted) for wanted in (False, True))
    seen, given = arrays.reset(seed=0)[0]["image"], tensors.reset(seed=0)[0]["image"]
    assert isinstance(given, torch.Tensor)
    np.testing.assert_array_equal(given.cpu().numpy(), seen)


def test_weights_are_loaded_once(checkpoint):
    one, other = (gym.make("Prophet-LIBERO-v0", weights=checkpoint).unwrapped for _ in range(2))
    assert one.world_model is other.world_model
    assert one.reward_model is other.reward_model


def test_the_judge_is_on_the_device_that_was_asked_for(checkpoint):
    reward_models = [
        checkpoints.Checkpoint.named(checkpoint).reward_model("success", device) for device in ("meta", "cpu")
    ]
    assert [next(reward_model.parameters()).device.type for reward_model in reward_models] == ["meta", "cpu"]


def test_options_of_make(checkpoint, tmp_path):
    env = gym.make("Prophet-LIBERO-v0", weights=checkpoint, starts="official", tasks=[1], reward=None)
    _, info = env.reset(seed=0)
    assert (info["split"], info["task"]) == ("official", 1)
    assert env.unwrapped.reward_model is None
    own = [InitialState(np.zeros((1, 64, 64, 3), np.uint8), "own", "libero_object")]
    write_initial_states(tmp_path, own)
    env = gym.make("Prophet-LIBERO-v0", weights=checkpoint, starts=str(tmp_path))
    assert env.reset(seed=0)[1]["instruction"] == "own"
    envs = gym.make_vec(
        "Prophet-LIBERO-v0", num_envs=2, weights=checkpoint, max_episode_steps=7, autoreset_mode="Disabled"
    )
    assert envs.max_episode_steps == 7
    assert envs.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    with pytest.raises(UnknownOptionError, match=r"mode 'off'\. Known: Disabled, NextStep, SameStep"):
        gym.make_vec("Prophet-LIBERO-v0", num_envs=2, weights=checkpoint, autoreset_mode="off")


@pytest.mark.parametrize("vector", [False, True])
def test_gripper_and_doubt_are_options_of_make(checkpoint, vector):
    options = {"weights": checkpoint, "proprioception": True, "max_uncertainty": 0.0}
    env = gym.make_vec("Prophet-LIBERO-v0", 1, **options) if vector else gym.make("Prophet-LIBERO-v0", **options)
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert observation["gripper_position"].shape[-1] == 3
    *_, truncated, info = env.step(np.zeros(env.action_space.shape, np.float32))
    assert np.all(truncated)
    assert np.all(info["uncertainty"] > 0)


PLAIN = {
    "tasks": (np.int64(1),),
    "chunk": np.int64(8),
    "max_uncertainty": np.float32(0.5),
    "device": torch.device("cpu"),
    "dtype": torch.float32,
    "suite": np.str_("libero_object"),
    "proprioception": np.bool_(True),
    "render_mode": "rgb_array",
}


@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize("tasks", [np.array([1]), range(1, 2), [np.int32(1)]], ids=["array", "range", "list"])
def test_paths_and_numpys_numbers_are_taken_and_come_back_from_json(checkpoint, vector, tasks):
    folder = Path(checkpoint)
    options = PLAIN | {"weights": folder, "starts": folder / "starts" / "official", "tasks": tasks}
    options["reward"] = folder / "success_head"
    if vector:
        options |= {"max_episode_steps": np.int64(2), "autoreset_mode": AutoresetMode.SAME_STEP}
        env = gym.make_vec("Prophet-LIBERO-v0", num_envs=np.int64(2), **options)
        again = gym.make_vec(EnvSpec.from_json(env.spec.to_json()))
    else:
        env = gym.make("Prophet-LIBERO-v0", **options)
        again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert json.loads(env.spec.to_json())["kwargs"]["tasks"] == [1]
    assert_same(again.reset(seed=0), env.reset(seed=0))
    action = np.zeros(env.action_space.shape, np.float32)
    for _ in range(2):
        assert_same(again.step(action), env.step(action))


def test_creating_many_envs_takes_nothing_that_is_not_given_back(checkpoint):
    def make():
        env = gym.make("Prophet-LIBERO-v0", weights=checkpoint)
        envs = gym.make_vec("Prophet-LIBERO-v0", num_envs=2, weights=checkpoint)
        envs.close()
        env.close()

    def held() -> tuple[int, int]:
        handles = Path("/proc/self/fd")
        return len(list(handles.iterdir())) if handles.is_dir() else 0, threading.active_count()

    for _ in range(5):
        make()
    gc.collect()
    before, objects = held(), len(gc.get_objects())
    for _ in range(25):
        make()
    gc.collect()
    assert held() == before
    assert len(gc.get_objects()) - objects < 100  # less than what one env holds, times 50


def test_a_suite_without_weights_names_weights_that_have_it(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "_CHECKPOINTS", tmp_path)
    save_checkpoint(tmp_path / "libero_small")
    save_checkpoint(tmp_path / "goal_small", suite="libero_goal")
    with pytest.raises(MissingWeightsError, match=r"cover libero_object, not libero_goal: pass weights='goal_small'"):
        gym.make("Prophet-LIBERO-Goal-v0")
    gym.make("Prophet-LIBERO-Goal-v0", weights="goal_small").reset(seed=0)
    with pytest.raises(MissingWeightsError, match=r"no bundled weights do.*libero_small covers libero_object \(Proph"):
        gym.make("Prophet-LIBERO-Spatial-v0")


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"weights": "nowhere"}, MissingWeightsError, "found no folder"),
        ({"reward": "sucess"}, UnknownOptionError, "Did you mean 'success'"),
        ({"starts": "offical"}, UnknownOptionError, "Did you mean 'official'"),
        ({"device": "gpu"}, UnknownOptionError, "unknown device 'gpu'"),
        ({"device": "cuda:99"}, UnknownOptionError, "device must be on this machine, got 'cuda:99'"),
        ({"tasks": [7]}, UnknownOptionError, "unknown task 7. Known: 0, 1"),
        ({"weights": 3}, MissingWeightsError, "weights must be a name or the path of a folder, got 3"),
        ({"tasks": [True]}, ValueError, r"as in tasks=\[0, 3\], got \[True\]"),
        ({"tasks": 1}, ValueError, r"as in tasks=\[0, 3\], got 1"),
        ({"tasks": [0.5]}, ValueError, r"as in tasks=\[0, 3\], got \[0.5\]"),
        ({"proprioception": "no"}, ValueError, "proprioception must be True or False, got 'no'"),
        ({"dtype": "float64"}, UnknownOptionError, "unknown dtype 'float64'"),
        ({"tasks": []}, ValueError, r"as in tasks=\[0, 3\], got \[\]"),
        ({"max_uncertainty": -1.0}, ValueError, "max_uncertainty must be a number of at least 0, got -1.0"),
        ({"render_mode": "ansi"}, UnknownOptionError, "unknown render mode 'ansi'"),
    ],
)
def test_bad_arguments_of_make(checkpoint, kwargs, error, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # what users read, who have no such checks
    with pytest.raises(error, match=message):
        gym.make("Prophet-LIBERO-v0", **{"weights": checkpoint, **kwargs})


def test_a_refused_first_reset_leaves_the_env_usable(checkpoint):
    env = gym.make("Prophet-LIBERO-v0", weights=checkpoint)
    with pytest.raises(UnknownOptionError, match="Did you mean 'task'"):
        env.reset(options={"tsk": 1})
    env.reset(seed=0)
    with pytest.raises(InvalidActionError, match="shape"):
        env.step(np.zeros(3))
    assert env.step(np.zeros((8, 7), np.float32))[4]["executed"] == 8


def test_unknown_id():
    with pytest.raises(gym.error.NameNotFound, match="Did you mean"):
        gym.make("Prophet-LIBRO-v0")


@pytest.mark.parametrize(
    "victim", ["success_head/model.safetensors", "transformer/diffusion_pytorch_model.safetensors"]
)
def test_truncated_weights(tmp_path, victim):
    folder = save_checkpoint(tmp_path)
    (folder / victim).write_bytes((folder / victim).read_bytes()[:100])
    with pytest.raises(CheckpointError, match=Path(victim).parts[0]):
        gym.make("Prophet-LIBERO-v0", weights=str(folder))


def test_an_argument_that_does_not_exist_is_named_with_the_closest():
    with pytest.raises(UnknownOptionError, match=r"unknown argument of gym.make 'rewrd'\. Did you mean 'reward'"):
        gym.make("Prophet-LIBERO-v0", rewrd=None)
    with pytest.raises(UnknownOptionError, match="Did you mean 'weights'"):
        gym.make_vec("Prophet-LIBERO-v0", num_envs=1, weight="bundled")
