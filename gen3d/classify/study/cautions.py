"""Warnings next to the verdict: what may predict the target without being the disease."""

from __future__ import annotations

import numpy as np
import pandas as pd

from gen3d.classify.study.contestants import SITE
from gen3d.classify.study.question import Question
from gen3d.cohort.target import as_label
from gen3d.core import words as spell

UNEVEN_GAPS = 0.1
"""Difference between classes in the share of missing values from which a warning is written."""


def cautions(question: Question, tables: dict[str, pd.DataFrame]) -> list[str]:
    """Warnings next to the verdict: classes that exist at one site only, and a site that predicts the target."""
    lines = _gaps(question)
    if question.target.name == SITE:
        return lines
    lines += [
        f"{label} exists at the site {site} only, so a classifier of {label} may be a classifier of the scanner."
        for label, site in question.one_site_classes
    ]
    rows = tables["performance"]
    site = rows[(rows["model"] == SITE) & rows["measure"].isin(["auc", "macro_auc"])]
    if len(site) and float(site["low"].iloc[0]) > 0.5:
        value, low, high = (float(site[name].iloc[0]) for name in ("value", "low", "high"))
        cure = (
            "harmonisation was fitted within the folds"
            if question.settings.harmonise is not None
            else "run with harmonise.by=site and with split=sites to see what remains without it"
        )
        lines.append(
            f"The site alone predicts {question.target.describe()} with an AUC of {spell.interval(value, low, high)}: site and "
            f"{question.target.name} are confounded; {cure}."
        )
    return lines


def _gaps(question: Question) -> list[str]:
    """Warnings about columns whose missing values predict the class: they are missing more often in one class."""
    target, table = question.target, question.features.table
    if target.task == "number":
        return []
    lines = []
    for name in dict.fromkeys((*question.settings.covariates, *(question.settings.volumes or ()))):
        if name not in table.columns:
            continue
        missing = np.array([as_label(value) == "" for value in table[name]])
        shares = {label: float(missing[question.codes == code].mean()) for code, label in enumerate(target.classes)}
        if max(shares.values()) - min(shares.values()) >= UNEVEN_GAPS:
            listed = ", ".join(f"{spell.percent(share, 0)} of {label}" for label, share in shares.items())
            lines.append(
                f"{name} is missing in {listed}, so its missing values predict the class in every baseline that uses it."
            )
    return lines
