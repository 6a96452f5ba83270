"""The metrics of an update: its rollouts, the parts of its loss, and what the optimizer saw."""

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from prophrl_algos.algorithms._algorithm import RatioStats
from prophrl_algos.flow import FlowPath, FlowScores
from prophrl_algos.rollout import Rollouts
from prophrl_algos.trainer._learner import Learner

Metrics = dict[str, float]

MEANINGS: dict[str, dict[str, str]] = {
    "Success": {
        "evaluation/success": "Fraction of the scored episodes of an evaluation that succeeded, without exploration.",
        "evaluation/success_low": "Lower end of the 95% interval (Wilson) of evaluation/success.",
        "evaluation/success_high": "Upper end of the 95% interval (Wilson) of evaluation/success.",
        "evaluation/simulator/success": "Fraction of the episodes that the same policy solves in the simulator, where "
        "an experiment measures it. A run in the dream learns nothing from them.",
        "evaluation/simulator/success_low": "Lower end of the 95% interval (Wilson) of evaluation/simulator/success.",
        "evaluation/simulator/success_high": "Upper end of the 95% interval (Wilson) of evaluation/simulator/success.",
        "success": "Fraction of the scored rollouts that succeeded, while the policy explores.",
        "return": "Mean return of the scored rollouts: the discounted sum of their rewards.",
        "evaluation/return": "Mean return of the scored episodes of an evaluation.",
        "evaluation/episodes": "Number of episodes of an evaluation.",
        "evaluation/scored": "Number of episodes of an evaluation that the reward model gave a score.",
        "evaluation/simulator/episodes": "Number of episodes in the simulator.",
    },
    "Trust": {
        "evaluation/reward_precision": "Fraction of the latest rewarded dreams that succeed when the simulator replays "
        "them. Where it falls, the policy learns what is rewarded wrongly.",
        "evaluation/reward_precision_low": "Lower end of the 95% interval (Wilson) of evaluation/reward_precision.",
        "evaluation/reward_precision_high": "Upper end of the 95% interval (Wilson) of evaluation/reward_precision.",
        "evaluation/reward_recall": "Fraction of the latest dreams that succeed in the simulator that were rewarded.",
        "evaluation/uncertainty": "Mean uncertainty over the chunks of an evaluation: the distance between the "
        "latents of a dreamt frame and those of its decoded image, encoded again. Larger is less certain.",
        "scored": "Fraction of the rollouts that the reward model gave a score.",
    },
    "Rollouts": {
        "rollouts": "Number of rollouts that the update learns from.",
        "groups_started": "Number of groups that were begun, those included that were replaced.",
        "frames": "Number of actions that were executed, one frame each.",
        "useful_rollouts": "Fraction of the rollouts with an advantage other than 0. In a group of equal returns "
        "nobody has one, and nothing is learned from it.",
        "useful_frames": "Fraction of the executed actions that belong to useful rollouts.",
        "advantage_abs": "Mean absolute advantage of the useful rollouts.",
        "advantage_max": "Greatest absolute advantage.",
    },
    "Loss": {
        "loss": "Loss that is minimised, mean over the optimizer steps: clipped surrogate plus KL term.",
        "kl": "KL divergence from the policy that the run began with, over all flow steps, per dimension of an action; "
        "0 where beta is 0.",
        "entropy": "Entropy of a stochastic flow step, per dimension of an action.",
        "gradient_norm": "Norm of the gradient before it is clipped, mean over the optimizer steps.",
        "optimizer_steps": "Number of optimizer steps; 0 where no group taught anything.",
        "noise_level": "Noise level of the sampling SDE, or of the forward process.",
    },
    "Ratio": {
        "ratio_mean": "Mean ratio of the new policy's density to the old one's. It is 1 with one step per batch.",
        "ratio_min": "Least ratio.",
        "ratio_max": "Greatest ratio. Where it runs away, lower the learning rate or take fewer minibatches.",
        "clipped_low": "Fraction of the ratios that the lower clipping range cuts.",
        "clipped_high": "Fraction of the ratios that the upper clipping range cuts.",
        "old_log_prob_drift": "Greatest change of a log-prob when the sampled path is scored again before the update; "
        "0 in float32.",
    },
    "Flow steps": {
        "flow_gradient/*": "Gradient that reaches each flow step, 00 being the noisiest, through its velocity.",
        "flowscale/*": "Weight that FlowScale gives to the gradient of each flow step; all 1 without it.",
    },
    "Cloning": {
        "sft_loss": "Loss of the flow policy on a batch of demonstrations.",
        "learning_rate": "Learning rate: a warm-up, then a cosine.",
    },
    "Time": {
        "seconds_rollout": "Seconds to collect the rollouts, all together.",
        "seconds_env": "Seconds of it in the env: world model, reward model, simulator.",
        "seconds_policy": "Seconds of it in the policy.",
        "seconds_update": "Seconds to improve the policy on the rollouts.",
    },
}
"""Section of a report -> metric -> its meaning; `NAME/*` is one of each flow step. Rates begin with "Fraction"."""


