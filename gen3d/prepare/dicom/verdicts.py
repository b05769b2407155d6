"""Whether a series can be a person's T1w scan, in words.

What the header's codes say goes before names, and parameters of the sequence before nothing at all. Names and codes are those of
Siemens, Philips and GE; the traps are described in the issues of dcm2niix and in Clinica's converters.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from gen3d.core import words
from gen3d.prepare.dicom.headers import NATIVE
from gen3d.prepare.dicom.series import Series, Stack, stacked

MR, ENHANCED_MR, LEGACY_MR = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.4.4"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
READ_COMPRESSED = (
    "1.2.840.10008.1.2.5",  # run lengths
    "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70",  # JPEG
    "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81",  # JPEG-LS
    "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91",  # JPEG 2000
)  # fmt: skip
"""Compressed transfer syntaxes that dcm2niix reads as it comes from PyPI."""

T1W = re.compile(
    r"mp[-_ ]?rage|mp2rage|(?<![a-z0-9])t1(?!rho|[-_ ]?map)|t1w|tfl3d|fspgr|spgr|bravo|(?<![a-z])tfe|3d[-_ ]?t(1|fe)"
)
NO_T1W = {
    re.compile(r"flair|dark[-_ ]?fl"): "a FLAIR image",
    re.compile(r"(?<![a-z0-9])t2|space(?!.*t1)|t2w"): "a T2-weighted image",
    re.compile(r"swi(?![a-z])|suscept|swan|qsm"): "a susceptibility image",
    re.compile(r"(?<![a-z])(tof|angio|mra|pca)(?![a-z])"): "an angiography",
    re.compile(r"dwi|dti|diff|(?<![a-z])adc|tracew"): "a diffusion image",
    re.compile(r"bold|fmri|(?<![a-z])rest(ing)?(?![a-z])|ep2d|(?<![a-z])epi(?![a-z])"): "an echo-planar image",
    re.compile(r"(?<![a-z])p?c?asl(?![a-z])|(?<![a-z])perf"): "a perfusion image",
    re.compile(r"field[-_ ]?map|gre[-_ ]field|b[01][-_ ]?map|calib|asset|aahead|smartbrain"): "a calibration",
    re.compile(r"scout|locali[sz]er|survey|3-?plane|plan_?scan"): "a localiser",
    re.compile(r"spectro|(?<![a-z])svs(?![a-z])|(?<![a-z])press(?![a-z])"): "a spectrum",
    re.compile(r"t1[-_ ]?map|t1rho|(?<![a-z])r1(?![a-z])"): "a map of relaxation, not an image",
}
"""Names that say what else a series is; "T1" beside them does not count."""
CONTRAST = re.compile(
    r"(?<![a-z])(gd|gado[a-z]*|post[-_ ]?(c|con[a-z]*|gd|gad)?|kontrast|km)(?![a-z])|\+ ?(c|k|gd|km)(?![a-z])"
)
NO_AGENT = ("", "NO", "NONE", "N", "0", "NO CONTRAST")
REFORMATTED = (
    "MPR", "MIP", "MNIP", "PROJECTION", "PROJECTION IMAGE", "REFORMATTED", "SCREEN", "SUBTRACTION", "SUB", "CPR", "CSA MPR",
)  # fmt: skip
NOT_MAGNITUDE = {
    "P": "phase", "PHASE": "phase", "PHASE MAP": "phase", "P_SE": "phase", "PHASE CONTRAST M": "phase", "R": "real part",
    "REAL": "real part", "R_FFE": "real part", "I": "imaginary part", "IMAGINARY": "imaginary part", "P_FFE": "phase",
}  # fmt: skip
COMBINED = ("MEAN", "RMS", "MAG_RMS")
"""In the image type of echoes that the scanner combined."""

LONGEST_VOXEL_MM = 1.6
LEAST_LENGTH_MM = 110.0
"""Of all slices together: a brain is 130 mm wide and higher."""
LONGEST_ECHO_MS, LONGEST_REPETITION_MS = 15.0, 5000.0
USUAL_ECHO_MS, USUAL_FLIP = 6.5, (4.0, 30.0)
MOST_ECHOES = 8


def magnitude_only(series: Series) -> Series:
    """A series without its files of phase and complex parts, if it also has such of magnitude."""
    kept = [instance for instance in series.instances if not _component(instance.image_type)]
    return series.only(kept) if kept else series


def why_not(series: Series) -> str:
    """Why a series is no whole T1w scan without contrast agent; "" if it may be one."""
    for check in (
        _no_image,
        _unsafe_pixels,
        _localiser,
        _derived,
        _no_magnitude,
        _mp2rage,
        _compression,
        _contrast,
        _other,
    ):
        if reason := check(series):
            return reason
    return _geometry(series, stacked(series))


def _no_image(series: Series) -> str:
    kind, modality = series.text("SOPClassUID"), series.text("Modality")
    if kind == SECONDARY_CAPTURE or kind.startswith(f"{SECONDARY_CAPTURE}."):
        return "a secondary capture: a picture of a screen, which may show the person's name"
    if modality != "MR" or kind not in (MR, ENHANCED_MR, LEGACY_MR):
        return f"no image of MR (modality {modality or 'unknown'})"
    return ""


def _unsafe_pixels(series: Series) -> str:
    if any(instance.texts["BurnedInAnnotation"].upper() == "YES" for instance in series.instances):
        return "its pixels hold writing (BurnedInAnnotation is YES), which may be the person's name"
    if series.text("ConversionType") in ("WSD", "DF", "DI", "SD", "DV", "SI", "DRW"):
        return "captured from a screen or a film, which may show the person's name"
    return ""


def _localiser(series: Series) -> str:
    return "a localiser" if "LOCALIZER" in series.image_type else ""


def _derived(series: Series) -> str:
    found = sorted(series.image_type & set(REFORMATTED))
    if found:
        return f"computed from another series (image type {found[0]})"
    allowed = {*COMBINED, "UNI", "DIS2D", "DIS3D"}
    if "DERIVED" in series.image_type and not series.image_type & allowed and "uni" not in series.name:
        return "computed from another series (image type DERIVED)"
    return ""


def _component(image_type: tuple[str, ...]) -> str:
    """phase, real or imaginary part; "" for magnitude. The first two words of an image type say other things."""
    return next((NOT_MAGNITUDE[word] for word in image_type[2:] if word in NOT_MAGNITUDE), "")


def _no_magnitude(series: Series) -> str:
    if part := _component(series.first.image_type):
        return f"the {part} of a complex image"
    complex_part = series.text("ComplexImageComponent").upper()
    return "" if complex_part in ("", "MAGNITUDE") else f"not the magnitude of an image ({complex_part.lower()})"


def _mp2rage(series: Series) -> str:
    name = re.sub(r"[^a-z0-9]", "", series.name)
    parts = {"INV1": "inv1", "INV2": "inv2", "UNI": "uni"}
    kinds = sorted(
        part for part, text in parts.items() if part in series.image_type or ("mp2rage" in name and text in name)
    )
    if not kinds or ("UNI" in kinds and re.search(r"uniden|denoised", name)):
        return ""
    if len({part for part in parts if part in series.image_type}) > 1:
        return f"MP2RAGE with {words.listed(kinds)} in one series, which are different images; export them apart"
    if "UNI" in kinds:
        return "the UNI image of MP2RAGE, whose background is noise; let the scanner remove it (UNI-DEN) and export that series"
    return f"the {'first' if kinds == ['INV1'] else 'second'} inversion of MP2RAGE, which is not T1-weighted as a T1w scan is"


def _compression(series: Series) -> str:
    syntax = series.first.syntax
    if syntax in NATIVE or syntax in READ_COMPRESSED:
        return ""
    return f"compressed in a way that dcm2niix does not read (transfer syntax {syntax}); export it uncompressed"


def _contrast(series: Series) -> str:
    if series.text("ContrastBolusAgent").upper() not in NO_AGENT or CONTRAST.search(series.name):
        return "taken with contrast agent"
    return ""


def _other(series: Series) -> str:
    """By its name another kind of image, or by its parameters."""
    echo, flip = series.number("EchoTime"), series.number("FlipAngle")
    for pattern, kind in NO_T1W.items():
        if pattern.search(series.name):
            return f"by its name {kind}"
    if echo > LONGEST_ECHO_MS:
        return f"its echo time of {echo:.0f} ms is none of a T1w scan"
    if series.number("RepetitionTime") > LONGEST_REPETITION_MS and not T1W.search(series.name):
        return f"its repetition time of {series.number('RepetitionTime'):.0f} ms is none of a T1w scan"
    if series.text("MRAcquisitionType").upper() == "2D":
        return "taken slice by slice (2D)"
    if T1W.search(series.name):
        return ""
    gradient = "GR" in series.text("ScanningSequence").upper()
    if gradient and echo <= USUAL_ECHO_MS and USUAL_FLIP[0] <= flip <= USUAL_FLIP[1]:
        return ""
    return "neither its name nor its parameters are those of a T1w scan"


def _geometry(series: Series, stack: Stack) -> str:
    if stack.fault:
        return stack.fault
    largest = max(stack.spacing_mm, stack.pixel_mm)
    if not largest <= LONGEST_VOXEL_MM:
        return f"its voxels are {largest:.2g} mm long, and {LONGEST_VOXEL_MM:g} are allowed"
    if stack.length_mm < LEAST_LENGTH_MM:
        return (
            f"its {words.count(stack.num_slices, 'slice')} cover {stack.length_mm:.0f} mm and a brain needs {LEAST_LENGTH_MM:.0f}: "
            "truncated, or a slab"
        )
    if len(series.echoes_ms) > MOST_ECHOES:
        return f"{len(series.echoes_ms)} echo times: a map of relaxation, not an image"
    return ""


# ------------------------------------------------------------------------------------------ between usable series

Preference = tuple[Callable[[Series], bool], str]


def is_combined(series: Series) -> bool:
    """Whether the scanner combined its echoes."""
    return bool(series.image_type & set(COMBINED)) or bool(re.search(r"(?<![a-z])rms(?![a-z])", series.name))


def is_lossy(series: Series) -> bool:
    """Whether its pixels were changed to save room."""
    return series.text("LossyImageCompression") == "01"


def is_corrected(series: Series) -> bool:
    """Whether the bending of the gradients was taken out; by its name where the image type does not say."""
    if series.image_type & {"DIS2D", "DIS3D"}:
        return True
    return "ND" not in series.image_type and not re.search(r"[_ ]nd(?![a-z0-9])", series.name)


PREFERENCES: tuple[Preference, ...] = (
    (lambda series: not is_lossy(series), "compressed with loss, which series {winner} is not"),
    (lambda series: len(series.echoes_ms) < 2, "several echoes, which are combined in series {winner}"),
    (is_corrected, "without correction of distortion; its twin with it is series {winner}"),
    (lambda series: "NORM" in series.image_type, "without prescan normalisation, which series {winner} has"),
)
"""What a series should be, in the order of weight, and what to say of one that loses by it."""


def ranked(candidates: list[Series]) -> list[Series]:
    """Usable series of one visit, the best first; of equals the later one, which was taken because of the earlier."""
    return sorted(
        candidates, key=lambda series: ([wanted(series) for wanted, _ in PREFERENCES], series.order), reverse=True
    )


def why_behind(series: Series, winner: Series) -> str:
    """Why another series of the visit goes before."""
    for wanted, sentence in PREFERENCES:
        if wanted(winner) and not wanted(series):
            return sentence.format(winner=winner.label)
    return f"a repeat; series {winner.label} is the later one"


def remark(series: Series) -> str:
    """What a reader should know of a series that is used."""
    if is_lossy(series):
        return "compressed with loss"
    if len(series.echoes_ms) > 1:
        return f"root mean square of its {len(series.echoes_ms)} echoes"
    return "" if is_corrected(series) else "without correction of distortion, and there is no twin with it"
