"""Maps against planted truth: voxels, regions, people, and false alarms where nothing is planted."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from gen3d.anomaly.folder import REGISTRATION_ALONE, MapsFolder
from gen3d.cohort.manifest import NULL
from gen3d.core import words as spell
from gen3d.core.tables import Row, rows_of
from gen3d.evaluate.folder import SHARE_P_CONFORMAL, EvaluationFolder
from gen3d.evaluate.regions import BOTH
from gen3d.figures import charts
from gen3d.figures import names as wording
from gen3d.figures.blocks import Details, Figure, Heading, Section, Table, Text
from gen3d.figures.context import Context, page_section
from gen3d.maths.stats import Interval

ALL = "all"
ALIKE = 0.8  # both sides count as one region where their mean change is at least this share of the larger change
NUM_SHRUNK, NUM_ENLARGED = 7, 3
WITHOUT_MODEL = (
    "Registration alone means without a model: local volume is compared with controls of the same age, sex and site."
)
SEVERITY_SCORES = {
    "largest region deformation": "strongest region, local volume",
    "burden residual": "most deviating voxels, intensity",
}


@page_section("Against planted truth", "`gen3d evaluate` on a simulated cohort", place=160, reads=EvaluationFolder)
def section(context: Context) -> Section | None:
    """Tables and severity curves of every evaluation folder."""
    evaluations = [evaluation for evaluation in context.all(EvaluationFolder) if not evaluation.of_forecasts]
    if not evaluations:
        return None
    blocks: list[Any] = []
    numbers: dict[str, Any] = {}
    for evaluation in evaluations:
        if len(evaluations) > 1:
            blocks.append(Heading(evaluation.name))
        blocks += _of_one(context, evaluation)
        numbers[evaluation.name] = {"best": best_by_condition(context, evaluation)} | {
            name: rows_of(evaluation.table(name))
            for name in ("voxels", "differences", "regions", "region_differences", "detection", "calibration")
        }
    return Section("truth", "Against planted truth", blocks, numbers)


def _of_one(context: Context, evaluation: EvaluationFolder) -> list[Any]:
    names = model_names(context, evaluation)
    planted = [f"{wording.condition(name)} ({n})" for name, n in evaluation.conditions.items()]
    blocks: list[Any] = [
        Text(
            "The cohort was simulated, so the planted change of every voxel is known. Scans by "
            f"condition: {spell.listed(planted)}. "
            "Thresholds come from held-out controls; nothing is tuned on the people measured here. "
            "The best of several models and channels is named because its figure is the highest, so that figure is optimistic."
        )
    ]
    voxels, differences = evaluation.table("voxels"), evaluation.table("differences")
    regions, detection = evaluation.table("regions"), evaluation.table("detection")
    if len(voxels):
        blocks += [Heading("Where: voxels"), _voxel_table(voxels, names)]
    if len(differences):
        blocks.append(Details("Paired differences between models", [_difference_table(differences, names)]))
    if len(regions):
        model_titles = titles(context, evaluation, "deformation")
        blocks += [Heading("How much: regions"), *_region_tables(regions, model_titles)]
        if any(name.endswith(REGISTRATION_ALONE) for name in model_titles.values()):
            blocks.append(Text(WITHOUT_MODEL))
    if len(detection):
        blocks += [Heading("Who: people separated from controls"), *_detection(context, detection, names)]
    null = evaluation.table("calibration")
    if len(null):
        blocks += [Heading("Where nothing is planted"), _null_table(null, names)]
    return blocks


def model_names(context: Context, evaluation: EvaluationFolder) -> dict[str, str]:
    """The evaluation's names of the maps folders -> the names of their models in this report."""
    by_key = {maps.artefact.key: maps.name for maps in context.all(MapsFolder)}
    return {name: by_key.get(key, name) for name, key in evaluation.maps.items()}


def titles(context: Context, evaluation: EvaluationFolder, channel: str) -> dict[str, str]:
    """`model_names` in one channel, marked where the maps of that channel come from registration alone."""
    by_name = {maps.name: maps for maps in context.all(MapsFolder)}
    names = model_names(context, evaluation)
    return {key: by_name[name].title(channel) if name in by_name else name for key, name in names.items()}


def interval(row: Row, name: str) -> Interval:
    """The value, interval and number of people of one column of a row."""

    def finite(value: Any) -> float:
        return float(value) if value is not None and not (isinstance(value, float) and math.isnan(value)) else math.nan

    num = row.get("num")
    people = int(num) if num is not None and math.isfinite(num) else 0
    return Interval(finite(row.get(name)), finite(row.get(f"{name}_low")), finite(row.get(f"{name}_high")), people)


