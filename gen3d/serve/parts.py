"""The parts of a scan's page, read from the folders that the verbs wrote by the readers of these folders."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from gen3d.anomaly.folder import MapsFolder, map_paths
from gen3d.cohort.folder import VERDICTS
from gen3d.cohort.manifest import AGES_DIFFER_YEARS, read_manifest
from gen3d.cohort.region_validity import measures_volume
from gen3d.core import words
from gen3d.core.artefact import Artefact, read
from gen3d.core.errors import UserError
from gen3d.core.result_folder import ResultFolder, picture_path
from gen3d.core.tables import read_table
from gen3d.explain.folder import ExplainedFolder
from gen3d.explain.folder import map_path as attribution_path
from gen3d.figures import names as wording
from gen3d.forecast.folder import ForecastFolder
from gen3d.forecast.folder import volume_path as forecast_path
from gen3d.serve.jobs import Given, Job
from gen3d.serve.results import Part, Results, Viewer, ViewerLayer
from gen3d.serve.steps import JobStep
from gen3d.stages.folder import StagesFolder
from gen3d.stages.folder import volume_path as stage_path

MOST_REGIONS = 400
BLIND = "not evaluable"
"""How a warning of `predict` begins that speaks of the model, not of the scan."""
OWN_TESTS = (
    "The head's own test",
    "The scan (",
    "A scan alone (",
    "Probabilities were calibrated",
    "Too few people watched",
)
"""How the sentences of `predict` begin that say what the model is worth."""


def results_of(job: Job, steps: list[JobStep]) -> Results:
    """What the finished steps of a job came to; a folder that cannot be read is a sentence, and the others are shown."""
    results = Results()
    for step in steps:
        end, part_of = job.end_of(step.name), PARTS.get(step.verb)
        if end is None:
            continue
        if end.sentence:
            if part_of is not None or step.verb in ("encode",):
                results.parts.append(Part(step.title, [f"Not evaluable: {end.sentence}"]))
            continue
        try:
            if part_of is not None:
                part = part_of(step, read(job.folder / step.name), results)
                if step.verb == "prepare" and job.given.kind == "dicom":
                    part.warnings += _against_header(job.given, job.folder / step.name)
                results.parts.append(part)
        except (UserError, OSError, KeyError, ValueError, IndexError) as error:
            told = str(error) if isinstance(error, UserError) else "the folder of this step cannot be read"
            results.parts.append(Part(step.title, [f"Not evaluable: {told.replace(str(job.folder) + '/', '')}"]))
    return results


def _key(prepared: Path) -> str:
    """The scan that is shown: the first that was not excluded.

    Raises:
        IndexError: there is none.
    """
    verdicts = VERDICTS.read(prepared)
    return str(verdicts.loc[verdicts["verdict"] != "exclude", "key"].iloc[0])


def _prepared_of(folder: Path, step: JobStep) -> Path:
    return Path(step.settings["prepared"][0])


def _quality(step: JobStep, artefact: Artefact, results: Results) -> Part:
    verdicts = VERDICTS.read(artefact.folder)
    usable = verdicts[verdicts["verdict"] != "exclude"]
    row = dict((verdicts if usable.empty else usable).iloc[0])
    verdict, reason = str(row["verdict"]), _text(row["reason"])
    told = {"keep": "Usable", "warn": "Usable with care", "exclude": "Not usable"}.get(verdict, verdict)
    part = Part("Quality", [f"{told}{': ' + reason if reason else ''}."])
    if verdict == "warn":
        part.warnings.append("Look at the picture of the alignment before reading anything else.")
    if len(verdicts) > 1:
        part.sentences.append(
            f"{words.count(len(verdicts), 'scan')} came in the upload; the first usable one is shown."
        )
    named = (
        ("correlation", "likeness to the template, r"),
        ("brain_ml", "brain, ml"),
        ("mutual_information", "mutual information"),
    )
    part.header = ("Measure", "Value")
    part.rows = [
        (name, words.figure(float(row[column]))) for column, name in named if column in row and _is(row[column])
    ]
    part.caption = "How the scan lies on the template."
    key, prefix = str(row["key"]), step.name
    picture = picture_path(artefact.folder, key)
    if picture.is_file():
        part.picture = results.offer(f"{prefix}-quality.png", picture)
        part.alt = "The scan in three planes with the outline of the template, as it was aligned."
    volume = artefact.folder / "volumes" / f"{key}_t1w.nii"
    if volume.is_file():
        results.offer(f"{prefix}-scan.nii", volume, "Scan, aligned (NIfTI)")
    return part


def _against_header(given: Given, prepared: Path) -> list[str]:
    """What was said of the person and the headers of the files say otherwise: perhaps somebody else's images."""
    row = read_manifest(prepared).iloc[0]
    found = []
    age, sex = float(row["age_years"]), _text(row["sex"])
    if given.age_years is not None and math.isfinite(age) and abs(age - given.age_years) > AGES_DIFFER_YEARS:
        found.append(("age", f"{age:.0f}", f"{given.age_years:.0f}"))
    if given.sex and sex and sex != given.sex:
        found.append(("sex", sex, given.sex))
    return [
        f"The files say {what} {header}, and {said} was typed in: the files count. Look whether this is the person's scan."
        for what, header, said in found
    ]


