"""`gen3d sweep`: many trainings, one table and one picture of what mattered."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import BeforeValidator, Field, model_validator

from gen3d.core import artefact
from gen3d.core.artefact import RECORD, write_atomic
from gen3d.core.config import Folders, execution
from gen3d.core.errors import Interrupted, UserError
from gen3d.core.progress import duration, say, warn
from gen3d.core.work import FolderVerb, Inputs
from gen3d.sweep import results as results
from gen3d.sweep import search as searching
from gen3d.sweep.objective import measure
from gen3d.sweep.run import MedianRule, interrupted, work_off
from gen3d.sweep.settings import (
    Objective,
    Prune,
    Range,
    Slurm,
    Step,
    Vary,
    flat_vary,
    require_step,
)
from gen3d.sweep.slurm import offer
from gen3d.sweep.steps import check_trials, commands_of, verb_of
from gen3d.sweep.trial import DONE, FAILED, PRUNED, STOPPED, Command, Trial, Work, child_environment, read_trials

SETTINGS = "sweep.yaml"
TASK_PATIENCE_S = 60.0


class Sweep(FolderVerb):
    """Run the same verbs many times with other settings, and say which settings were best.

    A trial is a list of steps, each a `gen3d` verb in a process and a folder of its own: out/trials/0003/train. What
    fails is a row of the table with its sentence; what was stopped goes on when the same command is run again. More
    trials may be asked for later, and `objective` may be changed: it is read from the finished trials' folders.
    """

    reopens: ClassVar[bool] = True  # for more trials, another objective, failed trials again

    steps: dict[str, Step] = Field(description="the verbs of one trial, in order, by name")
    vary: Annotated[Vary, BeforeValidator(flat_vary)] = Field(
        description="{step.key: [values]}, or {step.key: {low, high, log}} for a random or TPE search"
    )
    prepared: Folders | None = Field(
        None, description="prepared folders, for every step that reads some and names none in its settings"
    )
    search: Literal["grid", "random", "tpe"] = Field(
        "grid",
        description="all combinations; random, spread evenly; or Optuna's TPE, which learns from the trials so far",
    )
    trials: int = execution(20, "trials of a random or TPE search; a grid has its own number", gt=0)
    seed: int = Field(0, ge=0, description="seed of a random or TPE search")
    objective: Objective = execution(Objective(), "the figure that is best")
    prune: Prune | None = Field(None, description="when to give up a training that does badly; none: never")
    parallel: int = execution(1, "trials at once on this machine", ge=1)
    gpus: int = execution(0, "GPUs shared out among them, one each; 0: every trial sees all", ge=0)
    retry_failed: bool = execution(False, "try failed trials again")
    discard: tuple[str, ...] = execution(
        (), "what to delete of a trial that has ended, such as reconstruct/volumes; figures that `objective` reads stay"
    )
    where: Literal["local", "slurm"] = execution("local", "run here, or write an array of SLURM tasks and collect")
    slurm: Slurm = execution(Slurm(), "the array of SLURM tasks")
    task: int | None = execution(None, "work on this trial alone (what a task of the array does)", ge=0)

    @model_validator(mode="after")
    def _possible(self) -> Sweep:
        if not self.steps:
            raise ValueError("steps is empty: a trial is at least one verb, such as steps: {train: {file: ...}}")
        if not self.vary:
            raise ValueError("vary is empty: name at least one key, such as vary: {train.model.beta: [0.3, 1, 3]}")
        ranges = [key for key, values in self.vary.items() if isinstance(values, Range)]
        if self.search == "grid" and ranges:
            raise ValueError(
                f"search=grid needs lists, but {', '.join(ranges)} is a range; list its values, or use search=random or tpe"
            )
        if odd := [path for path in self.discard if path.startswith("/") or ".." in path or path.count("/") < 1]:
            raise ValueError(f"discard: {odd[0]} is not STEP/PATH inside a trial's folder, such as reconstruct/volumes")
        return self

    def plan(self) -> list[str]:
        """The trials."""
        points = self._check()
        lines = [
            f"each trial: {', '.join(f'{name} (gen3d {verb_of(name, step)})' for name, step in self.steps.items())}"
        ]
        lines.append(f"objective: {self.objective.direction} {self.objective.words()} of {self._judged_step()}")
        if self.search == "grid":
            lines += [f"trial {number}: {results.values_in_words(values)}" for number, values in enumerate(points)]
        else:
            lines.append(f"{self.trials} trials by {self.search} search:")
            lines += [f"  {key}: {_space(values)}" for key, values in self.vary.items()]
        return [*lines, f"writes {self.out}"]

    def run(self) -> Path:
        """Run, or have SLURM run, every trial that has not ended; then write the table, the picture and the best settings."""
        return super().run() if self.task is None else self._run_task(self.task)

    def open_inputs(self) -> list[Any]:
        """The trials, all of whose settings are valid."""
        return self._check()

    def write(self, work: artefact.Work, opened: list[Any]) -> dict[str, Any] | None:
        """Work off what is left to do and conclude; None while SLURM has it."""
        write_atomic(self.out / SETTINGS, yaml.safe_dump(self._plain(), sort_keys=False))
        trials = read_trials(self._trials_folder)
        self._judge(trials)
        self._discard(trials)
        pending = self._pending(trials)
        if self.where == "slurm" and pending:
            self._write(trials)
            offer(self.slurm, self.out, self.out / SETTINGS, pending, self.retry_failed)
            return None
        self._run_here(trials, pending)
        self._conclude(trials)
        return self._summary(trials)

    @property
    def _trials_folder(self) -> Path:
        return self.out / "trials"

    @property
    def num_trials(self) -> int:
        """Trials in all."""
        return len(searching.grid(self.vary)) if self.search == "grid" else self.trials

    def reads(self) -> Inputs:
        """The prepared folders."""
        return {"prepared": list(self.prepared)} if self.prepared else {}

    def _judged_step(self) -> str:
        return self.objective.step or list(self.steps)[-1]

    def _plain(self) -> dict[str, Any]:
        """All settings, for the tasks of an array; they say themselves which trial they work on."""
        plain = self.model_dump(mode="json", by_alias=True)
        return {key: value for key, value in plain.items() if key not in ("task", "retry_failed")}

    def _check(self) -> list[dict[str, Any]]:
        """Refuse what cannot work before anything is started; returns the points that were checked."""
        require_step(self._judged_step(), self.steps, "objective.step")
        if self.prune is not None:
            require_step(self.prune.step, self.steps, "prune.step")
            searching.require_optuna("prune")
        if self.search == "tpe":
            searching.require_optuna("search=tpe")
        points = searching.grid(self.vary) if self.search == "grid" else searching.corners(self.vary)
        check_trials(self.steps, self.prepared or (), points, self._trials_folder / "0000")
        if self.objective.file.endswith(".jsonl") or self.objective.where.get("role") == "train":
            warn("the objective is measured on the people that were learned from: it rewards learning them by heart.")
        return points

    def _commands(self, trial: Trial) -> list[Command]:
        return commands_of(self.steps, self.prepared or (), trial.values, trial.folder)

    def _pending(self, trials: dict[int, Trial]) -> list[int]:
        """Numbers of the trials with something left to do."""
        again = [n for n, trial in trials.items() if trial.status == FAILED and self.retry_failed]
        return [n for n in range(self.num_trials) if n not in trials or not trials[n].ended or n in again]

    def _work(self, number: int, slot: int, trials: dict[int, Trial]) -> Work:
        """The work on a trial: with the values it was begun with, or else with new ones."""
        trial = trials.get(number)
        if trial is None:
            folder = self._trials_folder / f"{number:04d}"
            if self.search == "grid":
                values = searching.grid(self.vary)[number]
            elif self.search == "random":
                values = searching.spread(self.vary, number, self.seed)
            else:
                values = searching.ask(self.vary, list(trials.values()), number, self.seed, self.objective.sign)
            trial = trials[number] = Trial(number, folder, values)
        environment = child_environment(1 if self.task is not None else self.parallel, slot, self.gpus)
        rule = MedianRule(self.prune, self._trials_folder) if self.prune is not None else None
        return Work(trial, self._commands(trial), environment, rule)

    def _run_here(self, trials: dict[int, Trial], pending: list[int]) -> None:
        """Work off the pending trials, a line for each, and the table after each."""
        left = len(pending)

        def ended(trial: Trial) -> None:
            nonlocal left
            left -= 1
            self._judge(trials)
            self._discard(trials)
            self._table(trials)
            say(f"{len(pending) - left} of {len(pending)}: {results.line(trial, trials.values(), self.objective)}")
            if left and trial.ended:
                usual = fmean(each.seconds for each in trials.values() if each.ended)
                say(f"  about {duration(usual * left / min(self.parallel, left))} left")

        try:
            work_off(pending, lambda number, slot: self._work(number, slot, trials), ended, self.parallel)
        except UserError:
            self._write(trials)
            raise

    def _run_task(self, number: int) -> Path:
        """Work on one trial, as one task of an array; others may be at theirs on other nodes."""
        if not (self.out / RECORD).is_file():
            raise UserError(
                f"{self.out}: task= is for the tasks of a sweep; run the sweep itself first (without task=)."
            )
        if number >= self.num_trials:
            raise UserError(f"task={number}: the sweep has {self.num_trials} trials, 0 to {self.num_trials - 1}.")
        trials = read_trials(self._trials_folder)
        self._judge(trials)
        if number not in self._pending(trials):
            say(f"trial {number}: {trials[number].status} before, nothing to do.")
            return self.out

        def ended(trial: Trial) -> None:
            self._judge(trials)
            self._discard({number: trial})
            say(results.line(trial, trials.values(), self.objective))

        work_off([number], lambda n, slot: self._work(n, slot, trials), ended, 1, TASK_PATIENCE_S)
        if trials[number].status == STOPPED:
            raise interrupted(signal.SIGTERM)
        return self.out

    def _judge(self, trials: dict[int, Trial]) -> None:
        """Read the objective of every finished trial; one whose objective cannot be read has failed.

        Raises:
            UserError: none can be read, so the sweep asks for a figure that its verbs do not write.
        """
        for trial in trials.values():
            if trial.status == DONE and trial.objective is None:
                try:
                    trial.objective = measure(self.objective, trial.folder / self._judged_step())
                except UserError as error:
                    trial.status, trial.error = FAILED, str(error)
        unreadable = [trial.error for trial in trials.values() if trial.error.startswith("objective")]
        if unreadable and not any(trial.objective is not None for trial in trials.values()):
            raise UserError(
                f"{unreadable[0]} What was trained is kept: mend `objective` and run the same command again."
            )

    def _discard(self, trials: dict[int, Trial]) -> None:
        """Delete what the user said is not needed of trials that were measured or given up."""
        for trial in trials.values():
            if trial.objective is not None or trial.status == PRUNED:
                for path in self.discard:
                    shutil.rmtree(trial.folder / path, ignore_errors=True)

    def _table(self, trials: dict[int, Trial]) -> None:
        results.write_table(self.out / "trials.tsv", trials.values(), list(self.vary))

    def _write(self, trials: dict[int, Trial]) -> None:
        """The table, and the picture and the best settings as soon as a trial has its objective."""
        self._table(trials)
        best = results.best_of(trials.values(), self.objective)
        if best is not None:
            from gen3d.sweep.picture import draw

            draw(self.out / "sweep.png", list(trials.values()), self.vary, self.objective, self.search)
            results.write_best(self.out / "best.yaml", best, self._best_command(best), self.objective)

    def _best_command(self, best: Trial) -> Command:
        """The training of the best trial, or its first step where it trains nothing."""
        commands = self._commands(best)
        return next((command for command in commands if command.verb == "train"), commands[0])

    def _conclude(self, trials: dict[int, Trial]) -> None:
        """Write everything and say what was found.

        Raises:
            Interrupted: a trial was stopped from outside.
            UserError: no trial worked.
        """
        self._write(trials)
        stopped = [str(trial.number) for trial in trials.values() if not trial.ended]
        if stopped:
            raise Interrupted(f"trial {', '.join(stopped)} was stopped by somebody else; the same command goes on.")
        best = results.best_of(trials.values(), self.objective)
        if best is None:
            first = next((trial.error for trial in trials.values() if trial.error), "all were pruned")
            raise UserError(f"none of {len(trials)} trials worked; the first one says: {first}")
        for sentence in results.last_words(self.out, best, self._best_command(best), trials.values(), self.objective):
            say(sentence)

    def _summary(self, trials: dict[int, Trial]) -> dict[str, Any]:
        best = results.best_of(trials.values(), self.objective)
        assert best is not None
        return {
            "trials": results.counts(trials.values()),
            "best": {"trial": best.number, "values": best.values, "objective": best.objective},
            "objective": f"{self.objective.direction} {self.objective.words()} of {self._judged_step()}",
        }


def _space(values: Any) -> str:
    if not isinstance(values, Range):
        return ", ".join(searching.label(value) for value in values)
    kind = "whole numbers" if values.whole else "numbers"
    return f"{kind} from {values.low} to {values.high}{', evenly in the logarithm' if values.log else ''}"
