"""`prophrl` refuses before it begins: what is missing, what is meant twice, what it cannot log to."""

import logging

import pytest

from prophet_gym.checkpoint import bundled_checkpoints
from prophrl_algos._loggers import LOGGERS, require_loggers
from prophrl_algos._named import NUM_STEPS, is_published, make_policy, warn_untrained
from prophrl_algos.algorithms import ALGORITHMS
from prophrl_algos.cli import main
from prophrl_algos.vla import SmallVLA
from prophrl_algos.vla._load import BUNDLED, choose

bundled = pytest.mark.skipif(not bundled_checkpoints().get("libero_small"), reason="no checkpoint is bundled")


def refused(words, status, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == status
    return capsys.readouterr().err


@pytest.mark.parametrize("words", [["train"], ["evaluate"], ["sft", "--data", "recording"]])
def test_a_policy_must_be_named_and_the_message_lists_what_may_be(words, capsys):
    error = refused(words, 2, capsys)
    assert "--policy" in error
    assert all(f"`{name}`" in error for name in NUM_STEPS)


def test_a_folder_does_not_hide_a_policy_of_its_name(dream, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (*NUM_STEPS, "other", *BUNDLED):
        (tmp_path / name).mkdir()
    assert [name for name in (*NUM_STEPS, "./small", "other") if is_published(name)] == ["./small", "other"]
    env = dream(2, chunk=8, action_dim=7)
    assert isinstance(make_policy("small", env, None), SmallVLA)
    for name, folder in BUNDLED.items():
        assert choose(name).folder == folder


def test_untrained_weights_are_said_to_be(caplog, tmp_path):
    with caplog.at_level(logging.WARNING, "prophrl_algos"):
        warn_untrained("small-k4", None)
        assert "--policy small-k4 without --policy-weights is untrained" in caplog.text
        caplog.clear()
        warn_untrained("small-k4", tmp_path)
        warn_untrained("owner/repo", None)
        assert not caplog.text


@bundled
@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--loggers", "csv", "tensorbord"], 1, "unknown logger 'tensorbord'. Did you mean 'tensorboard'?"),
        (["--loggers", "csv", "csv"], 2, "loggers must be different, got csv more than once"),
        (["--tasks", "3", "3"], 2, "tasks must be different, got 3 more than once"),
        (["--evaluate-every", "-1"], 2, "evaluate_every must be an integer of at least 0, got -1"),
        (["--learning-rate", "nan"], 2, "learning_rate must be a finite number above 0, got nan"),
        (["--config.updates", "-1"], 2, "updates must be an integer of at least 1, got -1"),
        (["--device", "nope"], 2, "unknown device 'nope'"),
    ],
)
def test_what_training_cannot_be_begun_with_writes_nothing(words, status, message, tmp_path, capsys):
    folder = tmp_path / "run"
    error = refused(["train", "--policy", "benchmarks.toys:tiny", "--out", str(folder), *words], status, capsys)
    assert message in " ".join(error.split())
    assert not folder.exists()


@bundled
def test_an_evaluation_past_the_last_start_is_refused_before_it_begins(capsys, tmp_path):
    words = [
        "evaluate",
        "--policy",
        "benchmarks.toys:tiny",
        "--tasks",
        "0",
        "--episodes",
        "51",
        "--json",
        str(tmp_path / "x.json"),
    ]
    error = refused(words, 1, capsys)
    assert "options['start'] must be in 0..49, the initial states of task 0, got 50" in error
    assert list(tmp_path.iterdir()) == []


def test_a_logger_whose_package_is_missing_is_named_beforehand(monkeypatch):
    require_loggers([name for name in LOGGERS if name not in ("tensorboard", "wandb", "trackio")])
    monkeypatch.setattr("prophrl_algos._loggers.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="No module named 'wandb'") as missing:
        require_loggers(["csv", "wandb"])
    assert missing.value.name == "wandb"


def test_the_overview_says_whose_scoring_is_whose():
    assert "the paper's own" in ALGORITHMS["fa-grpo"].summary
    assert all("ours" in algorithm.summary for name, algorithm in ALGORITHMS.items() if name.endswith("-forward"))
