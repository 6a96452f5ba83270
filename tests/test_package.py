"""What is installed: dependencies, commands, and how much the bundled checkpoint weighs."""

import re
import subprocess
import sys
from importlib import import_module
from importlib.metadata import entry_points, requires, version
from pathlib import Path

import pytest

import prophet_gym

CORE = {
    "torch", "diffusers", "gymnasium", "numpy", "safetensors", "huggingface-hub", "imageio", "imageio-ffmpeg",
    "opencv-python-headless", "pillow", "jaxtyping", "tyro", "tqdm", "filelock", "accelerate", "scipy",
}  # fmt: skip
CHECKPOINT = Path(prophet_gym.__file__).parent / "checkpoints" / "libero_small"


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower() for requirement in requirements}


def test_the_core_stays_light():
    assert names([r for r in requires("prophet-gym") or [] if "extra ==" not in r]) == CORE


def test_no_extra_asks_for_torchvision():
    assert "torchvision" not in names(requires("prophet-gym") or [])


def test_both_commands_are_installed():
    scripts = {script.name: script for script in entry_points(group="console_scripts")}
    assert callable(scripts["prophet"].load())
    assert callable(scripts["prophrl"].load())


@pytest.mark.parametrize("package", ["prophet_gym", "prophrl_algos"])
def test_a_package_tells_its_version_and_that_it_is_typed(package):
    module = import_module(package)
    assert module.__version__ == version("prophet-gym")
    assert "__version__" in dir(module)
    assert (Path(module.__file__).parent / "py.typed").is_file()
    with pytest.raises(AttributeError, match="no_such_name"):
        module.no_such_name  # noqa: B018


@pytest.mark.parametrize(("module", "name"), [("prophrl_algos", "load_policy")])
def test_what_a_lazy_module_offers_can_be_completed(module, name):
    code = (
        f"import sys, {module} as m; print({name!r} in dir(m), set(m.__all__) <= set(dir(m)), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "False"]


@pytest.mark.parametrize(("package", "program"), [("prophet_gym", "prophet"), ("prophrl_algos", "prophrl")])
def test_a_program_is_its_package_too(package, program):
    done = subprocess.run([sys.executable, "-m", package], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"usage: {program} COMMAND")


@pytest.mark.skipif(not CHECKPOINT.is_dir(), reason="no checkpoint is bundled")
@pytest.mark.parametrize(("pattern", "megabytes"), [("**/*.safetensors", 20), ("starts/**/*", 6), ("demo/**/*", 1.5)])
def test_the_bundled_checkpoint_is_small(pattern, megabytes):
    files = [path for path in CHECKPOINT.glob(pattern) if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= megabytes * 1e6
    assert all(path.stat().st_size < 16e6 for path in files)
