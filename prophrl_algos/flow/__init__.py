"""A flow policy as a stochastic policy: the contract, one denoising step with its density, sampling and re-scoring.

Axis legend of `prophrl_algos`, the same letters in every signature:

    s  decisions (one action chunk each)       k  flow (denoising) steps
    n  executed actions of a chunk             a  dimensions of one action
    h  rows of the latent (the horizon)        d  columns of the latent (padded action)
    b  batch elements                          t = 1 is noise, t = 0 is the action, v = noise - action
"""
