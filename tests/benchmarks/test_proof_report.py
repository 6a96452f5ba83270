"""What is made of a proof's logs: the summary, tables, the plot and the film."""

import importlib
import importlib.util
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from prophet_gym.factory import bundled_checkpoints

ROOT = Path(__file__).parents[2]
STAND_IN = "Prophet-LIBERO-Object-v0"

pytestmark = pytest.mark.skipif(not bundled_checkpoints().get("libero_small"), reason="no checkpoint is bundled")


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
    assert report.changed(*report.pairs_of(before, {**before, "success": 6 * [1]}, 0)) == {
        "episodes": 2, "gained": 2, "lost": 0,
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
    seeds = [proof.evaluation_seed(size, run, 4) for run in ("sft", "fa-grpo-s0", "fa-grpo-s1", "fa-grpo-s2")]
    assert seeds == [4, 4, 1004, 2004]


def test_of_a_run_with_several_episodes_of_a_start_the_first_are_paired(benchmark):
    report = benchmark("proof_report")
    before = {"task": 4 * [3], "start": [0, 1, 0, 1], "success": [0, 0, 1, 1]}
    after = {**before, "success": [1, 0, 0, 0]}
    assert [each.tolist() for each in report.pairs_of(before, after, 0)] == [[False, False], [True, False]]


def test_the_main_effects_are_of_both_arms_of_a_side(benchmark):
    report = benchmark("proof_report")

    def runs(*successes):
        return [{"task": [3, 3], "start": [0, 1], "success": list(each)} for each in successes]

    square = {
        "flow-grpo": runs((0, 0)), "flow-grpo+flowscale": runs((0, 1)),
        "fa-grpo": runs((0, 1)), "fa-grpo+flowscale": runs((1, 1)),
    }  # fmt: skip
    found = report.effects(square)
    assert found["FA-GRPO instead of Flow-GRPO"]["mean"] == pytest.approx(0.75 - 0.25)
    assert found["FlowScale instead of none"]["mean"] == pytest.approx(0.75 - 0.25)
    apart = {
        "flow-grpo": runs((0, 0), (1, 1)), "flow-grpo+flowscale": runs((1, 0), (0, 1)),
        "fa-grpo": runs((0, 0), (1, 1)), "fa-grpo+flowscale": runs((1, 0), (0, 1)),
    }  # fmt: skip
    alike = report.effects(apart)["FA-GRPO instead of Flow-GRPO"]
    assert alike == {"mean": 0, "low": 0, "high": 0}, "runs of one seed are pairs"
    assert report.effects({**square, "fa-grpo": []}) == {}
    assert report.effects({**square, "fa-grpo": runs((0, 1), (0, 1))}) == {}


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
        {"run": run, "update": update, "world": world, "seconds": 3600.0, "success": success, "seen": [1] * 4, **cells}
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
    assert summary["seconds"] == {"learning": 20, "evaluation": 6 * 3600}
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
    readme = importlib.import_module("blocks.headline")
    monkeypatch.setattr(importlib.import_module("blocks.common"), "RESULTS", tmp_path)
    assert "Not measured yet" in blocks.proof("short")
    assert "Not measured yet" in blocks.proof_price("short")
    assert "Not measured yet" in readme.headline("short")
    (folder / "summary.json").write_text(json.dumps(summary))
    table = blocks.proof("short")
    assert "Not run yet" not in readme.headline("short")
    assert "| dream | 2 | 8,000 | 2.00 | 2.50 |" in blocks.proof_price("short")
    assert "Short version" in table
    assert "evaluation took 360." in table
    assert "| fa-grpo (the paper's scoring) | 87.5% [52.9%, 97.8%] | +87.5 [" in readme.headline("short")
    assert "| fa-grpo (the paper's scoring) | 2 of 2 | 87.5% [52.9%, 97.8%] | +87.5 [" in table
    trusted = "| 7/7 [65%, 100%] | 0/1 [0%, 79%] | 7/8 [53%, 98%] | 7/7 [65%, 100%] | 1/1 [21%, 100%] |"
    assert f"| fa-grpo (the paper's scoring) {trusted}" in table
    curves, bars, trust = picture.draw(summary).axes
    assert curves.lines[0].get_ydata().tolist() == [0.0, 87.5]
    assert [bar.get_width() for bar in bars.patches] == [0.0, 7 / 8]
    assert trust.lines[0].get_ydata().tolist() == [1.0]
    shown = [each.get_text().replace("\n", " ") for each in bars.get_yticklabels()]
    assert shown == ["cloned", "fa-grpo (the paper's scoring)"]
    assert curves.lines[0].get_label() == shown[1]
    with pytest.raises(ValueError, match="the cloned policy is not evaluated yet"):
        picture.draw({"arms": {}})


def test_an_arm_is_called_what_it_is(benchmark):
    sizes = benchmark("proof_sizes")
    names = {name: sizes.label_of(name, asdict(arm)) for name, arm in sizes.SIZES["cpu"].arms.items()}
    assert names == {
        "flow-grpo": "flow-grpo-forward",
        "flow-grpo+flowscale": "flow-grpo-forward+flowscale",
        "fa-grpo": "fa-grpo-forward",
        "fa-grpo+flowscale": "fa-grpo-forward+flowscale",
        "fa-grpo-real": "fa-grpo-forward, learnt in LIBERO",
        "fa-grpo+flowscale-path": "fa-grpo-cps+flowscale (the paper's scoring)",
        "pi-rl": "pi-rl",
    }
    worse = {name: sizes.label_of(name, asdict(arm)) for name, arm in sizes.SIZES["reward"].arms.items()}
    assert worse == {name: name for name in sizes.WORSE}


def test_the_headline_says_which_runs_are_still_to_come(benchmark, tmp_path, monkeypatch):
    folder = tmp_path / "proof_short"
    folder.mkdir()
    summary = logged(folder, benchmark)
    summary["arms"]["fa-grpo"]["runs"] = 1
    about = summary["arms"]["fa-grpo"]["about"] | {"algo": "pi-rl"}
    summary["arms"]["pi-rl"] = {**summary["arms"]["fa-grpo"], "about": about, "final": None}
    (folder / "summary.json").write_text(json.dumps(summary))
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    readme = importlib.import_module("blocks.headline")
    monkeypatch.setattr(importlib.import_module("blocks.common"), "RESULTS", tmp_path)
    assert "| 1 of 2 |" in readme.headline("short")
    assert "Not run yet: pi-rl." in readme.headline("short")


def test_controls_are_compared_with_the_cloned_policy_from_the_same_starts(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    controls = importlib.import_module("blocks.controls")
    monkeypatch.setattr(controls, "FOLDER", tmp_path)
    monkeypatch.setattr(controls, "LOGGED", tmp_path)
    assert "Not measured yet" in controls.proof_controls()
    about = {"world": controls.REALITY, "task": [3] * 4, "start": [0, 1, 0, 1]}
    runs = [("sft", 0, [0, 1, 0, 0]), ("fa-grpo-s0", 4, [0, 0, 0, 0]), ("fa-grpo-s0", 8, [1, 1, 1, 1])]
    lines = [{"run": run, "update": update, "success": success, **about} for run, update, success in runs]
    lines += [{**lines[-1], "run": "fa-grpo-real-s0"}, {**lines[-1], "world": "the dream"}]
    (tmp_path / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    episodes = [{"task": 3, "start": start, "success": start == 1} for start in (1, 0)]
    (tmp_path / "cloned_centre.json").write_text(json.dumps({"episodes": episodes}))
    table = controls.proof_controls()
    assert "| cloned | 1 | 1/4 [" in table
    assert "| learnt by `fa-grpo-forward` | 1 | 4/4 [51%, 100%] | +75.0 [+50.0, +100.0] | +50.0 [" in table
    assert "| cloned, from the centre of the noise | 1 | 1/2 [9%, 91%] | +25.0 [+0.0, +50.0] |  |" in table
    assert "| cloned from the experts alone | 0 | not measured yet |" in table
    readme = importlib.import_module("blocks.headline").controls()
    assert [row[0] for row in readme] == ["no learning: cloned, from the centre of the noise"]
    assert readme[0][1:] == ["50.0% [9.5%, 90.5%]", "+25.0 [+0.0, +50.0]", "1 of 1"]


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


@pytest.mark.parametrize("again", [True, False])
def test_a_start_that_ends_otherwise_this_time_is_not_shown(benchmark, place, tmp_path, monkeypatch, again, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    video = importlib.import_module("proof_video")
    starts = [{"task": 3, "start": start} for start in range(2)]
    monkeypatch.setitem(video.SIZES, "short", place.size)
    monkeypatch.setattr(video, "begins_from", lambda place: "before")
    monkeypatch.setattr(video, "changed_starts", lambda *a: (True, starts))
    monkeypatch.setattr(video, "read_policy", lambda place, weights: weights)
    shot = np.zeros((2, 8, 8, 3), np.uint8)
    monkeypatch.setattr(
        video, "film", lambda policy, world, cell, *a, **k: (shot, again and cell["start"] == 1 and policy != "before")
    )
    args = video.Args(out=place.out, logs=place.logs, picture=tmp_path / "film.webp")
    if again:
        video.main(args)
        assert args.picture.is_file()
        assert "'start': 0}: ends otherwise this time" in capsys.readouterr().out
    else:
        with pytest.raises(ValueError, match="none of 2 starts ends as"):
            video.main(args)


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
