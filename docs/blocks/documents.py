"""Put measured numbers into the documents: `python -m docs.blocks.documents`, or `make figures`.

A document holds a block between `<!-- figures: NAME -->` and `<!-- /figures -->`. Its text is generated from the result
files of benchmarks and experiments, the bundled checkpoint and the robots' files; nobody types it.
`--check` changes nothing.
"""

import argparse
import re
import sys
from collections.abc import Callable

from benchmarks.release import figures as release
from docs.blocks import dream, identity, learning, looks, policies, ranking, results, reward_models, robot, scale, speed
from docs.blocks.common import ROOT
from experiments.ceiling import figures as ceiling
from experiments.other_arms import figures as other_arms
from experiments.reach_with_ppo import figures as reach
from experiments.reinforce_in_dream import figures as reinforce

DOCUMENTS = (
    ROOT / "README.md",
    ROOT / "model_cards" / "libero_small.md",
    ROOT / "model_cards" / "SmallVLA-LIBERO-object-sft.md",
    ROOT / "docs" / "commands.md",
    ROOT / "docs" / "embodiments.md",
    ROOT / "docs" / "envs.md",
    ROOT / "docs" / "evaluation.md",
    ROOT / "docs" / "how-to" / "robot.md",
    ROOT / "docs" / "how-to" / "scale.md",
    ROOT / "docs" / "how-to" / "support.md",
    ROOT / "docs" / "speed.md",
    ROOT / "docs" / "training.md",
    ROOT / "docs" / "algorithms.md",
    ROOT / "docs" / "libraries.md",
    ROOT / "docs" / "rewards.md",
    ROOT / "docs" / "how-to" / "serve.md",
    ROOT / "experiments" / "ceiling" / "README.md",
    ROOT / "experiments" / "other_arms" / "README.md",
    ROOT / "experiments" / "reinforce_in_dream" / "README.md",
    ROOT / "docs" / "policies.md",
    ROOT / "docs" / "how-to" / "report.md",
)
BLOCK = re.compile(r"(<!-- figures: (?P<name>[\w-]+) -->\n).*?(<!-- /figures -->)", re.DOTALL)

BLOCKS: dict[str, Callable[[], str]] = {
    "video": dream.image,
    "results": results.results,
    "margins": dream.margins,
    "speed": dream.speed,
    "speed-step": speed.step,
    "speed-beside": speed.beside,
    "speed-learning": speed.learning,
    "speed-engines": speed.engines,
    "speed-account": speed.account,
    "speed-precision": speed.precision,
    "speed-still": speed.still,
    "speed-looks": speed.looks,
    "speed-curves": speed.curves,
    "speed-training": speed.training,
    "speed-full-chunk": speed.full_chunk,
    "remote": speed.remote,
    "play": speed.play,
    "checkpoint": dream.checkpoint,
    "instruments": dream.instruments,
    "dual-conditioning": dream.dual_conditioning,
    "few-shot": dream.few_shot,
    "distilled": dream.distilled,
    "uncertainty": dream.uncertainty,
    "env-costs": dream.env_costs,
    "calibration": reward_models.calibration,
    "dreams-for-the-reward-model": reward_models.dreams_for_the_reward_model,
    "reward-speed": reward_models.speed,
    "reward-robustness": reward_models.robustness,
    "identity": identity.identity,
    "looks": looks.looks,
    "policy-looks": looks.policies,
    "experts": looks.experts,
    **ranking.BLOCKS,
    "robots": dream.robots,
    "action-dimensions": dream.actions,
    "bandit": learning.bandit,
    "gradient-spread": learning.gradient_spread,
    "algorithm-cost": learning.algorithm_cost,
    "metrics": learning.metrics,
    "events": learning.events,
    "policy-memory": policies.memory,
    "robot": robot.robot,
    "scale": scale.scale,
    "workers": scale.workers,
    "policy-shards": policies.shards,
    **ceiling.BLOCKS,
    **other_arms.BLOCKS,
    **reach.BLOCKS,
    **reinforce.BLOCKS,
    **release.BLOCKS,
    "evaluation": lambda: dream.evaluation(
        "dream/evaluation.json", "prophet evaluate --json benchmarks/results/dream/evaluation.json"
    ),
}


def filled(text: str) -> str:
    """Return a document with every block generated again.

    Raises:
        ValueError: A block has an unknown name.
    """

    def fill(block: re.Match[str]) -> str:
        if block["name"] not in BLOCKS:
            raise ValueError(f"no figures named {block['name']!r}; there are {', '.join(BLOCKS)}")
        return f"{block[1]}{BLOCKS[block['name']]()}\n{block[3]}"

    return BLOCK.sub(fill, text)


def main() -> None:
    """Fill the documents, or compare them with `--check`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a document is out of date")
    check = parser.parse_args().check
    old = [path for path in DOCUMENTS if filled(path.read_text()) != path.read_text()]
    for path in old:
        print(f"{path.relative_to(ROOT)} {'is out of date: run make figures' if check else 'filled'}")
        if not check:
            path.write_text(filled(path.read_text()))
    sys.exit(bool(check and old))


if __name__ == "__main__":
    main()
