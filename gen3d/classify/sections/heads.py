"""Report section of `gen3d classify`: heads and their baselines, tested on held-out people."""

from __future__ import annotations

import math
from typing import Any

from gen3d.classify.folder import HeadFolder
from gen3d.classify.sections import charts as heads_charts
from gen3d.classify.sections import genes as heads_genes
from gen3d.classify.sections import heads as heads_checks
from gen3d.classify.sections import networks as heads_networks
from gen3d.classify.sections import people as heads_people
from gen3d.classify.sections import readers as heads_readers
from gen3d.classify.sections import tables as heads_blocks
from gen3d.classify.sections.models import MEASURES, Models
from gen3d.classify.sections.tables import figures, measure_name
from gen3d.core import words as spell
from gen3d.core.tables import Row
from gen3d.figures import charts
from gen3d.figures import names as wording
from gen3d.figures.blocks import Details, Figure, Heading, Points, Section, Table, Text
from gen3d.figures.context import Context, page_section
from gen3d.figures.plain_tables import interval_of

POLICIES = {
    "refuse": "No training person of a model behind the latents was tested: the verb would have stopped.",
    "leave_out": "Training people of a model behind the latents are excluded from training and testing.",
    "train_only": "Training people of a model behind the latents are used for training only, and never tested.",
    "waive": "Training people of a model behind the latents were tested all the same (waived).",
}

LIMIT_OF_HEADS = (
    "Intervals of heads take the fitted models as fixed; models fitted on other people would differ by more. A "
    "probability holds at the prevalence of the training people; where a disease is rarer, look at the predictive "
    "values."
)
"""For the last section of the page."""


@page_section("Classification", "`gen3d classify`", place=100, reads=HeadFolder)
def section(context: Context) -> Section | None:
    """Per folder: the verdict, who was tested and what guarded against leaks, performance, and everything behind it."""
    folders = context.all(HeadFolder)
    if not folders:
        return None
    blocks: list[Any] = [
        Text(
            "A head is a small classifier that predicts a column of the cohort table from the latents alone; a network predicts it "
            "from volumes or slices. Baselines are tested on the same people: covariates, volumes of structures, or the plain "
            "voxels. What does not beat them adds nothing. Intervals are 95 % over people."
        )
    ]
    numbers: dict[str, Any] = {}
    for head in folders:
        if len(folders) > 1:
            blocks.append(Heading(f"{target_title(head)} ({head.name})"))
        inside, head_numbers = _of_folder(head)
        blocks += inside
        numbers[head.name] = {**head.metrics, **head_numbers}
    return Section("heads", "Classification", blocks, numbers)


def target_title(head: HeadFolder) -> str:
    """The target as a heading: Diagnosis, AD against CN."""
    name = spell.capital(str(head.target.get("name", head.name)).replace("_", " "))
    if head.task == "number" or not head.classes:
        return name
    if len(head.classes) == 2:
        return f"{name}, {head.classes[1]} against {head.classes[0]}"
    return f"{name}: {spell.listed(head.classes)}"


def _of_folder(head: HeadFolder) -> tuple[list[Any], dict[str, Any]]:
    models = Models(head)
    blocks: list[Any] = []
    if head.summary:
        blocks += [Text(spell.capital(head.summary[0]), "verdict"), *_warnings(head), Points(head.summary[1:])]
    else:
        blocks += _warnings(head)
    blocks += _external(head) + _people(head)
    blocks += heads_genes.genes(models)
    blocks += heads_networks.networks(models)
    blocks += heads_blocks.performance(models)
    blocks += heads_readers.recalls(models)
    blocks += heads_blocks.differences(models)
    blocks += heads_blocks.curves(models)
    dots, numbers = heads_people.predicted_against_true(models)
    blocks += dots
    blocks += heads_blocks.reliability(models)
    blocks += heads_people.confusion(models)
    blocks += heads_people.predictive_values(models)
    blocks += heads_readers.likelihood(models)
    blocks += heads_readers.readers(models)
    blocks += heads_checks.subgroups(models)
    blocks += heads_checks.permutation(models)
    blocks += _models_table(models) + _checklist(head)
    return blocks, numbers


def sentence(text: str) -> str:
    """Text that ends as a sentence does."""
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _guard(head: HeadFolder) -> dict[str, Any]:
    guard = head.metrics.get("guard", {})
    return guard if isinstance(guard, dict) else {}


