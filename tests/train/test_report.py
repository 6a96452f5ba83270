"""`prophet report` shows a run of `prophet train`, and films what its checkpoint dreams."""

import pytest

from prophet_gym.cli.main import main
from prophet_gym.cli.report._page import UNKNOWN

TINY = {
    "autoencoder-steps": 2, "decoder-steps": 2, "tracker-steps": 2, "steps": 2, "batch-size": 4, "layers": 1,
    "width": 96, "held-out": 4,
}  # fmt: skip


@pytest.mark.slow
def test_a_training_is_shown_stage_by_stage_with_films_of_its_dreams(toy_recording, tmp_path, capsys):
    sizes = [word for name, size in TINY.items() for word in (f"--{name}", str(size))]
    run = tmp_path / "run"
    main(["train", "--data", str(toy_recording), "--out", str(run), "--device", "cpu", *sizes])
    main(["report", str(run), "--films", "4", "--device", "cpu"])
    html = (run / "report.html").read_text()
    for name in ("transformer/loss", "tracker/gradient_norm", "autoencoder/psnr_moved", "transformer/against_copy"):
        assert name in html
    assert UNKNOWN not in html
    assert html.count("data:image/webp;base64,") == 2  # so many of the four are held out
    assert "“push the square”. PSNR" in html
    assert "prophet train \\\n" in html
    (run / "checkpoint" / "prophet.json").unlink()
    with pytest.raises(SystemExit):
        main(["report", str(run), "--films", "4"])
    assert "has no checkpoint; leave --films away" in capsys.readouterr().err
