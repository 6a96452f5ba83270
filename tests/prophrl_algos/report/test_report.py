"""`prophrl report` shows what runs wrote, explains all of it, and says in one error what it cannot read."""

import csv
import json
import re
import socket
import subprocess
import sys
import time

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from benchmarks.toys import tiny as tiny_of
from prophet_gym.checkpoint import bundled_checkpoints
from prophet_gym.cli.report._page import UNKNOWN
from prophet_gym.cli.report._runs import group_runs, read_run
from prophrl_algos._loggers import CsvLogger
from prophrl_algos.cli import _train as train_command
from prophrl_algos.cli import main
from prophrl_algos.sft import SftConfig, sft
from prophrl_algos.trainer._metrics import MEANINGS
from tests.prophrl_algos.report.bandit import make
from tests.prophrl_algos.report.conftest import BANDIT, train

bundled = pytest.mark.skipif(not bundled_checkpoints().get("libero_small"), reason="no checkpoint is bundled")

EXPLAINED = {name: text for texts in MEANINGS.values() for name, text in texts.items()}


def report(*runs, out=None, options=()):
    path = out or runs[0] / "report.html"
    main(["report", *map(str, runs), *([] if out is None else ["--out", str(out)]), *options])
    return path.read_text(encoding="utf-8")


def columns(path):
    with path.open() as file:
        return set(next(csv.reader(file))) - {"update"}


def explained(name):
    return name in EXPLAINED or any(each[-1] == "*" and name.startswith(each[:-1]) for each in EXPLAINED)


def refused(capsys, *words):
    with pytest.raises(SystemExit) as stopped:
        main(["report", *map(str, words)])
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def cloned(folder):
    """A run of cloning on the bandit."""
    env = make(2)
    policy = tiny_of(env)
    obs = policy.prepare(env.reset()[0], ["pull"] * 2)
    draw = lambda count, generator: (obs, torch.zeros(2, 1, 2))  # noqa: E731
    sft(policy, draw, SftConfig(steps=2, batch_size=2), folder, logger=CsvLogger(folder / "sft.csv"))
    return folder


def test_every_metric_is_explained_and_nothing_else(runs, dream, tiny, tmp_path):
    precision = train_command.precision_metrics(tiny(), dream(4), dream(4), 0)(0)
    written = columns(runs[0] / "metrics.csv") | columns(cloned(tmp_path) / "sft.csv")
    # The slow test below sees the last one in a run.
    written |= {f"evaluation/{name}" for name in precision} | {"evaluation/uncertainty"}
    # These are of experiments, whose folders have a test of their own.
    written |= {name for name in EXPLAINED if name.startswith("evaluation/simulator/")}
    assert [name for name in written if not explained(name)] == []
    assert [
        name for name in EXPLAINED if name not in written and not any(each.startswith(name[:-1]) for each in written)
    ] == []
    assert UNKNOWN not in report(tmp_path)


@pytest.mark.slow
@bundled
def test_a_run_in_the_dream_logs_its_uncertainty_and_is_filmed(tmp_path):
    sizes = ["--config.groups", "1", "--config.group-size", "2", "--config.updates", "1", "--tasks", "3"]
    policy = ["--policy", "small-k4", "--policy-weights", "SmallVLA-LIBERO-object-sft"]
    main(["train", *policy, *sizes, "--evaluate-every", "1", "--evaluate-episodes", "1", "--out", str(tmp_path)])
    found = read_run(tmp_path).columns
    assert [name for name in found if not explained(name)] == []
    assert found["evaluation/uncertainty"][1][0] > 0
    html = report(tmp_path, options=["--films", "1", "--device", "cpu"])
    assert "“pick up the bbq sauce and place it in the basket”" in html
    assert "Uncertainty along the episodes" in html
    film = list(iio.imiter(tmp_path / "films" / "00.webp"))
    assert len(film) > 4
    assert np.abs(film[-1].astype(int) - film[0]).max() > 60


def test_a_page_has_all_metrics_settings_machine_and_command(runs, tmp_path):
    html = report(runs[0], out=tmp_path / "page.html")
    for name in columns(runs[0] / "metrics.csv"):
        assert name in html
    assert UNKNOWN not in html
    assert "20 of 20 updates" in html
    assert "--config.minibatches 2" in html
    assert "learning_rate" in html
    assert "cores" in html
    assert 'class="notes"' not in html


def test_a_page_needs_no_other_file_and_no_script(runs, tmp_path):
    html = report(*runs, out=tmp_path / "page.html")
    assert not re.findall(r"""(?:src|href)=["'](?!data:)|url\(|@import""", html)
    assert "<script" not in html
    assert 'http-equiv="refresh"' not in html


def test_runs_that_differ_in_their_seed_are_one_curve_with_its_interval(runs, tmp_path):
    fa, flow = group_runs([read_run(run) for run in runs])
    assert (fa.label, len(fa.runs), flow.label, len(flow.runs)) == ("fa (3 runs)", 3, "flow", 1)
    line = fa.line("return")
    values = np.stack([read_run(run).columns["return"][1] for run in runs[:3]])
    np.testing.assert_allclose(line.y, values.mean(0))
    assert (line.low < values.mean(0)).all()
    html = report(*runs, out=tmp_path / "page.html")
    assert "What differs" in html
    assert "<tr><td>algo</td><td>fa-grpo</td><td>flow-grpo</td></tr>" in html


def test_an_interval_that_the_run_logged_is_drawn(runs):
    (group,) = group_runs([read_run(runs[0])])
    line, logged = group.line("evaluation/success"), group.runs[0].columns
    np.testing.assert_array_equal(line.low, logged["evaluation/success_low"][1])
    np.testing.assert_array_equal(line.high, logged["evaluation/success_high"][1])


