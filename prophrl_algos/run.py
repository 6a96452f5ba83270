"""A whole training run: iterate, evaluate, log, save; killed at any moment, it resumes as if it had not been."""

from collections.abc import Callable, Sequence
from pathlib import Path

from prophet_gym._io.processes._sharding import whole
from prophet_gym._io.progress import progress
from prophrl_algos._checkpoint import BEST, load_run, newest, save_checkpoint, save_run
from prophrl_algos._loggers import Logger
from prophrl_algos.trainer import Metrics, Trainer

_SHOWN = ("return", "success", "ratio_max", "clipped_high", "kl", "evaluation/success")
"""Metrics beside the bar, which tell whether the policy learns."""


def run(
    trainer: Trainer,
    folder: Path,
    *,
    loggers: Sequence[Logger] = (),
    evaluate: Callable[[], Metrics] | None = None,
    evaluate_every: int = 10,
    started: Callable[[], None] = lambda: None,
) -> None:
    """Run the remaining updates of a run, and save it in a folder.

    `folder/last.pt` holds the trainer (`folder/last` where its weights are sharded); a run that was killed resumes from
    it and ends with the same weights. Another number of processes may resume it and shares the groups in another way.
    All processes call this, with one folder that all of them see; the main one logs.
    `folder/best.pt` holds the policy's weights at the best evaluation so far. To resume, pass a new trainer with the
    arguments of the run. `evaluate` returns at least `success` and is called after every `evaluate_every` updates and
    after the last; loggers get its results as `evaluation/...`. `started` is called once it is known that the
    folder's run is this one.

    Raises:
        CheckpointError: `folder/last.pt` is damaged, or an earlier version wrote it.
        ProcessLostError: Another process was lost.
        ValueError: The folder holds a run with other settings, or not all processes see it.
    """
    if evaluate_every < 1:
        raise ValueError(f"evaluate_every must be at least 1, got {evaluate_every}")
    best, shown = float("-inf"), {}
    if (path := newest(folder)) is not None:
        state = load_run(path, trainer.device, trainer.place)
        trainer.load_state_dict(state["trainer"])
        best = float(state["best"])
    started()
    updates, main = trainer.config.updates, trainer.learner.main
    trainer.learner.require_alike("updates", {"done": trainer.done}, f"{folder} must be on a disk that all nodes share")
    bar = progress(None, "train", total=updates, unit="update", done=trainer.done)
    try:
        while trainer.done < updates:
            with trainer.learner.watched(f"in or after update {trainer.done}"):
                metrics = trainer.iterate()
                due = trainer.done == updates or trainer.done % evaluate_every == 0
                if evaluate is not None and due:
                    found = evaluate()
                    metrics |= {f"evaluation/{name}": value for name, value in found.items()}
                    if found["success"] > best:
                        _save_best(trainer, folder / BEST, found["success"])
                    best = max(best, found["success"])
                if main:
                    # Logged before it is saved: a kill between the two logs an update again, and never loses one.
                    for logger in loggers:
                        logger.log(metrics, trainer.done - 1)
                save_run(folder, {"trainer": trainer.state_dict(), "best": best})
            shown |= {name: f"{metrics[name]:.3g}" for name in _SHOWN if name in metrics}
            bar.set_postfix(shown, refresh=False)
            bar.update()
    finally:
        bar.close()
        for logger in loggers:
            logger.close()


def _save_best(trainer: Trainer, path: Path, score: float) -> None:
    weights = {name: whole(each) for name, each in trainer.policy.state_dict().items()}
    if trainer.learner.main:
        save_checkpoint(path, {"policy": weights, "updates": trainer.done, "score": score})
