"""Where the voxels of an image lie: its one affine, from what its header says twice or three times, or from the user.

The rule. NIfTI: an affine counts if its code is 1 to 5. Of two that count, the sform is used and the qform must agree with
it: the same handedness always; and where both have the same code, so that both claim the same space, every corner of the
grid at the same place to within one voxel. The voxel sizes must be those of the sform's columns to within 1 %; a size of 0
means not given. MGH: the direction cosines have length 1, and goodRASFlag is 1. An image with no such affine (both codes 0,
Analyze 7.5) has no known left and right, and is refused unless the user says what its axes are.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from pydantic import field_validator

from gen3d.core.config import Config, waiver
from gen3d.core.errors import UserError
from gen3d.imaging.headers import Header

Affine = NDArray[np.float64]

SPACING_MM = (0.2, 10.0)
MAX_SHEAR_COSINE = 0.1
FARTHEST_MM = 3000.0  # of the grid's centre from the origin: a scanner's isocentre is nearer
MOST_VOXELS_APART = 1.0
SIZE_TOLERANCE = 0.01
CODES = range(6)
PAIRS = ("LR", "PA", "IS")


class OrientationRule(Config):
    """What is done where a header does not say, or says twice and differently, where a scan's left is."""

    assume: str | None = waiver(
        None,
        "axes of scans whose header gives none, as three letters: RAS if voxels go to the right, the front and the top; none: "
        "such scans are excluded",
    )
    prefer: Literal["agreement", "sform", "qform"] = waiver(
        "agreement",
        "the affine that holds where a header's two contradict each other; agreement: such scans are excluded",
        waives=("sform", "qform"),
    )

    @field_validator("assume")
    @classmethod
    def _three_axes(cls, text: str | None) -> str | None:
        if text is None:
            return None
        letters = text.upper()
        if len(letters) != 3 or sorted(_world_axis(letter) for letter in letters) != [0, 1, 2]:
            raise ValueError(
                f"{text!r} names no three axes; give one letter each of L or R, P or A, I or S, such as RAS."
            )
        return letters


def affine_of(path: Path, header: Header, rule: OrientationRule | None = None) -> Affine:
    """Voxel -> world mm (RAS), [4, 4], of a header.

    Args:
        path: named in sentences.
        header: a checked header.
        rule: what the user said; None: nothing, and there is no setting to say it.

    Raises:
        UserError: the orientation is unknown, or the header contradicts itself; the sentence names both values.
    """
    affine = _mgh(path, header) if header.kind == "mgh" else _nifti(path, header, rule)
    check_geometry(path, affine, header.shape[:3])
    return affine


def says_orientation(header: Header) -> bool:
    """Whether a header says where left is (rightly or not)."""
    fields = header.fields
    return header.kind == "mgh" or (header.kind == "nifti" and bool(fields["sform_code"] or fields["qform_code"]))


def check_geometry(path: Path, affine: Affine, shape: tuple[int, ...]) -> None:
    """Refuse an affine that is not finite, is singular, sheared, of absurd voxel sizes or metres away.

    Raises:
        UserError: it is one of these.
    """
    if not np.isfinite(affine).all():
        raise UserError(f"{path}: its affine holds NaN or infinity; mend the header (fslorient, nibabel).")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if (lengths == 0).any() or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-6:
        raise UserError(f"{path}: its affine is zero or singular, so the orientation is unknown; convert it again.")
    if lengths.min() < SPACING_MM[0] or lengths.max() > SPACING_MM[1]:
        raise UserError(
            f"{path}: voxels of {_sizes(lengths)} mm are not those of a brain scan; check the units in the header."
        )
    directions = affine[:3, :3] / lengths
    cosines = np.abs(directions.T @ directions - np.eye(3))
    if cosines.max() > MAX_SHEAR_COSINE:
        raise UserError(f"{path}: its affine is sheared (axes are not at right angles); resample it to a plain grid.")
    sides = np.array([*shape, 1, 1, 1][:3])
    away = float(np.linalg.norm(affine[:3, :3] @ ((sides - 1) / 2) + affine[:3, 3]))
    if away > FARTHEST_MM:
        raise UserError(f"{path}: its affine puts it {away / 1000:.3g} m from the origin; mend the header.")


def _nifti(path: Path, header: Header, rule: OrientationRule | None) -> Affine:
    fields = header.fields
    sizes = np.asarray(fields["pixdim"][1:4], dtype=np.float64)
    if not np.isfinite(sizes).all() or (sizes < 0).any():
        what = "a negative voxel size" if (sizes < 0).any() else "a voxel size that is no number"
        raise UserError(f"{path}: has {what} ({_sizes(sizes)} mm) in its header; mend the header.")
    codes = {name: int(fields[f"{name}_code"]) for name in ("sform", "qform")} if header.kind == "nifti" else {}
    unknown = [f"{name}_code {code}" for name, code in codes.items() if code not in CODES]
    if unknown:
        raise UserError(f"{path}: {' and '.join(unknown)} is no code of an affine (0 to 5); mend the header.")
    known = [name for name, code in codes.items() if code]
    if not known:
        why = "is in Analyze format" if header.kind == "analyze" else "has sform_code and qform_code 0"
        return _assumed(path, why, sizes, header.shape, rule)
    prefer = rule.prefer if rule is not None else "agreement"
    if prefer in known:
        return _sform(fields) if prefer == "sform" else _qform(path, fields, sizes)
    if known == ["qform"]:
        return _qform(path, fields, sizes)
    affine = _sform(fields)
    if "qform" in known and np.isfinite(affine).all():
        _compare_affines(path, affine, _qform(path, fields, sizes), codes, header.shape[:3], rule)
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    given = sizes > 0
    if lengths.all() and (np.abs(lengths - sizes) > SIZE_TOLERANCE * np.maximum(sizes, lengths))[given].any():
        raise UserError(
            f"{path}: its header says voxels of {_sizes(sizes)} mm and has an sform of {_sizes(lengths)} mm; "
            f"{_way_out(rule, 'mend the one that is wrong', 'orientation.prefer=sform')}."
        )
    return affine


