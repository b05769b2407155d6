"""Is a network that labels brains worth its place in the package: for volumes of structures, or for a brain mask of any contrast?

Two networks of 1.7 million weights at 2 mm learn the same 19 classes: `labels` from half of the heads of t1w_ixi_2mm with their
labels, `maps` from images made of the 20 label maps of label_maps_synthseg, of random contrast, and from no scan at all. The
other half of the heads and the 14 brains of t1w_malf_oasis1, labelled by hand, judge them; nothing was chosen on them.

Volumes: r of what a network reads with the person's own label, in the frame and by the rule of
`01_what_region_readings_measure.py`, beside the readings of the package on the same people, and the paired difference.
Masks: Dice with all labels, of the heads as they came and with turned contrast (bright fluid, dark white matter), beside the
registered template's mask and deepbet's.

    GEN3D_REAL_DATA=... python analysis/30_a_network_that_labels_brains.py --prepared PREPARED --out FOLDER [--steps 1500]

PREPARED: the heads prepared at 2 mm from a folder that has `_dseg` beside every `_T1w`, with the labels' outline as brain mask.
Writes weights, volumes_*.tsv, readings.tsv, differences.tsv, dice.tsv, masks.tsv and labels.png. A stopped run goes on.
"""

from __future__ import annotations

import argparse
import importlib
import os
import time
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import torch
from labelling_network import NAMES, Labelled, MapSamples, ScanSamples, classes_of_table, label, train
from numpy.typing import NDArray

from gen3d.cli import run_script
from gen3d.cohort.channels import VOLUME
from gen3d.cohort.folder import Prepared, open_prepared
from gen3d.cohort.regions import all_regions
from gen3d.core.errors import UserError
from gen3d.core.plain_files import load_object
from gen3d.core.progress import say, track
from gen3d.core.tables import write_table
from gen3d.imaging.background import background_at_zero
from gen3d.imaging.conform import find_brain
from gen3d.imaging.network_mask import proposed
from gen3d.imaging.resample import working_copy
from gen3d.imaging.volume import Volume, read_scan, read_volume
from gen3d.maths.stats import bootstrap_interval
from gen3d.nets.deepbet import brain_network
from gen3d.nets.unet import UNet

matplotlib.use("Agg")
import matplotlib.pyplot as plt

readings: Any = importlib.import_module("01_what_region_readings_measure")  # a name that begins with a number

Floats = NDArray[np.float64]

KINDS = ("labels", "maps")
CONTRASTS = ("as it came", "turned")
MASKED_HEADS = 12
DICE, HEAD = "dice ", "_T1w"


