"""What would leakage have bought? The same scans, features and heads, in correct and leaking splits, with real and permuted labels.

OASIS-1 slabs (slabs.py; identified people, CN against CDR > 0) and the people of `t1w_2mm` who were scanned twice:

1. slices as samples: folds of people against folds of slices, so that slices of one person are on both sides;
2. scans as samples: how often the nearest other scan is the same person's, and the accuracy gained where it is in training;
3. choosing voxels by a test on everybody before the split, and reporting the best of many settings, against doing both inside;
4. a representation learned from everybody (PCA, VAE) against one that never saw the people it is tested on;
5. anomaly scores as features: controls are the people on whom the normative model is trained and calibrated. People drawn
   at random are labelled as controls: can a head separate them from the others by their scores?

`gen3d classify` refuses slices and scans as samples, and the fourth unless it is waived; here the splits are made by
hand. Permuted labels are permuted over people: an honest pipeline stays at 50 % on them, so everything above is
leakage. Writes leakage.tsv and leakage.png.

    python analysis/12_what_leakage_buys.py --slabs DATA/t1w_slab_2mm --brains DATA/t1w_2mm/participants.csv --out FOLDER
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from leakage import (
    HEADS,
    Codes,
    Fold,
    Row,
    Values,
    area,
    balanced,
    folds,
    over_permutations,
    penalised,
    permuted,
    pipeline,
    predicted,
    predictions,
    row,
)
from numpy.typing import NDArray
from representations import SEEN_BY_ALL, SLAB_MODELS, latents, prepare_brains
from sklearn.decomposition import PCA
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from slabs import PrepareSlabs, SlabsWithDrawnControls, for_heads

from gen3d.anomaly.anomaly import Anomaly
from gen3d.cli import run_script
from gen3d.cohort.folder import open_prepared
from gen3d.cohort.latents_folder import open_latents_folder
from gen3d.maths.stats import bootstrap_interval, wilson_interval
from gen3d.train.train import Train

NUM_PERMUTATIONS = 20  # of labels, slices: each fits every head in every fold
NUM_CHEAP_PERMUTATIONS = 100  # of labels, people as samples
BLOCK = 4  # voxels (8 mm) averaged within a slice
NUM_CHOSEN = 50  # blocks chosen by a test of the classes
NEUTRAL = 0.5
NUM_DRAWS = 8  # random choices of people labelled as controls
SAMPLES = (
    "slices",
    "scans",
    "people, blocks chosen",
    "people, best of settings",
    "people, representation",
    "people, anomaly scores",
)

# ----------------------------------------------------------------------------------------------------------- 1: slices


def blocks(volumes: NDArray[np.float32]) -> Values:
    """Means of 4 x 4 voxels within slices: [n, X, Y, Z] to [n, Z, blocks]; blocks that are empty in everybody are left out."""
    n, x, y, z = volumes.shape
    cut = volumes[:, : x - x % BLOCK, : y - y % BLOCK]
    means = cut.reshape(n, x // BLOCK, BLOCK, y // BLOCK, BLOCK, z).mean(axis=(2, 4), dtype=np.float64)
    flat = np.moveaxis(means, 3, 1).reshape(n, z, -1)
    return flat[:, :, flat.any(axis=(0, 1))]


def slice_rows(slabs: Values, labels: Codes) -> Iterator[Row]:
    """Balanced accuracy over slices, folds of people against folds of slices."""
    num_people, num_slices, _ = slabs.shape
    values = slabs.reshape(num_people * num_slices, -1)
    people, codes = np.repeat(np.arange(num_people), num_slices), np.repeat(labels, num_slices)
    for by_people, split in ((True, "people"), (False, "slices")):
        for name in HEADS:
            make = partial(pipeline, name)
            found = predictions(values, codes, folds(codes, people, by_people, 0), make)
            real = balanced(found == codes, codes, people)
            yield row("slices", split, name, "real", "balanced accuracy", real, num_people)
            null = []
            for seed in range(NUM_PERMUTATIONS):
                shuffled = permuted(codes, people, seed)
                found = predictions(values, shuffled, folds(shuffled, people, by_people, seed), make)
                null.append(float(np.mean([(found == shuffled)[shuffled == label].mean() for label in (0, 1)])))
            nothing = over_permutations(null)
            yield row("slices", split, name, "permuted", "balanced accuracy", nothing, num_people)


# ------------------------------------------------------------------------------------------------------------ 2: scans


def scan_rows(prepared: Path) -> Iterator[Row]:
    """People scanned twice: is a scan's nearest neighbour the other one, and how accurate is that with permuted labels?"""
    opened = open_prepared(prepared)
    table = opened.manifest[opened.manifest["role"] != "excluded"].reset_index(drop=True)
    volumes = opened.load(list(table["key"]), ("t1w",))[:, 0]
    values = PCA(30, random_state=0).fit_transform(blocks(volumes).reshape(len(table), -1))
    people = np.unique(table["subject"], return_inverse=True)[1]
    twice = np.flatnonzero(np.bincount(people)[people] > 1)
    distance = ((values[:, None] - values[None]) ** 2).sum(axis=2)
    np.fill_diagonal(distance, np.inf)
    own = people[distance.argmin(axis=1)] == people
    num = len(np.unique(people[twice]))
    hits = wilson_interval(int(own[twice].sum()), len(twice))
    yield row("scans", "-", "nearest neighbour", "-", "share of scans whose nearest is the person's other", hits, num)
    for by_people, split in ((True, "people"), (False, "scans")):
        null = []
        for seed in range(NUM_CHEAP_PERMUTATIONS):
            labels = permuted(np.arange(len(people)) % 2, people, seed)
            shuffled = folds(labels, people, by_people, seed)
            found = predictions(values, labels, shuffled, lambda: make_pipeline(KNeighborsClassifier(1)))
            null.append(float((found == labels)[twice].mean()))
        nothing = over_permutations(null)
        yield row("scans", split, "nearest neighbour", "permuted", "accuracy in people scanned twice", nothing, num)


