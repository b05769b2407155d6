"""What the record of a finished classification tells, as sentences for the checklist."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gen3d import __version__


class Facts:
    """Sentences about what was done, each "" where the record does not tell."""

    def __init__(self, metrics: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        self.metrics, self.settings = metrics, settings
        self.people: Mapping[str, Any] = metrics.get("people") or {}
        self.guard: Mapping[str, Any] = metrics.get("guard") or {}
        self.models: list[Mapping[str, Any]] = list(metrics.get("models") or [])
        self.tables: Mapping[str, Any] = metrics.get("tables") or {}

    @property
    def is_external(self) -> bool:
        """Whether a finished head was tested on other people."""
        return bool(self.settings.get("external"))

    def target(self) -> str:
        """What is told."""
        target = self.metrics.get("target") or {}
        if not target:
            return ""
        if target.get("task") == "number":
            return f"The column {target['name']} of the cohort table, a number."
        kind = "ordered grades" if target.get("task") == "ordered" else "categories"
        return f"The column {target['name']} of the cohort table, {kind}: {', '.join(target.get('classes', []))}."

    def numbers(self) -> str:
        """People and scans, by class."""
        if "num_people" not in self.people:
            return ""
        classes = self.people.get("by_class") or {}
        counts = f" ({', '.join(f'{name} {num}' for name, num in classes.items())})" if classes else ""
        return (
            f"{self.people['num_people']} people{counts} with {self.people.get('num_scans', 'n/a')} scans were tested."
        )

    def left_out(self) -> str:
        """Who was left out."""
        if "left_out" not in self.people:
            return ""
        return as_sentences(self.people["left_out"]) or "No scan of the table was left out by the software."

    def splits(self) -> str:
        """How people were divided."""
        if self.is_external:
            return "The finished head was tested, unchanged, on people whom it had not been fitted on."
        if "folds" not in self.settings:
            return ""
        kind = (
            "one site left out at a time"
            if self.settings.get("split") == "sites"
            else f"{self.settings['folds']} stratified folds"
        )
        repeats = f", repeated {self.settings['repeats']} times" if "repeats" in self.settings else ""
        return (
            f"Nested cross-validation by person: {kind}{repeats}; settings, calibration and threshold were chosen in inner folds "
            "of the training people, and scaling, components, harmonisation and confounds were fitted on them alone."
        )

    def leaks(self) -> str:
        """What the leak guard did."""
        if not self.guard:
            return ""
        words = [
            f"Before testing, people were compared with those whom the models behind the features had learned from (policy "
            f"{self.guard.get('seen_policy', 'n/a')}; {self.guard.get('num_seen', 'n/a')} had been seen), and scans under "
            f"different ids with each other ({len(self.guard.get('duplicates') or [])} pairs looked like one person)."
        ]
        waivers = list(self.guard.get("waivers") or [])
        words += ["Waived by the user: " + as_sentences(waivers)] if waivers else ["Nothing was waived."]
        return " ".join(words)

    def of_kind(self, kind: str) -> str:
        """Names of the heads or the baselines, with their features."""
        return "; ".join(
            model["name"] + (f" ({model['features']})" if model.get("features") else "")
            for model in self.models
            if model.get("kind") == kind
        )

    def heads(self) -> str:
        """The heads and the settings chosen in the folds."""
        return f"Heads: {self.of_kind('head')}." if self.of_kind("head") else ""

    def baselines(self) -> str:
        """The baselines on the same people."""
        return f"Baselines on the same people: {self.of_kind('baseline')}." if self.of_kind("baseline") else ""

    def has(self, table: str) -> bool:
        """Whether a table has rows."""
        return bool(self.tables.get(table))

    def measures(self) -> str:
        """The measures with their intervals."""
        rows = self.tables.get("performance") or []
        names = list(dict.fromkeys(str(row["measure"]).replace("_", " ") for row in rows))
        if not names:
            return ""
        resamples = f" ({self.settings['bootstrap']} resamples of people)" if "bootstrap" in self.settings else ""
        return (
            f"{', '.join(names)}, with 95 % intervals{resamples}; ranks only among scans that one fitted model predicted; "
            "repeats averaged (performance.tsv)."
        )

    def comparisons(self) -> str:
        """Tests between models and against chance."""
        words = []
        if self.has("differences"):
            words.append("Paired differences from every baseline, with intervals and p (differences.tsv).")
        for row in self.tables.get("permutation") or []:
            words.append(f"{row['num_permutations']} permutations of the labels (permutation.tsv).")
        return " ".join(words)

    def calibration(self) -> str:
        """Where calibration is told."""
        return "Calibration by bins of equal count (reliability.tsv)." if self.has("reliability") else ""

    def columns_of_groups(self) -> list[str]:
        """Columns whose groups were scored."""
        return list(dict.fromkeys(str(row["column"]) for row in self.tables.get("subgroups") or []))

    def subgroups(self) -> str:
        """Where groups are scored apart."""
        columns = self.columns_of_groups()
        return f"Performance by {', '.join(columns)} (subgroups.tsv)." if columns else ""

    def code(self) -> str:
        """Version and seed."""
        seed = f", seed {self.settings['seed']}" if "seed" in self.settings else ""
        return f"gen3d {__version__}{seed}; all settings, inputs and their hashes are in artefact.json."

    def harmonisation(self) -> str:
        """What was done about sites and confounds."""
        words = []
        if self.settings.get("harmonise"):
            words.append(
                "Location and scale of sites were taken out of the features (ComBat), fitted on training people."
            )
            if _mapping(self.settings["harmonise"]).get("unknown") == "controls":
                words.append("Those of a site that training did not know were estimated from that site's controls.")
        if self.settings.get("confounds"):
            words.append(
                f"{', '.join(self.settings['confounds'])} were regressed out of the features, fitted on controls of the training "
                "people."
            )
        return " ".join(words)

    def synthetic(self) -> str:
        """Whether synthetic scans were learned from."""
        return (
            "Synthetic scans were added to training folds and never tested." if self.settings.get("synthetic") else ""
        )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def as_sentences(texts: Sequence[str]) -> str:
    """One after the other, each with its full stop."""
    return " ".join(text if text.endswith(".") else f"{text}." for text in texts)
