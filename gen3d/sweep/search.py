"""The trials of a sweep in Optuna's journal: which values to try, when to give up, which was best and which settings matter.

All of Optuna is here. The journal is a file that any number of processes, also on other nodes, may write to.
"""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gen3d.core.errors import UserError
from gen3d.sweep.results import read_curve
from gen3d.sweep.settings import DONE, FAILED, PRUNED, STOPPED, Range, SweepSettings, Trial, Values, label

try:
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock, JournalStorage
    from optuna.trial import FrozenTrial, TrialState
except ImportError:
    raise UserError('gen3d sweep needs Optuna, which is not installed here: pip install "gen3d[sweep]".') from None

optuna.logging.set_verbosity(optuna.logging.WARNING)

JOURNAL = "study.journal"
FEWEST_FOR_IMPORTANCE = 4
SIGNIFICANT_DIGITS = 4
STATUS = {
    TrialState.COMPLETE: DONE,
    TrialState.FAIL: FAILED,
    TrialState.PRUNED: PRUNED,
    TrialState.RUNNING: STOPPED,
}
OBJECTIVE, ERROR, SECONDS = "objective", "error", "seconds"


def open_journal(path: Path) -> JournalStorage:
    """The storage that Optuna keeps in a journal, without the line that a killed process or a full disk left incomplete.

    Optuna would add the next entry to that line and could read neither. Its lock is a link to the journal, by whose age it
    tells that the process which made it is gone, so the journal needs its full path: a link to a relative one leads nowhere,
    and Optuna would wait for ever.
    """
    whole = path.resolve()
    lock = JournalFileSymlinkLock(str(whole))
    if _incomplete(whole):
        lock.acquire()
        try:
            if _incomplete(whole):  # nobody was at it
                os.truncate(whole, whole.read_bytes().rfind(b"\n") + 1)
        finally:
            lock.release()
    return JournalStorage(JournalFileBackend(str(whole), lock))


def _incomplete(path: Path) -> bool:
    """Whether a journal ends within a line."""
    if not path.is_file() or not path.stat().st_size:
        return False
    with path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read() != b"\n"


