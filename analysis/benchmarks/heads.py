"""How long do heads take on 1,000 people x 4,096 latents, and how much faster is that than the same with scikit-learn?

    python analysis/benchmarks/heads.py [--people 1000] [--latents 4096] [--threads 1] [--rows linear "sklearn linear" ...]

Inputs: none (latents of a decaying spectrum, two classes that differ in 20 of 60 directions, four sites). Every row is a
process of its own, so that peak memory is that row's; data alone take the row `data`. BLAS has --threads threads, nothing
else runs in parallel. CPU s: of all cores, which other work on the machine lengthens less than the wall's.

Heads: one nested cross-validation, 5 folds without repeats, 30 components and the heads' default settings to choose from:
scaling, components, choice, calibration and threshold inside the fold. Beside each what a user of scikit-learn would write:
Pipeline(StandardScaler, PCA(30), estimator) in a GridSearchCV over as many settings and 5 inner folds, in 5 outer folds
(StratifiedGroupKFold both); for logistic regression also with LogisticRegressionCV inside the pipeline, which repeats neither
scaling nor components. scikit-learn's rows do not calibrate. The residual head: ONE of five folds, on 4 x 10 x 10 x 10 latents.

Permutations: seconds per permutation of labels with the logistic head, from --dealings of them; scikit-learn's
permutation_test_score, from --dealings-of-sklearn. Stratify: components, UMAP, and clusters with their null cohorts and
bootstraps as `gen3d stratify` runs them, beside PCA, UMAP and scikit-learn's GaussianMixture (diagonal), timed on 30
fits and multiplied to as many. UMAP compiles first and is timed when warm. Predict: `gen3d predict` from folder to
folder, 100 new people.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cli import run_script

Values = NDArray[np.float64]
Codes = NDArray[np.int64]
Figures = dict[str, float]

FOLDS, COMPONENTS, SEED = 5, 30, 0
SPATIAL = (4, 10, 10, 10)
NEW_PEOPLE = 100
STRATA_COMPONENTS, MOST_CLUSTERS, RESAMPLINGS = 10, 6, 100
TIMED_MIXTURES = 30


def cohort(num: int, width: int) -> tuple[NDArray[np.float32], Codes, pd.DataFrame]:
    """Latents [n, d], class [n], and the people's table."""
    generator = np.random.default_rng(SEED)
    codes = np.arange(num) % 2
    factors = generator.standard_normal((num, 60))
    factors[:, :20] += 0.25 * codes[:, None]
    spectrum = 1 / np.sqrt(1 + np.arange(60))
    values = (factors * spectrum) @ generator.standard_normal((60, width)) + generator.standard_normal((num, width))
    sites = np.array(list("ABCD"))[np.arange(num) // 2 % 4]
    values += (sites == "A")[:, None] * generator.standard_normal(width) * 0.3
    names = [f"p{index:05d}" for index in range(num)]
    table = pd.DataFrame({"subject": names, "session": "1", "site": sites, "role": "evaluation"})
    table["age_years"] = generator.uniform(50, 90, num).round(1)
    table["sex"] = np.where(generator.random(num) < 0.5, "F", "M")
    table["diagnosis"] = np.where(codes == 1, "AD", "CN")
    table["cdr"], table["mmse"] = np.nan, np.nan
    table["key"] = [f"sub-{name}_ses-1" for name in names]
    return values.astype(np.float32), codes, table


def clock() -> Values:
    """Seconds on the wall, and seconds of all cores that this process used."""
    return np.array([time.perf_counter(), time.process_time()])


def since(began: Values, share: float = 1.0) -> Figures:
    """Seconds since `clock`, on the wall and of all cores, as columns of a row."""
    seconds, cpu = ((clock() - began) * share).tolist()
    return {"seconds": seconds, "cpu": cpu}


# --------------------------------------------------------------------------------------------------------------------- ours


def study(values: NDArray[np.float32], codes: Codes, table: pd.DataFrame, shape: tuple[int, ...] = ()) -> Any:
    """The study that `gen3d classify` makes of its folders, in memory."""
    from gen3d.classify.study.crossvalidation import ClassifyStudy
    from gen3d.classify.study.features import Features
    from gen3d.classify.study.folds import Layout, make_folds
    from gen3d.cohort.target import Target

    width, everybody = values.shape[1], np.ones(len(values), dtype=bool)
    features = Features(table, values[None], everybody[None], (width,), shape or (width,), ("k",), "latents", {})
    target, people = Target("diagnosis", "categories", ("CN", "AD")), np.arange(len(values))
    layout = Layout(codes.astype(float), people, everybody, everybody, features.blind, table["site"].tolist())
    folds = make_folds(layout, target, FOLDS, 1, SEED)
    return ClassifyStudy(features, codes.astype(float), people, target, tuple(folds), SEED)


def head(name: str) -> Any:
    """A head with its default settings."""
    from gen3d.classify.heads import settings
    from gen3d.classify.study.crossvalidation import Contestant
    from gen3d.classify.study.recipes import head_recipe

    kinds = {
        "linear": settings.LinearSettings,
        "svm": settings.SvmSettings,
        "boosting": settings.BoostingSettings,
        "mlp": settings.MlpSettings,
        "residual": settings.ResidualSettings,
    }
    recipe = head_recipe(kinds[name](), COMPONENTS, (), None, "prevalence")
    return Contestant(name, "head", recipe, lambda features, member, chosen: features.rows(member, chosen), "latents")


def nested(name: str, given: argparse.Namespace) -> Figures:
    """A head through all folds; the residual head through the first."""
    from gen3d.classify.study.crossvalidation import cross_validated
    from gen3d.maths.cross_validated import auc_within_models

    shape = SPATIAL if name == "residual" else ()
    values, codes, table = cohort(given.people, int(np.prod(shape)) if shape else given.latents)
    asked = study(values, codes, table, shape)
    if name == "residual":
        asked = type(asked)(asked.features, asked.codes, asked.groups, asked.target, asked.folds[:1], SEED)
    model = head(name)
    began = clock()
    found = pd.concat([rows for rows, _ in cross_validated(model, asked)])
    spent = since(began)
    area = auc_within_models(found["y_score"], found["y_true"] == "AD", found["fold"].to_numpy())
    return {**spent, "auc": area}


def dealings(given: argparse.Namespace) -> Figures:
    """Seconds per permutation of labels; work that labels do not change is shared by all."""
    from gen3d.classify.study.permutation import null_values, prepare

    asked, model = study(*cohort(given.people, given.latents)), head("linear")
    began = clock()
    job = prepare(model, asked)
    once = since(began)["seconds"]
    began = clock()
    areas = np.concatenate(list(null_values(job, given.dealings, 1)))
    return {**since(began, 1 / given.dealings), "once": once, "auc": float(areas.mean())}


def combat(given: argparse.Namespace) -> Figures:
    """Fit on everybody and apply to everybody."""
    from gen3d.harmonise.recipe import Harmonisation

    asked = study(*cohort(given.people, given.latents))
    rows = asked.features.rows(0, np.arange(given.people))
    began = clock()
    Harmonisation().fit(rows).apply(rows)
    return since(began)


def strata(given: argparse.Namespace) -> Figures:
    """Components, UMAP (warm) and clusters, as `gen3d stratify` does by default."""
    from gen3d.latents.embedding import fit_components, fit_umap
    from gen3d.stratify.structure import find_structure

    values = np.asarray(cohort(given.people, given.latents)[0], dtype=np.float64)
    fit_umap(np.random.default_rng(0).standard_normal((100, STRATA_COMPONENTS)), SEED)
    times = [clock()]
    scores = fit_components(values, STRATA_COMPONENTS).coordinates
    times.append(clock())
    fit_umap(scores, SEED)
    times.append(clock())
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        find_structure(scores, "mixture", MOST_CLUSTERS, RESAMPLINGS, RESAMPLINGS, SEED)
    times.append(clock())
    return parts(np.diff(times, axis=0))


def predict(given: argparse.Namespace) -> Figures:
    """`gen3d predict` of new people with a head that `gen3d classify` kept."""
    from gen3d.classify.classify import Classify
    from gen3d.classify.predict import Predict
    from gen3d.cohort.latents_folder import ARRAY, SEEN, SHAPE, TABLE
    from gen3d.core.artefact import write_json
    from gen3d.core.config import Verb
    from gen3d.core.output_folder import begin

    class Encoded(Verb):
        """A folder as `gen3d encode` leaves it."""

    values, _, table = cohort(given.people + NEW_PEOPLE, given.latents)
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
        for folder, rows in (("old", slice(0, given.people)), ("new", slice(given.people, None))):
            out = Path(name) / folder
            work = begin(Encoded(out=out), "encode", {}, {"folder": folder})
            np.save(out / ARRAY, values[rows])
            table[rows].to_csv(out / TABLE, sep="\t", index=False, na_rep="n/a")
            write_json(out / SHAPE, {"shape": [given.latents], "kind": "vae", "run_key": "k", "channels": ["t1w"]})
            write_json(out / SEEN, {"0": {}})
            work.finish({})
        asked = {"latents": Path(name) / "old", "target": "diagnosis", "classes": ("CN", "AD"), "voxels": False}
        asked |= {"repeats": 1, "permutations": 0, "duplicates": "waive", "out": Path(name) / "head"}
        Classify.model_validate(asked).run()
        began = clock()
        Predict.model_validate(
            {"head": Path(name) / "head", "latents": Path(name) / "new", "out": Path(name) / "p"}
        ).run()
        return since(began)


# -------------------------------------------------------------------------------------------------------------------- theirs


def estimators() -> dict[str, tuple[Any, dict[str, list[Any]]]]:
    """Estimators of scikit-learn and as many settings as gen3d's heads try."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.svm import SVC

    return {
        "linear": (LogisticRegression(class_weight="balanced", max_iter=1000), {"C": [1e-3, 1e-2, 0.1, 1.0, 10.0]}),
        "svm": (SVC(kernel="linear", class_weight="balanced"), {"C": [1e-4, 1e-3, 1e-2, 0.1]}),
        "boosting": (
            HistGradientBoostingClassifier(max_leaf_nodes=4, min_samples_leaf=5, early_stopping=False),
            {"max_iter": [20, 50, 100]},
        ),
        "mlp": (
            MLPClassifier((16,), activation="tanh", solver="lbfgs", max_iter=200, random_state=SEED),
            {"alpha": [10.0, 30.0, 100.0]},
        ),
    }


def pipeline(name: str) -> Any:
    """Scaling, components and an estimator whose settings are chosen by inner cross-validation."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold, StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    steps = (StandardScaler(), PCA(COMPONENTS, random_state=SEED))
    if name == "LogisticRegressionCV":
        chooses = LogisticRegressionCV(
            Cs=[1e-3, 1e-2, 0.1, 1.0, 10.0],
            cv=StratifiedKFold(FOLDS, shuffle=True, random_state=SEED),
            class_weight="balanced",
            scoring="roc_auc",
            max_iter=1000,
        )
        return make_pipeline(*steps, chooses)
    estimator, grid = estimators()[name]
    whole = make_pipeline(*steps, estimator)
    last = whole.steps[-1][0]
    inner = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=SEED)
    return GridSearchCV(whole, {f"{last}__{key}": tried for key, tried in grid.items()}, scoring="roc_auc", cv=inner)


