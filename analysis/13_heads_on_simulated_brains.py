"""What do heads, harmonisation and sub-groups find in brains whose truth is known? Simulated cohorts through the verbs.

Every representation is principal components of T1w and log-Jacobian (of T1w where nothing but the scanner differs). For heads
they are cross-fitted over everybody: each of five members never saw a fifth of the people, who are tested in its space only.

severity    AD-like atrophy of severity 0.25 to 2 (1 is a mean patient) against controls: does the AUC rise, and which of heads
            and baselines is best?
null        controls with random labels, many times: do intervals cover .5, is the permutation p uniform?
confounded  two scanners, and 80 % of the cases come from one: controls relabelled as cases (nothing to find), and AD-like
            people, each with and without harmonisation inside the folds; and AD-like people from both scanners alike.
strata      two planted subtypes without controls, at several strengths; controls alone, in subsamples; subtypes that come from
            a clinic each; controls of two scanners: what does `stratify` find, and does it report the site?

Writes findings.tsv (every figure with n and its 95 % interval), studies.tsv (every study behind them) and heads.png.
A stopped run goes on where it was.

    python analysis/13_heads_on_simulated_brains.py --out FOLDER
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from representations import latents, pca
from scipy.stats import kstest
from scipy.stats import t as student_t
from simulated_brains import (
    COHORTS,
    NUM_DRAWS,
    NUM_NULL,
    SEVERITIES,
    Chosen,
    OneClinicEach,
    confounded_labels,
    severity_labels,
    simulated,
    written,
)

from gen3d.classify.classify import Classify
from gen3d.cli import run_script
from gen3d.cohort.manifest import read_manifest
from gen3d.maths.stats import wilson_interval
from gen3d.stratify.agreement import adjusted_rand_index
from gen3d.stratify.stratify import Stratify

Keys = dict[str, Any]
Row = dict[str, Any]

HEADS = ("linear", "svm", "boosting", "mlp")
NUM_SUBSAMPLES = 5
PERMUTATIONS, NULL_PERMUTATIONS = 199, 99
SUBSAMPLE = 40  # people
CHANNELS, T1W = ("t1w", "log_jacobian"), ("t1w",)
HARMONISED: Keys = {"harmonise": {"by": "site", "keep": ("age_years", "sex")}}
SUBTYPES = (
    ("compact subtypes", 3.0, "compact_subtypes"),
    ("subtypes", 3.0, "gross_subtypes"),
    ("subtypes", 2.0, "subtypes"),
    ("subtypes", 1.0, "subtypes"),
)
FLAG = "The site alone predicts"


# ----------------------------------------------------------------------------------------------------------------- classify


def represented(name: str, out: Path) -> Path:
    """Latents of everybody in the cohort, cross-fitted."""
    everybody = Chosen(prepared=out / "cohorts" / name, out=out / "everybody" / name).run()
    return latents(everybody, name, pca(CHANNELS), out)


def study(latent: Path, labels: Path, target: str, classes: tuple[str, str], out: Path, **more: Any) -> Path:
    """One `gen3d classify`."""
    keys: Keys = {"latents": latent, "table": labels, "target": target, "classes": classes, "workers": 1, **more}
    return Classify.model_validate({**keys, "out": out}).run()


def collected(folder: Path, question: str, asked: str, treatment: str = "") -> list[Row]:
    """The AUC of every model of a study; p and null of the first head; whether the site was flagged."""
    shown = pd.read_csv(folder / "performance.tsv", sep="\t", na_values=["n/a"])
    shown = shown[(shown["measure"] == "auc") & shown["class"].fillna("").isin(["", "n/a"])]
    summary = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["summary"]
    null = folder / "permutation.tsv"
    tested = pd.read_csv(null, sep="\t").set_index("model")["p"].to_dict() if null.is_file() else {}
    columns = ["model", "kind", "value", "low", "high", "num_people", "num_positive"]
    less = pd.read_csv(folder / "differences.tsv", sep="\t", na_values=["n/a"])
    less = less[(less["model"] == "linear") & (less["measure"] == "auc")].set_index("against")
    less = less[["difference", "low", "high"]].add_prefix("linear_minus_it_")
    about = {"question": question, "asked": asked, "treatment": treatment}
    flagged = any(sentence.startswith(FLAG) for sentence in summary)
    return [
        {**about, **row, "permutation_p": tested.get(row["model"], np.nan), "site_flagged": flagged}
        for row in map(_named, shown[columns].join(less, on="model").to_dict("records"))
    ]


def _named(row: Mapping[Any, Any]) -> Row:
    return {str(name): value for name, value in row.items()}


def of_severity(out: Path) -> Iterator[Row]:
    """Heads and baselines at every severity."""
    latent = represented("severity", out)
    labels = written(severity_labels(read_manifest(out / "cohorts" / "severity")), out / "labels" / "severity.tsv")
    for severity in SEVERITIES:
        name = f"severity_{severity:g}"
        folder = out / "heads" / name
        study(latent, labels, name, ("control", "AD"), folder, heads=HEADS, permutations=PERMUTATIONS)
        yield from collected(folder, "severity", f"{severity:g}")


def of_null(out: Path) -> Iterator[Row]:
    """A logistic head on random labels."""
    latent, labels = represented("severity", out), out / "labels" / "severity.tsv"
    for draw in range(NUM_NULL):
        folder = out / "heads" / f"null_{draw}"
        keys: Keys = {"voxels": False, "volumes": (), "permutations": NULL_PERMUTATIONS}
        yield from collected(study(latent, labels, f"null_{draw}", ("A", "B"), folder, **keys), "null", str(draw))


def of_confounds(out: Path) -> Iterator[Row]:
    """Heads where cases come from one scanner, and from both."""
    latent = represented("confounded", out)
    people = read_manifest(out / "cohorts" / "confounded")
    labels = written(confounded_labels(people), out / "labels" / "confounded.tsv")
    draws = [f"{kind}_{draw}" for kind in ("nothing", "effect") for draw in range(NUM_DRAWS)]
    for name in ("balanced", *draws):
        for treatment, keys in (("as it is", {}), ("harmonised", HARMONISED)):
            folder = out / "heads" / f"{name}_{treatment.replace(' ', '_')}"
            more: Keys = {"voxels": False, "permutations": NULL_PERMUTATIONS, **keys}
            study(latent, labels, name, ("control", "case"), folder, **more)
            yield from collected(folder, "confounded", name, treatment)


# ----------------------------------------------------------------------------------------------------------------- stratify


class Strata(NamedTuple):
    """Input of `stratify`: subjects of a cohort, features, adjustment; and the column that holds the truth."""

    name: str
    cohort: str
    people: list[str]
    truth: str = ""
    channels: tuple[str, ...] = CHANNELS
    adjust: tuple[str, ...] = ("age_years", "sex")
    verb: type[Chosen] = Chosen

    @property
    def short(self) -> str:
        """Name of its folders."""
        return self.name.replace(",", "").replace(" ", "_")


def strata_cohorts(out: Path) -> Iterator[Strata]:
    """Subtypes, controls, and controls of two scanners, by T1w alone where only the scanner differs."""
    for what, severity, cohort in SUBTYPES:
        patients = read_manifest(out / "cohorts" / cohort)
        chosen = patients.loc[np.isclose(patients["severity"], severity), "subject"].tolist()
        yield Strata(f"two {what}, severity {severity:g}", cohort, chosen, "condition")
    both = read_manifest(out / "cohorts" / "compact_subtypes")["subject"].tolist()
    yield Strata("compact subtypes, a clinic each", "compact_subtypes", both, "site", verb=OneClinicEach)
    healthy = _controls(out, "severity")
    for draw in range(NUM_SUBSAMPLES):
        chosen = np.random.default_rng([44, draw]).choice(healthy, SUBSAMPLE, replace=False).tolist()
        yield Strata(f"controls, subsample {draw}", "severity", sorted(chosen))
    for what, cohort in (("alike", "confounded"), ("unlike", "scanners"), ("extreme", "extreme_scanners")):
        whom = _controls(out, cohort)
        yield Strata(f"controls, scanners {what}", cohort, whom, "site", T1W)
        yield Strata(f"controls, scanners {what}, adjusted", cohort, whom, "site", T1W, ("age_years", "sex", "site"))


def _controls(out: Path, cohort: str) -> list[str]:
    table = read_manifest(out / "cohorts" / cohort)
    return table.loc[table["diagnosis"] == "control", "subject"].tolist()


def of_strata(out: Path) -> Iterator[Row]:
    """Verdict of `stratify` on each cohort, and agreement of its clusters with the truth."""
    for asked in strata_cohorts(out):
        whom = asked.short.removesuffix("_adjusted")
        given: Keys = {"prepared": out / "cohorts" / asked.cohort, "people": asked.people}
        chosen = asked.verb.model_validate({**given, "out": out / "chosen" / whom}).run()
        latent = latents(chosen, whom, pca(asked.channels, 20), out, members=1)
        folder = out / "strata" / asked.short
        Stratify.model_validate({"latents": latent, "adjust": asked.adjust, "out": folder}).run()
        yield _strata_row(folder, asked.name, asked.truth)


def _strata_row(folder: Path, name: str, truth: str) -> Row:
    said = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    table = pd.read_csv(folder / "strata.tsv", sep="\t", na_values=["n/a"])
    tests = pd.read_csv(folder / "structure.tsv", sep="\t", na_values=["n/a"]).set_index("statistic")
    found = table
    if not said["structure"]:
        known = (folder / "exploratory.tsv").is_file()
        found = table[["key"]].assign(cluster="1")
        if known:
            found = pd.read_csv(folder / "exploratory.tsv", sep="\t", na_values=["n/a"])
    inside = table.drop(columns="cluster").merge(found[["key", "cluster"]].dropna(), on="key")
    clusters = np.unique(inside["cluster"].astype(str), return_inverse=True)[1]
    agreement, right = np.nan, -1
    if truth:
        real = np.unique(inside[truth].astype(str), return_inverse=True)[1]
        agreement = float(adjusted_rand_index(clusters, real))
        right = int(pd.crosstab(clusters, real).to_numpy().max(axis=1).sum())
    return {
        "question": "strata",
        "asked": name,
        "treatment": "",
        "structure": said["structure"],
        "num_clusters": len(np.unique(clusters)),
        "num_people": len(table),
        "follows": said["follows"],
        "num_right": right,
        "rand_index_with_truth": agreement,
        **{f"p_{index}": float(tests.loc[index, "p"]) for index in tests.index},
        "said": said["summary"][0],
    }


# ----------------------------------------------------------------------------------------------------------------- findings


def finding(what: str, measure: str, value: float, low: float, high: float, n: str) -> Row:
    """A line of the table of findings."""
    return {"what": what, "measure": measure, "value": value, "low": low, "high": high, "n": n}


def findings(rows: pd.DataFrame, strata: pd.DataFrame) -> pd.DataFrame:
    """Every figure of 13_heads_on_simulated_brains.md."""
    found: list[Row] = []
    for row in rows[rows["question"] == "severity"].to_dict("records"):
        n = f"{row['num_people']:.0f} people, {row['num_positive']:.0f} ill"
        what = f"severity {row['asked']}, {row['model']}"
        found.append(finding(what, "AUC", row["value"], row["low"], row["high"], n))
        less = [row[f"linear_minus_it_{column}"] for column in ("difference", "low", "high")]
        if np.isfinite(less[0]):
            found.append(finding(what, "AUC of linear minus it", less[0], less[1], less[2], n))
        if np.isfinite(row["permutation_p"]):
            found.append(finding(what, "permutation p", row["permutation_p"], np.nan, np.nan, n))
    found += _null_findings(rows[(rows["question"] == "null") & (rows["model"] == "linear")])
    found += _confound_findings(rows[rows["question"] == "confounded"])
    for row in strata.to_dict("records"):
        n = f"{row['num_people']} people"
        verdict = float(row["structure"])
        found.append(finding(f"strata: {row['asked']}", "structure found", verdict, np.nan, np.nan, n))
        if row["num_right"] >= 0:
            right = wilson_interval(int(row["num_right"]), int(row["num_people"]))
            what = f"strata: {row['asked']}{'' if row['structure'] else ' (exploratory)'}"
            found.append(finding(what, "people in their own group", right.value, right.low, right.high, n))
    null = strata[strata["asked"].str.startswith("controls, subsample")]
    none = wilson_interval(int((~null["structure"].astype(bool)).sum()), len(null))
    found.append(
        finding("strata: controls", "no structure", none.value, none.low, none.high, f"{len(null)} subsamples")
    )
    return pd.DataFrame(found)


def _null_findings(null: pd.DataFrame) -> list[Row]:
    covers = ((null["low"] <= 0.5) & (null["high"] >= 0.5)).to_numpy()
    covered, small = (
        wilson_interval(int(hits.sum()), len(null)) for hits in (covers, null["permutation_p"].to_numpy() <= 0.05)
    )
    step = 1 / (NULL_PERMUTATIONS + 1)
    # p are multiples of the step: spread them evenly within it before the test of uniformity.
    spread = np.random.default_rng(0).uniform(0, step, len(null))
    uniform = kstest(null["permutation_p"] - spread, "uniform")
    n = f"{len(null)} dealings of labels of {null['num_people'].iloc[0]:.0f} controls"
    return [
        finding("null, linear", "AUC, mean over dealings", *mean_interval(null["value"]), n),
        finding("null, linear", "AUC, SD over dealings", float(null["value"].std()), np.nan, np.nan, n),
        finding("null, linear", "share of 95 % intervals that cover .5", covered.value, covered.low, covered.high, n),
        finding("null, linear", "share of permutation p <= .05", small.value, small.low, small.high, n),
        finding("null, linear", "Kolmogorov-Smirnov p of permutation p", float(uniform.pvalue), np.nan, np.nan, n),
    ]


def _confound_findings(rows: pd.DataFrame) -> list[Row]:
    found = []
    rows = rows.assign(kind_of=rows["asked"].str.split("_").str[0])
    for (kind, treatment, model), group in rows.groupby(["kind_of", "treatment", "model"], sort=False):
        what, people = f"{kind}, {treatment}, {model}", group["num_people"].iloc[0]
        if kind == "balanced":
            only = group.iloc[0]
            found.append(finding(what, "AUC", only["value"], only["low"], only["high"], f"{people:.0f} people"))
            continue
        n = f"{len(group)} draws of {people:.0f} people"
        low, high = group["value"].min(), group["value"].max()
        found.append(finding(what, "AUC, mean and range over draws", float(group["value"].mean()), low, high, n))
        if model == "linear":
            covers = (group["low"] <= 0.5) & (group["high"] >= 0.5)
            for measure, hits in (
                ("share of intervals that cover .5", covers),
                ("share of draws whose site is flagged", group["site_flagged"]),
                ("share of draws with permutation p <= .05 (within sites)", group["permutation_p"] <= 0.05),
            ):
                share = wilson_interval(int(hits.sum()), len(group))
                found.append(finding(what, measure, share.value, share.low, share.high, n))
    return found


def mean_interval(values: pd.Series) -> tuple[float, float, float]:
    """Mean with its interval by Student's t."""
    half = float(student_t.ppf(0.975, len(values) - 1) * values.std() / np.sqrt(len(values)))
    return float(values.mean()), float(values.mean()) - half, float(values.mean()) + half


