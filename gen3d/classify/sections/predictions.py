"""Report section of `gen3d predict`: probabilities of new people, their reliability, similar people and typicality."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from gen3d.classify.folder import HeadFolder, PredictedFolder
from gen3d.classify.sections import charts as heads_charts
from gen3d.classify.sections.models import Models
from gen3d.cohort.target import as_label
from gen3d.core import words as spell
from gen3d.figures import names as wording
from gen3d.figures import style
from gen3d.figures.blocks import Card, Details, Figure, Heading, Points, Section, Table, Text
from gen3d.figures.context import Context, page_section
from gen3d.maths.stats import Interval
from gen3d.stratify import section_map as strata_map
from gen3d.stratify.folder import StrataFolder

ROWS_SHOWN = 30
NEIGHBOURS_SHOWN = 5
PAGE_NOTE = (
    "A finished head was applied to new scans. A probability holds at the prevalence of its training people: where the "
    "disease is rarer, the same result means less."
)


@page_section("Where people stand", "`gen3d predict`", place=120, reads=PredictedFolder)
def section(context: Context) -> Section | None:
    """Per folder: the verdict, everybody from the most probable on, and the first people with a card of their own."""
    folders = context.all(PredictedFolder)
    if not folders:
        return None
    blocks: list[Any] = [Text(PAGE_NOTE)]
    numbers: dict[str, Any] = {}
    for predicted in folders:
        if len(folders) > 1:
            blocks.append(Heading(_title(predicted)))
        blocks += _of_folder(context, predicted)
        tables = {"predictions": predicted.rows("predictions"), "neighbours": predicted.rows("neighbours")}
        numbers[predicted.name] = {**predicted.metrics, "tables": {**tables, **(predicted.metrics.get("tables") or {})}}
    return Section("predictions", "Where people stand", blocks, numbers)


def _title(predicted: PredictedFolder) -> str:
    """What was predicted, and the folder."""
    head = predicted.metrics.get("head")
    target = head.get("target", {}) if isinstance(head, dict) else {}
    name = spell.capital(str(target.get("name", "")).replace("_", " "))
    return f"{name} ({predicted.name})" if name else predicted.name


def head_of(context: Context, predicted: PredictedFolder) -> HeadFolder | None:
    """The classify folder whose head was applied, where it is among the inputs."""
    return next((head for head in context.all(HeadFolder) if predicted.is_made_from(head.artefact)), None)


def _of_folder(context: Context, predicted: PredictedFolder) -> list[Any]:
    head = head_of(context, predicted)
    frame = ordered(predicted.people)
    blocks: list[Any] = []
    if predicted.summary:
        blocks += [Text(spell.capital(predicted.summary[0]), "verdict"), Points(predicted.summary[1:])]
    odd = [row for _, row in frame.iterrows() if warning_of(row)]
    if odd:
        names = spell.listed([str(row["subject"]) for row in odd[:8]])
        others = f" and {len(odd) - 8} more" if len(odd) > 8 else ""
        blocks.append(
            Text(
                f"These predictions may be unreliable: {names}{others}. The reasons are given with each person below.",
                "warning",
            )
        )
    if not len(frame):
        return blocks
    if _is_probability(frame):
        blocks.append(_chart(predicted, frame.head(ROWS_SHOWN)))
    caption = f"{spell.count(len(frame), 'scan')}, {_order_description(frame)}."
    blocks.append(_table(predicted, frame.head(ROWS_SHOWN), caption))
    if len(frame) > ROWS_SHOWN:
        rest = frame.iloc[ROWS_SHOWN:]
        folded = _table(predicted, rest, "The others, in the same order.")
        blocks.append(Details(f"The other {spell.count(len(rest), 'scan')}", [folded], False))
    strata = next((each for each in context.all(StrataFolder) if predicted.is_made_from(each.artefact)), None)
    return blocks + [_card(predicted, head, strata, row) for _, row in frame.head(context.subjects_shown).iterrows()]


def ordered(frame: pd.DataFrame) -> pd.DataFrame:
    """The most probable (or the highest value) first; without a score as the table stands."""
    if "y_score" not in frame.columns:
        return frame
    scores = pd.to_numeric(frame["y_score"], errors="coerce")
    return frame.iloc[np.argsort(-scores.to_numpy(float), kind="stable")]


def outputs(frame: pd.DataFrame) -> list[str]:
    """Columns of probabilities, in the order of the classes."""
    return [str(name) for name in frame.columns if str(name).startswith("p_")]


def _is_probability(frame: pd.DataFrame) -> bool:
    return len(outputs(frame)) == 2 and "y_score" in frame.columns


def _order_description(frame: pd.DataFrame) -> str:
    if _is_probability(frame):
        return f"the highest probability of {outputs(frame)[-1].removeprefix('p_')} first"
    return "the highest value first" if "y_score" in frame.columns else "in the order of the table"


def warning_of(row: pd.Series) -> str:
    """Why a prediction may be unreliable, "" without a reason."""
    reasons = [_text(row.get("out_of_distribution"))]
    seen = _text(row.get("seen"))
    if seen and seen.lower() not in ("false", "0", "0.0"):
        reasons.append(f"a model behind the latents was trained on this person ({seen})")
    return "; ".join(reason for reason in reasons if reason)


def _text(value: object) -> str:
    return "" if value is None or value != value or value is False else str(value).strip()


def _chart(predicted: PredictedFolder, frame: pd.DataFrame) -> Figure:
    scores = pd.to_numeric(frame["y_score"], errors="coerce").to_numpy(float)
    empty = pd.Series(np.nan, index=frame.index)
    thresholds = pd.to_numeric(frame.get("threshold", empty), errors="coerce").to_numpy(float)
    sought = outputs(frame)[-1].removeprefix("p_")
    odd = [bool(warning_of(row)) for _, row in frame.iterrows()]
    colours = [
        style.WARNING if strange else style.GROUP_COLOURS[0] if score >= threshold else style.CONTROL_COLOUR
        for strange, score, threshold in zip(odd, scores, thresholds, strict=True)
    ]
    names = [str(key) for key in frame["key"]]
    png, svg = heads_charts.places(scores, names, colours, thresholds, f"Probability of {sought}")
    caption = f"Probability of {sought}; the tick is the threshold of the head; blue: at or above it"
    caption += ", orange: with a warning." if any(odd) else "."
    name = f"predictions_{predicted.name.replace('/', '_')}"
    return Figure(name, f"Dots of the probability of {sought}.", caption, png, svg=svg, width_percent=80)


def _table(predicted: PredictedFolder, frame: pd.DataFrame, caption: str) -> Table:
    classes = [name.removeprefix("p_") for name in outputs(frame)]
    shown = classes[-1:] if len(classes) == 2 else classes
    columns = [f"P({name})" for name in shown] or ["Predicted"]
    has_map = {"umap1", "umap2"} <= set(frame.columns)
    warned = any(warning_of(row) for _, row in frame.iterrows())
    rows = []
    for _, row in frame.iterrows():
        values = [_probability(strata_map.known(row, f"p_{name}")) for name in shown] or [
            spell.number(strata_map.known(row, "y_score"), 1)
        ]
        cells = [str(row["key"]), warning_of(row) or spell.NONE, *_identity(row), *values]
        cells += [as_label(row.get("y_pred")) if shown else "", _typicality(row)]
        if has_map:
            cells.append(strata_map.cluster_title(row.get("cluster")) or spell.NONE)
        rows.append(cells)
    header = ["Scan", "Warning", "Age", "Sex", *columns, "Called", "More unusual than, %"] + (
        ["Cluster"] if has_map else []
    )
    align = "nlrl" + "r" * len(columns) + "lr" + ("l" if has_map else "")
    left_out = [name for name, there in (("Called", bool(shown)), ("Warning", warned)) if not there]
    if left_out:
        keep = [index for index, name in enumerate(header) if name not in left_out]
        header, align = [header[i] for i in keep], "".join(align[i] for i in keep)
        rows = [[cells[i] for i in keep] for cells in rows]
    return Table(caption, header, rows, align, sortable=True)


def _identity(row: pd.Series) -> tuple[str, str]:
    age = strata_map.known(row, "age_years")
    sex = row.get("sex")
    return (f"{age:.0f}" if math.isfinite(age) else spell.NONE), (str(sex) if sex and sex == sex else spell.NONE)


def _probability(value: float) -> str:
    """A probability to two digits, never as 0 or 1."""
    if not math.isfinite(value):
        return spell.NONE
    return "< 0.01" if value < 0.005 else "> 0.99" if value > 0.995 else f"{value:.2f}"


def _typicality(row: pd.Series) -> str:
    value = strata_map.known(row, "typicality_percentile")
    return f"{value:.0f}" if math.isfinite(value) else spell.NONE


def _card(predicted: PredictedFolder, head: HeadFolder | None, strata: StrataFolder | None, row: pd.Series) -> Card:
    blocks: list[Any] = []
    if warning_of(row):
        blocks.append(Text(f"{spell.capital(warning_of(row))}.", "warning"))
    blocks += [Text(sentence) for sentence in (_call(row), worth(head, row), _standing(row)) if sentence]
    blocks += _position(predicted, strata, row) + _neighbours(predicted, str(row["key"]))
    age, sex = _identity(row)
    facts = [
        f"{age} years" if age != spell.NONE else "",
        sex if sex != spell.NONE else "",
        str(row.get("site") or ""),
    ]
    identifier = f"prediction-{predicted.name.replace('/', '-')}-{row['key']}"
    return Card(str(row["key"]), ", ".join(fact for fact in facts if fact), blocks, identifier)


def _call(row: pd.Series) -> str:
    """The probability, and the class that the threshold makes of it."""
    frame = row.to_frame().T
    names = [name.removeprefix("p_") for name in outputs(frame)]
    score, threshold = strata_map.known(row, "y_score"), strata_map.known(row, "threshold")
    if not names:
        value = strata_map.known(row, "predicted")
        value = score if not math.isfinite(value) else value
        return f"Predicted: {spell.number(value, 1)}." if math.isfinite(value) else ""
    parts = [f"{name} {_probability(strata_map.known(row, f'p_{name}'))}" for name in names]
    if len(names) != 2:
        return f"Probabilities: {', '.join(parts)}; predicted {as_label(row.get('y_pred'))}."
    text = f"Probability of {names[-1]}: {_probability(strata_map.known(row, f'p_{names[-1]}'))}"
    if math.isfinite(threshold):
        side = "at or above" if score >= threshold else "below"
        text += f", {side} the threshold of {spell.number(threshold)}: predicted {as_label(row.get('y_pred'))}"
    return f"{text}."


def worth(head: HeadFolder | None, row: pd.Series) -> str:
    """How often such a probability was right in cross-validation, from this folder or from the head's; "" if unknown."""
    names = ("reliability_observed", "reliability_low", "reliability_high", "reliability_num")
    value, low, high, num = (strata_map.known(row, name) for name in names)
    if not math.isfinite(value) and head is not None:
        value, low, high, num = _of_head(head, row)
    if not (math.isfinite(value) and math.isfinite(num)):
        return ""
    classes = [name.removeprefix("p_") for name in outputs(row.to_frame().T)]
    came = f"were {classes[-1]}" if len(classes) == 2 else "were predicted correctly"
    share = wording.with_interval(Interval(value, low, high, int(num)), 0, 100)
    return f"When the head was tested, of {spell.people(int(num))} with a similar probability {share} % {came}."


