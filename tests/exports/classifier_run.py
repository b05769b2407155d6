"""A finished run of a classifier with random weights and scores, written without a training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml

from gen3d.cohort.folder import open_prepared
from gen3d.cohort.scores_folder import MAIN, PERMUTED, TEST, VALIDATION, ScoredMember, score_columns, write_description
from gen3d.cohort.scores_folder import write_scores as write_score_table
from gen3d.cohort.seen import SeenBy
from gen3d.cohort.target import Target
from gen3d.core.config import Verb
from gen3d.core.output_folder import begin
from gen3d.maths.design import Design
from gen3d.models.base import Statistics
from gen3d.models.run_folder import weights_path, write_people_and_plan, write_settings
from gen3d.models.supervised.classifier import ClassifierConfig
from gen3d.models.supervised.label_config import Answers
from gen3d.models.supervised.losses import num_scores
from gen3d.models.weights import save_weights

NUM_FOLDS = 2


def write_run(folder: Path, prepared_folder: Path, target: Target, channels: tuple[str, ...], **model: Any) -> Path:
    """A run of two folds, and a member with permuted labels, on the people of a cohort in turn.

    Scores of the validation people rise with their label, so that there is something to calibrate.
    """
    prepared = open_prepared(prepared_folder)
    answers = Answers(name=target.name, task=target.task, classes=target.classes)
    config = ClassifierConfig(target=target.name, answers=answers, **model)
    config = config.model_copy(update={"window": config.window_in(prepared.plan)})
    work = begin(Verb(out=folder), "train", {})
    settings = {"model": config.model_dump(mode="json"), "channels": list(channels)}
    write_settings(folder, settings)
    people = list(dict.fromkeys(prepared.manifest["subject"]))
    learned = [[p for i, p in enumerate(people) if i % NUM_FOLDS != fold] for fold in range(NUM_FOLDS)]
    seen = SeenBy(tuple(SeenBy.people(each, "train").members[0] for each in [*learned, people]))
    ages = np.linspace(40, 80, 20)
    write_people_and_plan(folder, prepared.plan, seen, Design.fit(ages, ["F", "M"] * 10, ["a"] * 20))
    ones = np.ones(len(channels), np.float32)
    for member in range(NUM_FOLDS + 1):
        torch.manual_seed(member)
        built = config.build(prepared.plan, channels, Statistics(0 * ones, ones, prepared.mask), 1)
        for name, parameter in built.network.named_parameters():
            if "head" in name and name.endswith("weight"):
                torch.nn.init.normal_(parameter, std=0.05)  # as after some training: initial scores are nearly 0
        if target.task == "number":
            built.centre.fill_(60.0 + member)
            built.spread.fill_(9.0)
        save_weights(weights_path(folder, member), built.state_dict(), prepared.plan.key, config.kind)
    members = [ScoredMember(fold, MAIN, fold) for fold in range(NUM_FOLDS)] + [ScoredMember(NUM_FOLDS, PERMUTED, 0, 0)]
    write_description(folder, target, config.network.kind, config.form, channels, 0.3, NUM_FOLDS, members)
    write_score_table(folder, _table(prepared.manifest, target, learned))
    work.record["config"] = json.loads(json.dumps(settings | {"cross_fit": NUM_FOLDS}, default=str))
    work.finish({})
    assert yaml.safe_load((folder / "config.yaml").read_text())["model"]["kind"] == "classifier"
    return folder


def _table(manifest: pd.DataFrame, target: Target, learned: list[list[str]]) -> pd.DataFrame:
    """Rows of the fold members: the people of a fold are tested, the others watch."""
    rng, num, rows = np.random.default_rng(0), num_scores(target), []
    for member in range(NUM_FOLDS):
        for _, scan in manifest.iterrows():
            part = VALIDATION if scan["subject"] in learned[member] else TEST
            code = float(target.codes(pd.Series([scan[target.name]]))[0])
            if np.isfinite(code):
                signal = code > np.arange(num) if target.task == "ordered" else np.arange(num) == code
                scores = 2.0 * signal + rng.standard_normal(num)
                rows.append([scan["key"], scan["subject"], scan["session"], member, part, scan[target.name], *scores])
    return pd.DataFrame(rows, columns=["key", "subject", "session", "member", "part", "label", *score_columns(num)])
