"""The experiment from cloning to a learned policy, on a tiny policy and one-chunk dreams in place of LIBERO."""

import json
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, VectorEnv

from experiments.reinforce_in_dream import bundle, episodes, files, protocol, report
from experiments.reinforce_in_dream import run as experiment
from prophet_gym.checkpoint import bundled_checkpoints
from prophet_gym.errors import SimulatorLostError
from prophet_gym.world_model import RewardOutput
from prophrl_algos._named import make_policy

STAND_IN = "Prophet-LIBERO-Object-v0"

pytestmark = pytest.mark.skipif(not bundled_checkpoints().get("libero_small"), reason="no checkpoint is bundled")


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_it_clones_chooses_learns_and_evaluates_once_and_reports(place, short_dreams, monkeypatch):
    experiment.run_stages(place, "sft")
    experiment.run_stages(place, "learn", ["fa-grpo-s0"])
    assert not (place.logs / files.EVALUATIONS).exists()
    experiment.run_stages(place)
    found = {(line["run"], line["update"], line["world"]): line for line in lines(place.logs / files.EVALUATIONS)}
    assert set(found) == {
        (run, update, world)
        for run, updates in {"sft": (0,), "fa-grpo-s0": (1, 2)}.items()
        for update in updates
        for world in (STAND_IN, protocol.DREAM)
    }
    assert found["fa-grpo-s0", 1, STAND_IN]["start"] == [0, 1]
    assert found["fa-grpo-s0", 2, STAND_IN]["start"] == [0, 1, 2]
    assert found["fa-grpo-s0", 2, STAND_IN]["rewarded"] in ([0, None, None], [1, None, None])
    assert found["fa-grpo-s0", 2, protocol.DREAM]["rewarded"] == [None, None, None]
    assert [line["update"] for line in lines(place.logs / "learning" / "fa-grpo" / "s0.jsonl")] == [0, 1]
    before = {path: path.stat().st_mtime_ns for path in place.out.rglob("*.safetensors")}
    monkeypatch.setattr(episodes, "evaluate", None)
    monkeypatch.setattr(experiment, "learn", None)
    experiment.run_stages(place)
    assert before == {path: path.stat().st_mtime_ns for path in place.out.rglob("*.safetensors")}
    summary = report.summarise(place.logs)
    assert summary["arms"]["fa-grpo"]["runs"] == 1
    assert [point["update"] for point in summary["arms"]["fa-grpo"]["curve"]] == [0, 1, 2]


def test_bundled_weights_need_no_cloning_and_an_arm_may_have_a_worse_reward(place, short_dreams, tmp_path):
    weights = tmp_path / "cloned.safetensors"
    files.write_weights(make_policy("benchmarks.toys:tiny", files.spaces(), None), weights, half=True)
    arm = protocol.Arm("fa-grpo", recall=0.5, false_positive_rate=1.0)
    place = replace(place, size=replace(place.size, cloned=str(weights), arms={"worse": arm}, updates=1))
    experiment.run_stages(place, "sft")
    assert not (place.out / "sft").exists()
    experiment.run_stages(place, "learn")
    learned = lines(place.logs / "learning" / "worse" / "s0.jsonl")
    assert learned[0]["success"] == 1.0
    experiment.run_stages(place, "evaluate", ["sft"])
    assert {line["run"] for line in lines(place.logs / "evaluations.jsonl")} == {"sft"}


def test_another_protocol_in_the_same_logs_is_refused(place):
    files.claim(place)
    files.claim(place)
    with pytest.raises(ValueError, match="other updates: give other --logs"):
        files.claim(replace(place, size=replace(place.size, updates=3)))
    with pytest.raises(ValueError, match="other updates: give other --logs"):
        files.claim(replace(place, size=replace(place.size, updates=3), logs=place.logs / "new"))
    files.claim(replace(place, size=replace(place.size, updates=3), logs=place.logs / "new", out=place.out / "new"))
    with pytest.raises(ValueError, match="no runs named fa-grpo-s2; there are sft, fa-grpo-s0"):
        experiment.run_stages(place, only=["fa-grpo-s2"])


def test_logs_of_another_dream_or_another_bundled_policy_are_refused(place, monkeypatch):
    place = replace(place, size=replace(place.size, cloned=protocol.CLONED))
    made_of = files.files_of(place.size)
    assert {"transformer/diffusion_pytorch_model.safetensors", f"{protocol.CLONED}/model.safetensors"} <= set(made_of)
    files.claim(place)
    monkeypatch.setattr(
        files, "files_of", lambda size, dream: {**made_of, f"{protocol.CLONED}/model.safetensors": "another"}
    )
    with pytest.raises(ValueError, match="other files: give other --logs"):
        files.claim(place)