def _of_head(head: HeadFolder, row: pd.Series) -> tuple[float, float, float, float]:
    """Observed share, its interval and people of the bin whose mean prediction is nearest; NaN without bins."""
    table = "reliability"
    rows = head.rows(table, "model", "predicted", "observed", "low", "high", "num")
    lead = Models(head).lead  # the head that the folder keeps
    bins = [item for item in rows if item["model"] == lead and head.number(item, "num", table) > 0]
    score = strata_map.known(row, "y_score")
    if not bins or not math.isfinite(score) or len(head.classes) != 2:
        return math.nan, math.nan, math.nan, math.nan
    nearest = min(bins, key=lambda item: abs(head.number(item, "predicted", table) - score))
    observed, low, high, num = (head.number(nearest, name, table) for name in ("observed", "low", "high", "num"))
    return observed, low, high, num


def _standing(row: pd.Series) -> str:
    parts = []
    value = strata_map.known(row, "typicality_percentile")
    if math.isfinite(value):
        share = "all" if value >= 100 else f"{value:.0f} % of the"
        parts.append(f"more unusual than {share} training people of the head")
    cluster = strata_map.cluster_title(row.get("cluster"))
    if cluster:
        parts.append(f"in the map in cluster {cluster}")
    elif "cluster" in row.index and math.isfinite(strata_map.known(row, "umap1")):
        parts.append(f"in the map {strata_map.NO_CLUSTER}")
    return spell.capital("; ".join(parts)) + "." if parts else ""


