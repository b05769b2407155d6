"""`gen3d sweep`: train with many settings, and find the best ones and those that matter."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar

import yaml

from gen3d.core.artefact import RECORD, write_atomic
from gen3d.core.errors import Interrupted, UserError
from gen3d.core.output_folder import Work
from gen3d.core.progress import duration, say, warn
from gen3d.core.work import Inputs
from gen3d.sweep import results
from gen3d.sweep.settings import STOPPED, Command, Range, SweepSettings, Trial, described, label
from gen3d.sweep.trial import interrupted, work_off, work_on

if TYPE_CHECKING:  # imported where it is used: a sweep's settings and its plan need no Optuna
    from gen3d.sweep.search import SweepStudy

SETTINGS = "sweep.yaml"


class Sweep(SweepSettings):
    """Run the same verbs many times with other settings, and report which settings were best.

    A trial is a list of steps. Each step is a `gen3d` verb with its own process and folder: out/trials/0003/train. A trial
    that fails is a row of the table with its error; a trial that was stopped goes on when the same command is run again.
    `trials` may be raised and `objective` changed later: it is read from the folders of the finished trials.
    """

    reopens: ClassVar[bool] = True  # for more trials, another objective, failed trials again

    def plan(self) -> list[str]:
        """The trials."""
        self._check()
        steps = ", ".join(f"{name} (gen3d {step.verb or name})" for name, step in self.steps.items())
        lines = [f"each trial: {steps}", f"objective: {self._objective_in_words()}"]
        if self.search == "grid":
            points = product(*(values for values in self.vary.values() if not isinstance(values, Range)))
            lines += [f"trial {n}: {described(dict(zip(self.vary, point)))}" for n, point in enumerate(points)]
        else:
            lines.append(f"{self.trials} trials by {self.search} search:")
            for key, values in self.vary.items():
                listed = str(values) if isinstance(values, Range) else ", ".join(label(value) for value in values)
                lines.append(f"  {key}: {listed}")
        return [*lines, f"writes {self.out}"]

    def run(self) -> Path:
        """Run, or have SLURM run, every trial that has not ended; then write the table, the picture and the best settings."""
        return super().run() if self.task is None else self._run_task(self.task)

    def open_inputs(self) -> None:
        """Refuse what cannot work before anything is started."""
        self._check()

    def reads(self) -> Inputs:
        """The prepared folders."""
        return {"prepared": list(self.prepared)} if self.prepared else {}

    def write(self, work: Work, opened: None) -> dict[str, Any] | None:
        """Run the remaining trials and conclude; None while SLURM runs them."""
        from gen3d.sweep.search import SweepStudy

        study = SweepStudy(self)
        if self.where == "slurm" and self._is_queued(study):
            return None
        plain = self.model_dump(mode="json", by_alias=True, exclude={"task", "retry_failed"})
        write_atomic(self.out / SETTINGS, yaml.safe_dump(plain, sort_keys=False))
        pending = study.prepare()
        if self.where == "slurm" and pending:
            self._submit(study, pending)
            return None
        self._run_here(study, pending)
        return self._conclude(study, pending)

    def _check(self) -> None:
        """Refuse what cannot work before anything is started."""
        self.check_steps()
        if self.objective.file.endswith(".jsonl") or self.objective.where.get("role") == "train":
            warn("the objective is measured on the training people: it rewards overfitting.")

    def _objective_in_words(self) -> str:
        return f"{self.objective.direction} {self.objective.title} of {self.judged_step}"

    def _is_queued(self, study: SweepStudy) -> bool:
        from gen3d.sweep.slurm import queued

        if jobs := queued(self.out):
            ended = [trial for trial in self._write_table(study) if trial.status != STOPPED]
            say(
                f"trials ended: {len(ended)}; in the queue: {', '.join(jobs)}. Run this command again later to collect."
            )
        return bool(jobs)

    def _submit(self, study: SweepStudy, pending: Sequence[int]) -> None:
        from gen3d.sweep.slurm import submit

        self._write(study)
        jobs = submit(self.slurm, self.out, self.out / SETTINGS, pending)
        job = jobs[0].job_id.partition("_")[0]
        say(f"trials submitted: {len(pending)}, as job {job}. Run this command again to collect.")

    def _run_task(self, number: int) -> Path:
        """Work on one trial, as one task of an array; others may be at theirs on other nodes."""
        from gen3d.sweep.search import SweepStudy

        if not (self.out / RECORD).is_file():
            raise UserError(
                f"{self.out}: task= is for the tasks of a sweep; run the sweep itself first (without task=)."
            )
        study = SweepStudy(self)
        ended: list[Trial] = []
        work_off([number], partial(work_on, self, study), ended.append, 1)
        for trial in ended:
            say(results.line(trial, study.best(), self.objective))
            if trial.status == STOPPED:
                raise interrupted(signal.SIGTERM)
        return self.out

    def _run_here(self, study: SweepStudy, pending: Sequence[int]) -> None:
        """Work off the pending trials, a line for each, and the table after each."""
        num_over = 0

        def over(trial: Trial) -> None:
            nonlocal num_over
            num_over += 1
            trials = self._write_table(study)
            say(f"{num_over} of {len(pending)}: {results.line(trial, study.best(), self.objective)}")
            if (left := len(pending) - num_over) and trial.status != STOPPED:
                usual = fmean(each.seconds for each in trials if each.status != STOPPED)
                say(f"  about {duration(usual * left / min(self.parallel, left))} left")

        try:
            work_off(pending, partial(work_on, self, study), over, self.parallel)
        except UserError:
            self._write(study)
            raise

    def _write_table(self, study: SweepStudy) -> list[Trial]:
        trials = study.trials()
        results.write_trials(self.out / "trials.tsv", trials, list(self.vary))
        return trials

    def _write(self, study: SweepStudy) -> None:
        """The table, and the picture and the best settings as soon as a trial has its objective."""
        self._write_table(study)
        if (best := study.best()) is not None:
            study.draw(self.out / "sweep.png")
            results.write_best(self.out / "best.yaml", best, self._best_command(best), self.objective)

    def _best_command(self, best: Trial) -> Command:
        """The training of the best trial, or its first step where it trains nothing."""
        commands = self.commands(best.values, best.folder)
        return next((command for command in commands if command.verb == "train"), commands[0])

    def _conclude(self, study: SweepStudy, numbers: Sequence[int]) -> dict[str, Any]:
        """Write the results and print the conclusion, after work on the trials `numbers`; the summary of the folder.

        Raises:
            Interrupted: a trial was stopped from outside.
            UserError: no trial worked.
        """
        self._write(study)
        trials, best = study.trials(), study.best()
        if stopped := [str(trial.number) for trial in trials if trial.status == STOPPED and trial.number in numbers]:
            raise Interrupted(f"trial {', '.join(stopped)} was stopped from outside; the same command goes on.")
        if best is None:
            first = next((trial.error for trial in trials if trial.error), "all were pruned")
            raise UserError(f"none of {len(trials)} trials worked; the first one says: {first}")
        shares = study.importance()
        for sentence in results.conclusion(self.out, best, self._best_command(best), trials, shares, self.objective):
            say(sentence)
        return {
            "trials": results.counts(trials),
            "best": {"trial": best.number, "values": best.values, "objective": best.objective},
            "objective": self._objective_in_words(),
            "importance": shares,
        }
