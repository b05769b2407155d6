"""Which values to try next, when to give a trial up, and what mattered.

Grids and evenly spread points need no further library; TPE, pruning and importance are Optuna's.

The trials on disk are the only memory. Before every decision a study is made from them, so a sweep that was killed, or
whose trials run on many nodes, has no second record that could disagree with what was done.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from gen3d.core.errors import UserError
from gen3d.sweep.settings import Prune, Range, Values, Vary
from gen3d.sweep.trial import DONE, PRUNED, Trial

FEWEST_FOR_IMPORTANCE = 4
SIGNIFICANT_DIGITS = 4


def grid(vary: Vary) -> list[dict[str, Any]]:
    """Every combination of the lists, the last key changing fastest."""
    lists = {key: list(values) for key, values in vary.items() if not isinstance(values, Range)}
    return [dict(zip(lists, point, strict=True)) for point in itertools.product(*lists.values())]


def corners(vary: Vary) -> list[dict[str, Any]]:
    """Points of a search space that show whether its values are allowed: each value and each end, the others at their first."""
    listed = {key: list(values.ends if isinstance(values, Range) else values) for key, values in vary.items()}
    first = {key: values[0] for key, values in listed.items()}
    return [first] + [first | {key: value} for key, values in listed.items() for value in values[1:]]


def require_optuna(what: str) -> Any:
    """Optuna's package, or a UserError that says how to install it."""
    try:
        import optuna
    except ImportError:
        raise UserError(f'{what} needs Optuna, which is not installed here: pip install "gen3d[sweep]".') from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def label(value: Any) -> str:
    """A value as one line of YAML: '0.3', '[t1w, log_jacobian]', 'spatial'."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return text.removesuffix("\n").removesuffix("...").strip()


def spread(vary: Vary, number: int, seed: int) -> dict[str, Any]:
    """Point `number` of a scrambled Sobol sequence over the search space.

    It fills the space more evenly than independent draws, and depends on nothing but the number and the seed.
    """
    from scipy.stats import qmc

    sequence = qmc.Sobol(len(vary), seed=seed)
    if number:
        sequence.fast_forward(number)
    point = sequence.random(1)[0]
    return {key: _at(values, float(share)) for (key, values), share in zip(vary.items(), point, strict=True)}


def ask(vary: Vary, history: Sequence[Trial], number: int, seed: int, sign: float) -> dict[str, Any]:
    """The values of trial `number` by TPE, given the trials so far, of which those at work count as tried.

    The first ones are spread evenly. Source: Bergstra et al., NeurIPS 2011.
    """
    optuna = require_optuna("search=tpe")
    if sum(trial.status in (DONE, PRUNED) for trial in history) < max(3, min(10, 2 * len(vary))):
        return spread(vary, number, seed)
    sampler = optuna.samplers.TPESampler(seed=100_003 * seed + number, n_startup_trials=1, constant_liar=True)
    asked = _study(vary, history, sign, sampler).ask(fixed_distributions=_distributions(vary)).params
    return {key: _value(values, asked[key]) for key, values in vary.items()}


def worse_than_median(prune: Prune, mine: Mapping[int, float], others: Sequence[Mapping[int, float]]) -> bool:
    """Optuna's median rule on the term of a trial's log, {step: value}, against those of finished trials."""
    optuna = require_optuna("prune")
    if not mine or not others:
        return False
    pruner = optuna.pruners.MedianPruner(n_startup_trials=prune.after_trials, n_warmup_steps=prune.after_steps)
    study = optuna.create_study(direction="minimize", pruner=pruner)
    for values in others:
        if values:
            study.add_trial(optuna.trial.create_trial(value=values[max(values)], intermediate_values=dict(values)))
    trial = study.ask()
    for step in sorted(mine):
        trial.report(mine[step], step)
    return bool(trial.should_prune())


def importance(vary: Vary, trials: Sequence[Trial], sign: float) -> dict[str, float]:
    """Each key's share of the objective's variance, adding up to 1 (functional ANOVA by Optuna).

    Source: Hutter, Hoos and Leyton-Brown, ICML 2014. Empty where Optuna is not installed, or fewer than two keys, or
    too few trials, or no difference between them, leave nothing to say.
    """
    done = [trial for trial in trials if trial.objective is not None]
    if len(vary) < 2 or len(done) < FEWEST_FOR_IMPORTANCE or len({trial.objective for trial in done}) < 2:
        return {}
    try:
        optuna = require_optuna("importance")
    except UserError:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        found = optuna.importance.get_param_importances(_study(vary, done, sign), evaluator=evaluator)
    return {key: float(share) for key, share in found.items()}


def _distributions(vary: Vary) -> dict[str, Any]:
    return {key: _distribution(values) for key, values in vary.items()}


def _distribution(values: Values) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(values, Range):
        return CategoricalDistribution([label(value) for value in values])
    if values.whole:
        return IntDistribution(int(values.low), int(values.high), log=values.log)
    return FloatDistribution(float(values.low), float(values.high), log=values.log)


def _at(values: Values, share: float) -> Any:
    """The value at a share of the way, 0 to 1, from the first to the last."""
    if not isinstance(values, Range):
        return values[min(int(share * len(values)), len(values) - 1)]
    low, high = (math.log(end) if values.log else float(end) for end in values.ends)
    if values.whole and not values.log:  # every whole number is as likely as any other
        return int(values.low) + min(int(share * (high - low + 1)), int(high - low))
    place = low + share * (high - low)
    number = math.exp(place) if values.log else place
    return _value(values, round(number) if values.whole else number)


def _value(values: Values, asked: Any) -> Any:
    """A number or label as a setting: floats with four digits, so that a table shows exactly what was used."""
    if not isinstance(values, Range):
        return next(value for value in values if label(value) == asked)
    if values.whole:
        return int(asked)
    return min(max(float(f"{asked:.{SIGNIFICANT_DIGITS}g}"), float(values.low)), float(values.high))


def _study(vary: Vary, trials: Sequence[Trial], sign: float, sampler: Any = None) -> Any:
    """An in-memory study of the trials so far, less being better."""
    import optuna
    from optuna.trial import TrialState, create_trial

    study = optuna.create_study(direction="minimize", sampler=sampler)
    ended = {"failed": TrialState.FAIL, "pruned": TrialState.PRUNED}
    distributions = _distributions(vary)
    for trial in trials:
        if trial.objective is not None:
            state, value = TrialState.COMPLETE, sign * trial.objective
        else:
            state, value = ended.get(trial.status, TrialState.RUNNING), None
        params = {key: label(v) if not isinstance(vary[key], Range) else v for key, v in trial.values.items()}
        study.add_trial(create_trial(state=state, value=value, params=params, distributions=distributions))
    return study
