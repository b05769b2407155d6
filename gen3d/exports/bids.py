"""`gen3d export`: a maps folder as a BIDS derivatives dataset, in template space and in each scan's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import BeforeValidator, Field, model_validator

from gen3d import __version__
from gen3d.anomaly.folder import (
    CLUSTERS,
    CONTROL_RANGES,
    NORM,
    REGIONS,
    SIGNIFICANT,
    SUBJECTS,
    MapsFolder,
    map_path,
    map_paths,
)
from gen3d.cohort import bids_names as bids
from gen3d.cohort.channels import ON_TEMPLATE
from gen3d.cohort.folder import PLAN, Prepared, open_prepared
from gen3d.cohort.methods import METHODS, methods_text
from gen3d.core.artefact import PLACE, Artefact, read, write_atomic, write_json, write_record
from gen3d.core.config import Folder, Folders, execution
from gen3d.core.errors import UserError
from gen3d.core.inputs import input_of
from gen3d.core.output_folder import Work
from gen3d.core.pool import as_done, num_workers
from gen3d.core.progress import say, track
from gen3d.core.tables import read_cells, write_table
from gen3d.core.work import FolderVerb, Identity
from gen3d.exports import sidecars
from gen3d.exports.forecasts import ForecastMaterial, open_material, sources_of, write_dataset
from gen3d.exports.placing import place
from gen3d.imaging.native import inverse_of, read_native_space, undeformed, write_native
from gen3d.imaging.plan import GridPlan, read_plan
from gen3d.imaging.registration import deform
from gen3d.imaging.volume import read_map, read_map_and_affine, read_stored

IDENTITY = {"age_years": "age", "sex": "sex", "diagnosis": "group", "site": "site", "role": "role"}


NAME = "Normative maps of T1w scans"

Texts = Annotated[tuple[str, ...], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]


class Export(FolderVerb):
    """Write maps and region tables, or forecasts, in the layout that other software and data archives read.

    Maps on the template are linked or copied. In the scan's own space they are made anew: local volume lives on the
    template's voxels, so its maps go through the inverse of the deformation (registered again from the prepared T1w)
    before the inverse of the affine. No file of the dataset names a folder of this machine.
    """

    maps: Folder | None = Field(None, description="maps folder (anomaly)")
    forecasts: Folder | None = Field(None, description="instead of maps: folder of forecasts (forecast)")
    prepared: Folders | None = Field(
        None, description="prepared folders of the maps; by default those that the maps were computed from"
    )
    native: bool = Field(True, description="also write maps in each scan's own space (about 4 s per scan at 2 mm)")
    name: str = Field("", description="name of the dataset; default: what it holds")
    source: Texts = Field((), description="where the scans come from: doi:10.x/y or URLs, for SourceDatasets")
    workers: int = execution(0, "processes that compute maps in the scans' own space; 0: one per core", ge=0)

    @model_validator(mode="after")
    def _one_source(self) -> Export:
        if (self.maps is None) == (self.forecasts is None):
            raise ValueError(
                "give maps= (a folder of `gen3d anomaly`) or forecasts= (a folder of `gen3d forecast`), one of them"
            )
        return self

    def plan(self) -> list[str]:
        """How many scans would be exported, and in which spaces."""
        material = self.open_inputs()
        if isinstance(material, ForecastMaterial):
            return [*material.plan(), f"writes {self.out}"]
        spaces = bids.TEMPLATE_SPACE + (f" and the own space of {len(material.native)} of them" if self.native else "")
        return [
            f"exports {len(material.scans)} scans ({', '.join(material.channels)}) in {spaces}",
            f"writes {self.out}",
        ]

    def open_inputs(self) -> ExportMaterial | ForecastMaterial:
        """The maps, and the prepared scans where they are needed; or the forecasts."""
        return open_material(self.forecasts) if self.forecasts is not None else _open(self, self.source_folder)

    @property
    def source_folder(self) -> Path:
        """The folder that is exported."""
        folder = self.forecasts if self.maps is None else self.maps
        assert folder is not None, "the settings are refused without one"
        return folder

    def identity(self, opened: Callable[[], ExportMaterial | ForecastMaterial]) -> Identity:
        """The maps, and the prepared folders that they name; or the forecasts."""
        material = opened()
        if isinstance(material, ForecastMaterial):
            return Identity({"forecasts": self.source_folder})
        prepared = material.prepared
        return Identity({"maps": self.source_folder} | ({"prepared": prepared.folders} if prepared else {}))

    def write(self, work: Work, opened: ExportMaterial | ForecastMaterial) -> dict[str, Any]:
        """Write the dataset."""
        _drop_paths(work)
        if isinstance(opened, ForecastMaterial):
            return write_dataset(self.out, opened, self.name, sources_of(self.source))
        for scan in track(opened.scans, "exporting"):
            _export_scan(self.out, opened, scan)
        _write_tables(self.out, opened)
        self._write_native(opened)
        _write_descriptions(self, opened)
        say(f"{self.out}: {len(opened.scans)} scans, {len(opened.native)} of them in their own space too.")
        return {"num_scans": len(opened.scans), "num_in_own_space": len(opened.native)}

    def _write_native(self, material: ExportMaterial) -> None:
        if not material.native:
            return
        workers = num_workers(self.workers, len(material.native))
        done = as_done(write_scan, read_plan(material.native_plan), material.native, workers)
        for _ in track(done, "own space", total=len(material.native)):
            pass


@dataclass(frozen=True)
class ExportScan:
    """One scan: its key in the maps folder, its BIDS name, folder inside the dataset, and z map by channel."""

    key: str
    name: str
    folder: Path
    maps: dict[str, Path]


@dataclass(frozen=True)
class ExportMaterial:
    """What is exported: the maps, their tables, and the prepared scans where maps in native space are wanted."""

    artefact: Artefact
    subjects: pd.DataFrame
    scans: list[ExportScan]
    channels: list[str]
    spacing_mm: float
    prepared: Prepared | None
    native: list[NativeScan]

    @property
    def res(self) -> str:
        """Label of the entity `res`."""
        return bids.resolution(self.spacing_mm)

    @property
    def native_plan(self) -> Path:
        """The plan of the grid that maps are on."""
        assert self.prepared is not None
        return self.prepared.folders[0] / PLAN

    @property
    def model(self) -> str:
        """The kinds of model behind the maps, where their folders can still be read."""
        used = [*self.artefact.inputs.get("run", []), *self.artefact.inputs.get(NORM, [])]
        folders = MapsFolder(self.artefact, "").model_folders
        if not folders or len(folders) < len(used):
            return "normative model"
        models = [read(folder, ("train", "import-weights")).config.get("model", {}) for folder in folders]
        return " and ".join(str(model.get("kind", "normative model")) for model in models)


def _open(verb: Export, folder: Path) -> ExportMaterial:
    artefact = read(folder, ("anomaly",))
    subjects = read_cells(folder / SUBJECTS.file)
    bids.check_labels(list(zip(subjects["subject"], subjects["session"], strict=True)))
    scans = []
    for _, row in subjects.iterrows():
        maps = map_paths(folder, str(row["key"]))
        session = bids.label(row["session"])
        below = Path(f"sub-{bids.label(row['subject'])}") / (f"ses-{session}" if session else "") / "anat"
        scans.append(ExportScan(row["key"], bids.stem(row["subject"], row["session"]), below, maps))
    with_maps = [path for scan in scans for path in scan.maps.values()]
    if not with_maps:
        raise UserError(f"{folder}: holds no z map; run `gen3d anomaly` again.")
    _, affine = read_map_and_affine(with_maps[0])
    spacing_mm = float(np.round(np.linalg.norm(affine[:3, 0]), 4))
    channels = list(dict.fromkeys(channel for scan in scans for channel in scan.maps))
    prepared = _prepared(verb, artefact) if verb.native else None
    native = _native_scans(verb.out, scans, prepared) if prepared is not None else []
    return ExportMaterial(artefact, subjects, scans, channels, spacing_mm, prepared, native)


def _prepared(verb: Export, artefact: Artefact) -> Prepared:
    remedy = "maps in the scans' own space need it, so give prepared=FOLDER, or native=false"
    recorded = artefact.inputs.get("prepared", [])
    below = MapsFolder(artefact, "").prepared_below
    folders = verb.prepared or tuple(input_of(artefact, item, remedy) for item in recorded) or (below and (below,))
    if not folders:
        raise UserError(f"{artefact.folder}: does not say which prepared scans it was made from; {remedy}.")
    return open_prepared(folders)


def _native_scans(out: Path, scans: list[ExportScan], prepared: Prepared) -> list[NativeScan]:
    """Scans that have a space of their own; simulated ones have none."""
    folder_of = dict(zip(prepared.manifest["key"], prepared.manifest["folder"].map(str), strict=True))
    native = []
    for scan in scans:
        folder = folder_of.get(scan.key)
        if folder is None:
            raise UserError(
                f"{prepared.folders[0]}: holds no scan {scan.key}; give the prepared folders of these maps."
            )
        if scan.maps and read_native_space(Path(folder), scan.key) is not None:
            names = {channel: sidecars.statmap(scan.name, channel, sidecars.NATIVE_SPACE) for channel in scan.maps}
            targets = {channel: out / scan.folder / f"{name}.nii.gz" for channel, name in names.items()}
            native.append(NativeScan(Path(folder), scan.key, scan.maps, targets))
    return native


def _drop_paths(work: Work) -> None:
    """Reduce the paths of inputs in the record to names: the dataset is shared, and must not show folders of this machine."""
    work.record["inputs"] = {
        label: [item | {"path": Path(str(item["path"])).name} for item in items]
        for label, items in work.record["inputs"].items()
    }
    config = dict(work.record["config"])
    for field in ("out", "maps", "forecasts", "prepared"):
        value = config[field]
        config[field] = [Path(v).name for v in value] if isinstance(value, list) else value and Path(value).name
    work.record["config"] = config
    work.record[PLACE] = None
    write_record(work.folder, work.record)


def _export_scan(out: Path, material: ExportMaterial, scan: ExportScan) -> None:
    """Link or copy the maps of one scan, and write its region table."""
    for channel, path in scan.maps.items():
        place(
            path,
            out / scan.folder / f"{sidecars.statmap(scan.name, channel, bids.TEMPLATE_SPACE, material.res)}.nii.gz",
        )
        significant = map_path(material.artefact.folder, scan.key, channel, SIGNIFICANT)
        if significant.is_file():
            place(significant, out / scan.folder / f"{sidecars.mask(scan.name, channel, material.res)}.nii.gz")


def _write_tables(out: Path, material: ExportMaterial) -> None:
    """Region tables by scan and for the group, clusters, scans, participants and sessions."""
    subjects, folder = material.subjects, material.artefact.folder
    ids = pd.DataFrame({"key": subjects["key"]})
    ids["participant_id"] = "sub-" + subjects["subject"].map(bids.label)
    ids["session_id"] = subjects["session"].map(lambda session: f"ses-{bids.label(session)}" if session else "n/a")
    regions = read_cells(folder / REGIONS.file)
    by_key = dict(tuple(regions.groupby("key", sort=False)))
    for scan in material.scans:
        if scan.key in by_key:
            rows = by_key[scan.key].drop(columns="key").replace("", "n/a")
            write_table(out / scan.folder / f"{scan.name}_desc-regions_stats.tsv", rows)
    scans = subjects.rename(columns=IDENTITY).drop(columns=["subject", "session"])
    tables = {"regions": regions, "scans": scans}
    if (folder / CLUSTERS.file).is_file():
        tables["clusters"] = read_cells(folder / CLUSTERS.file)
    for name, table in tables.items():
        table = ids.merge(table, on="key", how="right" if name != "scans" else "left").drop(columns="key")
        table = table.replace("", "n/a")
        write_table(out / f"group_desc-{name}_stats.tsv", table)
        write_json(out / f"group_desc-{name}_stats.json", sidecars.describe_columns(list(table.columns), name))
    if (folder / CONTROL_RANGES.file).is_file():
        ranges = read_cells(folder / CONTROL_RANGES.file).replace("", "n/a")
        write_table(out / "desc-controlranges_stats.tsv", ranges)
        described = sidecars.describe_columns(list(ranges.columns), "control_ranges")
        write_json(out / "desc-controlranges_stats.json", described)
    write_json(out / "desc-regions_stats.json", sidecars.describe_columns(list(regions.columns[1:]), "regions"))
    people = pd.concat([ids, subjects[list(IDENTITY)].rename(columns=IDENTITY)], axis=1).drop(columns="key")
    people = people.replace("", "n/a")
    for person, sessions in people.groupby("participant_id", sort=False):
        if (sessions["session_id"] != "n/a").all():
            write_table(out / str(person) / f"{person}_sessions.tsv", sessions[["session_id", "age", "group", "site"]])
    once = people.drop_duplicates("participant_id").drop(columns="session_id")
    write_table(out / "participants.tsv", once)
    write_json(out / "participants.json", sidecars.describe_columns(list(once.columns), "scans"))
    write_json(out / "sessions.json", sidecars.describe_columns(["session_id", "age", "group", "site"], "scans"))


def _write_descriptions(verb: Export, material: ExportMaterial) -> None:
    """dataset_description.json, README, methods.md, .bidsignore and the sidecars that hold for all maps of a channel."""
    q = float(material.artefact.config.get("q", 0.05))
    for channel in material.channels:
        sidecar = sidecars.statmap_sidecar(channel, material.res, material.spacing_mm)
        write_json(verb.out / f"{sidecars.statmap('', channel, bids.TEMPLATE_SPACE, material.res)}.json", sidecar)
        surviving = f"voxels of the z map with q < {q:g} within this map (Benjamini and Hochberg 1995)"
        described = {"Description": surviving, "Type": "ROI", "Resolution": sidecar["Resolution"]}
        write_json(verb.out / f"{sidecars.mask('', channel, material.res)}.json", described)
        if material.native:
            native_sidecar = sidecars.statmap_sidecar(channel, "", material.spacing_mm)
            write_json(verb.out / f"{sidecars.statmap('', channel, sidecars.NATIVE_SPACE)}.json", native_sidecar)
    sources = sources_of(verb.source)
    prepared = [
        {"Version": f"gen3d {item['verb']} {item['key']}"} for item in material.artefact.inputs.get("prepared", [])
    ]
    write_json(
        verb.out / "dataset_description.json",
        sidecars.dataset_description(verb.name or NAME, material.model, sources or prepared),
    )
    fields = {
        "version": __version__,
        "model": material.model,
        "space": bids.TEMPLATE_SPACE,
        "res": material.res,
        "q": q,
    }
    write_atomic(verb.out / "README", sidecars.README.format(**fields, channels=", ".join(material.channels)))
    write_atomic(verb.out / METHODS, methods_text([material.artefact]))
    write_atomic(verb.out / ".bidsignore", sidecars.BIDS_IGNORE)


@dataclass(frozen=True)
class NativeScan:
    """A scan of a prepared folder, its z maps on the template by channel, and where each goes."""

    folder: Path
    key: str
    maps: dict[str, Path]
    targets: dict[str, Path]


def write_scan(plan: GridPlan, scan: NativeScan) -> str:
    """Write the missing maps of one scan in its own space; its key."""
    missing = [channel for channel in scan.maps if not scan.targets[channel].is_file()]
    native = read_native_space(scan.folder, scan.key)
    assert native is not None
    inverse = None
    if any(channel in ON_TEMPLATE for channel in missing):
        t1w = read_stored(scan.folder / "volumes" / f"{scan.key}_t1w.nii")
        inverse = inverse_of(deform(t1w, plan).displacement)
    for channel in missing:
        z = read_map(scan.maps[channel])
        if channel in ON_TEMPLATE and inverse is not None:
            z = undeformed(z, inverse)
        write_native(scan.targets[channel], native, z, plan.matrix)
    return scan.key
