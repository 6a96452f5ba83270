"""`prophrl sft`: behaviour cloning of a flow policy on recorded episodes."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from prophet_gym.arguments import Arguments, Device, OutFolder, Several, Tasks
from prophrl_algos.cli.published import Published
from prophrl_algos.sft import SftConfig


@dataclass(frozen=True)
class Args(Arguments):
    """Fit a flow policy to episodes that `prophet collect` recorded; never from official starts.

    A run that was killed goes on when the command is given again.
    """

    data: Annotated[tuple[Path, ...], Several()]
    """Recordings of `prophet collect`."""
    policy: str
    """What is fitted: `small` (10 denoising steps), `small-k4` (4), `tiny` (untrained, for tests), a folder or Hub
    repository of a published policy, or `package.module:function`, a function from the env to a FlowPolicy."""
    dreams: tuple[Path, ...] = ()
    """Dreams of each of them (`prophet redream`), in the same order: both worlds should look alike to the policy."""
    env: str = "Prophet-LIBERO-v0"
    """What the policy will act in."""
    out: OutFolder = Path("outputs/sft")
    """The folder of the run."""
    config: SftConfig = field(default_factory=SftConfig)
    tasks: Tasks = ()
    """Only these tasks; all if not given."""
    modes: tuple[str, ...] = ("expert",)
    """Only episodes of these scripts (expert, noisy, offset ...), those that succeed; all scripts if empty."""
    failing: tuple[str, ...] = ()
    """Of these scripts also episodes that fail, e.g. `other`, which picks up the wrong thing."""
    without: tuple[str, ...] = ()
    """Episodes to leave out, e.g. `task_03/episode_00007`."""
    published: Published = field(default_factory=Published)
    """How a published policy is used."""
    device: Device = "cpu"


def main(args: Args) -> None:
    """Run the command."""
    from prophet_gym.train._run_folder import begin_run, run_lock
    from prophrl_algos._demonstrations import FitsActions, drawer, read_demonstrations
    from prophrl_algos._named import make_env, make_policy, save_policy
    from prophrl_algos.loggers import CsvLogger
    from prophrl_algos.sft import LAST, sft

    env = make_env(args.env, 1, starts="train")
    policy = make_policy(args.policy, env, None, args.device, args.published)
    env.close()
    demonstrations = read_demonstrations(
        policy,
        args.data,
        dreams=args.dreams,
        tasks=args.tasks,
        modes=args.modes,
        failing=args.failing,
        without=args.without,
    )
    if isinstance(policy, FitsActions):
        policy.fit_actions(demonstrations.all_actions())
    draw = drawer(policy, demonstrations)
    with run_lock(args.out):
        begin_run(args.out, args, begun=(args.out / LAST).exists(), free=("out", "config", "device"))
        loss = sft(policy, draw, args.config, args.out, logger=CsvLogger(args.out / "sft.csv"))
        saved = save_policy(policy, args.out)
    written = args.out / LAST if saved is None else f"{args.out / LAST} and {saved}"
    print(f"{written}: {len(demonstrations.actions)} episodes, {demonstrations.steps} steps, loss {loss:.4f}")