def main() -> None:
    """Train, label, compare, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepared", type=Path, required=True, help="the heads, of gen3d prepare at 2 mm")
    parser.add_argument("--out", type=Path, required=True, help="folder for weights and tables")
    parser.add_argument("--steps", type=int, default=1500, help="updates of one volume for each network")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="which networks")
    arguments = parser.parse_args()
    data, out = Path(os.environ.get("GEN3D_REAL_DATA", "")), arguments.out
    if not (data / "label_maps_synthseg").is_dir():
        raise UserError("GEN3D_REAL_DATA must name a folder with t1w_ixi_2mm, t1w_malf_oasis1 and label_maps_synthseg.")
    out.mkdir(parents=True, exist_ok=True)
    heads = open_prepared(arguments.prepared)
    choose, report, drawn = people_of(heads, data, out)
    nets = {}
    for kind in arguments.kinds:
        samples = samples_of(kind, choose.ids, heads, data)
        start = time.process_time()
        nets[kind] = train(samples, arguments.steps, out / f"network_{kind}.pt")
        say(f"{kind}: trained in {(time.process_time() - start) / 60:.0f} min of processor time")
    of_drawn = open_prepared(out / "drawn")
    for kind, net in nets.items():
        for people, prepared in ((report, heads), (drawn, of_drawn)):
            people.readings[f"network, {kind}"] = (
                volumes(net, kind, people.ids, prepared, out) - people.log_size[:, None]
            )
    write_table(out / "readings.tsv", compared([report, drawn]), digits=3)
    write_table(out / "differences.tsv", differences([report, drawn], arguments.kinds), digits=3)
    overlap(arguments.kinds, out)
    masks(nets, report.ids, heads, out)
    picture(nets, report.ids[0], drawn.ids[0], heads, of_drawn, out / "labels.png")


def people_of(heads: Prepared, data: Path, out: Path) -> tuple[Any, Any, Any]:
    """Readings of the package and labels of the choosing half, the reporting half, and those drawn by hand."""
    numbers = readings.labelled.label_numbers(data / "t1w_malf_oasis1")
    white = {
        f"{side} cerebral white matter": [number for number in readings.WHITE_PARTS if number % 2 == odd]
        for side, odd in (("left", 0), ("right", 1))
    }
    automatic = readings.measure_all("automatic", heads, numbers | white, out)
    by_hand = readings.measure_all("drawn", readings.prepared_drawn(data / "t1w_malf_oasis1", out), numbers, out)
    choose, report = (readings.half(automatic, place, name) for place, name in enumerate(("choose", "report")))
    drawn = by_hand.take(np.flatnonzero(by_hand.sound), "drawn")
    slopes = readings.ventricle_slopes(choose)
    choose, report, drawn = (readings.less_ventricle(people, slopes) for people in (choose, report, drawn))
    choices = readings.choose_readings(readings.compare("choose", [choose]))
    report, drawn = (readings.with_choices(people, choices) for people in (report, drawn))
    return choose, report, drawn


def samples_of(kind: str, people: list[str], heads: Prepared, data: Path) -> Any:
    """Training samples of either network."""
    if kind == "maps":
        return MapSamples(sorted((data / "label_maps_synthseg").glob("*.nii.gz")))
    return ScanSamples([scan_of(heads, key) for key in people], data / "t1w_ixi_2mm" / "dseg.tsv")


def scan_of(prepared: Prepared, key: str) -> Path:
    """The file that a prepared scan came from."""
    return Path(str(load_object(prepared.folders[0] / "transforms" / f"{key}.json")["scan"]))


def working_head(path: Path) -> Volume:
    """A scan at about 2 mm with its background at 0."""
    return working_copy(background_at_zero(read_scan(path).volume()))


def volumes(net: UNet, kind: str, people: list[str], prepared: Prepared, out: Path) -> Floats:
    """Log volume in ml of every region [people, regions], NaN for those that the network does not tell; sides by the template."""
    path = out / f"volumes_{kind}_{'drawn' if prepared.folders[0].name == 'drawn' else 'heads'}.tsv"
    found = pd.read_csv(path, sep="\t", index_col="key") if path.is_file() else pd.DataFrame()
    rows = {str(key): row for key, row in found.iterrows()}
    classes = classes_of_table(Path(os.environ["GEN3D_REAL_DATA"]) / "t1w_ixi_2mm" / "dseg.tsv")
    for key in track(people, f"labelling by {kind}", total=len(people)):
        if key not in rows:
            transform = load_object(prepared.folders[0] / "transforms" / f"{key}.json")
            scan = Path(str(transform["scan"]))
            labelled = label(net, working_head(scan))
            found_here = region_ml(labelled, np.asarray(transform["affine_template_to_scan"]))
            rows[key] = pd.Series(found_here | (overlaps(labelled, scan, classes) if HEAD in scan.name else {}))
            write_table(path, pd.DataFrame(rows).T.rename_axis("key").reset_index(), digits=6)
    names = [region.name for region in all_regions()]
    with np.errstate(divide="ignore"):
        return np.log(np.array([[rows[key].get(name, np.nan) for name in names] for key in people], np.float64))


def region_ml(labelled: Labelled, template_to_scan: Floats) -> dict[str, float]:
    """Soft volume of every region, ml: left and right are those of the template's middle plane."""
    to_template = np.linalg.inv(template_to_scan) @ labelled.affine
    voxels = np.indices(labelled.shares.shape[1:]).reshape(3, -1)
    right = (to_template[0, :3] @ voxels + to_template[0, 3]).reshape(labelled.shares.shape[1:]) > 0
    voxel_ml = abs(float(np.linalg.det(labelled.affine[:3, :3]))) / 1000
    found = {}
    for region in all_regions():
        if region.structure in NAMES:
            shares = labelled.shares[NAMES.index(region.structure) + 1]
            side = {"left": ~right, "right": right}.get(region.hemisphere, np.ones_like(right))
            found[region.name] = voxel_ml * float(shares[side].sum())
    return found


