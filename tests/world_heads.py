"""Small finished folders of classify, stratify, harmonise and predict with known numbers, as the verbs write them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from gen3d.classify.folder import write_predictions, write_study
from gen3d.cohort.manifest import scan_key
from gen3d.cohort.tested_folds import PREDICTIONS
from gen3d.harmonise.folder import write_harmonised
from gen3d.imaging.plan import GridPlan
from gen3d.imaging.template import template_on
from gen3d.stratify.folder import write_mean_map, write_strata, write_thumbnail
from tests.world import write_record

HEADS = {"logistic": 0.84, "linear_svm": 0.81, "mlp": 0.79}
BASELINES = {"hippocampus_ml": 0.77, "covariates": 0.67, "voxelwise_svm": 0.74}
HALF = 0.06  # half width of every interval
VERDICT = "AD is told from CN with an AUC of 0.84 [0.78, 0.90] by logistic, better than by the best baseline."
WAIVER = "3 of 60 people (s01, s02, s03) were seen by a model behind these features, and are tested all the same"
UNUSUAL = "the scan is more unusual than 99.9 % of 60 training people (distance)"
NUM_BINS = 5


def frames(tables: dict[str, list[dict[str, Any]]]) -> dict[str, pd.DataFrame]:
    """Rows as tables."""
    return {name: pd.DataFrame(rows) for name, rows in tables.items()}


def write_head(folder: Path, metrics: dict[str, Any], predicted: list[dict[str, Any]]) -> None:
    """Write a classify folder with `metrics`, its tables among them."""
    folder.mkdir(parents=True)
    checklist = [{"item": "TRIPOD+AI 5a", "answer": "Subject-level nested cross-validation", "by": "software"}]
    described = {name: value for name, value in metrics.items() if name != "tables"}
    write_study(folder, pd.DataFrame(predicted), described, frames(metrics["tables"]), pd.DataFrame(checklist))


def cohort(num: int = 60, seed: int = 0) -> pd.DataFrame:
    """A cohort table of `num` people, half of them CN."""
    generator = np.random.default_rng(seed)
    rows = [
        {
            "key": scan_key(f"s{index:02d}", "1"),
            "subject": f"s{index:02d}",
            "session": "1",
            "site": "AB"[index % 2],
            "age_years": round(float(generator.uniform(55, 90)), 1),
            "sex": "FM"[index % 3 > 0],
            "diagnosis": "CN" if index < num // 2 else "AD",
        }
        for index in range(num)
    ]
    return pd.DataFrame(rows)


def span(value: float, half: float = HALF) -> dict[str, float]:
    """value, low and high."""
    return {"value": round(value, 4), "low": round(value - half, 4), "high": round(value + half, 4)}


def performance(num: int, num_positive: int) -> list[dict[str, Any]]:
    """Rows of all measures of all models."""
    rows = []
    for kind, models in (("head", HEADS), ("baseline", BASELINES)):
        for model, auc in models.items():
            found = {
                "auc": auc, "auprc": auc - 0.03, "balanced_accuracy": auc - 0.08, "accuracy": auc - 0.07,
                "sensitivity": auc - 0.05, "specificity": auc - 0.11, "brier": 0.3 - auc / 5, "ece": 0.05,
                "calibration_slope": 0.95, "calibration_intercept": -0.02,
            }  # fmt: skip
            rows += [
                {"model": model, "kind": kind, "measure": measure, "class": None, **span(value)}
                | {"num_people": num, "num_positive": num_positive}
                for measure, value in found.items()
            ]
    return rows


def curve(auc: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A ROC curve with a known area: true = false ** (1 / auc - 1)."""
    false = np.linspace(0, 1, 21)
    return false, false ** (1 / auc - 1)


