"""What the test command finds after the suite: what was skipped, processes and shared memory that tests left."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from tvb_lockstep.bridges.transports import shm
from tvb_lockstep.scripts import checks

shared_memory = pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="this system shows no shared memory as files")
CODE = """
import mmap, sys, time
with open(sys.argv[1], "w+b") as file:
    file.write(bytes(4096))
    file.flush()
    segment = mmap.mmap(file.fileno(), 4096)
print("ready", flush=True)
time.sleep(1000)
"""


def test_what_was_skipped_is_said_in_one_line_with_the_reasons(tmp_path: Path) -> None:
    skip = 'pytest.skip("there is\\n no cmake", allow_module_level=True)'
    (tmp_path / "test_module.py").write_text(f"import pytest\n{skip}\n")
    (tmp_path / "test_some.py").write_text(
        "import pytest\n"
        "@pytest.mark.skipif(True, reason='no boost')\n@pytest.mark.parametrize('n', [1, 2])\ndef test_one(n): pass\n"
        "def test_two(): pass\n"
    )
    told = tmp_path / "tests.xml"
    assert checks._skipped(told) == "unknown: pytest came to no end"
    for files, expected in (
        ("test_module.py", "1 (all of a file: there is no cmake)"), ("test_some.py", "2 (no boost)"),
        ("test_some.py::test_two", "nothing"),
    ):  # fmt: skip
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junit-xml={told}", files]
        subprocess.run(command, cwd=tmp_path, capture_output=True)
        assert checks._skipped(told) == expected


@shared_memory
@pytest.mark.parametrize("ours", [True, False])
def test_a_living_process_and_a_segment_are_found_when_the_tests_left_them_and_only_then(ours: bool) -> None:
    mark, name = uuid.uuid4().hex, shm._name(os.urandom(16), 0, "")[1:]
    segment = checks.SHARED_MEMORY / name
    before = checks._ours_in_shared_memory()
    environ = {**os.environ, checks.MARK: mark if ours else "another run"}
    command = [sys.executable, "-c", CODE, str(segment)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environ) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"ready\n"
            left = [line for line in checks._left_behind(mark, before) if name in line]
        finally:
            process.kill()
            process.wait()
            dead = [line for line in checks._left_behind(mark, before) if name in line]
            segment.unlink()
    assert [line.split()[0] for line in left] == (["process", str(segment)] if ours else [])
    assert dead == [f"{segment} was left"]
