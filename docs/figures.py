"""Puts measured numbers into the documents: `python docs/figures.py` (or `make figures`); `--check` only compares.

A document holds a block between `<!-- figures: NAME -->` and `<!-- /figures -->`; what stands there is made from the
JSON files of `benchmarks/results/`, the bundled checkpoint and the robots' files, never typed.
"""

import argparse
import re
import sys
from collections.abc import Callable
from functools import partial

from blocks import controls, dream, headline, judges, learning, policies, proof, rounds
from blocks.common import ROOT

DOCUMENTS = (
    ROOT / "README.md",
    ROOT / "model_cards" / "libero_small.md",
    ROOT / "model_cards" / "SmallVLA-LIBERO-object-sft.md",
    ROOT / "docs" / "embodiments.md",
    ROOT / "docs" / "envs.md",
    ROOT / "docs" / "evaluation.md",
    ROOT / "docs" / "training.md",
    ROOT / "docs" / "algorithms.md",
    ROOT / "docs" / "libraries.md",
    ROOT / "docs" / "rewards.md",
    ROOT / "docs" / "proof.md",
    ROOT / "docs" / "proof_rounds.md",
    ROOT / "docs" / "policies.md",
)
BLOCK = re.compile(r"(<!-- figures: (?P<name>[\w-]+) -->\n).*?(<!-- /figures -->)", re.DOTALL)

