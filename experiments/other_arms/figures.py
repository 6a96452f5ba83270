"""Tables of the comparison of arms, as blocks that `make figures` writes into the documents."""

import json
from collections.abc import Callable
from pathlib import Path

from docs.blocks.common import markdown_table, where
from prophet_gym.evaluation._report import interval

RESULTS = Path(__file__).parent / "results.json"
NAMES = {
    "two_arms": "Panda and Sawyer",
    "panda": "Panda",
    "sawyer": "Sawyer",
    "nothing": "nothing",
    "nothing_longer": "nothing, as many steps in all",
    "two_arms_no_frames": "Panda and Sawyer, no action frames",
    "panda_no_frames": "Panda, no action frames",
    "nothing_no_frames": "nothing, no action frames",
}


def arms() -> str:
    """Return the models' scores at each horizon, and their differences episode by episode."""
    if not RESULTS.is_file():
        return "Not measured yet."
    found = json.loads(RESULTS.read_text())
    models, tables = found["models"], []
    horizons = list(next(iter(models.values())))
    for frames in horizons:
        rows = []
        for name, label in NAMES.items():
            if name not in models:
                continue
            one = models[name][frames]
            dream, margins = one["conditions"]["dream"], one["margins"]
            cells = [(dream["psnr"], 2), (dream["epe"], 2), (margins["psnr_over_copy"], 2)]
            cells += [(margins["psnr_over_other_actions"], 2), (one["conditions"]["autoencoder"]["psnr"], 2)]
            rows.append([label, *(interval(estimate, digits) for estimate, digits in cells)])
        header = [f"{frames} frames, begun with", "PSNR dB", "EPE px", "over copying, dB", "over other actions, dB"]
        tables.append(markdown_table([*header, "autoencoder alone, dB"], rows))
    rows = [[label, *(interval(each[frames], 2) for frames in horizons)] for label, each in found["pairs_psnr"].items()]
    tables.append(markdown_table(["difference in PSNR, dB", *(f"{frames} frames" for frames in horizons)], rows))
    pixels = max(error for cameras in found["pixel_errors"].values() for error in cameras.values())
    return "\n\n".join([
        f"{found['episodes']} test episodes of UR5e; mean [95% interval]. The transformer took {found['steps']} steps "
        f"before the third arm and {found['adapt_steps']} on it, on {where(found['machine'])}.",
        *tables,
        f"A marker that the simulator draws at the tool lies at most {pixels:.2f} pixels from where the calibration "
        f"says, for {', '.join(found['pixel_errors'])} and both cameras.",
    ])  # fmt: skip


BLOCKS: dict[str, Callable[[], str]] = {"other-arms": arms}