def _tables(num: int, num_positive: int) -> dict[str, list[dict[str, Any]]]:
    both = {**HEADS, **BASELINES}
    pairs = [(a, b) for a in HEADS for b in both if a != b]
    prevalences = (0.03, 0.1, 0.25)
    found: dict[str, list[dict[str, Any]]] = {
        "performance": performance(num, num_positive),
        "differences": [
            {"model": a, "against": b, "measure": "auc", "difference": round(both[a] - both[b], 4)}
            | {"low": round(both[a] - both[b] - 0.05, 4), "high": round(both[a] - both[b] + 0.05, 4)}
            | {"p_delong": 0.021, "p_resampled": 0.064, "num_people": num}
            for a, b in pairs
        ],
        "permutation": [
            {"model": model, "statistic": "auc", "value": auc, "null_mean": 0.501, "null_low": 0.41, "null_high": 0.59}
            | {"p": 0.001, "num_permutations": 1000}
            for model, auc in both.items()
        ],
        "roc": [
            {"model": model, "false_positive_rate": x, "true_positive_rate": y, "threshold": 1 - x}
            for model, auc in both.items()
            for x, y in zip(*curve(auc), strict=True)
        ],
        "reliability": [
            {"model": model, "bin": index, "predicted": (index + 0.5) / NUM_BINS}
            | {"observed": min(1.0, (index + 0.4) / NUM_BINS), "low": max(0.0, (index - 0.3) / NUM_BINS)}
            | {"high": min(1.0, (index + 1.2) / NUM_BINS), "num": 8 + 2 * index}
            for model in both
            for index in range(NUM_BINS)
        ],
        "confusion": [
            {"model": model, "true": true, "predicted": given, "num": 24 if true == given else 6}
            for model in both
            for true in ("CN", "AD")
            for given in ("CN", "AD")
        ],
        "decision": [
            {"model": model, "threshold_probability": t, "net_benefit": 0.5 * auc - 0.45 * t}
            | {"net_benefit_all": 0.5 - 0.5 * t / (1 - t)}
            for model, auc in both.items()
            for t in np.linspace(0.02, 0.9, 23).tolist()
        ],
        "subgroups": [
            {"model": model, "column": column, "group": group, "measure": "auc", **span(auc - 0.02 * index, 0.1)}
            | {"num_people": 30, "num_positive": 15}
            for model, auc in both.items()
            for index, (column, group) in enumerate((("sex", "F"), ("sex", "M"), ("site", "A"), ("site", "B")))
        ],
    }
    found["predictive_values"] = [
        {"model": model, "prevalence": p, "ppv": ppv, "ppv_low": ppv - 0.04, "ppv_high": ppv + 0.04}
        | {"npv": 0.97, "npv_low": 0.95, "npv_high": 0.98}
        for model in both
        for p, ppv in zip(prevalences, (0.094, 0.271, 0.527), strict=True)
    ]
    return found


def predictions(table: pd.DataFrame, split: str = "cross-validation", seed: int = 1) -> list[dict[str, Any]]:
    """One row per head and scan."""
    generator = np.random.default_rng(seed)
    rows = []
    for model in HEADS:
        for _, person in table.iterrows():
            ill = person["diagnosis"] == "AD"
            p = float(np.clip(generator.normal(0.65 if ill else 0.35, 0.2), 0.02, 0.98))
            kept = ("key", "subject", "session", "site", "age_years", "sex")
            rows.append(
                {name: person[name] for name in kept}
                | {"model": model, "kind": "head", "repeat": 0, "fold": 0, "split": split}
                | {"y_true": person["diagnosis"], "y_score": p, "y_pred": "AD" if p >= 0.5 else "CN", "threshold": 0.5}
                | {"p_CN": 1 - p, "p_AD": p}
            )
    return rows


