"""`gen3d classify`: what can be told from the latents, beside what is told without them."""

from __future__ import annotations

from pathlib import Path

from gen3d.core.artefact import RECORD, begin
from gen3d.core.progress import say
from gen3d.downstream.classification import cross_validate, external_test
from gen3d.downstream.heads import ResidualSettings, Threshold
from gen3d.downstream.question import open_question
from gen3d.downstream.recipe import Recipe
from gen3d.downstream.study_settings import StudySettings
from gen3d.infer.residual_recipe import ResidualRecipe


class Classify(StudySettings):
    """Tell a column of the cohort table from latents: heads under nested cross-validation by person, beside baselines.

    Whatever is fitted (harmonisation, confounds, scaling, components, settings, calibration, threshold) is fitted on the
    training people of a fold. People whom a model behind the latents was trained on are not tested. Always beside it:
    covariates alone, each of a few volumes of the same scans, both, voxels, and permuted labels. With fit= and external=, a
    finished head is tested on other people instead.

    Writes predictions.tsv, metrics.json with every table behind the figures, checklist.tsv and the head itself.
    """

    def plan(self) -> list[str]:
        """Who would be told apart, in which folds, by which heads."""
        return [*open_question(self).plan(), f"writes {self.out}"]

    def run(self) -> Path:
        """Write the folder."""
        # What is wrong with the input is told before a folder is begun, so that a mended command can use the same out=.
        opened = None if (self.out / RECORD).is_file() else open_question(self)
        work = begin(self, "classify", self.inputs())
        if work.finished:
            say(f"{self.out}: already done.")
            work.release()
            return self.out
        try:
            question = opened or open_question(self)
            if self.fit is None:
                work.finish(cross_validate(question, residual_recipe))
            else:  # the people to be tested are others than those of the study that the head comes from, whatever was said there
                policy = self.seen if "seen" in self.model_fields_set else "refuse"
                work.finish(external_test(question, residual_recipe, policy))
        finally:
            work.release()
        say(f"{self.out / 'metrics.json'}")
        return self.out


def residual_recipe(settings: ResidualSettings, threshold: Threshold) -> Recipe:
    """The torch head, which the layers below know by its settings only."""
    return ResidualRecipe(settings, threshold)
