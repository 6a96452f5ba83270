"""`prophrl` says what is there, trains and evaluates, and refuses what is not."""

import csv
import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.toys import TinyFlowPolicy
from prophet_gym.checkpoint import _CHECKPOINTS, bundled_checkpoints
from prophet_gym.errors import MissingWeightsError
from prophet_gym.prophet import tiny_full_prophet
from prophet_gym.prophet._presets import TINY_FULL
from prophrl_algos import _named as common
from prophrl_algos._demonstrations import Demonstrations, read_demonstrations
from prophrl_algos._named import make_algorithm, make_env, make_policy, read_weights
from prophrl_algos.algorithms import ALGORITHMS, FA_GRPO
from prophrl_algos.cli import _evaluate as evaluate
from prophrl_algos.cli import _train as train
from prophrl_algos.cli import main
from prophrl_algos.flow import FlowSpec
from prophrl_algos.vla import SmallVLA

bundled = pytest.mark.skipif(not bundled_checkpoints().get("libero_small"), reason="no checkpoint is bundled")
POLICY = ["--policy", "benchmarks.toys:tiny"]
TINY = ["--config.groups", "1", "--config.group-size", "2", "--config.updates", "2", "--loggers", "csv"]


def test_the_overview_names_every_command_environment_and_algorithm(capsys):
    main([])
    printed = capsys.readouterr().out
    for name in ("train", "evaluate", "sft", "Prophet-LIBERO-v0", "LIBERO-Object-v0", *ALGORITHMS):
        assert name in printed


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_that_is_named_exists(name):
    assert make_algorithm(name, FlowSpec(1, 2, 2, 1, 3)).name == name


def test_an_algorithm_of_ones_own_is_imported():
    made = make_algorithm("tests.prophrl_algos.test_cli:own_algorithm", FlowSpec(1, 2, 2, 1, 3))
    assert made.name == "own-2"
    with pytest.raises(ValueError, match="builtins:repr must give an Algorithm, it gave str"):
        make_algorithm("builtins:repr", FlowSpec(1, 2, 2, 1, 3))


def own_algorithm(spec):
    return replace(FA_GRPO, name=f"own-{spec.action_dim}")


def test_without_tensorboard_training_logs_to_csv_and_says_so(monkeypatch, capsys):
    assert train.usual_loggers() == ("csv", "tensorboard")
    monkeypatch.setattr(train, "find_spec", lambda name: None)
    assert train.usual_loggers() == ("csv",)
    assert "pip install 'prophet-gym[train]'" in capsys.readouterr().err


def test_a_logger_that_is_not_installed_is_one_line_and_status_one(monkeypatch, capsys):
    def missing(args):
        raise ModuleNotFoundError("No module named 'tensorboard'", name="tensorboard")

    monkeypatch.setattr(train, "main", missing)
    with pytest.raises(SystemExit) as stopped:
        main(["train", *POLICY])
    assert stopped.value.code == 1
    assert capsys.readouterr().err == "prophrl train needs tensorboard: pip install 'prophet-gym[train]'\n"


def test_a_network_that_is_not_installed_is_said_in_one_line(monkeypatch, capsys):
    def missing(args):
        raise ImportError("pi0.5 needs lerobot's or openpi's network: pip install 'lerobot[pi]'")

    monkeypatch.setattr(train, "main", missing)
    with pytest.raises(SystemExit) as stopped:
        main(["train", *POLICY])
    assert stopped.value.code == 1
    assert capsys.readouterr().err.startswith("prophrl train: pi0.5 needs lerobot's")