def test_logs_of_another_cloned_policy_are_refused(place, tmp_path):
    for name, rows in {"one": 2, "other": 3}.items():
        files.write_weights(torch.nn.Linear(2, rows), tmp_path / name)
    files.claim_cloned(place, tmp_path / "one")
    files.claim_cloned(place, tmp_path / "one")
    with pytest.raises(ValueError, match=r"of another cloned policy than .*other: give other --logs"):
        files.claim_cloned(place, tmp_path / "other")
    with pytest.raises(ValueError, match=r"is of a cloned policy that is not in .*00002\.safetensors: bring it there"):
        experiment.clone(place)


def test_cloning_is_of_the_tasks_and_scripts_it_is_asked_for_and_tried_in_both_worlds(place, monkeypatch):
    asked, read, tried = [], experiment.read_demonstrations, []
    place = replace(place, size=replace(place.size, tasks=(3, 5), sft_failing=("expert",)))
    monkeypatch.setattr(experiment, "read_demonstrations", lambda *a, **k: asked.append((a[1:], k)) or read(*a, **k))
    monkeypatch.setattr(
        experiment, "episodes_of", lambda *a, **__: tried.append(a[4]) or [{"success": 1}, {"success": 0}]
    )
    with pytest.raises(FileNotFoundError, match="clone a policy with --stage sft"):
        experiment.run_stages(place, "learn")
    for _ in range(2):
        experiment.run_stages(place, "sft")
    assert asked == [((place.data,), {"tasks": (3,), "failing": ("expert",), "without": ()})]
    assert tried == 2 * [[{"task": 3, "start": 0}, {"task": 3, "start": 1}]]
    assert [(line["run"], line["world"]) for line in lines(place.logs / files.TRIES)] == [
        ("sft", STAND_IN), ("sft", protocol.DREAM),
    ]  # fmt: skip
    assert place.initial_weights() == place.snapshot("sft", 2)


def test_the_learning_rate_is_the_one_that_does_better_in_libero(place, monkeypatch):
    place = replace(place, size=replace(place.size, rates=(1e-5, 3e-5, 1e-4)))
    monkeypatch.setattr(files.Place, "initial_weights", lambda place: Path("cloned"))
    monkeypatch.setattr(experiment, "try_rate", lambda place, weights, rate: {1e-5: 0.2, 3e-5: 0.5, 1e-4: 0.1}[rate])
    assert experiment.choose(place)["rate"] == 3e-5
    monkeypatch.setattr(experiment, "try_rate", None)
    assert experiment.choose(place)["rate"] == 3e-5


def test_episodes_are_begun_again_twice_where_the_simulator_is_lost(capsys):
    lost, asked = [2, 3], []

    @episodes.begun_again
    def repeated(start, *, seed):
        asked.append((start, seed))
        if lost[0]:
            lost[0] -= 1
            raise SimulatorLostError("gone")
        return start

    assert repeated(4, seed=7) == 4
    assert asked == 3 * [(4, 7)]
    assert capsys.readouterr().out == 2 * "gone; its episodes are begun once more\n"
    lost.pop(0)
    with pytest.raises(SimulatorLostError):
        repeated(4, seed=7)
    assert len(asked) == 6


def test_a_line_that_was_cut_is_lost_alone(tmp_path):
    path = tmp_path / "logs" / "lines.jsonl"
    files.add_line(path, {"a": 1})
    path.write_text(path.read_text(encoding="utf-8") + '{"a": 2')
    files.add_line(path, {"a": 3})
    assert files.read_lines(path) == [{"a": 1}, {"a": 3}]


class Counted(VectorEnv):
    """Two rows whose frames count the steps; row 1 ends after two, row 0 after three."""

    def __init__(self):
        self.num_envs, self.t = 2, 0
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.single_action_space = self.action_space = gym.spaces.Discrete(2)
        self.single_observation_space = self.observation_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return {"image": np.zeros((2, 1, 1, 3), np.uint8)}, {"instruction": ["a", "b"]}

    def step(self, actions):
        self.t += 1
        frames = np.full((2, 2, 1, 1, 3), self.t, np.uint8)
        ended = np.array([self.t >= 3, self.t >= 2])
        return {"image": frames[:, -1]}, np.zeros(2), np.zeros(2, bool), ended, {"frames": frames}


class Three:
    """Says success where a film ends with frame 3, and remembers what it was shown."""

    when, stride, max_frames = "chunk", 1, 3

    def __init__(self):
        self.shown = []

    def score(self, videos, instructions):
        self.shown += [(text, video[:, 0, 0, 0].tolist()) for video, text in zip(videos, instructions, strict=True)]
        reward = torch.tensor([float(video[-1, 0, 0, 0] == 3) for video in videos])
        return RewardOutput(reward, torch.ones(len(videos), dtype=torch.bool))


