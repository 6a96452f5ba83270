"""Reports of results: JSON for other programs, tables for people."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from prophet_gym._io.atomic import atomic_write
from prophet_gym._io.processor import machine as machine
from prophet_gym.estimates import Estimate, bootstrap
from prophet_gym.evaluation._open_loop import GRIPPER, METRICS, OBJECT, Scores

CONDITIONS = {
    "dream": "dream",
    "other_actions": "dream, other actions",
    "copy": "last frame copied",
    "autoencoder": "autoencoder alone",
    "real": "recorded frames",
}
COLUMNS = {
    "psnr": ("PSNR dB", 2),
    "ssim": ("SSIM", 3),
    "tssim": ("tSSIM", 3),
    "epe": ("EPE px", 3),
    "cosine": ("cosine", 3),
    GRIPPER: ("gripper mm", 1),
    OBJECT: ("object mm", 1),
}


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.full_like(a, np.nan), where=b > 0)


MARGINS: dict[str, tuple[str, str, Callable[..., np.ndarray], str, str]] = {
    "psnr_over_copy": ("copy", "psnr", np.subtract, "dream over copying", " dB"),
    "epe_by_copy": ("copy", "epe", _divide, "EPE of the dream by that of copying", ""),
    "psnr_over_other_actions": ("other_actions", "psnr", np.subtract, "right over other actions", " dB"),
}
"""Name -> what the dream is paired with, by which metric, how, and what tables call it."""


def summarise(scores: Scores, episodes: int) -> dict[str, Any]:
    """Return means and intervals of every horizon, condition and metric, and the paired margins of the dream."""
    return {str(horizon): _horizon(conditions, episodes) for horizon, conditions in scores.items() if conditions}


def _horizon(conditions: Mapping[str, Mapping[str, np.ndarray]], episodes: int) -> dict[str, Any]:
    means = {
        condition: {name: as_json(bootstrap(metrics[name])) for name in (*METRICS, GRIPPER, OBJECT) if name in metrics}
        for condition, metrics in conditions.items()
    }
    margins = {
        name: as_json(bootstrap(conditions["dream"][metric], conditions[other][metric], statistic=statistic))
        for name, (other, metric, statistic, *_) in MARGINS.items()
        if {"dream", other} <= conditions.keys()
    }
    used = int((~np.isnan(conditions["copy"]["psnr"])).sum())
    return {"episodes": used, "shorter": episodes - used, "conditions": means, "margins": margins}


def as_json(estimate: Estimate) -> dict[str, float | int | None]:
    """Return an estimate as plain numbers, with None in place of NaN, which JSON does not have."""
    return {name: None if np.isnan(value) else round(value, 6) for name, value in asdict(estimate).items()}


def write_json(path: Path | None, report: Mapping[str, Any]) -> None:
    """Write a report if a path is given; an interrupted write leaves no file."""
    if path is not None:
        atomic_write(path, json.dumps(report, indent=2, allow_nan=False) + "\n")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align columns of text, the first to the left and the others to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in [header, *rows]
    )


def evaluation_tables(horizons: Mapping[str, Any]) -> str:
    """Format a table for each horizon of `summarise`, with the margins below it."""
    return "\n\n".join(_evaluation_table(frames, found) for frames, found in horizons.items())


def _evaluation_table(frames: str, found: Mapping[str, Any]) -> str:
    conditions = found["conditions"]
    names = [name for name in COLUMNS if any(name in metrics for metrics in conditions.values())]
    rows = [
        [label, *(interval(conditions[key].get(name), COLUMNS[name][1]) for name in names)]
        for key, label in CONDITIONS.items()
        if key in conditions
    ]
    shorter = f" ({found['shorter']} shorter ones left out)" if found["shorter"] else ""
    title = f"{frames} frames, {found['episodes']} episodes{shorter}"
    margins = [
        f"  {label}: {interval(found['margins'][name], 2)}{unit}"
        for name, (*_, label, unit) in MARGINS.items()
        if name in found["margins"]
    ]
    return "\n".join([table([title, *(COLUMNS[name][0] for name in names)], rows), *margins])


def interval(estimate: Mapping[str, Any] | None, digits: int) -> str:
    """Format an estimate as `mean [low, high]`, or as a dash if it has no value."""
    if estimate is None or estimate["mean"] is None:
        return "-"
    return f"{estimate['mean']:.{digits}f} [{estimate['low']:.{digits}f}, {estimate['high']:.{digits}f}]"
