"""What is imported of diffusers is light, and leaves diffusers as everyone else expects it."""

import subprocess
import sys

import pytest

from prophet_gym.checkpoint import bundled_checkpoints

STEP = """
import sys
import gymnasium as gym, prophet_gym
env = gym.make("Prophet-LIBERO-v0")
env.reset(seed=0)
env.step(env.action_space.sample())
"""


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not bundled_checkpoints().get("libero_small"), reason="no checkpoint is bundled")
def test_a_first_step_imports_neither_the_compiler_nor_adapters_nor_other_models():
    heavy = ("torch._dynamo", "peft", "scipy.stats", "diffusers.loaders", "diffusers.models.unets", "diffusers.hooks")
    assert run(f"{STEP}\nprint([name for name in {heavy!r} if name in sys.modules])") == "[]\n"


def test_diffusers_is_whole_afterwards():
    run("""
from prophet_gym.prophet import _diffusers as ours
from prophet_gym.prophet._presets import tiny_vae
import diffusers, torch
from diffusers import AutoencoderKLWan, CosmosTransformer3DModel
from diffusers.loaders import FromOriginalModelMixin, PeftAdapterMixin
from diffusers.utils.torch_utils import maybe_allow_in_graph
assert issubclass(CosmosTransformer3DModel, FromOriginalModelMixin)
assert issubclass(CosmosTransformer3DModel, PeftAdapterMixin)
assert issubclass(AutoencoderKLWan, FromOriginalModelMixin)
assert issubclass(AutoencoderKLWan, ours.ModelMixin) and diffusers.ModelMixin is ours.ModelMixin
class Decorated: pass
assert maybe_allow_in_graph(Decorated) is Decorated
assert id(Decorated) in torch._dynamo.trace_rules._allowed_callable_ids.function_ids
""")


def test_imported_after_diffusers_it_takes_what_is_there():
    run("""
from diffusers.models.transformers import transformer_cosmos
from prophet_gym.prophet import _diffusers as ours
assert ours.CosmosTransformerBlock is transformer_cosmos.CosmosTransformerBlock
""")


def test_group_offloading_still_says_where_a_model_computes():
    run("""
import torch
from prophet_gym.prophet._presets import tiny_vae
model = tiny_vae()
assert model.device == torch.device("cpu")
assert model.to(torch.float64).dtype == torch.float64
model.enable_group_offload(torch.device("cpu"), offload_device=torch.device("cpu"), offload_type="leaf_level")
assert model.device == torch.device("cpu")
try:
    model.to("meta")
except ValueError as error:
    assert "group offloading" in str(error).lower()
""")
