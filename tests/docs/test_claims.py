"""README, cards and pages claim what was measured, beside what tempers it, in words that promise no hardware."""

import importlib.util
import json
import re
import shlex
from pathlib import Path

import pytest

from docs.blocks import dream as dream_blocks
from experiments.reinforce_in_dream import controls, figures, headline
from experiments.reinforce_in_dream.files import read_summary
from prophet_gym.sims.libero._install import INSTALL

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS_PAGE = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
COMMANDS_PAGE = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
PAGES = [
    ROOT / "README.md",
    *sorted(ROOT.glob("model_cards/*.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
    *sorted(ROOT.glob("experiments/**/*.md")),
    *sorted(ROOT.glob("benchmarks/**/*.md")),
]
# Hardware may be called real, and so may numbers; what the simulator shows may not.
SIMULATED = (
    "LIBERO|simulat|episode|frame|picture|image|video|success|failure|start|scene|label|outcome|latent|placement"
)
CALLED_REAL = re.compile(rf".*(?:\breality\b|\breal\s+(?:\w+\s+)?(?:{SIMULATED})|\|\s*real\s*[:|]).*", re.IGNORECASE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_simulator_is_not_called_real(page):
    assert CALLED_REAL.findall(page.read_text(encoding="utf-8")) == []


def test_no_file_of_the_figures_is_named_after_reality():
    folders = [ROOT / name for name in ("docs", "benchmarks", "experiments")]
    named = [path for folder in folders for path in folder.rglob("*") if re.search(r"real(?!is)", path.name)]
    assert named == []


def test_what_costs_no_learning_stands_beside_the_gains():
    table = re.search(r"<!-- figures: reinforce-headline -->.*?<!-- /figures -->", RESULTS_PAGE, re.DOTALL)
    in_short = re.search(r"<!-- figures: results -->.*?<!-- /figures -->", README, re.DOTALL)
    assert table is not None
    assert in_short is not None
    lines = [line for line in table[0].splitlines() if line.startswith("|")]
    arms = [line.split("|")[1].strip() for line in lines]
    assert arms[2:5] == [
        "cloned",
        "no learning: cloned, from the centre of the noise",
        "no learning: cloned from the experts alone",
    ]
    # The same gains as in the experiment's own table of controls, and as in the README's.
    table_of_controls = controls.table()
    for line in lines[3:5]:
        name, gain = line.split("|")[1].strip().removeprefix("no learning: "), line.split("|")[3].strip()
        row = next(each for each in table_of_controls.splitlines() if each.startswith(f"| {name} |"))
        assert gain in row
        assert gain in in_short[0]
    assert "not shown" in in_short[0]
    assert "fa-grpo" not in arms
    assert "fa-grpo-cps+flowscale (the paper's scoring)" in arms


def test_the_readme_says_that_the_dream_saves_no_time_today():
    summary = read_summary("cpu")
    assert summary is not None
    dream, libero = (headline.env_seconds(summary, world) for world in ("Prophet-LIBERO-v0", "LIBERO-Object-v0"))
    assert dream > libero > 0
    assert f"takes {dream:.1f} s per 1,000 frames, LIBERO {libero:.1f}" in README
    assert f"takes {dream:.1f} s of the env per 1,000 frames, the simulator {libero:.1f}" in RESULTS_PAGE
    # The page of the experiment has the same two figures.
    price = figures.price("cpu")
    assert f" {dream:.2f} |" in price
    assert f" {libero:.2f} |" in price


def test_what_the_queue_saves_is_said_in_time():
    refill = json.loads((RESULTS / "refill.json").read_text(encoding="utf-8"))
    faster = refill["lockstep"]["seconds"] - refill["refill"]["seconds"]
    table = dream_blocks.env_costs()
    assert (
        f"| time that the queue saves over lockstep, same episodes | {faster / refill['lockstep']['seconds']:.0%} |"
        in table
    )
    assert "generated chunks" not in table
    assert table in (ROOT / "docs" / "envs.md").read_text(encoding="utf-8")


def test_few_shot_adapters_are_compared_with_training_from_scratch():
    def of(psnr, margin):
        return {
            frames: {"conditions": {"dream": {"psnr": {"mean": value}}}, "margins": {"psnr_over_copy": margin}}
            for frames, value in psnr.items()
        }

    margin = {"mean": 0.25, "low": -0.1, "high": 0.5}
    said = dream_blocks.adapters_against(of({"8": 28.0, "160": 23.11}, margin), of({"8": 27.0, "160": 23.12}, margin))
    assert "+1.00 dB over 8 frames, -0.01 dB over 160 frames; so the two are equal over 160 frames." in said
    assert said.endswith(
        "Over 160 frames LoRA beats copying the last frame by 0.25 [-0.10, 0.50] dB, an interval that holds 0."
    )


@pytest.mark.parametrize(
    "page", ["README.md", "docs/commands.md", "docs/policies.md", "docs/weights.md", "model_cards/libero_small.md"]
)
def test_what_was_never_run_says_so_where_it_is_offered(page):
    text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
    assert re.search(r"never (been )?(run|ran|downloaded)", text, re.IGNORECASE)


@pytest.mark.parametrize(
    "offer", ["`prophet convert SOURCE TARGET`", "`prophrl train --policy lerobot/", "`Prophet-BRIDGE-v0`"]
)
def test_an_offer_that_was_never_run_says_so_in_its_line(offer):
    lines = (README + COMMANDS_PAGE).splitlines()
    assert "never run" in next(line for line in lines if line.startswith(f"| {offer}"))


def test_the_page_installs_the_simulator_as_the_errors_say():
    block = re.search(r"## The LIBERO simulator.*?```sh\n(.*?)```", COMMANDS_PAGE, re.DOTALL)
    assert block is not None
    commands = [shlex.split(line) for line in block[1].replace("\\\n", " ").splitlines()]
    told = [shlex.split(command) for command in re.findall(r"`([^`]*)`", INSTALL)]
    assert commands == told[1:]


def test_links_of_the_readme_lead_into_the_repository_on_a_package_index():
    pytest.importorskip("hatchling", reason="hatchling, which builds the package, is not installed")
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = module.absolute(README, "https://example.org/owner/project/")
    assert "](https://example.org/owner/project/raw/HEAD/docs/images/demo.webp)" in text
    assert "](https://example.org/owner/project/blob/HEAD/docs/envs.md)" in text
    assert re.findall(r"\]\((?!https?://|#)[^)]*\)", text) == []
