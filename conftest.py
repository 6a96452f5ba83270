"""Shapes and types of both packages are checked while tests run; state dicts in the released layout."""

import re
import signal
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

install_import_hook(["prophet_gym", "prophrl_algos"], "beartype.beartype")

collect_ignore = ["tests/stand_ins"]
GOLDEN = Path(__file__).parent / "tests" / "data" / "prophet_dit.safetensors"


def pytest_configure():
    """Take interrupts, which a shell that begins the tests in the background has them ignore."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path):
    """Look for examples in the packages alone.

    A test file that cannot be imported would otherwise vanish: the search for examples skips it, and leaves half a
    module behind, in which the search for tests finds none.
    """
    found = yield
    return [each for each in found if type(each).__name__ != "DoctestModule" or not file_path.name.startswith("test_")]


def pytest_collection_modifyitems(items):
    """Skip the simulator's own examples where it cannot run, and say why."""
    modules = ("prophet_gym.sims.env.", "prophet_gym.sims.libero.simulator.")
    examples = [item for item in items if isinstance(item, pytest.DoctestItem) and item.name.startswith(modules)]
    if examples:
        from prophet_gym.sims.libero._install import missing

        if why := missing():
            for item in examples:
                item.add_marker(pytest.mark.skip(reason=why))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """Let no test be skipped that only `make test-vla` runs."""
    report = yield
    if report.skipped and item.get_closest_marker("vla"):
        report.outcome = "failed"
        report.longrepr = f"marked vla and skipped: {report.longrepr[-1]}"
    return report


@pytest.fixture(scope="session")
def golden_state():
    """The golden network in the released layout."""
    from safetensors.torch import load_file

    return {k: v for k, v in load_file(GOLDEN).items() if k.startswith("net.")}


@pytest.fixture(scope="session")
def release(golden_state):
    """`release(dtype, **config)`: a random network in the released layout, training counters included."""
    import torch

    from prophet_gym.prophet._transformer import ProphetTransformer3DModel
    from prophet_gym.prophet.convert._layout import is_counter, rename

    names = {rename(key): key for key in golden_state if not is_counter(key)}
    counters = {key: value for key, value in golden_state.items() if is_counter(key)}

    def make(dtype=torch.float32, **config):
        with torch.device("meta"):
            expected = ProphetTransformer3DModel(**config).state_dict()
        generator = torch.Generator().manual_seed(0)
        state = {}
        for name, value in expected.items():
            number = re.match(r"transformer_blocks\.(\d+)\.", name)
            key = names[re.sub(r"^(transformer_blocks)\.\d+\.", r"\1.0.", name)]
            key = key if number is None else key.replace("blocks.0.", f"blocks.{number[1]}.")
            drawn = (torch.randn(value.shape, generator=generator) * 0.05).to(dtype)
            state[key] = drawn[..., None, None, None] if "framepack_mem.proj" in key and value.ndim == 2 else drawn
        return state | counters

    return make


@pytest.fixture(scope="session")
def record():
    """`record(folder, index)`: an episode of task 0 in a recording, of one shade; anything about it can be said."""
    import json

    import numpy as np

    from prophet_gym.data._episode import Simulation
    from prophet_gym.data._recording import META, episode_path, simulated_episode, write_episode

    def make(folder, index, success=True, *, steps=5, shade=0, frames=None, wrist_frames=None, **about):
        values = {
            "gripper_position": np.zeros((steps + 1, 3), np.float32),
            "gripper_quaternion": np.tile(np.float32([0, 0, 0, 1]), (steps + 1, 1)),
            "gripper_opening": np.zeros(steps + 1, np.float32),
            "object_positions": np.zeros((steps + 1, 1, 3), np.float32),
            "object_names": ("can",),
            "target": "can",
            "success": np.broadcast_to(np.asarray(success, bool), steps + 1).copy(),
            "init_state": np.zeros(2),
            "suite": "libero_object",
            "task": 0,
            "mode": "expert",
            "seed": index,
            "look": "light",
            "actions": np.full((steps, 7), 0.25, np.float32),
            "camera": np.array([[0, 0, 0, 0.5], [0, 0, 0, 0.75], [0, 0, 0, 1.0]]),
            "instruction": "pick up the can",
        } | about
        own = {name: values.pop(name) for name in ("actions", "camera", "instruction")}
        episode = simulated_episode(**own, simulation=Simulation(**values))
        path = episode_path(folder, episode.sim.task, index)
        path.parent.mkdir(parents=True, exist_ok=True)
        (folder / META).write_text(json.dumps({"starts": "train"}))
        frames = np.full((steps + 1, 64, 64, 3), shade, np.uint8) if frames is None else frames
        write_episode(path, episode, frames, wrist_frames)

    return make
