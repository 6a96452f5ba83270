"""`prophrl plan`: how much memory a round of learning takes with a published policy at full size."""

import json
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

from prophet_gym.arguments import Arguments, Items, NotNegative, OutFile, Whole


@dataclass(frozen=True)
class Args(Arguments):
    """Say how much memory a round of learning takes; nothing is downloaded or allocated.

    Weights are bfloat16 and what is trained float32, as `load_policy` makes them.
    """

    policy: str = "pi05"
    """`pi05`, `pi0`, `smolvla`, `vla-adapter` or `openvla-oft`."""
    train: Literal["expert", "lora", "full"] = "expert"
    """What is trained: the action expert or flow head, low-rank adapters, all of it."""
    language: bool = False
    """Adapters in the language model too."""
    groups: Items = 8
    """Groups of a round."""
    group: Items = 8
    """Rollouts of a group."""
    decisions: Items = 60
    """Chunks of a rollout, at most."""
    rows: Items = 8
    """Rollouts that decide at once."""
    microbatch: Items = 8
    """Decisions in one backward pass."""
    steps_per_call: Items | None = None
    """Flow steps scored in one call; all if not given."""
    views: Items = 1
    """Pictures of a decision; a dream has one."""
    frame: Annotated[int, Whole(1, 65_536)] = 256
    """Height and width of the env's pictures."""
    beta: NotNegative = 0.01
    """Weight of the KL; above 0, without adapters, a copy of the policy is kept."""
    json: OutFile | None = None
    """A file for the numbers."""


def main(args: Args) -> None:
    """Run the command."""
    from prophet_gym.errors import unknown_option
    from prophrl_algos.memory import FULL_SIZES, Workload, make_plan

    if args.policy not in FULL_SIZES:
        raise unknown_option("policy", args.policy, FULL_SIZES)
    try:
        full = FULL_SIZES[args.policy](args.train, language=args.language)
    except ImportError as error:
        raise ValueError(str(error)) from error
    work = Workload(
        groups=args.groups,
        group=args.group,
        decisions=args.decisions,
        rows=args.rows,
        microbatch=args.microbatch,
        steps_per_call=args.steps_per_call,
        views=args.views,
        frame=args.frame,
        reference=args.beta > 0,
    )
    found = make_plan(full, work)
    print(f"{found.parameters / 1e9:.3f} G weights, {found.trained / 1e6:.1f} M of them trained ({args.train})")
    rows = {
        "weights": found.weights,
        "gradients": found.gradients,
        "optimizer (AdamW)": found.optimizer,
        "reference": found.reference,
        f"acting, {args.rows} rows": found.acting,
        f"backward pass, {args.microbatch} decisions": found.backward,
        "peak while acting": found.while_acting,
        "peak while learning": found.while_learning,
        "stored on the host, a decision": found.stored_per_decision,
        "stored on the host, a round": found.stored,
        "the same with contexts stored": found.stored + found.if_contexts_were_stored,
    }
    for name, size in rows.items():
        print(f"  {name:<34}{_shown(size):>12}")
    if args.json is not None:
        totals = {"while_acting": found.while_acting, "while_learning": found.while_learning}
        given = {name: value for name, value in asdict(args).items() if name != "json"}
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({"args": given, **asdict(found), **totals}, indent=2) + "\n", encoding="utf-8")


def _shown(size: int) -> str:
    """Bytes in the unit that suits them.

    Example:
        >>> _shown(3 * 2**30)
        '3.00 GiB'
    """
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= scale:
            return f"{size / scale:.2f} {unit}"
    return f"{size} B"