def best_by_condition(context: Context, evaluation: EvaluationFolder) -> list[Row]:
    """Per condition the best model and channel, and the scores of the other models in that channel.

    Conditions that change regional volumes are scored twice: by the AUC of the most shrunk region (`direction` loss) and
    by that of the most enlarged one (gain). Other conditions, such as focal lesions, are scored by voxel AUPRC
    (`direction` "").
    """
    differences = {"auprc": evaluation.table("differences"), "auc": evaluation.table("region_differences")}
    best_rows = []
    for condition in evaluation.planted:
        for direction, measure, description, candidates in _candidates(evaluation, condition):
            rows = [row for row in candidates if math.isfinite(interval(row, measure).value)]
            if rows:
                label = {"condition": condition, "direction": direction, "measure": measure, "what": description}
                best = max(rows, key=lambda row: interval(row, measure).value)
                names = titles(context, evaluation, str(best["channel"]))
                best_rows.append(label | _standing(best, rows, measure, names, differences[measure]))
    return best_rows


def paired(differences: pd.DataFrame, first: Row, second: Row, measure: str) -> Interval | None:
    """`first` minus `second`, two rows of one condition and channel, over the same people; None if not measured."""
    if measure not in differences.columns:
        return None
    for row in rows_of(differences):
        if any(row.get(name) != first.get(name) for name in ("condition", "channel", "region")):
            continue
        gap = interval(row, measure)
        if (row["maps"], row["minus"]) == (first["maps"], second["maps"]):
            return gap
        if (row["maps"], row["minus"]) == (second["maps"], first["maps"]):
            return Interval(-gap.value, -gap.high, -gap.low, gap.num)
    return None


def _standing(best: Row, rows: list[Row], measure: str, names: dict[str, str], differences: pd.DataFrame) -> Row:
    """The best row, and the other rows of its channel, each with its paired difference to the best where known."""
    others = [row for row in rows if row["channel"] == best["channel"] and row["maps"] != best["maps"]]
    return {
        "model": names.get(str(best["maps"]), str(best["maps"])),
        "channel": str(best["channel"]),
        "value": interval(best, measure),
        "auroc": interval(best, "auroc") if "auroc" in best else None,
        "prevalence": best.get("prevalence"),
        "num_candidates": len(rows),
        "others": [
            {
                "model": names.get(str(row["maps"]), str(row["maps"])),
                "value": interval(row, measure),
                "behind": paired(differences, best, row, measure),
            }
            for row in others
        ],
    }


def _candidates(evaluation: EvaluationFolder, condition: str) -> list[tuple[str, str, str, list[Row]]]:
    """The scores of a condition: direction, compared column, description, and one row per model and channel."""
    voxels, regions = evaluation.table("voxels"), evaluation.table("regions")
    changed = regions[(regions["condition"] == condition) & regions["changed"]] if len(regions) else regions
    if not len(changed):
        chosen = voxels[(voxels["condition"] == condition) & (voxels["severity"] == ALL)] if len(voxels) else voxels
        return [("", "auprc", "voxels", rows_of(chosen))]
    candidates = []
    true = changed.groupby("region")["true_percent"].mean()
    extremes = (("loss", str(true.idxmin())), ("gain", str(true.idxmax())))
    for direction, region in ((direction, _both_if_alike(true, extreme)) for direction, extreme in extremes):
        planted = float(true[region])
        if (planted < 0) == (direction == "loss"):
            description = f"{wording.region(region)} ({spell.number(planted, 1, signed=True)} % planted)"
            candidates.append((direction, "auc", description, rows_of(changed[changed["region"] == region])))
    return candidates


