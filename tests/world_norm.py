"""A norm folder for the report, written by the writer of `gen3d norm` without a fit: it judges nobody."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from gen3d.anomaly.calibration.controls import ControlGroup, SiteGate
from gen3d.anomaly.norm.folder import PLAN, NormRecord, centiles, write_norm
from gen3d.cohort.seen import SeenBy
from gen3d.imaging.plan import write_plan
from gen3d.maths.design import Design, covariate_sums
from tests.world import REGIONS, World, calibration_record, write_record


def build_norm(world: World) -> Path:
    """Write norm/ of the calibration controls of a world."""
    folder = world["norm"]
    folder.mkdir()
    people = world.manifest[world.manifest["role"] == "calibration"]
    sums = covariate_sums(people["age_years"].tolist(), people["sex"].tolist(), people["site"].tolist())
    group = ControlGroup(Design.choose(sums), SiteGate(sums.site_counts))
    who = [{"site": site, "age": "60s", "sex": "F", "num": num} for site, num in sums.site_counts.items()]
    settings = {"smoothing_mm": 4.0, "cluster_z": 3.1}
    channels = {"deformation": {"names": list(REGIONS), "voxels": {}, "regions": {}}}
    record = NormRecord(settings, {}, group, group, sums, channels, 1000, who)
    effects = pd.DataFrame([[0.0] * len(REGIONS)]).to_numpy()
    seen = SeenBy.rows(people, "norm (calibration)")
    write_plan(folder / PLAN, world.plan)
    write_norm(
        folder,
        record,
        seen,
        centiles("deformation", REGIONS, effects),
        {"deformation": calibration_record(world)},
        None,
    )
    (folder / "card.md").write_text("# Norm\n\n## Terms\n\n- contact: nobody\n", encoding="utf-8")
    write_record(folder, "norm")
    return folder
