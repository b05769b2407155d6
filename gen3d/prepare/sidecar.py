"""The JSON next to a table, in which BIDS says the unit of a column and what its codes mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gen3d.core.errors import UserError
from gen3d.core.plain_files import load_json

UNKNOWN_SEX = "unknown"
SEX_CODES = {
    **dict.fromkeys(("m", "male", "man"), "M"),
    **dict.fromkeys(("f", "female", "woman"), "F"),
    **dict.fromkeys(("o", "other"), UNKNOWN_SEX),  # BIDS knows these; no model here does
}
UNITS = {
    "years": ("year", "years", "yr", "yrs", "y", "a"),
    "months": ("month", "months", "mo", "mos", "mon"),
    "weeks": ("week", "weeks", "wk", "wks", "w"),
    "days": ("day", "days", "d"),
}
_IN_WORDS = re.compile(
    r"\b(?:in|as|unit:?|units:?) (?:whole |completed )?(years|months|weeks|days)\b|\((years|months|weeks|days)\)"
)


@dataclass(frozen=True)
class Sidecar:
    """What the JSON of a table says of its columns."""

    path: Path
    columns: Mapping[str, Any]

    def unit(self, column: str) -> str | None:
        """The unit of a column of ages, from its Units or, without those, from its Description; None where neither says one.

        Raises:
            UserError: a unit that is none of time.
        """
        said = self._of(column)
        written = said.get("Units", said.get("Unit"))
        if not isinstance(written, str) or not written.strip():
            found = _IN_WORDS.search(str(said.get("Description", "")).lower())
            return next(filter(None, found.groups())) if found else None
        first = re.split(r"[^a-z]+", written.strip().lower())[0]
        unit = next((unit for unit, spellings in UNITS.items() if first in spellings), None)
        if unit is None:
            raise UserError(
                f"{self.path}: {column} has the unit {written!r}; say what it is with columns.age_unit=years (or months, weeks, "
                "days)."
            )
        return unit

    def sexes(self, column: str) -> dict[str, str]:
        """Code -> M, F or unknown of the codes whose level says one of these.

        Raises:
            UserError: a level that contradicts the letter which stands for it.
        """
        sexes = {}
        for code, level in self._levels(column).items():
            named = {
                SEX_CODES[word] for word in re.findall(r"[a-z]+", level.lower()) if word in SEX_CODES and len(word) > 1
            }
            sex = named.pop() if len(named) == 1 else SEX_CODES.get(level.lower())
            usual = SEX_CODES.get(code.lower())
            if sex and usual and sex != usual:
                raise UserError(
                    f"{self.path}: {column} {code} is called {level!r}; say what it means, for instance "
                    f"columns.sex_codes='{{{code}: {sex}}}'."
                )
            if sex:
                sexes[code] = sex
        return sexes

    def words(self, column: str) -> dict[str, str]:
        """Code -> level of the codes that are whole numbers; a code that is a word speaks for itself."""
        return {
            code: level for code, level in self._levels(column).items() if re.fullmatch(r"-?[0-9]+", code) and level
        }

    def _levels(self, column: str) -> dict[str, str]:
        levels = self._of(column).get("Levels")
        if not isinstance(levels, dict):
            return {}
        return {
            str(code).strip(): str(level.get("Description", "") if isinstance(level, dict) else level).strip()
            for code, level in levels.items()
        }

    def _of(self, column: str) -> Mapping[str, Any]:
        said: Any = next((value for name, value in self.columns.items() if name.lower() == column.lower()), {})
        return said if isinstance(said, dict) else {}


def sidecar_of(table: Path, *further: Path) -> Sidecar | None:
    """The sidecar of a table: the file of its name that ends in .json, or the first of the further ones that exists.

    Raises:
        UserError: it is there, but no JSON object.
    """
    for path in (table.with_suffix(".json"), *further):
        if not path.is_file():
            continue
        try:
            columns = load_json(path)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path}: not JSON ({str(error).splitlines()[0]}); mend it, or move it away from its table."
            ) from None
        return Sidecar(path, columns) if isinstance(columns, dict) else None
    return None
