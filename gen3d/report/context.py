"""What every section may use: the opened folders, the settings of the report, and colours that mean the same everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from gen3d.figures import style
from gen3d.report.folders import Maps
from gen3d.report.sources import Sources


@dataclass(frozen=True)
class Context:
    """The material of one report."""

    sources: Sources
    subjects_shown: int
    seed: int

    @cached_property
    def colours(self) -> dict[str, str]:
        """A colour per diagnosis; controls are grey."""
        groups = list(self.sources.groups)
        for maps in self.sources.maps:
            groups += [name for name in maps.subjects["diagnosis"].unique() if name not in groups]
        return style.group_colours(groups, self.sources.controls)

    @property
    def lead(self) -> Maps | None:
        """The maps shown in full: the first given; the others stand beside them in tables and folded parts."""
        return self.sources.maps[0] if self.sources.maps else None

    def model_colour(self, name: str) -> str:
        """A colour per model, in the order given."""
        given = [run.name for run in self.sources.runs] + [maps.name for maps in self.sources.maps]
        names = list(dict.fromkeys(given))
        return style.GROUP_COLOURS[names.index(name) % len(style.GROUP_COLOURS)] if name in names else style.GREY