def nested_sklearn(name: str, given: argparse.Namespace) -> Figures:
    """The same question, written as in scikit-learn's documentation."""
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedGroupKFold

    values, codes, _ = cohort(given.people, given.latents)
    people, areas = np.arange(len(codes)), []
    pipeline(name)  # imports
    began = clock()
    for train, test in StratifiedGroupKFold(FOLDS, shuffle=True, random_state=SEED).split(values, codes, people):
        searched = pipeline(name)
        groups = {} if name == "LogisticRegressionCV" else {"groups": people[train]}
        searched.fit(values[train], codes[train], **groups)
        named = "predict_proba" if hasattr(searched, "predict_proba") else "decision_function"
        scores = getattr(searched, named)(values[test])
        areas.append(roc_auc_score(codes[test], scores if scores.ndim == 1 else scores[:, 1]))
    return {**since(began), "auc": float(np.mean(areas))}


def dealings_sklearn(given: argparse.Namespace) -> Figures:
    """permutation_test_score of the cheaper pipeline; one more run with the true labels is part of it."""
    from sklearn.model_selection import StratifiedKFold, permutation_test_score

    values, codes, _ = cohort(given.people, given.latents)
    num, outer = given.dealings_of_sklearn, StratifiedKFold(FOLDS, shuffle=True, random_state=SEED)
    whole = pipeline("LogisticRegressionCV")
    began = clock()
    _, null, _ = permutation_test_score(whole, values, codes, cv=outer, scoring="roc_auc", n_permutations=num)
    return {**since(began, 1 / (num + 1)), "auc": float(null.mean())}