def _maps(step: JobStep, artefact: Artefact, results: Results) -> Part:
    maps = MapsFolder(artefact, step.name)
    row = maps.subjects.iloc[0]
    key, prefix = str(row["key"]), step.name
    part = Part(f"Against healthy controls: {step.model}", [f"Compared with {maps.judged_by}."])
    if flags := _text(row.get("flags", "")):
        part.warnings.append(f"{words.capital(flags)}.")
    for score in maps.headline_scores:
        percentile = row.get(score.percentile_column)
        if percentile is not None and _is(percentile):
            part.sentences.append(
                f"{wording.score(score.channel, score.kind)}: {words.number(float(row[score.column]))}, higher than in "
                f"{float(percentile):.0f} % of controls."
            )
    prepared = _prepared_of(artefact.folder, step)
    base = ViewerLayer("Scan", f"{prepared.name}-scan.nii")
    layers = []
    paths = map_paths(artefact.folder, key)
    clusters = maps.clusters[(maps.clusters["key"].astype(str) == key) & maps.clusters["channel"].isin(list(paths))]
    first = _heaviest(clusters)
    for channel, path in paths.items():
        title = wording.channel(channel)
        file = results.offer(f"{prefix}-z-{channel}.nii.gz", path, f"z map, {wording.in_text(channel)} (NIfTI)")
        place, finding = _finding(_heaviest(clusters[clusters["channel"] == channel]))
        shown = first is not None and first["channel"] == channel
        layers.append(ViewerLayer(title, file, "z", 2.0, 6.0, place, finding, shown))
    if layers:
        note = (
            "Blue is below and orange above what is expected at this age, sex and site, in standard deviations of controls. The "
            "person's left is on the left."
        )
        part.views.append(Viewer("z maps on the scan", layers, base, note))
    else:
        part.warnings.append("There is no z map: the scanner has too few controls in this norm.")
    _regions(part, maps, row)
    for name, title in (("regions.tsv", "Table of regions (TSV)"), ("subjects.tsv", "Scores of the scan (TSV)")):
        results.offer(f"{prefix}-{name}", artefact.folder / name, title)
    return part


def _regions(part: Part, maps: MapsFolder, row: pd.Series) -> None:
    """Every region's volume and intensity against the range of controls, the most deviating first."""
    table = maps.regions[(maps.regions["key"] == row["key"]) & maps.regions["z"].notna()]
    channels = [name for name in dict.fromkeys(map(maps.region_channel, maps.channels)) if name != "structural"]
    table = table[table["channel"].isin(channels)]
    table = table.reindex(table["z"].abs().sort_values(ascending=False, kind="stable").index).head(MOST_REGIONS)
    part.header = ("Region", "Measure", "Difference", "Controls, 5 to 95 %", "z", "q")
    part.caption = (
        "Regions against the normative range, the most deviating first; a difference is from what is expected."
    )
    for entry in table.to_dict("records"):
        channel, region = str(entry["channel"]), str(entry["region"])
        unit, scale = wording.effect_unit(channel), wording.effect_scale
        limits = maps.control_range(str(row["subject"]), channel, region)
        shown = "unknown"
        if limits is not None:
            shown = " to ".join(words.number(scale(channel, limit), 1, signed=True) for limit in limits) + unit
        mark = (
            ""
            if channel not in ("volume", "deformation") or measures_volume(region, channel)
            else f" ({wording.NOT_ITS_VOLUME})"
        )
        part.rows.append(
            (
                f"{region}{mark}",
                wording.channel(channel),
                wording.effect(channel, float(entry["effect"]), float(entry["effect_percent"])),
                shown,
                words.number(float(entry["z"]), 1, signed=True),
                words.probability(float(entry["q"])),
            )
        )
        part.marked.append(float(entry["q"]) < 0.05)