def _warnings(head: HeadFolder) -> list[Text]:
    """Waivers and likely duplicates, which a reader must know before any number."""
    guard = _guard(head)
    texts = [sentence(f"Waived: {waiver}") for waiver in guard.get("waivers") or ()]
    pairs = guard.get("duplicates") or []
    policy = str(guard.get("duplicates_policy", ""))
    if pairs:
        named = [
            f"{pair.get('first')} and {pair.get('second')} (similarity {spell.number(pair.get('similarity'), 3)})"
            for pair in pairs[:5]
        ]
        rest = f" and {len(pairs) - 5} more" if len(pairs) > 5 else ""
        done = {
            "merge": "; each pair was kept together in every split",
            "waive": "; they were treated as different people (waived)",
        }
        texts.append(
            f"{spell.count(len(pairs), 'pair')} of subjects may be one person under two ids, because their scans are as similar as "
            f"two scans of one person: {', '.join(named)}{rest}{done.get(policy, '')}."
        )
    return [Text(text, "warning") for text in texts]


def _external(head: HeadFolder) -> list[Any]:
    """What a test on people of other data shows, and what it cannot show."""
    if not head.is_external:
        return []
    text = (
        "These are people of other data. Saved heads were applied to them unchanged, and nothing was fitted here. "
        "This shows whether a head generalises beyond its own data."
    )
    counts = _by_class(head)
    if len(head.classes) == 2 and counts:
        reference, sought = head.classes
        if not counts.get(reference):
            text += (
                f" None of them is of the class {reference}, so only sensitivity can be measured: "
                "specificity, AUC and predictive values need both classes."
            )
        elif not counts.get(sought):
            text += (
                f" None of them is of the class {sought}, so only specificity can be measured: "
                "sensitivity, AUC and predictive values need both classes."
            )
    return [Text(text)]


def _by_class(head: HeadFolder) -> dict[str, int]:
    counts = (head.metrics.get("people") or {}).get("by_class") or {}
    return {str(name): int(num) for name, num in counts.items()} if isinstance(counts, dict) else {}


def _people(head: HeadFolder) -> list[Any]:
    """Who was tested, who was left out, and what was checked for leaks."""
    people, guard = head.metrics.get("people") or {}, _guard(head)
    blocks: list[Any] = []
    if "num_people" in people:
        text = f"Tested: {spell.people(int(people['num_people']))}"
        if int(people.get("num_scans", people["num_people"])) != int(people["num_people"]):
            text += f" with {spell.count(int(people['num_scans']), 'scan')}"
        counts = _by_class(head)
        if counts and head.task != "number":
            text += ": " + spell.listed([f"{wording.group(name)} {num}" for name, num in counts.items()])
        blocks += [Heading("Who was tested"), Text(text + ".")]
    points = [spell.capital(sentence(str(note))) for note in people.get("left_out") or ()]
    policy = str(guard.get("seen_policy", ""))
    if policy:
        points.append(POLICIES.get(policy, f"Policy for training people of a model behind the latents: {policy}."))
    if guard.get("num_seen") is not None:
        points.append(
            f"A model behind the latents was trained on {spell.people(int(guard['num_seen']))} of the table."
            if guard["num_seen"]
            else "No model behind the latents was trained on anybody of the table."
        )
    if guard and "duplicates" in guard and not guard["duplicates"]:
        points.append("A search for the same person under two ids found none.")
    return [*blocks, Points(tuple(points))] if points else blocks


def _models_table(models: Models) -> list[Any]:
    rows = [
        [
            models.title(str(model.get("name", ""))),
            str(model.get("kind", "")),
            str(model.get("features", "") or spell.NONE),
            _settings(model.get("settings")),
        ]
        for model in models.head.metrics.get("models") or ()
    ]
    if not rows:
        return []
    caption = "Heads and baselines, their features, and the settings that the inner cross-validation chose (folds)."
    kept = str(models.head.metrics.get("head") or "")
    note = [Text(f"{spell.capital(sentence(kept))}")] if kept else []
    table = Table(caption, ["Model", "Kind", "Features", "Settings chosen"], rows, "llll")
    return [Details("What the models are", [*note, table])]


def _settings(value: Any) -> str:
    """Settings as words: C 0.1 (12 folds), 1 (3)."""
    if not value:
        return spell.NONE
    if isinstance(value, dict):
        parts = []
        for name, chosen in value.items():
            if isinstance(chosen, dict):
                counted = ", ".join(f"{setting} ({num})" for setting, num in chosen.items())
                parts.append(f"{name}: {counted}")
            else:
                parts.append(f"{name} {chosen}")
        return "; ".join(parts)
    if isinstance(value, (list, tuple)):
        if all(isinstance(item, dict) and "settings" in item for item in value):
            return "; ".join(f"{item['settings']} ({spell.count(int(item.get('folds', 0)), 'fold')})" for item in value)
        return "; ".join(_settings(item) if isinstance(item, dict) else str(item) for item in value)
    return str(value)


