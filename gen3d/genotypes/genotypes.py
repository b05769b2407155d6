"""`gen3d genotypes`: read genotypes of the people of a cohort, check their quality, and write what models may learn from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gen3d.core import words as spell
from gen3d.core.output_folder import Work
from gen3d.core.progress import say
from gen3d.core.work import FolderVerb, Inputs
from gen3d.genotypes.inputs import GeneticInputs, open_all
from gen3d.genotypes.settings import GenotypeSettings
from gen3d.genotypes.writing import write_all


class Genotypes(FolderVerb, GenotypeSettings):
    """Read genotypes of a cohort's people, check them, and add APOE, polygenic scores and other measurements.

    People are found by their subject, never by their place in a file. Every variant has its build, chromosome, position, the
    allele that is counted and the other one; readers of the same data give the same numbers. Writes a folder that train and
    classify read (people.tsv, variants.tsv, dosages.npy, pruned.npy, omics.npy), with a verdict per person and per variant.
    Relatives are found and belong together in every split. Genotypes stay in this folder: no run, report or message repeats them.
    """

    def reads(self) -> Inputs:
        """Every file that is read, companions of PLINK files included."""
        listed: dict[str, Path | Sequence[Path]] = {"table": self.table}
        single = {name: getattr(self, name) for name in ("ids", "variants", "known", "reference", "carry")}
        listed |= {name: path for name, path in single.items() if path is not None}
        for name in ("scores", "tables"):
            paths = getattr(self, name)
            if paths:
                listed[name] = list(paths.values() if isinstance(paths, dict) else paths)
        if self.source is not None:
            beside = (self.source.with_suffix(ending) for ending in (".bim", ".fam", ".pvar", ".psam"))
            plink = self.source.suffix in (".bed", ".pgen")
            listed["source"] = [self.source, *(path for path in beside if plink and path.is_file())]
        return listed

    def open_inputs(self) -> GeneticInputs:
        """The cohort, the source with its build, tables of weights and of measurements."""
        return open_all(self)

    def plan(self) -> list[str]:
        """Who and what would be read."""
        return [*self.open_inputs().sentences(), f"writes {self.out}"]

    def write(self, work: Work, opened: GeneticInputs) -> dict[str, Any]:
        """Check the quality, and write the folder."""
        for sentence in opened.sentences():
            say(sentence)
        return write_all(self, self.out, opened)

    def conclude(self, summary: dict[str, Any]) -> None:  # type: ignore[override]
        """How many people and variants passed."""
        people = spell.people(int(summary["num_people"]))
        variants, carried = (spell.count(int(summary[name]), "variant") for name in ("num_variants", "num_carried"))
        say(f"{self.out}: {people} and {variants} passed, {carried} carried on.")
