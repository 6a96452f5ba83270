from pathlib import Path

import numpy as np
import pytest

GOLDEN = Path(__file__).parents[1] / "data" / "actions.npz"


@pytest.fixture(scope="session")
def golden():
    """Outputs of the original implementation."""
    with np.load(GOLDEN, allow_pickle=False) as arrays:
        return dict(arrays)