def _checklist(head: HeadFolder) -> list[Any]:
    frame = head.table("checklist")
    if frame.empty:
        return []
    rows = [["" if value != value else str(value) for value in line] for line in frame.to_numpy(dtype=object)]
    header = [spell.capital(str(name).replace("_", " ")) for name in frame.columns]
    caption = "The items of TRIPOD+AI and CLAIM, as far as the software knows the answer."
    return [
        Details("Checklist for reporting (TRIPOD+AI, CLAIM)", [Table(caption, header, rows, "l" * len(header))], False)
    ]


FIXED = (
    "Labels of tested people were permuted and the network's scores stayed as they are. Networks that are trained anew vary more, "
    "so the trainings with permuted labels in the table of networks are the harder test."
)
SUBGROUP_MEASURES = ("auc", "macro_auc", "mae", "balanced_accuracy", "sensitivity")


def subgroups(models: Models) -> list[Any]:
    """The best head in every subgroup as a chart, all models folded."""
    table = "subgroups"
    rows = models.head.rows(table, "model", "column", "group", "measure", "value", "low", "high")
    rows = [row for row in rows if math.isfinite(models.head.number(row, "value", table))]
    measures = {str(row["measure"]) for row in rows}
    measure = next((name for name in SUBGROUP_MEASURES if name in measures), "")
    lead = [row for row in rows if row["model"] == models.lead and row["measure"] == measure]
    if not lead:
        return []
    lines = [
        charts.Line(_subgroup(models, row), interval_of(models.head, row, table), models.colour(models.lead))
        for row in lead
    ]
    measure_title = MEASURES[measure]
    whole = models.value(models.lead, measure)
    reference = whole.value if whole is not None else None
    png, svg = charts.intervals(lines, f"{measure_title} of {models.title(models.lead)}", reference, "everybody")
    figure = Figure(
        models.identifier("subgroups"),
        f"{measure_title} in subgroups.",
        f"{measure_title} of {models.title(models.lead)} in subgroups; dashed: in everybody. Few people make wide intervals.",
        png,
        svg=svg,
        width_percent=80,
    )
    cells = [
        [
            models.title(str(row["model"])),
            column_name(row["column"]),
            str(row["group"]),
            measure_name(str(row["measure"])),
            figures(interval_of(models.head, row, table), str(row["measure"])),
            _whole(models.head.number(row, "num_people", table)),
            _whole(models.head.number(row, "num_positive", table)),
        ]
        for row in rows
    ]
    header = ["Model", "By", "Group", "Measure", "Value [95 %]", "People", "Of the class"]
    everything = Details(
        "All models in all subgroups", [Table("Subgroups.", header, cells, "llllrrr", sortable=True)], False
    )
    return [Heading("Subgroups"), figure, everything]


def _whole(value: float) -> str:
    return f"{value:.0f}" if math.isfinite(value) else spell.NONE


def _subgroup(models: Models, row: Row) -> str:
    size = _whole(models.head.number(row, "num_people", "subgroups"))
    return f"{column_name(row['column'])} {row['group']}, n = {size}"


def column_name(column: Any) -> str:
    """A column's name inside a sentence."""
    return "age" if column == "age_years" else str(column).replace("_", " ")


def permutation(models: Models) -> list[Any]:
    """The performance of models under permuted labels, compared with their own."""
    table = "permutation"
    rows = models.head.rows(table, "model", "value", "null_mean", "null_low", "null_high", "p")
    order = {name: index for index, name in enumerate(models.names)}
    rows = sorted(rows, key=lambda row: order.get(str(row["model"]), len(order)))
    if not rows:
        return []
    names = ("value", "null_mean", "null_low", "null_high")
    lines = [
        heads_charts.Null(
            models.title(str(row["model"])),
            models.colour(str(row["model"])),
            *(models.head.number(row, name, table) for name in names),
        )
        for row in rows
    ]
    statistic = measure_name(str(rows[0].get("statistic") or models.ranking))
    png, svg = heads_charts.null_bands(lines, statistic)
    num = models.head.number(rows[0], "num_permutations", table)
    times = f" ({num:.0f} times)" if math.isfinite(num) else ""
    fixed = any(row.get("fixed_scores") for row in rows)
    figure = Figure(
        models.identifier("permutation"),
        f"{statistic} and its range under permuted labels.",
        f"{statistic} (dot) and its range when labels are permuted{times}: bar, 95 % of permutations; tick, their mean."
        + (f" {FIXED}" if fixed else ""),
        png,
        svg=svg,
        width_percent=80,
    )
    comparisons = [
        f"{models.title(str(row['model']))} {spell.number(models.head.number(row, 'value', table))} against "
        f"{spell.number(models.head.number(row, 'null_mean', table))}, "
        f"p = {spell.probability(models.head.number(row, 'p', table))}"
        for row in rows
    ]
    return [Heading("Permuted labels"), Text(f"{statistic}: {'; '.join(comparisons)}.", "note"), figure]
