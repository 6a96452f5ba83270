"""Collect groups, improve the policy on them, repeat."""

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from gymnasium.vector import VectorEnv
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from prophet_gym._io.processes._sharding import room_like
from prophet_gym._io.progress import progress
from prophrl_algos.algorithms import FA_GRPO, Algorithm, FlowScale
from prophrl_algos.algorithms._algorithm import sampled_path
from prophrl_algos.algorithms.flowscale import flowscale_weights, scale_gradients
from prophrl_algos.flow import FlowPath, FlowPolicy, FlowSchedule, FlowScores, FlowSpec, Obs, device_of, select_obs
from prophrl_algos.flow._sampler import rescore, std_sums
from prophrl_algos.flow._sde import gaussian_entropy, gaussian_kl
from prophrl_algos.rollout import Collector, Grouping, GroupPlan, LocalRollouts, Rollouts
from prophrl_algos.rollout._groups import random_number, refuse_official, require_chunk, splits_of
from prophrl_algos.trainer._config import TrainerConfig
from prophrl_algos.trainer._learner import Learner
from prophrl_algos.trainer._metrics import Metrics, Tally, Terms, learning_metrics, rollout_metrics
from prophrl_algos.trainer._state import fitted, fitted_moments, load_own_state, own_state
from prophrl_algos.trainer._weight_copy import WeightCopy


@dataclass(frozen=True)
class Batch:
    """Hold action chunks with what the loss needs to know of them.

    The scores of `path` are those of the policy that the ratio is taken against, `reference` those of the policy that
    the run began with, where there is a KL term; `loss_weights` are of a valid entry of each chunk, `weights` of
    FlowScale.
    """

    obs: Obs
    path: FlowPath
    mask: Bool[Tensor, "s n"]
    advantages: Float[Tensor, " s"]
    loss_weights: Float[Tensor, " s"]
    weights: Float[Tensor, " k"]
    reference: FlowScores | None = None

    def select(self, rows: Int[Tensor, " r"], device: torch.device) -> "Batch":
        """Return the given chunks, on a device."""
        return Batch(
            select_obs(self.obs, rows),
            self.path.select(rows).to(device),
            self.mask[rows].to(device),
            self.advantages[rows].to(device),
            self.loss_weights[rows].to(device),
            self.weights.to(device),
            None if self.reference is None else self.reference.select(rows).to(device),
        )