BLOCKS: dict[str, Callable[[], str]] = {
    "picture": dream.picture,
    "margins": dream.margins,
    "speed": dream.speed,
    "checkpoint": dream.checkpoint,
    "instruments": dream.instruments,
    "dual-conditioning": dream.dual_conditioning,
    "few-shot": dream.few_shot,
    "doubt": dream.doubt,
    "env-costs": dream.env_costs,
    "calibration": judges.calibration,
    "dreams-for-the-judge": judges.dreams_for_the_judge,
    "judge-speed": judges.speed,
    "reward-robustness": judges.robustness,
    "robots": dream.robots,
    "commands": dream.commands,
    "sources": dream.sources,
    "bandit": learning.bandit,
    "gradient-spread": learning.gradient_spread,
    "algorithm-cost": learning.algorithm_cost,
    "policy-memory": policies.memory,
    "cloned-policy": rounds.cloned_policy,
    "proof-gap": rounds.proof_gap,
    "proof-round-1": partial(rounds.proof_round, "proof_cpu_round1"),
    "proof-round-2": partial(rounds.proof_round, "proof_cpu_round2"),
    "proof-round-2-more": partial(rounds.proof_round, "proof_cpu_round2", "more.jsonl"),
    "proof-round-3": partial(rounds.proof_round, "proof_cpu_round3"),
    "proof-round-4": partial(rounds.proof_round, "proof_cpu_round4"),
    "proof-round-6": partial(rounds.proof_round, "proof_cpu_round6"),
    "proof-tasks-5": partial(rounds.per_task, "proof_cpu_round5/tries.jsonl", "cloned from reality alone, 1500 steps"),
    "proof-explore-6-real": partial(rounds.proof_explore, "round 6, cloned", "round 6, after 10 updates"),
    "proof-round-9": partial(rounds.proof_round, "proof_cpu_round9"),
    "proof-rollouts-9-path": partial(rounds.rollouts, "proof_cpu_round9/learning_real_path.jsonl"),
    "proof-rollouts-9-real": partial(rounds.rollouts, "proof_cpu_round9/learning_real_forward.jsonl"),
    "proof-rollouts-9-dream": partial(rounds.rollouts, "proof_cpu_round9/learning_dream_forward.jsonl"),
    "proof-rollouts-9-nft": partial(rounds.rollouts, "proof_cpu_round9/learning_real_nft.jsonl"),
    "proof-rollouts-9-nft-alike": partial(rounds.rollouts, "proof_cpu_round9/learning_real_nft_alike.jsonl"),
    "proof-paired-9": partial(rounds.paired, "proof_cpu_round9/tries.jsonl", "cloned for 3500 steps"),
    "proof-round-10": partial(rounds.proof_round, "proof_cpu_round10"),
    "proof-rollouts-10": partial(rounds.rollouts, "proof_cpu_round10/learning_dream.jsonl"),
    "proof-paired-10": partial(rounds.paired, "proof_cpu_round10/tries.jsonl", "cloned from experts alone, 3500 steps"),
    "proof-closing": rounds.proof_closing,
    "proof-belief-11": partial(rounds.proof_belief, "proof_cpu_round11/belief.json"),
    "proof-round-11": partial(rounds.proof_round, "proof_cpu_round11"),
    "proof-paired-11": partial(rounds.paired, "proof_cpu_round11/tries.jsonl", "cloned for 2200 steps"),
    "proof-rollouts-11-real": partial(rounds.rollouts, "proof_cpu_round11/learning_real.jsonl"),
    "proof-rollouts-11-mixed": partial(rounds.rollouts, "proof_cpu_round11/learning_real_mixed.jsonl"),
    "proof-rollouts-11-dream": partial(rounds.rollouts, "proof_cpu_round11/learning_dream_refreshed.jsonl"),
    "proof-rollouts-11-successes": partial(rounds.rollouts, "proof_cpu_round11/learning_dream_successes.jsonl"),
    "proof-round-12": partial(rounds.proof_round, "proof_cpu_round12"),
    "proof-paired-12": partial(
        rounds.paired, "proof_cpu_round12/tries.jsonl", "cloned from experts and slips, 5000 steps"
    ),
    "proof-faults-12": rounds.proof_faults,
    "proof-rollouts-12": partial(rounds.rollouts, "proof_cpu_round12/learning_dream.jsonl"),
    "proof-arms-8": partial(proof.ends, "proof_cpu_round8"),
    "proof-rollouts-7": partial(rounds.rollouts, "proof_cpu_round7/learning_flow-grpo.jsonl"),
    "proof-rollouts-6": partial(rounds.rollouts, "proof_cpu_round6/learning_0.5.jsonl"),
    "proof-round-5": partial(rounds.proof_round, "proof_cpu_round5"),
    "proof-belief": rounds.proof_belief,
    "proof-explore": partial(rounds.proof_explore, "cloned, 36/60"),
    "proof-explore-6": partial(rounds.proof_explore, "round 6"),
    "proof-same-commands": rounds.same_commands,
    "reach": learning.reach,
    "reach-headline": learning.reach_headline,
    "reach-judge": learning.reach_judge,
    **{f"proof-{size}": partial(proof.proof, size) for size in ("short", "cpu", "full", "reward")},
    "forward-settings": proof.forward_settings,
    "proof-controls": controls.proof_controls,
    "proof-headline": partial(headline.headline, "cpu"),
    "price": partial(headline.price, "cpu"),
    "proof-price": partial(proof.proof_price, "cpu"),
    **{f"proof-settings-{size}": partial(proof.proof_settings, size) for size in ("short", "cpu", "full", "reward")},
    "evaluation": lambda: dream.evaluation(
        "evaluation.json", "prophet evaluate --json benchmarks/results/evaluation.json"
    ),
    "evaluation-plain": lambda: dream.evaluation(
        "evaluation_plain.json", "prophet evaluate --look plain --json benchmarks/results/evaluation_plain.json"
    ),
}


def filled(text: str) -> str:
    """The document with every block made anew.

    Raises:
        ValueError: for a block of an unknown name.
    """

    def fill(block: re.Match[str]) -> str:
        if block["name"] not in BLOCKS:
            raise ValueError(f"no figures named {block['name']!r}; there are {', '.join(BLOCKS)}")
        return f"{block[1]}{BLOCKS[block['name']]()}\n{block[3]}"

    return BLOCK.sub(fill, text)


def main() -> None:
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