def _position(predicted: PredictedFolder, strata: StrataFolder | None, row: pd.Series) -> list[Figure]:
    """The person as a diamond on the map of the cohort."""
    place = np.array([strata_map.known(row, "umap1"), strata_map.known(row, "umap2")])
    if strata is None or not np.isfinite(place).all() or not strata_map.is_there(strata.people, ("umap1", "umap2")):
        return []
    everybody = strata.people[["umap1", "umap2"]].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    named = strata.people.assign(cluster=strata_map.cluster_names(strata.people))
    colouring = strata_map.colourings(named)[0]
    png = heads_charts.position(everybody, colouring.colours, place)
    name = f"position_{predicted.name.replace('/', '_')}_{row['key']}"
    caption = f"The diamond is this person among the people of the map, coloured by {colouring.title.lower()}."
    return [Figure(name, f"Place of {row['key']} in the map.", caption, png)]


def _neighbours(predicted: PredictedFolder, key: str) -> list[Table]:
    """The training people of the head who are most similar."""
    frame = predicted.neighbours
    if frame.empty or "key" not in frame.columns:
        return []
    neighbours = frame[frame["key"].astype(str) == key].head(NEIGHBOURS_SHOWN)
    columns = [
        ("neighbour_key", "Person"),
        ("distance", "Distance"),
        ("neighbour_y", "True"),
        *(
            ("age_years", "Age") if "age_years" in neighbours else ("age", "Age"),
            ("sex", "Sex"),
            ("diagnosis", "Diagnosis"),
        ),
    ]
    present = [
        (name, title) for name, title in columns if name in neighbours.columns and neighbours[name].notna().any()
    ]
    if neighbours.empty or not present:
        return []
    rows = [[_cell(name, row[name]) for name, _ in present] for _, row in neighbours.iterrows()]
    align = "".join("r" if name in ("distance", "age", "age_years") else "l" for name, _ in present)
    return [Table("The most similar training people of the head.", [title for _, title in present], rows, align)]


def _cell(name: str, value: Any) -> str:
    if value is None or value != value:
        return spell.NONE
    if name == "distance":
        return spell.number(float(value))
    if name in ("age", "age_years"):
        return f"{float(value):.0f}"
    return f"{value:g}" if isinstance(value, float) else str(value)
