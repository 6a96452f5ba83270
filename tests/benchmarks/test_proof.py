"""The proof's machinery, from cloning to a learnt policy, on a tiny policy and one-chunk dreams in place of reality."""

import json
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, VectorEnv

from prophet_gym.data.recording import META
from prophet_gym.errors import SimulatorLostError
from prophet_gym.factory import bundled_checkpoints
from prophet_gym.world_model import Verdict

STAND_IN = "Prophet-LIBERO-Object-v0"

pytestmark = pytest.mark.skipif(not bundled_checkpoints().get("libero_small"), reason="no checkpoint is bundled")


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_it_clones_chooses_learns_and_evaluates_once_and_reports(benchmark, place, short_dreams, monkeypatch):
    proof, report = benchmark("proof"), benchmark("proof_report")
    proof.prove(place, "sft")
    proof.prove(place, "learn", ["fa-grpo-s0"])
    assert not (place.logs / proof.EVALUATIONS).exists()
    proof.prove(place)
    found = {(line["run"], line["update"], line["world"]): line for line in lines(place.logs / proof.EVALUATIONS)}
    assert set(found) == {
        (run, update, world)
        for run, updates in {"sft": (0,), "fa-grpo-s0": (1, 2)}.items()
        for update in updates
        for world in (STAND_IN, proof.DREAM)
    }
    assert found["fa-grpo-s0", 1, STAND_IN]["start"] == [0, 1]
    assert found["fa-grpo-s0", 2, STAND_IN]["start"] == [0, 1, 2]
    assert found["fa-grpo-s0", 2, STAND_IN]["seen"] in ([0, None, None], [1, None, None])
    assert found["fa-grpo-s0", 2, proof.DREAM]["seen"] == [None, None, None]
    assert [line["update"] for line in lines(place.logs / "learning_fa-grpo-s0.jsonl")] == [0, 1]
    before = {path: path.stat().st_mtime_ns for path in place.out.rglob("*.safetensors")}
    monkeypatch.setattr(benchmark("proof_episodes"), "evaluate", None)
    monkeypatch.setattr(proof, "learn", None)
    proof.prove(place)
    assert before == {path: path.stat().st_mtime_ns for path in place.out.rglob("*.safetensors")}
    summary = report.summarise(place.logs)
    assert summary["arms"]["fa-grpo"]["runs"] == 1
    assert [point["update"] for point in summary["arms"]["fa-grpo"]["curve"]] == [0, 1, 2]


def test_bundled_weights_need_no_cloning_and_an_arm_may_have_a_worse_reward(benchmark, place, short_dreams, tmp_path):
    proof, sizes = benchmark("proof"), benchmark("proof_sizes")
    weights = tmp_path / "cloned.safetensors"
    proof.write_weights(proof.make_policy("tiny", proof.spaces(), None), weights, half=True)
    arm = sizes.Arm("fa-grpo", recall=0.5, alarms=1.0)
    place = replace(place, size=replace(place.size, cloned=str(weights), arms={"worse": arm}, updates=1))
    proof.prove(place, "sft")
    assert not (place.out / "sft").exists()
    proof.prove(place, "learn")
    learnt = lines(place.logs / "learning_worse-s0.jsonl")
    assert learnt[0]["success"] == 1.0
    proof.prove(place, "evaluate", ["sft"])
    assert {line["run"] for line in lines(place.logs / "evaluations.jsonl")} == {"sft"}


def test_another_protocol_in_the_same_logs_is_refused(benchmark, place):
    proof = benchmark("proof")
    proof.claim(place)
    proof.claim(place)
    with pytest.raises(ValueError, match="other updates: give other --logs"):
        proof.claim(replace(place, size=replace(place.size, updates=3)))
    with pytest.raises(ValueError, match="other updates: give other --logs"):
        proof.claim(replace(place, size=replace(place.size, updates=3), logs=place.logs / "new"))
    proof.claim(replace(place, size=replace(place.size, updates=3), logs=place.logs / "new", out=place.out / "new"))
    with pytest.raises(ValueError, match="no runs named fa-grpo-s2; there are sft, fa-grpo-s0"):
        proof.prove(place, only=["fa-grpo-s2"])


def test_logs_of_another_dream_or_another_bundled_policy_are_refused(benchmark, place, monkeypatch):
    proof, sizes = benchmark("proof"), benchmark("proof_sizes")
    place = replace(place, size=replace(place.size, cloned=sizes.CLONED))
    made_of = proof.files_of(place.size)
    assert {"transformer/diffusion_pytorch_model.safetensors", f"{sizes.CLONED}/model.safetensors"} <= set(made_of)
    proof.claim(place)
    monkeypatch.setattr(
        proof, "files_of", lambda size, dream: {**made_of, f"{sizes.CLONED}/model.safetensors": "another"}
    )
    with pytest.raises(ValueError, match="other files: give other --logs"):
        proof.claim(place)


