"""The exceptions a caller may catch, each also the builtin one would expect."""


class ProphetError(Exception):
    """Any error that prophet_gym raises for something the caller can put right."""


class InvalidActionError(ProphetError, ValueError):
    """An action has the wrong shape, is not finite, or lies outside the action space."""


class InvalidStartError(ProphetError, ValueError):
    """An initial state or snapshot does not fit: frames of another size or dtype, an index past the end, damage."""


class UnknownOptionError(ProphetError, ValueError, KeyError):
    """A name (option, id, task, split, reward) does not exist; the message lists the ones that do."""

    def __str__(self) -> str:
        return Exception.__str__(self)


class CheckpointError(ProphetError, ValueError, OSError):
    """A checkpoint exists but cannot be used: truncated weights, wrong shapes, missing files, unknown format."""


class MissingWeightsError(ProphetError, FileNotFoundError):
    """No weights were found for what was asked; the message names weights that cover it, if any do."""


class MissingAssetsError(ProphetError, FileNotFoundError):
    """The files of the simulator (meshes, textures, initial states) are not on this machine."""


class CacheError(ProphetError, OSError):
    """The folder for files that can be made again cannot be written; the message names the variable that moves it."""


class SimulatorLostError(ProphetError, RuntimeError):
    """A process of the simulator ended by itself; its episodes are lost, and a new env can be made."""


class RunInUseError(ProphetError, RuntimeError):
    """Another process trains in the same folder; the message names it."""


class InvalidRewardError(ProphetError, ValueError):
    """A reward model returned something that is no reward: a number that is not finite, or one for fewer videos."""


class RewardCollapseError(ProphetError, RuntimeError):
    """A reward model can no longer be trusted on the current policy's videos; training on it should end."""