@dataclass(frozen=True)
class Terms:
    """Hold a loss and its parts; sums are over valid entries, so those of microbatches add up."""

    loss: Float[Tensor, ""]
    stats: RatioStats
    kl_sum: Float[Tensor, ""]
    entropy_sum: Float[Tensor, ""]
    scores: FlowScores


@dataclass
class Tally:
    """Sum over the microbatches of an update."""

    squares: Float[Tensor, " k"]
    norms: list[float] = field(default_factory=list)
    stats: list[RatioStats] = field(default_factory=list)
    loss: float = 0.0
    kl: float = 0.0
    entropy: float = 0.0

    def add(self, terms: "Terms") -> None:
        """Add a microbatch after its backward pass; `terms.scores.mean` retained its gradient."""
        self.stats.append(terms.stats)
        self.loss += terms.loss.item()
        self.kl += terms.kl_sum.item()
        self.entropy += terms.entropy_sum.item()
        if terms.scores.mean.grad is not None:
            self.squares += terms.scores.mean.grad.double().square().sum((0, 2, 3)).cpu()


def rollout_metrics(rollouts: Rollouts, advantages: Float[Tensor, " b"], learner: Learner) -> Metrics:
    """Return what the rollouts of all processes were like, and how much of them teaches."""
    total, scored, useful = learner.total, rollouts.scored, advantages != 0
    count, frames = total(len(scored)), max(total(rollouts.frames), 1.0)
    total_scored, total_useful = total(int(scored.sum())), total(int(useful.sum()))
    return {
        "rollouts": count,
        "groups_started": total(rollouts.started),
        "return": total(float(rollouts.returns[scored].sum())) / max(total_scored, 1.0),
        "success": total(int((rollouts.success & scored).sum())) / max(total_scored, 1.0),
        "scored": total_scored / max(count, 1.0),
        "advantage_abs": total(float(advantages.abs().sum())) / max(total_useful, 1.0),
        "advantage_max": learner.most(float(advantages.abs().max()) if len(advantages) else 0.0),
        "useful_rollouts": total_useful / max(count, 1.0),
        "useful_frames": total(int(rollouts.mask[useful[rollouts.trajectory]].sum())) / frames,
        "frames": frames,
    } | {f"seconds_{name}": learner.most(seconds) for name, seconds in rollouts.seconds.items()}


def learning_metrics(
    tally: Tally, path: FlowPath, weights: Float[Tensor, " k"], entries: int, learner: Learner
) -> Metrics:
    """Return what the optimizer saw in the `entries` valid (s, n, a) entries of each process, all epochs together."""
    total, entries_of_all = learner.total, max(learner.total(entries), 1.0)
    steps = total(float(path.stochastic.sum())) / max(total(len(path)), 1.0)
    metrics = {
        "optimizer_steps": float(len(tally.norms)),
        "gradient_norm": sum(tally.norms) / len(tally.norms),
        "noise_level": path.schedule.noise_level,
        "loss": total(tally.loss) / len(tally.norms),
        "kl": total(tally.kl) / entries_of_all,
        "entropy": total(tally.entropy) / entries_of_all / max(steps, 1.0),
    }
    # Merged before they are gathered, since they are small then.
    merged = [RatioStats.merge(tally.stats)] if tally.stats else []
    if found := [each for part in learner.gathered([_on_cpu(each) for each in merged]) for each in part]:
        stats = vars(RatioStats.merge(found) if learner.size > 1 else found[0])
        metrics |= {name: float(value) for name, value in stats.items() if name != "ratios"}
    # The gradient reaches the policy through its velocity, so that is where the steps are compared.
    one, still = (path.schedule.probe(path.latents.shape[3], velocity)[0] for velocity in (1.0, 0.0))
    per_step = learner.sum(tally.squares).sqrt() * (one - still).abs().mean(1)
    metrics |= {f"flow_gradient/{step:02d}": float(norm) for step, norm in enumerate(per_step)}
    return metrics | {f"flowscale/{step:02d}": float(weight) for step, weight in enumerate(weights)}


def _on_cpu(stats: RatioStats) -> RatioStats:
    return RatioStats(**{name: each.cpu() for name, each in vars(stats).items()})