def compared(sets: list[Any]) -> pd.DataFrame:
    """The table of page 01 for the networks' structures: each set by itself."""
    found = pd.concat([readings.compare(people.name, [people]) for people in sets], ignore_index=True)
    found = found[found["structure"].isin(NAMES)]
    say(
        found[found["reading"].str.startswith("network") | (found["reading"] == VOLUME)].round(2).to_string(index=False)
    )
    return found


def differences(sets: list[Any], kinds: list[str]) -> pd.DataFrame:
    """r of a network's reading with the label minus that of the channel `volume`, on the same people, by structure and set.

    `given_age`: the same of what age, its square, and sex leave. The last rows are means over structures.
    """
    rows = []
    for people in sets:
        generator = np.random.default_rng(0)
        draws = readings._draws(len(people.ids), generator)
        for kind in kinds:
            by_structure = []
            for structure in NAMES:
                own = [place for place in readings.places(structure) if (people.label_ml[:, place] > 0).all()]
                if not own:
                    continue
                mine, theirs = (
                    readings._agreement(people, name, own, draws)[[0, 3]] for name in (f"network, {kind}", VOLUME)
                )
                by_structure.append(mine - theirs)
                rows.append(_difference_row(people, kind, structure, mine - theirs))
            rows.append(_difference_row(people, kind, "mean", np.mean(by_structure, axis=0)))
    table = pd.DataFrame(rows)
    say(table.round(2).to_string(index=False))
    return table


def _difference_row(people: Any, kind: str, structure: str, difference: Floats) -> dict[str, Any]:
    """The value on everybody (first column) and percentiles over resampled people."""
    row: dict[str, Any] = {"people": people.name, "n": len(people.ids), "network": kind, "structure": structure}
    for name, values in zip(("r", "given_age"), difference, strict=True):
        low, high = np.percentile(values[1:], [2.5, 97.5])
        row |= {name: values[0], f"{name}_low": low, f"{name}_high": high}
    return row


def overlap(kinds: list[str], out: Path) -> None:
    """Dice of every class with the labels of the reporting heads, as `volumes` kept it."""
    means = {kind: pd.read_csv(out / f"volumes_{kind}_heads.tsv", sep="\t").filter(like=DICE).mean() for kind in kinds}
    table = pd.DataFrame(means).rename(index=lambda name: name.removeprefix(DICE))
    write_table(out / "dice.tsv", table.rename_axis("part").reset_index(), digits=4)
    say(table.round(2).to_string())


def overlaps(labelled: Labelled, scan: Path, classes: NDArray[np.uint8]) -> dict[str, float]:
    """Dice of every class with the labels beside a head."""
    truth, guess = classes[np.rint(read_volume(dseg_of(scan)).data).astype(int)], labelled.shares.argmax(axis=0)
    return {DICE + name: dice(guess == place, truth == place) for place, name in enumerate(NAMES, 1)}


