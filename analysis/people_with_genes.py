"""People who are simulated with genotypes but without images, shared by the analyses of genes.

Their features are the log volumes of regions that their anatomy, condition and alleles give, with an error of measurement.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.folder import write_cohort
from gen3d.cohort.latents_folder import write_latents
from gen3d.cohort.regions import all_regions
from gen3d.cohort.scan_hash import voxel_hash
from gen3d.cohort.seen import SeenBy
from gen3d.core.artefact import digest, write_json
from gen3d.core.config import Verb
from gen3d.core.output_folder import begin
from gen3d.genotypes.genotypes import Genotypes
from gen3d.imaging.plan import GridPlan, plan_grid
from gen3d.imaging.volume import store
from gen3d.simulate.anatomy import cohort_space, healthy_targets, with_shift
from gen3d.simulate.conditions import condition_targets
from gen3d.simulate.folder import FOLDER, GENOTYPES, WEIGHTS
from gen3d.simulate.genes import CohortGenes
from gen3d.simulate.genotype_files import write_genotypes
from gen3d.simulate.people import NONE
from gen3d.simulate.person import CONDITION, VOLUMES, stream
from gen3d.simulate.simulate import Simulate

NUM, SEED = 300, 26
SEVERITY = 0.25
MEASUREMENT_SD = 0.03
"""Of the log of a volume, from scan to scan: about 3 %."""


class RegionVolumes(Verb):
    """The record of features that were made without images."""


def cohort(
    effects: dict[str, Any], num: int = NUM, seed: int = SEED, disease: dict[str, Any] | None = None
) -> tuple[Simulate, pd.DataFrame, CohortGenes]:
    """The people of an arm and their genotypes; `disease` is what half of them have, AD at a quarter of its usual severity."""
    conditions = {"ad": {"kind": "ad", "share": 0.5, "severity": [SEVERITY]} | (disease or {})}
    settings = {"subjects": num, "seed": seed, "sites": 1, "conditions": conditions, "genotypes": effects}
    verb = Simulate.model_validate(settings | {"out": Path("no_images")})
    scans = verb.people()
    genes = verb.genes(scans)
    assert genes is not None
    return verb, scans, genes


def measured_labels() -> list[int]:
    """Labels of the regions that have a volume, in their order."""
    targets = healthy_targets(cohort_space(plan_grid(4.0)), 70.0, np.random.default_rng(0))
    return [region.label for region in all_regions() if region.label in targets]


def volumes(verb: Simulate, scans: pd.DataFrame, genes: CohortGenes) -> NDArray[np.float64]:
    """Log volumes of regions as a scan would read them, [people, regions]."""
    space = cohort_space(plan_grid(4.0))
    rng = np.random.default_rng([verb.seed, 29])
    readings, labels = [], measured_labels()
    for row in scans.to_dict("records"):
        index, condition = int(row["index"]), row["condition"]
        drawn = healthy_targets(space, float(row["age_years"]), stream(verb.seed, index, VOLUMES))
        targets = with_shift(drawn, genes.shifts.get(index, {}))
        if condition != NONE:
            rng_condition = stream(verb.seed, index, CONDITION)
            planted = condition_targets(verb.conditions[condition], float(row["severity"]), rng_condition)
            targets = {label: value + planted.get(label, 0.0) for label, value in targets.items()}
        readings.append([targets[label] for label in labels])
    return np.array(readings) + MEASUREMENT_SD * rng.standard_normal((len(readings), len(readings[0])))


def features(
    folder: Path, table: pd.DataFrame, values: NDArray[np.float64], what: str, keys: pd.Series | None = None
) -> Path:
    """A folder of features that `gen3d classify` reads; `keys` are those of the scans in another folder of them."""
    needed: dict[str, Any] = {"site": "A", "session": "1", "role": "evaluation", "cdr": np.nan, "mmse": np.nan}
    for name, value in needed.items():
        table = table if name in table.columns else table.assign(**{name: value})
    table = table.assign(key=table["subject"] + "_1" if keys is None else keys, role="evaluation")
    work = begin(RegionVolumes(out=folder), "encode", {}, {"values": digest(values.tolist()), "what": what})
    if work is None:
        return folder
    record = {"shape": [values.shape[1]], "kind": what, "run_key": what, "channels": ["t1w"]}
    write_latents(folder, values.astype(np.float32), table, record, SeenBy(({},)))
    work.finish({"num_scans": len(table), "num_dimensions": values.shape[1]})
    return folder


def checked(folder: Path, table: pd.DataFrame, genes: CohortGenes, **settings: Any) -> Path:
    """Write PLINK files and read them by `gen3d genotypes`."""
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    write_genotypes(folder, genes)
    table.to_csv(folder / "cohort.tsv", sep="\t", index=False)
    given = {"source": folder / f"{GENOTYPES}.bed", "table": folder / "cohort.tsv"}
    scores = {"background": folder / FOLDER / WEIGHTS.file}
    return Genotypes.model_validate(given | {"scores": scores, "out": folder / "checked"} | settings).run()


def region_cohort(folder: Path, scans: pd.DataFrame, values: NDArray[np.float64]) -> Path:
    """A prepared folder whose scans are nothing but volumes of regions: four voxels each, that grow or shrink as the region does.

    Args:
        folder: to write.
        scans: of `cohort`.
        values: of `volumes`, a row per scan.
    """
    if (folder / "artefact.json").is_file():
        return folder
    side = 8
    affine = np.diag([8.0, 8.0, 8.0, 1.0])
    rows = tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in affine)
    plan = GridPlan(spacing_mm=8.0, shape=(side, side, side), affine=rows)
    measured = measured_labels()
    regions = [region for region in all_regions() if region.label in measured]
    labels = np.zeros(side**3, dtype=np.int16)
    for place, region in enumerate(regions):
        labels[4 * place : 4 * place + 4] = region.label
    labels = labels.reshape(plan.shape)
    generator, log_volume = np.random.default_rng(SEED), np.zeros(max(region.label for region in regions) + 1)
    hashes = []
    for key, row in zip(scans["key"].astype(str), values, strict=True):
        log_volume[[region.label for region in regions]] = row
        t1w = (0.7 + 0.05 * generator.standard_normal(plan.shape)) * (labels > 0)
        store(folder / "volumes" / f"{key}_t1w.nii", t1w, affine)
        store(folder / "volumes" / f"{key}_log_jacobian.nii", log_volume[labels], affine)
        hashes.append(voxel_hash(t1w))
    names = [(region.label, region.name, region.structure) for region in regions]
    table = scans.assign(role="evaluation", scan_hash=hashes)
    write_cohort(folder, plan, labels > 0, labels, pd.DataFrame(names, columns=["label", "name", "structure"]), table)
    record: dict[str, Any] = {"gen3d": "0", "verb": "prepare", "key": digest(values.tolist()), "status": "finished"}
    write_json(folder / "artefact.json", record | {"config": {}, "inputs": {}, "summary": {}, "finished_at": ""})
    return folder
