"""The steps of a job: the verbs of the command line, one after the other, each with a folder of its own below the job's.

prepare (or prepare-slices), then per model anomaly, encode and predict, forecast, stages, explain, and last the report. What a
model needs and the upload lacks is a step that is not done, with its sentence.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gen3d.core.artefact import write_atomic
from gen3d.core.config import Config
from gen3d.serve.jobs import TABLE, Job
from gen3d.serve.models_folder import ServedModel, ServedModels

PLANES = ("sagittal", "coronal", "axial")
"""Planes of slices along x, y and z."""

EVERYBODY_NEW = {"train": 0, "calibration": 0, "test": 1}
"""Nobody who comes in is learned from."""

METHODS = ["integrated_gradients", "occlusion"]


class JobSettings(Config):
    """What of the server's settings the steps depend on."""

    years: tuple[float, ...] = (1.0, 3.0, 5.0)


@dataclass(frozen=True)
class JobStep:
    """A verb with its settings; its folder is `name` below the job's.

    `needs` are steps that must have worked; `lacks` is why the step cannot be done at all, "" for nothing; `model` is the
    folder of the model by name.
    """

    name: str
    verb: str
    title: str
    settings: dict[str, Any]
    needs: tuple[str, ...] = ()
    lacks: str = ""
    model: str = ""


def steps_of(job: Job, models: ServedModels, settings: JobSettings) -> list[JobStep]:
    """The steps of a job in their order."""
    if job.given.kind == "slice":
        steps = _of_slices(job, models)
    else:
        steps = _of_volumes(job, models, settings)
    shown = [
        step
        for step in steps
        if step.verb in ("prepare", "anomaly", "predict", "forecast", "explain") and not step.lacks
    ]
    report = {
        "inputs": [str(job.folder / step.name) for step in shown],
        "out": str(job.folder / "report"),
        "title": "One scan: research only, not for diagnosis",
        "list_missing": False,
    }
    return [*steps, JobStep("report", "report", "Report", report)] if job.given.kind != "slice" else steps


def _of_volumes(job: Job, models: ServedModels, settings: JobSettings) -> list[JobStep]:
    steps: list[JobStep] = []
    grids = list(dict.fromkeys(model.plan.key for model in models.of("norm")))
    for number, key in enumerate(grids):
        prepared = "prepared" if number == 0 else f"prepared_{number + 1}"
        steps.append(_prepare(job, models.of("norm", key)[0], prepared))
        for place, norm in enumerate(models.of("norm", key)):
            steps.append(_maps(job, norm, f"maps_{number + 1}_{place + 1}", prepared))
        for place, head in enumerate(models.of("head", key)):
            steps += _prediction(job, head, f"{number + 1}_{place + 1}", prepared, steps)
        for place, run in enumerate(models.of("forecaster", key)):
            steps.append(_forecast(job, run, f"forecast_{number + 1}_{place + 1}", prepared, settings.years))
        for place, chain in enumerate(models.of("chain", key)):
            steps.append(_stages(job, chain, f"stages_{number + 1}_{place + 1}", prepared))
        for place, run in enumerate((*models.of("classifier", key), *models.of("fusion", key))):
            steps.append(_prediction_by_network(job, run, f"network_{number + 1}_{place + 1}", prepared))
        for place, run in enumerate(models.of("classifier", key)):
            steps.append(_explain(job, run, f"explained_{number + 1}_{place + 1}", prepared))
    return steps


def _prepare(job: Job, norm: ServedModel, name: str) -> JobStep:
    """As the norm's controls were prepared."""
    assert norm.norm is not None, "it is a norm"
    table = str(job.folder / TABLE)
    keys: dict[str, Any] = {"source": table, "out": str(job.folder / name), "workers": 1, "split": EVERYBODY_NEW}
    if job.given.kind == "dicom":
        keys |= {"source": str(job.upload), "dicom": {"subject": job.given.subject, "people": table}}
    return JobStep(name, "prepare", "Quality and alignment", norm.norm.record.prepare | keys, model=norm.name)


def _maps(job: Job, norm: ServedModel, name: str, prepared: str) -> JobStep:
    keys = {
        "norm": str(norm.folder),
        "prepared": [str(job.folder / prepared)],
        "out": str(job.folder / name),
        "workers": 1,
    }
    lacks = ""
    if job.given.kind == "volume" and job.given.site not in norm.sites:
        offered = ", ".join(site or "(no name)" for site in norm.sites)
        chosen = "of the scanner that was chosen" if job.given.site else "of an unknown scanner, and none was chosen"
        lacks = f"This norm has no controls {chosen}; it knows {offered}."
    return JobStep(name, "anomaly", "Comparison with controls", keys, (prepared,), lacks, norm.name)


