"""`gen3d explain`: where a classifier looks, by several methods, and whether any of them may be believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gen3d.cohort.channels import DEFORMED, T1W
from gen3d.cohort.labels import label as file_label
from gen3d.core import words as spell
from gen3d.core.disk import remove_folder, write_whole
from gen3d.core.output_folder import Work
from gen3d.core.pool import KeptRows, kept_or_made, num_workers
from gen3d.core.progress import say, track
from gen3d.core.result_folder import write_picture, write_result
from gen3d.core.tables import records
from gen3d.core.work import Inputs
from gen3d.core.work_arrays import save_array
from gen3d.explain.animation import Painted, animated
from gen3d.explain.enrichment import normalised
from gen3d.explain.folder import EXPLAINED, LONG, TABLES, animation_path, group_path, map_path, native_path
from gen3d.explain.groups import group_enrichment, group_maps, require_controls, retest_rows
from gen3d.explain.judges import verdicts
from gen3d.explain.one_scan import CONTROLS, ROWS, TABLES_BY_SCAN, Explaining, Opened, explain_scans, frame_of, opened
from gen3d.explain.people import EVERYBODY, ScanToExplain, labelled, reference_rows, to_explain
from gen3d.explain.pictures import MethodMap, draw, shown_map, slice_curves
from gen3d.explain.sentences import METHODS, enriched, first_sentence, not_asked
from gen3d.explain.settings import ExplainingVerb
from gen3d.figures import style
from gen3d.figures.brain import DisplaySpace
from gen3d.imaging.native import inverse_of, read_native_space, undeformed, write_native
from gen3d.imaging.registration import deform
from gen3d.imaging.template import template_on
from gen3d.imaging.volume import read_map

Ready = tuple[Opened, list[ScanToExplain], pd.DataFrame]


class Explain(ExplainingVerb):
    """Show where a classifier looks, person by person and for groups, and judge every method before it is believed.

    Each person is explained by the members of the run that never saw the person. Grad-CAM places the cells of a feature map by
    their receptive fields; integrated gradients start from the mean of controls; occlusion replaces whole regions by that mean.
    Overlap with a region is told as enrichment, against maps turned inside the brain and against all other regions. Five judges
    are asked of every method: planted truth, randomised weights, permuted labels, insertion and deletion of regions, and
    second scans. A method that fails one is called so beside its picture.
    """

    def plan(self) -> list[str]:
        """Who would be explained, by which methods, and with how many passes through the network."""
        ready, tasks, reference = self.open_inputs()
        judged = sum(task.judged for task in tasks)
        lines = [
            f"explains {spell.people(len({task.subject for task in tasks}))} ({len(tasks)} scans) by "
            f"{spell.listed([METHODS[name] for name in ready.methods])}: {ready.question.words}",
            f"controls are the mean of {spell.people(len(reference))}; grid {ready.prepared.plan.describe()}",
        ]
        lines += [f"{METHODS[name]}: {text}" for name, text in self._resolution(ready).items()]
        num_regions, stages = len(ready.regions.present), len(ready.member(tasks[0].members[0]).network.stage_names)
        passes = {
            "smoothgrad": 2 * self.draws,
            "grad_cam": 2,
            "integrated_gradients": 2 * self.steps,
            "occlusion": num_regions,
        }
        each = sum(passes[name] for name in ready.methods)
        curves = 2 * 12 * (len(ready.methods) + self.orders)
        total = each * len(tasks) + judged * (stages * each + curves)
        lines.append(
            f"about {total} passes through the network: {each} per scan, and {stages * each + curves} more for each of "
            f"{spell.people(judged)} for whom weights are randomised and regions replaced"
        )
        shown = spell.people(sum(task.shown for task in tasks))
        return [
            *lines,
            f"writes {len(ready.methods) * len(tasks)} maps, and pictures of {shown} and of each class, to {self.out}",
        ]

    def reads(self) -> Inputs:
        """The classifier and the scans."""
        return {"run": self.run_folder, "prepared": self.prepared}

    def open_inputs(self) -> Ready:
        """The folders, the scans to explain, and the controls whose mean stands for a healthy brain.

        Raises:
            UserError: not a classifier's run, scans of another plan, no such region, layer or answer, or nobody to explain.
        """
        ready = opened(self)
        rows = labelled(ready.prepared, ready.scores)
        tasks = to_explain(rows, ready.scores, self.subjects, self.people, self.shown, self.judged)
        reference = reference_rows(rows, ready.scores)
        name = ready.scores.target.classes[0] if ready.scores.target.classes else "controls"
        require_controls(len(reference), name, str(self.prepared[0]))
        _ = (ready.question, ready.layer, ready.named)  # what is wrong with them is said before a folder is made
        return ready, tasks, reference

    def write(self, work: Work, ready_tasks: Ready) -> dict[str, Any]:
        """Write maps, tables, pictures and animations, and metrics.json with the verdicts."""
        ready, tasks, reference = ready_tasks
        controls = tuple((str(name), str(key)) for name, key in reference[["subject", "key"]].itertuples(index=False))
        self._sum_controls(ready, [key for _, key in controls])
        job, kept = Explaining(self, controls), KeptRows(self.out / ROWS)
        made = kept_or_made(
            tasks, lambda task: kept.get(task.key), explain_scans, job, lambda num: num_workers(self.workers, num)
        )
        by_key = {str(row["scan"][0]["key"]): row for row in track(made, "explaining", len(tasks))}
        rows = [by_key[task.key] for task in tasks]
        tables = {name: frame_of(rows, name) for name in TABLES_BY_SCAN}
        names = {group: file_label(group) for group in dict.fromkeys(task.group for task in tasks)}
        scales = group_maps(ready, tasks, names)
        tables["group_enrichment"] = pd.DataFrame(group_enrichment(ready, names))
        tables["retest"] = pd.DataFrame(retest_rows(rows, tables["regions"]))
        judged = verdicts(
            {name: tables[name] for name in ("truth", "randomised", "faithfulness", "retest")}, ready.methods, self.seed
        )
        tables["judges"] = pd.DataFrame(judged)
        _Pictures(self, ready, tasks, names, {name: scale["limit"] for name, scale in scales.items()}).all(
            judged, tables["slices"]
        )
        self._write_native(ready, tasks)
        summary = [
            first_sentence(judged, ready.methods),
            *not_asked(judged),
            *enriched(records(tables["group_enrichment"])),
        ]
        scans = frame_of(rows, "scan")
        EXPLAINED.write(self.out, scans)
        described = {
            "summary": summary,
            "methods": list(ready.methods),
            "question": ready.question.words,
            "groups": list(names),
            "file_names": names,
            "num_people": int(scans["subject"].nunique()),
            "num_controls": len(controls),
            "resolution": self._resolution(ready),
            "shown": [task.key for task in tasks if task.shown],
            "threshold": {"rule": self.threshold, "top_percent": self.top_percent, "sd_above": self.sd_above},
        }
        write_result(self.out, described, {name: tables[name] for name in TABLES}, files_only=LONG)
        remove_folder(self.out / ROWS)
        (self.out / CONTROLS).unlink(missing_ok=True)
        return {"summary": summary[0], "num_scans": len(tasks)}

    def conclude(self, summary: Mapping[str, Any]) -> None:
        """Say which methods passed."""
        say(f"{self.out}: {summary['summary']}")

    def _sum_controls(self, ready: Opened, keys: Sequence[str]) -> None:
        """Keep the sum of the controls' volumes; a sum that was kept before is of the same controls."""
        path = self.out / CONTROLS
        if path.is_file():
            return
        total = np.zeros((len(ready.run.channels), *ready.prepared.plan.shape), np.float64)
        for key in track(keys, "mean of controls"):
            total += ready.prepared.load([key], ready.run.channels)[0]
        save_array(path, total)

    def _resolution(self, ready: Opened) -> dict[str, str]:
        """What can be told apart in the maps of each method."""
        spacing = ready.prepared.plan.spacing_mm
        words = {
            "smoothgrad": f"voxels of {spacing:g} mm",
            "integrated_gradients": f"voxels of {spacing:g} mm",
            "occlusion": f"{len(ready.regions.present)} regions, edges of {self.edge_mm:g} mm",
        }
        if ready.layer is not None:
            words["grad_cam"] = f"{ready.layer.name}, {ready.layer.geometry.describe(spacing)}"
        return {name: words[name] for name in ready.methods}

    def _write_native(self, ready: Opened, tasks: Sequence[ScanToExplain]) -> None:
        """Maps of the people shown on the voxels of their scans; of simulated scans there are none.

        A network that sees the deformation alone has maps on the template's voxels, which go through the inverse of the
        deformation.
        """
        plan = ready.prepared.plan
        for task in tasks:
            native = (
                read_native_space(Path(str(ready.prepared.row(task.key)["folder"])), task.key) if task.shown else None
            )
            missing = [name for name in ready.methods if not native_path(self.out, task.key, name).is_file()]
            if native is None or not missing:
                continue
            inverse = None
            if set(ready.run.channels) <= set(DEFORMED):
                inverse = inverse_of(deform(ready.prepared.volume(task.key, T1W), plan).displacement)
            for method in missing:
                volume = read_map(map_path(self.out, task.key, method))
                volume = volume if inverse is None else undeformed(volume, inverse)
                write_native(native_path(self.out, task.key, method), native, volume, plan.matrix)