# ------------------------------------------------------------------------------------------------------------------- figure


def draw(rows: pd.DataFrame, strata: pd.DataFrame, out: Path, path: Path) -> None:
    """Severity, null, confound and map."""
    figure, panels = plt.subplots(2, 2, figsize=(12, 9), layout="constrained")
    _draw_severity(panels[0, 0], rows[rows["question"] == "severity"])
    _draw_null(panels[0, 1], rows[(rows["question"] == "null") & (rows["model"] == "linear")])
    _draw_confounds(panels[1, 0], rows[rows["question"] == "confounded"])
    _draw_strata(panels[1, 1], strata, out)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_severity(axes: Any, rows: pd.DataFrame) -> None:
    best = {"linear": "C0", "svm": "C9", "boosting": "C4", "mlp": "C6", "hippocampus_ml": "C3", "covariates": "0.6"}
    others = [name for name in rows["model"].unique() if "voxel" in name or name == "covariates and volumes"]
    colours = best | dict(zip(others, ("C1", "C2", "C5"), strict=False))
    for place, (name, colour) in enumerate(colours.items()):
        here = rows[rows["model"] == name]
        if here.empty:
            continue
        x = np.arange(len(here)) + 0.06 * (place - len(colours) / 2)
        error = [here["value"] - here["low"], here["high"] - here["value"]]
        style = "-o" if here["kind"].iloc[0] == "head" else "--s"
        axes.errorbar(x, here["value"], yerr=error, fmt=style, ms=4, lw=1, elinewidth=0.6, color=colour, label=name)
    axes.axhline(0.5, color="0.7", lw=0.8, ls=":")
    axes.set_xticks(range(len(SEVERITIES)), [f"{value:g}" for value in SEVERITIES])
    n = f"{rows['num_positive'].iloc[0]:.0f} of {rows['num_people'].iloc[0]:.0f} people AD-like"
    axes.set(xlabel="severity (1: mean patient)", ylabel="AUC, 95 %", title=f"AD-like atrophy, {n} at each severity")
    axes.set_xlim(-0.5, len(SEVERITIES) + 0.4)
    axes.legend(fontsize=6.5, loc="lower right")