def dseg_of(path: Path) -> Path:
    """The labels beside a scan."""
    return path.with_name(path.name.replace(HEAD, "_dseg"))


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Twice what is shared over the sum."""
    return float(2 * (one & other).sum() / max(int(one.sum() + other.sum()), 1))


def turned(scan: Volume) -> Volume:
    """The scan with dark and bright exchanged inside the head, as in T2w: air stays at 0."""
    top = float(np.percentile(scan.data[scan.data > 0], 99))
    inside = scan.data > 0.1 * top
    return Volume(np.where(inside, np.clip(1.1 * top - scan.data, 0, None), 0).astype(np.float32), scan.affine)


def masks(nets: dict[str, UNet], people: list[str], heads: Prepared, out: Path) -> None:
    """Dice of each method's brain mask with all labels of some heads, in either contrast."""
    places = np.unique(np.linspace(0, len(people) - 1, MASKED_HEADS).round().astype(int))
    rows = []
    for key in track([people[place] for place in places], "masks", total=len(places)):
        path = scan_of(heads, key)
        truth = np.rint(read_volume(dseg_of(path)).data) > 0
        for contrast in CONTRASTS:
            scan = background_at_zero(read_scan(path).volume())
            scan = turned(scan) if contrast == "turned" else scan
            working = working_copy(scan)
            found: dict[str, NDArray[np.bool_]] = {}
            start, seconds = time.process_time(), {}
            try:
                found["template"] = find_brain(path, working, 12, "template", None).mask
            except UserError:
                found["template"] = np.zeros_like(truth)
            seconds["template"] = time.process_time() - start
            for kind, net in nets.items():
                start = time.process_time()
                found[kind] = label(net, working).brain()
                seconds[kind] = time.process_time() - start
            deepbet = brain_network("deepbet")
            assert deepbet is not None
            start = time.process_time()
            found["deepbet"] = proposed(deepbet, scan)[0]
            seconds["deepbet"] = time.process_time() - start
            rows += [
                {"key": key, "contrast": contrast, "method": name, "dice": dice(mask, truth), "seconds": seconds[name]}
                for name, mask in found.items()
            ]
    table = pd.DataFrame(rows)
    write_table(out / "masks.tsv", table, digits=4)
    for contrast, part in table.groupby("contrast"):
        wide = part.pivot(index="key", columns="method", values="dice")
        for name in wide:
            own, more = bootstrap_interval(wide[name]), bootstrap_interval(wide[name] - wide["template"])
            say(
                f"{contrast}, {name}: {own.value:.3f} [{own.low:.3f}, {own.high:.3f}], against the template's "
                f"{more.value:+.3f} [{more.low:+.3f}, {more.high:+.3f}], least {wide[name].min():.3f}"
            )
    say(table.groupby(["contrast", "method"])["seconds"].mean().round(1).to_string())


def picture(nets: dict[str, UNet], head: str, drawn: str, heads: Prepared, of_drawn: Prepared, path: Path) -> None:
    """A head of either set and what each network says of it, axial and coronal through the hippocampi."""
    figure, axes = plt.subplots(4, 1 + len(nets), figsize=(3 * (1 + len(nets)), 12), squeeze=False)
    for row, (key, prepared) in enumerate(((head, heads), (drawn, of_drawn))):
        scan = working_head(scan_of(prepared, key))
        found = {kind: label(net, scan).shares.argmax(axis=0) for kind, net in nets.items()}
        first = next(iter(found.values()))
        hippocampi = np.argwhere(first == NAMES.index("hippocampus") + 1)
        _, y, z = np.rint(hippocampi.mean(axis=0)).astype(int) if len(hippocampi) else np.array(first.shape) // 2
        for place, (name, values) in enumerate({"scan": None, **found}.items()):
            for plane, cut in enumerate((np.s_[:, :, z], np.s_[:, y])):
                axis = axes[2 * row + plane, place]
                axis.imshow(scan.data[cut].T, origin="lower", cmap="gray")
                if values is not None:
                    shown = np.ma.masked_equal(values[cut].T, 0)
                    axis.imshow(
                        shown, origin="lower", cmap="tab20", alpha=0.6, vmin=1, vmax=20, interpolation="nearest"
                    )
                axis.set_title(name if plane == 0 else "")
                axis.set_axis_off()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_script(main)
