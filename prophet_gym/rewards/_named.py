"""Build reward models by name: what `reward="..."` of `gym.make` can say."""

import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias, cast
from urllib.parse import parse_qsl

from prophet_gym._checks import read_options, require_count, require_known, require_when, unknown_option
from prophet_gym.errors import MissingWeightsError, UnknownOptionError
from prophet_gym.rewards._classifier import RelativeReward, SuccessHead
from prophet_gym.rewards._function import FunctionReward
from prophet_gym.rewards._vlm.likelihood import CONFIG_NAME, LikelihoodConfig, LikelihoodReward
from prophet_gym.rewards._vlm.local import DEFAULT_MODEL, LocalVlm
from prophet_gym.rewards._vlm.prompt import Prompt
from prophet_gym.rewards._vlm.remote import Patience, RemoteVlm
from prophet_gym.rewards._vlm.votes import VlmReward, Votes
from prophet_gym.world_model import RewardModel

FORMS = ("success", "classifier", "vlm:MODEL", "vlm:URL#MODEL", "likelihood:MODEL", "MODULE:FUNCTION", "FOLDER")
_OPTION = "option of this reward"
_Readers: TypeAlias = dict[str, Callable[[str], Any]]
_VOTES: _Readers = {"samples": int, "retries": int, "when": str, "stride": int, "shown": int, "prompt": Prompt.read}
_LOCAL: _Readers = dict(
    revision=str, device=str, dtype=str, bits=int, adapter=str, max_new_tokens=int, temperature=float, batch=int
)
_PATIENCE: _Readers = {"timeout": float, "total": float, "concurrency": int}
_REMOTE: _Readers = {"max_tokens": int, "temperature": float, "refused": str}
_LIKELIHOOD: _Readers = {"threshold": float, "when": str, "stride": int, "shown": int, "reward": str}
_HEAD: _Readers = {"reward": str, "chunk": int}
_FUNCTION: _Readers = {"when": str, "stride": int, "max_frames": int}


def make_reward_model(name: str, head: Path | None = None, device: str = "cpu", *, chunk: int = 8) -> RewardModel:
    """Build the reward model that `name` describes; the same object for the same arguments, so weights load once.

    `reward=` of `gym.make` takes the same names. Options follow a question mark and are joined by `&`, as in a URL:

        success                                  the checkpoint's success head: 1.0 once the task is found done
        classifier?reward=relative               the same head, rewarding the change of its probability
        FOLDER                                   a success head, or what `prophet train-reward --backbone vlm` wrote
        vlm:Qwen/Qwen2.5-VL-7B-Instruct?bits=4   majority vote of a model on this machine
        vlm:http://host:8000/v1?samples=3#MODEL  majority vote of a model behind an OpenAI-compatible endpoint
        likelihood:Qwen/Qwen2.5-VL-7B-Instruct   token likelihoods of a model on this machine
        my_rewards:brightness?stride=4           a function or a reward model's class in your own module

    `head` is the folder of the checkpoint's success head, if it has one, `device` the default device of a model on this
    machine, and `chunk` the number of frames between two scores, which `reward=relative` needs.

    Raises:
        UnknownOptionError: There is no such form or option.
        MissingWeightsError: There are no such weights.
        ValueError: The value of an option is outside its range.
    """
    if not isinstance(name, str | Path):
        raise ValueError(
            f"a reward is named by a text, one of {', '.join(FORMS)}; got {type(name).__name__}. A reward model that "
            "exists already goes to ProphetEnv or ProphetVectorEnv as reward_model="
        )
    return _named(str(name), head, device, chunk)


