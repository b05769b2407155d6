"""The index of the platform: every verb, where it lives, and what it does in one line.

Nothing heavy is imported here, so that `gen3d --help` answers at once.
"""

from __future__ import annotations

import importlib

from gen3d.core.config import Verb
from gen3d.core.errors import UserError

VERBS: dict[str, tuple[str, str]] = {
    "prepare": (
        "gen3d.prepare.prepare:Prepare",
        "T1w scans (BIDS, CAPS or a table) to one grid, with a verdict per scan",
    ),
    "simulate": (
        "gen3d.simulate.simulate:Simulate",
        "a cohort of brains whose truth is known, laid out like prepare's",
    ),
    "train": (
        "gen3d.train.train:Train",
        "a normative model (restorer, VAE, PCA, voxelwise) of controls, or latent diffusion",
    ),
    "encode": ("gen3d.latents.encode:Encode", "every scan's latent vector, as one table"),
    "reconstruct": (
        "gen3d.latents.reconstruct:Reconstruct",
        "what the model expects of every scan, and how far off it is",
    ),
    "anomaly": ("gen3d.anomaly.anomaly:Anomaly", "calibrated z maps and region tables of every person"),
    "change": ("gen3d.anomaly.change:Change", "two scans of one person: what changed beyond measurement error"),
    "export": ("gen3d.exports.bids:Export", "maps and region tables as a BIDS derivatives dataset"),
    "sample": (
        "gen3d.synthesis.sample:Sample",
        "synthetic scans on request, audited for copies, as a dataset the other verbs read",
    ),
    "quality": (
        "gen3d.quality.quality:Quality",
        "synthetic scans against real ones, beside what real ones differ among them",
    ),
    "import-weights": (
        "gen3d.imports.import_weights:ImportWeights",
        "weights of monai-generative or MONAI as a run of this platform",
    ),
    "classify": (
        "gen3d.classify.classify:Classify",
        "a diagnosis, stage or age told from the latents, tested by person beside its baselines",
    ),
    "stratify": ("gen3d.stratify.stratify:Stratify", "a map of the cohort, its sub-groups, and what they mean"),
    "harmonise": ("gen3d.harmonise.harmonise:Harmonise", "latents without the mean and spread of their site (ComBat)"),
    "predict": ("gen3d.classify.predict:Predict", "where new people stand: a head's probability, neighbours, warnings"),
    "evaluate": ("gen3d.evaluate.evaluate:Evaluate", "maps against planted truth, with intervals and baselines"),
    "report": ("gen3d.report.report:Report", "one self-contained HTML page of everything above"),
    "sweep": ("gen3d.sweep.sweep:Sweep", "many trainings, one table: which settings are best, and what mattered"),
    "demo": ("gen3d.demo:Demo", "the whole story on a simulated cohort, in minutes"),
}


def verb_class(name: str) -> type[Verb]:
    """Import and return the class of a verb."""
    if name not in VERBS:
        raise UserError(f"`{name}` is not a verb of gen3d; the verbs are {', '.join(VERBS)}.")
    module, _, attribute = VERBS[name][0].partition(":")
    found: type[Verb] = getattr(importlib.import_module(module), attribute)
    return found
