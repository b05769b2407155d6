"""Genetics and images of the same people: the material of fusion networks, and what each side alone says of whom they never saw."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import nn

from gen3d.cohort.channels import LOG_JACOBIAN
from gen3d.cohort.folder import open_prepared
from gen3d.cohort.fusion_folder import ALONE, GENETICS, IMAGES, MODALITIES
from gen3d.cohort.genotypes_folder import OpenGenotypes, open_genotypes
from gen3d.cohort.latents_folder import Latents, open_latents_folder
from gen3d.cohort.scores_folder import DIGITS, PERMUTED
from gen3d.cohort.seen import SeenBy
from gen3d.core.artefact import digest
from gen3d.core.errors import UserError
from gen3d.core.output_folder import Work
from gen3d.core.progress import say
from gen3d.core.work import Inputs
from gen3d.core.work_arrays import save_array
from gen3d.models.base import BaseModelConfig, Model
from gen3d.models.supervised.fusion import ONE_TOKEN, Fusion, FusionConfig
from gen3d.models.supervised.fusion_task import fused_from
from gen3d.models.supervised.label_config import Answers
from gen3d.train.batches import BatchSource
from gen3d.train.engine.processes import Processes
from gen3d.train.fusion_attention import AskedMember, write_attention
from gen3d.train.fusion_parts import FusionScorer, FusionSource
from gen3d.train.genetic_columns import genetic_side, genetic_values
from gen3d.train.image_columns import latent_side, latent_values, region_side, region_values
from gen3d.train.labelled import GivenFolds, Labelled, choose_labelled
from gen3d.train.learners import RunPeople
from gen3d.train.looks import LookJudge
from gen3d.train.looks import look_steps as steps_of_looks
from gen3d.train.material import design_of
from gen3d.train.material_scored import ScoredMaterial
from gen3d.train.modalities import Columns, Side, require_both, require_shared_people
from gen3d.train.scoring import validation_loss
from gen3d.train.settings import TrainSettings


@dataclass(frozen=True)
class FusionMaterial(ScoredMaterial):
    """People of a prepared cohort with a label, their genetics, and volumes of regions or latents of their scans."""

    genotypes: OpenGenotypes
    latents: Latents | None
    genetic: Side
    image: Side

    unused: ClassVar[frozenset[str]] = frozenset({"picture_every", "channels"})

    @classmethod
    def refuse(cls, settings: TrainSettings) -> None:
        kind = f"model.kind={settings.model.kind}"
        if settings.prepared is None:
            raise ValueError(f"{kind} needs prepared=FOLDER: the people, their labels and volumes of regions")
        if settings.genotypes is None:
            raise ValueError(f"{kind} needs genotypes=FOLDER of `gen3d genotypes`")
        if settings.autoencoder is not None:
            raise ValueError(
                f"vae= goes with latent diffusion and latent flow; {kind} takes latents= of `gen3d encode`"
            )
        if settings.patients:
            raise ValueError(f"patients= is for generative models; {kind} learns from everybody with a label")
        if settings.folds is not None and settings.cross_fit != 1:
            raise ValueError("folds=RUN brings the number of folds; leave cross_fit out")
        if settings.augment.changes:
            raise ValueError(f"augment= changes volumes, and {kind} takes measurements of them; leave it out")
        if settings.optim.plateau < 1 and cast(FusionConfig, settings.model).validation == 0:
            raise ValueError(
                "optim.plateau waits for the validation loss, and model.validation=0 leaves nobody to validate"
            )

    @classmethod
    def open(cls, settings: TrainSettings) -> FusionMaterial:
        """Open both sides, join them by key, and deal their people with relatives on one side.

        Raises:
            UserError: nobody in common, one side missing for everybody, columns that are not there; see `choose_labelled`.
        """
        config = cast(FusionConfig, settings.model)
        prepared = open_prepared(cast(tuple[Path, ...], settings.prepared))
        genotypes = open_genotypes(cast(Path, settings.genotypes))
        require_shared_people(prepared, genotypes)
        latents = None if settings.latents is None else open_latents_folder(settings.latents, ("encode",))
        given = GivenFolds.of(settings.folds) if settings.folds is not None else None
        labelled = choose_labelled(prepared, config, settings.cross_fit, settings.seed, given, genotypes.relatives)
        people = RunPeople(labelled.frame, tuple(share.training for share in labelled.shares))
        channels = (LOG_JACOBIAN,) if latents is None else tuple(map(str, latents.record.get("channels") or ("t1w",)))
        genetic = genetic_side(genotypes, config)
        image = region_side(prepared) if latents is None else latent_side(latents)
        held = _held_out(labelled, latents)
        design = design_of(people)
        material = cls(
            prepared.plan, channels, people, design, prepared, held, settings, genotypes, latents, genetic, image
        )
        material.require_people()
        return material

    def require_people(self) -> None:
        """Refuse sides of which one is missing for everybody."""
        if self.latents is None:
            image = np.ones((len(self.people.frame), 1), dtype=np.float32)
        else:
            image = latent_values(self.latents, 0, self._keys)
        where = str(self.prepared.folders[0] if self.latents is None else self.latents.folder)
        require_both(self._genetic_values, image, self.genotypes, where)

    @property
    def config(self) -> FusionConfig:
        """The settings of the network, complete."""
        return self.completed(self.settings.model)

    def completed(self, model: BaseModelConfig) -> FusionConfig:
        target = self.labelled.target
        answers = Answers(name=target.name, task=target.task, classes=target.classes)
        tokens = {"genetic_tokens": self.genetic.tokens, "image_tokens": self.image.tokens}
        return cast(FusionConfig, model).model_copy(update={"answers": answers, **tokens})

    @property
    def inputs(self) -> Inputs:
        named: dict[str, Path | Sequence[Path]] = {"prepared": list(self.prepared.folders)}
        named["genotypes"] = self.genotypes.folder
        if self.latents is not None:
            named["latents"] = self.latents.folder
        if self.settings.folds is not None:
            named["folds"] = self.settings.folds
        return named

    def fingerprint(self) -> str:
        keys = [self.prepared.fingerprint(), self.genotypes.artefact.key]
        return digest([*keys, *([] if self.latents is None else [self.latents.artefact.key])])

    def seen(self) -> SeenBy:
        """Everybody that a member was trained on or watched by, and whom the model behind its latents saw."""
        seen = super().seen()
        if self.latents is None:
            return seen
        shares = zip(seen.members, self.labelled.shares, strict=True)
        return SeenBy(tuple({**self.latents.seen.members[self._space(share.fold)], **mine} for mine, share in shares))

    def _space(self, fold: int) -> int:
        """The member of the latents that a fold reads."""
        return fold if self.latents is not None and self.latents.num_members > 1 else 0

    @cached_property
    def _keys(self) -> list[str]:
        return self.people.frame["key"].astype(str).tolist()

    @cached_property
    def _genetic_values(self) -> Columns:
        return genetic_values(self.genetic, self.genotypes, self.people.frame["subject"].astype(str).tolist())

    @cached_property
    def _region_values(self) -> Columns:
        return region_values(self.prepared, self._keys)

    def values(self, member: int) -> Columns:
        """Columns of all people as a member reads them, [n, G + R]."""
        if self.latents is None:
            image = self._region_values
        else:
            image = latent_values(self.latents, self._space(self.labelled.shares[member].fold), self._keys)
        return np.concatenate([self._genetic_values, image], axis=1)

    @property
    def source(self) -> BatchSource:
        return self.source_of(0)

    def source_of(self, member: int) -> FusionSource:
        subjects = tuple(self.people.frame["subject"].astype(str))
        return FusionSource(self.values(member), subjects, self.labelled.shares[member].labels)

    def set_frozen_parts(self, model: Model, member: int, processes: Processes) -> None:
        """Mean and SD of every column among the member's training people, and the sizes of their classes."""
        assert isinstance(model, Fusion)
        model.standardise_by(self.values(member)[self.labelled.shares[member].training])
        self.set_label_scale(model, member)

    @property
    def network_name(self) -> str:
        return f"fusion ({self.config.network})"

    @property
    def watching(self) -> tuple[float, int]:
        return self.config.validation, self.config.looks

    def look_steps(self, member: int, steps: int) -> list[int]:
        """Looks are spread over the steps in which the fusion is trained."""
        first, watched = fused_from(self.config, steps), len(self.labelled.shares[member].validation)
        return [first + step for step in steps_of_looks(steps - first, self.config.looks if watched else 1)]

    def judge(self, member: int) -> LookJudge:
        """Those who watch choose the weights; batch normalisations are settled on training people."""
        share, scorer = self.labelled.shares[member], self._scorer(member)
        labels = share.labels[share.validation]

        def settle(module: nn.Module) -> None:
            scorer.settle(cast(Fusion, module), share.training)

        def loss(module: nn.Module) -> float:
            model = cast(Fusion, module)
            return validation_loss(scorer.scores(model, share.validation), labels, model)

        return LookJudge(settle, loss if len(share.validation) else None)

    def _scorer(self, member: int) -> FusionScorer:
        return FusionScorer(self.values(member))

    def after(self, member: int, processes: Processes) -> None:
        """Score the people that a member did not learn from: by what they have, by genetics alone, and by images alone."""
        super().after(member, processes)
        for subset in ALONE:
            path = self._part(member, f"{subset}.npy")
            if processes.from_first(path.is_file()):
                continue
            scorer = FusionScorer(self.values(member), subset)
            found = self._scored_by(scorer, self.trained(member, processes), member, processes)
            processes.on_first(_saver(path, found))

    def finish(self, processes: Processes) -> None:
        """Write what each side alone says, and attention where it may be believed; then as of all."""
        if processes.first:
            MODALITIES.write(self.settings.out, self._modalities(), DIGITS)
            say(f"  {write_attention(self.settings.out, self.config, self._tested(processes)).sentence}")
        super().finish(processes)
        if processes.first:
            for member in range(self.num_members):
                for subset in ALONE:
                    self._part(member, f"{subset}.npy").unlink()

    def _tested(self, processes: Processes) -> Iterator[AskedMember]:
        """Every member with the people that it never saw."""
        subjects = self.people.frame["subject"].astype(str).to_numpy()
        for member, share in enumerate(self.labelled.shares):
            if len(share.test):
                model = cast(Fusion, self.trained(member, processes))
                values, labels = self.values(member)[share.test], share.labels[share.test]
                yield AskedMember(share.variant, model, values, labels, tuple(subjects[share.test]))

    def _modalities(self) -> pd.DataFrame:
        values, tables = self.values(0), []
        split = self.genetic.num_columns
        has = {
            name: dict(zip(self._keys, np.where(np.isfinite(part).any(axis=1), "yes", "no"), strict=True))
            for name, part in (("has_genetics", values[:, :split]), ("has_images", values[:, split:]))
        }
        for subset in ALONE:
            table = self._scores_table(f"{subset}.npy").assign(subset=subset)
            tables.append(table.assign(**{name: table["key"].astype(str).map(known) for name, known in has.items()}))
        return pd.concat(tables, ignore_index=True)

    def describe(self, work: Work) -> None:
        super().describe(work)
        GENETICS.write(work.folder, self.genetic.definitions)
        IMAGES.write(work.folder, self.image.definitions)

    def sentences(self) -> list[str]:
        values, split = self._genetic_values, self.genetic.num_columns
        config, subjects = self.config, self.people.frame["subject"].astype(str).to_numpy()
        has = len(set(subjects[np.isfinite(values).any(axis=1)].tolist()))
        groups = self.genotypes.relatives(subjects.tolist())
        related = len({name for name in groups if name.startswith("relatives ")})
        images = "volumes of regions" if self.latents is None else self.latents.description
        sentences = [
            f"genetics: {len(self.genetic.tokens)} tokens of {split} columns, known of {has} people; images: "
            f"{len(self.image.tokens)} tokens of {self.image.num_columns} columns ({images})",
            *self.people_sentences(),
            f"relatives: {related} groups, each in one fold and on one side",
            "genotypes stay in their folder: the run keeps definitions of alleles, coefficients and hashes; a score by few "
            "variants alone (modalities.tsv) tells a genotype, so that file is as private as genotypes",
        ]
        permuted = [share.variant for share in self.labelled.shares].count(PERMUTED)
        if permuted:
            sentences.append(f"of the members, {permuted} {PERMUTED}: attention is compared with theirs")
        if config.network == "published":
            adapted = [
                f"{num} {name} columns are brought to {wanted} by a linear layer"
                for num, wanted, name in ((split, 130, "genetic"), (self.image.num_columns, 512, "image"))
                if num != wanted
            ]
            sentences += [*adapted, ONE_TOKEN]
        return sentences


def _held_out(labelled: Labelled, latents: Latents | None) -> Labelled:
    """The same without testing people whom the model behind the latents saw in their fold.

    Raises:
        UserError: latents of a family with another number of members than there are folds.
    """
    if latents is None:
        return labelled
    if latents.num_members not in (1, labelled.num_folds):
        raise UserError(
            f"{latents.folder}: are latents of {latents.num_members} members, and there are {labelled.num_folds} folds; train with "
            "folds= of the run behind them."
        )
    blind = latents.seen.blind(labelled.frame)
    shares = []
    for share in labelled.shares:
        place = share.fold if latents.num_members > 1 else 0
        shares.append(replace(share, test=share.test[blind[place, share.test]]))
    return replace(labelled, shares=tuple(shares))


def _saver(path: Path, values: NDArray[np.float64]) -> Callable[[], None]:
    return lambda: save_array(path, values)