def _prediction(step: JobStep, artefact: Artefact, results: Results) -> Part:
    folder = ResultFolder(artefact, step.name)
    row = read_table(artefact.folder / "predictions.tsv").iloc[0]
    target = folder.part("head", dict, {}).get("target", {})
    classes = [str(name) for name in target.get("classes", [])]
    part = Part(f"Prediction of {target.get('name', '')}: {step.model}")
    odd = _text(row.get("out_of_distribution", ""))
    if odd.startswith(BLIND):
        part.sentences.append(f"{odd[:1].upper()}{odd[1:]}.")
    elif odd:
        part.sentences.append(f"Not evaluable: the scan is unlike those that the classifier learned from ({odd}).")
    elif classes:
        chances = {name: float(row[f"p_{name}"]) for name in classes}
        called = as_name(row["y_pred"], classes)
        part.sentences.append(f"{called}, with a calibrated probability of {words.percent(chances[called], 0)}.")
        if _is(row.get("reliability_observed")):
            part.sentences.append(_came_true(row, classes, chances))
    else:
        part.sentences.append(f"{words.figure(float(row['predicted']))}.")
    if classes and not odd:  # a probability that may not hold is left to the table
        part.header = ("Class", "Calibrated probability")
        part.rows = [(name, words.percent(float(row[f"p_{name}"]), 0)) for name in classes]
    own_tests = [text for text in folder.summary[1:] if text.startswith(OWN_TESTS)]
    if part.rows and not any("mixed as in training" in text for text in own_tests):
        part.caption = "Probabilities are those among people mixed as in training."
    part.sentences += own_tests
    results.offer(f"{step.name}-predictions.tsv", artefact.folder / "predictions.tsv", "Prediction (TSV)")
    return part


def _heaviest(clusters: pd.DataFrame) -> pd.Series | None:
    """The least likely of clusters, of several the one whose peak is highest; None where there is no cluster."""
    if clusters.empty:
        return None
    order = pd.DataFrame({"p": clusters["p_cluster"].astype(float), "z": -clusters["peak_z"].astype(float).abs()})
    return clusters.loc[order.sort_values(["p", "z"], kind="stable").index[0]]


def _finding(cluster: pd.Series | None) -> tuple[tuple[float, ...], str]:
    """Where a cluster has its peak (mm), and what it is."""
    if cluster is None:
        return (), ""
    text = (
        f"Crosshair: the least likely cluster of this map, {cluster['region']}, {words.figure(float(cluster['volume_ml']))} ml, "
        f"peak z {words.number(float(cluster['peak_z']), 1, signed=True)}, p {words.probability(float(cluster['p_cluster']))} "
        "over the whole map."
    )
    return tuple(float(cluster[f"{axis}_mm"]) for axis in "xyz"), text


def _came_true(row: pd.Series, classes: list[str], chances: Mapping[str, float]) -> str:
    """What became of held-out people with such a probability: of the last of two classes, or of the likeliest of more."""
    true, low, high = (float(row[f"reliability_{name}"]) for name in ("observed", "low", "high"))
    share, last = words.interval(true, low, high), classes[-1]
    if len(classes) > 2:
        likeliest = words.percent(max(chances.values()), 0)
        such = f"people whose likeliest class had such a probability ({likeliest}) {share} were of it"
    else:
        such = f"people with such a probability of {last} ({words.percent(chances[last], 0)}) {share} were {last}"
    return f"In cross-validation, of {such} (share, 95 %)."


