"""`gen3d demo`: the main job on a simulated cohort whose truth is known, from brains to the report."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field

from gen3d.anomaly.anomaly import Anomaly
from gen3d.anomaly.folder import MapsFolder
from gen3d.anomaly.norm.norm import Norm
from gen3d.classify.classify import Classify
from gen3d.classify.folder import HeadFolder
from gen3d.classify.predict import Predict
from gen3d.cohort.channels import CHANNELS, Channel
from gen3d.cohort.manifest import Split, read_manifest
from gen3d.core import words as spell
from gen3d.core.artefact import read
from gen3d.core.config import Verb, execution
from gen3d.core.progress import duration, say
from gen3d.core.result_folder import ResultFolder
from gen3d.core.tables import Row
from gen3d.evaluate.evaluate import Evaluate
from gen3d.evaluate.folder import EvaluationFolder
from gen3d.harmonise.harmonise import Harmonise
from gen3d.latents.encode import Encode
from gen3d.latents.reconstruct import Reconstruct
from gen3d.quality.folder import QualityFolder
from gen3d.quality.quality import Quality
from gen3d.report.report import Report
from gen3d.simulate.conditions import CONTROL, Condition
from gen3d.simulate.simulate import Simulate
from gen3d.stratify.folder import StrataFolder
from gen3d.stratify.stratify import Stratify
from gen3d.synthesis.folder import SyntheticFolder
from gen3d.synthesis.sample import Sample
from gen3d.train.settings import DEFAULT_TRACKERS, Trackers
from gen3d.train.train import Train

SPLIT = Split(train=0.4, calibration=0.4, test=0.2)
T1W, BOTH = {"channels": ("t1w",)}, {"channels": ("t1w", "log_jacobian")}
Judges = dict[str, tuple[tuple[str, ...], tuple[Channel, ...]]]
LEAD = "restorer_and_pca"
FIRST = "pca"
NEW = "new_people"
SHORT: Judges = {LEAD: (("restorer", "pca"), CHANNELS), FIRST: (("pca",), CHANNELS)}
FULL: Judges = {
    LEAD: (("restorer", "pca"), CHANNELS),
    "restorer": (("restorer",), ("residual", "structural")),  # its volume maps would be those above
    FIRST: (("pca",), CHANNELS),
    "vae": (("vae",), CHANNELS),
    "voxelwise": (("voxelwise",), CHANNELS),
    "latent_diffusion": (("ldm",), ("residual",)),
}
"""Maps folders: the runs whose mean expectation each compares with, and the channels. The first is shown in full."""

SPATIAL: dict[str, Any] = {"kind": "vae", "latent": "spatial", "base_channels": 16, "max_channels": 64, "beta": 0.002}
DIFFUSION: dict[str, Any] = {
    "kind": "latent_diffusion",
    "conditions": ["age_years", "sex", "diagnosis"],
    "base_channels": 32,
    "max_channels": 64,
}
EXTRACTORS_SHORT = ["random"]


class Demo(Verb):
    """Show the main job on simulated people, in whom it is known what is wrong.

    Simulates a cohort with AD-like atrophy, lesions and people in whom nothing is planted. Trains a PCA and writes first maps
    and a first page; then a restoration network, whose maps together with PCA's are measured against the truth; a norm of the
    controls, which judges new people without an image of the controls; a VAE, from whose latents a diagnosis is predicted and
    sub-groups are looked for; and latent diffusion, which draws synthetic scans that are audited for copies and compared with
    real ones. With full=true also every model alone, reconstructions, harmonisation and predictions of new people.

    Every step is a verb of its own with a folder of its own below `out`, so the demo can be stopped and run again, and
    each folder can be looked at or used on.
    """

    full: bool = Field(
        False, description="also the maps of every model alone, reconstruct, harmonise and predict: three times as long"
    )
    subjects: int | None = Field(None, ge=40, description="people in the simulated cohort; default 60, full 90")
    spacing_mm: float = Field(3.0, ge=2, le=4, description="edge of a voxel, mm")
    steps: int | None = Field(
        None, ge=1, description="training steps of each network, 4 volumes each; default 100, full 200"
    )
    seed: int = Field(0, ge=0, description="seed of cohort and training")
    workers: int = execution(0, "processes of the simulation; 0: one per core", ge=0)
    track: Trackers = execution(
        DEFAULT_TRACKERS,
        "where each training copies its log to: tensorboard, mlflow, wandb, as `track` of `gen3d train`",
    )

    @property
    def num_subjects(self) -> int:
        """People in the cohort."""
        return self.subjects or (90 if self.full else 60)

    @property
    def num_steps(self) -> int:
        """Training steps of each network."""
        return self.steps or (200 if self.full else 100)

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
            if isinstance(verb, Report) and verb is not verbs[-1]:
                say(f"First maps, and a first page to look at while the rest runs: {verb.out / 'index.html'}")
        say("")
        for line in self._closing():
            say(line)
        say(f"\n{duration(time.monotonic() - began)} in all.")
        return verbs[-1].out

    def _verbs(self) -> list[Verb]:
        first = self._first_look()
        rest = [*self._trainings(), *self._maps(), *self._norm(), *self._latents(), *self._synthesis()]
        made = [verb.out for verb in [*first, *rest] if not isinstance(verb, Report)]
        inputs = tuple(folder for folder in made if folder != self.out / NEW)  # they are no people of the cohort
        lead = self.out / "maps" / LEAD  # the first maps among a report's inputs are those shown in full
        inputs = (lead, *(folder for folder in inputs if folder != lead))
        return [*first, *rest, Report(inputs=inputs, out=self.out / "report", title="gen3d demo: a simulated cohort")]

    def _first_look(self) -> list[Verb]:
        """Cohort, PCA, its maps and a page of them: what there is to look at after two minutes."""
        cohort, run = self.out / "cohort", self.out / "runs" / FIRST
        made: list[Verb] = [
            Simulate(
                out=cohort,
                subjects=self.num_subjects,
                spacing_mm=self.spacing_mm,
                seed=self.seed,
                split=SPLIT,
                workers=self.workers,
            ),
            self._train(FIRST, self._models()[FIRST]),
            self._anomaly(FIRST, SHORT[FIRST]),
        ]
        page = Report(
            inputs=(cohort, run, self.out / "maps" / FIRST),
            out=self.out / "first_page",
            title="gen3d demo: first maps, by PCA alone",
        )
        return [*made, page]

    def _trainings(self) -> list[Verb]:
        names = [name for name in self._models() if name != FIRST]
        wanted = names if self.full else ["restorer", "vae_spatial"]
        return [*(self._train(name, self._models()[name]) for name in wanted), self._diffusion()]

    def _maps(self) -> list[Verb]:
        """Maps of the models that are not mapped yet, and what they find of what was planted."""
        judges = FULL if self.full else SHORT
        made: list[Verb] = [self._anomaly(name, pair) for name, pair in judges.items() if name != FIRST]
        folders = tuple(self.out / "maps" / name for name in judges)
        return [*made, Evaluate(maps=folders, truth=self.out / "cohort", out=self.out / "evaluation")]

    def _norm(self) -> list[Verb]:
        """A norm of the cohort's controls, and new people at the same scanners whom it judges without an image of them."""
        norm, new = self.out / "norm", self.out / NEW
        newcomers = Simulate(
            out=new,
            subjects=4,
            spacing_mm=self.spacing_mm,
            seed=self.seed + 1,
            site_seed=self.seed,
            conditions={"AD": Condition(kind="ad", count=1), "lesion": Condition(kind="lesion", count=1)},
            split=Split(train=0, calibration=0, test=1),
            figures=False,
            workers=self.workers,
        )
        shared = {"prepared": self.out / "cohort", "run": self.out / "runs" / FIRST}
        return [
            Norm.model_validate(shared | {"out": norm}),
            newcomers,
            Anomaly.model_validate({"norm": norm, "prepared": new, "out": self.out / "maps" / NEW}),
        ]

    def _latents(self) -> list[Verb]:
        """What the VAE's latents tell. People whom it learned from are left out."""
        cohort, latents, run = self.out / "cohort", self.out / "latents", self.out / "runs" / self._vae
        question = {"target": "diagnosis", "classes": ["control", "AD"], "seen": "leave_out", "permutations": 200}
        shared = {"latents": latents, "seed": self.seed}
        classify: list[Verb] = [
            Encode.model_validate({"prepared": cohort, "run": run, "out": latents}),
            Classify.model_validate(shared | question | {"out": self.out / "head", "workers": self.workers}),
            Stratify.model_validate(
                shared | {"maps": self.out / "maps" / LEAD, "prepared": cohort, "out": self.out / "strata"}
            ),
        ]
        if not self.full:
            return classify
        return [
            Reconstruct.model_validate({"prepared": cohort, "run": run, "out": self.out / "reconstructed"}),
            *classify,
            Harmonise.model_validate(shared | {"out": self.out / "latents_harmonised"}),
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

    @property
    def _vae(self) -> str:
        """The VAE whose latents are classified: one of its own, or the one that latent diffusion needs anyway."""
        return "vae" if self.full else "vae_spatial"

    def _synthesis(self) -> list[Verb]:
        """Synthetic scans, and how they compare with people whom the model never saw."""
        synthetic = self.out / "synthetic"
        request = {
            "run": self.out / "runs" / "ldm",
            "count": 20 if self.full else 12,
            "unnamed": "as_trained",
            "precision": "auto",
            "seed": self.seed,
            "workers": self.workers,
        }
        comparison: dict[str, Any] = {"synthetic": synthetic, "reference": self.out / "cohort", "seen": "leave_out"}
        if not self.full:
            comparison |= {"extractors": EXTRACTORS_SHORT, "repeats": 100, "bootstrap": 500, "pairs": 300}
        return [
            Sample.model_validate(request | {"out": synthetic}),
            Quality.model_validate(comparison | {"out": self.out / "quality"}),
        ]

    def _train(self, name: str, settings: dict[str, Any]) -> Verb:
        shared = {
            "prepared": self.out / "cohort",
            "seed": self.seed,
            "out": self.out / "runs" / name,
            "track": self.track,
        }
        return Train.model_validate(shared | settings)

    def _anomaly(self, name: str, pair: tuple[tuple[str, ...], tuple[Channel, ...]]) -> Verb:
        runs, channels = pair
        return Anomaly.model_validate(
            {
                "prepared": self.out / "cohort",
                "run": [self.out / "runs" / run for run in runs],
                "channels": channels,
                "out": self.out / "maps" / name,
            }
        )

    def _diffusion(self) -> Verb:
        """Latent diffusion, trained on controls and some of the patients, so that either can be asked for."""
        steps = 2 * self.num_steps
        settings = {
            "vae": self.out / "runs" / "vae_spatial",
            "model": DIFFUSION,
            "patients": 0.5,
            "optim": {"steps": steps, "batch_size": 8, "ema_decay": 0.99},
            "augment": {"flip": True},
            "picture_every": steps,
        }
        return self._train("ldm", settings)

    def _models(self) -> dict[str, dict[str, Any]]:
        """Settings of each training. What learns from T1w alone leaves volume to the registration, which is best."""
        network = {"optim": {"steps": self.num_steps}, "picture_every": max(1, self.num_steps // 4)}
        pca = {"kind": "pca", "num_components": min(20, self.num_subjects // 4)}
        return {
            "restorer": {"model": {"kind": "restorer"}, "augment": {"flip": True}, **T1W, **network},
            "pca": {"model": pca, "cross_fit": 5, **T1W},
            "vae": {"model": {"kind": "vae"}, **BOTH, **network},
            "voxelwise": {"model": {"kind": "voxelwise"}, "cross_fit": 5, **BOTH},
            "vae_spatial": {"model": SPATIAL, "augment": {"flip": True}, **T1W, **network},
        }

    def _closing(self) -> list[str]:
        """A dozen lines: what was planted, what was found, where to look."""
        return [
            "What was planted",
            f"  {planted(self.out / 'cohort')}",
            "What was found (value [95 % interval over people])",
            *(f"  {line}" for line in findings(opened(self.out / "evaluation", EvaluationFolder).headline)),
            f"  New people: {new_people(opened(self.out / 'maps' / NEW, MapsFolder))}",
            f"  Diagnosis from latents: {_verdict(self.out / 'head', HeadFolder)}",
            f"  Sub-groups: {_verdict(self.out / 'strata', StrataFolder)}",
            f"  Synthetic scans: {synthetic_scans(self.out / 'synthetic', self.out / 'quality')}",
            "Where to look",
            f"  {self.out / 'report' / 'index.html'}: everything on one page; open it in a browser",
            f"  {self.out / 'maps' / LEAD / 'maps'}: z maps (NIfTI) to lay over the scans in {self.out / 'cohort' / 'volumes'}",
            "  On your own scans: gen3d prepare source=BIDS_DIR out=prepared, and on as in the README.",
        ]


Reader = TypeVar("Reader", bound=ResultFolder)


def opened(folder: Path, kind: type[Reader]) -> Reader:
    """A finished folder, by its own reader."""
    return kind(read(folder), folder.name)


def _verdict(folder: Path, kind: type[HeadFolder] | type[StrataFolder]) -> str:
    """The first clause of a folder's verdict; the report has all of it."""
    return re.split(r"; (?![^()]*\))", opened(folder, kind).summary[0])[0].rstrip(".") + "."


def planted(cohort: Path) -> str:
    """Who is in the cohort, by what was planted in them."""
    people = read_manifest(cohort).drop_duplicates("subject")
    counts = people["diagnosis"].value_counts()
    descriptions = {
        "AD": "with AD-like atrophy in four grades",
        "MCI": "with MCI-like atrophy",
        "lesion": "with a lesion of 2, 10 or 30 ml",
        "null": "in whom nothing was planted, as a check",
    }
    groups = [f"{counts[name]} {text}" for name, text in descriptions.items() if counts.get(name)]
    return f"{len(people)} simulated people: {spell.listed([f'{counts.get(CONTROL, 0)} healthy controls', *groups])}."


def findings(rows: list[Row]) -> list[str]:
    """The best figure for atrophy and for lesions, and what the maps show where nothing was planted."""
    lead = [row for row in rows if row["maps"] == LEAD and row["value"] is not None]
    atrophy = [
        row
        for row in lead
        if row["channel"] == "deformation" and row["condition"].upper() == "AD" and row["measure"].startswith("AUC of")
    ]
    lesion = [
        row
        for row in lead
        if row["channel"] == "residual" and row["condition"] == "lesion" and row["measure"] == "voxel AUROC"
    ]
    lines = []
    if atrophy:
        figures = "; ".join(_figure(row) for row in atrophy)
        lines.append(f"Atrophy: local volume separates AD-like people from controls by {figures}")
    if lesion:
        lines.append(f"Lesions: the T1w map separates lesion voxels from all others, {_figure(lesion[0])}")
    return lines + _where_nothing_was_planted([row for row in lead if row["channel"] == "deformation"])


def _where_nothing_was_planted(rows: list[Row]) -> list[str]:
    """Voxels beyond |z| 1.96, where 5 % is right, and people with a significant voxel."""
    names = {"test controls": "held-out controls", "null condition": "people in whom nothing was planted"}
    figures = {(row["condition"], row["measure"]): row for row in rows}
    lines = []
    for condition, name in names.items():
        share = figures.get((condition, "share of |z| > 1.96"))
        alarms = figures.get((condition, "people with any FDR-positive voxel"))
        if share is not None and alarms is not None:
            positive = f"{round(alarms['value'] * alarms['num'])} of {alarms['num']} with a significant voxel"
            lines.append(
                f"False alarms in {name}: {spell.percent(share['value'])} of voxels beyond |z| 1.96, {positive}"
            )
    return lines


def new_people(maps: MapsFolder) -> str:
    """Who of the people that a norm judged has a significant voxel."""
    table = maps.subjects
    columns = [name for name in table.columns if name.startswith("voxels_fdr_")]
    positive = (table[columns] > 0).any(axis=1)
    planted = table["role"] == "evaluation"
    return (
        f"judged by {maps.judged_by}, without their images: a significant voxel in {int(positive[planted].sum())} of "
        f"{int(planted.sum())} with something planted, and in {int(positive[~planted].sum())} of {int((~planted).sum())} healthy."
    )


def synthetic_scans(synthetic: Path, quality: Path) -> str:
    """How many synthetic scans are copies, and whether they can be separated from real ones."""
    audit = opened(synthetic, SyntheticFolder).audit
    copies = audit["copies"]
    value, low, high = (100 * copies[name] for name in ("value", "low", "high"))
    share = spell.interval(value, low, high, digits=0)
    verdict = opened(quality, QualityFolder).summary[0].split(" (")[0]
    return f"{share} % are copies of training people, n {audit['num_synthetic']}; {verdict}."


def _figure(row: Row) -> str:
    return f"{row['measure']} {spell.interval(row['value'], row['low'], row['high'])}, n {row['num']}"
