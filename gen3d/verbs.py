"""The index of the platform: every verb, where it lives, the sections of the report that it fills, and what it does.

Nothing heavy is imported here, so that `gen3d --help` answers at once. The modules are named, not imported: the index can
then stand below everything that it names, and the command line, the report and the sweep read it from above.
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

from gen3d.core.config import Verb
from gen3d.core.errors import UserError


class Entry(NamedTuple):
    """A verb's class and the report sections that its folders fill, as `module:name`, and what the verb does in one line."""

    verb: str
    sections: tuple[str, ...]
    line: str


VERBS: dict[str, Entry] = {
    "prepare": Entry(
        "gen3d.prepare.prepare:Prepare",
        ("gen3d.prepare.section:section",),
        "bring T1w scans (BIDS, CAPS or a table) to one grid and check the quality of each",
    ),
    "prepare-slices": Entry(
        "gen3d.prepare.slices:PrepareSlices",
        ("gen3d.prepare.section:section",),
        "stack slice images of people (files, table, Parquet), or slabs, to a cohort",
    ),
    "simulate": Entry(
        "gen3d.simulate.simulate:Simulate",
        ("gen3d.prepare.section:section",),
        "make a cohort of brains with known changes, in the layout that prepare writes",
    ),
    "explore": Entry(
        "gen3d.explore.explore:Explore",
        ("gen3d.explore.section:section",),
        "describe a cohort by stage or any column: mean brains, differences, intensities, likeness",
    ),
    "genotypes": Entry(
        "gen3d.genotypes.genotypes:Genotypes",
        ("gen3d.genotypes.section:section",),
        "read genotypes of a cohort's people: quality control, APOE, polygenic scores",
    ),
    "train": Entry(
        "gen3d.train.train:Train",
        ("gen3d.train.section:section",),
        "train a normative model of controls (restorer, VAE, PCA, voxelwise), latent diffusion, or a classifier",
    ),
    "encode": Entry(
        "gen3d.latents.encode:Encode",
        ("gen3d.latents.section:section",),
        "write the latent vector of every scan",
    ),
    "reconstruct": Entry(
        "gen3d.latents.reconstruct:Reconstruct",
        ("gen3d.latents.section_reconstruction:section",),
        "reconstruct every scan with a model and measure the error",
    ),
    "norm": Entry(
        "gen3d.anomaly.norm.norm:Norm",
        ("gen3d.anomaly.norm.section:section",),
        "calibrate on controls once: a folder that judges new scans anywhere, without an image",
    ),
    "anomaly": Entry(
        "gen3d.anomaly.anomaly:Anomaly",
        (
            "gen3d.anomaly.sections.groups:section",
            "gen3d.anomaly.sections.scores:section",
            "gen3d.anomaly.sections.people:section",
            "gen3d.anomaly.sections.calibration:section",
        ),
        "write calibrated z maps and region tables of every person",
    ),
    "change": Entry(
        "gen3d.anomaly.change:Change",
        ("gen3d.anomaly.sections.change:section",),
        "compare two scans of one person: changes beyond measurement error",
    ),
    "forecast": Entry(
        "gen3d.forecast.forecast:Forecast",
        ("gen3d.forecast.section:section",),
        "forecast how a scan will look after some years, with intervals that hold",
    ),
    "export": Entry(
        "gen3d.exports.bids:Export",
        (),
        "write maps, region tables and forecasts as a BIDS derivatives dataset",
    ),
    "export-model": Entry(
        "gen3d.exports.model:ExportModel",
        (),
        "export networks for use without Python: compiled, as ONNX, and for a C++ program",
    ),
    "register": Entry(
        "gen3d.exports.register:Register",
        (),
        "put a run into MLflow's model registry under a name, loaded without a pickle",
    ),
    "sample": Entry(
        "gen3d.synthesis.sample:Sample",
        ("gen3d.synthesis.section:section",),
        "draw synthetic scans and check them for copies of training scans",
    ),
    "stages": Entry(
        "gen3d.stages.stages:Stages",
        ("gen3d.stages.section:section",),
        "send scans along a chain of stage transitions, beside the floors that it has to beat",
    ),
    "quality": Entry(
        "gen3d.quality.quality:Quality",
        ("gen3d.quality.section:section",),
        "compare synthetic scans with real ones, and with how much real ones differ",
    ),
    "import-weights": Entry(
        "gen3d.imports.import_weights:ImportWeights",
        (),
        "turn weights of MONAI or monai-generative into a trained model of gen3d",
    ),
    "classify": Entry(
        "gen3d.classify.classify:Classify",
        ("gen3d.classify.sections.heads:section",),
        "train classifiers of diagnosis, stage or age on latents, cross-validated with baselines",
    ),
    "explain": Entry(
        "gen3d.explain.explain:Explain",
        ("gen3d.explain.section:section",),
        "show where a classifier looks, and judge whether its maps may be believed",
    ),
    "stratify": Entry(
        "gen3d.stratify.stratify:Stratify",
        ("gen3d.stratify.section:section",),
        "map the cohort, find subgroups, and test what they are related to",
    ),
    "harmonise": Entry(
        "gen3d.harmonise.harmonise:Harmonise",
        ("gen3d.harmonise.section:section",),
        "remove site differences from latents (ComBat)",
    ),
    "predict": Entry(
        "gen3d.classify.predict:Predict",
        ("gen3d.classify.sections.predictions:section",),
        "apply a classifier to new people: probability, nearest neighbours, warnings",
    ),
    "evaluate": Entry(
        "gen3d.evaluate.evaluate:Evaluate",
        ("gen3d.evaluate.section:section", "gen3d.evaluate.forecasts.section:section"),
        "score maps against planted changes, and forecasts against later visits, with intervals and baselines",
    ),
    "report": Entry(
        "gen3d.report.report:Report",
        (),
        "collect all results in one self-contained HTML page",
    ),
    "reference": Entry(
        "gen3d.reference.reference:Reference",
        (),
        "write every verb, key, model and starting point as HTML pages that open offline",
    ),
    "serve": Entry(
        "gen3d.serve.serve:Serve",
        (),
        "serve a page where one scan is uploaded and judged by norms, heads, forecasters and chains",
    ),
    "sweep": Entry(
        "gen3d.sweep.sweep:Sweep",
        (),
        "train with many settings: which are best, and which settings matter",
    ),
    "demo": Entry(
        "gen3d.demo:Demo",
        (),
        "run the whole pipeline on a small simulated cohort",
    ),
}


def verb_class(name: str) -> type[Verb]:
    """Import and return the class of a verb."""
    if name not in VERBS:
        raise UserError(f"`{name}` is not a verb of gen3d; the verbs are {', '.join(VERBS)}.")
    verb_type: type[Verb] = named_object(VERBS[name].verb)
    return verb_type


def named_object(place: str) -> Any:
    """Import what `module:name` names."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
