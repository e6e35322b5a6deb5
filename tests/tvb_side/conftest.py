"""Makes the plain runs importable by the tests of this folder, and TVB's random initial histories repeatable."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def seeded():
    np.random.seed(11)
