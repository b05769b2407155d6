"""Where the named regions lie: chains of spheres in MNI152 space, left hemisphere; the right one is its mirror image.

Each point is ``x y z radius`` in mm (RAS, x < 0 is left). The sources are the published MNI coordinates of gyri and nuclei
and the template's own pictures; the
placement was corrected against manual labels of real brains on half of the people and checked on the other half
(`analysis/01_regions_against_labels.py`).
No label data enter the package.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Tissue = Literal["grey", "nucleus", "any", "white", "cerebellar_white", "fluid", "horn"]


@dataclass(frozen=True)
class Definition:
    """One region: tissue it may occupy, whether it ends at the surface of its spheres (closed) or shares what is left
    (open), and its chains.
    """

    name: str
    tissue: Tissue
    closed: bool
    chains: str  # "x y z r, x y z r, ... | next chain"
    midline: bool = False


DEFINITIONS = (
    # Deep grey matter and medial temporal lobe: closed.
    Definition(
        "hippocampus",
        "grey",
        True,
        "-20 -11 -23 7, -26 -15 -20 8, -29 -22 -15 7, -30 -29 -10 6.5, -28 -34 -5 6, -23 -38 -1 5.5, -19 -38 3 4",
    ),
    Definition("amygdala", "grey", True, "-27 -5 -22 5.8, -22 -5 -20 6.6, -17 -5 -19 5"),
    Definition(
        "caudate",
        "grey",
        True,
        "-12 20 0 8, -12 15 7 8.5, -13 8 13 7, -15 0 19 6, -16 -8 22 5, -17 -15 23 4, -19 -22 22 3.5",
    ),
    Definition("accumbens", "grey", True, "-8 8 -9 4.5, -9 13 -8 5, -10 17 -7 4.5"),
    Definition("putamen", "grey", True, "-21 17 -3 7, -22 11 -3 9, -25 5 1 10, -27 -1 3 9, -29 -8 3 8, -31 -15 3 6"),
    Definition("pallidum", "nucleus", True, "-16 4 -2 4.5, -18 0 -2 6, -21 -5 -1 6.5, -24 -10 -2 5"),
    Definition(
        "thalamus",
        "nucleus",
        True,
        "-16 -30 3 8, -15 -25 6 10.5, -13 -20 7 11.5, -11 -14 8 10.5, -8 -8 8 9.5, -6 -4 7 7",
    ),
    Definition(
        "ventral diencephalon",
        "any",
        True,
        "-12 -25 -9 7, -11 -19 -12 10, -10 -13 -12 9.5, -8 -7 -12 8.5, -5 -2 -14 5.5",
    ),
    # Cortex: open, each grey voxel goes to the nearest chain.
    Definition("entorhinal", "grey", False, "-22 -2 -41 5.5, -21 0 -36 6.5, -19 1 -31 5.5, -23 2 -25 4"),
    Definition(
        "parahippocampal", "grey", False, "-25 -9 -37 6, -24 -14 -32 8, -23 -20 -25 8, -23 -28 -19 7.5, -20 -33 -12 7"
    ),
    Definition(
        "fusiform",
        "grey",
        False,
        "-36 -10 -38 6.5, -37 -22 -29 9, -37 -36 -23 10, -36 -50 -18 10, -34 -64 -15 9.5, -32 -78 -14 9, -27 -89 -13 7",
    ),
    Definition(
        "inferior temporal",
        "grey",
        False,
        "-38 -2 -46 9, -48 -12 -39 11, -54 -23 -31 11, -56 -34 -26 10, -56 -45 -22 11, -55 -56 -15 11, -53 -65 -10 9",
    ),
    Definition(
        "middle temporal",
        "grey",
        False,
        "-55 1 -30 11, -61 -10 -22 12, -64 -21 -15 12, -65 -32 -8 12, -63 -43 -4 12, -60 -54 1 11, -56 -65 5 9",
    ),
    Definition(
        "superior temporal",
        "grey",
        False,
        "-53 3 -11 11, -57 -5 -5 12, -59 -15 0 13, -59 -25 6 13, -61 -34 11 12, -63 -43 15 10 | -42 -22 8 8, -44 -5 -10 8",
    ),
    Definition(
        "temporal pole", "grey", False, "-31 9 -46 10, -35 13 -41 13, -40 16 -33 14, -46 15 -24 12, -52 13 -16 10"
    ),
    Definition(
        "insula", "grey", False, "-36 -20 10 8, -38 -12 6 10, -39 -4 3 10, -38 4 0 10, -36 12 -4 11, -33 20 -4 9"
    ),
    Definition(
        "precuneus", "grey", False, "-13 -55 9 7, -11 -60 20 9, -9 -63 31 10, -7 -60 41 12, -6 -57 51 11, -6 -54 61 9"
    ),
    Definition(
        "posterior cingulate",
        "grey",
        False,
        "-13 -44 2 5.5, -8 -48 9 6, -5 -47 19 7, -5 -43 29 8, -5 -38 37 8, -5 -34 43 6",
    ),
    Definition(
        "anterior cingulate",
        "grey",
        False,
        "-5 -20 40 9, -5 -8 40 9.5, -5 4 38 9.5, -5 15 32 9.5, -5 26 22 10, -5 35 13 11, -5 41 3 10, -5 36 -6 8",
    ),
    Definition(
        "superior parietal", "grey", False, "-17 -77 53 12, -22 -69 58 16, -26 -60 62 16, -32 -52 60 15, -37 -45 57 11"
    ),
    Definition(
        "inferior parietal", "grey", False, "-57 -61 17 9, -55 -62 28 12, -51 -64 37 13, -45 -64 46 12, -42 -60 52 9"
    ),
    Definition(
        "supramarginal", "grey", False, "-50 -31 19 9, -58 -34 25 14, -61 -38 33 13, -58 -40 42 14, -53 -41 50 11"
    ),
    Definition(
        "superior frontal",
        "grey",
        False,
        "-13 66 -12 10, -14 65 2 12, -13 61 16 14, -14 52 30 15, -16 40 42 16, -17 26 53 16, -16 12 62 16, -14 0 70 13 | "
        "-6 58 8 11, -6 50 26 11, -6 34 44 11, -6 18 52 12, -6 2 60 12, -6 -10 66 9",
    ),
    Definition(
        "middle frontal",
        "grey",
        False,
        "-37 58 -2 9, -38 53 10 12, -40 45 21 14, -42 35 31 15, -41 25 41 15, -39 15 51 14, -35 8 60 11",
    ),
    Definition(
        "inferior frontal",
        "grey",
        False,
        "-49 -14 16 9, -49 -4 11 11, -50 8 10 12, -51 18 11 14, -50 28 6 14, -47 38 0 12, -46 45 -4 9",
    ),
    Definition(
        "orbitofrontal",
        "grey",
        False,
        "-14 12 -20 10, -20 22 -20 14, -30 30 -18 12, -24 40 -17 13, -22 52 -16 11 | "
        "-5 20 -20 9, -6 36 -20 10, -6 50 -18 10 | -42 40 -14 9",
    ),
    Definition(
        "precentral",
        "grey",
        False,
        "-61 5 10 7, -60 4 22 9, -54 1 33 11, -45 -8 45 13, -35 -14 56 14, -26 -18 67 14, -16 -21 75 11 | -5 -24 66 10",
    ),
    Definition(
        "postcentral",
        "grey",
        False,
        "-66 -11 18 8, -63 -15 28 10, -57 -18 38 11, -50 -24 48 12, -42 -30 57 13, -29 -37 67 13, -17 -40 75 11 | "
        "-5 -40 68 8",
    ),
    Definition(
        "pericalcarine",
        "grey",
        False,
        "-10 -96 1 6.5, -9 -90 3 7, -9 -83 6 7, -10 -76 9 7.5, -12 -69 10 7, -14 -62 8 6",
    ),
    Definition("cuneus", "grey", False, "-6 -93 12 8, -7 -85 19 9, -7 -80 27 10, -8 -81 36 9"),
    Definition(
        "lingual",
        "grey",
        False,
        "-11 -93 -10 8, -10 -84 -9 9, -10 -75 -5 10, -11 -66 -3 10, -14 -57 -3 10, -18 -48 -6 9, -19 -41 -9 7",
    ),
    Definition(
        "lateral occipital",
        "grey",
        False,
        "-40 -86 -10 11, -37 -89 0 15, -37 -87 12 16, -34 -87 23 15, -29 -85 34 12, -24 -84 43 9 | "
        "-20 -100 -6 13, -20 -99 8 12 | -46 -74 4 10",
    ),
    Definition(
        "cerebellar cortex",
        "grey",
        False,
        "-18 -86 -33 15, -26 -77 -37 22, -32 -64 -41 23, -30 -52 -41 23, -22 -42 -36 18 | "
        "-4 -64 -42 14, -4 -62 -24 16, -4 -55 -10 12",
    ),
    # White matter.
    Definition(
        "cerebellar white matter",
        "cerebellar_white",
        True,
        "-19 -72 -38 12, -20 -63 -38 15, -19 -54 -37 16, -18 -45 -37 14, -16 -36 -37 9 | -30 -64 -40 13, -42 -62 -40 12",
    ),
    Definition(
        "cerebral white matter",
        "white",
        False,
        "-22 -80 12 30, -28 -60 22 30, -28 -35 25 35, -28 -10 25 35, -24 15 22 35, -20 45 10 30 | "
        "-40 -20 -20 25, -30 -45 -10 18",
    ),
    # Fluid.
    Definition(
        "lateral ventricle",
        "fluid",
        True,
        "-27 -62 8 9, -28 -50 8 9, -26 -41 11 10, -20 -34 18 10, -14 -22 22 9, -9 -8 21 10, -7 6 15 10, "
        "-9 18 10 10, -11 28 6 9",
    ),
    Definition(
        "inferior lateral ventricle",
        "horn",
        True,
        "-22 -5 -25 3, -29 -9 -24 4.5, -33 -16 -19 4, -36 -24 -14 4, -37 -31 -9 4, -34 -37 -3 4.5",
    ),
    # Midline.
    Definition(
        "third ventricle", "fluid", True, "0 -26 0 4, 0 -18 -1 5, 0 -10 0 6, 0 -4 -3 7, 0 1 -10 6", midline=True
    ),
    Definition(
        "fourth ventricle",
        "fluid",
        True,
        "0 -46 -52 7, 0 -46 -42 10, 0 -45 -33 11, 0 -41 -25 8, 0 -36 -16 5, 0 -33 -10 4",
        midline=True,
    ),
    Definition(
        "midline cisterns",
        "fluid",
        True,
        "0 -48 -2 9, 0 -40 0 10, 0 -34 6 10, 0 -28 12 7, 0 -18 16 5 | -12 -32 -4 6 | 12 -32 -4 6 | 0 -12 -20 8, 0 -20 -22 7",
        midline=True,
    ),
    Definition(
        "brain-stem",
        "any",
        True,
        "0 -42 -66 9, 0 -39 -56 11, 0 -33 -46 14, 0 -27 -36 17, 0 -28 -26 16, 0 -30 -16 12.5, 0 -31 -7 9",
        midline=True,
    ),
    Definition("sulcal CSF", "fluid", False, "0 -20 0 10", midline=True),
)
