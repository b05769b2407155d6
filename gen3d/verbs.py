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
    """A verb's class and the sections of the report that its folders fill, as `module:name`, and what it does in one line."""

    verb: str
    sections: tuple[str, ...]
    line: str


VERBS: dict[str, Entry] = {
    "prepare": Entry(
        "gen3d.prepare.prepare:Prepare",
        ("gen3d.prepare.section:section",),
        "T1w scans (BIDS, CAPS or a table) to one grid, with a verdict per scan",
    ),
    "simulate": Entry(
        "gen3d.simulate.simulate:Simulate",
        ("gen3d.prepare.section:section",),
        "a cohort of brains whose truth is known, laid out like prepare's",
    ),
    "train": Entry(
        "gen3d.train.train:Train",
        ("gen3d.train.section:section",),
        "a normative model (restorer, VAE, PCA, voxelwise) of controls, or latent diffusion",
    ),
    "encode": Entry(
        "gen3d.latents.encode:Encode",
        ("gen3d.latents.section:section",),
        "every scan's latent vector, as one table",
    ),
    "reconstruct": Entry(
        "gen3d.latents.reconstruct:Reconstruct",
        ("gen3d.latents.section_reconstruction:section",),
        "what the model expects of every scan, and how far off it is",
    ),
    "anomaly": Entry(
        "gen3d.anomaly.anomaly:Anomaly",
        (
            "gen3d.anomaly.sections.groups:section",
            "gen3d.anomaly.sections.scores:section",
            "gen3d.anomaly.sections.people:section",
            "gen3d.anomaly.sections.calibration:section",
        ),
        "calibrated z maps and region tables of every person",
    ),
    "change": Entry(
        "gen3d.anomaly.change:Change",
        ("gen3d.anomaly.sections.change:section",),
        "two scans of one person: what changed beyond measurement error",
    ),
    "export": Entry(
        "gen3d.exports.bids:Export",
        (),
        "maps and region tables as a BIDS derivatives dataset",
    ),
    "sample": Entry(
        "gen3d.synthesis.sample:Sample",
        ("gen3d.synthesis.section:section",),
        "synthetic scans on request, audited for copies, as a dataset the other verbs read",
    ),
    "quality": Entry(
        "gen3d.quality.quality:Quality",
        ("gen3d.quality.section:section",),
        "synthetic scans against real ones, beside what real ones differ among them",
    ),
    "import-weights": Entry(
        "gen3d.imports.import_weights:ImportWeights",
        (),
        "weights of monai-generative or MONAI as a run of this platform",
    ),
    "classify": Entry(
        "gen3d.classify.classify:Classify",
        ("gen3d.classify.sections.heads:section",),
        "a diagnosis, stage or age told from the latents, tested by person beside its baselines",
    ),
    "stratify": Entry(
        "gen3d.stratify.stratify:Stratify",
        ("gen3d.stratify.section:section",),
        "a map of the cohort, its sub-groups, and what they mean",
    ),
    "harmonise": Entry(
        "gen3d.harmonise.harmonise:Harmonise",
        ("gen3d.harmonise.section:section",),
        "latents without the mean and spread of their site (ComBat)",
    ),
    "predict": Entry(
        "gen3d.classify.predict:Predict",
        ("gen3d.classify.sections.predictions:section",),
        "where new people stand: a head's probability, neighbours, warnings",
    ),
    "evaluate": Entry(
        "gen3d.evaluate.evaluate:Evaluate",
        ("gen3d.evaluate.section:section",),
        "maps against planted truth, with intervals and baselines",
    ),
    "report": Entry(
        "gen3d.report.report:Report",
        (),
        "one self-contained HTML page of everything above",
    ),
    "sweep": Entry(
        "gen3d.sweep.sweep:Sweep",
        (),
        "many trainings, one table: which settings are best, and what mattered",
    ),
    "demo": Entry(
        "gen3d.demo:Demo",
        (),
        "the whole story on a simulated cohort, in minutes",
    ),
}


def verb_class(name: str) -> type[Verb]:
    """Import and return the class of a verb."""
    if name not in VERBS:
        raise UserError(f"`{name}` is not a verb of gen3d; the verbs are {', '.join(VERBS)}.")
    found: type[Verb] = named_object(VERBS[name].verb)
    return found


def named_object(place: str) -> Any:
    """Import what `module:name` names."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