def _voxel_table(voxels: pd.DataFrame, names: dict[str, str]) -> Table:
    overall = voxels[voxels["severity"] == ALL]
    cells: list[list[str]] = []
    for condition, part in overall.groupby("condition", sort=False):
        cells.append([wording.group(str(condition))])
        for row in rows_of(part.sort_values("channel", kind="stable")):
            cells.append(
                [
                    wording.channel(str(row["channel"])),
                    names.get(str(row["maps"]), str(row["maps"])),
                    str(int(row["num"])),
                    wording.with_interval(interval(row, "auroc")),
                    wording.with_interval(interval(row, "auprc")),
                    spell.probability(float(row["prevalence"])),
                    wording.with_interval(interval(row, "dice_at_threshold")),
                    spell.number(interval(row, "dice_oracle").value),
                ]
            )
    caption = (
        "How well the voxel maps show where the change is: mean over people with 95 % interval. Chance reaches an AUPRC "
        "equal to the prevalence. The threshold of Dice is exceeded by 0.1 % of the voxels of held-out controls. The "
        "oracle Dice uses the best threshold given the truth, so it is an upper limit and not a performance."
    )
    header = ["Channel", "Model", "n", "AUROC [95 %]", "AUPRC [95 %]", "Prevalence", "Dice [95 %]", "Oracle Dice"]
    return Table(caption, header, cells, "llrrrrrr")


def _difference_table(differences: pd.DataFrame, names: dict[str, str]) -> Table:
    cells = [
        [
            wording.group(str(row["condition"])),
            wording.channel(str(row["channel"])),
            f"{names.get(str(row['maps']), row['maps'])} minus {names.get(str(row['minus']), row['minus'])}",
            str(int(row["num"])),
            wording.with_interval(interval(row, "auroc"), 3),
            wording.with_interval(interval(row, "auprc"), 3),
            wording.with_interval(interval(row, "dice_at_threshold"), 3),
        ]
        for row in rows_of(differences)
    ]
    caption = (
        "Differences on the same scans, with 95 % interval over people. If the interval contains 0, the two models do not "
        "differ detectably."
    )
    header = ["Condition", "Channel", "Models", "n", "AUROC", "AUPRC", "Dice"]
    return Table(caption, header, cells, "lllrrrr")


def _region_tables(regions: pd.DataFrame, names: dict[str, str]) -> list[Any]:
    """Per condition the most shrunk and most enlarged regions: AUC of every model; detection and bias are folded away."""
    local = regions[(regions["channel"] == "deformation") & regions["changed"]]
    blocks: list[Any] = []
    for condition, part in local.groupby("condition", sort=False):
        chosen = _most_changed(part)
        models = list(dict.fromkeys(part["maps"]))
        areas, details = [], []
        for region in chosen:
            rows = {str(row["maps"]): row for row in rows_of(part[part["region"] == region])}
            planted = f"{spell.number(float(next(iter(rows.values()))['true_percent']), 1, signed=True)} %"
            aucs = [wording.with_interval(interval(rows[m], "auc")) if m in rows else spell.NONE for m in models]
            areas.append([wording.region(region), planted, *aucs])
            details.append([f"{wording.region(region)}, {planted} planted"])
            details += [_region_row(row, names) for row in rows.values()]
        who = f"{wording.group(str(condition))}, n = {int(part['num'].max())}"
        caption = (
            f"{who}: AUC [95 %] of z of local volume against held-out controls, in the regions that were shrunk and "
            "enlarged most."
        )
        header = ["Region", "Planted", *[names.get(str(name), str(name)) for name in models]]
        blocks.append(Table(caption, header, areas, "lr" + "r" * len(models)))
        caption = (
            f"{who}: detected is the share of people with a conformal p of at most 5 %; bias is estimated minus true "
            "change in percent of volume; recovered is estimated over true mean change."
        )
        header = ["Model", "Detected, % [95 %]", "Bias [95 %]", "Recovered"]
        inside = Table(caption, header, details, "lrrr")
        blocks.append(Details(f"{wording.condition(str(condition))}: detection and bias in these regions", [inside]))
    return blocks


def _both_if_alike(true: pd.Series, region: str) -> str:
    """A region, or both sides of its structure together where both changed alike (`true` in percent, by region)."""
    both = region.removeprefix("left ").removeprefix("right ").removesuffix(BOTH) + BOTH
    return both if both in true.index and abs(true[both]) >= ALIKE * abs(true[region]) else region


def _most_changed(part: pd.DataFrame) -> list[str]:
    """Regions by mean true change: the most shrunk first, then the most enlarged; sides that changed alike count as one."""
    true = part.groupby("region")["true_percent"].mean()
    single = true[[not str(region).endswith(BOTH) for region in true.index]].sort_values(kind="stable")
    shrunk = list(dict.fromkeys(_both_if_alike(true, str(region)) for region in single[single < 0].index))
    enlarged = list(dict.fromkeys(_both_if_alike(true, str(region)) for region in single[single > 0].index[::-1]))
    return [*shrunk[:NUM_SHRUNK], *enlarged[:NUM_ENLARGED]]


