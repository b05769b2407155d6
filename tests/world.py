"""A complete set of small finished folders with known numbers, written as the verbs write them."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import save_file
from scipy import ndimage

from gen3d.anomaly.change_folder import CHANGE, RETEST, write_change
from gen3d.anomaly.folder import CLUSTERS, write_map, write_maps_tables
from gen3d.anomaly.folder import REGIONS as REGION_TABLE
from gen3d.cohort.folder import UNMATCHED, VERDICTS, write_cohort
from gen3d.cohort.latents_folder import write_latents
from gen3d.cohort.manifest import scan_key, subject_hash
from gen3d.cohort.seen import SeenBy
from gen3d.core.artefact import write_json
from gen3d.core.result_folder import FIGURES, write_picture
from gen3d.core.tables import write_table
from gen3d.evaluate.folder import write_evaluation
from gen3d.imaging.plan import GridPlan, plan_grid
from gen3d.imaging.template import template_on
from gen3d.imaging.volume import store
from gen3d.latents.folder import METRICS, volume_path
from gen3d.models.registry import read_config
from gen3d.models.run_folder import LOG, weights_path, write_settings
from gen3d.quality.folder import SHUFFLED_KEY, write_quality
from gen3d.synthesis.folder import AUDIT, MANIFEST, PICTURE, PROVENANCE

CHANNELS = ("residual", "structural", "deformation")
REGIONS = ("left hippocampus", "right hippocampus", "left lateral ventricle", "left thalamus", "brain stem")
CENTRES_MM = ((-26, -20, -16), (26, -20, -16), (-12, -20, 20), (-12, -18, 8), (0, -28, -32))
EFFECT_Z = {"AD": -3.0, "lesion": 0.0, "null": 0.0, "CN": 0.0}
ROLES = {"train": 9, "calibration": 20, "test": 8}
PATIENTS = {"AD": 7, "lesion": 6, "null": 5}


@dataclass(frozen=True)
class World:
    """The folders by name, and the tables that were written."""

    root: Path
    manifest: pd.DataFrame
    plan: GridPlan

    def __getitem__(self, name: str) -> Path:
        return self.root / name


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object."""
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def write_record(folder: Path, verb: str, inputs: dict[str, list[Path]] | None = None, **summary: Any) -> None:
    """The record of a finished folder."""
    described = {
        label: [
            {"path": str(path), **{name: read_json(path / "artefact.json")[name] for name in ("verb", "key")}}
            for path in paths
        ]
        for label, paths in (inputs or {}).items()
    }
    record = {"gen3d": "0.1.0", "verb": verb, "key": f"{verb}-{folder.name}", "status": "finished", "inputs": described}
    record |= {
        "config": {"out": str(folder), "seed": 0},
        "summary": summary,
        "finished_at": "2026-01-01T00:00:00+00:00",
    }
    write_json(folder / "artefact.json", record)


def build(root: Path, spacing_mm: float = 4.0, seed: int = 0, models: tuple[str, ...] = ("vae", "pca")) -> World:
    """Write prepared, runs/<model>, maps/<model>, latents, reconstructed and evaluation under `root`."""
    generator = np.random.default_rng(seed)
    plan = plan_grid(spacing_mm)
    world = World(root, _manifest(generator), plan)
    _prepared(world, generator)
    for model in models:
        _run(world, model, generator)
        _maps(world, model, generator)
    _change(world, models[0], generator)
    _latents(world, models[0], generator)
    _reconstructed(world, models[0], generator)
    _evaluation(world, models)
    _quality(world, generator)
    write_synthetic(world["synthetic"], audit_of(False, 0.0))
    return world


def _manifest(generator: np.random.Generator) -> pd.DataFrame:
    rows = []
    wanted = [("CN", role, n) for role, n in ROLES.items()] + [
        (group, "evaluation", n) for group, n in PATIENTS.items()
    ]
    wanted.append(("CN", "excluded", 1))
    for diagnosis, role, num in wanted:
        for _ in range(num):
            subject = f"{len(rows):03d}"
            age = float(np.round(generator.uniform(55, 85), 1))
            rows.append((subject, "1", "AB"[len(rows) % 2], age, "FM"[len(rows) % 3 > 0], diagnosis, role))
    frame = pd.DataFrame(rows, columns=["subject", "session", "site", "age_years", "sex", "diagnosis", "role"])
    frame["cdr"], frame["mmse"] = np.nan, np.nan
    frame["key"] = [scan_key(subject, "1") for subject in frame["subject"]]
    return frame