# ------------------------------------------------------------------------------------ 3: choosing outside of the folds


def chosen_rows(values: Values, labels: Codes) -> Iterator[Row]:
    """AUC of a logistic head on the 50 blocks that differ most, chosen inside every fold or once on everybody."""
    people = np.arange(len(labels))

    def inside() -> Pipeline:
        return make_pipeline(StandardScaler(), SelectKBest(f_classif, k=NUM_CHOSEN), HEADS["logistic"]())

    def judged(codes: Codes, before: bool, seed: int) -> Values:
        used = SelectKBest(f_classif, k=NUM_CHOSEN).fit_transform(values, codes) if before else values
        make = (lambda: make_pipeline(StandardScaler(), HEADS["logistic"]())) if before else inside
        return predicted(used, codes, folds(codes, people, True, seed), make)

    for before, split in ((False, "inside each fold"), (True, "before the split")):
        found = bootstrap_interval(judged(labels, before, 0), area, num_resamples=1000)
        yield row(SAMPLES[2], split, "logistic", "real", "AUC", found, len(labels))
        null = [area(judged(permuted(labels, people, seed), before, seed)) for seed in range(NUM_CHEAP_PERMUTATIONS)]
        yield row(SAMPLES[2], split, "logistic", "permuted", "AUC", over_permutations(null), len(labels))


def best_rows(values: Values, labels: Codes) -> Iterator[Row]:
    """AUC of one setting fixed beforehand, against the best of 25 by the same folds that are reported."""
    people = np.arange(len(labels))
    settings = [(components, cost) for components in (5, 10, 20, 40, 80) for cost in (1e-3, 1e-2, 0.1, 1.0, 10.0)]
    fixed = settings.index((20, 0.1))

    def judged(codes: Codes, seed: int) -> list[Values]:
        found = [np.zeros((len(codes), 3)) for _ in settings]
        for number, (train, test) in enumerate(folds(codes, people, True, seed)):
            reduced = make_pipeline(StandardScaler(), PCA(80, whiten=True, random_state=0)).fit(values[train])
            known, asked = reduced.transform(values[train]), reduced.transform(values[test])
            for place, (components, cost) in enumerate(settings):
                head = LogisticRegression(C=cost, class_weight="balanced", max_iter=1000)
                head.fit(known[:, :components], codes[train])
                decided = head.decision_function(asked[:, :components])
                found[place][test] = np.column_stack([decided, codes[test], np.full(len(test), number)])
        return found

    real = judged(labels, 0)
    best = int(np.argmax([area(one) for one in real]))
    for split, place in (("one setting, fixed", fixed), ("best of 25", best)):
        interval = bootstrap_interval(real[place], area, num_resamples=1000)
        yield row(SAMPLES[3], split, "logistic", "real", "AUC", interval, len(labels))
    seeds = range(NUM_PERMUTATIONS)
    null = [[area(one) for one in judged(permuted(labels, people, seed), seed)] for seed in seeds]
    for split, values_of in (("one setting, fixed", [a[fixed] for a in null]), ("best of 25", [max(a) for a in null])):
        yield row(SAMPLES[3], split, "logistic", "permuted", "AUC", over_permutations(values_of), len(labels))


