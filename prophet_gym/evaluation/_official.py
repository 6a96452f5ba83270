"""Record the held-out episodes from official initial states that dreams are compared with."""

from pathlib import Path

from prophet_gym.checkpoint import Checkpoint
from prophet_gym.data._recording import episode_path
from prophet_gym.specs import CAMERAS, FIRST_CAMERA


def record_official(checkpoint: Checkpoint, count: int, *, look: str | None = None, workers: int = 2) -> list[Path]:
    """Record what is missing of held-out episodes from the official initial states, and return their files."""
    from prophet_gym._io.cache import cache_dir
    from prophet_gym.errors import MissingAssetsError
    from prophet_gym.sims.libero._install import missing

    reason = missing()
    if reason is not None:
        raise MissingAssetsError(f"cannot record held-out episodes: {reason}. Or give recorded ones with --data")
    from prophet_gym.sims._recorder import Plan, collect

    starts = checkpoint.initial_states("official")
    suite = starts.suites[0]
    chosen = str(look or checkpoint.config.get("look", "light"))
    cameras = tuple(CAMERAS) if "wrist" in checkpoint.config else (FIRST_CAMERA,)
    plan = Plan(suite, starts.tasks, count, seed=0, look=chosen, starts="official", cameras=cameras)
    # Scripts and looks have versions, so that a newer program does not compare with what an older one recorded.
    version = f"v{plan.meta()['script_version']}.{plan.meta()['look_version']}"
    both = "_both" if len(cameras) > 1 else ""
    folder = cache_dir() / "recordings" / f"{suite}_{chosen}_official{both}_{version}"
    collect(plan, folder, workers=workers)
    return [episode_path(folder, *job) for job in plan.jobs()]