def _noise(generator: np.random.Generator, shape: tuple[int, ...], sigma: float = 1.5) -> NDArray[np.float32]:
    field = ndimage.gaussian_filter(generator.standard_normal(shape), sigma)
    return (field / field.std()).astype(np.float32)


def _blob(plan: GridPlan, centre_mm: tuple[float, ...], radius_mm: float) -> NDArray[np.float32]:
    axes = [plan.matrix[a, 3] + plan.matrix[a, a] * np.arange(plan.shape[a]) for a in range(3)]
    grid = np.meshgrid(*axes, indexing="ij")
    squared = sum((g - c) ** 2 for g, c in zip(grid, centre_mm, strict=True))
    return np.exp(-squared / (2 * radius_mm**2)).astype(np.float32)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _noise_png(generator: np.random.Generator) -> bytes:
    return _png(generator.integers(0, 255, (60, 120, 3), dtype=np.uint8))


def _prepared(world: World, generator: np.random.Generator) -> None:
    folder, plan = world["prepared"], world.plan
    template = template_on(plan)
    for key in world.manifest["key"]:
        t1w = template.t1w * (1 + 0.04 * _noise(generator, plan.shape)) * template.mask
        store(folder / "volumes" / f"{key}_t1w.nii", t1w, plan.matrix)
        store(
            folder / "volumes" / f"{key}_log_jacobian.nii",
            0.1 * _noise(generator, plan.shape) * template.mask,
            plan.matrix,
        )
    labels = np.zeros(plan.shape, dtype=np.int16)
    for number, centre in enumerate(CENTRES_MM, start=1):
        labels[_blob(plan, centre, 6) > 0.5] = number
    names = pd.DataFrame({"label": range(1, 6), "name": REGIONS, "hemisphere": "", "tissue": "gm"})
    write_cohort(folder, plan, template.mask, labels, names, world.manifest)
    excluded = world.manifest["role"] == "excluded"
    verdicts = pd.DataFrame({"key": world.manifest["key"], "source": "scan.nii.gz"})
    verdicts["verdict"] = np.where(excluded, "exclude", "keep")
    verdicts["reason"] = np.where(excluded, "mutual information with the template is -0.05", "")
    verdicts.loc[0, ["verdict", "reason"]] = ["warn", "head tilted by 21 degrees"]
    VERDICTS.write(folder, verdicts)
    UNMATCHED.write(folder, pd.DataFrame({"entry": ["099"], "remark": ["row in participants.tsv without a scan"]}))
    for key in [world.manifest["key"][0], *world.manifest.loc[excluded, "key"]]:
        write_picture(folder, key, _noise_png(generator))
    write_record(folder, "simulate")


def _run(world: World, model: str, generator: np.random.Generator) -> None:
    folder = world[f"runs/{model}"]
    settings = {
        "vae": {"kind": "vae", "latent": "dense", "latent_size": 64},
        "pca": {"kind": "pca", "num_components": 20},
        "voxelwise": {"kind": "voxelwise"},
    }
    folder.mkdir(parents=True)
    config = {"model": settings[model], "channels": ["t1w", "log_jacobian"], "optim": {"steps": 300, "batch_size": 8}}
    write_settings(folder, config)
    subjects = world.manifest.loc[world.manifest["role"] == "train", "subject"]
    write_json(folder / "subjects.json", {"0": {subject_hash(subject): "train" for subject in subjects}})
    entries: list[dict[str, Any]] = [{"member": 0, "step": 0, "volumes": 9, "seconds": 1.0}]
    if model == "vae":
        steps = np.arange(10, 301, 10)
        kl = 60 + 220 * np.exp(-((steps - 80) ** 2) / 3000)
        terms = zip(steps, 0.9 * np.exp(-steps / 90) + 0.35, kl, strict=True)
        entries = [
            {
                "member": 0,
                "step": int(s),
                "loss": float(r + k / 1000),
                "reconstruction": float(r),
                "kl": float(k),
                "clipped": 0.0,
                "learning_rate": 1e-3,
                "volumes_per_s": 9.0,
                "memory_gib": 1.0,
                "seconds": 2.0,
            }
            for s, r, k in terms
        ]
    (folder / LOG).write_text("".join(json.dumps(entry) + "\n" for entry in entries) + '{"member": 0, "st')
    weights_path(folder, 0).parent.mkdir(parents=True)
    weights = {
        "network.weight": generator.standard_normal((40, 30)).astype(np.float32),
        "brain_mask": np.ones(7, np.float32),
    }
    save_file(weights, weights_path(folder, 0))
    form = read_config(settings[model]).form
    write_record(folder, "train", {"prepared": [world["prepared"]]}, seconds=61.0, form=form)


