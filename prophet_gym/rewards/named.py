"""Judges by name: what `reward="..."` of `gym.make` can say.

    classifier, success                      the checkpoint's success head: 1.0 when success is held
    classifier?reward=relative               the same head, each chunk paid p_t - p_{t-1}
    FOLDER                                   a success head, or a judge of `prophet train-reward --backbone vlm`
    vlm:Qwen/Qwen2.5-VL-7B-Instruct?bits=4   votes of a model on this machine
    vlm:http://host:8000/v1?samples=3#MODEL  votes of a model behind an OpenAI-compatible endpoint
    likelihood:Qwen/Qwen2.5-VL-7B-Instruct   token likelihoods of a model on this machine

Options follow a question mark, joined by `&`, as in an address.
"""

import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from prophet_gym.errors import MissingWeightsError, UnknownOptionError, require_count, shown, unknown_option
from prophet_gym.rewards.classifier import RelativeReward
from prophet_gym.rewards.likelihood import CONFIG_NAME, LikelihoodConfig, LikelihoodReward
from prophet_gym.rewards.local import DEFAULT_MODEL, LocalVlm
from prophet_gym.rewards.prompt import Prompt
from prophet_gym.rewards.remote import Patience, RemoteVlm
from prophet_gym.rewards.reward_log import RewardLog
from prophet_gym.rewards.success_head import SuccessHead
from prophet_gym.rewards.vlm import VlmReward
from prophet_gym.rewards.voting import Votes
from prophet_gym.world_model import RewardModel, require_when

FORMS = (
    "success",
    "classifier",
    "classifier?reward=relative",
    "vlm:MODEL",
    "vlm:http://HOST/v1#MODEL",
    "likelihood:MODEL",
    "None",
    "the path of a success head",
)
Readers = Mapping[str, Callable[[str], Any]]


def two_numbers(text: str) -> tuple[float, float]:
    """`2,10` as numbers."""
    first, second = map(float, text.split(","))
    return first, second