def strata_sklearn(given: argparse.Namespace) -> Figures:
    """PCA, umap-learn, and as many mixtures as gen3d fits, timed on some of them."""
    import umap
    from sklearn.decomposition import PCA
    from sklearn.mixture import GaussianMixture

    from gen3d.stratify import structure as clusters

    values = cohort(given.people, given.latents)[0]
    umap.UMAP(random_state=SEED, n_jobs=1).fit(np.random.default_rng(0).standard_normal((100, STRATA_COMPONENTS)))
    times = [clock()]
    scores = PCA(STRATA_COMPONENTS, random_state=SEED).fit_transform(values)
    times.append(clock())
    umap.UMAP(random_state=SEED, n_jobs=1).fit(scores)
    times.append(clock())
    generator = np.random.default_rng(SEED)
    for number in range(TIMED_MIXTURES):
        drawn = scores[generator.integers(len(scores), size=len(scores))]
        groups = 2 + number % (MOST_CLUSTERS - 1)
        GaussianMixture(groups, covariance_type="diag", random_state=number).fit(drawn)
    each = (clock() - times[-1]) / TIMED_MIXTURES
    solutions = MOST_CLUSTERS - 1
    per_null = solutions * clusters.RANDOM_STARTS + clusters.BOOTSTRAPS_OF_A_NULL
    num = RESAMPLINGS * per_null + solutions * RESAMPLINGS  # without the several starts of every resampling
    return {**parts(np.vstack([np.diff(times, axis=0), each * num])), "mixtures": float(num)}


