"""Collect groups, improve the policy on them, repeat."""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from gymnasium.vector import VectorEnv
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from prophrl_algos.algorithms import FA_GRPO, Algorithm
from prophrl_algos.config import TrainerConfig
from prophrl_algos.distributed import Processes
from prophrl_algos.ema import Ema
from prophrl_algos.flow.policy import FlowPath, FlowPolicy, FlowScores, Obs, device_of, select_obs
from prophrl_algos.flow.sampler import rescore, step_stds
from prophrl_algos.flow.schedule import FlowSchedule
from prophrl_algos.flow.sde import gaussian_entropy, gaussian_kl
from prophrl_algos.flowscale import FlowScale, flowscale_weights, scale_gradients
from prophrl_algos.groups import Begin, Keep, begin_by_seed, keep_all, random_number
from prophrl_algos.metrics import Metrics, Tally, Terms, learning_metrics, rollout_metrics
from prophrl_algos.preflight import require_finite, require_fit, require_noise, require_trainable, spread
from prophrl_algos.progress import Progress, silent
from prophrl_algos.reference import Reference
from prophrl_algos.rollout import Rollouts, collect


@dataclass(frozen=True)
class Batch:
    """Decisions with what the loss needs of them.

    Attributes:
        obs: raw observations.
        path: sampled paths; their scores are those of the policy that the ratio is taken against.
        mask: actions that count.
        advantages: of each decision.
        loss_weights: how much a valid entry of each decision counts in the mean.
        weights: FlowScale's weight of each flow step.
        reference: scores of the reference policy; None without a KL term.
    """

    obs: Obs
    path: FlowPath
    mask: Bool[Tensor, "s n"]
    advantages: Float[Tensor, " s"]
    loss_weights: Float[Tensor, " s"]
    weights: Float[Tensor, " k"]
    reference: FlowScores | None = None

    def select(self, rows: Int[Tensor, " r"], device: torch.device) -> "Batch":
        """The given rows, on a device."""
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
    """Improves a flow policy with groups of rollouts in any vector env with action chunks.

    Nothing is trained from official starts. Randomness is a function of `config.seed` and the number of the update.

    Attributes:
        progress: told how far an update has come; `run` sets it to the loggers that show it.

    Example:
        >>> from prophrl_algos.bandit import BanditVectorEnv
        >>> from prophrl_algos.flow.policy import FlowSpec
        >>> from prophrl_algos.tiny import TinyFlowPolicy
        >>> policy = TinyFlowPolicy(FlowSpec(horizon=1, latent_dim=2, action_dim=2, exec_steps=1, num_steps=4))
        >>> optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3, betas=(0.9, 0.95))
        >>> config = TrainerConfig(groups=4, group_size=8, beta=0.0)
        >>> metrics = Trainer(policy, optimizer, BanditVectorEnv(32), config).iterate()
        >>> metrics["ratio_max"], metrics["rollouts"]
        (1.0, 32.0)
    """

    def __init__(
        self,
        policy: FlowPolicy,
        optimizer: torch.optim.Optimizer,
        env: VectorEnv,
        config: TrainerConfig | None = None,
        reference: FlowPolicy | None = None,
        *,
        algorithm: Algorithm = FA_GRPO,
        flowscale: FlowScale | None = None,
        begin: Begin = begin_by_seed,
        keep: Keep = keep_all,
        budget: int | None = None,
        discount: float | int = 1.0,
        anneal: Callable[[float], float | int] | None = None,
        noise_scale: Float[Tensor, " d"] | None = None,
        autocast: torch.dtype | None = None,
        ema: Ema | None = None,
        processes: Processes | None = None,
    ) -> None:
        """Check that everything fits; nothing is generated yet.

        Args:
            policy: improved in place; kept in eval mode, since dropout would make an unchanged policy's ratio random.
            optimizer: of the policy's parameters (and of the algorithm's, where it has any).
            env: with autoreset DISABLED; rows a multiple of the group size.
            config: `TrainerConfig()` if not given.
            reference: for the KL; where `beta` > 0 and none is given, `policy` with the weights that it has now.
            algorithm: what an experiment swaps.
            flowscale: balances flow steps; off if not given.
            begin: how the rows of a group get a common start.
            keep: which groups are kept, e.g. `KeepWithin()`; the others are resampled.
            budget: groups that may be begun in an update; twice `groups` if not given.
            discount: the reward of chunk n, counted from 0, counts discount^n. Below 1 a success is worth more the
                sooner it comes, and a group whose rollouts all succeed still teaches something.
            anneal: factor on the noise level at a share (0 to 1) of the updates.
            noise_scale: factor on the noise level of each latent dimension.
            autocast: compute velocities in this dtype (`torch.bfloat16`); densities stay in float32.
            ema: averaged at every optimiser step.
            processes: `Processes.joined()` under torchrun.

        Raises:
            ValueError: something does not fit; the message says what to change.
            InvalidStartError: the env starts from official states.
        """
        self.policy, self.optimizer, self.env, self.reference = policy, optimizer, env, reference
        self.config = config or TrainerConfig()
        self.algorithm, self.flowscale = algorithm, flowscale or FlowScale(alpha=1.0)
        if not 0 < discount <= 1:
            raise ValueError(f"discount must be above 0 and at most 1, got {discount}")
        self.begin, self.keep, self.discount = begin, keep, discount
        self.anneal, self.noise_scale, self.autocast, self.ema = anneal, noise_scale, autocast, ema
        self.processes = processes or Processes()
        self.device = device_of(policy)
        self.done = 0
        self.progress: Progress = silent
        self.groups = self.processes.split(self.config.groups)
        self.budget = 2 * self.groups if budget is None else self.processes.split(budget)
        require_fit(policy, env, self.groups, self.config.group_size, self.budget)
        for factor in [1.0] if anneal is None else map(anneal, spread(self.config.updates)):
            require_noise(self._schedule(factor), policy.spec, self.algorithm)
        self.parameters = require_trainable(policy, optimizer, self.algorithm)
        for module in (policy, reference, algorithm.kernel):
            if isinstance(module, nn.Module):
                module.eval().to(self.device)
        assert isinstance(policy, nn.Module)
        self.begun = Reference(policy, self.parameters) if self.config.beta > 0 and reference is None else None

    def schedule(self) -> FlowSchedule:
        """How the next update's paths are sampled."""
        return self._schedule(1.0 if self.anneal is None else self.anneal(self.done / self.config.updates))

    def iterate(self) -> Metrics:
        """Collect one round of groups and improve the policy on it."""
        with self._precision():
            rollouts = collect(
                self.policy,
                self.env,
                self.schedule(),
                groups=self.groups,
                group_size=self.config.group_size,
                seed=random_number(self.config.seed, 10, self.done),
                begin=self.begin,
                keep=self.keep,
                budget=self.budget,
                first_group=self.processes.rank,
                stride=self.processes.size,
                discount=self.discount,
                progress=self.progress,
            )
        metrics = self.update(rollouts)
        self.done += 1
        return metrics

    def update(self, rollouts: Rollouts) -> Metrics:
        """`epochs * minibatches` optimiser steps on these rollouts; none where no group teaches anything."""
        began = time.perf_counter()
        require_finite("return", rollouts.returns, rollouts)
        advantages = self.algorithm.advantages(rollouts.returns, rollouts.groups, rollouts.scored)
        require_finite("advantage", advantages, rollouts)
        metrics = rollout_metrics(rollouts, advantages, self.processes)
        rows = torch.nonzero((advantages != 0)[rollouts.trajectory])[:, 0]
        if self.processes.total(len(rows)) == 0:
            return metrics | {"optimizer_steps": 0.0, "seconds_update": time.perf_counter() - began}
        # Old scores are made in the batches of the first epoch, so it is the batch itself that is shuffled.
        batch, drift = self._prepare(rollouts, advantages, rows[self._order(len(rows), 0)])
        tally = Tally(torch.zeros(batch.path.schedule.num_steps, dtype=torch.float64))
        steps = 0
        for epoch in range(self.config.epochs):
            order = self._order(len(rows), epoch) if epoch else torch.arange(len(rows))
            for minibatch in torch.tensor_split(order, self.config.minibatches):
                self._optimize(batch, minibatch, tally)
                steps += 1
                self.progress("optimiser, step", steps, self.config.epochs * self.config.minibatches)
        entries = int(batch.mask.sum()) * self.policy.spec.action_dim * self.config.epochs
        metrics |= learning_metrics(tally, batch.path, batch.weights, entries) | {"old_log_prob_drift": drift}
        return metrics | {"seconds_update": time.perf_counter() - began}

    def loss(self, batch: Batch, denominator: float | int | None = None) -> Terms:
        """The loss of decisions on the policy's device; `denominator`: `count` of the whole minibatch."""
        scores = self._score(batch.obs, batch.path)
        old, times = batch.path.scores, batch.path.schedule.times
        denominator = (self.count(batch.mask, batch.loss_weights) or 1.0) if denominator is None else denominator
        log_prob = scale_gradients(self.algorithm.log_prob(scores, old, times), batch.weights)
        loss, stats = self.algorithm.loss(
            log_prob,
            old.log_prob,
            batch.advantages * batch.loss_weights,
            batch.mask,
            clip_low=self.config.clip_low,
            clip_high=self.config.clip_high,
            denominator=denominator,
        )
        valid = batch.mask[:, None, :, None]
        kl_sum = torch.zeros((), device=loss.device, dtype=loss.dtype)
        if batch.reference is not None:
            pair = (scores.mean, scores.std, batch.reference.mean, batch.reference.std)
            # Masked before, not after: the gradient of what is masked would be 0 * NaN where it is NaN.
            kl = gaussian_kl(*(torch.where(valid, each, 1.0) for each in pair))
            kl_sum = kl.detach().sum()
            loss = loss + self.config.beta * (kl * batch.loss_weights[:, None, None, None]).sum() / denominator
        entropy = torch.where(valid, gaussian_entropy(scores.std.detach()), 0.0).sum()
        return Terms(loss, stats, kl_sum, entropy, scores)

    def count(self, mask: Bool[Tensor, "s n"], loss_weights: Float[Tensor, " s"]) -> float:
        """What the mean divides by: the valid entries (s, n, a), each by its share."""
        return float(loss_weights @ mask.sum(1).float()) * self.policy.spec.action_dim

    def state_dict(self) -> dict[str, Any]:
        """All that the following updates depend on, beside the arguments of the constructor."""
        kernel = self.algorithm.kernel
        state = {
            "done": self.done,
            "config": asdict(self.config),
            "algorithm": self.algorithm.name,
            "flowscale": asdict(self.flowscale),
            "policy": self.policy.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "kernel": kernel.state_dict() if isinstance(kernel, nn.Module) else {},
            "ema": {} if self.ema is None else self.ema.state_dict(),
            "reference": {} if self.begun is None else self.begun.state_dict(),
            "random": torch.get_rng_state(),
        }
        if torch.cuda.is_available():
            state["random_cuda"] = torch.cuda.get_rng_state_all()
        if hasattr(self.env.unwrapped, "state_dict"):
            state["env"] = self.env.unwrapped.state_dict()  # pyright: ignore[reportAttributeAccessIssue]
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a `state_dict` was taken; ValueError if it is of another algorithm or configuration."""
        mine = asdict(self.config) | {"algorithm": self.algorithm.name, "flowscale": asdict(self.flowscale)}
        theirs = state["config"] | {name: state[name] for name in ("algorithm", "flowscale") if name in state}
        changed = [name for name in theirs if mine.get(name) != theirs[name] and name != "updates"]
        if changed:
            raise ValueError(
                "the checkpoint is of another run: "
                + ", ".join(f"{name} was {theirs[name]}, is {mine.get(name)}" for name in changed)
                + "; use another folder"
            )
        assert isinstance(self.policy, nn.Module)
        self.policy.load_state_dict(state["policy"])
        self.optimizer.load_state_dict(state["optimizer"])
        if isinstance(self.algorithm.kernel, nn.Module):
            self.algorithm.kernel.load_state_dict(state["kernel"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        if self.begun is not None and state.get("reference"):
            self.begun.load_state_dict(state["reference"])
        torch.set_rng_state(state["random"].cpu())
        if "random_cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state_all([each.cpu() for each in state["random_cuda"]])
        if "env" in state:
            self.env.unwrapped.load_state_dict(state["env"])  # pyright: ignore[reportAttributeAccessIssue]
        self.done = state["done"]

    def _schedule(self, factor: float | int) -> FlowSchedule:
        return FlowSchedule.uniform(
            self.policy.spec.num_steps,
            self.config.noise_level * factor,
            kernel=self.algorithm.kernel,
            choose=self.algorithm.choose,
            noise_scale=self.noise_scale,
        )

    def _order(self, count: int, epoch: int) -> Tensor:
        shuffle = torch.Generator().manual_seed(random_number(self.config.seed, 11, self.done, epoch))
        return torch.randperm(count, generator=shuffle)

    def _precision(self) -> AbstractContextManager[Any]:
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast)

    def _score(self, obs: Obs, path: FlowPath, *, grad: bool = True, policy: FlowPolicy | None = None) -> FlowScores:
        with self._precision():
            return rescore(policy or self.policy, obs, path, grad=grad)

    def _prepare(self, rollouts: Rollouts, advantages: Tensor, rows: Tensor) -> tuple[Batch, float]:
        """The decisions that teach, with old and reference scores; and by how much re-scoring changed the old ones."""
        path, obs = rollouts.path.select(rows), select_obs(rollouts.obs, rows)
        drift = 0.0
        if self.algorithm.scored is not None:
            path = self.algorithm.scored(path, random_number(self.config.seed, 12, self.done))
            path = replace(path, scores=self._score_all(obs, path, self.policy))
        elif self._must_rescore():
            again = self._score_all(obs, path, self.policy)
            drift = float((again.log_prob - path.log_prob).sum(1).abs().amax()) if len(rows) else 0.0
            path = replace(path, scores=again)
        reference = None
        if self.config.beta > 0:
            with nullcontext() if self.begun is None else self.begun.applied():
                reference = self._score_all(obs, path, self.reference or self.policy)
        having = max(self.processes.total(len(rows) > 0), 1.0)
        stds = self.processes.sum(step_stds(path.scores, path.stochastic)) / having
        weights = flowscale_weights(stds, self.flowscale)
        mask, trajectory = rollouts.mask[rows], rollouts.trajectory[rows]
        loss_weights = self.algorithm.aggregation(mask, trajectory)
        return Batch(obs, path, mask, advantages[trajectory], loss_weights, weights, reference), drift

    def _must_rescore(self) -> bool:
        """In low precision a velocity depends on the shape of its batch, so old scores are of the update's shapes."""
        dtypes = {parameter.dtype for parameter in self.policy.parameters()}
        return self.autocast is not None or dtypes != {torch.float32}

    def _score_all(self, obs: Obs, path: FlowPath, policy: FlowPolicy) -> FlowScores:
        batches = [
            rows
            for minibatch in torch.tensor_split(torch.arange(len(path)), self.config.minibatches)
            for rows in minibatch.split(self.config.microbatch)
            if len(rows)
        ]
        parts: list[FlowScores] = []
        for rows in batches:
            parts.append(
                self._score(select_obs(obs, rows), path.select(rows).to(self.device), grad=False, policy=policy)
            )
            self.progress("scoring, batch", len(parts), len(batches))
        return FlowScores.cat(parts).to(torch.device("cpu")) if parts else path.scores

    def _optimize(self, batch: Batch, rows: Tensor, tally: Tally) -> None:
        denominator = self.processes.total(self.count(batch.mask[rows], batch.loss_weights[rows])) or 1.0
        self.optimizer.zero_grad(set_to_none=True)
        for part in rows.split(self.config.microbatch) if len(rows) else ():
            terms = self.loss(batch.select(part, self.device), denominator)
            terms.scores.mean.retain_grad()
            terms.loss.backward()
            tally.add(terms)
        self.processes.sum_gradients(self.parameters)
        norm = float(nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm))
        if not norm < float("inf"):
            raise FloatingPointError(
                f"the gradient of update {self.done} has norm {norm}; the weights are as before: look at the returns "
                "and observations, then go on from the last checkpoint with a lower learning rate"
            )
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update()
        tally.norms.append(norm)
