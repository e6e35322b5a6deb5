"""What an installation puts where; built from a copy of the tree, as building writes into the source folder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
GENERATED = shutil.ignore_patterns(".git", ".envs", "runs", "build", "dist", "*.egg-info", "__pycache__", ".*_cache")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packaging")
    shutil.copytree(ROOT, folder / "copy", ignore=GENERATED, symlinks=True)
    command = [sys.executable, "-I", "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder / "site")]
    result = subprocess.run([*command, str(folder / "copy")], capture_output=True, text=True, cwd=folder)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder / "site"


def test_an_installation_puts_nothing_but_tvb_lockstep_at_the_top_level(installed: Path) -> None:
    names = {path.name for path in installed.iterdir()} - {"bin"}  # pip --target puts the command beside the packages
    (info,) = [name for name in names if name.endswith(".dist-info")]
    assert info.startswith("tvb_lockstep-")
    assert names == {"tvb_lockstep", info}


def test_every_module_and_every_file_of_the_experiments_is_installed(installed: Path) -> None:
    for folder in ("bridges", "transformers", "tvb_side", "spikenet_side", "scripts"):
        wanted = [*(ROOT / folder).rglob("*.py"), *(ROOT / folder).glob("experiments/*/*.*")]
        for path in (path.relative_to(ROOT) for path in wanted if "__pycache__" not in path.parts):
            assert (installed / "tvb_lockstep" / path).is_file(), f"{path} is not installed: see packages in pyproject"
    assert (installed / "tvb_lockstep/scripts/experiments/wilson_cowan/experiment.toml").is_file()


def test_an_installed_toolkit_knows_what_its_environments_need(installed: Path, tmp_path: Path) -> None:
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1])\n"
        "from tvb_lockstep.scripts import environments as e\n"
        "print(json.dumps([e.in_checkout(), str(e.folder()), *e.requirement_sets()]))\n"
    )
    environ = {"XDG_DATA_HOME": str(tmp_path), "HOME": str(tmp_path)}
    command = [sys.executable, "-I", "-c", code, str(installed)]
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environ).stdout
    in_checkout, folder, own, sets = json.loads(output)
    assert not in_checkout
    assert folder == str(tmp_path / "tvb-lockstep" / "envs")
    assert own == PYPROJECT["project"]["dependencies"]
    written = PYPROJECT["project"]["optional-dependencies"]  # pip's metadata order what a requirement says
    assert {name: [*map(Requirement, each)] for name, each in sets.items()} == {
        name: [*map(Requirement, each)] for name, each in written.items()
    }