def test_logs_of_another_cloned_policy_are_refused(benchmark, place, tmp_path):
    proof = benchmark("proof")
    for name, rows in {"one": 2, "other": 3}.items():
        proof.write_weights(torch.nn.Linear(2, rows), tmp_path / name)
    proof.claim_cloned(place, tmp_path / "one")
    proof.claim_cloned(place, tmp_path / "one")
    with pytest.raises(ValueError, match=r"of another cloned policy than .*other: give other --logs"):
        proof.claim_cloned(place, tmp_path / "other")
    with pytest.raises(ValueError, match=r"is of a cloned policy that is not in .*00002\.safetensors: bring it there"):
        proof.clone(place)


def test_cloning_is_of_the_tasks_and_scripts_it_is_asked_for_and_tried_in_both_worlds(benchmark, place, monkeypatch):
    proof = benchmark("proof")
    asked, read, tried = [], proof.read_demonstrations, []
    place = replace(place, size=replace(place.size, tasks=(3, 5), sft_failing=("expert",)))
    monkeypatch.setattr(proof, "read_demonstrations", lambda *a, **k: asked.append((a[1:], k)) or read(*a, **k))
    monkeypatch.setattr(proof, "episodes_of", lambda *a, **__: tried.append(a[4]) or [{"success": 1}, {"success": 0}])
    with pytest.raises(FileNotFoundError, match="clone a policy with --stage sft"):
        proof.prove(place, "learn")
    for _ in range(2):
        proof.prove(place, "sft")
    assert asked == [((place.data,), {"tasks": (3,), "failing": ("expert",)})]
    assert tried == 2 * [[{"task": 3, "start": 0}, {"task": 3, "start": 1}]]
    assert [(line["run"], line["world"]) for line in lines(place.logs / proof.TRIES)] == [
        ("sft", STAND_IN), ("sft", proof.DREAM),
    ]  # fmt: skip
    assert proof.begins_from(place) == place.snapshot("sft", 2)


def test_the_learning_rate_is_the_one_that_does_better_in_reality(benchmark, place, monkeypatch):
    proof = benchmark("proof")
    place = replace(place, size=replace(place.size, rates=(1e-5, 3e-5, 1e-4)))
    monkeypatch.setattr(proof, "begins_from", lambda place: Path("cloned"))
    monkeypatch.setattr(proof, "try_rate", lambda place, weights, rate: {1e-5: 0.2, 3e-5: 0.5, 1e-4: 0.1}[rate])
    assert proof.choose(place)["rate"] == 3e-5
    monkeypatch.setattr(proof, "try_rate", None)
    assert proof.choose(place)["rate"] == 3e-5


def test_episodes_are_begun_again_twice_where_the_simulator_is_lost(benchmark, capsys):
    lost, asked = [2, 3], []

    @benchmark("proof_episodes").begun_again
    def episodes(start, *, seed):
        asked.append((start, seed))
        if lost[0]:
            lost[0] -= 1
            raise SimulatorLostError("gone")
        return start

    assert episodes(4, seed=7) == 4
    assert asked == 3 * [(4, 7)]
    assert capsys.readouterr().out == 2 * "gone; its episodes are begun once more\n"
    lost.pop(0)
    with pytest.raises(SimulatorLostError):
        episodes(4, seed=7)
    assert len(asked) == 6


def test_a_line_that_was_cut_is_lost_alone(benchmark, tmp_path):
    files = benchmark("proof_files")
    path = tmp_path / "logs" / "lines.jsonl"
    files.add_line(path, {"a": 1})
    path.write_text(path.read_text() + '{"a": 2')
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
        return Verdict(reward, torch.ones(len(videos), dtype=torch.bool))