# --------------------------------------------------------------------------------------------------- 4: representations


def representation_rows(folders: dict[str, dict[str, Path]], chosen: NDArray[np.bool_], labels: Codes) -> Iterator[Row]:
    """AUC of a logistic head in folds of people: latents that never saw a test person, against latents that saw all."""
    for name, by_split in folders.items():
        blind = open_latents_folder(by_split["cross-fitted"])
        seen = open_latents_folder(by_split["seen by all"])
        held_out = [(np.flatnonzero(~b), np.flatnonzero(b)) for b in blind.blind[:, chosen]]
        spaces = {
            "cross-fitted": [member[chosen] for member in blind.values],
            "seen by all": [seen.values[0][chosen]] * len(held_out),
        }
        found = {split: by_member(values, labels, held_out) for split, values in spaces.items()}
        for split, values in found.items():
            interval = bootstrap_interval(values, area, num_resamples=1000)
            yield row(SAMPLES[4], split, name, "real", "AUC", interval, len(labels))
        both = np.column_stack([found["seen by all"], found["cross-fitted"]])
        gain = bootstrap_interval(both, lambda s: area(s[:, :3]) - area(s[:, 3:]), num_resamples=1000)
        yield row(SAMPLES[4], "seen by all minus cross-fitted", name, "real", "AUC", gain, len(labels))
        for split, values in spaces.items():
            null = []
            for seed in range(NUM_PERMUTATIONS):
                shuffled = np.random.default_rng(seed).permutation(labels)
                null.append(area(by_member(values, shuffled, held_out)))
            yield row(SAMPLES[4], split, name, "permuted", "AUC", over_permutations(null), len(labels))


def by_member(spaces: list[NDArray[np.float32]], labels: Codes, held_out: list[Fold]) -> Values:
    """The table of `predicted`, each person in the space of the member that did not see their fold."""
    found = np.zeros((len(labels), 3))
    for number, (space, fold) in enumerate(zip(spaces, held_out, strict=True)):
        found[fold[1]] = predicted(space.astype(np.float64), labels, [fold], penalised)[fold[1]]
        found[fold[1], 2] = number
    return found


# ----------------------------------------------------------------------------------------------------- 5: anomaly scores


def drawn_rows(prepared: Path, out: Path) -> Iterator[Row]:
    """AUC of people drawn as controls against the others, by cross-fitted and held-out scores and regions' z."""
    areas: dict[str, list[float]] = {}
    for seed in range(NUM_DRAWS):
        place = out / "drawn" / str(seed)
        folder = SlabsWithDrawnControls(prepared=prepared, seed=seed, out=place / "prepared").run()
        run, maps = place / "run", place / "maps"
        model = {"kind": "pca", "num_components": 20}
        Train.model_validate({"prepared": folder, "model": model, "cross_fit": 5, "out": run}).run()
        Anomaly.model_validate({"prepared": folder, "run": run, "out": maps, "native": False}).run()
        for name, values, labels in map_features(maps):
            found = predicted(values, labels, folds(labels, np.arange(len(labels)), True, seed), penalised)
            areas.setdefault(name, []).append(area(found))
    for name, values_of in areas.items():
        yield row(SAMPLES[5], "by lot", name, "permuted", "AUC", over_permutations(values_of), len(labels))


