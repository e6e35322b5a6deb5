"""tvb-contrib's own suite for co-simulation passes in the environment where this project is installed."""

import importlib.util
import os
import subprocess
import sys

import pytest

SUITE = "tvb.contrib.tests.cosimulation"


@pytest.mark.skipif(importlib.util.find_spec("tvb.contrib") is None, reason="tvb-contrib is not installed")
def test_tvb_contribs_cosimulation_suite_passes_beside_it(tmp_path):
    # imported first, so that it shows when something of ours changes TVB for others
    (tmp_path / "ours_first.py").write_text("import tvb_lockstep.tvb_side.simulation\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "ours_first", "--pyargs", SUITE]
    command += ["-k", "not complex and not multiple"]  # these take two thirds of the time
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False, env=environment)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