class SweepStudy:
    """All trials of a sweep, number n in the folder of number n.

    All numbers are enqueued at the start, so that a trial keeps its number and its values whatever is interrupted.
    In the study less is better; an objective to maximise has its sign changed.
    """

    def __init__(self, sweep: SweepSettings) -> None:
        self.sweep = sweep
        self._storage = open_journal(sweep.out / JOURNAL)
        self._name = next(reversed(self._complete_studies()), "")

    def prepare(self) -> list[int]:
        """Enqueue the trials that are not in the study; numbers of those with something left to do.

        Optuna does not change a trial that has ended. So where the objective is another one, or failed trials are to be
        tried again, a new study takes over, in which those trials have not ended. Their steps are not repeated: what a
        trial's folder holds is measured anew.

        Only the process that holds the lock of the sweep's folder may call this.
        """
        objective = self.sweep.objective.model_dump(mode="json", exclude={"name"})
        studies = self._complete_studies()
        if not studies and self.sweep.folder_of(0).parent.exists():
            raise UserError(
                f"{self.sweep.out}: holds trials but no {JOURNAL}; give another out=, or delete the folder."
            )
        old = self._open().get_trials(deepcopy=False) if studies else []
        changed = bool(studies) and self._open().user_attrs[OBJECTIVE] != objective
        again = {trial.number for trial in old if self._is_repeated(trial, changed)}
        if again or changed or not studies:
            self._name = f"sweep {len(studies) + 1}"
            if self._name in optuna.get_all_study_names(self._storage):  # killed while it was made
                optuna.delete_study(study_name=self._name, storage=self._storage)
            new = optuna.create_study(study_name=self._name, storage=self._storage)
            for trial in old:
                new.add_trial(_reopened(trial) if trial.number in again else trial)
            new.set_user_attr(OBJECTIVE, objective)
        study = self._open()
        points = self._points()
        for point in points[len(study.get_trials(deepcopy=False)) :]:
            study.enqueue_trial(point)
        trials = study.get_trials(deepcopy=False)[: len(points)]
        return [trial.number for trial in trials if not trial.state.is_finished()]

    def trials(self) -> list[Trial]:
        """The trials that were begun, in order; one that has not ended counts as stopped."""
        trials = self._open().get_trials(deepcopy=False) if self._name else []
        return [self._row(trial) for trial in trials if trial.state != TrialState.WAITING]

    def begin(self, number: int) -> Attempt | None:
        """Begin or go on with a trial; None if it has ended."""
        study = self._open(number)
        trials = study.get_trials(deepcopy=False)
        if number >= len(trials):
            raise UserError(f"task={number}: the sweep has {len(trials)} trials, 0 to {len(trials) - 1}.")
        state = trials[number].state
        if state.is_finished():
            return None
        study_id = self._storage.get_study_id_from_name(self._name)
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(study_id, number)
        if state == TrialState.WAITING:
            self._storage.set_trial_state_values(trial_id, TrialState.RUNNING)
        return Attempt(optuna.Trial(study, trial_id), self.sweep)

    def best(self) -> Trial | None:
        """The trial with the best objective, the earliest of equals, or None if no trial has one."""
        done = [trial for trial in self.trials() if trial.objective is not None]
        return min(done, key=lambda trial: self.sweep.objective.sign * (trial.objective or 0.0), default=None)

    def importance(self) -> dict[str, float]:
        """Each key's share of the objective's variance, adding up to 1 (functional ANOVA).

        Source: Hutter, Hoos and Leyton-Brown, ICML 2014. Empty where fewer than two keys, or too few trials, or no
        difference between them, leave nothing to say.
        """
        objectives = [trial.objective for trial in self.trials() if trial.objective is not None]
        if len(self.sweep.vary) < 2 or len(objectives) < FEWEST_FOR_IMPORTANCE or len(set(objectives)) < 2:
            return {}
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        with _experimental():
            return dict(optuna.importance.get_param_importances(self._open(), evaluator=evaluator))

    def draw(self, path: Path) -> None:
        """Save the objective against each key as a PNG; at least one trial has an objective."""
        import matplotlib.pyplot as plt
        from optuna.visualization.matplotlib import plot_slice

        sign = self.sweep.objective.sign
        with _experimental(), plt.rc_context():  # Optuna sets a style for all later pictures
            plot_slice(
                self._open(),
                params=list(self.sweep.vary),
                target=lambda trial: sign * (trial.value or 0.0),
                target_name=self.sweep.objective.title,
            )
            plt.savefig(path, dpi=120, bbox_inches="tight")
            plt.close()

    def _complete_studies(self) -> list[str]:
        """Names of the studies, oldest first, without one that was cut off while it was made."""
        summaries = optuna.get_all_study_summaries(self._storage, include_best_trial=False)
        return [summary.study_name for summary in summaries if OBJECTIVE in summary.user_attrs]

    def _open(self, number: int = 0) -> optuna.Study:
        """The study, with a sampler that draws for this trial what it would draw in any process.

        TPE: Bergstra et al., NeurIPS 2011; trials at work count as bad ones, so that others go elsewhere.
        """
        seed = (100_003 * self.sweep.seed + number) % 2**32
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=1, constant_liar=True)
        pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
        if (prune := self.sweep.prune) is not None:
            pruner = optuna.pruners.MedianPruner(prune.after_trials, n_warmup_steps=prune.after_steps)
        return optuna.load_study(study_name=self._name, storage=self._storage, sampler=sampler, pruner=pruner)

    def _points(self) -> list[dict[str, Any]]:
        """The parameters of every trial, as far as they are known before any trial has run.

        A TPE search learns nothing from fewer than a few trials, so its first ones are spread evenly.
        """
        sweep = self.sweep
        if sweep.search == "grid":
            lists = [map(_choice, values) for values in sweep.vary.values() if not isinstance(values, Range)]
            return [dict(zip(sweep.vary, point, strict=True)) for point in itertools.product(*lists)]
        if sweep.search == "random":
            return list(self._spread(sweep.trials))
        num_spread = min(sweep.trials, max(3, min(10, 2 * len(self.sweep.vary))))
        return [*self._spread(num_spread), *({} for _ in range(sweep.trials - num_spread))]

    def _spread(self, count: int) -> Iterator[dict[str, Any]]:
        """The first points of a scrambled Sobol sequence over the space."""
        with _experimental():
            sampler = optuna.samplers.QMCSampler(
                qmc_type="sobol", scramble=True, seed=self.sweep.seed, warn_independent_sampling=False
            )
        scratch = optuna.create_study(sampler=sampler)
        for number in range(count + 1):
            trial = scratch.ask()
            for key, values in self.sweep.vary.items():
                _suggest(trial, key, values)
            if number:  # this sampler draws the very first trial at random
                yield trial.params

    def _is_repeated(self, trial: FrozenTrial, changed: bool) -> bool:
        if trial.state == TrialState.FAIL:
            return self.sweep.retry_failed or (changed and trial.user_attrs.get(ERROR, "").startswith(OBJECTIVE))
        return changed and trial.state == TrialState.COMPLETE

    def _row(self, trial: FrozenTrial) -> Trial:
        objective = None  # Optuna's value of a pruned trial is one of its curve
        if trial.state == TrialState.COMPLETE and trial.value is not None:
            objective = self.sweep.objective.sign * trial.value
        return Trial(
            number=trial.number,
            folder=self.sweep.folder_of(trial.number),
            values=settings_of(trial.params, self.sweep.vary),
            status=STATUS[trial.state],
            objective=objective,
            seconds=trial.user_attrs.get(SECONDS, 0.0),
            error=trial.user_attrs.get(ERROR, ""),
        )