def test_a_misspelt_command_is_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["trian"])
    assert stopped.value.code == 2
    assert "no command 'trian'. Did you mean 'train'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--env", "Prophet-LIBERO-v9"], "unknown environment 'Prophet-LIBERO-v9'. Did you mean 'Prophet-LIBERO-v0'?"),
        (["--algo", "fa-grppo"], "unknown algorithm 'fa-grppo'. Did you mean 'fa-grpo'?"),
        (["--policy", "large"], "unknown policy 'large'"),
        (["--policy", "nowhere:made"], "policy 'nowhere:made' cannot be imported"),
        (["--num-envs", "3"], "num_envs=3 must be a multiple of group_size=2"),
        (["--config.noise-level", "0"], "noise_level must be above 0"),
        (["--policy-weights", "/nowhere"], "holds none of best.pt, last.pt, sft.pt"),
    ],
)
@bundled
def test_what_does_not_fit_is_one_line_and_status_one(words, message, capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--out", str(tmp_path), *POLICY, *TINY, *words])
    assert stopped.value.code == 1
    assert message in capsys.readouterr().err


@bundled
def test_training_in_the_dream_writes_logs_and_weights_that_evaluation_reads(tmp_path, capsys, monkeypatch):
    import prophet_gym.envs.vector_env as vector_env

    monkeypatch.setattr(vector_env.ProphetVectorEnv, "_at_horizon", lambda self, row: self._rows[row].elapsed >= 1)
    words = ["--out", str(tmp_path), *POLICY, "--tasks", "3", "--flowscale.alpha", "0.5", *TINY]
    main(["train", *words])
    with (tmp_path / "metrics.csv").open() as file:
        assert [row["update"] for row in csv.DictReader(file)] == ["0", "1"]
    printed = capsys.readouterr().out
    assert "2 updates" in printed
    assert f"\n  prophrl evaluate --policy benchmarks.toys:tiny --policy-weights {tmp_path}\n" in printed
    assert f"\n  prophrl report {tmp_path}\n" in printed
    with pytest.raises(SystemExit):
        main(["train", *words, "--learning-rate", "1e-5"])
    assert "is of another run: learning_rate was 0.0003, is 1e-05; use another folder" in capsys.readouterr().err
    main(["train", *words, "--evaluate-every", "5"])
    assert "2 updates" in capsys.readouterr().out
    told = train.command("evaluate", train.Args(policy="small", out=tmp_path, cameras=("agentview", "wrist")))
    assert "--cameras agentview wrist" in told
    report = tmp_path / "evaluation.json"
    words = [*POLICY, "--policy-weights", str(tmp_path), "--tasks", "3", "--episodes", "2", "--initial-noise", "0"]
    main(["evaluate", *words, "--json", str(report)])
    printed = capsys.readouterr().out
    assert "pick up the" in printed
    found = json.loads(report.read_text())
    assert [(e["task"], e["start"]) for e in found["episodes"]] == [(3, 0), (3, 1)]
    assert (found["starts"], found["initial_noise"], found["noise_level"]) == ("official", 0, 0)
    main(["evaluate", *words, "--noise-level", "0.2", "--json", str(report)])
    assert json.loads(report.read_text())["noise_level"] == 0.2
    capsys.readouterr()
    for command in ("train", "evaluate"):
        with pytest.raises(SystemExit):
            main([command, *POLICY, "--world-model", str(tmp_path / "nowhere"), "--tasks", "3"])
        assert str(tmp_path / "nowhere") in capsys.readouterr().err


@bundled
def test_a_checkpoint_of_ones_own_dreams_where_it_is_asked_for(tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(_CHECKPOINTS / "libero_small", folder)
    env = make_env("Prophet-LIBERO-v0", 1, starts="train", tasks=[3], world_model=str(folder))
    assert env.unwrapped.world_model is not make_env("Prophet-LIBERO-v0", 1, starts="train").unwrapped.world_model
    with pytest.raises(ValueError, match="LIBERO-Object-v0 has no world model"):
        make_env("LIBERO-Object-v0", 1, starts="train", world_model=str(folder))


def test_weights_of_another_robot_are_taken_for_what_they_are(tmp_path):
    tiny_full_prophet(config=replace(TINY_FULL, embodiment="bridge")).save_pretrained(tmp_path)
    # Only their initial states are missing: the robot is the checkpoint's.
    with pytest.raises(MissingWeightsError, match="no starts of their own named 'train'"):
        evaluate.Args(policy="small", world_model=str(tmp_path)).make_env(1)


@bundled
def test_a_reward_and_an_env_of_ones_own_lie_in_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "own_parts.py").write_text(
        "import gymnasium as gym\n"
        "def red(video, instruction):\n    return 0.25\n"
        "gym.register('Own-v0', vector_entry_point='prophet_gym.factory:make_vector_env')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    main([])  # what a command begins with
    env = make_env("Prophet-LIBERO-v0", 1, starts="train", tasks=[3], reward="own_parts:red")
    env.reset(seed=0)
    assert env.step(np.zeros(env.action_space.shape, np.float32))[1].tolist() == [0.25]
    assert make_env("own_parts:Own-v0", 1, starts="train", tasks=[3]).spec.id == "Own-v0"
    with pytest.raises(ValueError, match="environment 'no_parts' cannot be imported"):
        make_env("no_parts:Own-v0", 1, starts="train")
    with pytest.raises(ValueError, match="LIBERO-Object-v0 has no world model and scores by itself"):
        make_env("LIBERO-Object-v0", 1, starts="train", reward="own_parts:red")


class TestDemonstrations:
    def test_a_batch_is_what_was_seen_and_what_was_done_next(self):
        actions = [np.arange(3, dtype=np.float32)[:, None] + 100 * episode for episode in (1, 2)]
        seen = torch.tensor([10, 11, 12, 20, 21, 22])
        obs, chunks = Demonstrations({"step": seen}, actions, 2).draw(200, torch.Generator().manual_seed(0))
        for step, chunk in zip(obs["step"].tolist(), chunks, strict=True):
            episode, index = divmod(step, 10)
            assert chunk[:, 0].tolist() == [100 * episode + index, 100 * episode + min(index + 1, 2)]
        assert set(obs["step"].tolist()) == set(seen.tolist())

    @bundled
    def test_the_command_clones_experts_that_succeed_and_nothing_else(self, tmp_path, capsys, record):
        data, out = tmp_path / "data", tmp_path / "out"
        for index, (success, mode) in enumerate([(True, "expert"), (False, "expert"), (True, "noisy")]):
            record(data, index, success, mode=mode)
        words = [*POLICY, "--data", str(data), "--out", str(out), "--config.steps", "3", "--config.batch-size", "4"]
        main(["sft", *words])
        assert "1 episodes, 5 steps" in capsys.readouterr().out
        assert "context.weight" in read_weights(out)
        main(["sft", *words, "--out", str(tmp_path / "all"), "--modes"])
        assert "2 episodes, 10 steps" in capsys.readouterr().out
        with pytest.raises(SystemExit):
            main(["sft", *words, "--modes"])
        assert "is of another run: modes was ['expert'], is []" in capsys.readouterr().err
        main(["sft", *words, "--out", str(tmp_path / "faulty"), "--failing", "expert"])
        assert "2 episodes, 10 steps" in capsys.readouterr().out
        with pytest.raises(SystemExit):
            main(["sft", *words, "--modes", "noise"])
        assert "unknown mode in the recording 'noise'. Did you mean 'noisy'?" in capsys.readouterr().err

    @bundled
    def test_the_small_vla_is_cloned_saved_and_made_again_by_name(self, tmp_path, monkeypatch, record):
        data, out = tmp_path / "data", tmp_path / "out"
        record(data, 0, success=True)
        monkeypatch.setattr(common, "SmallVLA", small_small_vla)
        main(["sft", "--data", str(data), "--out", str(out), "--policy", "small", "--config.steps", "2",
              "--config.batch-size", "2"])  # fmt: skip
        env = common.make_env("Prophet-LIBERO-v0", 1, starts="train")
        monkeypatch.undo()
        made = make_policy("small-k4", env, out / "policy")
        assert made.spec == FlowSpec(8, 7, 7, 8, 4)
        stored = read_weights(out)
        assert all(torch.equal(stored[name], tensor) for name, tensor in made.state_dict().items())
        assert made.state_dict()["action_mean"][2] == pytest.approx(0.25)


def test_failures_are_cloned_of_the_scripts_that_are_named_alone(tmp_path, record):
    for index, (success, mode) in enumerate([(True, "expert"), (False, "expert"), (False, "other"), (True, "noisy")]):
        record(tmp_path, index, success, steps=index + 2, mode=mode)
    policy = TinyFlowPolicy(FlowSpec(8, 7, 7, 8, 4), hidden=8)
    shown = read_demonstrations(policy, [tmp_path], failing=["other"])
    assert [len(actions) for actions in shown.actions] == [2, 4]
    with pytest.raises(ValueError, match="unknown mode in the recording 'drop'"):
        read_demonstrations(policy, [tmp_path], failing=["drop"])


def test_demonstrations_show_where_things_are(tmp_path, record):
    record(tmp_path, 0, success=True)
    shown = read_demonstrations(SmallVLA(image_size=16, places=2, width=16, layers=1), [tmp_path])
    assert shown.obs["points"].shape == (5, 2, 2)
    assert torch.equal(shown.obs["points"][:, 0], torch.tensor([[0.0, 0.5]]).expand(5, 2))


def small_small_vla(*sizes):
    return SmallVLA(*sizes, image_size=16, places=2, width=16, layers=1)


def test_a_function_of_ones_own_makes_the_policy(dream):
    made = make_policy("tests.prophrl_algos.test_cli:own_policy", dream(2), None)
    assert made.spec.num_steps == 7
    with pytest.raises(ValueError, match=r"must be an nn\.Module"):
        make_policy("builtins:repr", dream(2), None)


def test_a_function_in_the_current_folder_is_found(dream, tmp_path, monkeypatch):
    (tmp_path / "made_here.py").write_text("from tests.prophrl_algos.test_cli import own_policy as make\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in sys.path if path])
    main([])  # what a command begins with
    assert make_policy("made_here:make", dream(2), None).spec.num_steps == 7


def own_policy(env):
    return TinyFlowPolicy(FlowSpec(*env.single_action_space.shape, 2, 2, 7))
