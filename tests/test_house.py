"""The house rules of the design: who may import whom, where simulators are, what lies at the top level."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "transformers": set(),
    "bridges": {"transformers"},
    "tvb_side": {"bridges"},
    "spikenet_side": {"bridges"},
    "scripts": {"bridges", "transformers", "tvb_side", "spikenet_side"},
}
# Each simulator, and the only folder that imports it; experiments are scripts of users, which build its networks.
SIMULATORS = {
    "tvb": "tvb_side",
    "tvb_data": "tvb_side",
    "nest": "spikenet_side/nest",
    "ANNarchy": "spikenet_side/annarchy",
    "netpyne": "spikenet_side/netpyne",
    "neuron": "spikenet_side/netpyne",
}
CODE_FROM_DATA = {"pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
TOP_LEVEL = {"pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", ".gitignore", ".ci", "tests", *MAY_IMPORT}


def sources(folder: str) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted((ROOT / folder).rglob("*.py")):
        yield path.relative_to(ROOT), ast.parse(path.read_text(), str(path))


def imports(path: Path, tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Every module that a file imports, anywhere in it, by its absolute name with the imported names behind it."""
    package = ["tvb_lockstep", *path.parts[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = [*base, *(node.module.split(".") if node.module else [])]
            yield from ((".".join([*module, alias.name]), node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module", "__import__",
        ):  # fmt: skip
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value, node.lineno


def test_the_check_sees_relative_hidden_and_dynamic_imports() -> None:
    code = "def f():\n from ...tvb_side import plan\n import nest.ll_api\n importlib.import_module('tvb.basic')\n"
    found = {name for name, _ in imports(Path("spikenet_side/nest/x.py"), ast.parse(code))}
    assert found == {"tvb_lockstep.tvb_side.plan", "nest.ll_api", "tvb.basic"}


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_each_folder_imports_only_those_that_the_arrows_allow(folder: str) -> None:
    wrong = []
    for path, tree in sources(folder):
        for name, line in imports(path, tree):
            parts = name.split(".")
            if parts[0] == "tvb_lockstep" and parts[1] != folder and parts[1] not in MAY_IMPORT[folder]:
                wrong.append(f"{path}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_simulators_are_imported_only_in_their_own_folder(folder: str) -> None:
    wrong = []
    for path, tree in sources(folder):
        if path.parts[:2] == ("scripts", "experiments"):
            continue
        for name, line in imports(path, tree):
            home = SIMULATORS.get(name.split(".")[0])
            if home is not None and not path.is_relative_to(home):
                wrong.append(f"{path}:{line} imports {name}, which only {home} may")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("folder", ["bridges", "transformers", "tvb_side", "spikenet_side"])
def test_nothing_that_makes_code_of_data_is_used_between_the_programs(folder: str) -> None:
    wrong = []
    for path, tree in sources(folder):
        modules = [(name.split(".")[0], line) for name, line in imports(path, tree)]
        wrong += [f"{path}:{line}: {name}" for name, line in modules if name in CODE_FROM_DATA]
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                if isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec", "compile"):
                    wrong.append(f"{path}:{node.lineno}: {node.func.id}()")
                wrong += [
                    f"{path}:{node.lineno}: allow_pickle"
                    for keyword in node.keywords
                    if keyword.arg == "allow_pickle" and getattr(keyword.value, "value", None) is not False
                ]
    assert not wrong, "\n".join(wrong)


def test_the_top_level_holds_only_what_the_owner_listed_and_customary_files() -> None:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode == 0 and listing.stdout:
        names = {name.split("/")[0] for name in listing.stdout.split("\0") if name}
    else:  # a copy without git: generated and hidden folders set aside
        made = {"build", "dist", "runs", "tvb_lockstep.egg-info"}
        names = {path.name for path in ROOT.iterdir() if path.name not in made and not path.name.startswith(".")}
    assert not names - TOP_LEVEL


@pytest.mark.parametrize("folder", [*MAY_IMPORT, "tests"])
def test_each_folder_says_in_a_readme_what_lives_there(folder: str) -> None:
    assert (ROOT / folder / "README.md").read_text().startswith("# ")
