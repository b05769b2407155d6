"""The index names things as text, so what it names is checked here: verbs, sections and readers."""

from __future__ import annotations

from pathlib import Path

import pytest

from gen3d.core.config import Verb
from gen3d.core.errors import UserError
from gen3d.core.result_folder import ResultFolder
from gen3d.figures.context import PageSection
from gen3d.report import summary
from gen3d.report.open import SHOWN, all_sections, open_context, sections_of
from gen3d.verbs import VERBS, verb_class
from tests.world import write_record

TITLES = (
    "Summary", "Cohort", "The cohort by level", "Genotypes", "How the models were trained", "Reconstructions", "Group maps",
    "Scores by group", "Individual people", "Change between sessions", "Forecasts", "Latent space", "Harmonisation",
    "Classification", "Where the classifier looks", "Strata", "Where people stand", "Along the stages", "Synthetic scans",
    "Synthetic against real scans", "Norms", "Calibration", "Against planted truth", "Forecasts against later visits",
)  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_where_the_index_says(verb: str) -> None:
    assert issubclass(verb_class(verb), Verb)
    sections = sections_of(verb)
    assert all(isinstance(section, PageSection) for section in sections)
    readers = {section.reads for section in sections}
    assert len(readers) <= 1, "one reader per verb's folder"
    assert all(reader is None or issubclass(reader, ResultFolder) for reader in readers)


def test_the_page_has_its_sections_in_their_order() -> None:
    sections = [summary.section, *all_sections()]
    assert tuple(section.title for section in sections) == TITLES
    assert len({section.place for section in sections}) == len(sections)


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in SHOWN])
def test_a_folder_that_no_section_shows_is_refused(tmp_path: Path, verb: str) -> None:
    write_record(tmp_path, verb)
    with pytest.raises(UserError, match=f"was written by `gen3d {verb}`; an output folder of `gen3d prepare` or"):
        open_context([tmp_path])
