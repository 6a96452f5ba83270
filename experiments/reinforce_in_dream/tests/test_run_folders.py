"""The logs of the experiment become folders that `prophrl report` reads."""

import pytest

from experiments.reinforce_in_dream.files import RESULTS, read_lines
from experiments.run_folders import Args, main
from prophet_gym.cli.report._runs import group_runs, read_run
from prophrl_algos.cli import main as prophrl


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    main(Args(out))
    return out


def test_every_run_of_the_results_can_be_reported_with_its_evaluations(folders):
    runs = {path.name: read_run(path) for path in folders.iterdir()}
    logged = {f"{path.parent.name}-{path.stem}" for path in (RESULTS / "cpu" / "learning").glob("*/s*.jsonl")}
    assert runs.keys() == logged
    run = runs["fa-grpo-s2"]
    (line,) = [
        each
        for each in read_lines(RESULTS / "cpu" / "evaluations.jsonl")
        if (each["run"], each["update"], each["world"]) == ("fa-grpo-s2", 8, "LIBERO-Object-v0")
    ]
    x, y = run.columns["evaluation/simulator/success"]
    assert x.tolist() == [0, 4, 8]
    assert y[-1] == pytest.approx(sum(line["success"]) / len(line["success"]))
    assert (run.planned, run.notes, run.running) == (8, [], False)
    assert [group.label for group in group_runs([runs[f"fa-grpo-s{seed}"] for seed in range(3)])] == [
        "fa-grpo (3 runs)"
    ]


def test_no_metric_of_them_is_unknown_to_the_report(folders):
    prophrl(["report", str(folders / "fa-grpo-s2"), str(folders / "flow-grpo-s0"), "--out", str(folders / "r.html")])
    page = (folders / "r.html").read_text(encoding="utf-8")
    assert "does not know this metric" not in page
    assert "8 of 8 updates, ended" in page
    (folders / "r.html").unlink()
