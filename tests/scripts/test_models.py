"""`lockstep models`: every model is told, and the rows that it proposes pass `lockstep check`."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tvb_lockstep.scripts.commands import models as command
from tvb_lockstep.scripts.main import main

pytest.importorskip("tvb.simulator.models", reason="there is no tvb-library")
from tvb.simulator.models import ModelsEnum
from tvb_lockstep.tvb_side.models import model_class, model_names

THE_REST = """
name = "example"
duration = 10.0
[spikenet]
simulator = "nest"
regions = [3, 4]
"""


def test_every_model_of_tvb_library_is_listed_and_that_of_this_toolkit(capsys):
    assert main(["models"]) == 0
    blocks = {block.split(":")[0]: block.splitlines() for block in capsys.readouterr().out.split("\n\n")[1:]}
    own = ["ReducedWongWangExcInhRates"]
    assert sorted(blocks) == sorted([*(each.value for each in ModelsEnum if each.name != "BASE_MODEL"), *own])
    for name, (variables, couple, watched, rate, *rest) in blocks.items():
        cls = model_class(name)
        named = [item.split(" [")[0] for item in variables.partition(": ")[2].split(", ")]
        assert named == list(cls.state_variables)
        assert couple.split(maxsplit=1)[1].split(", ") == [cls.state_variables[i] for i in cls.cvar]
        assert watched.split(maxsplit=1)[1].split(", ") == list(cls().variables_of_interest)
        assert "not known" not in rate
        assert bool(rest) == (cls.number_of_modes > 1)
    assert blocks["ZerlautAdaptationFirstOrder"][3].endswith(" E [kHz], I [kHz]: mean rates of the two populations")


def test_one_model_is_told_with_its_parameters_their_defaults_and_units(capsys):
    assert main(["models", "ReducedWongWangExcInhRates"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    for expected in (["a_e", "310.0", "n/C"], ["tau_i", "10.0", "ms"], ["G", "2.0"], ["I_o", "0.382", "nA"]):
        assert expected in lines
    assert main(["models", "ReducedSetFitzHughNagumo"]) == 0
    out = capsys.readouterr().out
    assert "can be coupled      no: 3 modes" in out and "interfaces" not in out


def test_an_unknown_model_is_refused_with_those_that_are_close(capsys):
    assert main(["models", "WilsonCowen"]) == 2
    said = capsys.readouterr().err
    assert "There is no model 'WilsonCowen'. Did you mean WilsonCowan? There is CoombesByrne, " in said


@pytest.mark.parametrize("name", [name for name in model_names() if not name.startswith("ReducedSet")])
def test_the_rows_proposed_for_a_model_pass_the_check(name, tmp_path, capsys):
    (tmp_path / "experiment.toml").write_text(THE_REST + command.example(name, model_class(name)))
    status = main(["check", str(tmp_path), "--tvb-only"])
    said = capsys.readouterr()
    assert status == 0, said.err
    assert f"{name}, 68 regions" in said.out


def test_a_model_is_told_in_an_environment_without_the_plotters(tmp_path):
    script = (
        "import sys\n"
        "from tvb_lockstep.scripts.main import main\n"
        "assert main(['models', 'Linear']) == 0\n"
        "assert 'tvb.simulator.lab' not in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("Linear\nstate variables     x\n")