def classify(folder: Path, waivers: tuple[str, ...] = (), **replaced: Any) -> Path:
    """A finished classify folder of two classes; `replaced` parts of metrics.json."""
    table = cohort()
    tables = _tables(len(table), 30)
    metrics = {
        "target": {"name": "diagnosis", "task": "categories", "classes": ["CN", "AD"]},
        "summary": [VERDICT, "Calibration: slope 0.95 [0.89, 1.01]."],
        "people": {"num_people": 60, "num_scans": 64, "by_class": {"CN": 30, "AD": 30}}
        | {"left_out": ["4 people without a diagnosis are left out."]},
        "guard": {"seen_policy": "refuse", "num_seen": 0, "waivers": list(waivers), "duplicates": []},
        "models": [
            {"name": name, "kind": kind, "features": "latents of the VAE", "settings": {"C": {"0.1": 12, "1": 3}}}
            for kind, names in (("head", HEADS), ("baseline", BASELINES))
            for name in names
        ],
        "tables": tables,
    } | replaced
    metrics["tables"] = replaced.get("tables", tables)
    write_head(folder, metrics, predictions(table))
    write_record(folder, "classify")
    return folder


def external(folder: Path) -> Path:
    """Saved heads on people of other data, all of them ill: sensitivity alone."""
    table = cohort()
    table = table[table["diagnosis"] == "AD"]
    rows = [row for row in performance(30, 30) if row["measure"] == "sensitivity"]
    classify(
        folder,
        summary=["Sensitivity 0.79 [0.73, 0.85] at the threshold set before."],
        people={"num_people": 30, "num_scans": 30, "by_class": {"CN": 0, "AD": 30}, "left_out": []},
        tables={"performance": rows},
    )
    PREDICTIONS.write(folder, pd.DataFrame(predictions(table, "external")))
    return folder


def stages(folder: Path) -> Path:
    """Three ordered stages."""
    classes = ["0", "0.5", "1"]
    rows: list[dict[str, Any]] = []
    for kind, models in (("head", HEADS), ("baseline", BASELINES)):
        for model, auc in models.items():
            together = {
                "macro_auc": auc,
                "kappa": auc - 0.3,
                "mean_absolute_grade_error": 0.4,
                "balanced_accuracy": 0.6,
            }
            found: list[tuple[str, str | None, float]] = [(measure, None, value) for measure, value in together.items()]
            found += [("auc", name, auc - 0.05 * index) for index, name in enumerate(classes)]
            rows += [
                {"model": model, "kind": kind, "measure": measure, "class": name, **span(value), "num_people": 60}
                for measure, name, value in found
            ]
    counts = [[20, 6, 1], [5, 11, 4], [0, 3, 10]]
    confusion = [
        {"model": model, "true": a, "predicted": b, "num": counts[i][j]}
        for model in HEADS
        for i, a in enumerate(classes)
        for j, b in enumerate(classes)
    ]
    metrics = {
        "target": {"name": "cdr", "task": "ordered", "classes": classes},
        "summary": ["Stages are told with a macro AUC of 0.84 [0.78, 0.90]."],
        "people": {"num_people": 60, "num_scans": 60, "by_class": {"0": 27, "0.5": 20, "1": 13}},
        "tables": {"performance": rows, "confusion": confusion},
    }
    write_head(folder, metrics, predictions(cohort()))
    write_record(folder, "classify")
    return folder


def brain_age(folder: Path) -> Path:
    """A number: age."""
    table = cohort()
    generator = np.random.default_rng(3)
    rows = [
        {"key": key, "subject": subject, "model": "ridge", "kind": "head", "repeat": repeat, "fold": 0}
        | {
            "split": "cross-validation",
            "y_true": age,
            "y_score": 0.0,
            "predicted": 70 + 0.6 * (age - 70) + noise + repeat,
        }
        for key, subject, age, noise in zip(
            table["key"], table["subject"], table["age_years"], generator.normal(0, 3, len(table)), strict=True
        )
        for repeat in (0, 1)
    ]
    measures = [
        {"model": model, "kind": kind, "measure": measure, "class": None, **span(value, 0.3), "num_people": 60}
        for model, kind, mae in (("ridge", "head", 4.6), ("covariates", "baseline", 8.1))
        for measure, value in (("mae", mae), ("rmse", mae * 1.2), ("r2", 0.5), ("pearson", 0.7))
    ]
    metrics = {
        "target": {"name": "age_years", "task": "number", "classes": []},
        "summary": ["Age is told with a mean absolute error of 4.6 years [4.3, 4.9]."],
        "people": {"num_people": 60, "num_scans": 60, "by_class": {}},
        "tables": {"performance": measures},
    }
    write_head(folder, metrics, rows)
    write_record(folder, "classify")
    return folder


