"""The reach of the example and its benchmark: the way leads to the mark, a killed run goes on, scores by hand."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from prophet_gym.embodiments._libero import camera
from prophet_gym.rewards import ReachReward
from prophet_gym.specs import InitialState
from prophet_gym.world_model import Chunk

pytest.importorskip("stable_baselines3")
pytest.importorskip("scipy")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:stable_baselines3")

CAMERA = camera("libero_object", 0).matrix
REST = (-0.15, 0.0, 0.25)


class MovingPoint:
    """A gripper that covers a tenth of a metre per chunk at full command; the first row of a frame spells its place."""

    chunk, frame_size, action_dim = 8, (36, 36), 7
    config = SimpleNamespace(camera=CAMERA.astype(np.float32).tolist(), suite="libero_object")

    def see_gripper(self, frames):
        spelt = frames[:, 0, :12, 0].contiguous().numpy()
        return torch.from_numpy(spelt.view(np.float32).reshape(-1, 3).copy())

    def read_gripper(self, state):
        return state["place"]

    def encode(self, frames):
        return {"place": torch.tensor([REST]).repeat(len(frames), 1)}

    def rollout(self, state, actions, *, generators):
        place = state["place"].clone()
        place[:, :2] += 0.1 * actions[:, :, :2].mean(1)
        return Chunk({"place": place}, image(place)[:, None].repeat(1, self.chunk, 1, 1, 1))


def image(places: torch.Tensor) -> torch.Tensor:
    frames = torch.zeros(len(places), 36, 36, 3, dtype=torch.uint8)
    frames[:, 0, :12] = torch.from_numpy(places.numpy().view(np.uint8).copy())[..., None]
    return frames


@pytest.fixture(scope="module")
def reach():
    from experiments.reach_with_ppo import run

    return run


@pytest.fixture
def starts(reach):
    start = InitialState(image(torch.tensor([REST])).numpy(), "")
    return reach.EXAMPLE.with_marks([start], 0, 4)


def test_going_the_way_that_is_seen_reaches_the_mark(reach, starts):
    world = MovingPoint()
    envs, options = reach.dream(world, starts)
    reward_model = ReachReward(reach.EXAMPLE.finder(world))
    found = {
        name: reach.play(envs, act, starts, options, reward_model, CAMERA)
        for name, act in {
            "follow": lambda seen, _: np.clip(2 * seen["way"], -1, 1),
            "still": reach.acts([])["still"],
        }.items()
    }
    assert max(found["follow"]["scored_px"]) < 0.5
    assert max(found["follow"]["gripper_cm"]) < 2
    assert min(found["still"]["scored_px"]) > 1
    assert np.mean(found["follow"]["return"]) > np.mean(found["still"]["return"]) + 1
    (right, down), place = reach.mark_of(starts[0].instruction), torch.tensor([REST])
    seen = reach.EXAMPLE.finder(world)(image(place))[0].numpy()
    distance = np.linalg.norm(seen - [right, down])
    assert found["still"]["return"][0] == pytest.approx(8 * (1 - distance / 0.25), abs=1e-4)


def test_random_actions_are_of_the_episode_whatever_the_batch(reach):
    act, other = (reach.acts([])["random"] for _ in range(2))
    whole = np.stack([act({}, range(4)) for _ in range(3)], axis=1)
    np.testing.assert_array_equal(whole[2], np.stack([other({}, range(2, 3))[0] for _ in range(3)]))
    assert len(np.unique(whole)) == whole.size


def test_the_point_of_a_plane_appears_at_the_mark(reach):
    point = reach.on_plane((0.3, 0.4), 0.25, CAMERA)
    seen = CAMERA @ np.append(point, 1)
    np.testing.assert_allclose(seen[:2] / seen[2], [0.3, 0.4], atol=1e-9)
    assert point[2] == 0.25


def test_a_killed_run_goes_on_where_it_was(reach, starts, tmp_path):
    def venv():
        return reach.EXAMPLE.make(MovingPoint(), starts, 4)

    reach.train(venv(), tmp_path, 0, 64, 32)
    kept = json.loads((tmp_path / "curve.json").read_text(encoding="utf-8"))
    (tmp_path / "curve.json").write_text(json.dumps([*kept, {"chunk_steps": 96, "return": 9.0, "seconds": 1.0}]))
    model = reach.train(venv(), tmp_path, 0, 128, 32)
    curve = json.loads((tmp_path / "curve.json").read_text(encoding="utf-8"))
    assert model.num_timesteps == 128
    assert [point["chunk_steps"] for point in curve] == [32, 64, 96, 128]
    assert curve[:2] == kept
    assert curve[2]["return"] != 9.0
    again = reach.train(venv(), tmp_path, 0, 128, 32)
    assert all(torch.equal(a, b) for a, b in zip(model.policy.parameters(), again.policy.parameters(), strict=True))
    assert len(reach.curves([tmp_path])["chunk_steps"]) == 4


def test_a_folder_belongs_to_one_run(reach, tmp_path):
    reach.claim(reach.Args(out=tmp_path / "a"))
    reach.claim(reach.Args(out=tmp_path / "a", json=tmp_path / "x.json"))
    with pytest.raises(ValueError, match="holds a run with seeds=3"):
        reach.claim(reach.Args(out=tmp_path / "a", seeds=5))


def test_intervals_are_over_seeds_and_margins_are_paired(reach):
    found = reach.seed_interval(np.array([1.0, 2.0, 3.0]))
    assert found["mean"] == 2
    assert found["high"] - 2 == pytest.approx(4.3027 / 3**0.5, abs=1e-3)
    arms = {"random": [0.0, 10.0], "still": [1.0, 11.0], "seed_0": [2.0, 12.0], "seed_1": [4.0, 14.0]}
    report = reach.summarise({arm: dict.fromkeys(reach.METRICS, values) for arm, values in arms.items()})
    assert report["ppo"]["return"]["mean"] == 8
    assert [report["return_over_random"][key] for key in ("mean", "low", "high")] == [3, 3, 3]
    assert report["return_over_still"]["mean"] == 2
