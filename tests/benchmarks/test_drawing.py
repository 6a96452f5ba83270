"""The sheet of looks has a row per suite and says what is in its columns."""

import imageio.v3 as iio
import numpy as np
import pytest

pytest.importorskip("mujoco", reason="needs the extra prophet-gym[libero]")

from benchmarks.speed.drawing import CAMERAS, LOOKS, SHOWN, write_sheet
from prophet_gym.sims.libero import _install as install


@pytest.mark.skipif(install.missing() is not None, reason=str(install.missing()))
def test_the_sheet_stacks_a_row_of_every_suite_under_the_names(tmp_path):
    width = SHOWN * len(CAMERAS) * len(LOOKS)
    rows = {name: np.full((SHOWN, width, 3), level, np.uint8) for name, level in (("one", 40), ("two", 200))}
    write_sheet(tmp_path / "images" / "sheet.webp", rows)
    sheet = iio.imread(tmp_path / "images" / "sheet.webp").astype(int)
    head = len(sheet) - 2 * SHOWN
    assert sheet.shape[1] == width
    assert sheet[:head].min() < 60, "the head has names"
    assert abs(sheet[head : head + SHOWN].mean() - 40) < 4
    assert abs(sheet[head + SHOWN :].mean() - 200) < 4