@lru_cache(maxsize=8)
def _named(name: str, head: Path | None, device: str, chunk: int) -> RewardModel:
    kind, colon, rest = name.partition(":")
    if colon and kind == "vlm":
        return _vlm(rest, device)
    if colon and kind == "likelihood":
        return _likelihood(rest, device)
    base, options = split(name)
    if base == "oracle":
        raise UnknownOptionError(
            "a dream has no oracle: the truth is the reward of the LIBERO-* ids, which `prophet calibrate` compares to"
        )
    if base == "None":
        raise UnknownOptionError("the text 'None' names no reward; where none is wanted, give None itself: reward=None")
    if base in ("success", "classifier"):
        if head is None or not head.is_dir():
            raise MissingWeightsError(
                f"these weights have no success head ({head} does not exist): pass reward=None, or reward=PATH of one"
            )
        return _classifier(head, options, device, chunk)
    path = Path(base).expanduser()
    if os.path.isdir(path):  # not path.is_dir(), which raises for a name too long for any folder
        if (path / CONFIG_NAME).is_file():
            read_options(_OPTION, options, {})
            return LikelihoodReward.from_pretrained(path, device=device)
        return _classifier(path, options, device, chunk)
    module, colon, attribute = base.partition(":")
    if colon and all(part.isidentifier() for part in (*module.split("."), attribute)):
        return _of_module(module, attribute, options)
    raise unknown_option("reward", name, FORMS)


def _of_module(module: str, attribute: str, options: Mapping[str, str]) -> RewardModel:
    """Import a reward: a function of a video and an instruction, or a class of a reward model without arguments."""
    where = f"reward='{module}:{attribute}'"
    try:
        found = getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name is not None and not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there and lacks something itself
        raise UnknownOptionError(f"{where} needs an importable module {module!r}, which was not found") from error
    except AttributeError as error:
        raise UnknownOptionError(f"{where} names nothing: {module} has no {attribute!r}") from error
    made = found() if isinstance(found, type) else found
    if isinstance(made, RewardModel):
        read_options(_OPTION, options, {})
        return made
    if not callable(made):
        raise UnknownOptionError(
            f"{where} must be a function of a video (frames, h, w, 3) and an instruction, or a reward model (see "
            f"prophet_gym.world_model.RewardModel), got {type(made).__name__}"
        )
    return FunctionReward(cast(Any, made), **read_options(_OPTION, options, _FUNCTION))


def _classifier(folder: Path, options: Mapping[str, str], device: str, chunk: int) -> RewardModel:
    given = read_options(_OPTION, options, _HEAD)
    reward = given.pop("reward", "sparse")
    require_known("reward of a classifier", reward, ("sparse", "relative"))
    if given and reward == "sparse":
        raise ValueError("the option chunk belongs to reward=relative; leave it out")
    head = SuccessHead.from_pretrained(folder).to(device)
    return head if reward == "sparse" else RelativeReward(head, **{"chunk": chunk} | given)


def _vlm(rest: str, device: str) -> RewardModel:
    remote = rest.startswith(("http://", "https://"))
    address, _, model = rest.partition("#") if remote else (rest, "", "")
    base, options = split(address)
    given = read_options(_OPTION, options, _VOTES | (_PATIENCE | _REMOTE if remote else _LOCAL))
    patience = _take(given, _PATIENCE)
    backend: dict[str, Any] = _take(given, _REMOTE) if remote else {"device": device} | _take(given, _LOCAL)
    if remote:
        return VlmReward(RemoteVlm(base, model, patience=Patience(**patience), **backend), **given)
    # Before weights are looked for, so that they are not loaded in vain.
    Votes(given.get("samples", 1), given.get("retries", 0))
    require_when(given.get("when", "end"))
    for name in ("stride", "shown"):
        require_count(name, given.get(name, 1))
    return VlmReward(LocalVlm.from_pretrained(base or DEFAULT_MODEL, **backend), **given)


def _likelihood(rest: str, device: str) -> RewardModel:
    base, options = split(rest)
    given = read_options(_OPTION, options, _LIKELIHOOD | _LOCAL)
    weights: dict[str, Any] = {"device": device} | _take(given, _LOCAL)
    config = LikelihoodConfig(base=base or DEFAULT_MODEL, **given)
    return LikelihoodReward(LocalVlm.from_pretrained(config.base, **weights), config)


def _take(given: dict[str, Any], names: _Readers) -> dict[str, Any]:
    return {name: given.pop(name) for name in names if name in given}


def split(name: str) -> tuple[str, dict[str, str]]:
    """Return what stands before the question mark, and the options after it."""
    base, _, options = name.partition("?")
    return base, dict(parse_qsl(options, keep_blank_values=True))
