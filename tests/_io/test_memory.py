"""What a process that computes on a CPU is set to: memory that is used again, no spinning threads."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from prophet_gym._io.processor import reuse_memory
torch.set_num_threads(1)
if sys.argv[1] == "reuse" and not reuse_memory():
    print("impossible")
    sys.exit()
block = torch.zeros(10_000_000)  # more than the C library keeps by itself, whatever it has learnt
def work():
    for _ in range(4):
        several = [block + 1 for _ in range(4)]
        del several
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def python(code, *arguments, **environment):
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, env=environment
    )
    return ended.stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="page faults are counted on Linux")
def test_memory_is_used_again():
    again = python(FAULTS, "reuse")
    if again == "impossible":
        pytest.skip("another C library than GNU's")
    assert int(again) * 5 < int(python(FAULTS, "give back"))


@pytest.mark.parametrize(("given", "used"), [({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active")])
def test_threads_wait_without_spinning_unless_the_user_chose(given, used):
    code = "import os, sys; import prophet_gym; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    assert python(code, **given) == f"{used} False"