def names(text: str) -> tuple[str, ...]:
    """`max_tokens,seed` as names."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


JUDGE: Readers = {"samples": int, "retries": int, "when": str, "stride": int, "shown": int, "prompt": str, "log": str}
LOCAL: Readers = {
    "revision": str,
    "device": str,
    "dtype": str,
    "bits": int,
    "adapter": str,
    "max_new_tokens": int,
    "temperature": float,
    "batch": int,
}
PATIENCE: Readers = {"timeout": float, "total": float, "pause": float, "concurrency": int, "per_minute": float}
REMOTE: Readers = {"max_tokens": int, "temperature": float, "prices": two_numbers, "refused": names}
LIKELIHOOD: Readers = {"threshold": float, "when": str, "stride": int, "shown": int, "reward": str}
HEAD: Readers = {"reward": str, "chunk": int}


def make_reward_model(name: str, head: Path | None = None, device: str = "cpu", *, chunk: int = 8) -> RewardModel:
    """The judge that `name` describes; the same object for the same arguments, so weights are loaded once.

    Args:
        name: One of the forms above.
        head: Folder of the checkpoint's success head, where there is one.
        device: Where a model on this machine runs, unless its options say so.
        chunk: Frames between two judgements, for `reward=relative`.

    Raises:
        UnknownOptionError: No such form or option.
        MissingWeightsError: There are no such weights.
        ValueError: An option's value makes no sense.
    """
    if not isinstance(name, str | Path):
        raise ValueError(
            f"a reward is named by a text, one of {', '.join(FORMS)}; got {type(name).__name__}. A judge that exists "
            "already goes to ProphetEnv or ProphetVectorEnv as reward_model="
        )
    return _judge(str(name), head, device, chunk)


@lru_cache(maxsize=8)
def _judge(name: str, head: Path | None, device: str, chunk: int) -> RewardModel:
    kind, colon, rest = name.partition(":")
    if colon and kind == "vlm":
        return _vlm(rest, device)
    if colon and kind == "likelihood":
        return _likelihood(rest, device)
    base, options = split(name)
    if base == "oracle":
        raise UnknownOptionError(
            "a dream has no oracle: nobody knows what would really have happened. The truth is the reward of the "
            "LIBERO-* ids; `prophet calibrate` compares judges with it, prophet_gym.rewards.OracleReward takes labels"
        )
    if base == "None":
        raise UnknownOptionError("the text 'None' names no reward; where none is wanted, give None itself: reward=None")
    if base in ("success", "classifier"):
        if head is None or not head.is_dir():
            raise MissingWeightsError(
                f"these weights have no success head ({head} does not exist): pass reward=None, or reward=PATH of one "
                "that `prophet train-reward` trained"
            )
        return _head(head, options, device, chunk)
    path = Path(base).expanduser()
    if not os.path.isdir(path):  # not path.is_dir(), which raises for a name too long for any folder
        raise unknown_option("reward", name, FORMS)
    if (path / CONFIG_NAME).is_file():
        read(options, {})
        return LikelihoodReward.from_pretrained(path, device=device)
    return _head(path, options, device, chunk)


def _head(folder: Path, options: Mapping[str, str], device: str, chunk: int) -> RewardModel:
    given = read(options, HEAD)
    reward = given.pop("reward", "sparse")
    if reward not in ("sparse", "relative"):
        raise unknown_option("reward of a classifier", reward, ["sparse", "relative"])
    if given and reward == "sparse":
        raise ValueError("the option chunk belongs to reward=relative; leave it out")
    head = SuccessHead.from_pretrained(folder).to(device)
    return head if reward == "sparse" else RelativeReward(head, **{"chunk": chunk} | given)


def _vlm(rest: str, device: str) -> RewardModel:
    if rest.startswith(("http://", "https://")):
        address, _, model = rest.partition("#")
        base, options = split(address)
        given = _read_judge(options, {**PATIENCE, **REMOTE})
        patience = Patience(**{name: given.pop(name) for name in PATIENCE if name in given})
        sampling = {name: given.pop(name) for name in REMOTE if name in given}
        backend: Any = RemoteVlm(base, model, patience=patience, **sampling)
    else:
        base, options = split(rest)
        given = _read_judge(options, LOCAL)
        weights: dict[str, Any] = {"device": device} | {name: given.pop(name) for name in LOCAL if name in given}
        backend = LocalVlm.from_pretrained(base or DEFAULT_MODEL, **weights)
    return VlmReward(backend, **given)


def _read_judge(options: Mapping[str, str], backend: Readers) -> dict[str, Any]:
    """The options of a judge who votes and of its backend, checked before weights are looked for."""
    given = read(options, {**JUDGE, **backend})
    Votes(given.get("samples", 1), given.get("retries", 0))
    require_when(given.get("when", "end"))
    for name in ("stride", "shown"):
        require_count(name, given.get(name, 1))
    openers: Readers = {"prompt": Prompt.read, "log": RewardLog}
    return given | {name: open_(given[name]) for name, open_ in openers.items() if name in given}


def _likelihood(rest: str, device: str) -> RewardModel:
    base, options = split(rest)
    given = read(options, {**LIKELIHOOD, **LOCAL})
    weights: dict[str, Any] = {"device": device} | {name: given.pop(name) for name in LOCAL if name in given}
    config = LikelihoodConfig(base=base or DEFAULT_MODEL, **given)
    return LikelihoodReward(LocalVlm.from_pretrained(config.base, **weights), config)


def split(name: str) -> tuple[str, dict[str, str]]:
    """What stands before the question mark, and the options after it.

    Example:
        >>> split("owner/model?samples=3&log=a%26b.jsonl")
        ('owner/model', {'samples': '3', 'log': 'a&b.jsonl'})
    """
    base, _, options = name.partition("?")
    return base, dict(parse_qsl(options, keep_blank_values=True))


def read(options: Mapping[str, str], readers: Readers) -> dict[str, Any]:
    """The options as numbers and texts.

    Raises:
        UnknownOptionError: An option that is not known.
        ValueError: A value that cannot be read.
    """
    values = {}
    for name, text in options.items():
        if name not in readers:
            raise unknown_option("option of this reward", name, readers)
        try:
            values[name] = readers[name](text)
        except ValueError as error:
            kind = readers[name].__name__.replace("_", " ")
            raise ValueError(f"the option {name} of a reward must be {kind}, got {shown(text)!r}") from error
    return values