def _draw_null(axes: Any, null: pd.DataFrame) -> None:
    ordered = null.sort_values("value").reset_index(drop=True)
    covers = (ordered["low"] <= 0.5) & (ordered["high"] >= 0.5)
    for colour, chosen in (("C0", covers), ("C3", ~covers)):
        part = ordered[chosen]
        error = [part["value"] - part["low"], part["high"] - part["value"]]
        axes.errorbar(part.index, part["value"], yerr=error, fmt="o", ms=3, lw=0.8, color=colour)
    axes.axhline(0.5, color="0.7", lw=0.8, ls=":")
    axes.set(xlabel="dealings of labels, by AUC", ylabel="AUC, 95 %")
    axes.set_title(f"Labels by lot: {int(covers.sum())} of {len(covers)} intervals cover .5")
    axes.set_ylim(-0.25, 1.02)
    axes.set_yticks(np.arange(0, 1.1, 0.2))
    inset = axes.inset_axes((0.68, 0.06, 0.29, 0.26))
    inset.plot([0, 1], [0, 1], color="0.7", lw=0.8)
    p = np.sort(null["permutation_p"].to_numpy())
    inset.plot((np.arange(len(p)) + 0.5) / len(p), p, ".", ms=4, color="C0")
    inset.set_title("permutation p against uniform", fontsize=7)
    inset.tick_params(labelsize=6)