def _prediction(job: Job, head: ServedModel, name: str, prepared: str, before: Sequence[JobStep]) -> list[JobStep]:
    encoder = head.partners[0]
    known = next((step for step in before if step.verb == "encode" and step.model == encoder.name), None)
    encode = known or JobStep(
        f"latents_{name}",
        "encode",
        "Latents",
        {
            "prepared": [str(job.folder / prepared)],
            "run": str(encoder.folder),
            "out": str(job.folder / f"latents_{name}"),
        },
        (prepared,),
        model=encoder.name,
    )
    out = job.folder / f"prediction_{name}"
    keys = {"head": str(head.folder), "latents": [str(job.folder / encode.name)], "out": str(out)}
    predict = JobStep(out.name, "predict", f"Prediction of {head.words}", keys, (encode.name,), model=head.name)
    return [predict] if known else [encode, predict]


def _forecast(job: Job, run: ServedModel, name: str, prepared: str, years: Sequence[float]) -> JobStep:
    horizons = [year for year in years if year <= run.longest + 1e-9]
    keys = {
        "run": str(run.folder),
        "prepared": [str(job.folder / prepared)],
        "out": str(job.folder / name),
        "years": horizons or [max(0.1, int(run.longest * 10) / 10)],
        "pictures": 1,
    }
    return JobStep(name, "forecast", "Forecast", keys, (prepared,), model=run.name)


def _stages(job: Job, chain: ServedModel, name: str, prepared: str) -> JobStep:
    keys = {
        "run": str(chain.folder),
        "prepared": [str(job.folder / prepared)],
        "out": str(job.folder / name),
        "compare": False,
        "features": "none",
        "pictures": 1,
    }
    today = _known(job, chain.target)
    lacks = ""
    if not today:
        lacks = f"A chain starts from the stage today ({chain.target}), which was not given."
    elif today not in chain.classes[:-1]:
        lacks = f"{chain.target} {today} has no later stage in this chain ({', '.join(chain.classes)})."
    return JobStep(name, "stages", f"Later stages of {chain.target}", keys, (prepared,), lacks, chain.name)


def _explain(job: Job, run: ServedModel, name: str, prepared: str) -> JobStep:
    people = [str(partner.folder) for partner in run.partners]
    keys = {
        "run": str(run.folder),
        "prepared": [str(job.folder / prepared), *people],
        "out": str(job.folder / name),
        "methods": METHODS,
        "subjects": [job.given.subject],
        "people": 1,
        "judged": 0,
        "animation": "none",
    }
    lacks = ""
    if not people:
        lacks = "Attribution compares with a prepared folder of labelled people, and the server has none of this grid."
    elif not _known(job, run.target):
        lacks = f"Attribution needs the known {run.target}, which was not given."
    return JobStep(name, "explain", f"Where the classifier of {run.target} looks", keys, (prepared,), lacks, run.name)


def _prediction_by_network(job: Job, run: ServedModel, name: str, prepared: str) -> JobStep:
    keys = {
        "head": str(run.folder),
        "prepared": [str(job.folder / prepared)],
        "out": str(job.folder / name),
    }
    lacks = ""
    if run.takes_age and job.given.age_years is None:
        lacks = "This network takes the age beside the scan, and none was given."
    return JobStep(name, "predict", f"Prediction of {run.words}", keys, (prepared,), lacks, run.name)


def _known(job: Job, column: str) -> str:
    return job.given.sex if column == "sex" else job.given.labels.get(column, "")


def _of_slices(job: Job, models: ServedModels) -> list[JobStep]:
    """One slice image, sent along every chain of slices; the grid is that of the chain."""
    steps: list[JobStep] = []
    chains = [model for model in models.of("chain") if model.takes_slices]
    for number, chain in enumerate(chains, start=1):
        name, plan = f"prepared_{number}", chain.plan
        axis = plan.shape.index(1)
        size = [side for place, side in enumerate(plan.shape) if place != axis]
        keys = {
            "source": str(job.folder / TABLE),
            "out": str(job.folder / name),
            "plane": PLANES[axis],
            "num_slices": 1,
            "size": size,
            "spacing_mm": plan.spacing_mm,
            "slice_mm": float(plan.matrix[axis, axis]),
            "split": EVERYBODY_NEW,
            "workers": 1,
        }
        steps.append(JobStep(name, "prepare-slices", "The slice on the chain's grid", keys, model=chain.name))
        steps.append(_stages(job, chain, f"stages_{number}", name))
    return steps


def write_table(job: Job) -> Path:
    """Write the table of the one person that `prepare` reads."""
    given, text = job.given, io.StringIO()
    row: dict[str, Any] = {"participant_id": given.subject, "path": str(Path("upload") / given.file)}
    row |= {"age": "n/a" if given.age_years is None else given.age_years, "sex": given.sex or "n/a"}
    if given.site or given.kind != "dicom":  # headers of DICOM name the scanner where nobody else does
        row |= {"site": given.site or "n/a"}
    row |= {name: value or "n/a" for name, value in given.labels.items() if name not in row}
    if given.kind == "slice":
        row["slice"] = 1
    writer = csv.DictWriter(text, list(row))
    writer.writeheader()
    writer.writerow(row)
    write_atomic(job.folder / TABLE, text.getvalue())
    return job.folder / TABLE
