"""`prophet rank` on a simulator in one file, and on LIBERO's scripts; what it writes, resumes and refuses."""

import importlib.util
import json

import numpy as np
import pytest

from prophet_gym.cli._rank import STATISTICS, statistics_of
from prophet_gym.cli.main import main
from prophet_gym.envs import write_initial_states
from prophet_gym.prophet import tiny_prophet
from prophet_gym.sims._initial_states import render_initial_states
from prophet_gym.sims.libero import _install as install
from prophet_gym.sims.simulator import register_simulator

SUITE = "pushing_ranked"
POLICIES = [f"{__name__}:push?speed={speed}" for speed in (0, 0.7, 0.8, 1)]


def push(env, speed: str):
    """Make a policy that pushes the puck to the right, and towards the middle by as much as an episode's noise says."""
    shape = env.single_action_space.shape

    def act(observation, episodes):
        actions = np.zeros((len(episodes), *shape), np.float32)
        actions[:, :4, 0] = float(speed)
        for row, episode in enumerate(episodes):
            actions[row, :, 1] = -float(speed) * 0.25 * int(episode.start["start"]) * episode.random.random()
        return actions

    return act


def bright(frame, _: str) -> float | None:
    """Call an untrained dream's noise a success or a failure, or say nothing."""
    value = int(frame.sum()) % 5
    return None if value == 0 else float(value == 1)


@pytest.fixture(scope="module")
def ranked_checkpoint(tmp_path_factory):
    """A checkpoint with official starts of a simulator that is registered here."""
    register_simulator([SUITE], "tests.sims.pushing:Pushing")
    folder = tmp_path_factory.mktemp("ranked")
    tiny_prophet().save_pretrained(folder)
    states = [
        state for task in range(2) for state in render_initial_states(SUITE, task, "official", 3, look="flat", size=64)
    ]
    write_initial_states(folder / "starts" / "official", states)
    return folder


@pytest.fixture
def words(ranked_checkpoint):
    return [
        *("rank", "--world-model", str(ranked_checkpoint), "--suite", SUITE, "--look", "flat", "--engine", "eager"),
        *("--device", "cpu", "--reward", f"{__name__}:bright", "--episodes", "6", "--num-envs", "4"),
        *("--max-chunks", "3"),
    ]


def run(words, out, policies=POLICIES, *more) -> list[dict]:
    main([*words, "--out", str(out), "--policies", *policies, *more])
    return [json.loads(line) for line in (out / "episodes.jsonl").read_text().splitlines()]


@pytest.mark.filterwarnings("ignore:.*axes:UserWarning")
def test_it_is_written_resumed_and_the_same(words, tmp_path, capsys):
    lines = run(words, tmp_path / "whole", POLICIES, "--json", str(tmp_path / "copy.json"), "--control", "4")
    # Two batches in both worlds, the first of them with shuffled actions too.
    assert len(lines) == 4 * (3 + 2)
    report = json.loads((tmp_path / "whole" / "ranking.json").read_text())
    assert json.loads((tmp_path / "copy.json").read_text()) == report
    # Eight actions of 5 cm at speed 1, in chunks of which four move, and the goal is 40 cm away.
    assert [each["simulator"]["mean"] for each in report["policies"]][::3] == [0.0, 1.0]
    assert [each["dream"]["episodes"] <= 4 for each in report["control"]["policies"]] == [True] * 4
    assert [each["simulator"]["episodes"] for each in report["policies"]] == [6] * 4
    assert sum(each["unscored"] for each in report["policies"]) > 0
    assert (tmp_path / "whole" / "ranking.png").read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    assert "push?speed=0.7" in said
    assert "Pearson: " in said
    shuffled = [each["dream"] for each in report["control"]["policies"]]
    done = sum(round(each["episodes"] * (each["mean"] or 0)) for each in shuffled)
    assert f"shuffled actions: {done} of {sum(each['episodes'] for each in shuffled)}" in said

    out = tmp_path / "parts"
    run(words, out, POLICIES[:2], "--episodes", "5", "--control", "1")
    log = out / "episodes.jsonl"
    kept = [json.loads(line) | {"seconds": -1.0} for line in log.read_text().splitlines()][:9]
    log.write_text("".join(json.dumps(line) + "\n" for line in kept))
    again = run(words, out, POLICIES, "--control", "4")
    key = ("first", "policy", "world", "success")
    assert sorted([line[name] for name in key] for line in again) == sorted(
        [line[name] for name in key] for line in lines
    )
    # What was there is not run again, but for batches that were shorter.
    assert [line["first"] for line in again if line["seconds"] < 0] == [0] * 6
    with pytest.raises(SystemExit):
        run(words, out, POLICIES, "--max-chunks", "2")
    assert "max_chunks was 3, is 2" in capsys.readouterr().err


def test_a_control_that_nothing_could_score_has_no_successes():
    counts = [{"mean": None, "episodes": 0}, {"mean": 0.25, "episodes": 4}]
    undefined = {"mean": None, "why": "nothing was scored"}
    found = dict.fromkeys((*STATISTICS, "permuted"), undefined)
    found["control"] = {"policies": [{"dream": each} for each in counts]}
    assert statistics_of(found)[-1] == ["dreams that succeed with shuffled actions", "1 of 4"]


def test_fewer_than_four_policies_and_no_control_are_said_in_words(words, tmp_path, capsys):
    lines = run(words, tmp_path, POLICIES[2:], "--control", "0")
    assert {line["world"] for line in lines} == {"dream", "simulator"}
    said = capsys.readouterr().out
    assert "Pearson: undefined, ranks need at least 4 policies, got 2" in said
    assert "shuffled" not in said


def test_without_a_simulator_or_a_reward_nothing_is_dreamt(words, tmp_path, capsys, monkeypatch):
    with pytest.raises(SystemExit):
        run([*words, "--reward", "None"], tmp_path)
    assert "needs a reward model" in capsys.readouterr().err
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "robosuite" else find_spec(name))
    with pytest.raises(SystemExit):
        main(["rank", "--policies", "script:expert", "--out", str(tmp_path / "libero")])
    assert "the LIBERO simulator needs robosuite, not installed here" in capsys.readouterr().err
    assert not (tmp_path / "libero").exists()


@pytest.mark.libero
@pytest.mark.skipif(install.missing() is not None, reason=str(install.missing()))
def test_a_script_that_sees_no_simulator_solves_libero(tmp_path):
    words = ["rank", "--tasks", "5", "--episodes", "1", "--control", "0", "--num-envs", "1", "--max-chunks", "20"]
    lines = run(words, tmp_path, ["script:expert"])
    assert {line["world"]: line["success"] for line in lines}["simulator"] == [True]
    assert len(lines) == 2