def test_films_are_made_on_request_and_kept(run, capsys):
    html = report(run, options=["--films", "5", "--device", "cpu"])
    assert html.count("data:image/webp;base64,") == 4
    assert "one of the worst after learning" in html
    told = json.loads((run / "films" / "films.json").read_text())
    assert len(told["rows"]) == 5
    before, after = ([float(row[column]) for row in told["rows"]] for column in (3, 6))
    assert np.mean(after) > np.mean(before)
    assert report(run).count("data:image/webp;base64,") == 4
    (run / "films" / "00.webp").unlink()
    assert "make the films again with --films" in refused(capsys, run)


def test_films_need_the_command_of_the_run(run, capsys):
    (run / "history.jsonl").unlink()
    assert "no record of its command; leave --films away" in refused(capsys, run, "--films", "2")


def test_a_run_of_an_earlier_version_is_shown_as_far_as_it_is_known(run):
    (run / "history.jsonl").unlink()
    html = report(run)
    assert "an earlier version began this run" in html
    assert "Settings are incomplete." in html
    assert "benchmarks.toys:tiny" in html
    (run / "arguments.json").unlink()
    assert "Settings are not known." in report(run)


def test_a_run_of_another_version_says_so_and_keeps_metrics_that_are_new(run):
    history = (run / "history.jsonl").read_text()
    (run / "history.jsonl").write_text(history.replace('"prophet-gym": "', '"prophet-gym": "9.'))
    text = (run / "metrics.csv").read_text().splitlines()
    (run / "metrics.csv").write_text(
        "\n".join(line + (",novelty" if n == 0 else f",{n}") for n, line in enumerate(text))
    )
    html = report(run)
    assert re.search(r"Written by version 9\.[\d.]+, read by", html)
    assert UNKNOWN in html
    assert "<td>novelty</td>" in html


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: "", "must begin with the names of its columns, update among them"),
        (lambda text: text.replace("update,", "epoch,", 1), "must begin with the names of its columns"),
        (lambda text: text[: len(text) * 2 // 3].rsplit(",", 3)[0], "values, has"),
        (lambda text: re.sub(r"(\n3,)[^,]*", r"\1many", text), "rollouts must be a number, got 'many'"),
        (lambda text: text.splitlines()[0], "must hold the metrics of a run"),
    ],
)
def test_damaged_metrics_are_one_error(run, damage, message, capsys):
    path = run / "metrics.csv"
    path.write_text(damage(path.read_text()))
    assert message in refused(capsys, run)


def test_what_is_no_run_is_one_error(run, tmp_path, capsys):
    assert "there is no such folder" in refused(capsys, tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "must hold the metrics of a run (metrics.csv, sft.csv or tensorboard/)" in refused(
        capsys, tmp_path / "empty"
    )
    (run / "history.jsonl").write_text('{"time": ')
    assert "line 1 of" in refused(capsys, run)


def test_the_names_of_others_stay_text(run):
    odd = run.rename(run.with_name("<img src=x>&"))
    html = report(odd)
    assert "<img src=x>" not in html
    assert "&lt;img src=x&gt;&amp;" in html


def test_a_run_without_csv_is_read_from_its_events(tmp_path):
    html = report(train(tmp_path / "run", "--loggers", "tensorboard", updates=2))
    assert "evaluation/success" in html


def test_a_command_that_is_refused_is_not_recorded_and_one_that_continues_is(run):
    begun = (run / "history.jsonl").read_text()
    with pytest.raises(SystemExit):
        train(run, "--config.beta", "0.5")
    assert (run / "history.jsonl").read_text() == begun
    train(run, updates=21)
    first, second = (json.loads(line) for line in (run / "history.jsonl").read_text().splitlines())
    assert (first["arguments"]["config"]["updates"], second["arguments"]["config"]["updates"]) == (20, 21)
    assert "21 of 21 updates" in report(run)


def test_a_run_that_was_killed_is_not_running(run):
    over = subprocess.Popen([sys.executable, "-c", ""])
    over.wait()
    owner = {"process": over.pid, "host": socket.gethostname()}
    (run / ".run.json").write_text(json.dumps(owner))
    assert not read_run(run).running
    (run / ".run.json").write_text(json.dumps(owner | {"host": "another"}))
    assert read_run(run).running


@pytest.mark.slow
def test_a_live_report_follows_a_run_to_its_end(tmp_path):
    out, words = tmp_path / "run", ["--config.groups", "1", "--loggers", "csv", "--config.updates", "400"]
    start = [sys.executable, "-m", "prophrl_algos"]
    training = subprocess.Popen([*start, *BANDIT, *words, "--out", str(out)], stderr=subprocess.DEVNULL)
    while not (out / ".run.json").exists():
        assert training.poll() is None
        time.sleep(0.05)
    following = subprocess.Popen([*start, "report", str(out), "--live", "--every", "0.2"])
    seen = set()
    while following.poll() is None:
        if (out / "report.html").exists():
            html = (out / "report.html").read_text()
            seen |= set(re.findall(r"(no update yet|\d+ of 400 updates), 1 still running", html))
            assert 'http-equiv="refresh"' in html or ", ended" in html
        time.sleep(0.1)
    assert (training.wait(), following.wait()) == (0, 0)
    assert len(seen) > 1
    html = (out / "report.html").read_text()
    assert "400 of 400 updates, ended" in html
    assert 'http-equiv="refresh"' not in html
