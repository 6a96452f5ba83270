"""Memory of published policies: a block of figures."""

from docs.blocks.common import load, markdown_table

POLICIES = ("pi05", "pi0", "smolvla", "vla-adapter", "openvla-oft")
WAYS = ("expert", "lora")


def memory() -> str:
    """Return the memory plan of every policy."""
    found = {(policy, way): load(f"plan/{policy}_{way}.json") for policy in POLICIES for way in WAYS}
    rows = []
    for (policy, way), plan in found.items():
        if plan is None:
            continue
        sizes = ("weights", "optimizer", "reference", "backward", "while_learning")
        rows.append([
            f"{policy}, {way}",
            f"{plan['parameters'] / 1e9:.2f} G",
            f"{plan['trained'] / 1e6:.1f} M",
            *(f"{plan[name] / 2**30:.1f}" for name in sizes),
            f"{plan['stored'] / 2**30:.2f}",
            f"{plan['if_contexts_were_stored'] / 2**30:.0f}",
        ])  # fmt: skip
    if not rows:
        return "Not measured yet: `python -m benchmarks.policy_memory --out benchmarks/results/plan`."
    args = next(plan for plan in found.values() if plan is not None)["args"]
    header = ["", "weights", "trained", "weights, GiB", "AdamW", "reference", "backward pass", "peak", "stored on host",
              "contexts, if stored"]  # fmt: skip
    return (
        f"{markdown_table(header, rows)}\n\nBytes in GiB for rounds of {args['groups']} groups of {args['group_size']} "
        f"rollouts of {args['chunks']} chunks, {args['views']} image of {args['frame']} x {args['frame']}, "
        f"{args['microbatch']} chunks in a backward pass. `python -m benchmarks.policy_memory "
        "--out benchmarks/results/plan`; on the meta device, not on a GPU."
    )


def shards() -> str:
    """Return the memory of training all weights, on one GPU and in shards on several."""
    found = [plan for policy in POLICIES if (plan := load(f"plan/{policy}_full.json")) is not None]
    command = "`python -m benchmarks.policy_memory --train full --processes 2 8 --out benchmarks/results/plan`"
    if not found:
        return f"Not measured yet: {command}."
    counts = list(found[0]["sharded"])
    rows = [
        [
            plan["args"]["policy"],
            f"{plan['trained'] / 1e9:.2f} G",
            f"{plan['while_learning'] / 2**30:.0f}",
            *(f"{plan['sharded'][count]['while_learning'] / 2**30:.0f}" for count in counts),
        ]
        for plan in found
    ]
    header = ["", "trained", "each, whole", *(f"each of {count}, sharded" for count in counts)]
    return f"{markdown_table(header, rows)}\n\nPeak while learning, GiB. {command}, with the sizes above."