def _region_row(row: Row, names: dict[str, str]) -> list[str]:
    return [
        names.get(str(row["maps"]), str(row["maps"])),
        wording.with_interval(interval(row, SHARE_P_CONFORMAL), 0, 100),
        wording.with_interval(interval(row, "bias_percent"), 1),
        spell.percent(interval(row, "recovered").value, 0),
    ]


def _detection(context: Context, detection: pd.DataFrame, names: dict[str, str]) -> list[Any]:
    overall = rows_of(detection[detection["severity"] == ALL].sort_values(["condition", "score"], kind="stable"))
    cells = [
        [
            wording.group(str(row["condition"])),
            str(row["score"]),
            names.get(str(row["maps"]), str(row["maps"])),
            str(int(row["num"])),
            wording.with_interval(interval(row, "auc")),
            wording.with_interval(interval(row, "sensitivity"), 0, 100),
        ]
        for row in overall
    ]
    num_controls = int(detection["num_controls"].min())
    caption = (
        f"One score per person compared with {spell.count(num_controls, 'held-out control')}. Detected means a conformal "
        "p of at most 5 %: at most 5 % of controls reach it, and it needs at least 19 controls."
    )
    outlying = int(detection["num_outlying"].max()) if "num_outlying" in detection else 0
    if outlying:
        caption += (
            f" In some scores up to {spell.count(outlying, 'control')} lie far beyond the others; there p is that of a tail "
            "fitted to the others."
        )
    header = ["Condition", "Score", "Model", "n", "AUC [95 %]", "Detected, % [95 %]"]
    inside = Table(caption, header, cells, "lllrrr", sortable=True)
    figure = _severity(context, detection, names)
    return [*([figure] if figure is not None else []), Details("Every score, all severities together", [inside])]


def _severity(context: Context, detection: pd.DataFrame, names: dict[str, str]) -> Figure | None:
    graded = detection[detection["severity"] != ALL]
    panels: dict[str, list[charts.SeverityLine]] = {}
    for score, description in SEVERITY_SCORES.items():
        for condition, part in graded[graded["score"] == score].groupby("condition", sort=False) if len(graded) else ():
            if condition == NULL or part["mean_severity"].nunique() < 2:
                continue
            lines = []
            for folder, rows in part.groupby("maps", sort=False):
                name = names.get(str(folder), str(folder))
                ordered = rows_of(rows.sort_values("mean_severity"))
                points = [float(row["mean_severity"]) for row in ordered]
                lines.append(
                    charts.SeverityLine(
                        name, context.model_colour(name), points, [interval(row, "auc") for row in ordered]
                    )
                )
            panels[f"{wording.condition(str(condition))}: {description}"] = lines
    if not panels:
        return None
    panels = dict(sorted(panels.items()))
    png, svg = charts.severity_lines(panels, "Planted severity", "AUC against controls", 0.5)
    caption = (
        "How well the score separates people with a condition from held-out controls, by planted severity (volume in ml "
        "for lesions, otherwise a factor on the volume changes), with 95 % intervals. The dashed line is chance."
    )
    return Figure("severity", "AUC against planted severity.", caption, png, svg=svg)


def _null_table(null: pd.DataFrame, names: dict[str, str]) -> Table:
    rows = [row for row in rows_of(null) if row.get("num")]
    cells: list[list[str]] = []
    for group in dict.fromkeys(str(row["group"]) for row in rows):
        cells.append([spell.capital(group)])
        cells += [
            [
                wording.channel(str(row["channel"])),
                names.get(str(row["maps"]), str(row["maps"])),
                str(int(row["num"])),
                spell.number(interval(row, "mean_z").value),
                spell.number(interval(row, "sd_z").value),
                wording.with_interval(interval(row, "share_beyond_1_96"), 1, 100),
                wording.with_interval(interval(row, "share_people_fdr_positive"), 0, 100),
            ]
            for row in rows
            if str(row["group"]) == group
        ]
    caption = (
        "People without a planted change. Expected: mean 0, SD 1, 5 % of voxels beyond 1.96, about 5 % of people with an "
        "FDR-positive voxel."
    )
    header = [
        "Channel",
        "Model",
        "n",
        "Mean z",
        "SD of z",
        "|z| > 1.96, % of voxels [95 %]",
        "FDR-positive people, % [95 %]",
    ]
    return Table(caption, header, cells, "llrrrrr")
