"""Publish a policy on the Hub: it is loaded and acts once before anything is sent, and again after it is fetched."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import torch
from torch import nn

from prophet_gym._io.companions import CARD, is_ours
from prophet_gym._io.files import read_json as read_report
from prophet_gym._io.files import reading
from prophet_gym._io.hub import (
    MANIFEST,
    About,
    Measure,
    fetch,
    keep_card,
    offered,
    parse_hub_name,
    without_places,
    write_card,
)
from prophet_gym.errors import CheckpointError, MissingWeightsError
from prophrl_algos.flow import FlowPolicy, FlowSchedule, sample
from prophrl_algos.vla._load import FETCHED, LoadOptions, choose, load_policy
from prophrl_algos.vla._lora import has_lora
from prophrl_algos.vla.io._weights import CONFIG, read_json

REPORTS = "evaluation*.json"
SAVED = "policy"
"""Folder in that of a `prophrl sft` run, where the policy lies."""
_BY_MIXIN = "PyTorchModelHubMixin"
"""Stands in cards that huggingface_hub writes by itself."""
_BODY = """# {title}

A flow-matching vision-language-action policy, saved by [ProphRL](https://arxiv.org/abs/2511.20633)'s `prophrl`.

```python
from prophrl_algos import load_policy  # pip install prophet-gym

policy = load_policy("{repo}")
```

```sh
prophrl evaluate --policy {repo} --env LIBERO-Object-v0 --tasks 3 --episodes 50
```

`prophrl pull {repo} --verify` compares every file with `{manifest}` and loads all of them.

|  |  |
| --- | --- |
{facts}
"""


@dataclass(frozen=True)
class Checked:
    """Hold a policy's folder of which everything was loaded, and facts about it for the card."""

    folder: Path
    facts: dict[str, str]


@contextmanager
def policy_folder(folder: Path) -> Iterator[Path]:
    """Yield the folder of a policy: the given one, that in a run of `prophrl sft`, or one made of a run's weights.

    Raises:
        MissingWeightsError: It is none of these.
    """
    if not folder.is_dir():
        raise MissingWeightsError(f"no folder at {folder}; give that of a policy, or of a run")
    found = next((each for each in (folder, folder / SAVED) if (each / CONFIG).is_file()), None)
    if found is not None:
        yield found
        return
    from prophrl_algos._exporting import export_run

    with tempfile.TemporaryDirectory() as made:
        export_run(folder, Path(made))
        yield Path(made)


def check_policy(folder: Path) -> Checked:
    """Load a policy, and let it act once; its facts say what it is.

    Raises:
        CheckpointError: Its layout is not known, a file is damaged or is not the one that the folder's manifest names,
            or its actions are not finite.
        MissingWeightsError: Weights or tokenizer are missing.
    """
    choice, config = choose(folder.absolute()), read_json(folder / CONFIG)
    inner = config.get("policy", config)
    benchmark = inner.get("benchmark", "libero") if isinstance(inner, dict) else "libero"
    policy = load_policy(folder.absolute(), LoadOptions(benchmark=benchmark, train="none", without_state="mean"))
    assert isinstance(policy, nn.Module)
    spec = policy.spec
    with reading(f"{folder} cannot act", "save the policy again", CheckpointError):
        actions = _act(policy)
        if actions.shape != (1, spec.exec_steps, spec.action_dim) or not torch.isfinite(actions).all():
            raise CheckpointError(f"its actions are {tuple(actions.shape)}, or not finite")
    facts = {
        "family": f"`{choice.adapter}` ({choice.reason})",
        "acts in": f"`{benchmark}`",
        "actions": f"{spec.exec_steps} of {spec.horizon} executed, {spec.action_dim} numbers each",
        "denoising steps": str(spec.num_steps),
        "weights": f"{sum(each.numel() for each in policy.parameters()):,}",
        "adapters": "LoRA, beside the weights that they adapt" if has_lora(policy) else "none",
    }
    return Checked(folder, facts)


def package(
    source: Path, folder: Path, repo: str, *, license: str | None = None
) -> tuple[dict[str, Path | bytes], list[str], Checked]:
    """Check a policy and return the files to publish, the names of those left out, and what was found.

    Reports of `prophrl evaluate --json` lie in `folder`, the policy's, or in `source`, that of its run.

    Raises:
        CheckpointError: As in `check_policy`; or there is neither a card nor a report.
    """
    checked = check_policy(folder)
    files, left_out = offered(folder, ("",))
    left_out += sorted(name for name in files if not _is_published(name))
    files = {name: path for name, path in files.items() if _is_published(name)}
    reports = {path.name: path for place in (source, folder) for path in sorted(place.glob(REPORTS))}
    measures = [measure for path in reports.values() for measure in _measures(path)]
    card, title = folder / CARD, repo.split("/")[1]
    about = About(title, ("robotics", "vision-language-action", "flow-matching", "prophrl"), license=license)
    if not is_ours(card) and _BY_MIXIN.lower() not in card.read_text(encoding="utf-8", errors="replace").lower():
        text = keep_card(card, about, measures)
    elif not measures:
        report = source / "evaluation.json"
        raise CheckpointError(
            f"{source} has no card, and nothing in it was measured that one could show: run `prophrl evaluate ... "
            f"--json {report}` with this policy, or write {card} yourself"
        )
    else:
        facts = "\n".join(f"| {name} | {fact} |" for name, fact in checked.facts.items())
        text = write_card(about, _BODY.format(title=title, repo=repo, manifest=MANIFEST, facts=facts), measures)
    return without_places({**files, **reports, CARD: text.encode()}), left_out, checked


def pull(name: str, *, verify: bool = False, again: bool = False) -> tuple[Path, Checked | None]:
    """Fetch a policy into the Hub's cache; return its folder and, with `verify`, what was found when it was loaded.

    Raises:
        MissingWeightsError: There is no such repository, or with `verify` no manifest in it.
        CheckpointError: A file is not the one that the manifest names, or cannot be loaded.
    """
    folder = fetch(parse_hub_name(name), only=None if verify else FETCHED, again=again)
    if not verify:
        return folder, None
    if not (folder / MANIFEST).is_file():
        raise MissingWeightsError(f"{name} has no {MANIFEST} to verify it by: it was not written by `prophrl push`")
    return folder, check_policy(folder)


def _act(policy: FlowPolicy) -> torch.Tensor:
    """Return what a policy does before two black images."""
    black = np.zeros((1, 128, 128, 3), np.uint8)
    obs = policy.prepare({"image": black, "wrist_image": black}, ["pick up the milk"])
    schedule = FlowSchedule(policy.spec.num_steps, 0.0)
    with torch.no_grad():
        return policy.decode(sample(policy, obs, schedule, [torch.Generator().manual_seed(0)]).x0, obs)


def _is_published(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in (*FETCHED, "*.md", "LICENSE"))


def _measures(path: Path) -> list[Measure]:
    report = read_report(path, CheckpointError)
    metrics = report.get("metrics", {})
    estimate = {"mean": metrics.get("success"), "low": metrics.get("success_low"), "high": metrics.get("success_high")}
    tasks = sorted({str(each.get("task")) for each in report.get("episodes", ())})
    where = f"{report.get('env')}, {report.get('starts')} starts, tasks {', '.join(tasks)}"
    found = Measure.read("success_rate", f"success in {metrics.get('episodes', 0):.0f} episodes", where, estimate)
    return [] if found is None else [found]
