"""What is made of the logs: the summary, tables, the plot and the film."""

import json
from dataclasses import asdict, replace
from importlib import import_module

import numpy as np
import pytest
import torch

from experiments.reinforce_in_dream import controls, episodes, figures, files, headline, plot, protocol, report, video
from experiments.reinforce_in_dream import run as experiment
from prophet_gym.checkpoint import bundled_checkpoints
from prophrl_algos._named import make_policy

STAND_IN = "Prophet-LIBERO-Object-v0"

pytestmark = pytest.mark.skipif(not bundled_checkpoints().get("libero_small"), reason="no checkpoint is bundled")


def test_the_report_counts_pairs_and_says_how_far_the_reward_is_right():
    cells = {"task": [3, 3, 5, 5], "start": [0, 1, 0, 1]}
    before = {**cells, "success": [0, 0, 1, 0], "rewarded": [0, 1, 1, 0]}
    after = {**cells, "success": [1, 1, 1, 0], "rewarded": [1, 0, 1, 1]}
    found = report.compare(before, {0: after})
    assert found["gain"]["mean"] == 0.5
    assert found["mcnemar"] == [0.5]
    assert found["per_task"]["3"]["successes"] == 2
    assert found["per_task"]["5"] == {"successes": 1, "episodes": 2, "success": 0.5, **report.bounds(1, 2)}
    assert report.agreement(after["rewarded"], after["success"]) == {
        "precision": pytest.approx(2 / 3), "recall": pytest.approx(2 / 3),
        "true_positives": 2, "positives": 3, "successes": 3, "episodes": 4,
    }  # fmt: skip
    assert report.scored([{**after, "rewarded": [1, None, None, 1]}]) == ([1, 1], [1, 0])
    with pytest.raises(ValueError, match="other episodes"):
        report.compare(before, {0: {**after, "start": [0, 1, 0, 2]}})
    with pytest.raises(ValueError, match="other episodes"):
        report.pairs_of(before, {**after, "start": [0, 1, 1, 0]}, 0)


def test_the_cloned_policy_has_as_many_episodes_of_each_start_as_the_runs_of_an_arm_together():
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
    size = protocol.SIZES["cpu"]
    size = replace(size, tasks=(3,), updates=4, final_states=50, repeats=3, point_states=25)

    def starts(run, update, world):
        return [cell["start"] for cell in experiment.cells_of(size, run, update, world)]

    assert [starts(run, 4, size.libero) for run in ("fa-grpo-s2", "pi-rl-s0")] == [[*range(50)], 3 * [*range(50)]]
    assert [starts(run, 2, size.libero) for run in ("fa-grpo-s2", "pi-rl-s0")] == [[*range(9)], [*range(25)]]
    assert [starts(run, 4, protocol.DREAM) for run in ("fa-grpo-s2", "pi-rl-s0")] == [[*range(50)], [*range(50)]]
    assert [len(starts("sft", 0, world)) for world in (size.libero, protocol.DREAM)] == [150, 50]
    seeds = [experiment.evaluation_seed(size, run, 4) for run in ("sft", "fa-grpo-s0", "fa-grpo-s1", "fa-grpo-s2")]
    assert seeds == [4, 4, 1004, 2004]


def test_of_a_run_with_several_episodes_of_a_start_the_first_are_paired():
    before = {"task": 4 * [3], "start": [0, 1, 0, 1], "success": [0, 0, 1, 1]}
    after = {**before, "success": [1, 0, 0, 0]}
    assert [each.tolist() for each in report.pairs_of(before, after, 0)] == [[False, False], [True, False]]


def test_the_main_effects_are_of_both_arms_of_a_side():

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
    assert (alike["mean"], alike["low"], alike["high"]) == (0, 0, 0), "runs of one seed are pairs"
    assert report.effects({**square, "fa-grpo": []}) == {}
    assert report.effects({**square, "fa-grpo": runs((0, 1), (0, 1))}) == {}


def test_the_dream_is_compared_with_the_first_episode_in_libero_of_each_start():
    libero = {"task": [3, 3, 3, 3], "start": [0, 1, 0, 1], "success": [1, 0, 0, 1]}
    dream = {"task": [3, 3, 5], "start": [1, 0, 0], "success": [1, 1, 1]}
    assert report.same_starts(dream, libero) == [(1, 0), (1, 1)]


