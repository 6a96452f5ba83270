"""Register the Gymnasium ids: learned simulators (`Prophet-*`) and real ones (`LIBERO-*`) under one interface.

The version in `-vN` rises when the same seed and actions would give another result.
"""

import gymnasium as gym

SUITES = {
    "libero_object": ("Object", 30),
    "libero_spatial": ("Spatial", 30),
    "libero_goal": ("Goal", 38),
    "libero_10": ("10", 65),
}
"""LIBERO's suites: their part of an id, and the chunks of 8 actions in one of their episodes."""
PERTURBED = {"Object": "object", "Swap": "swap", "Language": "lan", "Task": "task"}
"""LIBERO-PRO's perturbations of each suite: their part of an id, and the end of the suites' names."""
REMOTE = "RemoteProphet-v0"
"""The id of a learned simulator on a server, for `gym.make_vec` alone: `url` is an argument, or in `$PROPHET_URL`."""
# Our default: SimplerEnv gives its longest BRIDGE task 120 actions, 24 chunks of 5, as the paper's policies act.
BRIDGE_STEPS = 24
# Our default: the weights of any robot may be given, and none says how long its episodes last.
ANY_STEPS = 30


def register_ids() -> None:
    """Register every id that is not registered yet; entry points are names, so that nothing heavy is imported."""
    learned = ("prophet_gym.factory:make_env", "prophet_gym.factory:make_vector_env")
    simulator = ("prophet_gym.sims.env:make_env", "prophet_gym.sims.env:make_vec_env")
    ids = [("Prophet-LIBERO-v0", learned, SUITES["libero_object"][1], {})]
    ids += [("Prophet-v0", learned, ANY_STEPS, {"embodiment": None})]
    ids += [("Prophet-BRIDGE-v0", learned, BRIDGE_STEPS, {"embodiment": "bridge"})]
    for suite, (name, steps) in SUITES.items():
        ids += [(f"Prophet-LIBERO-{name}-v0", learned, steps, {"suite": suite})]
        ids += [(f"LIBERO-{name}-v0", simulator, steps, {"suite": suite})]
        for kind, end in PERTURBED.items():
            # No other split exists there.
            kwargs = {"suite": f"{suite}_{end}", "starts": "official"}
            ids += [(f"LIBERO-PRO-{name}-{kind}-v0", simulator, steps, kwargs)]
    for id_, (single, vector), steps, kwargs in ids:
        if id_ not in gym.registry:
            # Gymnasium 1.4's PassiveEnvChecker breaks every later step where the first reset was refused.
            gym.register(
                id_, single, vector_entry_point=vector, max_episode_steps=steps, disable_env_checker=True, kwargs=kwargs
            )
    if REMOTE not in gym.registry:
        gym.register(REMOTE, vector_entry_point="prophet_gym.serve:RemoteProphetVectorEnv", max_episode_steps=30)
