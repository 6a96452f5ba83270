"""The proof's machinery, from cloning to the report, on a tiny policy and one-chunk dreams in place of reality."""

import importlib
import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, VectorEnv

from prophet_gym.data.recording import META, Episode, episode_path, write_episode
from prophet_gym.factory import bundled_checkpoints
from prophet_gym.world_model import Verdict

ROOT = Path(__file__).parents[2]
STAND_IN = "Prophet-LIBERO-Object-v0"

pytestmark = pytest.mark.skipif(not bundled_checkpoints().get("libero_small"), reason="no checkpoint is bundled")


@pytest.fixture
def benchmark(monkeypatch):
    """`benchmark(name)`: a script of benchmarks/ as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


@pytest.fixture
def short_dreams(monkeypatch):
    import prophet_gym.envs.vector_env as vector_env

    monkeypatch.setattr(vector_env.ProphetVectorEnv, "_at_horizon", lambda self, row: self._rows[row].elapsed >= 1)


@pytest.fixture
def place(benchmark, tmp_path):
    """A proof of two updates of two rollouts, all of it in the dream."""
    sizes = benchmark("proof_sizes")
    size = sizes.Size(
        tasks=(3,),
        arms={"fa-grpo": sizes.Arm("fa-grpo")},
        policy="tiny",
        reality=STAND_IN,
        sft_tasks=(3,),
        sft_steps=2,
        sft_rows=4,
        choose_episodes=2,
        choose_first=0,
        rates=(1e-4,),
        updates=2,
        groups=1,
        group_size=2,
        epochs=1,
        minibatches=1,
        point_every=1,
        point_states=2,
        watched_states=1,
        final_states=3,
        repeats=1,
        rows=2,
    )
    record(tmp_path / "data", 3)
    return benchmark("proof_files").Place(size, (tmp_path / "data",), tmp_path / "out", tmp_path / "logs")


def record(folder, task, steps=4):
    episode = Episode(
        actions=np.zeros((steps, 7), np.float32),
        gripper_position=np.zeros((steps + 1, 3), np.float32),
        gripper_quaternion=np.zeros((steps + 1, 4), np.float32),
        gripper_opening=np.zeros(steps + 1, np.float32),
        object_positions=np.zeros((steps + 1, 1, 3), np.float32),
        object_names=("can",),
        target="can",
        success=np.ones(steps + 1, bool),
        camera=np.zeros((3, 4)),
        init_state=np.zeros(2),
        instruction="pick up the can",
        suite="libero_object",
        task=task,
        mode="expert",
        seed=0,
        look="light",
    )
    path = episode_path(folder, task, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    (folder / META).write_text(json.dumps({"starts": "train"}))
    write_episode(path, episode, np.zeros((steps + 1, 64, 64, 3), np.uint8))


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
    monkeypatch.setattr(proof, "files_of", lambda size: {**made_of, f"{sizes.CLONED}/model.safetensors": "another"})
    with pytest.raises(ValueError, match="other files: give other --logs"):
        proof.claim(place)


def test_cloning_is_of_the_tasks_it_is_asked_for_and_tried_in_both_worlds(benchmark, place, monkeypatch):
    proof = benchmark("proof")
    asked, read, tried = [], proof.read_demonstrations, []
    place = replace(place, size=replace(place.size, tasks=(3, 5)))
    monkeypatch.setattr(proof, "read_demonstrations", lambda *a, **k: asked.append((a[1:], k)) or read(*a, **k))
    monkeypatch.setattr(proof, "episodes_of", lambda *a, **__: tried.append(a[4]) or [{"success": 1}, {"success": 0}])
    with pytest.raises(FileNotFoundError, match="clone a policy with --stage sft"):
        proof.prove(place, "learn")
    for _ in range(2):
        proof.prove(place, "sft")
    assert asked == [((place.data,), {"tasks": (3,)})]
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


def test_the_report_counts_pairs_and_says_how_far_the_reward_is_right(benchmark):
    report = benchmark("proof_report")
    cells = {"task": [3, 3, 5, 5], "start": [0, 1, 0, 1]}
    before = {**cells, "success": [0, 0, 1, 0], "seen": [0, 1, 1, 0]}
    after = {**cells, "success": [1, 1, 1, 0], "seen": [1, 0, 1, 1]}
    found = report.compare(before, {0: after})
    assert found["gain"]["mean"] == 0.5
    assert found["mcnemar"] == [0.5]
    assert found["per_task"]["3"]["successes"] == 2
    assert found["per_task"]["5"] == {"successes": 1, "episodes": 2, "success": 0.5, **report.bounds(1, 2)}
    assert report.agreement(after["seen"], after["success"]) == {
        "precision": pytest.approx(2 / 3), "recall": pytest.approx(2 / 3),
        "right": 2, "said": 3, "successes": 3, "episodes": 4,
    }  # fmt: skip
    assert report.watched([{**after, "seen": [1, None, None, 1]}]) == ([1, 1], [1, 0])
    with pytest.raises(ValueError, match="other episodes"):
        report.compare(before, {0: {**after, "start": [0, 1, 0, 2]}})
    with pytest.raises(ValueError, match="other episodes"):
        report.pairs_of(before, {**after, "start": [0, 1, 1, 0]}, 0)


def test_the_cloned_policy_has_as_many_episodes_of_each_start_as_the_runs_of_an_arm_together(benchmark):
    report, sizes, proof = benchmark("proof_report"), benchmark("proof_sizes"), benchmark("proof")
    cells = {"task": [3, 3], "start": [0, 1]}
    before = {name: 3 * numbers for name, numbers in cells.items()} | {"success": [0, 0, 1, 0, 1, 0]}
    found = report.compare(before, {0: {**cells, "success": [1, 1]}, 2: {**cells, "success": [0, 1]}})
    assert found["gain"]["mean"] == pytest.approx(3 / 4 - 1 / 3)
    assert found["mcnemar"] == [0.5, 1.0]
    lost = report.compare(before, {1: {**cells, "success": [0, 0]}})
    assert lost["mcnemar"] == [1.0]
    assert report.changed(*report.pairs_of(before, {**before, "success": 6 * [1]}, 2)) == {
        "episodes": 6, "gained": 4, "lost": 0,
    }  # fmt: skip
    assert report.gain_of(before, [{"task": [3], "start": [1], "success": [1]}])["mean"] == 1.0
    size = sizes.SIZES["cpu"]
    size = replace(size, tasks=(3,), updates=4, final_states=50, repeats=3, point_states=25)

    def starts(run, update, world):
        return [cell["start"] for cell in proof.cells_of(size, run, update, world)]

    assert [starts(run, 4, size.reality) for run in ("fa-grpo-s2", "pi-rl-s0")] == [[*range(50)], 3 * [*range(50)]]
    assert [starts(run, 2, size.reality) for run in ("fa-grpo-s2", "pi-rl-s0")] == [[*range(9)], [*range(25)]]
    assert [starts(run, 4, proof.DREAM) for run in ("fa-grpo-s2", "pi-rl-s0")] == [[*range(50)], [*range(50)]]
    assert [len(starts("sft", 0, world)) for world in (size.reality, proof.DREAM)] == [150, 50]


def test_the_main_effects_are_of_both_arms_of_a_side(benchmark):
    report = benchmark("proof_report")

    def runs(*successes):
        return [{"task": [3, 3], "start": [0, 1], "success": list(each)} for each in successes]

    square = {
        "flow-grpo": runs((0, 0)), "flow-grpo+flowscale": runs((0, 1)),
        "fa-grpo": runs((1, 0)), "fa-grpo+flowscale": runs((1, 1), (1, 1)),
    }  # fmt: skip
    found = report.effects(square)
    assert found["FA-GRPO instead of Flow-GRPO"]["mean"] == pytest.approx((0.5 + 1 + 1) / 3 - 0.25)
    assert found["FlowScale instead of none"]["mean"] == pytest.approx((0.5 + 1 + 1) / 3 - 0.25)
    assert report.effects({**square, "fa-grpo": []}) == {}


def test_the_dream_is_compared_with_the_first_real_episode_of_each_start(benchmark):
    report = benchmark("proof_report")
    real = {"task": [3, 3, 3, 3], "start": [0, 1, 0, 1], "success": [1, 0, 0, 1]}
    dream = {"task": [3, 3, 5], "start": [1, 0, 0], "success": [1, 1, 1]}
    assert report.same_starts(dream, real) == [(1, 0), (1, 1)]


def logged(folder, benchmark):
    """The logs of a proof of two runs: nothing done before, three of four after the first, all after the second."""
    sizes = benchmark("proof_sizes")
    size = replace(sizes.SIZES["short"], arms={"fa-grpo": sizes.Arm("fa-grpo", seeds=2)}, updates=4, point_every=4)
    proof = benchmark("proof")
    proof.claim(benchmark("proof_files").Place(size, (), folder, folder))
    cells = {"task": [3] * 4, "start": [0, 1, 2, 3], "chunks": [9] * 4}
    outcomes = {("sft", 0): [0] * 4, ("fa-grpo-s0", 4): [1, 1, 1, 0], ("fa-grpo-s1", 4): [1] * 4}
    found = [
        {"run": run, "update": update, "world": world, "success": success, "seen": [1] * 4, **cells}
        for (run, update), success in outcomes.items()
        for world in (proof.DREAM, size.reality)
    ]
    (folder / proof.EVALUATIONS).write_text("".join(json.dumps(line) + "\n" for line in found) + '{"run": "ha')
    costs = {"frames": 4000.0, "seconds_env": 8.0, "seconds_rollout": 9.0, "seconds_update": 1.0}
    (folder / "learning_fa-grpo-s0.jsonl").write_text(json.dumps({"update": 0, **costs}) + "\n")
    return benchmark("proof_report").summarise(folder)


def test_the_summary_is_of_the_logs_whole_lines(benchmark, tmp_path):
    summary = logged(tmp_path, benchmark)
    arm = summary["arms"]["fa-grpo"]
    assert summary["sft"]["success"] == 0
    assert arm["final"]["success"] == 7 / 8
    assert arm["final"]["gain"]["mean"] == 7 / 8
    assert arm["final"]["mcnemar"] == [0.25, 0.125]
    assert [each["successes"] for each in arm["final"]["per_seed"]] == [3, 4]
    assert arm["curve"][1]["reward_on_real"]["precision"] == 7 / 8
    assert arm["curve"][1]["dream_of_real"]["precision"] == 1
    assert arm["curve"][0]["reward_on_real"]["precision"] == 0
    assert arm["cost"]["env_seconds_per_1000_frames"] == 2
    assert arm["cost"]["seconds"] == 10
    assert (arm["begun"], arm["runs"], arm["dream"]["gain"]["mean"]) == (1, 2, 7 / 8)
    assert arm["curve"][1]["real_gain"]["mean"] == arm["curve"][1]["dream_gain"]["mean"] == 7 / 8


def test_a_run_without_its_dream_is_not_paired_with_another_runs(benchmark, tmp_path):
    logged(tmp_path, benchmark)
    found = [
        line
        for line in benchmark("proof_files").read_lines(tmp_path / "evaluations.jsonl")
        if (line["run"], line["world"]) != ("fa-grpo-s0", "Prophet-LIBERO-v0")
    ]
    (tmp_path / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in found))
    point = benchmark("proof_report").summarise(tmp_path)["arms"]["fa-grpo"]["curve"][-1]
    assert (point["real"]["episodes"], point["dream"]["episodes"]) == (8, 4)
    assert (point["dream_of_real"]["said"], point["dream_of_real"]["right"]) == (4, 4)


def test_table_and_picture_are_made_of_the_summary(benchmark, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    folder = tmp_path / "proof_short"
    folder.mkdir()
    summary = logged(folder, benchmark)
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    blocks, picture = importlib.import_module("blocks.proof"), load("proof_picture", ROOT / "docs" / "proof.py")
    monkeypatch.setattr(importlib.import_module("blocks.common"), "RESULTS", tmp_path)
    assert "Not measured yet" in blocks.proof("short")
    assert "Not measured yet" in blocks.proof_price("short")
    assert "Not measured yet" in blocks.headline("short")
    (folder / "summary.json").write_text(json.dumps(summary))
    table = blocks.proof("short")
    assert "| dream | 2 | 8,000 | 2.00 | 2.50 |" in blocks.proof_price("short")
    assert "Short version" in table
    assert "fa-grpo 87.5% [52.9%, 97.8%], gain +87.5 [" in blocks.headline("short")
    assert "| fa-grpo | 2 of 2 | 87.5% [52.9%, 97.8%] | +87.5 [" in table
    assert "| fa-grpo | 7/7 [65%, 100%] | 7/8 [53%, 98%] | 7/7 [65%, 100%] | 1/1 [21%, 100%] |" in table
    curves, bars, trust = picture.draw(summary).axes
    assert curves.lines[0].get_ydata().tolist() == [0.0, 87.5]
    assert [bar.get_width() for bar in bars.patches] == [0.0, 7 / 8]
    assert trust.lines[0].get_ydata().tolist() == [1.0]
    with pytest.raises(ValueError, match="the cloned policy is not evaluated yet"):
        picture.draw({"arms": {}})


def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_film_is_of_a_start_that_changed_as_most_did(benchmark, tmp_path, monkeypatch):
    logged(tmp_path, benchmark)
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    video, reality = importlib.import_module("proof_video"), benchmark("proof_sizes").REALITY
    gained, cells = video.changed_starts(tmp_path, "fa-grpo-s0", reality, 4)
    assert (gained, cells) == (True, [{"task": 3, "start": start} for start in range(3)])
    with pytest.raises(ValueError, match="ends from every official start as the cloned policy did"):
        video.changed_starts(tmp_path, "sft", reality, 0)
    with pytest.raises(ValueError, match="no episodes of fa-grpo-s7: evaluate it first"):
        video.changed_starts(tmp_path, "fa-grpo-s7", reality, 4)


def test_a_film_is_of_an_episode_of_the_log(benchmark, place, short_dreams, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    video, proof, episodes = importlib.import_module("proof_video"), benchmark("proof"), benchmark("proof_episodes")
    policy = proof.make_policy("tiny", proof.spaces(), None)
    weights, drawn = place.out / "cloned.safetensors", []
    proof.write_weights(policy, weights)
    sample = video.sample
    for module in (video, importlib.import_module("prophrl_algos.evaluate")):
        keep = lambda *a, **k: drawn.append(sample(*a, **k)) or drawn[-1]  # noqa: E731
        monkeypatch.setattr(module, "sample", keep)
    cells = proof.cells_of(place.size, "fa-grpo-s0", 2, STAND_IN)
    episodes.official_episodes(place, weights, STAND_IN, cells, seed=5)
    logged = [x0 for path in drawn for x0 in path.x0]
    drawn.clear()
    seeds = episodes.seeds_of(place.size, STAND_IN, cells, 2, 5)
    video.film(policy, STAND_IN, cells[2], seeds)
    torch.testing.assert_close(drawn[0].x0[0], logged[2], atol=1e-3, rtol=1e-3)
    assert (logged[1] - logged[2]).abs().max() > 0.1
    with pytest.raises(IndexError, match="there are 3 episodes, no number 3"):
        episodes.seeds_of(place.size, STAND_IN, cells, 3, 5)


def test_a_film_is_of_the_first_picture_and_of_every_frame_that_was_run(benchmark, place, short_dreams, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    video, proof = importlib.import_module("proof_video"), benchmark("proof")
    frames, done = video.film(proof.make_policy("tiny", proof.spaces(), None), proof.DREAM, {"task": 3, "start": 0})
    assert (frames.shape, frames.dtype, done) == ((9, 128, 128, 3), np.uint8, False)


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
    monkeypatch.setattr(belief, "list_episodes", lambda folder: range(4))
    monkeypatch.setattr(belief, "read_episode", made.__getitem__)
    (tmp_path / META).write_text(json.dumps({"mixture": {"small-k4 in the dream of bundled": 1.0}}))
    found = belief.beliefs(tmp_path)
    assert (found["episodes"], found["frames"], found["real"], found["believed"]) == (4, 24, 1, 2)
    assert found["precision"] == pytest.approx(1 / 3)
    (tmp_path / META).write_text(json.dumps({"mixture": {"expert": 1.0}}))
    with pytest.raises(ValueError, match="must be a recording of `prophrl record --dream`, it is of expert"):
        belief.beliefs(tmp_path)