def test_the_reward_model_sees_each_live_row_with_the_frames_before_and_no_ended_one():
    reward_model = Three()
    env = episodes.Scored(Counted(), reward_model)
    for _ in range(2):
        env.reset()
        for _ in range(3):
            env.step(None)
    assert env.rewarded == [True, False, True, False]
    assert reward_model.shown[:5] == [
        ("a", [0, 1, 1]),
        ("b", [0, 1, 1]),
        ("a", [1, 2, 2]),
        ("b", [1, 2, 2]),
        ("a", [2, 3, 3]),
    ]


class Falling(Counted):
    """Row 1 succeeds with its second step; what follows are frames 100 to 123."""

    def step(self, actions):
        observation, reward, _, ended, info = super().step(actions)
        return observation, reward, ended, np.zeros(2, bool), info | {"executed": np.array([2, 1])}

    def go_on(self, row, actions):
        assert (actions[:, :6] == 0).all()
        assert (actions[:, 6] == -1).all(), "the hand opens"
        return np.arange(100, 100 + len(actions), dtype=np.uint8).reshape(-1, 1, 1, 1).repeat(3, -1)


def test_the_reward_model_looks_on_after_a_success_in_libero(monkeypatch):
    reward_model = Three()
    monkeypatch.setattr(episodes, "SimulatorVectorEnv", Falling)
    env = episodes.Scored(Falling(), reward_model)
    env.reset()
    for _ in range(2):
        env.step(None)
    assert [video for text, video in reward_model.shown if text == "b"] == [
        [0, 1, 1], [1, 1, 2], [105, 106, 107], [113, 114, 115], [121, 122, 123],
    ]  # fmt: skip


def test_an_arm_learns_by_its_own_settings_and_in_the_dream_that_is_given(place, monkeypatch):
    asked = []

    def stop(args, wrap):
        asked.append(args)
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "make_trainer", stop)
    place = replace(place, dream="mine")
    square = protocol.arms(1, 1, flow_steps=4)
    arms = [square[name] for name in ("flow-grpo", "fa-grpo", "fa-grpo+flowscale-path", "fa-grpo-libero")]
    for arm in arms:
        with pytest.raises(KeyboardInterrupt):
            experiment.learn(place, "run", arm, 0, Path("weights"), 1e-5)
    configs = [each.config for each in asked]
    assert [(c.clip_low, c.clip_high, c.beta, c.noise_level) for c in configs] == [
        (0.0134, 0.0187, 0.0625, 1.0), (0.2, 0.28, 0.25, 1.0), (0.2, 0.28, 0.01, 0.2), (0.2, 0.28, 0.25, 1.0)
    ]  # fmt: skip
    assert [each.world_model for each in asked] == ["mine", "mine", "mine", ""]


def test_a_chosen_policy_is_bundled_in_half_precision_and_acts_the_same(place, tmp_path, monkeypatch):
    from prophrl_algos.vla import SmallVLA

    place = replace(place, size=replace(place.size, policy="small-k4", sft_steps=1, choose_episodes=1))
    monkeypatch.setattr(experiment, "episodes_of", lambda *_, **__: [{"success": 1}, {"success": 0}])
    monkeypatch.setitem(bundle.SIZES, "short", place.size)
    with pytest.raises(FileNotFoundError, match="clone a policy"):
        bundle.main("short", place.out, place.logs, tmp_path / "bundle")
    experiment.run_stages(place, "sft")
    bundle.main("short", place.out, place.logs, tmp_path / "bundle")
    assert sorted(path.name for path in (tmp_path / "bundle").iterdir()) == ["config.json", "model.safetensors"]
    assert (tmp_path / "bundle" / "model.safetensors").stat().st_size < 10e6
    loaded = SmallVLA.from_pretrained(tmp_path / "bundle", num_steps=4)
    chosen = files.read_policy(place, place.snapshot("sft", 1))
    assert loaded.spec == chosen.spec
    assert all(
        torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), chosen.state_dict().values(), strict=True)
    )


def test_json_lines_are_whole_forget_what_came_after_a_kill_and_have_no_nan(tmp_path):
    path = tmp_path / "deep" / "metrics.jsonl"
    first = files.JsonLines(path)
    for update in range(3):
        first.log({"return": update / 3, "success": float("nan")}, update)
    files.JsonLines(path).log({"return": 9.0}, 1)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows == [{"update": 0, "return": 0.0, "success": None}, {"update": 1, "return": 9.0}]