def as_name(value: Any, classes: list[str]) -> str:
    """A class as the head calls it; a table may read `1` as a number.

    Raises:
        ValueError: it is none of the classes.
    """
    text = str(value)
    if text in classes:
        return text
    return next(name for name in classes if _number(name) == _number(text) and not math.isnan(_number(name)))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _forecast(step: JobStep, artefact: Artefact, results: Results) -> Part:
    folder = ForecastFolder(artefact, step.name)
    part = Part(f"Forecast: {step.model}", list(folder.summary))
    own = folder.forecasts[folder.forecasts["model"] == folder.model]
    prepared = _prepared_of(artefact.folder, step)
    for row in own.to_dict("records"):
        if not _text(row["stem"]):
            continue
        years, view = _years(row["years"]), []
        for what, title, kind, high in (
            ("t1w", f"In {years}", "scan", 1.2),
            ("difference", "Difference", "change", 0.3),
            ("sd", "Uncertainty (SD)", "spread", 0.1),
        ):
            path = forecast_path(artefact.folder, str(row["stem"]), what)
            if path.is_file():
                file = results.offer(
                    f"{step.name}-{row['years']:g}y-{what}.nii", path, f"Forecast in {years}, {title.lower()} (NIfTI)"
                )
                view.append(ViewerLayer(title, file, kind, 0.02 if kind == "change" else 0.0, high))
        if view:
            part.views.append(
                Viewer(f"Today and in {years}", [ViewerLayer("Today", f"{prepared.name}-scan.nii"), *view])
            )
    regions = folder.regions[folder.regions["model"] == folder.model]
    latest = regions[regions["years"] == regions["years"].max()]
    latest = latest.reindex(latest["log_change"].abs().sort_values(ascending=False, kind="stable").index)
    part.header = ("Region", f"Change in {_years(latest['years'].iloc[0])}", "80 % interval") if len(latest) else ()
    for row in latest.to_dict("records"):
        percent: Callable[[float], str] = lambda value: f"{words.number(100 * math.expm1(value), 1, signed=True)} %"  # noqa: E731
        limits = "none" if not _is(row["low_80"]) else f"{percent(row['low_80'])} to {percent(row['high_80'])}"
        part.rows.append((str(row["region"]), percent(row["log_change"]), limits))
    part.caption = "Expected change of volume by region, the largest first."
    return part


def _stages(step: JobStep, artefact: Artefact, results: Results) -> Part:
    folder = StagesFolder(artefact, step.name)
    part = Part(f"{step.title}: {step.model}", list(folder.summary))
    prepared, layers = _prepared_of(artefact.folder, step), []
    key = _key(prepared)
    for number, stage in enumerate(folder.classes):
        path = stage_path(artefact.folder, key, stage)
        if path.is_file():
            file = results.offer(f"{step.name}-{number}.nii", path, f"Made at stage {stage} (NIfTI)")
            layers.append(ViewerLayer(f"Made: {stage}", file, "scan", 0.0, 1.2))
    if layers:
        part.views.append(
            Viewer("Today and each later stage", [ViewerLayer("Today", f"{prepared.name}-scan.nii"), *layers])
        )
    picture = picture_path(artefact.folder, key)
    if picture.is_file():
        part.picture = results.offer(f"{step.name}-chain.png", picture)
        part.alt = "The scan, what the chain makes of it at every later stage, and the differences."
    return part


def _explained(step: JobStep, artefact: Artefact, results: Results) -> Part:
    folder = ExplainedFolder(artefact, step.name)
    prepared = _prepared_of(artefact.folder, step)
    key = _key(prepared)
    part = Part(f"{step.title}: {step.model}", list(folder.summary))
    layers = []
    for method in folder.methods:
        path = attribution_path(artefact.folder, key, method)
        if path.is_file():
            title = method.replace("_", " ")
            file = results.offer(f"{step.name}-{method}.nii.gz", path, f"Attribution, {title} (NIfTI)")
            layers.append(ViewerLayer(words.capital(title), file, "attribution"))
    if layers:
        note = "What speaks for the last class is orange, what speaks against it blue; scaled to each map."
        part.views.append(
            Viewer("Attribution on the scan", layers, ViewerLayer("Scan", f"{prepared.name}-scan.nii"), note)
        )
    return part


def _slice_quality(step: JobStep, artefact: Artefact, results: Results) -> Part:
    part = _quality(step, artefact, results)
    part.header, part.rows, part.caption = (), [], ""
    return part


def _report(step: JobStep, artefact: Artefact, results: Results) -> Part:
    results.offer("report.html", artefact.folder / "index.html", "Report, one page that opens offline (HTML)")
    return Part("")


PARTS: dict[str, Callable[[JobStep, Artefact, Results], Part]] = {
    "prepare": _quality,
    "prepare-slices": _slice_quality,
    "anomaly": _maps,
    "predict": _prediction,
    "forecast": _forecast,
    "stages": _stages,
    "explain": _explained,
    "report": _report,
}


def _years(value: Any) -> str:
    return f"{float(value):g} {'year' if float(value) == 1 else 'years'}"


def _text(value: Any) -> str:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) or value == "n/a" else str(value)


def _is(value: Any) -> bool:
    try:
        return value is not None and math.isfinite(float(value))
    except (TypeError, ValueError):
        return False