class Trainer:
    """Improve a flow policy with groups of rollouts in any vector env with action chunks.

    Episodes from official initial states are refused. All randomness is a function of `config.seed` and the number of
    the update.

    Attributes:
        done: Number of updates so far.
        reference: The weights that the run began with, if `beta` is above 0.

    Example:
        >>> from prophet_gym.envs import ProphetVectorEnv
        >>> from prophet_gym.testing import CountingWorldModel, counting_starts
        >>> from prophrl_algos.vla import SmallVLA
        >>> dream = {"max_episode_steps": 2, "autoreset_mode": "Disabled"}
        >>> env = ProphetVectorEnv(CountingWorldModel(chunk=4), counting_starts(), num_envs=4, **dream)
        >>> policy = SmallVLA(*env.single_action_space.shape, image_size=16, places=2, width=16, layers=1, signs=())
        >>> optimizer = torch.optim.AdamW(policy.parameters(), lr=5e-5, betas=(0.9, 0.95))
        >>> Trainer(policy, optimizer, env, TrainerConfig(groups=1, group_size=4)).iterate()["rollouts"]
        4.0
    """

    def __init__(
        self,
        policy: FlowPolicy,
        optimizer: torch.optim.Optimizer,
        env: VectorEnv,
        config: TrainerConfig | None = None,
        *,
        algorithm: Algorithm = FA_GRPO,
        flowscale: FlowScale | None = None,
        grouping: Grouping | None = None,
        autocast: torch.dtype | None = None,
        learner: Learner | None = None,
        collector: Collector | None = None,
    ) -> None:
        """Check that the arguments fit together; nothing is generated yet.

        The policy is improved in place and kept in eval mode, since dropout would make the ratio of an unchanged policy
        random. The optimizer holds the parameters of the policy and of the algorithm's kernel. The env must have
        autoreset DISABLED, and its number of sub-environments must be a multiple of the group size. FlowScale is off by
        default. `autocast` is the precision of velocities, the launcher's if not given; densities are always float32.
        With `Learner.joined()`, under `accelerate launch` or torchrun, several processes learn as one: each with its
        env, and with `learner.share(groups)` of the groups. The `collector` collects in this process if not given; the
        env of another is one like its workers', and is not run.

        Raises:
            ValueError: Something does not fit; the message says what to change.
            InvalidStartError: The env starts from official initial states.
        """
        self.policy, self.optimizer, self.env, self.algorithm = policy, optimizer, env, algorithm
        self.config, self.learner = config or TrainerConfig(), learner or Learner()
        self.flowscale = flowscale or FlowScale(alpha=1.0)
        self.autocast, self.device = autocast or self.learner.dtype, device_of(policy)
        self.done = 0
        groups, rank, count = self.learner.share(self.config.groups), self.learner.rank, self.learner.size
        # Several processes that share a seed count past each other's numbers.
        self.plan = GroupPlan(groups, self.config.group_size, grouping or Grouping(), first=rank, stride=count)
        self.learner.require_alike("settings", self._settings(), "start all with the same command")
        self.plan.check(env)
        require_chunk(policy, env)
        refuse_official(splits_of(env))
        require_noise(self.schedule(), policy.spec, algorithm)
        require_trainable(policy, optimizer, algorithm)
        assert isinstance(policy, nn.Module)
        modules = [each for each in (policy, algorithm.kernel) if isinstance(each, nn.Module)]
        for module in modules:
            module.eval().to(self.device)
        self.learner.begin(optimizer, *modules)
        self.parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.reference = WeightCopy(policy, self.parameters) if self.config.beta > 0 else None
        self.collector = collector or LocalRollouts(policy, env, self.schedule(), self.autocast)

    def schedule(self) -> FlowSchedule:
        """Return how paths are sampled."""
        return self.algorithm.schedule(self.policy.spec, self.config.noise_level)

    def iterate(self) -> Metrics:
        """Collect one round of groups and improve the policy on it."""
        with self.learner.whole(self.policy), self.learner.watched(f"collecting for update {self.done}"):
            rollouts = self.collector.collect(self.plan, seed=self.config.seed, update=self.done)
        with self.learner.watched(f"learning in update {self.done}"):
            metrics = {**self.update(rollouts), **rollouts.counts}
        self.done += 1
        return metrics

    def update(self, rollouts: Rollouts) -> Metrics:
        """Take `epochs * minibatches` optimizer steps on these rollouts; none where no group teaches anything."""
        began = time.perf_counter()
        require_finite("return", rollouts.returns, rollouts)
        advantages = self.algorithm.advantages(rollouts.returns, rollouts.groups, rollouts.scored)
        require_finite("advantage", advantages, rollouts)
        metrics = rollout_metrics(rollouts, advantages, self.learner)
        # Chunks of advantage 0 would cost passes and teach nothing; the KL leaves them out as well.
        rows = torch.nonzero((advantages != 0)[rollouts.trajectory])[:, 0]
        if self.learner.total(len(rows)) == 0:
            return metrics | {"optimizer_steps": 0.0, "seconds_update": time.perf_counter() - began}
        # Old scores are made in the batches of the first epoch, so it is the batch itself that is shuffled.
        rows = rows[self._order(len(rows), 0)]
        # One chunk of advantage 0, of a process that has no other: shards are gathered by all processes together.
        spare = len(rows) == 0 and self.learner.sharded
        batch, drift = self._prepare(rollouts, advantages, torch.zeros(1, dtype=torch.int64) if spare else rows)
        tally = Tally(torch.zeros(batch.path.schedule.num_steps, dtype=torch.float64))
        with progress(
            None, "optimizer", total=self.config.epochs * self.config.minibatches, unit="step", passing=True
        ) as bar:
            for epoch in range(self.config.epochs):
                order = self._order(len(rows), epoch) if epoch else torch.arange(len(rows))
                for minibatch in torch.tensor_split(order, self.config.minibatches):
                    self._optimize(batch, minibatch, tally)
                    bar.update()
        entries = int(batch.mask[: len(rows)].sum()) * self.policy.spec.action_dim * self.config.epochs
        path = batch.path.select(torch.arange(len(rows))) if spare else batch.path
        metrics |= learning_metrics(tally, path, batch.weights, entries, self.learner)
        metrics["old_log_prob_drift"] = self.learner.most(drift)
        return metrics | {"seconds_update": time.perf_counter() - began}

    def loss(self, batch: Batch, denominator: float | int | None = None) -> Terms:
        """Return the loss of chunks on the policy's device; `denominator` is `count` of the whole minibatch."""
        scores = self._score(batch.obs, batch.path)
        old, times = batch.path.scores, batch.path.schedule.times
        denominator = (self.count(batch.mask, batch.loss_weights) or 1.0) if denominator is None else denominator
        loss, stats = self.algorithm.loss(
            scale_gradients(self.algorithm.score(scores, old, times), batch.weights),
            old.log_prob,
            batch.advantages,
            batch.mask,
            clip_low=self.config.clip_low,
            clip_high=self.config.clip_high,
            loss_weights=batch.loss_weights,
            denominator=denominator,
        )
        counts = batch.mask[:, None, :, None]
        kl_sum = torch.zeros((), device=loss.device, dtype=loss.dtype)
        if batch.reference is not None:
            pair = (scores.mean, scores.std, batch.reference.mean, batch.reference.std)
            # Masked before, not after: the gradient of what is masked would be 0 * NaN where it is NaN.
            kl = gaussian_kl(*(torch.where(counts, each, 1.0) for each in pair))
            kl_sum = kl.detach().sum()
            loss = loss + self.config.beta * (kl * batch.loss_weights[:, None, None, None]).sum() / denominator
        entropy = torch.where(counts, gaussian_entropy(scores.std.detach()), 0.0).sum()
        return Terms(loss, stats, kl_sum, entropy, scores)

    def count(self, mask: Bool[Tensor, "s n"], loss_weights: Float[Tensor, " s"]) -> float:
        """Return what the loss divides by: the valid entries (s, n, a), each by its weight."""
        return float(loss_weights @ mask.sum(1).float()) * self.policy.spec.action_dim

    def state_dict(self) -> dict[str, Any]:
        """Return all that the following updates depend on, beside the arguments of the constructor.

        Every process must ask for it: the randomness and the env of each are part of it.
        """
        own, *others = self.learner.gathered(own_state(self.env, self.collector))
        state: dict[str, Any] = {"done": self.done, "config": self._settings(), **own}
        state |= {name: {} if part is None else part.state_dict() for name, part in self._parts().items()}
        return state | ({"others": others} if others else {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`; ValueError if it is of another algorithm or configuration."""
        mine, theirs = self._settings(), state["config"]
        # More updates continue the same run; anything else would make it another one.
        changed = [name for name in theirs if mine.get(name) != theirs[name] and name != "updates"]
        if changed:
            raise ValueError(
                "the checkpoint is of another run: "
                + ", ".join(f"{name} was {theirs[name]}, is {mine.get(name)}" for name in changed)
                + "; use another folder"
            )
        for name, part in self._parts().items():
            if part is not None and state.get(name):
                of_moments, own = name == "optimizer", state[name]
                like = part.state_dict()
                part.load_state_dict(fitted_moments(own, self.parameters) if of_moments else fitted(own, like))
        # Of a run with fewer processes there is nothing that would be the others' own: they begin as new ones.
        known = [state, *state.get("others", ())]
        if self.learner.rank < len(known):
            load_own_state(self.env, self.collector, known[self.learner.rank])
        self.done = state["done"]

    def place(self, name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Return a tensor as large and as sharded as the one of this name in `state_dict`."""
        part, _, key = name.partition("/")
        of_moments = part == "optimizer"
        like = self.parameters[int(key.split("/")[1])] if of_moments else self._parts()[part].state_dict().get(key)
        return room_like(like, shape, dtype)

    def _parts(self) -> dict[str, Any]:
        """Return what has a state of its own, under its name in a checkpoint."""
        kernel = self.algorithm.kernel if isinstance(self.algorithm.kernel, nn.Module) else None
        return {"policy": self.policy, "optimizer": self.optimizer, "kernel": kernel, "reference": self.reference}

    def _settings(self) -> dict[str, Any]:
        """Return the settings that a run must be resumed with."""
        chosen = {"algorithm": self.algorithm.name, "flowscale": asdict(self.flowscale)}
        return asdict(self.config) | chosen

    def _order(self, count: int, epoch: int) -> Tensor:
        shuffle = torch.Generator().manual_seed(random_number(self.config.seed, 11, self.done, epoch))
        return torch.randperm(count, generator=shuffle)

    def _precision(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.autocast is None else torch.autocast(self.device.type, dtype=self.autocast)

    def _score(self, obs: Obs, path: FlowPath, *, grad: bool = True) -> FlowScores:
        with self._precision():
            return rescore(self.policy, obs, path, grad=grad)

    def _prepare(self, rollouts: Rollouts, advantages: Tensor, rows: Tensor) -> tuple[Batch, float]:
        """Return the chunks that teach with old and reference scores, and how far re-scoring moved the old ones."""
        require_fresh(self.algorithm, rollouts.staleness)
        sampled, obs = rollouts.path.select(rows), select_obs(rollouts.obs, rows)
        path = self.algorithm.path(sampled, random_number(self.config.seed, 12, self.done))
        drift = 0.0
        # In low precision a velocity depends on the shapes of its batch, so old scores must be of the update's shapes.
        exact = self.autocast is None and {each.dtype for each in self.policy.parameters()} == {torch.float32}
        # Nor can the policy of a stale rollout be asked again: the ratio is against the scores that it gave itself.
        if path is not sampled or not (exact or self.learner.most(rollouts.staleness)):
            again = self._score_all(obs, path)
            if path is sampled and len(rows):
                drift = float((again.log_prob - path.log_prob).sum(1).abs().amax())
            path = replace(path, scores=again)
        reference = None
        if self.reference is not None:
            with self.reference.applied():
                reference = self._score_all(obs, path)
        mask, trajectory = rollouts.mask[rows], rollouts.trajectory[rows]
        taught = torch.nonzero(advantages[trajectory])[:, 0]
        stds, count = map(self.learner.sum, std_sums(path.select(taught).scores, path.stochastic[taught]))
        return Batch(
            obs,
            path,
            mask,
            advantages[trajectory],
            self.algorithm.loss_weights(mask, trajectory),
            flowscale_weights(stds / count.clamp(min=1), self.flowscale),
            reference,
        ), drift

    def _score_all(self, obs: Obs, path: FlowPath) -> FlowScores:
        """Score in the batches of an epoch, so that the first ratio is exactly 1."""
        minibatches = torch.arange(len(path)).tensor_split(self.config.minibatches)
        batches = [rows for each in minibatches if len(each) for rows in each.split(self.config.microbatch)]
        parts: list[FlowScores] = []
        with (
            progress(None, "scoring", total=len(batches), unit="batch", passing=True) as bar,
            self.learner.whole(self.policy),
        ):  # pyright: ignore[reportArgumentType]
            for rows in batches:
                parts.append(self._score(select_obs(obs, rows), path.select(rows).to(self.device), grad=False))
                bar.update()
        return FlowScores.cat(parts).to(torch.device("cpu")) if parts else path.scores

    def _optimize(self, batch: Batch, rows: Tensor, tally: Tally) -> None:
        # All processes divide by the same number, so that the sum of their gradients is the mean over all entries.
        denominator = self.learner.total(self.count(batch.mask[rows], batch.loss_weights[rows])) or 1.0
        self.optimizer.zero_grad(set_to_none=True)
        parts = rows.split(self.config.microbatch) if len(rows) else ()
        # Shards are gathered by all processes together, so each makes as many passes, one that has done of no weight.
        passes = int(self.learner.most(len(parts))) if self.learner.sharded else len(parts)
        for part in parts:
            terms = self.loss(batch.select(part, self.device), denominator)
            terms.scores.mean.retain_grad()  # for the metric of each flow step's gradient
            terms.loss.backward()
            tally.add(terms)
        for _ in range(len(parts), passes):
            idle = batch.select(torch.zeros(1, dtype=torch.int64), self.device)
            self.loss(replace(idle, loss_weights=torch.zeros_like(idle.loss_weights)), denominator).loss.backward()
        self.learner.sum_gradients(self.parameters)
        norm = self.learner.clip(self.parameters, self.config.max_grad_norm)
        if not norm < float("inf"):
            raise FloatingPointError(
                f"the gradient of update {self.done} has norm {norm}; the weights are as before: look at the returns "
                "and observations, then resume from the last checkpoint with a lower learning rate"
            )
        self.optimizer.step()
        tally.norms.append(norm)


def require_noise(schedule: FlowSchedule, spec: FlowSpec, algorithm: Algorithm) -> None:
    """Raise ValueError unless some step has a density in some of the dimensions that are scored."""
    if algorithm.make_kernel is not None:
        raise ValueError(f"{algorithm.name} learns its noise: give the trainer algorithm.sized(policy.spec)")
    if algorithm.path is not sampled_path and isinstance(algorithm.kernel, nn.Module):
        raise ValueError(
            f"{algorithm.name} scores another path than its kernel samples, so the kernel would learn nothing: take "
            "one without weights, or path=sampled_path"
        )
    if algorithm.path is sampled_path and not schedule.choose([torch.Generator()], schedule.num_steps).any():
        raise ValueError(
            f"{algorithm.name} samples without noise, so paths have no density: choose=every_step, or path=renoised"
        )
    if not (schedule.probe(spec.latent_dim)[1][:, : spec.action_dim] > 0).any():
        raise ValueError(
            f"noise_level must be above 0 for {algorithm.name}, in at least one step, got "
            f"noise_level={schedule.noise_level:g} and K={schedule.num_steps}: without noise a path has no density; "
            "0.5 is usual"
        )


def require_fresh(algorithm: Algorithm, staleness: int) -> None:
    """Raise ValueError where rollouts may be stale and the algorithm asks the policy that acted again."""
    if staleness and algorithm.path is not sampled_path:
        raise ValueError(
            f"{algorithm.name} scores another path than the policy took, so it needs the policy that acted: give "
            f"max_staleness=0, not {staleness}, or an algorithm of sampled paths, such as {FA_GRPO.name}"
        )


def require_finite(what: str, values: Float[Tensor, " b"], rollouts: Rollouts) -> None:
    """Raise ValueError where the value of a scored rollout is not finite, which says nothing of how good it was."""
    wrong = torch.nonzero(rollouts.scored & ~torch.isfinite(values))[:, 0].tolist()
    if wrong:
        first = wrong[0]
        raise ValueError(
            f"the {what} of rollout {first} (group {int(rollouts.groups[first])}) is {float(values[first])}, and "
            f"{len(wrong)} of {len(values)} rollouts have one that is not finite: look at the env's rewards and at the "
            "algorithm's advantages"
        )


def require_trainable(policy: FlowPolicy, optimizer: torch.optim.Optimizer, algorithm: Algorithm) -> None:
    """Raise ValueError where the optimizer has no parameter of the policy or misses one of the algorithm's."""
    known = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if not any(id(parameter) in known for parameter in policy.parameters()):
        raise ValueError("the optimizer has no parameter of the policy: make it from policy.parameters()")
    kernel = algorithm.kernel
    if isinstance(kernel, nn.Module) and not all(id(parameter) in known for parameter in kernel.parameters()):
        raise ValueError(f"{algorithm.name} learns its noise: give the optimizer algorithm.kernel.parameters() as well")
