"""Is the plan of memory right? Published policies at full size with random weights act and learn once on a GPU.

    python benchmarks/policy_memory.py --json benchmarks/results/policy_memory.json

What `prophrl plan` says beforehand stands beside what the GPU's allocator gave out at most. It needs no checkpoint and
no network, but transformers >= 5.4 and peft. Pi0.5 is built on the pi0 of transformers, whose layers are as wide.
"""

import gc
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import tyro

from prophrl_algos.flow import device_of
from prophrl_algos.memory import FULL_SIZES, FullSize, MemoryPlan, Workload, make_plan
from prophrl_algos.memory._plan import scored

PARTS = ("weights", "while_acting", "while_learning")
SHARE = 0.9
"""A plan may be at most so much below what was measured, as a part of it: then it may be relied on."""


@dataclass(frozen=True)
class Args:
    policies: tuple[str, ...] = ("vla-adapter", "pi05")
    train: tuple[str, ...] = ("expert", "lora")
    rows: int = 8
    microbatch: int = 8
    views: int = 1
    device: str = "cuda"
    json: Path | None = None


def act(full: FullSize, work: Workload) -> None:
    """All rows decide once: the prefix, then every flow step."""
    spec = full.policy.spec
    with torch.no_grad():
        context = full.encode(work.rows, work.views)
        x = torch.randn(work.rows, spec.horizon, spec.latent_dim, device=device_of(full.policy))
        for step in range(spec.num_steps):
            t = torch.full((work.rows,), 1 - step / spec.num_steps, device=x.device)
            x = x - full.policy.velocity(context, x, t) / spec.num_steps


def learn(full: FullSize, work: Workload, optimizer: torch.optim.Optimizer) -> None:
    """One microbatch: forward, backward, a step of the optimiser."""
    optimizer.zero_grad(set_to_none=True)
    steps = min(work.steps_per_call or full.policy.spec.num_steps, full.policy.spec.num_steps)
    scored(full, work, steps).square().mean().backward()
    optimizer.step()


def peak(call, device: torch.device) -> int:
    """The most bytes that were allocated on a GPU while something ran."""
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device)


def measure(name: str, train: str, work: Workload, device: torch.device) -> dict[str, int]:
    """Bytes of the weights, and at most while acting and while learning."""
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
    """Planned and measured, GiB."""
    shown = [f"{part} {getattr(plan, part) / 2**30:.2f} planned, {found[part] / 2**30:.2f} measured" for part in PARTS]
    low = [part for part in PARTS if getattr(plan, part) < SHARE * found[part]]
    return f"{name}: {'; '.join(shown)}{f' -- too low: {low}' if low else ''}"


def main(args: Args) -> None:
    device, rows = torch.device(args.device), []
    if device.type != "cuda" or not torch.cuda.is_available():
        raise SystemExit("memory is measured on a CUDA device, and there is none; `prophrl plan` needs none")
    work = Workload(rows=args.rows, microbatch=args.microbatch, views=args.views)
    for name in args.policies:
        for train in args.train:
            plan = make_plan(FULL_SIZES[name](train, language=False), work)
            planned = {part: getattr(plan, part) for part in PARTS}
            row = {"policy": name, "train": train, "planned": planned}
            try:
                row["measured"] = measure(name, train, work, device)
                print(line(f"{name}, {train}", plan, row["measured"]), flush=True)
            except torch.cuda.OutOfMemoryError as error:
                row["error"] = str(error).splitlines()[0]
                print(f"{name}, {train}: {row['error']}", flush=True)
            rows.append(row)
            gc.collect()
            torch.cuda.empty_cache()
            if args.json is not None:
                found = {"device": torch.cuda.get_device_name(device), "torch": torch.__version__}
                args.json.parent.mkdir(parents=True, exist_ok=True)
                args.json.write_text(json.dumps({**found, "work": asdict(work), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Args))
