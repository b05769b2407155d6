"""`gen3d demo`: the main job on a simulated cohort whose truth is known, from brains to the report."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field

from gen3d.anomaly.anomaly import Anomaly
from gen3d.classify.classify import Classify
from gen3d.classify.folder import HeadFolder
from gen3d.classify.predict import Predict
from gen3d.cohort.channels import CHANNELS, Channel
from gen3d.cohort.manifest import Split
from gen3d.core.artefact import read
from gen3d.core.config import Verb, execution
from gen3d.core.progress import duration, say
from gen3d.core.result_folder import ResultFolder
from gen3d.evaluate.evaluate import Evaluate
from gen3d.evaluate.folder import EvaluationFolder
from gen3d.harmonise.harmonise import Harmonise
from gen3d.latents.encode import Encode
from gen3d.latents.reconstruct import Reconstruct
from gen3d.quality.folder import QualityFolder
from gen3d.quality.quality import Quality
from gen3d.report.report import Report
from gen3d.simulate.simulate import Simulate
from gen3d.stratify.folder import StrataFolder
from gen3d.stratify.stratify import Stratify
from gen3d.synthesis.folder import SyntheticFolder
from gen3d.synthesis.sample import Sample
from gen3d.train.train import Train

SPLIT = Split(train=0.4, calibration=0.4, test=0.2)
T1W, BOTH = {"channels": ("t1w",)}, {"channels": ("t1w", "log_jacobian")}
JUDGED: dict[str, tuple[tuple[str, ...], tuple[Channel, ...]]] = {
    "restorer_and_pca": (("restorer", "pca"), CHANNELS),
    "restorer": (("restorer",), ("residual", "structural")),  # its volume maps would be those above
    "pca": (("pca",), CHANNELS),
    "vae": (("vae",), CHANNELS),
    "voxelwise": (("voxelwise",), CHANNELS),
    "latent_diffusion": (("ldm",), ("residual",)),
}
"""Maps folders: the runs whose mean expectation each compares with, and the channels. The first is shown in full."""


NUM_SYNTHETIC = 20
SPATIAL: dict[str, Any] = {"kind": "vae", "latent": "spatial", "base_channels": 16, "max_channels": 64, "beta": 0.002}
DIFFUSION: dict[str, Any] = {
    "kind": "latent_diffusion",
    "conditions": ["age_years", "sex", "diagnosis"],
    "base_channels": 32,
    "max_channels": 64,
}


class Demo(Verb):
    """Simulate a cohort, train two networks and two baselines, map anomalies, measure them against the truth, and report.
    Tell the diagnosis from the latents beside what a volume tells, look for sub-groups, and say where people stand whom no
    model saw. Then learn how the latents of a third network are distributed, draw synthetic scans, audit them for copies of
    people, and compare them with real ones.

    The maps shown first compare with the mean of what the restorer and the PCA expect, which shows lesions best on real
    brains; the maps of each model alone stand beside them.
    Every step is a verb of its own with a folder of its own below `out`, so the demo can be stopped and run again, and
    each folder can be looked at or used on.
    """

    subjects: int = Field(90, ge=40, description="people in the simulated cohort")
    spacing_mm: float = Field(3.0, ge=2, le=4, description="edge of a voxel, mm")
    steps: int = Field(200, ge=1, description="training steps of each network, 4 volumes each")
    seed: int = Field(0, ge=0, description="seed of cohort and training")
    workers: int = execution(0, "processes of the simulation; 0: one per core", ge=0)

    def plan(self) -> list[str]:
        """The steps."""
        return [f"{verb.verb_name()}: writes {verb.out}" for verb in self._verbs()]

    def run(self) -> Path:
        """Run every step that is not finished yet; returns the report's folder."""
        began = time.monotonic()
        verbs = self._verbs()
        for number, verb in enumerate(verbs, start=1):
            say(f"\n[{number}/{len(verbs)}] {verb.verb_name()}: {verb.out}")
            verb.run()
        report = verbs[-1].out
        say("")
        lines = headline(self.out / "evaluation") + latents_in_words(self.out / "head", self.out / "strata")
        for line in lines + synthesis(self.out / "synthetic", self.out / "quality"):
            say(line)
        say(f"\n{duration(time.monotonic() - began)} in all. Open {report / 'index.html'}")
        return report

    def _verbs(self) -> list[Verb]:
        cohort, runs, maps = self.out / "cohort", self.out / "runs", self.out / "maps"
        simulate = Simulate(
            out=cohort,
            subjects=self.subjects,
            spacing_mm=self.spacing_mm,
            seed=self.seed,
            split=SPLIT,
            workers=self.workers,
        )
        trains: list[Verb] = [
            Train.model_validate({"prepared": cohort, "seed": self.seed, "out": runs / name} | keys)
            for name, keys in self._models().items()
        ]
        trains.append(self._diffusion(cohort, runs))
        vae = {"prepared": cohort, "run": runs / "vae"}
        shown = [
            Reconstruct.model_validate(vae | {"out": self.out / "reconstructed"}),
            Encode.model_validate(vae | {"out": self.out / "latents"}),
        ]
        anomalies = [
            Anomaly.model_validate(
                {"prepared": cohort, "run": [runs / run for run in judges], "channels": channels, "out": maps / name}
            )
            for name, (judges, channels) in JUDGED.items()
        ]
        evaluate = Evaluate(maps=tuple(verb.out for verb in anomalies), truth=cohort, out=self.out / "evaluation")
        verbs = [simulate, *trains, *shown, *anomalies, evaluate, *self._heads(cohort), *self._synthesis(cohort, runs)]
        inputs = tuple(verb.out for verb in verbs)
        report = Report(inputs=inputs, out=self.out / "report", title="gen3d demo: a simulated cohort")
        return [*verbs, report]

    def _heads(self, cohort: Path) -> list[Verb]:
        """What the VAE's latents tell. People whom it learned from are left out, and shown by `predict` with a warning."""
        latents = self.out / "latents"
        told = {"target": "diagnosis", "classes": ["control", "AD"], "seen": "leave_out", "permutations": 200}
        shown = {"maps": self.out / "maps" / next(iter(JUDGED)), "prepared": cohort}
        return [
            Harmonise.model_validate({"latents": latents, "out": self.out / "latents_harmonised", "seed": self.seed}),
            Classify.model_validate(
                {"latents": latents, "out": self.out / "head", "seed": self.seed, "workers": self.workers} | told
            ),
            Stratify.model_validate({"latents": latents, "out": self.out / "strata", "seed": self.seed} | shown),
            Predict.model_validate(
                {
                    "head": self.out / "head",
                    "latents": latents,
                    "strata": self.out / "strata",
                    "seen": "leave_out",
                    "out": self.out / "predictions",
                }
            ),
        ]

    def _diffusion(self, cohort: Path, runs: Path) -> Verb:
        """Latent diffusion, trained on controls and some of the patients, so that either can be asked for."""
        settings = {
            "prepared": cohort,
            "vae": runs / "vae_spatial",
            "model": DIFFUSION,
            "patients": 0.5,
            "optim": {"steps": 2 * self.steps, "batch_size": 8, "ema_decay": 0.99},
            "augment": {"flip": True},
            "picture_every": 2 * self.steps,
        }
        return Train.model_validate({"seed": self.seed, "out": runs / "ldm"} | settings)

    def _synthesis(self, cohort: Path, runs: Path) -> list[Verb]:
        """Synthetic scans, and how they compare with people whom the model never saw."""
        asked = {"run": runs / "ldm", "count": NUM_SYNTHETIC, "unnamed": "as_trained", "precision": "auto"}
        synthetic = self.out / "synthetic"
        compared = {"synthetic": synthetic, "reference": cohort, "seen": "leave_out", "out": self.out / "quality"}
        return [
            Sample.model_validate({"seed": self.seed, "out": synthetic, "workers": self.workers} | asked),
            Quality.model_validate(compared),
        ]

    def _models(self) -> dict[str, dict[str, Any]]:
        """Settings of each training. What learns from T1w alone leaves volume to the registration, which is best."""
        network = {"optim": {"steps": self.steps}, "picture_every": max(1, self.steps // 4)}
        pca = {"kind": "pca", "num_components": min(20, self.subjects // 4)}
        return {
            "restorer": {"model": {"kind": "restorer"}, "augment": {"flip": True}, **T1W, **network},
            "pca": {"model": pca, "cross_fit": 5, **T1W},
            "vae": {"model": {"kind": "vae"}, **BOTH, **network},
            "voxelwise": {"model": {"kind": "voxelwise"}, "cross_fit": 5, **BOTH},
            "vae_spatial": {"model": SPATIAL, "augment": {"flip": True}, **T1W, **network},
        }


Reader = TypeVar("Reader", bound=ResultFolder)


def opened(folder: Path, kind: type[Reader]) -> Reader:
    """A finished folder, by its own reader."""
    return kind(read(folder), folder.name)


def headline(evaluation: Path) -> list[str]:
    """What was found and what was not, from the evaluation's own figures."""
    rows = opened(evaluation, EvaluationFolder).headline
    lines = ["Planted atrophy and lesions, value [95 % interval over people]:"]
    for row in rows:
        atrophy = row["measure"].startswith("AUC of") and row["condition"] != "null"
        lesion = row["measure"] == "voxel AUROC" and row["condition"] == "lesion" and row["channel"] == "residual"
        if atrophy or lesion:
            lines.append(f"  {row['maps']:16s} {row['condition']:8s} {row['channel']:12s} {_figure(row)}")
    lines.append("People in whom nothing is planted, controls held out of everything and null twins:")
    return lines + _null_lines(rows)


def latents_in_words(head: Path, strata: Path) -> list[str]:
    """The verdicts of the head and of the search for sub-groups."""
    verdicts = (opened(head, HeadFolder).summary[0], opened(strata, StrataFolder).summary[0])
    return ["What the latents tell:", *(f"  {verdict}" for verdict in verdicts)]


def synthesis(synthetic: Path, quality: Path) -> list[str]:
    """How synthetic scans compare with real ones, and how many of them are copies."""
    found = opened(quality, QualityFolder).summary
    audit = opened(synthetic, SyntheticFolder).audit
    copies = audit["copies"]
    lines = ["Synthetic scans:", f"  {found[0]}"]
    share = f"{100 * copies['value']:.0f} % [{100 * copies['low']:.0f}, {100 * copies['high']:.0f}]"
    return [*lines, f"  copies of people the model learned from: {share}, n {audit['num_synthetic']}"]


def _null_lines(rows: list[dict[str, Any]]) -> list[str]:
    """One line per model and channel: voxels beyond 1.96 (5 % is right) and people with any FDR-positive voxel."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["condition"] not in ("test controls", "null condition") or row["value"] is None:
            continue
        if row["measure"] == "share of |z| > 1.96":
            text = f"{row['condition']}: |z| > 1.96 in {100 * row['value']:.1f} % of voxels"
        elif row["measure"] == "people with any FDR-positive voxel":
            text = f"FDR-positive {round(row['value'] * row['num'])} of {row['num']}"
        else:
            continue
        found.setdefault((row["maps"], row["channel"]), []).append(text)
    return [f"  {maps:16s} {channel:12s} {', '.join(texts)}" for (maps, channel), texts in found.items()]


def _figure(row: dict[str, Any]) -> str:
    value, low, high = row["value"], row["low"], row["high"]
    shown = "n/a" if value is None else f"{value:.2f}"
    interval = "" if low is None or high is None else f" [{low:.2f}, {high:.2f}]"
    return f"{row['measure']} {shown}{interval}, n {row['num']}"