def _planted(
    world: World, channel: str, diagnosis: str, number: int, generator: np.random.Generator
) -> NDArray[np.float32]:
    """Smooth noise of SD 1; smaller hippocampi in AD, a ball in the left hemisphere in lesion."""
    z = _noise(generator, world.plan.shape)
    if channel == "deformation":
        return z + EFFECT_Z[diagnosis] * (_blob(world.plan, CENTRES_MM[0], 8) + _blob(world.plan, CENTRES_MM[1], 8))
    if diagnosis == "lesion":
        return z + (-6 if channel == "residual" else 6) * _blob(world.plan, (-40 + 2 * (number % 5), -10, 30), 9)
    return z


def _maps(world: World, model: str, generator: np.random.Generator) -> None:
    folder, plan = world[f"maps/{model}"], world.plan
    channels = CHANNELS if model == "vae" else ("residual", "deformation")
    mask = template_on(plan).mask
    people = world.manifest[world.manifest["role"].isin(["test", "evaluation", "calibration"])].reset_index(drop=True)
    rows, regions, clusters = [], [], []
    for i, person in people.iterrows():
        scores: dict[str, float] = {}
        for channel in channels:
            z = np.where(mask, generator.standard_normal(plan.shape), 0).astype(np.float32)
            if person["role"] != "calibration":
                z = _planted(world, channel, str(person["diagnosis"]), int(str(i)), generator) * mask
            significant = (np.abs(z) > 4.4) & mask
            if person["role"] != "calibration":
                write_map(folder, person["key"], channel, z, significant, plan.matrix)
            if significant.any() and person["role"] == "evaluation":
                volume_ml = float(significant.sum() * plan.spacing_mm**3 / 1000)
                clusters.append(
                    (person["key"], channel, REGIONS[0], float(z.min()), volume_ml, -26.0, -20.0, -16.0, 0.0476)
                )
            scores[f"score_{channel}"] = float(np.sort(np.abs(z[mask]))[-mask.sum() // 20 :].mean())
            scores[f"percentile_{channel}"] = float(generator.uniform(0, 100))
            scores[f"voxels_fdr_{channel}"] = int(significant.sum())
            mean_z = generator.standard_normal(len(REGIONS))
            if channel == "deformation":
                mean_z[:2] += EFFECT_Z[person["diagnosis"]]
            for region, value in zip(REGIONS, mean_z, strict=True):
                effect = 0.06 * value
                percent = 100 * np.expm1(effect) if channel == "deformation" else np.nan
                p = float(2 * 10 ** -(value**2 / 4.6 + 0.3))
                regions.append(
                    (person["key"], channel, region, effect, percent, value, p, max(p, 1 / 21), min(1.0, 3 * p))
                )
            scores[f"region_score_{channel}"] = float(np.abs(mean_z).max())
            scores[f"region_percentile_{channel}"] = float(generator.uniform(0, 100))
        flags = "age 55 outside the calibrated 56 to 84 years" if i == len(people) - 1 else ""
        row = person[["key", "subject", "session", "role", "diagnosis", "age_years", "sex", "site"]].to_dict()
        rows.append(
            row | {"flags": flags} | scores | {"latent_d": float(generator.chisquare(8)), "percentile_latent": 50.0}
        )
    write_maps_tables(
        folder,
        pd.DataFrame(rows),
        pd.DataFrame(regions, columns=list(REGION_TABLE.columns)),
        pd.DataFrame(clusters, columns=list(CLUSTERS.columns)),
        {channel: calibration_record(world) for channel in channels},
    )
    write_record(folder, "anomaly", {"prepared": [world["prepared"]], "run": [world[f"runs/{model}"]]})


def calibration_record(world: World) -> dict[str, Any]:
    test = world.manifest[world.manifest["role"] == "test"]
    beyond = np.linspace(0.04, 0.061, len(test))
    return {
        "num_controls": 20,
        "columns": ["intercept", "age", "sex", "site B"],
        "terms": ["age", "sex", "site"],
        "dropped": {"age2": "too few people"},
        "sites": {"A": 10, "B": 10},
        "age_range_years": [56.0, 84.0],
        "dof": 16.0,
        "conformal_resolution": 1 / 21,
        "test": {
            "num_people": len(test),
            "mean": 0.0123,
            "sd": 1.0345,
            "share_beyond_1.96": float(beyond.mean()),
            "share_people_fdr_positive": 1 / len(test),
            "per_person": {"mean": [0.0] * len(test), "sd": [1.0] * len(test), "share_beyond_1.96": beyond.tolist()},
        },
    }


def _change(world: World, model: str, generator: np.random.Generator) -> None:
    """Three people with two scans each; the first lost 12 % of the left hippocampus."""
    folder, rows = world["change"], []
    for number in range(3):
        for channel in CHANNELS:
            for region in REGIONS:
                lost = number == 0 and channel == "deformation" and region == REGIONS[0]
                change = float(np.log(0.88)) if lost else float(generator.normal(0, 0.01))
                z = -6.1 if lost else change / 0.01
                percent = 100 * np.expm1(change) if channel == "deformation" else np.nan
                p, q = (1e-9, 1e-8) if lost else (0.4, 0.8)
                row = (
                    f"L{number}",
                    "1",
                    "2",
                    1.5,
                    channel,
                    region,
                    0.01,
                    0.01 + change,
                    change,
                    percent,
                    change / 1.5,
                    0.0,
                )
                rows.append((*row, z, p, q))
    retest = [(c, r, 12, 0.1, 0.012, 1.2, 0.06, 0.95, 0.9, 0.98, 3.4) for c in CHANNELS for r in REGIONS]
    write_change(
        folder, pd.DataFrame(rows, columns=list(CHANGE.columns)), pd.DataFrame(retest, columns=list(RETEST.columns))
    )
    write_record(folder, "change", {"maps": [world[f"maps/{model}"]]})


def _latents(world: World, model: str, generator: np.random.Generator) -> None:
    folder = world["latents"]
    table = world.manifest[world.manifest["role"] != "excluded"].reset_index(drop=True)
    values = generator.standard_normal((len(table), 16)).astype(np.float32)
    values[:, 0] += 4 * (table["diagnosis"] == "AD").to_numpy()
    folder.mkdir()
    record = {"shape": [16], "kind": model, "run_key": f"train-{model}", "channels": ["t1w", "log_jacobian"]}
    write_latents(folder, values, table, record, SeenBy(({},)))
    write_record(folder, "encode", {"prepared": [world["prepared"]], "run": [world[f"runs/{model}"]]})


def _reconstructed(world: World, model: str, generator: np.random.Generator) -> None:
    folder, plan = world["reconstructed"], world.plan
    template = template_on(plan)
    rows = []
    for _, person in world.manifest[world.manifest["role"].isin(["train", "test"])].iterrows():
        store(volume_path(folder, person["key"], "t1w"), template.t1w, plan.matrix)
        store(
            volume_path(folder, person["key"], "log_jacobian"),
            0.02 * _noise(generator, plan.shape) * template.mask,
            plan.matrix,
        )
        for channel in ("t1w", "log_jacobian"):
            error = float(generator.uniform(0.001, 0.002))
            seen = person["role"] == "train"
            rows.append(
                (
                    person["key"],
                    person["role"],
                    person["diagnosis"],
                    channel,
                    seen,
                    error,
                    20 + 2 * seen + 100 * error,
                    0.7 + 0.1 * seen,
                )
            )
    METRICS.write(folder, pd.DataFrame(rows, columns=list(METRICS.columns)))
    write_record(folder, "reconstruct", {"prepared": [world["prepared"]], "run": [world[f"runs/{model}"]]})


def _span(name: str, value: float, half: float = 0.05) -> dict[str, float]:
    return {name: value, f"{name}_low": value - half, f"{name}_high": value + half}


def _with_limits(name: str, value: float, half: float) -> dict[str, float]:
    return {name: value, f"{name}_low": value - half, f"{name}_high": value + half}


def _quality(world: World, generator: np.random.Generator) -> None:
    """Synthetic scans that differ a little from real ones, their hippocampus too small by 0.8 SD."""
    folder = world["quality"]
    distances = [
        {"extractor": "random", "metric": metric, "name": f"{metric.upper()}-random(n=9, z-scored brain)", "set": name, "n": 9,
         **_with_limits("value", value, 0.05), **_with_limits("floor", 0.012, 0.02), **_with_limits("excess", value - 0.012, 0.05),
         "p": 0.004 if (metric, name) == ("mmd", "synthetic") else None}
        for metric in ("fid", "kid", "mmd")
        for name, value in (("synthetic", 0.234), ("reconstructed", 0.345), ("smoothed", 0.456))
    ]  # fmt: skip
    diversity = [
        {"measure": "MS-SSIM (2 scales, brain)", "set": name, "num_scans": 18, "num_pairs": 153}
        | _with_limits("value", value, 0.01)
        | (_with_limits("minus_real", 0.0777, 0.01) if name == "synthetic" else {})
        for name, value in (("real", 0.5), ("synthetic", 0.5777))
    ]
    structures = [
        {"structure": f"structure {number}", "n_real": 18, "n_synthetic": 20, "mean_real_ml": 7.0, "sd_real_ml": 0.5,
         "mean_synthetic_ml": 6.6, "sd_synthetic_ml": 0.4, "q": 0.03, **_with_limits("difference_sd", -0.8 + 0.1 * number, 0.2),
         **_with_limits("ratio_sd", 0.8, 0.2), **_with_limits("wasserstein_sd", 0.6, 0.1), **_with_limits("floor_sd", 0.3, 0.1)}
        for number in range(12)
    ]  # fmt: skip
    fidelity = [
        {"covariate": "age_years", "method": "predicted", "people": people, "n": 18}
        | _with_limits("r", r, 0.1) | _with_limits("slope", 0.7, 0.1) | _with_limits("mae", 4.3, 0.5)
        for people, r in (("synthetic", 0.61), ("real", 0.82))
    ]  # fmt: skip
    utility = [
        {"target": "sex", "trained_on": name, "n_train": 20, "n_test": 18, **_with_limits("auc", 0.66, 0.1)}
        for name in ("real", "real, as many as synthetic", "synthetic", "real and synthetic")
    ]
    tables = {
        "distances": distances,
        "diversity": diversity,
        "structures": structures,
        "fidelity": fidelity,
        "utility": utility,
    }
    metrics = {
        "summary": ["20 synthetic scans can be told from 18 real ones."],
        "reference": ["narrowed to sex F"],
        "not_included": ["fidelity of mmse: fewer than 12 real people whose value is known"],
    }
    people = pd.DataFrame({"key": ["a"], "subject": ["a"]})
    write_quality(folder, metrics, {name: pd.DataFrame(rows) for name, rows in tables.items()}, people, people)
    for name in ("shuffled", "labelled", "structures", "fidelity"):
        write_picture(folder, name, _noise_png(generator))
    key = pd.DataFrame(
        {"number": [1, 2, 3, 4], "kind": ["real", "synthetic", "synthetic", "real"], "key": list("abcd")}
    )
    SHUFFLED_KEY.write(folder / FIGURES, key)
    write_record(folder, "quality")


def _evaluation(world: World, models: tuple[str, ...]) -> None:
    folder = world["evaluation"]
    voxels, regions, detection, differences, null, by_region = [], [], [], [], [], []
    for place, model in enumerate(models):
        gain = 0.03 * place
        for condition, channel, auprc in (
            ("lesion", "residual", 0.412),
            ("lesion", "structural", 0.301),
            ("AD", "deformation", 0.211),
        ):
            row = {
                "maps": model,
                "channel": channel,
                "condition": condition,
                "severity": "all",
                "mean_severity": 0.6,
                "num": 6,
                "prevalence": 0.0123,
                "threshold": 3.3,
            }
            measures = {
                "auroc": 0.87 + gain,
                "auprc": auprc + gain,
                "dice_at_threshold": 0.33,
                "sensitivity_at_threshold": 0.4,
                "dice_fdr": 0.2,
                "dice_oracle": 0.5,
            }
            for name, value in measures.items():
                row |= _span(name, value)
            voxels.append(row)
            if place:
                other = {"maps": model, "minus": models[0], "channel": channel, "condition": condition, "num": 6}
                for name in measures:
                    other |= _span(name, gain, 0.02)
                differences.append(other)
        for region, true in (
            ("left hippocampus", -23.7),
            ("right hippocampus", -22.1),
            ("hippocampus (both)", -22.9),
            ("left lateral ventricle", 31.0),
        ):
            row = {
                "maps": model,
                "channel": "deformation",
                "condition": "AD",
                "region": region,
                "changed": True,
                "true_percent": true,
                "num": 7,
                "num_controls": 28,
                "mean_z": -2.0,
                "recovered": 0.41,
            }
            regions.append(
                row
                | _span("auc", 0.9 + gain / 2)
                | _span("share_p_conformal_5_percent", 0.71)
                | _span("spearman", 0.5)
                | _span("bias_percent", 9.0)
            )
            if place:
                other = {
                    "maps": model,
                    "minus": models[0],
                    "channel": "deformation",
                    "condition": "AD",
                    "region": region,
                }
                by_region.append(other | {"true_percent": true, "num": 7} | _span("auc", gain / 2, 0.04))
        for score in ("largest region deformation", "burden residual", "latent deviation"):
            for severity, level in (("all", 0.6), ("0.2", 0.2), ("0.6", 0.6), ("1", 1.0)):
                row = {
                    "maps": model,
                    "score": score,
                    "condition": "AD",
                    "severity": severity,
                    "mean_severity": level,
                    "num": 7,
                    "num_controls": 28,
                }
                detection.append(row | _span("auc", min(0.94, 0.5 + 0.4 * level + gain)) | _span("sensitivity", 0.4))
        for group in ("test controls", "null condition"):
            row = {"maps": model, "channel": "residual", "group": group, "num": 8}
            null.append(
                row
                | _span("mean_z", 0.01)
                | _span("sd_z", 1.02)
                | _span("share_beyond_1_96", 0.052, 0.01)
                | _span("share_people_fdr_positive", 0.05)
                | _span("share_voxels_fdr_positive", 0.0)
            )
    tables = {
        "voxels": voxels,
        "differences": differences,
        "regions": regions,
        "region_differences": by_region,
        "detection": detection,
        "calibration": null,
        "profiles": [],
    }
    described = {model: {"folder": str(world[f"maps/{model}"]), "key": f"anomaly-{model}"} for model in models}
    counts = {"none": 40, "AD": 7, "lesion": 6, "null": 5}
    frames = {name: pd.DataFrame(rows) for name, rows in tables.items()}
    write_evaluation(folder, Path("prepared"), described, counts, [], frames)
    write_record(
        folder, "evaluate", {"maps": [world[f"maps/{model}"] for model in models], "truth": [world["prepared"]]}
    )


SHARES = ("copies", "subjects_copied", "paired", "accuracy_train", "accuracy_held_out", "privacy_loss", "membership")


def write_synthetic(out: Path, audit: dict[str, Any]) -> Path:
    """A dataset of four synthetic scans with this audit."""
    out.mkdir()
    table = {"key": [f"sub-syn{k}_ses-1" for k in range(4)], "subject": [f"syn{k}" for k in range(4)]}
    asked = {"requested_age_years": [70.0, 80.0, 75.0, np.nan], "requested_sex": ["F", "F", "M", "n/a"]}
    write_table(out / MANIFEST, pd.DataFrame({**table, **asked}))
    write_json(out / PROVENANCE, {"drawing": {"sampler": "dpm_solver", "steps": 25}})
    write_json(out / AUDIT, audit)
    write_picture(out, PICTURE, _png(np.zeros((8, 8), np.uint8)))
    write_record(out, "sample")
    return out


def audit_of(failed: bool, copies: float, waiver: str | None = None) -> dict[str, Any]:
    """What `gen3d sample` writes of an audit that found this share of copies."""
    interval = {"value": copies, "low": copies, "high": copies + 0.05, "num": 4}
    figures = {"num_train_people": 30, "num_held_out_people": 12, **dict.fromkeys(SHARES, interval)}
    both = {"latent": figures, "voxels": figures}
    done = {"done": True, "failed": failed, "waiver": waiver, "num_synthetic": 4, "rule": "fails when it must"}
    return {**done, "copies": interval, "embeddings": both}