def logged(folder):
    """Return the logs of two runs: nothing done before, three of four after the first, all after the second."""
    size = replace(
        protocol.SIZES["short"], arms={"fa-grpo": protocol.Arm("fa-grpo", seeds=2)}, updates=4, point_every=4
    )
    files.claim(files.Place(size, (), folder, folder))
    cells = {"task": [3] * 4, "start": [0, 1, 2, 3], "chunks": [9] * 4}
    outcomes = {("sft", 0): [0] * 4, ("fa-grpo-s0", 4): [1, 1, 1, 0], ("fa-grpo-s1", 4): [1] * 4}
    found = [
        {
            "run": run,
            "update": update,
            "world": world,
            "seconds": 3600.0,
            "success": success,
            "rewarded": [1] * 4,
            **cells,
        }
        for (run, update), success in outcomes.items()
        for world in (protocol.DREAM, size.libero)
    ]
    (folder / files.EVALUATIONS).write_text("".join(json.dumps(line) + "\n" for line in found) + '{"run": "ha')
    costs = {"frames": 4000.0, "seconds_env": 8.0, "seconds_rollout": 9.0, "seconds_update": 1.0}
    (folder / "learning" / "fa-grpo").mkdir(parents=True)
    (folder / "learning" / "fa-grpo" / "s0.jsonl").write_text(json.dumps({"update": 0, **costs}) + "\n")
    return report.summarise(folder)


def test_the_summary_is_of_the_logs_whole_lines(tmp_path):
    summary = logged(tmp_path)
    arm = summary["arms"]["fa-grpo"]
    assert summary["sft"]["success"] == 0
    assert arm["final"]["success"] == 7 / 8
    assert arm["final"]["gain"]["mean"] == 7 / 8
    assert arm["final"]["mcnemar"] == [0.25, 0.125]
    assert [each["successes"] for each in arm["final"]["per_seed"]] == [3, 4]
    assert arm["curve"][1]["reward_in_libero"]["precision"] == 7 / 8
    assert arm["curve"][1]["dream_and_libero"]["precision"] == 1
    assert arm["curve"][0]["reward_in_libero"]["precision"] == 0
    assert arm["cost"]["env_seconds_per_1000_frames"] == 2
    assert arm["cost"]["seconds"] == 10
    assert summary["seconds"] == {"learning": 20, "evaluation": 6 * 3600}
    assert (arm["begun"], arm["runs"], arm["dream"]["gain"]["mean"]) == (1, 2, 7 / 8)
    assert arm["curve"][1]["libero_gain"]["mean"] == arm["curve"][1]["dream_gain"]["mean"] == 7 / 8


def test_a_run_without_its_dream_is_not_paired_with_another_runs(tmp_path):
    logged(tmp_path)
    found = [
        line
        for line in files.read_lines(tmp_path / "evaluations.jsonl")
        if (line["run"], line["world"]) != ("fa-grpo-s0", "Prophet-LIBERO-v0")
    ]
    (tmp_path / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in found))
    point = report.summarise(tmp_path)["arms"]["fa-grpo"]["curve"][-1]
    assert (point["libero"]["episodes"], point["dream"]["episodes"]) == (8, 4)
    assert (point["dream_and_libero"]["positives"], point["dream_and_libero"]["true_positives"]) == (4, 4)


