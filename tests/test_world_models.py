"""A world model of another package behind `weights=`: registered by a call or an entry point, never by a folder."""

import json
import re
import sys
from importlib.metadata import EntryPoint

import gymnasium as gym
import numpy as np
import pytest

import prophet_gym
from prophet_gym import checkpoint as checkpoints
from prophet_gym.checkpoint import Checkpoint, register_world_model
from prophet_gym.envs import write_initial_states
from prophet_gym.errors import CheckpointError, MissingWeightsError, UnknownOptionError
from prophet_gym.prophet import tiny_prophet
from prophet_gym.specs import InitialState

PACKAGE = """
import json
import re
import torch
from prophet_gym.world_model import Chunk

class Fading:
    chunk, frame_size, action_dim = 8, (16, 16), 7

    def __init__(self, step):
        self.step = step

    @classmethod
    def from_pretrained(cls, folder, *, device, dtype):
        assert (device, dtype) == ("cpu", torch.float32)
        return cls(json.loads((folder / "prophet.json").read_text())["step"])

    def encode(self, frames):
        return {"last": frames[:, -1].clone()}

    def rollout(self, state, actions, *, generators):
        fades = [(state["last"].int() - self.step * n).clamp(0, 255) for n in range(1, self.chunk + 1)]
        frames = torch.stack(fades, dim=1).to(torch.uint8)
        return Chunk(state={"last": frames[:, -1].clone()}, frames=frames)

class NoWorldModel:
    @classmethod
    def from_pretrained(cls, folder, *, device, dtype):
        return cls()
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Another package on the path, and a checkpoint's folder of its class."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "fading_worlds.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr(checkpoints, "_WORLD_MODELS", dict(checkpoints._WORLD_MODELS))
    monkeypatch.delitem(sys.modules, "fading_worlds", raising=False)
    folder = tmp_path / "fading"
    frames = np.full((1, 16, 16, 3), 200, np.uint8)
    write_initial_states(folder / "starts" / "train", [InitialState(frames, "fade", "libero_object")])
    (folder / "prophet.json").write_text(json.dumps({"class": "Fading", "step": 2}))
    yield folder
    checkpoints._world_model.cache_clear()


def step(folder):
    env = gym.make("Prophet-LIBERO-v0", weights=folder, reward=None)
    env.reset(seed=0)
    return env.step(np.zeros((8, 7), np.float32))[4]["frames"][-1, 0, 0].tolist()


def test_a_registered_class_dreams_behind_weights(package):
    register_world_model("Fading", "fading_worlds:Fading")
    register_world_model("Fading", "fading_worlds:Fading")
    assert step(package) == [184] * 3
    with pytest.raises(MissingWeightsError, match="are of libero, not bridge"):
        Checkpoint.named(package, "bridge")


def test_a_class_without_engines_is_asked_for_none(package):
    register_world_model("Fading", "fading_worlds:Fading")
    gym.make("Prophet-LIBERO-v0", weights=package, reward=None, engine="auto")
    with pytest.raises(UnknownOptionError, match="engine of a Fading 'openvino'"):
        gym.make("Prophet-LIBERO-v0", weights=package, reward=None, engine="openvino")


def test_an_entry_point_of_an_installed_package_registers_too(package, monkeypatch):
    entry = EntryPoint("Fading", "fading_worlds:Fading", "prophet_gym.world_models")
    monkeypatch.setattr(checkpoints, "entry_points", lambda *, group: [entry] * (group == entry.group))
    assert step(package) == [184] * 3


@pytest.mark.parametrize("name", ["Fading", "fading_worlds:Fading", "os:system"])
def test_a_folder_names_no_class_that_is_not_registered(package, name):
    (package / "prophet.json").write_text(json.dumps({"class": name, "step": 2}))
    with pytest.raises(
        CheckpointError, match="class must be one of ActionProphet, FullProphet, SmallProphet, TwoViewProphet, got"
    ):
        step(package)
    assert "fading_worlds" not in sys.modules


def test_a_class_that_is_no_world_model_is_refused(package):
    register_world_model("Fading", "fading_worlds:NoWorldModel")
    with pytest.raises(ValueError, match=r"NoWorldModel has no chunk, frame_size"):
        step(package)


def test_a_name_means_one_class():
    with pytest.raises(ValueError, match="'SmallProphet' is registered already"):
        register_world_model("SmallProphet", "fading_worlds:Fading")
    with pytest.raises(ValueError, match="given as 'module:Class'"):
        register_world_model("Fading", "fading_worlds")


def test_a_name_leads_to_the_networks_in_few_stays(tmp_path):
    """The functions that one reads from `weights=` to the networks, without what only checks (`require_...`)."""
    tiny_prophet().save_pretrained(tmp_path)
    frames = np.zeros((1, 64, 64, 3), np.uint8)
    write_initial_states(tmp_path / "starts" / "train", [InitialState(frames, "stay", "libero_object")])
    root, seen = f"{prophet_gym.__path__[0]}/", set()
    way = re.compile(r"(factory|checkpoint|_io/(hub|header|networks)|prophet/(_base|_small))\.py")

    def note(frame, event, _):
        path, name = frame.f_code.co_filename, frame.f_code.co_qualname
        ours = event == "call" and path.startswith(root) and way.fullmatch(path.removeprefix(root))
        if ours and not re.search(r"(^|\.)_?require_|<|initial_states|reward_model|_normalised", name):
            seen.add((path.removeprefix(root), name))

    sys.setprofile(note)
    try:
        gym.make("Prophet-LIBERO-v0", weights=tmp_path, reward=None)
    finally:
        sys.setprofile(None)
    assert ("prophet/_small.py", "SmallProphet.__init__") in seen
    assert len(seen) < 20, sorted(seen)