class _Pictures:
    """Draws people and groups: one picture each with all methods, and an animation of each method."""

    def __init__(
        self,
        verb: Explain,
        ready: Opened,
        tasks: Sequence[ScanToExplain],
        names: dict[str, str],
        limits: dict[str, float],
    ) -> None:
        self.verb, self.ready, self.tasks, self.names, self.limits = verb, ready, tasks, names, limits
        self.space = DisplaySpace(ready.prepared.plan.matrix, ready.prepared.mask)
        classes = ready.scores.target.classes or (EVERYBODY,)
        self.colours = style.stage_colours(classes)

    def all(self, judges: list[dict[str, Any]], slices: pd.DataFrame) -> None:
        """Draw everything that is not there yet."""
        out, methods = self.verb.out, self.ready.methods
        for group, name in self.names.items():
            strengths: dict[str, Any] = {method: read_map(group_path(out, name, method)) for method in methods}
            self._one(f"group_{name}", strengths, template_on(self.ready.prepared.plan).t1w, group, judges)
        for task in self.tasks:
            if task.shown:
                strengths = {
                    method: normalised(read_map(map_path(out, task.key, method)), self.ready.mask) for method in methods
                }
                self._one(task.key, strengths, self._anatomy(task.key), task.group, judges)
        if len(slices):
            write_picture(out, "slices", slice_curves(slices, list(self.names), self.colours)[0])

    def _anatomy(self, key: str) -> Any:
        prepared = self.ready.prepared
        return prepared.volume(key, T1W) if T1W in prepared.plan.channels else template_on(prepared.plan).t1w

    def _one(
        self, name: str, strengths: dict[str, Any], anatomy: Any, group: str, judges: list[dict[str, Any]]
    ) -> None:
        rule = (self.verb.threshold, self.verb.top_percent, self.verb.sd_above)
        maps = [
            shown_map(method, strength, self.ready.mask, rule, self.limits[method])
            for method, strength in strengths.items()
        ]
        write_picture(self.verb.out, name, draw(maps, anatomy, self.space, self.colours[group], judges))
        for item in maps if self.verb.animation != "none" else ():
            self._animate(name, item, anatomy, self.colours[group])

    def _animate(self, name: str, item: MethodMap, anatomy: Any, colour: str) -> None:
        path = animation_path(self.verb.out, name, item.method, self.verb.animation)
        if not path.is_file():
            painted = Painted(item.strength, anatomy, item.threshold, self.limits[item.method], colour)
            write_whole(path, animated(painted, self.space, self.verb.animation))
