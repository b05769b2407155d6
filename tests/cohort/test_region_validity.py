"""What is known of the readings of regions: shipped figures, their rule, and the words for them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from gen3d.cohort import region_validity
from gen3d.cohort.channels import CONTRAST, SIZE, VOLUME
from gen3d.cohort.region_validity import (
    ML,
    Validity,
    chosen_reading,
    measures_volume,
    remark,
    validity,
    validity_columns,
)
from gen3d.cohort.regions import all_regions
from gen3d.cohort.structures import SUFFIX, column_of

CHANNELS = ("deformation", CONTRAST, VOLUME, SIZE, ML)
GOOD = Validity(0.8, 0.6, 0.9, 70, 0.7, 0.1, 0.0, 0.2, 0.9, follows_ventricles=False)
UNLABELLED = {"midline cisterns", "sulcal CSF"}


def test_every_structure_that_labels_know_has_its_validity_in_every_channel_of_volume() -> None:
    for region in all_regions():
        for channel in CHANNELS:
            known = validity(region.name, channel)
            assert (known is None) == (region.structure in UNLABELLED), (region.name, channel)
            if known is not None:
                assert -1 <= known.low <= known.r <= known.high <= 1
                assert known.num > 40
            assert validity(region.name, "residual") is None


def test_a_structure_is_found_by_the_name_of_its_region_and_of_its_column() -> None:
    for region in all_regions():
        by_column = validity(column_of(region.structure).removesuffix(SUFFIX), ML)
        assert by_column == validity(region.name, ML)


@pytest.mark.parametrize(
    ("known", "measures"),
    [
        (GOOD, True),
        (GOOD._replace(ventricle=-0.7, label_ventricle=-0.5), True),
        (GOOD._replace(low=0.49), False),  # not for certain
        (GOOD._replace(given_age=0.4), False),  # only because both go with age
        (GOOD._replace(follows_ventricles=True), False),
    ],
)
def test_a_reading_measures_a_volume_for_certain_or_not_at_all(known: Validity, measures: bool) -> None:
    assert known.measures is measures


def test_the_remark_gives_the_reason_and_only_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {
        ("caudate", VOLUME): GOOD._replace(follows_ventricles=True),
        ("putamen", VOLUME): GOOD._replace(given_age=0.4),
        ("thalamus", VOLUME): GOOD,
    }
    monkeypatch.setattr(region_validity, "validity", lambda region, channel: rows.get((region, channel)))
    assert remark("caudate", VOLUME) == (
        "r 0.80 with labelled volume (0.20 where drawn by hand), 0.10 (0.90) with that of the ventricles: "
        "not a measure of this region's volume"
    )
    assert "0.40 among people of one age" in remark("putamen", VOLUME)
    assert remark("thalamus", VOLUME) == remark("sulcal CSF", VOLUME) == ""
    assert [measures_volume(name, VOLUME) for name in ("caudate", "thalamus", "sulcal CSF")] == [False, True, True]


def test_a_caudate_that_follows_the_ventricles_is_not_read_as_a_volume() -> None:
    """Enlarged ventricles once made a caudate of +42 % out of an average one."""
    known = validity("left caudate", "deformation")
    assert known is not None
    assert known.ventricle_drawn > known.drawn
    assert not any(
        measures_volume(f"{side} caudate", channel) for side in ("left", "right") for channel in (VOLUME, ML)
    )
    for name in ("left hippocampus", "left lateral ventricle", "third ventricle", "left putamen", "brain-stem"):
        assert measures_volume(name, VOLUME), name


def test_the_chosen_reading_is_at_least_as_good_as_the_plain_one_where_it_differs() -> None:
    """In people on whom it was not chosen; worse by no more than what is noise in 74 people."""
    gains = []
    for structure in {region.structure for region in all_regions()} - UNLABELLED:
        plain, chosen = validity(structure, "deformation"), validity(structure, VOLUME)
        assert plain is not None
        assert chosen is not None
        if chosen_reading(structure).reading == "deformation":
            assert chosen == plain
        else:
            gains.append(chosen.r - plain.r)
    assert len(gains) >= 5
    assert min(gains) > -0.1
    assert np.mean(gains) > 0.1


def test_a_region_table_says_what_its_readings_measure() -> None:
    names = pd.Series(["left hippocampus", "left sulcal CSF", "whole brain (global size)"])
    found = validity_columns(names, "deformation")
    known = validity("hippocampus", "deformation")
    assert known is not None
    assert found.iloc[0].tolist() == [
        known.r,
        known.low,
        known.high,
        known.drawn,
        known.ventricle,
        "yes" if known.measures else "no",
    ]
    assert found.iloc[1:].isna().all(axis=None)
    other = validity_columns(names, "residual")
    assert other.isna().all(axis=None)
    assert list(other.columns) == list(found.columns)
    assert other["r_label"].dtype == np.float64
