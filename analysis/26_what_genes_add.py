"""What do genes add to a scan, and which joins and controls tell?

    python analysis/26_what_genes_add.py --out FOLDER [--real TABLE] [--parts defects planted truth by_row null volumes real]

People are simulated with genotypes (`gen3d simulate genotypes=...`) but without images: their features are the log volumes of
regions that their anatomy, condition and alleles give, with an error of measurement. Genotypes pass through `gen3d genotypes`,
features and genes through `gen3d classify`. Prints the tables of 26_what_genes_add.md.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from people_with_genes import SEED, checked, cohort, features, volumes

from gen3d.classify.classify import Classify
from gen3d.core.errors import UserError
from gen3d.genotypes.genotypes import Genotypes
from gen3d.maths.stats import auroc
from gen3d.simulate.folder import FOLDER, WEIGHTS
from gen3d.simulate.genes import CohortGenes

ARMS: dict[str, dict[str, Any]] = {
    "planted": {"apoe_on_risk": 1.2, "polygenic_on_risk": 0.8, "apoe_on_hippocampus": -0.03},
    "null": {"apoe_on_risk": 0.0, "polygenic_on_risk": 0.0, "apoe_on_hippocampus": 0.0},
    "volumes": {"apoe_on_risk": 0.0, "polygenic_on_risk": 0.0, "apoe_on_hippocampus": -0.06},
}
PARTS = ("defects", "planted", "truth", "by_row", "null", "volumes", "real")
STUDY: dict[str, Any] = {
    "target": "diagnosis",
    "classes": ["control", "AD"],
    "heads": ["linear"],
    "voxels": False,
    "permutations": 0,
    "bootstrap": 500,
    "repeats": 1,
    "gene_permutations": 19,
}


def studied(out: Path, latents: Path, genotypes: Path, **settings: Any) -> dict[str, Any]:
    """`gen3d classify` with genotypes; its metrics."""
    Classify.model_validate(STUDY | {"latents": latents, "genotypes": genotypes, "out": out} | settings).run()
    metrics: dict[str, Any] = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    return metrics


def shown(metrics: dict[str, Any], title: str) -> None:
    """The figures of a study."""
    print(f"\n### {title}\n\n{metrics['genes']['summary'][0]}")
    tables = metrics["tables"]
    for row in tables["genes_performance"]:
        if row["measure"] == "auc":
            print(
                f"| {row['model']} | {row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}] | {row['num_people']} |"
            )
    for row in tables["genes_gain"]:
        if row["model"] == "late fusion":
            gain = f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
            print(f"| gain over {row['against']} | {gain} | p {row['p_delong']:.2g}, {row['p_resampled']:.2g} |")
    for row in (row for row in tables["genes_controls"] if row["num"]):
        print(f"| {row['control']} | {row['gain']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}] | p {row['p']:.3f} |")


def truth(effects: dict[str, Any], num: int = 2000) -> None:
    """The areas that the best linear rules reach in many further people, and the gain of both: the most that can be found."""
    verb, scans, genes = cohort(effects, num, SEED + 1)
    values, ill = volumes(verb, scans, genes), (scans["condition"] == "ad").to_numpy()
    half, found = np.arange(num) % 2 == 0, {}
    both = np.column_stack([values, genes.liability, genes.e4])
    for name, columns in (("scan", values), ("genes", both[:, -2:]), ("scan and genes", both)):
        areas = []
        for learned in (half, ~half):
            within = [np.cov(columns[learned & (ill == state)].T) for state in (False, True)]
            shift = columns[learned & ill].mean(axis=0) - columns[learned & ~ill].mean(axis=0)
            weights = np.linalg.pinv(within[0] + within[1]) @ shift
            areas.append(auroc(columns[~learned] @ weights, ill[~learned]))
        found[name] = float(np.mean(areas))
    gain = found["scan and genes"] - max(found["scan"], found["genes"])
    print("truth: " + ", ".join(f"{name} {value:.3f}" for name, value in found.items()) + f", gain {gain:+.3f}")


def simulated(arm: str, out: Path, by_row: bool) -> None:
    """An arm joined by subject, or by the order of rows."""
    verb, scans, genes = cohort(ARMS[arm])
    latents = features(out / "features", scans, volumes(verb, scans, genes), "volumes")
    if not by_row:
        shown(studied(out / "study", latents, checked(out / "genes", scans, genes)), f"{arm}, joined by subject")
        return
    for name, order in orders(scans, genes).items():
        other = out / name.replace(" ", "_")
        exchanged = replace(genes, copies=genes.copies[order], called=genes.called[order])
        given = checked(other / "genes", scans, exchanged, qc={"sex": "report"})
        shown(studied(other / "study", latents, given, gene_permutations=0), f"{arm}, joined by row: {name}")


def orders(scans: pd.DataFrame, genes: CohortGenes) -> dict[str, NDArray[np.int64]]:
    """Whose genes each person gets when two lists are laid side by side: both by chance, or both class by class."""
    rng = np.random.default_rng(SEED)
    ill = (scans["condition"] == "ad").to_numpy()
    by_class = np.arange(len(scans))
    for state in (False, True):
        members = np.flatnonzero(ill == state)
        by_class[members] = rng.permutation(members)
    return {"any order": rng.permutation(len(scans)), "class by class": by_class}


def real(table: Path, out: Path) -> None:
    """Markers of blood and fluid in the place of the scan, APOE of a column, and real people."""
    people = pd.read_csv(table, sep="\t")
    people.insert(0, "subject", [f"m{row:03d}" for row in range(len(people))])
    people["diagnosis"] = people["Class"].map({"Control": "control", "Impaired": "AD"})
    people["age_years"], people["sex"] = people["age"] * 10, np.where(people["male"] == 1, "M", "F")
    out.mkdir(parents=True, exist_ok=True)
    people[["subject", "sex", "diagnosis", "Genotype"]].to_csv(out / "people.tsv", sep="\t", index=False)
    genes = Genotypes(table=out / "people.tsv", apoe_column="Genotype", out=out / "genes").run()
    known = ("subject", "Genotype", "Class", "male", "age", "diagnosis", "age_years", "sex")
    markers = people.drop(columns=list(known)).select_dtypes("number")
    print(f"\n{len(people)} real people, {markers.shape[1]} markers, {people['diagnosis'].value_counts().to_dict()}")
    values = ((markers - markers.mean()) / markers.std()).fillna(0).to_numpy()
    cohort_table = people[["subject", "sex", "age_years", "diagnosis"]]
    latents = features(out / "features", cohort_table, values, "markers")
    shown(studied(out / "study", latents, genes, covariates=("sex",)), "real people: markers and APOE")


def defects(out: Path) -> None:
    """A cohort with every defect, and what `gen3d genotypes` says of it."""
    settings = ARMS["planted"] | {"siblings": 8, "ancestries": 1, "variants": 3000, "linkage": 0.3}
    _, scans, genes = cohort(settings, 300)
    clean = checked(out / "clean", scans, genes)
    complement = {"A": "T", "T": "A", "C": "G", "G": "C"}
    variants, called = genes.variants.copy(), genes.called.copy()
    reference = variants.rename(columns={"allele_1": "allele", "allele_2": "other"})
    reference = reference[reference["chromosome"] != "X"].copy()
    reference["frequency"] = called[:, reference.index].mean(axis=0) / 2
    numbered = np.flatnonzero(variants["variant"].str.startswith("snp0").to_numpy())
    flipped, swapped = numbered[5::40], numbered[15::40]
    for name in ("allele_1", "allele_2"):
        variants.loc[flipped, name] = variants.loc[flipped, name].map(complement)
    exchanged = variants.loc[swapped, ["allele_2", "allele_1"]].to_numpy()
    variants.loc[swapped, ["allele_1", "allele_2"]] = exchanged
    called[:, swapped] = 2 - called[:, swapped]
    siblings = np.flatnonzero(genes.sibling_of >= 0)
    free = np.setdiff1d(np.arange(len(scans)), siblings)
    copied, original, wrong_sex, poor = free[:3], free[3:6], free[6:11], free[11:14]
    called[copied] = called[original]  # one person under two ids, whose sex goes with it
    sexes = np.array(genes.sexes, dtype=object)
    sexes[copied] = sexes[original]
    sexes[wrong_sex] = np.where(sexes[wrong_sex] == "M", "F", "M")
    called[np.ix_(poor, numbered[::10])] = -1
    table = scans.assign(sex=sexes)
    broken = replace(genes, variants=variants, called=called)
    out.mkdir(parents=True, exist_ok=True)
    reference.to_csv(out / "panel.tsv", sep="\t", index=False)
    weights = {"background": out / "clean" / FOLDER / WEIGHTS.file}
    found = checked(out / "broken", table, broken, reference=out / "panel.tsv", scores=weights)
    people = pd.read_csv(found / "people.tsv", sep="\t").set_index("subject")
    relatives = pd.read_csv(found / "relatives.tsv", sep="\t")
    before = pd.read_csv(clean / "people.tsv", sep="\t").set_index("subject")
    relation = relatives["relation"].value_counts().to_dict()
    names = np.array(genes.subjects)
    mismatched = set(people.index[people["sex_check"] == "mismatch"])
    missing = set(people.index[people["reason"] == "missing calls"])
    summary = json.loads((found / "metrics.json").read_text(encoding="utf-8"))["summary"]
    print("\n### every defect\n", *summary, sep="\n")
    both = people.index[(people["verdict"] == "pass") & ~people.index.isin(names[copied])]
    shift = (people.loc[both, "prs_background"] - before.loc[both, "prs_background"]).abs().max()
    print(f"flipped {len(flipped)}, swapped {len(swapped)}: largest change of a score {shift:.2g}")
    print(f"duplicates {len(copied)}, siblings {len(siblings) // 2}: {relation}")
    print(f"sex {len(wrong_sex)}: {len(mismatched)}, the right ones {mismatched == set(names[wrong_sex])}")
    print(f"missing calls {len(poor)}: {len(missing)}, the right ones {missing == set(names[poor])}")
    for what, given in (("build", {"build": "GRCh37"}), ("scores", {"scores_build": "GRCh37"})):
        try:
            checked(out / f"wrong_{what}", table, genes, **given)
            print(f"wrong {what}: not found")
        except UserError as error:
            print(f"wrong {what}: {error}")
    two = checked(out / "two_ancestries", *cohort(settings | {"ancestries": 2}, 300)[1:])
    print(f"siblings among two ancestries: {len(pd.read_csv(two / 'relatives.tsv', sep=chr(9)))} pairs found of 8")


def main() -> None:
    """Everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--real", type=Path)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    given = parser.parse_args()
    for part in given.parts:
        if part == "defects":
            defects(given.out / part)
        elif part == "truth":
            truth(ARMS["planted"])
        elif part == "real":
            if given.real is not None:
                real(given.real, given.out / part)
        else:
            simulated("planted" if part == "by_row" else part, given.out / part, part == "by_row")


if __name__ == "__main__":
    main()