def _draw_confounds(axes: Any, rows: pd.DataFrame) -> None:
    columns = [
        (kind, treatment) for kind in ("nothing", "effect", "balanced") for treatment in ("as it is", "harmonised")
    ]
    for place, (kind, treatment) in enumerate(columns):
        here = rows[rows["asked"].str.startswith(kind) & (rows["treatment"] == treatment)]
        for model, colour, shift in (("linear", "C0", -0.12), ("site", "C3", 0.12)):
            part = here[here["model"] == model]
            x = place + shift + np.linspace(-0.08, 0.08, len(part)) if len(part) > 1 else [place + shift]
            error = [part["value"] - part["low"], part["high"] - part["value"]]
            label = {"linear": "head", "site": "site alone"}[model] if place == 0 else None
            axes.errorbar(x, part["value"], yerr=error, fmt="o", ms=3, lw=0.5, color=colour, label=label)
    axes.axhline(0.5, color="0.7", lw=0.8, ls=":")
    names = {
        "nothing": "nothing,\nconfounded",
        "effect": "AD-like,\nconfounded",
        "balanced": "AD-like,\nbalanced",
    }
    axes.set_xticks(range(len(columns)), [f"{names[kind]}\n{treatment}" for kind, treatment in columns], fontsize=7)
    axes.set(ylabel="AUC, 95 %", title="Two scanners; confounded: 80 % of cases from one (10 draws)")
    axes.legend(fontsize=8, loc="lower left")


