"""The few exceptions a caller may catch; each is also the builtin one would expect."""

from collections.abc import Iterable
from difflib import get_close_matches


class ProphetError(Exception):
    """Any error that prophet_gym raises for something the caller can put right."""


class InvalidActionError(ProphetError, ValueError):
    """An action has the wrong shape, is not finite, or lies outside the action space."""


class InvalidStartError(ProphetError, ValueError):
    """A start does not fit: frames of the wrong size or dtype, an empty start set, an index past its end."""


class UnknownOptionError(ProphetError, ValueError, KeyError):
    """A name (option, id, task, start set, reward) that does not exist; the message lists the ones that do."""

    def __str__(self) -> str:
        return Exception.__str__(self)


class CheckpointError(ProphetError, ValueError, OSError):
    """A checkpoint exists but cannot be used: truncated weights, wrong shapes, missing files, unknown format."""


class MissingWeightsError(ProphetError, FileNotFoundError):
    """No weights were found for what was asked; the message names weights that cover it, if any do."""


class MissingAssetsError(ProphetError, FileNotFoundError):
    """The files of the real simulator (meshes, textures, initial states) are not on this machine."""


class RewardCollapseError(ProphetError, RuntimeError):
    """A judge's verdicts on the current policy's videos are no longer to be trusted; training on them should end."""


def unknown_option(kind: str, given: object, known: Iterable[str]) -> UnknownOptionError:
    """The error for a name that does not exist: lists the known ones and the closest match."""
    names = sorted(known)
    close = get_close_matches(given, names, n=1) if isinstance(given, str) else []
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return UnknownOptionError(f"unknown {kind} {given!r}.{hint} Known: {', '.join(names)}")
