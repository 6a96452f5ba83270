"""What a user who passes nonsense reads: run without the type checks of the tests, which would come first."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

INTEGER, FINITE = "must be an integer of at least", "must be a finite number"
CASES = {
    "vector(num_envs=2.0)": f"num_envs {INTEGER} 1, got 2.0",
    "vector(num_envs=True)": f"num_envs {INTEGER} 1, got True",
    "vector(max_episode_steps=2.5)": "max_episode_steps counts chunks and must be an integer",
    "vector(max_episode_steps='3')": "max_episode_steps counts chunks and must be an integer",
    "vector(fps='a')": f"fps {FINITE} above 0, got 'a'",
    "vector(fps=float('inf'))": f"fps {FINITE} above 0, got inf",
    "vector(max_uncertainty=True)": "max_uncertainty must be a number of at least 0, got True",
    "vector(starts=None)": "initial states must be InitialState objects, got NoneType",
    "vector(starts=['a'])": "an initial state must be an InitialState, got str",
    "vector().reset(seed=1.5)": "a seed must be an integer, one per sub-environment, num_envs=3, or None, got 1.5",
    "vector().reset(seed='abc')": "a seed must be an integer, one per sub-environment",
    "vector().reset(seed=True)": "a seed must be an integer, one per sub-environment",
    "vector().reset(seed={1: 2})": "a seed must be an integer, one per sub-environment",
    "vector().reset(seed=[1, 2, 0.5])": "a seed must be an integer of at least 0 or None, got 0.5",
    "vector().reset(seed=b'abc')": "a seed must be an integer, one per sub-environment",
    "vector().reset(seed=bytearray(b'abc'))": "a seed must be an integer, one per sub-environment",
    "vector().reset(seed=np.zeros((3, 1), int))": "a seed must be an integer, one per sub-environment",
    "vector(num_envs=1).reset(options={'task': [True]})": "options['task'] must be an integer or 1 integers",
    "vector().reset(options={'task': [True, 0, 1]})": "options['task'] must be an integer or 3 integers",
    "vector().reset(options={'reset_mask': [[True], [1, 2], 3]})": "options['reset_mask'] must be a bool array",
    "vector().reset(options={'reset_mask': torch.ones(3, dtype=bool, device='meta')})": "options['reset_mask'] must be",
    "vector().reset(options={'queue': [], 1: 2, 'a': 3})": "leave out 1, a",
    "vector(reward_model=lambda *_: 1.0)": "wrap a function in prophet_gym.rewards.FunctionReward",
    "vector(reward_model='success')": "reward_model must be a RewardModel, and 'success' has no when",
    "vector(reward_model=FunctionReward)": "the class FunctionReward has no when",
    "single(reward_model=judge(when='x'))": "when must be 'chunk' or 'end'",
    "single(reward_model=judge(stride=0))": f"stride of the reward model {INTEGER} 1",
    "ProphetEnv('bundled', counting_starts())": "world_model must be a WorldModel, and 'bundled' has no chunk",
    "ProphetVectorEnv('bundled', counting_starts())": "goes to gym.make(id, weights=...)",
    "ProphetVectorEnv(CountingWorldModel, counting_starts())": "and the class CountingWorldModel has no chunk",
    "ProphetVectorEnv(CountingWorldModel(chunk=0), counting_starts())": f"chunk of the world model {INTEGER} 1, got 0",
    "vector(proprioception='no')": "proprioception must be True or False, got 'no'",
    "vector().reset(options=[1])": "options must be a dict or None, got list",
    "vector().reset(options={'task': [[0], [1, 2], [2]]})": "options['task'] must be an integer or 3 integers",
    "vector().reset(options={'starts': InitialState(PICTURE, None)})": "instruction of an initial state must be a text",
    "vector().reset(options={'starts': InitialState([[1]], 'x')})": "the frames of an initial state must be uint8",
    "single().reset(seed=[1])": "a seed must be an integer of at least 0 or None, got [1]",
    "single().reset(seed=1.5)": "a seed must be an integer of at least 0 or None, got 1.5",
    "begun().step(None)": "actions must be real numbers of shape (3, 4, 7), got <class 'NoneType'>",
    "begun().step({'action': 0})": "actions must be real numbers of shape (3, 4, 7), got <class 'dict'>",
    "begun().get_state('a')": f"index {INTEGER} 0, got 'a'",
    "begun().get_state(-1)": f"index {INTEGER} 0, got -1",
    "begun().get_state(1.5)": f"index {INTEGER} 0, got 1.5",
    "begun().get_state(3)": "index must be in 0..2, got 3",
    "begun().set_state(begun().get_state(), indices=0)": "indices must be different numbers in 0..2, got 0",
    "begun().set_state(begun().get_state(), indices=[0.5])": "indices must be different numbers in 0..2, got [0.5]",
    "begun().set_state(begun().get_state(), indices=[False, True])": "numbers in 0..2, got [False, True]",
    "begun().set_state(begun().get_state(), indices=b'ab')": "indices must be different numbers in 0..2, got b'ab'",
    "begun().set_state([None] * 3)": "a snapshot must be the bytes of get_state, got NoneType",
    "begun().set_state(begun().get_state(), indices=['a'])": "indices must be different numbers in 0..2, got ['a']",
    "begun().set_state(None)": "a snapshot must be the bytes of get_state, got NoneType",
    "begun().set_state(begun().get_state(), seed='a')": "a seed must be an integer",
    "StackFrames(2.5)": f"frames of StackFrames {INTEGER} 1, got 2.5",
    "StackFrames(2, '1')": f"stride of StackFrames {INTEGER} 1, got '1'",
    "EmbedInstruction(None)": "table must map instructions to embeddings (d,), got NoneType",
    "EmbedInstruction({'a': 'b'})": "table must map instructions to embeddings (d,) of numbers",
    "Viewed(single(), 3)": "what is seen must be a View, e.g. StackFrames(4), got 3",
    "ViewedVector(vector(), 3)": "what is seen must be a View",
    "OneActionPerChunk(single(), 3, REST)": "numbers must be different numbers in 0..6, got 3",
    "OneActionPerChunk(single(), (0.5,), REST)": "numbers must be different numbers in 0..6, got [0.5]",
    "OneActionPerChunk(single(), 'a', REST)": "numbers must be different numbers in 0..6, got ['a']",
    "OneActionPerStepVector(vector(autoreset_mode='SameStep')).reset(options=[1])": "options must be a dict or None",
    "single(max_uncertainty='a')": "max_uncertainty must be a number of at least 0, got 'a'",
    "ShortenedChunk(model(), 2.5, no_op=None)": f"chunk {INTEGER} 1, got 2.5",
    "FunctionReward(5)": "function must be one of a video and an instruction, got 5",
    "FunctionReward(max, stride=1.5)": f"stride {INTEGER} 1, got 1.5",
    "FunctionReward(max, max_frames=None)": f"max_frames {INTEGER} 1, got None",
    "FunctionReward(max, when='x')": "when must be 'chunk' or 'end', got 'x'",
    "judged('x')": "the function of a reward must return a number or None, got 'x'",
    "judged(float('nan'))": "the function of a reward must return a finite number or None, got nan",
    "VlmReward(None, samples=1.5)": f"samples {INTEGER} 1, got 1.5",
    "VlmReward(None, retries=None)": f"retries {INTEGER} 0, got None",
    "VlmReward(None, shown='a')": f"shown {INTEGER} 1, got 'a'",
    "LikelihoodConfig(stride=1.5)": f"stride {INTEGER} 1, got 1.5",
    "LikelihoodConfig(threshold='a')": "threshold, between 0 and 1, must be a finite number above 0, got 'a'",
    "Patience(timeout='3')": f"timeout {FINITE} above 0, got '3'",
    "Patience(concurrency=float('nan'))": f"concurrency {INTEGER} 1, got nan",
    "Patience(retries=1.5)": f"retries {INTEGER} 0, got 1.5",
    "PrecisionMonitor().update(1, np.ones(2, bool), np.ones(1, bool))": "got 2 rewards and 1 truths",
    "make_reward_model(5)": "a reward is named by a text",
    "make_reward_model(FunctionReward(max))": "goes to ProphetEnv or ProphetVectorEnv as reward_model=",
    "Checkpoint.named().initial_states(counting_starts())": "or the path of initial states, got InitialStates",
    "Checkpoint.named().initial_states('train', tasks=['3'])": "must be task numbers, as in tasks=[0, 3], got ['3']",
}

SCRIPT = """
import json, sys
from types import SimpleNamespace
import numpy as np, torch
from prophet_gym.envs import *
from prophet_gym.errors import *
from prophet_gym.checkpoint import Checkpoint
from prophet_gym.rewards import *
from prophet_gym.rewards import PrecisionMonitor
from prophet_gym.specs import InitialState
from prophet_gym.testing import CountingWorldModel, counting_starts

PICTURE, REST = np.zeros((1, 8, 8, 3), np.uint8), (0,) * 7
model = lambda: CountingWorldModel(chunk=4)
single = lambda **kwargs: ProphetEnv(model(), counting_starts(), **kwargs)
vector = lambda num_envs=3, starts=counting_starts(), **kwargs: ProphetVectorEnv(model(), starts, num_envs, **kwargs)

def judge(**parts):
    return SimpleNamespace(**{"when": "chunk", "stride": 1, "max_frames": 1, "score": max} | parts)

def begun():
    envs = vector()
    envs.reset(seed=0)
    return envs

def judged(result):
    FunctionReward(lambda *_: result).score([torch.zeros(1, 8, 8, 3, dtype=torch.uint8)], ["x"])

def told(call):
    try:
        eval(call)
    except Exception as error:
        return isinstance(error, ValueError), str(error)
    return False, "nothing"

print(json.dumps({call: told(call) for call in json.load(sys.stdin)}))
"""


@pytest.fixture(scope="module")
def told() -> dict[str, tuple[bool, str]]:
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(list(CASES)),
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("call", CASES)
def test_nonsense_is_one_clear_error(call, told):
    is_value_error, message = told[call]
    assert CASES[call] in message
    assert is_value_error