def _draw_strata(axes: Any, strata: pd.DataFrame, out: Path) -> None:
    name = strata["asked"].iloc[0]
    table = pd.read_csv(out / "strata" / name.replace(",", "").replace(" ", "_") / "strata.tsv", sep="\t")
    for condition, colour in (("temporal", "C0"), ("cerebellar", "C1")):
        part = table[table["condition"] == condition]
        axes.plot(part["pc1"], part["pc2"], "o", ms=4, color=colour, label=condition)
    axes.set(xlabel="pc1", ylabel="pc2", title=f"Strata: {name}, by what was planted")
    axes.legend(fontsize=7, loc="lower center")
    alone = strata["asked"].str.startswith("controls, subsample")
    lines = [f"{row['asked']} (n {row['num_people']}): {_verdict(row)}" for row in strata[~alone].to_dict("records")]
    none = int((~strata.loc[alone, "structure"].astype(bool)).sum())
    lines.append(f"controls, {alone.sum()} subsamples (n {SUBSAMPLE}): no stable structure in {none}")
    axes.text(0.0, -0.18, "\n".join(lines), transform=axes.transAxes, fontsize=7, va="top")


def _verdict(row: Mapping[Any, Any]) -> str:
    if not row["structure"]:
        return "no stable structure"
    follows = f", follow {row['follows']}" if isinstance(row["follows"], str) else ""
    return f"{row['num_clusters']} clusters{follows}"


def main() -> None:
    """Run what is not finished; write the tables and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--workers", type=int, default=0, help="people simulated at a time; 0: one per core")
    given = parser.parse_args()
    for name in COHORTS:
        simulated(name, given.out, given.workers)
    rows = pd.DataFrame([*of_severity(given.out), *of_null(given.out), *of_confounds(given.out)])
    strata = pd.DataFrame(of_strata(given.out))
    pd.concat([rows, strata]).to_csv(
        given.out / "studies.tsv", sep="\t", index=False, na_rep="n/a", float_format="%.4g"
    )
    found = findings(rows, strata)
    found.to_csv(given.out / "findings.tsv", sep="\t", index=False, na_rep="n/a", float_format="%.4g")
    print(found.to_string(index=False, float_format=lambda value: f"{value:.3f}"))
    draw(rows, strata, given.out, given.out / "heads.png")


if __name__ == "__main__":
    run_script(main)