def _sform(fields: Any) -> Affine:
    return np.asarray(fields.get_sform(), dtype=np.float64)


def _qform(path: Path, fields: Any, sizes: NDArray[np.float64]) -> Affine:
    handedness = float(fields["pixdim"][0])
    if handedness not in (-1, 0, 1):
        raise UserError(
            f"{path}: the handedness of its qform (pixdim[0]) is {handedness:g}, neither 1 nor -1, so left and right are not "
            "known; mend the header."
        )
    if not (sizes > 0).all():
        raise UserError(f"{path}: has a qform but voxel sizes of {_sizes(sizes)} mm in its header; mend the header.")
    mended = fields.copy()
    mended["pixdim"][0] = handedness or 1  # 0 means 1 by the standard
    try:
        return np.asarray(mended.get_qform(), dtype=np.float64)
    except Exception:
        turn = ", ".join(f"{float(fields[name]):g}" for name in ("quatern_b", "quatern_c", "quatern_d"))
        raise UserError(f"{path}: its qform ({turn}) is no rotation; mend the header.") from None


def _compare_affines(
    path: Path,
    sform: Affine,
    qform: Affine,
    codes: dict[str, int],
    shape: tuple[int, ...],
    rule: OrientationRule | None,
) -> None:
    advice = _way_out(rule, "mend the one that is wrong", "say which is right: orientation.prefer=sform or qform")
    named = {name: _axes(affine) for name, affine in (("sform", sform), ("qform", qform))}
    if np.linalg.det(sform[:3, :3]) * np.linalg.det(qform[:3, :3]) < 0:
        raise UserError(
            f"{path}: its two affines are mirror images of each other (the sform's axes are {named['sform']}, the qform's "
            f"{named['qform']}), so left and right are not known; {advice}."
        )
    corners = np.array(list(itertools.product(*((0, side - 1) for side in shape))), dtype=np.float64)
    apart = np.linalg.norm(corners @ (sform - qform)[:3, :3].T + (sform - qform)[:3, 3], axis=1).max()
    if codes["sform"] == codes["qform"] and apart > MOST_VOXELS_APART * np.linalg.norm(qform[:3, :3], axis=0).min():
        raise UserError(
            f"{path}: its sform (axes {named['sform']}) and its qform (axes {named['qform']}) have the same code "
            f"{codes['sform']} but are up to {apart:.3g} mm apart; {advice}."
        )


def _mgh(path: Path, header: Header) -> Affine:
    fields = header.fields
    sizes = np.asarray(fields["delta"], dtype=np.float64)
    lengths = np.linalg.norm(np.asarray(fields["Mdc"], dtype=np.float64), axis=1)
    if not (sizes > 0).all() or not (np.abs(lengths - 1) <= SIZE_TOLERANCE).all():
        raise UserError(
            f"{path}: its header says voxels of {_sizes(sizes)} mm and directions of length {_sizes(lengths)}; convert it again."
        )
    cosines = np.asarray(fields["Mdc"], dtype=np.float64)
    if np.abs(cosines @ cosines.T - np.eye(3)).max() > 2 * SIZE_TOLERANCE:
        raise UserError(
            f"{path}: the directions in its header are not at right angles to each other; convert it again."
        )
    return np.asarray(fields.get_affine(), dtype=np.float64)


def _assumed(
    path: Path, why: str, sizes: NDArray[np.float64], shape: tuple[int, ...], rule: OrientationRule | None
) -> Affine:
    """The plain grid of the assumed axes, its centre at the origin."""
    if rule is None or rule.assume is None:
        advice = _way_out(rule, "write an affine and its code", "say what its axes are, such as orientation.assume=RAS")
        raise UserError(f"{path}: {why}, so left and right are not known; {advice}.")
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, letter in enumerate(rule.assume):
        affine[_world_axis(letter), axis] = sizes[axis] * (1 if letter in "RAS" else -1)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape[:3]) - 1) / 2)
    return affine


def _way_out(rule: OrientationRule | None, mend: str, setting: str) -> str:
    return f"{mend} (fslorient, nibabel)" + (f", or {setting}" if rule is not None else "")


def _world_axis(letter: str) -> int:
    return next((axis for axis, pair in enumerate(PAIRS) if letter in pair), -1)


def _axes(affine: Affine) -> str:
    return "".join(letter or "?" for letter in nib.aff2axcodes(affine))


def _sizes(values: NDArray[np.float64]) -> str:
    return " x ".join(f"{float(value):.3g}" for value in values)
