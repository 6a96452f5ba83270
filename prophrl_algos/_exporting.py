"""Turn the folder of a training run into that of a policy, by what the run was begun with."""

from pathlib import Path
from typing import Any

from prophet_gym._io.files import read_json
from prophet_gym.errors import CheckpointError, MissingWeightsError
from prophrl_algos._named import is_published, make_env, make_policy, take_weights
from prophrl_algos.vla._load import BUNDLED, LoadOptions

ARGUMENTS = "arguments.json"


def export_run(run: Path, target: Path) -> None:
    """Save the policy of a run, with its best weights, else its last, as `load_policy` reads it.

    Raises:
        MissingWeightsError: The folder is no run, or holds no weights yet.
        CheckpointError: The policy is one of the caller's own, without `save_pretrained`.
    """
    if not (run / ARGUMENTS).is_file():
        raise MissingWeightsError(
            f"{run} holds no policy: give a folder with config.json, as `save_pretrained` writes it, or that of a run "
            "of `prophrl train` or `prophrl sft`"
        )
    said = read_json(run / ARGUMENTS, CheckpointError)
    name, given = str(said["policy"]), said.get("policy_weights")
    weights = None if given is None else Path(given)
    if weights is not None and weights.name in BUNDLED and not weights.exists():
        weights = Path(weights.name)  # recorded as if it were a path
    env: Any = None
    if not is_published(name):  # of which the sizes of an action are those of its env
        options = {} if said["env"] != "Prophet-LIBERO-v0" else {"embodiment": None}
        env = make_env(said["env"], 1, starts="train", world_model=said.get("world_model") or "", options=options)
    policy: Any = make_policy(name, env, weights, options=_options(said))
    take_weights(policy, run)
    if not hasattr(policy, "save_pretrained"):
        raise CheckpointError(f"a {type(policy).__name__} has no save_pretrained: save it in a folder of your own")
    policy.save_pretrained(target)


def _options(said: dict[str, Any]) -> LoadOptions:
    """Return how the run loaded its policy; precision makes no difference to what is saved of trained weights."""
    import torch

    load = dict(said.get("load") or {})
    dtype = getattr(torch, str(load.pop("dtype", "bfloat16")))
    statistics = load.pop("statistics", None)
    known = {name: value for name, value in load.items() if name in LoadOptions.__dataclass_fields__}
    benchmark = "bridge" if "BRIDGE" in str(said["env"]) else "libero"
    return LoadOptions(
        **known, dtype=dtype, statistics=None if statistics is None else Path(statistics), benchmark=benchmark
    )