def test_the_judge_sees_each_live_row_with_the_frames_before_and_no_ended_one(benchmark):
    judge = Three()
    env = benchmark("proof_episodes").Watched(Counted(), judge)
    for _ in range(2):
        env.reset()
        for _ in range(3):
            env.step(None)
    assert env.seen == [True, False, True, False]
    assert judge.shown[:5] == [
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


def test_the_judge_looks_on_after_a_real_success(benchmark, monkeypatch):
    episodes, judge = benchmark("proof_episodes"), Three()
    monkeypatch.setattr(episodes, "LiberoVectorEnv", Falling)
    env = episodes.Watched(Falling(), judge)
    env.reset()
    for _ in range(2):
        env.step(None)
    assert [film for text, film in judge.shown if text == "b"] == [
        [0, 1, 1], [1, 1, 2], [105, 106, 107], [113, 114, 115], [121, 122, 123],
    ]  # fmt: skip


def test_an_arm_learns_by_its_own_settings_and_in_the_dream_that_is_given(benchmark, place, monkeypatch):
    proof, sizes = benchmark("proof"), benchmark("proof_sizes")
    asked = []

    def stop(args, wrap):
        asked.append(args)
        raise KeyboardInterrupt

    monkeypatch.setattr(proof, "make_trainer", stop)
    place = replace(place, dream="mine")
    square = sizes.arms(1, 1, flow_steps=4)
    arms = [square[name] for name in ("flow-grpo", "fa-grpo", "fa-grpo+flowscale-path", "fa-grpo-real")]
    for arm in arms:
        with pytest.raises(KeyboardInterrupt):
            proof.learn(place, "run", arm, 0, Path("weights"), 1e-5)
    configs = [each.config for each in asked]
    assert [(c.clip_low, c.clip_high, c.beta, c.noise_level) for c in configs] == [
        (0.0134, 0.0187, 0.0625, 1.0), (0.2, 0.28, 0.25, 1.0), (0.2, 0.28, 0.01, 0.2), (0.2, 0.28, 0.25, 1.0)
    ]  # fmt: skip
    assert [each.dream for each in asked] == ["mine", "mine", "mine", ""]


def test_a_chosen_policy_is_bundled_in_half_precision_and_acts_the_same(benchmark, place, tmp_path, monkeypatch):
    from prophrl_algos.vla import SmallVLA

    proof, bundle = benchmark("proof"), benchmark("proof_bundle")
    place = replace(place, size=replace(place.size, policy="small-k4", sft_steps=1, choose_episodes=1))
    monkeypatch.setattr(proof, "episodes_of", lambda *_, **__: [{"success": 1}, {"success": 0}])
    monkeypatch.setitem(bundle.SIZES, "short", place.size)
    with pytest.raises(FileNotFoundError, match="clone a policy"):
        bundle.main("short", place.out, place.logs, tmp_path / "bundle")
    proof.prove(place, "sft")
    bundle.main("short", place.out, place.logs, tmp_path / "bundle")
    assert sorted(path.name for path in (tmp_path / "bundle").iterdir()) == ["config.json", "model.safetensors"]
    assert (tmp_path / "bundle" / "model.safetensors").stat().st_size < 10e6
    loaded = SmallVLA.from_pretrained(tmp_path / "bundle", num_steps=4)
    chosen = benchmark("proof_files").read_policy(place, place.snapshot("sft", 1))
    assert loaded.spec == chosen.spec
    assert all(
        torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), chosen.state_dict().values(), strict=True)
    )


def test_exploring_is_counted_for_each_kernel_and_noise_level(benchmark, place, short_dreams, tmp_path, monkeypatch):
    proof, explore = benchmark("proof"), benchmark("proof_explore")
    weights, log = tmp_path / "cloned.safetensors", tmp_path / "explore.jsonl"
    monkeypatch.setitem(explore.SIZES, "cpu", place.size)
    proof.write_weights(proof.make_policy("tiny", proof.spaces(), None), weights)
    explore.main(
        explore.Args(weights, log, algo=("fa-grpo", "pi-rl"), noise=(0.2,), world="dream", groups=2, group_size=2)
    )
    assert [(line["algo"], line["noise"], line["world"]) for line in lines(log)] == [
        ("fa-grpo", 0.2, proof.DREAM), ("pi-rl", 0.2, proof.DREAM),
    ]  # fmt: skip
    assert [(line["successes"], line["episodes"], line["mixed_groups"]) for line in lines(log)] == [(0, 4, 0)] * 2


def test_what_a_dream_took_for_success_is_what_ended_early_and_failed(benchmark, tmp_path, monkeypatch):
    belief = benchmark("proof_belief")
    monkeypatch.setattr(belief, "MAX_STEPS", 9)
    ended = [(True, 5), (False, 4), (False, 9), (False, 6)]
    made = [type("Episode", (), {"success": [done], "actions": [0] * steps})() for done, steps in ended]
    monkeypatch.setattr(belief, "list_episodes", lambda folder, *, evaluating: range(4))
    monkeypatch.setattr(belief, "read_episode", made.__getitem__)
    (tmp_path / META).write_text(json.dumps({"mixture": {"small-k4 in the dream of bundled": 1.0}}))
    found = belief.beliefs(tmp_path)
    assert (found["episodes"], found["frames"], found["real"], found["believed"]) == (4, 24, 1, 2)
    assert found["precision"] == pytest.approx(1 / 3)
    (tmp_path / META).write_text(json.dumps({"mixture": {"expert": 1.0}}))
    with pytest.raises(ValueError, match="must be a recording of `prophrl record --dream`, it is of expert"):
        belief.beliefs(tmp_path)
