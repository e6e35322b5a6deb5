"""A run that ended early, in whatever way, and what has to be started again so that it goes on."""

from __future__ import annotations

import json
from pathlib import Path

from . import results
from .errors import ExperimentError, RunDirectoryError
from .experiment import Environments, Experiment, validate
from .peers import alive, pages, read_summary
from .run_dir import read_run, refuse_not_ours, run_lock, unusable


class Unfinished:
    """What is left to do of a run.

    alive: its programs that still run. missing: those to be started again: they did not come to their end, or what they
    sent last was not recorded. Without either, only the results are left to be made; `complete` when these are there.
    Raises RunDirectoryError for what is not a run, or cannot be resumed.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir.absolute()
        run = read_run(run_dir) if run_dir.is_dir() else None
        if run is None:
            raise RunDirectoryError(f"{run_dir} is not a run directory, so that there is nothing to resume.")
        refuse_not_ours(run_dir)
        self._run = run
        if "replay_of" in run:
            raise RunDirectoryError(f"{run_dir} is a replay of {run['replay_of']}. Make the replay again instead.")
        try:
            with run_lock(run_dir):  # between two states of the run there may be nothing of either
                self._read()
        except OSError as error:
            raise unusable(run_dir, error) from None

    def _read(self) -> None:
        run_dir = self.run_dir
        self._pages = pages(run_dir)
        try:
            content = json.loads((run_dir / "experiment.json").read_text())
        except (OSError, ValueError) as error:
            raise RunDirectoryError(
                f"{run_dir / 'experiment.json'} cannot be read: {error}. Without it the run cannot be resumed; start a "
                f"new one."
            ) from None
        self.experiment = validate(content, f"the experiment of {run_dir}")
        self.begun = (run_dir / "contract.json").exists()
        if self.begun and not self.experiment.exchange.record:
            raise RunDirectoryError(
                f"{run_dir} was run without a recording (exchange.record = false), and a run is resumed from its "
                f"recording. Start a new one."
            )
        self.alive = [name for name in self.experiment.peers if alive(run_dir, name)]
        ended = self._ended() if self.begun else set()
        self.missing = [name for name in self.experiment.peers if name not in self.alive and name not in ended]

    @property
    def complete(self) -> bool:
        """Whether the run has come to its end and its results are there."""
        if self.alive or self.missing or not all((self.run_dir / name).exists() for name in results.RESULTS):
            return False
        try:
            return bool(json.loads((self.run_dir / "provenance.json").read_text())["complete"])
        except (ValueError, KeyError):
            return False

    def _ended(self) -> set[str]:
        """The programs that finished and of whose output nothing was lost."""
        contract = results.read_contract(self.run_dir)
        full = set()
        for log in results.logs(self.run_dir, contract):
            if log.path.exists():
                with log.open() as index:
                    if len(index) == contract.grid.n_windows:
                        full.add(log.name)
        ended = set()
        for name in self.experiment.peers:
            if (read_summary(self.run_dir, name) or {}).get("state") != "finished":
                continue
            stage, made = ("transformed", contract.channels) if name == "bridge" else ("raw", contract.of(name)[1])
            needed = {f"{channel.name}.{stage}" for channel in made}
            if name == "tvb":
                needed |= {f"tvb.monitor{i}" for i in range(len(contract.tvb.get("monitors", [])))}
            elif name != "bridge":
                needed.add(f"{name}.spikes")
            if needed <= full:
                ended.add(name)
        return ended

    def experiment_of(self, name: str) -> Experiment:
        """The experiment with the environments that program `name` was started with."""
        environments = (self._pages.get(name) or {}).get("environments")
        if environments is None:
            return self.experiment
        return self.experiment.model_copy(update={"environments": Environments(**environments)})

    def source_of(self, name: str) -> Path:
        """The experiment's file that program `name` was started with, or when it never came, who began the run.

        Raises ExperimentError when a script of its own joined the run, or the file is gone.
        """
        file = self._pages.get(name, self._run).get("experiment_file")
        if file is not None:
            if Path(file).is_file():
                return Path(file)
            raise ExperimentError(f"The experiment of {self.run_dir}, {file}, is no longer there. Put it back.")
        raise ExperimentError(
            f"{self.run_dir} does not say which experiment its {name} was started with: a script of its own joined the "
            f"run. Start that script again, with resumed=True in its join(…)."
        )
