"""People with genotypes and scans, and known truth: copies of APOE e4 shrink one region, and both make the diagnosis likelier."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.folder import write_cohort as write_prepared
from gen3d.cohort.manifest import scan_key
from gen3d.cohort.scan_hash import voxel_hash
from gen3d.core.artefact import write_json
from gen3d.genotypes.genotypes import Genotypes
from gen3d.imaging.plan import GridPlan
from gen3d.imaging.volume import store

SHAPE = (8, 8, 8)
REGIONS = ("hippocampus", "amygdala", "thalamus", "putamen", "insula", "cuneus")
VARIANTS = (
    "2:127135234:T:C",
    "8:27607002:T:C",
    "11:60154529:A:G",
    "11:86157598:T:C",
    "19:44908684:C:T",
    "19:44908822:C:T",
)
FREQUENCIES = (0.4, 0.4, 0.35, 0.3)
NOISE, PER_COPY = 0.05, 0.10
"""SD of the logarithm of a region's volume, and what a copy of APOE e4 takes from that of the hippocampus."""


def write_people(
    folder: Path,
    num: int = 60,
    effect: float = 1.0,
    seed: int = 0,
    lacking: int = 0,
    relatives: int = 0,
    prefix: str = "p",
    diagnosis: bool = True,
    of_genes: float = 1.0,
) -> tuple[Path, Path]:
    """Write a cohort and a folder of genotypes.

    Args:
        folder: where; `cohort` and `genotypes` come to lie in it.
        num: people.
        effect: of the planted effects on region and diagnosis; 0: neither depends on the other or on genotypes.
        seed: of all draws.
        lacking: people, the first ones, who have no genotypes.
        relatives: pairs, from the end, who have the same genotypes in all variants.
        prefix: of the ids.
        diagnosis: whether the label depends on genes and region; else it is the third of people by number.
        of_genes: factor on what alleles do, to the region and to the diagnosis; 0: the region alone makes the diagnosis likelier.

    Returns:
        The prepared folder and the folder of genotypes.
    """
    generator = np.random.default_rng(seed)
    copies = generator.binomial(2, FREQUENCIES, (num, len(FREQUENCIES)))
    e4 = generator.binomial(2, 0.3, num)
    log_volume = NOISE * generator.standard_normal((num, len(REGIONS)))
    log_volume[:, 0] -= effect * of_genes * PER_COPY * (e4 - 0.6)
    liability = effect * (1.2 * of_genes * (e4 - 0.6) - 1.2 * log_volume[:, 0] / NOISE) + generator.logistic(size=num)
    ill = liability > np.median(liability) if diagnosis else np.arange(num) % 2 == 1
    subjects = [f"{prefix}{number:03d}" for number in range(num)]
    cohort = _write_scans(folder / "cohort", subjects, ill, log_volume, generator)
    calls = np.column_stack([copies, e4, np.full(num, 2)])
    genotypes = write_genotypes(folder, cohort, subjects[lacking:], calls[lacking:], generator, relatives)
    return cohort, genotypes


def _write_scans(
    folder: Path, subjects: list[str], ill: NDArray[np.bool_], log_volume: NDArray[np.float64], generator: Any
) -> Path:
    affine = np.diag([8.0, 8.0, 8.0, 1.0])
    rows = tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in affine)
    plan = GridPlan(spacing_mm=8.0, shape=SHAPE, affine=rows)
    labels = np.zeros(SHAPE, dtype=np.int16)
    for place in range(len(REGIONS)):
        labels[1 + place, 1:7, 1:7] = place + 1
    people = []
    for number, subject in enumerate(subjects):
        key = scan_key(subject, "1")
        log_jacobian = np.concatenate([[0.0], log_volume[number]])[labels]
        t1w = (0.7 + 0.05 * generator.standard_normal(SHAPE)) * (labels > 0)
        store(folder / "volumes" / f"{key}_t1w.nii", t1w, affine)
        store(folder / "volumes" / f"{key}_log_jacobian.nii", log_jacobian, affine)
        people.append({"subject": subject, "session": "1", "site": "A", "age_years": 60.0 + number % 20})
        people[-1] |= {"sex": "FM"[number % 2], "diagnosis": "AD" if ill[number] else "CN", "role": "evaluation"}
        people[-1] |= {"key": key, "scan_hash": voxel_hash(t1w), "mmse": float(30 - 3 * ill[number] - number % 4)}
        people[-1] |= {"cdr": float(ill[number]) * (1 + number % 2)}
    names = pd.DataFrame({"label": range(1, len(REGIONS) + 1), "name": REGIONS, "structure": REGIONS})
    write_prepared(folder, plan, labels > 0, labels, names, pd.DataFrame(people))
    record = {"gen3d": "0", "verb": "prepare", "key": f"fused {subjects[0]} {len(subjects)} {log_volume.sum():.9f}"}
    record |= {"status": "finished"}
    write_json(folder / "artefact.json", {**record, "config": {}, "inputs": {}, "summary": {}, "finished_at": ""})
    return folder


def write_genotypes(
    folder: Path, cohort: Path, subjects: list[str], calls: NDArray[np.int64], generator: Any, relatives: int = 0
) -> Path:
    """Genotypes of these people; with `relatives` also 900 variants by which pairs are found to be related."""
    names = list(VARIANTS)
    settings: dict[str, Any] = {"source": folder / "dosages.tsv", "table": cohort, "out": folder / "genotypes"}
    if relatives:
        many = 900
        further = generator.binomial(2, generator.uniform(0.2, 0.8, many), (len(subjects), many))
        places = 3_000_000 + 200_000 * np.arange(many)
        names += [f"{1 + place % 8}:{places[place]}:A:G" for place in range(many)]
        calls = np.concatenate([calls, further], axis=1)
        for pair in range(relatives):
            calls[-1 - 2 * pair] = calls[-2 - 2 * pair]
        carry = pd.DataFrame([name.split(":")[:2] for name in VARIANTS], columns=["chromosome", "position"])
        carry.assign(gene=["BIN1", "CLU", "MS4A", "PICALM", "APOE", "APOE"]).to_csv(
            folder / "carry.tsv", sep="\t", index=False
        )
        settings |= {"carry": folder / "carry.tsv", "carry_all_up_to": 0}
    frame = pd.DataFrame(calls, columns=names)
    frame.insert(0, "subject", subjects)
    frame.to_csv(folder / "dosages.tsv", sep="\t", index=False)
    qc = {"frequency": 0.0, "hwe_p": 0.0}
    return Genotypes.model_validate({**settings, "build": "GRCh38", "qc": qc}).run()


def fusion(cohort: Path, genotypes: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """A training, JSON-ready; nested groups are merged."""
    tree: dict[str, Any] = {
        "prepared": [str(cohort)],
        "genotypes": str(genotypes),
        "out": str(out),
        "cross_fit": 3,
        "model": {"kind": "fusion", "classes": ["CN", "AD"], "width": 16, "heads": 2, "layers": 1, "looks": 4},
        "optim": {"steps": 24, "batch_size": 16, "learning_rate": 3e-3, "ema_decay": 0.9},
        "engine": {"device": "cpu", "precision": "fp32", "checkpoint_every": 10, "timeout_s": 60},
        "log_every": 1,
        "track": [],
    }
    for group, values in changes.items():
        tree[group] = {**tree.get(group, {}), **values} if isinstance(values, Mapping) else values
    return tree
