"""The exceptions a caller may catch, each also the builtin one would expect."""


class ProphetError(Exception):
    """Signal something that the caller can put right; the parent of all errors of prophet_gym."""


class InvalidActionError(ProphetError, ValueError):
    """Signal an action that has the wrong shape, is not finite, or lies outside the action space."""


class InvalidStartError(ProphetError, ValueError):
    """Signal an initial state or snapshot that cannot be used: it does not exist, does not fit, or is damaged."""


class UnknownOptionError(ProphetError, ValueError, KeyError):
    """Signal an unknown name (option, id, task, split, reward); the message lists the known ones."""

    def __str__(self) -> str:
        return Exception.__str__(self)


class CheckpointError(ProphetError, ValueError, OSError):
    """Signal a checkpoint that cannot be used: truncated weights, wrong shapes, missing files, unknown format."""


class MissingWeightsError(ProphetError, FileNotFoundError):
    """Signal that no weights cover the request; the message names weights that do, if there are any."""


class MissingAssetsError(ProphetError, FileNotFoundError):
    """Signal that files of the simulator (meshes, textures, initial states) are not on this machine."""


class CacheError(ProphetError, OSError):
    """Signal that the cache folder cannot be written; the message names the environment variable that moves it."""


class SimulatorLostError(ProphetError, RuntimeError):
    """Signal that a simulator process, or the server of a remote env, is gone; a new env, or `reconnect`, goes on."""


class ProcessLostError(ProphetError, RuntimeError):
    """Signal that another process of a run has gone, or that its workers die again and again; the message says why."""


class RunInUseError(ProphetError, RuntimeError):
    """Signal that another process trains in the same folder; the message names the process."""


class InvalidRewardError(ProphetError, ValueError):
    """Signal an invalid output of a reward model: a reward that is not finite, or not one reward for each video."""


class RewardCollapseError(ProphetError, RuntimeError):
    """Signal that the reward model is no longer precise on the current policy's videos; training should stop."""
