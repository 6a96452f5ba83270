"""`prophrl sft`: behaviour cloning of a flow policy on recorded episodes."""

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, Literal

from prophet_gym._arguments import OutFolder, Several, Tasks, resolved_device
from prophet_gym.specs import FIRST_CAMERA
from prophrl_algos.cli._options import EnvOptions, PolicyOptions, TrainLoad
from prophrl_algos.sft import SftConfig


@dataclass(frozen=True, kw_only=True)
class Args(PolicyOptions, EnvOptions):
    """Fit a flow policy to recorded episodes by behaviour cloning; refuse episodes from official states.

    Run the same command again to continue a run that was stopped.
    """

    load: TrainLoad = field(default_factory=TrainLoad)
    """Options of published policies; other policies ignore them."""
    data: Annotated[tuple[Path, ...], Several()]
    """Recordings of `prophet collect`."""
    out: OutFolder = Path("outputs/sft")
    """Folder of the run."""
    config: SftConfig = field(default_factory=SftConfig)
    """Steps, batches and optimizer."""
    precision: Literal["auto", "bf16", "no"] = "auto"
    """Precision of a SmallVLA's matrix products: `bf16`, `no` (float32), or `auto`, bf16 where the CPU supports it."""
    tasks: Tasks = ()
    """Numbers of the tasks, for example `--tasks 3 5`; all by default."""
    modes: tuple[str, ...] = ("expert",)
    """Scripts whose successful episodes are used, such as expert, noisy or offset; all scripts if empty."""
    failing: tuple[str, ...] = ()
    """Scripts whose failed episodes are used too, for example `slip`, which drops the object on the way."""
    without: tuple[str, ...] = ()
    """Episodes to leave out, for example `task_03/episode_00007`."""


def main(args: Args) -> dict[str, Any]:
    """Run the command."""
    from prophet_gym.train._run_folder import begin_run, record_start, run_lock
    from prophrl_algos._demonstrations import read_demonstrations
    from prophrl_algos._loggers import CsvLogger
    from prophrl_algos._named import make_policy
    from prophrl_algos.sft import LAST, sft
    from prophrl_algos.vla import SmallVLA

    # The env says how large actions are; what the policy sees is in the recordings.
    env = replace(args, cameras=(FIRST_CAMERA,)).make_env(1)
    policy = make_policy(args.policy, env, None, resolved_device(args.device), args.load.options(args.env))
    env.close()
    demonstrations = read_demonstrations(
        policy,
        args.data,
        tasks=args.tasks,
        modes=args.modes,
        failing=args.failing,
        without=args.without,
        cameras=args.cameras,
    )
    if isinstance(policy, SmallVLA):
        policy.fit_actions(demonstrations.all_actions())
    with run_lock(args.out):
        begin_run(args.out, args, begun=(args.out / LAST).exists(), free=("out", "config", "device", "precision"))
        # Other policies choose their precision where they are loaded.
        precision = args.precision if isinstance(policy, SmallVLA) else "no"
        logger = CsvLogger(args.out / "sft.csv")
        loss = sft(
            policy,
            demonstrations.draw,
            args.config,
            args.out,
            logger=logger,
            precision=precision,
            started=partial(record_start, args.out, "prophrl sft", args),
        )
        written = str(args.out / LAST)
        if (save := getattr(policy, "save_pretrained", None)) is not None:
            save(args.out / "policy")
            written += f" and {args.out / 'policy'}"
    print(f"{written}: {len(demonstrations.actions)} episodes, {demonstrations.steps} steps, loss {loss:.4f}")
    print(f"  prophrl evaluate --policy {quote(args.policy)} --policy-weights {quote(str(args.out / LAST))}")
    counts = {"episodes": len(demonstrations.actions), "steps": demonstrations.steps}
    return {"folder": args.out, **counts, "loss": loss}
