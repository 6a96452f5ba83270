"""A whole training run: iterate, evaluate, log, save; killed at any moment, it resumes as if it had not been."""

from collections.abc import Callable, Sequence
from pathlib import Path

from prophrl_algos._checkpoint import load_checkpoint, save_checkpoint
from prophrl_algos._loggers import Logger
from prophrl_algos.rollout._collect import progress_bar
from prophrl_algos.trainer import Metrics, Trainer

LAST, BEST = "last.pt", "best.pt"
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

    `folder/last.pt` holds the trainer; a run that was killed resumes from it and ends with the same weights.
    `folder/best.pt` holds the policy's weights at the best evaluation so far. To resume, pass a new trainer with the
    arguments of the run. `evaluate` returns at least `success` and is called after every `evaluate_every` updates and
    after the last; loggers get its results as `evaluation/...`. `started` is called once it is known that the
    folder's run is this one.

    Raises:
        CheckpointError: `folder/last.pt` is damaged, or an earlier version wrote it.
        ValueError: The folder holds a run with other settings.
    """
    if evaluate_every < 1:
        raise ValueError(f"evaluate_every must be at least 1, got {evaluate_every}")
    best, shown = float("-inf"), {}
    if (folder / LAST).exists():
        state = load_checkpoint(folder / LAST, trainer.device, resume=True)
        trainer.load_state_dict(state["trainer"])
        best = float(state["best"])
    started()
    updates, main = trainer.config.updates, trainer.processes.main
    bar = progress_bar("train", updates, "update", done=trainer.done, stays=True)
    try:
        while trainer.done < updates:
            metrics = trainer.iterate()
            due = trainer.done == updates or trainer.done % evaluate_every == 0
            if evaluate is not None and due:
                found = evaluate()
                metrics |= {f"evaluation/{name}": value for name, value in found.items()}
                if found["success"] > best and main:
                    state = {"policy": trainer.policy.state_dict(), "updates": trainer.done, "score": found["success"]}
                    save_checkpoint(folder / BEST, state)
                best = max(best, found["success"])
            if main:
                # Logged before it is saved: a kill between the two logs an update again, and never loses one.
                for logger in loggers:
                    logger.log(metrics, trainer.done - 1)
                save_checkpoint(folder / LAST, {"trainer": trainer.state_dict(), "best": best})
            shown |= {name: f"{metrics[name]:.3g}" for name in _SHOWN if name in metrics}
            bar.set_postfix(shown, refresh=False)
            bar.update()
    finally:
        bar.close()
        for logger in loggers:
            logger.close()