def map_features(maps: Path) -> Iterator[tuple[str, Values, Codes]]:
    """Burden scores, and regions' z, of the identified people, and who was drawn as a control."""
    people = pd.read_csv(maps / "subjects.tsv", sep="\t", na_values=["n/a"]).set_index("key")
    people = people[people["diagnosis"].isin(["control", "others"])]
    labels = (people["diagnosis"] == "control").to_numpy().astype(np.int64)
    yield "burden scores", people.filter(regex="^score_").to_numpy(dtype=np.float64), labels
    regions = pd.read_csv(maps / "regions.tsv", sep="\t", na_values=["n/a"])
    wide = regions.pivot(index="key", columns=["channel", "region"], values="z").loc[people.index]
    yield "z of regions", wide.to_numpy(dtype=np.float64), labels


# ------------------------------------------------------------------------------------------------------------- picture


def draw(rows: pd.DataFrame, path: Path) -> None:
    """Every pipeline with real and permuted labels; honest splits in grey blue, leaking ones in red."""
    shown = rows[rows["labels"].isin(["real", "permuted"]) & ~rows["split"].str.contains("minus")]
    pairs = shown[["samples", "split", "head"]].drop_duplicates().to_numpy().tolist()
    honest = ("people", "inside each fold", "one setting, fixed", "cross-fitted")
    figure, axes = plt.subplots(figsize=(8.5, 0.3 * len(pairs) + 1.2), layout="constrained")
    for place, (samples, split, head) in enumerate(reversed(pairs)):
        here = shown[(shown["samples"] == samples) & (shown["split"] == split) & (shown["head"] == head)]
        for labels, shift, fill in (("real", 0.15, True), ("permuted", -0.15, False)):
            for _, found in here[here["labels"] == labels].iterrows():
                error = [[found["value"] - found["low"]], [found["high"] - found["value"]]]
                colour = "C0" if split in honest else "C3"
                axes.errorbar(
                    found["value"], place + shift, xerr=error, fmt="o", ms=4, color=colour, mfc=colour if fill else "w"
                )
    axes.axvline(NEUTRAL, color="0.6", lw=0.8, ls="--")
    folds_of = {"people": "folds of people", "slices": "folds of slices", "scans": "folds of scans"}
    names = [f"{samples}: {folds_of.get(split, split)}, {head}" for samples, split, head in reversed(pairs)]
    axes.set_yticks(range(len(pairs)), names, fontsize=7)
    axes.set_xlabel("balanced accuracy, accuracy or AUC", fontsize=8)
    axes.set_title("filled: real labels; hollow: permuted over people. Red: leaks", fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    """Run what is not finished; write leakage.tsv and leakage.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slabs", type=Path, required=True, help="folder of slabs with participants.tsv")
    parser.add_argument("--brains", type=Path, required=True, help="table of whole brains, some people scanned twice")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; that of 10 and 11 saves their steps")
    given = parser.parse_args()
    prepared = for_heads(given.slabs, given.out / "slabs")
    opened = open_prepared(prepared)
    table = opened.manifest
    chosen = (table["identified"] != "").to_numpy()
    labels = (table["identified"] == "AD").to_numpy()[chosen].astype(np.int64)
    slabs = blocks(opened.load(list(table["key"]), ("t1w",))[chosen, 0])
    flat = slabs.reshape(len(slabs), -1)
    flat = flat[:, flat.std(axis=0) > 0]
    folders = {
        name: {
            "cross-fitted": latents(prepared, name, SLAB_MODELS[name], given.out / "slabs"),
            "seen by all": latents(prepared, name, SLAB_MODELS[name], given.out / "slabs", SEEN_BY_ALL),
        }
        for name in ("pca", "pca_both", "vae_dense")
    }
    brains = prepare_brains(given.brains, given.out / "brains" / "prepared")
    rows = pd.DataFrame(
        [
            *slice_rows(slabs, labels),
            *scan_rows(brains),
            *chosen_rows(flat, labels),
            *best_rows(flat, labels),
            *representation_rows(folders, chosen, labels),
            *drawn_rows(
                PrepareSlabs(source=given.slabs, out=given.out / "slabs" / "prepared").run(), given.out / "slabs"
            ),
        ]
    )
    rows.to_csv(given.out / "leakage.tsv", sep="\t", index=False, float_format="%.4g")
    print(rows.to_string(index=False, float_format=lambda value: f"{value:.3f}"))
    draw(rows, given.out / "leakage.png")


if __name__ == "__main__":
    run_script(main)