def parts(spent: Values) -> Figures:
    """Components, UMAP and clusters [3, wall and CPU] as columns of a row."""
    seconds, cpu = spent.sum(axis=0).tolist()
    return {
        "seconds": seconds,
        "cpu": cpu,
        **dict(zip(("components", "umap", "clusters"), spent[:, 0].tolist(), strict=True)),
    }


def data(given: argparse.Namespace) -> Figures:
    """Memory of the latents and imported modules alone."""
    began = clock()
    study(*cohort(given.people, given.latents))
    head("linear")
    return since(began)


HEADS = ("linear", "svm", "boosting", "mlp")
ROWS: dict[str, tuple[Callable[[argparse.Namespace], Figures], str]] = {
    "data": (data, ""),
    **{name: (partial(nested, name), "") for name in HEADS},
    **{f"sklearn {name}": (partial(nested_sklearn, name), name) for name in HEADS},
    "sklearn LogisticRegressionCV": (partial(nested_sklearn, "LogisticRegressionCV"), "linear"),
    "residual, one fold": (partial(nested, "residual"), ""),
    "permutation, per dealing": (dealings, ""),
    "sklearn permutation, per dealing": (dealings_sklearn, "permutation, per dealing"),
    "ComBat": (combat, ""),
    "stratify": (strata, ""),
    "sklearn stratify": (strata_sklearn, "stratify"),
    "predict": (predict, ""),
}
"""What is run, and which of our rows it is compared with."""


def measured(name: str, given: argparse.Namespace) -> Figures:
    """The figures of one row, from a process of its own."""
    command = [sys.executable, "-W", "ignore", str(Path(__file__)), "--row", name, "--people", str(given.people)]
    command += ["--latents", str(given.latents), "--dealings", str(given.dealings)]
    command += ["--dealings-of-sklearn", str(given.dealings_of_sklearn)]
    threads = {f"{library}_NUM_THREADS": str(given.threads) for library in ("OMP", "OPENBLAS", "MKL", "NUMBA")}
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | threads).stdout
    row: Figures = json.loads(output.splitlines()[-1])
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=1000)
    parser.add_argument("--latents", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=1, help="threads of BLAS and OpenMP")
    parser.add_argument("--dealings", type=int, default=20, help="dealings of labels that are timed")
    parser.add_argument("--dealings-of-sklearn", type=int, default=3, help="and of scikit-learn's")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="all, unless some are named")
    parser.add_argument("--row", choices=ROWS, help="run one row and print its figures as JSON")
    given = parser.parse_args()
    if given.row:
        found = ROWS[given.row][0](given)
        found["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps(found))
        return
    print(f"{given.people} people x {given.latents} latents, {given.threads} threads of {os.cpu_count()} cores")
    print(f"{'':34s}{'seconds':>9s}{'CPU s':>9s}{'peak GiB':>10s}{'ours is':>9s}{'by CPU':>8s}{'load':>6s}  more")
    done: dict[str, Figures] = {}
    for name in given.rows:
        load = os.getloadavg()[0]
        row = done[name] = measured(name, given)
        ours = done.get(ROWS[name][1])
        times, by_cpu = (f"{row[key] / ours[key]:.1f}x" if ours else "" for key in ("seconds", "cpu"))
        more = ", ".join(f"{key} {row[key]:.3g}" for key in row if key not in ("seconds", "cpu", "peak_gib"))
        figures = f"{row['seconds']:9.2f}{row['cpu']:9.2f}{row['peak_gib']:10.2f}"
        print(f"{name:34s}{figures}{times:>9s}{by_cpu:>8s}{load:6.1f}  {more}", flush=True)


if __name__ == "__main__":
    run_script(main)