class Attempt:
    """A trial at work: its values, and what becomes of it."""

    def __init__(self, trial: optuna.Trial, sweep: SweepSettings) -> None:
        self._trial, self._sweep = trial, sweep
        for key, values in sweep.vary.items():
            _suggest(trial, key, values)
        self.values = settings_of(trial.params, sweep.vary)
        self._read_bytes = 0
        self._reported = set(trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values)

    def is_hopeless(self, log: Path) -> bool:
        """Whether Optuna's median rule gives the trial up; checked again when the log of its training has grown."""
        size = log.stat().st_size if log.is_file() else 0
        if size == self._read_bytes or self._sweep.prune is None:
            return False
        self._read_bytes = size
        curve = read_curve(log, self._sweep.prune.term)
        for step in sorted(curve.keys() - self._reported):
            self._trial.report(curve[step], step)
            self._reported.add(step)
        return bool(self._reported) and self._trial.should_prune()

    def end(self, status: str, seconds: float, objective: float | None = None, error: str = "") -> None:
        """Record what became of it. A trial that was stopped has not ended: it goes on when the sweep is run again."""
        seconds += self._trial.user_attrs.get(SECONDS, 0.0)
        self._trial.set_user_attr(SECONDS, round(seconds, 1))
        if error:
            self._trial.set_user_attr(ERROR, error)
        state = next(state for state, name in STATUS.items() if name == status)
        if state != TrialState.RUNNING:
            value = None if objective is None else self._sweep.objective.sign * objective
            self._trial.study.tell(self._trial.number, value, state)


def settings_of(parameters: Mapping[str, Any], vary: Mapping[str, Values]) -> dict[str, Any]:
    """A trial's values from its parameters, in the order of `vary`.

    Floats have four digits, so that a table shows exactly what was used.
    """
    return {key: _setting(values, parameters[key]) for key, values in vary.items() if key in parameters}


def _setting(values: Values, parameter: Any) -> Any:
    if not isinstance(values, Range):
        return next(value for value in values if _choice(value) == parameter)
    if values.whole:
        return int(parameter)
    return min(max(float(f"{parameter:.{SIGNIFICANT_DIGITS}g}"), float(values.low)), float(values.high))


def _choice(value: Any) -> Any:
    """A value as Optuna can hold it: numbers and words as they are, lists and groups as text."""
    return value if value is None or isinstance(value, (bool, int, float, str)) else label(value)


def _suggest(trial: optuna.Trial, key: str, values: Values) -> None:
    """Have the study choose a parameter, or give the one that it chose before."""
    if not isinstance(values, Range):
        trial.suggest_categorical(key, [_choice(value) for value in values])
    elif values.whole:
        trial.suggest_int(key, int(values.low), int(values.high), log=values.log)
    else:
        trial.suggest_float(key, float(values.low), float(values.high), log=values.log)


def _reopened(trial: FrozenTrial) -> FrozenTrial:
    """A copy that has not ended, with the same values and the same curve."""
    return optuna.trial.create_trial(
        state=TrialState.RUNNING,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs={key: value for key, value in trial.user_attrs.items() if key != ERROR},
        intermediate_values=trial.intermediate_values,
    )


@contextmanager
def _experimental() -> Iterator[None]:
    """Without Optuna's warnings that a sampler or a plot may change in a later version."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
