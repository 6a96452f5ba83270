"""The model card of a repository: front matter whose figures the Hub shows, and the same figures as a table."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prophet_gym._checks import first_line
from prophet_gym._io.companions import MARKER
from prophet_gym._io.files import read_text
from prophet_gym.errors import CheckpointError


@dataclass(frozen=True)
class Measure:
    """Hold one measured number: what it is, what it was measured on, and its 95% interval where there is one.

    `metric` is the Hub's name of the metric, such as `psnr`; `name` is for people.
    """

    metric: str
    name: str
    value: float
    on: str
    low: float | None = None
    high: float | None = None

    @classmethod
    def read(cls, metric: str, name: str, on: str, estimate: Any) -> "Measure | None":
        """Return the measure of a mean with its interval, as reports hold it; None for one that is not known."""
        if not isinstance(estimate, Mapping) or not _is_number(estimate.get("mean")):
            return None
        low, high = (value if _is_number(value) else None for value in (estimate.get("low"), estimate.get("high")))
        return cls(metric, name, float(estimate["mean"]), on, low, high)


@dataclass(frozen=True)
class About:
    """Hold what a front matter says beside the figures; a license that is not known is left out."""

    name: str
    tags: tuple[str, ...]
    task: str = "robotics"
    license: str | None = None


def write_card(about: About, body: str, measures: Sequence[Measure]) -> str:
    """Return the text of a generated card, with the measures in its front matter and, as a table, at its end."""
    data = _front_matter(about, measures)
    table = f"\n## Measured\n\n{_table(measures)}\n" if measures else ""
    return f"---\n{data.to_yaml()}\n---\n{MARKER}\n\n{body.rstrip()}\n{table}"


def keep_card(path: Path, about: About, measures: Sequence[Measure]) -> str:
    """Return a card that somebody wrote, with the measures in its front matter unless it has figures of its own.

    Raises:
        CheckpointError: Its front matter is no YAML, or its figures are not as the Hub reads them.
    """
    from huggingface_hub import ModelCard

    try:
        card = ModelCard(read_text(path, CheckpointError))
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{path} must begin with front matter that the Hub reads (YAML between two lines of ---): "
            f"{first_line(error)}; mend it, or delete it and a card is written"
        ) from error
    known: Any = card.data
    generated = _front_matter(about, measures)
    for name in ("library_name", "pipeline_tag", "license", "tags"):
        if getattr(known, name, None) is None:
            setattr(known, name, getattr(generated, name))
    if not known.eval_results and generated.eval_results:
        known.eval_results, known.model_name = generated.eval_results, known.model_name or about.name
    return str(card)


def _front_matter(about: About, measures: Sequence[Measure]) -> Any:
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type=about.task,
            dataset_type="prophet-gym",
            dataset_name=each.on,
            dataset_config=each.on,  # the Hub's figures are one table for each, whatever their names
            metric_type=each.metric,
            metric_name=each.name,
            metric_value=each.value,
        )
        for each in measures
    ]
    return ModelCardData(
        license=about.license,
        library_name="prophet-gym",
        pipeline_tag=about.task,
        tags=list(about.tags),
        model_name=about.name,
        eval_results=results or None,
    )


def _table(measures: Sequence[Measure]) -> str:
    rows = [f"| {each.on} | {each.name} | {_shown(each)} |" for each in measures]
    return "\n".join(["| measured on | what | mean [95% interval] |", "| --- | --- | ---: |", *rows])


def _shown(each: Measure) -> str:
    interval = "" if each.low is None or each.high is None else f" [{each.low:.4g}, {each.high:.4g}]"
    return f"{each.value:.4g}{interval}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
