"""Plan the memory of a round of learning with a published policy from shapes, and measure it on a GPU.

    python -m benchmarks.policy_memory --out benchmarks/results/plan
    python -m benchmarks.policy_memory --device cuda --policies vla-adapter pi05 --out benchmarks/results/plan
    python -m benchmarks.policy_memory --train full --processes 2 8 --out benchmarks/results/plan

With `--processes` it also says what each GPU of so many holds, sharded (FSDP2) or not.

The plan runs the shapes of the full size through the policy; nothing is downloaded or allocated. On a GPU the policy
then acts and learns once with random weights, and the peak of the allocator stands beside the plan. It needs
transformers >= 5.4 and peft, and lerobot for SmolVLA. Pi0.5 is built on the pi0 of transformers, whose layers are as
wide. Weights are bfloat16 and what is trained float32, as `load_policy` makes them.
"""

import gc
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import tyro

from benchmarks.policy_memory.full_sizes import FULL_SIZES, FullSize
from benchmarks.policy_memory.plan import MemoryPlan, Workload, make_plan, scored
from prophrl_algos.flow import device_of

PARTS = ("weights", "while_acting", "while_learning")
SHARE = 0.9
"""Largest shortfall of a plan, as a fraction of what was measured, at which it may be relied on."""


@dataclass(frozen=True)
class Args:
    policies: tuple[str, ...] = tuple(FULL_SIZES)
    train: tuple[str, ...] = ("expert", "lora")
    """Part that is trained: expert, lora or full."""
    work: Workload = field(default_factory=lambda: Workload(reference=True))
    processes: tuple[int, ...] = ()
    """Numbers of processes, one on each GPU, to plan for."""
    device: str = "meta"
    """`cuda` also measures."""
    out: Path | None = None
    """Write one JSON file per policy and way of training into this folder."""


def act(full: FullSize, work: Workload) -> None:
    """Let every batch element act once: the prefix, then every flow step."""
    spec = full.policy.spec
    with torch.no_grad():
        context = full.encode(work.rows, work.views)
        x = torch.randn(work.rows, spec.horizon, spec.latent_dim, device=device_of(full.policy))
        for step in range(spec.num_steps):
            t = torch.full((work.rows,), 1 - step / spec.num_steps, device=x.device)
            x = x - full.policy.velocity(context, x, t) / spec.num_steps


def learn(full: FullSize, work: Workload, optimizer: torch.optim.Optimizer) -> None:
    """Run one microbatch forward and backward, and step the optimizer."""
    optimizer.zero_grad(set_to_none=True)
    steps = min(work.steps_per_call or full.policy.spec.num_steps, full.policy.spec.num_steps)
    scored(full, work, steps).square().mean().backward()
    optimizer.step()


def peak(call: Callable[[], object], device: torch.device) -> int:
    """Return the most bytes that were allocated on a GPU while something ran."""
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device)


def measure(name: str, train: str, work: Workload, device: torch.device) -> dict[str, int]:
    """Return the bytes of the weights, and at most while acting and while learning."""
    before = torch.cuda.memory_allocated(device)
    full = FULL_SIZES[name](train, language=False, device=device)
    found = {"weights": torch.cuda.memory_allocated(device) - before}
    trained = [weight for weight in full.policy.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.0, foreach=False)
    learn(full, work, optimizer)  # from the second update on there are moments
    found["while_learning"] = peak(lambda: learn(full, work, optimizer), device) - before
    optimizer.zero_grad(set_to_none=True)
    found["while_acting"] = peak(lambda: act(full, work), device) - before
    return found


def line(name: str, plan: MemoryPlan, found: dict[str, int]) -> str:
    """Return what was planned and measured in GiB, and which plans are too low."""
    shown = [
        f"{part} {getattr(plan, part) / 2**30:.2f} planned"
        + (f", {found[part] / 2**30:.2f} measured" if part in found else "")
        for part in PARTS
    ]
    low = [part for part in PARTS if part in found and getattr(plan, part) < SHARE * found[part]]
    return f"{name}: {'; '.join(shown)}{f' -- too low: {low}' if low else ''}"


def main(args: Args) -> None:
    """Plan, measure on a GPU, print and write."""
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("memory is measured on a CUDA device, and there is none; leave out --device to plan only")
    for name in args.policies:
        for train in args.train:
            plan = make_plan(FULL_SIZES[name](train, language=False), args.work)
            row = {"args": {"policy": name, "train": train, **asdict(args.work)}, **asdict(plan)}
            row |= {"while_acting": plan.while_acting, "while_learning": plan.while_learning}
            each = {f"{count} processes": plan.sharded(count) for count in args.processes}
            row |= {"sharded": {name: {part: getattr(one, part) for part in PARTS} for name, one in each.items()}}
            found: dict[str, int] = {}
            if device.type == "cuda":
                try:
                    found = measure(name, train, args.work, device)
                except torch.cuda.OutOfMemoryError as error:
                    print(f"{name}, {train}: {str(error).splitlines()[0]}", flush=True)
                row |= {"measured": found, "device": torch.cuda.get_device_name(device)}
                gc.collect()
                torch.cuda.empty_cache()
            print(line(f"{name}, {train}", plan, found), flush=True)
            for count, one in each.items():
                print(line(f"{name}, {train}, each of {count}, sharded", one, {}), flush=True)
            if args.out is not None:
                args.out.mkdir(parents=True, exist_ok=True)
                (args.out / f"{name}_{train}.json").write_text(json.dumps(row, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Args))
