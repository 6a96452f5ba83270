"""A flow policy as a stochastic policy: the contract, one denoising step with its density, sampling and re-scoring.

Axis legend of `prophrl_algos`, the same letters in every signature:

    s  action chunks                      k  flow (denoising) steps
    n  executed actions of a chunk             a  dimensions of one action
    h  rows of the latent (the horizon)        d  columns of the latent (padded action)
    b  batch elements                          t = 1 is noise, t = 0 is the action, v = noise - action
"""

from prophrl_algos.flow._forward import renoised
from prophrl_algos.flow._policy import (
    Context,
    FlowPath,
    FlowPolicy,
    FlowScores,
    FlowSpec,
    Obs,
    TensorContext,
    cat_obs,
    device_of,
    select_obs,
)
from prophrl_algos.flow._sampler import rescore, sample, step_stds
from prophrl_algos.flow._schedule import FlowSchedule, every_step, no_step, one_random_step
from prophrl_algos.flow._sde import Kernel, cps_step, flow_sde_step

__all__ = ["Context", "FlowPath", "FlowPolicy", "FlowSchedule", "FlowScores", "FlowSpec", "Kernel", "Obs"]
__all__ += ["TensorContext", "cat_obs", "cps_step", "device_of", "every_step", "flow_sde_step", "no_step"]
__all__ += ["one_random_step", "renoised", "rescore", "sample", "select_obs", "step_stds"]
