"""Settings of a DICOM source: where it is converted to, and what of the people is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from gen3d.cohort.labels import label
from gen3d.core.config import Config, Folder, execution


class DicomSettings(Config):
    """How a source of DICOM files becomes a BIDS folder without the people's names.

    Ids are made from the hospital's by a secret. Without `id_map` that secret is thrown away: nobody can tell later whose an id is,
    and another conversion of the same person gives another id.
    """

    bids: Folder | None = execution(
        None,
        "folder to which a DICOM source is converted, once; none: the name of out= with _bids behind it, beside out=. It "
        "holds whole heads, faces included, so only its owner may enter it",
    )
    id_map: Folder | None = execution(
        None,
        "table with the columns patient_id and subject, outside of out= and of the BIDS folder, that only its owner may read (mode "
        "600): its people get the ids that stand in it, new people are added. None: ids cannot be traced back by anybody",
    )
    subject: str | None = Field(
        None,
        min_length=1,
        description="id of the one person of the source, letters and digits, instead of a made one (not with id_map)",
    )
    people: Folder | None = Field(
        None,
        description="table of the cohort (diagnosis, site, ...): its ids are those of id_map or subject, or the hospital's own, "
        "which then stay in that table",
    )
    dates: Literal["none", "shifted"] = Field(
        "none",
        description="none: no date is kept, the order and the ages at the visits are; shifted: every person's dates, moved back by "
        "one secret time of 2 months to 2 years, so that times between visits stay",
    )
    several_people: bool = Field(
        False,
        description="true: a zip may hold several people; false: it is taken for one person's, and refused otherwise",
    )

    @model_validator(mode="after")
    def _check(self) -> DicomSettings:
        if self.subject is not None and self.id_map is not None:
            raise ValueError("dicom.subject= and dicom.id_map= both give ids; leave one of them out.")
        if self.subject is not None and label(self.subject) != self.subject:
            raise ValueError(f"dicom.subject={self.subject}: an id is of letters and digits alone, without sub-.")
        return self

    def place(self, out: Path) -> Path:
        """The folder of the conversion for an output folder."""
        return self.bids if self.bids is not None else out.with_name(f"{out.name}_bids")
