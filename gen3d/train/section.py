"""The training people and loss curves of every model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError, safe_open

from gen3d.cohort.fusion_folder import PICTURE as ATTENTION_PICTURE
from gen3d.cohort.fusion_folder import read_verdict
from gen3d.core import words as spell
from gen3d.core.errors import UserError
from gen3d.core.files import require_regular
from gen3d.core.result_folder import picture_path
from gen3d.figures import charts
from gen3d.figures.blocks import Figure, Section, Table, Text
from gen3d.figures.context import Context, page_section
from gen3d.models.registry import forecasts, trained_in_steps
from gen3d.models.run_folder import AGAIN, RunFolder

NOT_LOSSES = ("member", "step", "learning_rate", "volumes_per_s", "memory_gib", "seconds", "volumes", "clipped")
FIRST_TERMS = ("loss", "reconstruction", "kl")
TERMS = {
    "loss": "Loss",
    "reconstruction": "Reconstruction",
    "kl": "KL divergence (nats)",
    "ssim": "1 \N{MINUS SIGN} SSIM",
}
BUFFERS = ("channel_mean", "channel_std", "brain_mask")
CLASSIFIERS = ("classifier", "fusion")


@page_section("How the models were trained", "`gen3d train`", place=20, reads=RunFolder)
def section(context: Context) -> Section | None:
    """A table of the models with their training people, and loss curves."""
    if not context.all(RunFolder):
        return None
    rows = [_describe(context, run) for run in context.all(RunFolder)]
    blocks: list[Any] = [Text(_sentence(rows), "lead"), _table(rows)]
    for run in context.all(RunFolder):
        figure = _curves(context, run)
        if figure is not None:
            blocks.append(figure)
        blocks += _attention(run)
    return Section("model", "How the models were trained", blocks, {"models": rows})


def _attention(run: RunFolder) -> list[Any]:
    """What a fusion of genetics and images reads together, where that may be believed, or why it may not."""
    verdict = read_verdict(run.folder)
    if verdict is None:
        return []
    said = f"{run.name}: {verdict['sentence']}"
    path = picture_path(run.folder, ATTENTION_PICTURE)
    if not (verdict["shown"] and path.is_file()):
        return [Text(said)]
    name = f"attention_{run.folder.name}"
    return [Figure(name, f"What {run.name} reads together.", said, path.read_bytes())]


def _sentence(rows: list[dict[str, Any]]) -> str:
    """Whom the models learned from: those of healthy people, and classifiers and forecasters, which learn from everybody with a
    label, or with visits."""
    classifiers = [row for row in rows if row["kind"] in CLASSIFIERS]
    forecasters = [row for row in rows if forecasts(row["kind"])]
    models = [row for row in rows if row not in classifiers and row not in forecasters]
    text = _of_models(models) if models else ""
    if classifiers:
        text += f"{' ' if text else ''}Classifiers learn from people with a label, whatever it is: {_trained_on(classifiers)}."
        text += _crossed(classifiers, "is scored only by members that neither learned from nor watched that person")
    if forecasters:
        text += (
            f"{' ' if text else ''}Forecasters learn from people with two visits or more, whatever the diagnosis: "
            f"{_trained_on(forecasters)}."
        )
        text += _crossed(forecasters, "is forecast only by members that never learned from that person")
    return text


def _of_models(rows: list[dict[str, Any]]) -> str:
    others = [f"{row['model']} on {row['num_patients']}" for row in rows if row["num_patients"]]
    if others:
        text = (
            f"The models were trained on healthy controls, and on people of other diagnoses: {spell.listed(others)}. "
        )
    else:
        text = "The models were trained on healthy controls only. "
    text += f"{_trained_on(rows)}."
    return text + _crossed(rows, "has an expectation only from members that were not trained on that person")


def _trained_on(rows: list[dict[str, Any]]) -> str:
    parts = []
    for row in rows:
        text = f"{row['model']} was trained on {spell.people(row['num_people'])}"
        if row["age_min"] is not None:
            text += f" aged {row['age_min']:.0f} to {row['age_max']:.0f}"
        parts.append(text)
    return "; ".join(parts)


def _crossed(rows: list[dict[str, Any]], consequence: str) -> str:
    crossed = [f"{row['model']} (by {row['num_members']})" for row in rows if row["num_members"] > 1]
    return f" Cross-fitted: {spell.listed(crossed)}. A person {consequence}." if crossed else ""


def _describe(context: Context, run: RunFolder) -> dict[str, Any]:
    config = run.settings
    model = config.get("model") or {}
    optim = config.get("optim") or {}
    seen, cohort = run.seen, context.cohort
    people = cohort[seen.by_any(cohort)] if len(cohort) else cohort
    ages = people["age_years"].dropna() if len(people) else pd.Series(dtype=float)
    in_steps = trained_in_steps(str(model.get("kind", ""))) and model.get("predictor") != "ridge"
    return {
        "model": run.name,
        "kind": str(model.get("kind", "")),
        "detail": str(run.artefact.summary.get("form", "")),
        "channels": [str(name) for name in config.get("channels", [])],
        "num_members": max(1, len(seen.members)),
        "num_people": len({person for member in seen.subjects for person in member}),
        "num_patients": max((list(member.values()).count("evaluation") for member in seen.subjects), default=0),
        "num_known": int(people["subject"].nunique()) if len(people) else 0,
        "age_min": float(ages.min()) if len(ages) else None,
        "age_max": float(ages.max()) if len(ages) else None,
        "sites": sorted({str(site) for site in people["site"]} - {""}) if len(people) else [],
        "num_weights": _num_weights(run),
        "num_steps": optim.get("steps") if in_steps else None,
        "batch_size": optim.get("batch_size") if in_steps else None,
        "seconds": run.artefact.summary.get("seconds"),
    }


def _num_weights(run: RunFolder) -> int | None:
    """Numbers stored per member, without normalisation buffers; None where no weights are found."""
    path = run.first_weights
    if path is None:
        return None
    try:
        require_regular(path)
        with safe_open(path, framework="numpy") as weights:
            shapes = [weights.get_slice(name).get_shape() for name in weights.keys() if name not in BUFFERS]  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: damaged weights ({error}); {AGAIN}.") from None
    return int(sum(np.prod(shape, dtype=np.int64) for shape in shapes))


def _table(rows: list[dict[str, Any]]) -> Table:
    cells = [
        [
            row["model"],
            row["detail"] or spell.NONE,
            ", ".join({"t1w": "T1w", "log_jacobian": "log-Jacobian"}.get(name, name) for name in row["channels"]),
            str(row["num_people"]),
            f"{row['age_min']:.0f} to {row['age_max']:.0f}" if row["age_min"] is not None else spell.NONE,
            ", ".join(row["sites"]) or spell.NONE,
            str(row["num_members"]),
            f"{row['num_weights']:,}".replace(",", "\N{THIN SPACE}") if row["num_weights"] else spell.NONE,
            f"{row['num_steps']} updates of {row['batch_size']} volumes" if row["num_steps"] else "closed form",
        ]
        for row in rows
    ]
    header = [
        "Model",
        "Form",
        "Channels",
        "Training people",
        "Ages",
        "Sites",
        "Members",
        "Weights each",
        "Training",
    ]
    return Table("The models and the people that each was trained on.", header, cells, "lllrrlrrr")


def _curves(context: Context, run: RunFolder) -> Figure | None:
    log = run.log
    if "step" not in log.columns or "loss" not in log.columns or log["step"].nunique() < 2:
        return None
    names = [name for name in log.columns if name not in NOT_LOSSES and pd.api.types.is_numeric_dtype(log[name])]
    names = sorted(names, key=lambda name: FIRST_TERMS.index(name) if name in FIRST_TERMS else len(FIRST_TERMS))
    members = log["member"].unique() if "member" in log.columns else [0]
    panels: dict[str, list[charts.Curve]] = {}
    colour = context.model_colour(run.name)
    for name in names[:8]:
        lines = []
        for member in members:
            part = log[log["member"] == member] if "member" in log.columns else log
            part = part[part[name].notna()]
            if len(part) > 1:
                lines.append(
                    charts.Curve(
                        part["step"].to_numpy(float), part[name].to_numpy(float), str(member), colour, len(members) > 1
                    )
                )
        if lines:
            panels[TERMS.get(name, name.replace("_", " "))] = lines
    png, svg = charts.curves(panels, "Weight updates")
    each = f"One line per member ({len(members)}). " if len(members) > 1 else ""
    caption = f"Training of {run.name}: each term of the loss, averaged between two log entries. {each}"
    if "kl" in names:
        caption += (
            "The KL divergence is the information that passes through the latent, in nats per brain; it changes while its "
            "weight is raised, and should be steady at the end."
        )
    if "error" in names and not forecasts(str((run.settings.get("model") or {}).get("kind", ""))):
        caption += (
            "The error is that of the predicted noise or velocity, averaged over all noise levels; most of the "
            "noise cannot be predicted, so the error levels off far above zero. `gen3d quality` evaluates the samples."
        )
    return Figure(f"training_{run.folder.name}", f"Loss curves of {run.name}.", caption, png, svg=svg)
