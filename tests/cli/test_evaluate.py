"""`prophet evaluate` on a small recording, and how its numbers are put into words."""

import json

import numpy as np
import pytest

from prophet_gym.cli.main import main
from prophet_gym.evaluation._report import evaluation_tables, summarise, table


def test_the_command_prints_and_stores_every_horizon(checkpoint, recording, tmp_path, capsys):
    stored = tmp_path / "deep" / "evaluation.json"
    main([
        "evaluate", "--world-model", str(checkpoint), "--data", str(recording), "--json", str(stored),
        "--horizons", "8", "16", "24", "--spacing", "8",
    ])  # fmt: skip
    report = json.loads(stored.read_text())
    assert {h: (found["episodes"], found["shorter"]) for h, found in report["horizons"].items()} == {
        "8": (2, 0),
        "16": (2, 0),
        "24": (1, 1),
    }
    assert set(report["horizons"]["8"]["conditions"]) == {"dream", "other_actions", "copy", "autoencoder"}
    assert "other_actions" not in report["horizons"]["24"]["conditions"]
    assert report["tasks"] == [0, 1]
    assert report["starts"] == "official"
    assert "24 frames, 1 episodes (1 shorter ones left out)" in capsys.readouterr().out


def test_a_folder_that_is_no_recording_is_refused(checkpoint, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "--world-model", str(checkpoint), "--data", str(tmp_path)])
    assert "is no recording" in capsys.readouterr().err


def test_margins_are_paired_over_episodes():
    dream = {"psnr": np.array([25.0, 35.0]), "epe": np.array([1.0, 3.0])}
    copy = {"psnr": np.array([22.0, 32.0]), "epe": np.array([2.0, 6.0])}
    other = {"psnr": np.array([24.0, 33.0]), "epe": np.array([2.0, 6.0])}
    found = summarise({8: {"dream": dream, "copy": copy, "other_actions": other}}, episodes=3)["8"]
    assert found["shorter"] == 1
    margins = found["margins"]
    assert (margins["psnr_over_copy"]["mean"], margins["psnr_over_copy"]["low"]) == (3.0, 3.0)
    assert margins["epe_by_copy"]["mean"] == 0.5
    assert margins["psnr_over_other_actions"] == {"mean": 1.5, "low": 1.0, "high": 2.0, "episodes": 2}
    assert "EPE of the dream by that of copying: 0.50 [0.50, 0.50]" in evaluation_tables({"8": found})


def test_a_value_that_does_not_exist_is_a_dash_and_null():
    nothing = {"psnr": np.array([20.0]), "epe": np.array([0.0]), "cosine": np.array([np.nan])}
    found = summarise({8: {"dream": nothing, "copy": nothing}}, episodes=1)["8"]
    assert found["conditions"]["dream"]["cosine"]["mean"] is None
    assert found["margins"]["epe_by_copy"]["mean"] is None
    json.dumps(found, allow_nan=False)
    assert evaluation_tables({"8": found}).splitlines()[1].endswith("-")


def test_columns_are_aligned():
    assert table(["a", "bcd"], [["long", "1"], ["x", "22"]]).splitlines() == ["a     bcd", "long    1", "x      22"]
