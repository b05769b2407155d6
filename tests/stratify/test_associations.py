"""Associations against scipy's tests, and confounds that explain what looks like an effect."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2_contingency, kruskal

from gen3d.maths.significance import fdr_adjust
from gen3d.stratify.associations import associations, corrected_cramers_v, is_confound, strongest_confound


def cohort(num: int = 150, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Three clusters; site B is in the first one, age differs, the rest is noise."""
    generator = np.random.default_rng(seed)
    clusters = np.arange(num) % 3
    table = pd.DataFrame(
        {
            "key": [f"sub-{index}" for index in range(num)],
            "subject": [f"{index}" for index in range(num)],
            "site": np.where((clusters == 0) & (generator.random(num) < 0.9), "B", "A"),
            "age_years": 70 + 3 * (clusters == 1) + generator.normal(0, 5, num),
            "sex": generator.choice(["F", "M"], num),
            "diagnosis": generator.choice(["CN", "AD"], num),
            "role": np.where(clusters == 0, "test", "evaluation"),
            "mmse": generator.integers(20, 31, num).astype(float),
            "constant": 1.0,
            "comment": [f"scan {index}" for index in range(num)],
        }
    )
    return table, clusters


def row(found: pd.DataFrame, column: str) -> pd.Series:
    return found.set_index("column").loc[column]


def test_numbers_are_kruskal_and_wallis() -> None:
    table, clusters = cohort()
    table.loc[[0, 5, 7], "age_years"] = np.nan
    found = row(associations(table, clusters, 199, 0), "age_years")
    known = table["age_years"].notna().to_numpy()
    groups = [table["age_years"][known & (clusters == cluster)] for cluster in range(3)]
    reference = kruskal(*groups)
    assert found["num"] == 147
    assert found["p"] == pytest.approx(reference.pvalue)
    assert found["effect"] == pytest.approx(reference.statistic / 146)
    assert found["effect_name"] == "epsilon squared"


def test_ties_are_corrected_for() -> None:
    table, clusters = cohort()
    found = row(associations(table, clusters, 49, 0), "mmse")
    assert found["p"] == pytest.approx(kruskal(*[table["mmse"][clusters == cluster] for cluster in range(3)]).pvalue)


def test_categories_are_chi_squared() -> None:
    table, clusters = cohort()
    found = row(associations(table, clusters, 1999, 0), "sex")
    counts = pd.crosstab(table["sex"], clusters)
    reference = chi2_contingency(counts, correction=False)
    assert found["p"] == pytest.approx(reference.pvalue, abs=0.04)
    assert found["effect"] == pytest.approx(corrected_cramers_v(reference.statistic, 150, 2, 3))


def test_corrected_v() -> None:
    assert corrected_cramers_v(100.0, 100, 2, 2) == pytest.approx(1.0)
    assert corrected_cramers_v(1.0, 100, 2, 2) == 0
    # Bergsma 2013: phi2 = max(0, 0.3 - 2 / 99), k = 2 - 1 / 99, r = 3 - 4 / 99
    assert corrected_cramers_v(30.0, 100, 2, 3) == pytest.approx(np.sqrt((0.3 - 2 / 99) / (1 - 1 / 99)))


def test_confounds_come_first_and_bookkeeping_is_skipped() -> None:
    table, clusters = cohort()
    found = associations(table, clusters, 99, 0)
    assert found["confound"].tolist() == sorted(found["confound"], reverse=True)
    assert found["column"].tolist()[:3] in (["site", "age_years", "sex"], ["age_years", "site", "sex"])
    assert not {"key", "subject", "role", "constant", "comment"} & set(found["column"])
    np.testing.assert_allclose(found["q"], fdr_adjust(found["p"].to_numpy()))
    assert found.loc[found["confound"], "p_adjusted"].isna().all()
    assert found.loc[~found["confound"], "p_adjusted"].notna().all()
    strongest = strongest_confound(found)
    assert strongest is not None
    assert strongest["column"] == "site"


def test_what_a_site_explains_is_gone_when_site_is_held_fixed() -> None:
    """A column that differs between sites alone differs between clusters that follow the site, until adjusted."""
    table, clusters = cohort(240)
    generator = np.random.default_rng(1)
    table["volume_ml"] = 2.0 * (table["site"] == "B") + generator.normal(0, 1, 240)
    table["real_ml"] = 1.5 * (clusters == 2) + generator.normal(0, 1, 240)
    found = associations(table, clusters, 299, 0)
    assert row(found, "volume_ml")["q"] < 0.001
    assert row(found, "volume_ml")["p_adjusted"] > 0.05
    assert row(found, "real_ml")["p_adjusted"] < 0.01


def test_adjusted_p_is_uniform_under_the_null() -> None:
    table, clusters = cohort(90)
    generator = np.random.default_rng(2)
    for place in range(60):
        table[f"marker{place}"] = 2.0 * (table["site"] == "B") + generator.normal(0, 1, 90)
    found = associations(table, clusters, 99, 0)
    p = found.loc[found["column"].str.startswith("marker"), "p_adjusted"].to_numpy()
    assert (p < 0.05).mean() < 0.15
    assert 0.35 < p.mean() < 0.65


def test_nothing_explains_random_clusters() -> None:
    table, _ = cohort()
    found = associations(table, np.random.default_rng(0).integers(0, 3, 150), 199, 0)
    assert (found["q"] > 0.05).all()
    assert strongest_confound(found) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("site", True),
        ("Scanner_Model", True),
        ("qc_score", True),
        ("age_years", True),
        ("mmse", False),
        ("emotion", False),
    ],
)
def test_confounds_are_known_by_name(name: str, expected: bool) -> None:
    assert is_confound(name) is expected