def thumbnail(index: int, side: int = 64) -> bytes:
    """A grey picture of an ellipse with noise, as PNG."""
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    inside = x**2 / 0.55 + y**2 / 0.8 < 1
    noise = np.random.default_rng(index).normal(0, 14, (side, side))
    values = np.where(inside, 120 + 40 * np.cos(6 * x + index) + noise, 0)
    buffer = io.BytesIO()
    Image.fromarray(np.clip(values, 0, 255).astype(np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def stratify(folder: Path, num: int = 60, plan: GridPlan | None = None) -> Path:
    """A finished stratify folder with clusters 1 to 3 and two people in none; maps on `plan` where it is given."""
    table = cohort(num)
    generator = np.random.default_rng(5)
    cluster = np.arange(num) * 3 // num
    centres = np.array([[-4.0, 0.0], [4.0, 2.0], [0.0, -5.0]])[cluster]
    table[["umap1", "umap2"]] = np.round(centres + generator.normal(0, 0.9, (num, 2)), 4)
    table[["pc1", "pc2"]] = np.round(centres / 2 + generator.normal(0, 1.4, (num, 2)), 4)
    table["mmse"] = np.where(table["diagnosis"] == "AD", 22.0, np.nan)
    table["cluster"] = ["" if index < 2 else str(number + 1) for index, number in enumerate(cluster)]
    table["certainty"] = np.where(np.arange(num) < 2, np.nan, 0.9)
    table["consensus"] = 0.85
    associations = [
        {"column": "site", "confound": True, "num": num, "effect": 0.02, "effect_name": "Cramer's V", "p": 0.61}
        | {"q": 0.73, "p_adjusted": None},
        {"column": "diagnosis", "confound": False, "num": num, "effect": 0.71, "effect_name": "Cramer's V", "p": 0.001}
        | {"q": 0.004, "p_adjusted": 0.001},
    ]
    tables: dict[str, list[dict[str, Any]]] = {
        "associations": associations,
        "structure": [
            {"statistic": "separation", "value": 5.1, "null_mean": 1.2, "null_95": 2.0, "p": 0.0099},
            {"statistic": "bootstrap_ari", "value": 0.91, "null_mean": 0.4, "null_95": 0.55, "p": 0.0099},
        ],
        "solutions": [
            {"k": 1, "bic": 900.0, "silhouette": None, "ari": None, "ari_low": None, "ari_high": None}
            | {"smallest": num, "chosen": False},
            {"k": 3, "bic": 700.0, "silhouette": 0.61, "ari": 0.91, "ari_low": 0.84, "ari_high": 0.97}
            | {"smallest": 18, "chosen": True},
        ],
        "clusters": [
            {"cluster": str(number), "num_people": num // 3, "share": 0.33, "stability": 0.9 + number / 100}
            | {"consensus": 0.85}
            for number in (1, 2, 3)
        ],
        "map_quality": [
            {"map": "umap", "trustworthiness": 0.93, "continuity": 0.95, "neighbours": 15, "num_people": num}
        ],
        "exploratory": [{"key": key, "cluster": "1"} for key in table["key"]],
    }
    metrics = {
        "summary": ["3 stable clusters among 60 people (n 18, 20, 20).", "They do not follow site."],
        "structure": True,
        "num_clusters": 3,
    }
    folder.mkdir(parents=True)
    write_strata(folder, table, metrics, frames(tables))
    for index, key in enumerate(table["key"]):
        write_thumbnail(folder, key, thumbnail(index))
    if plan is not None:
        mask = np.asarray(template_on(plan).mask)
        for number in range(3):
            values = np.where(mask, generator.normal(0, 0.3, mask.shape), 0.0).astype(np.float32)
            values[mask.shape[0] // 2 :] += np.where(mask[mask.shape[0] // 2 :], number - 1.0, 0.0)
            write_mean_map(folder, str(number + 1), "deformation", values, plan.matrix)
    write_record(folder, "stratify")
    return folder


def harmonise(folder: Path) -> Path:
    """A finished harmonise folder."""
    values = {"before": 0.93, "after": 0.52, "after minus before": -0.41}
    sites = [
        {"stage": stage, "classifier": "linear", "measure": "macro_auc", **span(value, 0.05)}
        | {"chance": 0.5, "num_people": 60, "num_sites": 2}
        for stage, value in values.items()
    ]
    kept = [
        {"stage": stage, "column": "age_years", "task": "number", "measure": "r2", **span(value, 0.11)}
        | {"chance": 0.0, "num_people": 60}
        for stage, value in (("before", 0.61), ("after", 0.6), ("after minus before", -0.01))
    ]
    people = [
        {"site": site, "num_scans": 32, "num_people": 30, "num_fitted": 30, "shift_sd": shift, "scale": 1.1}
        | {"estimated_from": "everybody"}
        for site, shift in (("A", 0.4), ("B", -0.4))
    ]
    tables: dict[str, list[dict[str, Any]]] = {"sites": sites, "kept": kept, "people": people}
    summary = ["The site is told with an AUC of 0.93 [0.88, 0.97] before, and of 0.52 [0.43, 0.61] after."]
    folder.mkdir(parents=True)
    write_harmonised(folder, {}, frames(tables), summary, thumbnail(7, 200))
    write_record(folder, "harmonise")
    return folder


def predict(folder: Path, head: Path, strata: Path | None = None, num: int = 8) -> Path:
    """A finished predict folder of `num` new people; the second lies far from everybody."""
    rows, neighbours = [], []
    for index in range(num):
        p = round((index + 0.5) / num, 4)
        key = scan_key(f"new{index}", "1")
        rows.append(
            {"key": key, "subject": f"new{index}", "session": "1", "site": "C", "age_years": 60.0 + index, "sex": "F"}
            | {"p_CN": 1 - p, "p_AD": p, "y_score": p, "y_pred": "AD" if p >= 0.5 else "CN", "threshold": 0.5}
            | {"reliability_observed": 0.71, "reliability_low": 0.56, "reliability_high": 0.83, "reliability_num": 41}
            | {"typicality_percentile": 99.9 if index == 1 else 50.0, "typicality_p": 0.01 if index == 1 else 0.5}
            | {"out_of_distribution": UNUSUAL if index == 1 else "", "seen": "vae (train)" if index == 2 else ""}
            | (
                {"pc1": 1.0, "pc2": float(index - 4), "umap1": float(index - 4), "umap2": 0.5}
                if strata is not None
                else {}
            )
            | ({"cluster": str(index % 3 + 1), "certainty": 0.8} if strata is not None else {})
        )
        neighbours += [
            {"key": key, "rank": rank, "neighbour_key": scan_key(f"s{10 * rank:02d}", "1"), "distance": 1.5 * rank}
            | {"neighbour_y": "AD" if rank == 3 else "CN", "age_years": 70.0 + rank, "sex": "M", "diagnosis": "CN"}
            for rank in (1, 2, 3)
        ]
    folder.mkdir(parents=True)
    summary = [f"{num // 2} of {num} scans are called AD.", "1 scan is unlike the training people."]
    write_predictions(folder, pd.DataFrame(rows), pd.DataFrame(neighbours), {"summary": summary}, [])
    inputs = {"head": [head]} | ({"strata": [strata]} if strata is not None else {})
    write_record(folder, "predict", inputs)
    return folder


def build_heads(root: Path, plan: GridPlan) -> tuple[Path, ...]:
    """A folder of each of the four verbs under `root`, all made from each other."""
    head = classify(root / "heads" / "ad")
    strata = stratify(root / "strata", plan=plan)
    return head, strata, harmonise(root / "latents_h"), predict(root / "predictions", head, strata)