def test_table_and_picture_are_made_of_the_summary(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    folder = tmp_path / "short"
    folder.mkdir()
    summary = logged(folder)
    monkeypatch.setattr(files, "RESULTS", tmp_path)
    assert "Not measured yet" in figures.results("short")
    assert "Not measured yet" in figures.price("short")
    assert "Not measured yet" in headline.headline("short")
    (folder / "summary.json").write_text(json.dumps(summary))
    table = figures.results("short")
    assert "Not run yet" not in headline.headline("short")
    assert "| dream | 2 | 8,000 | 2.00 | 2.50 |" in figures.price("short")
    assert "Short version" in table
    assert "evaluation took 360." in table
    assert "| fa-grpo (the paper's scoring) | 87.5% [52.9%, 97.8%] | +87.5 [" in headline.headline("short")
    assert "| fa-grpo (the paper's scoring) | 2 of 2 | 87.5% [52.9%, 97.8%] | +87.5 [" in table
    trusted = "| 7/7 [65%, 100%] | 0/1 [0%, 79%] | 7/8 [53%, 98%] | 7/7 [65%, 100%] | 1/1 [21%, 100%] |"
    assert f"| fa-grpo (the paper's scoring) {trusted}" in table
    curves, bars, trust = plot.draw(summary).axes
    assert curves.lines[0].get_ydata().tolist() == [0.0, 87.5]
    assert [bar.get_width() for bar in bars.patches] == [0.0, 7 / 8]
    assert trust.lines[0].get_ydata().tolist() == [1.0]
    shown = [each.get_text().replace("\n", " ") for each in bars.get_yticklabels()]
    assert shown == ["cloned", "fa-grpo (the paper's scoring)"]
    assert curves.lines[0].get_label() == shown[1]
    with pytest.raises(ValueError, match="the cloned policy is not evaluated yet"):
        plot.draw({"arms": {}})


def test_an_arm_is_called_what_it_is():
    names = {name: protocol.label_of(name, asdict(arm)) for name, arm in protocol.SIZES["cpu"].arms.items()}
    assert names == {
        "flow-grpo": "flow-grpo-forward",
        "flow-grpo+flowscale": "flow-grpo-forward+flowscale",
        "fa-grpo": "fa-grpo-forward",
        "fa-grpo+flowscale": "fa-grpo-forward+flowscale",
        "fa-grpo-libero": "fa-grpo-forward, learned in LIBERO",
        "fa-grpo+flowscale-path": "fa-grpo-cps+flowscale (the paper's scoring)",
        "pi-rl": "pi-rl",
    }
    worse = {name: protocol.label_of(name, asdict(arm)) for name, arm in protocol.SIZES["reward"].arms.items()}
    assert worse == {name: name for name in protocol.DEGRADED}


def test_the_headline_says_which_runs_are_still_to_come(tmp_path, monkeypatch):
    folder = tmp_path / "short"
    folder.mkdir()
    summary = logged(folder)
    summary["arms"]["fa-grpo"]["runs"] = 1
    about = summary["arms"]["fa-grpo"]["about"] | {"algo": "pi-rl"}
    summary["arms"]["pi-rl"] = {**summary["arms"]["fa-grpo"], "about": about, "final": None}
    (folder / "summary.json").write_text(json.dumps(summary))
    monkeypatch.setattr(files, "RESULTS", tmp_path)
    assert "| 1 of 2 |" in headline.headline("short")
    assert "Not run yet: pi-rl." in headline.headline("short")


def test_controls_are_compared_with_the_cloned_policy_from_the_same_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(controls, "FOLDER", tmp_path)
    monkeypatch.setattr(controls, "LOGGED", tmp_path)
    assert "Not measured yet" in controls.table()
    about = {"world": controls.LIBERO, "task": [3] * 4, "start": [0, 1, 0, 1]}
    runs = [("sft", 0, [0, 1, 0, 0]), ("fa-grpo-s0", 4, [0, 0, 0, 0]), ("fa-grpo-s0", 8, [1, 1, 1, 1])]
    lines = [{"run": run, "update": update, "success": success, **about} for run, update, success in runs]
    lines += [{**lines[-1], "run": "fa-grpo-libero-s0"}, {**lines[-1], "world": "the dream"}]
    (tmp_path / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    episodes = [{"task": 3, "start": start, "success": start == 1} for start in (1, 0)]
    (tmp_path / "cloned_centre.json").write_text(json.dumps({"episodes": episodes}))
    table = controls.table()
    assert "| cloned | 1 | 1/4 [" in table
    assert "| learned by `fa-grpo-forward` | 1 | 4/4 [51%, 100%] | +75.0 [+50.0, +100.0] | +50.0 [" in table
    assert "| cloned, from the centre of the noise | 1 | 1/2 [9%, 91%] | +25.0 [+0.0, +50.0] |  |" in table
    assert "| cloned from the experts alone | 0 | not measured yet |" in table
    readme = headline.controls()
    assert [row[0] for row in readme] == ["no learning: cloned, from the centre of the noise"]
    assert readme[0][1:] == ["50.0% [9.5%, 90.5%]", "+25.0 [+0.0, +50.0]", "1 of 1"]


def test_the_film_is_of_a_start_that_changed_as_most_did(tmp_path, monkeypatch):
    logged(tmp_path)
    gained, cells = video.changed_starts(tmp_path, "fa-grpo-s0", protocol.LIBERO, 4)
    assert (gained, cells) == (True, [{"task": 3, "start": start} for start in range(3)])
    with pytest.raises(ValueError, match="ends from every official state as the cloned policy did"):
        video.changed_starts(tmp_path, "sft", protocol.LIBERO, 0)
    with pytest.raises(ValueError, match="no episodes of fa-grpo-s7: evaluate it first"):
        video.changed_starts(tmp_path, "fa-grpo-s7", protocol.LIBERO, 4)


def test_a_film_tells_an_outcome_only_when_it_has_happened(monkeypatch):
    monkeypatch.setattr(
        video, "side_by_side", lambda frames, footer, scale: ([int(f[0, 0, 0]) for f in frames.values()], footer)
    )
    frames = np.arange(5, dtype=np.uint8).repeat(3).reshape(5, 1, 1, 3)
    row = {"in LIBERO": (frames, False), "in the dream": (frames[:3], True)}
    told = [video.captioned(row, moment) for moment in range(5)]
    assert told == [
        ([0, 0], ""),
        ([1, 1], ""),
        ([2, 2], "in the dream: success"),
        ([3, 2], "in the dream: success"),
        ([4, 2], "in LIBERO: failure | in the dream: success"),
    ]


@pytest.mark.parametrize("again", [True, False])
def test_a_start_that_ends_otherwise_this_time_is_not_shown(place, tmp_path, monkeypatch, again, capsys):
    starts = [{"task": 3, "start": start} for start in range(2)]
    monkeypatch.setitem(video.SIZES, "short", place.size)
    monkeypatch.setattr(files.Place, "initial_weights", lambda place: "before")
    monkeypatch.setattr(video, "changed_starts", lambda *a: (True, starts))
    monkeypatch.setattr(video, "read_policy", lambda place, weights: weights)
    shot = np.zeros((2, 8, 8, 3), np.uint8)
    monkeypatch.setattr(
        video,
        "record",
        lambda policy, world, cell, *a, **k: (shot, again and cell["start"] == 1 and policy != "before"),
    )
    args = video.Args(out=place.out, logs=place.logs, image=tmp_path / "video.webp")
    if again:
        video.main(args)
        assert args.image.is_file()
        assert "'start': 0}: ends otherwise this time" in capsys.readouterr().out
    else:
        with pytest.raises(ValueError, match="none of 2 states ends as"):
            video.main(args)


def test_a_film_is_of_an_episode_of_the_log(place, short_dreams, monkeypatch):
    policy = make_policy("benchmarks.toys:tiny", files.spaces(), None)
    weights, drawn = place.out / "cloned.safetensors", []
    files.write_weights(policy, weights)
    sample = video.sample
    for module in (video, import_module("prophrl_algos.rollout._collect")):
        keep = lambda *a, **k: drawn.append(sample(*a, **k)) or drawn[-1]  # noqa: E731
        monkeypatch.setattr(module, "sample", keep)
    cells = experiment.cells_of(place.size, "fa-grpo-s0", 2, STAND_IN)
    episodes.official_episodes(place, weights, STAND_IN, cells, seed=5)
    logged = [x0 for path in drawn for x0 in path.x0]
    drawn.clear()
    seeds = episodes.seeds_of(place.size, STAND_IN, cells, 2, 5)
    video.record(policy, STAND_IN, cells[2], seeds)
    torch.testing.assert_close(drawn[0].x0[0], logged[2], atol=1e-3, rtol=1e-3)
    assert (logged[1] - logged[2]).abs().max() > 0.1
    with pytest.raises(IndexError, match="there are 3 episodes, no number 3"):
        episodes.seeds_of(place.size, STAND_IN, cells, 3, 5)


def test_a_film_is_of_the_first_picture_and_of_every_frame_that_was_run(place, short_dreams, monkeypatch):
    frames, done = video.record(
        make_policy("benchmarks.toys:tiny", files.spaces(), None), protocol.DREAM, {"task": 3, "start": 0}
    )
    assert (frames.shape, frames.dtype, done) == ((9, 128, 128, 3), np.uint8, False)
