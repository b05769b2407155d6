"""A fusion of genetics and images trains like everything else; what was planted is found, and what is not there is not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from gen3d.classify.classify import Classify
from gen3d.cohort.folder import open_prepared
from gen3d.cohort.fusion_folder import GENETICS, MODALITIES
from gen3d.cohort.genotypes_folder import open_genotypes
from gen3d.cohort.latents_folder import open_latents_folder
from gen3d.cohort.scores_folder import SCORES, TEST, VALIDATION, read_scores
from gen3d.core.errors import UserError
from gen3d.latents.encode import Encode
from gen3d.models.run import load_run
from gen3d.models.run_folder import weights_path
from gen3d.train.batches import Batches
from gen3d.train.genetic_columns import genetic_values, require_same_alleles
from gen3d.train.image_columns import latent_side, latent_values, region_values
from gen3d.train.material_fusion import FusionMaterial
from gen3d.train.train import Train
from tests.train.classifiers import mean_auc
from tests.train.fused_people import REGIONS, fusion, write_people

Folders = tuple[Path, Path]
LACKING = 6


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return write_people(tmp_path_factory.mktemp("people"), 72, lacking=LACKING)


@pytest.fixture(scope="module")
def run(people: Folders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three members and one with permuted labels."""
    return train(people, tmp_path_factory.mktemp("run") / "run", model={"permuted": 1})


def train(people: Folders, out: Path, **changes: Any) -> Path:
    return Train.model_validate(fusion(*people, out, **changes)).run()


def test_what_was_planted_is_learned_and_each_side_says_less(run: Path) -> None:
    scores = read_scores(run)
    assert mean_auc(scores) > 0.75
    assert scores.network == "fusion (tokens)"
    assert scores.channels == ("log_jacobian",)


def test_everybody_is_scored_by_what_they_have_and_by_each_side_alone(run: Path) -> None:
    scores, alone = read_scores(run), MODALITIES.read(run, "score_0", "score_1")
    for subset in ("genetics", "images"):
        mine = alone[alone["subset"] == subset].reset_index(drop=True)
        assert (mine[["key", "member", "part"]] == scores.table[["key", "member", "part"]]).all(axis=None)
    lacking = [f"p{number:03d}" for number in range(LACKING)]
    assert set(alone.loc[alone["has_genetics"] == "no", "subject"]) == set(lacking)
    assert set(alone["has_images"]) == {"yes"}
    tested = alone[(alone["part"] == TEST) & (alone["member"] < 3)]
    without = tested[(tested["subset"] == "genetics") & (tested["has_genetics"] == "no")]
    # The missing token stands for all of them: in one member their scores by genetics are one.
    spans = without.groupby("member")[["score_0", "score_1"]].agg(np.ptp)
    assert (spans < 1e-5).all(axis=None)
    known = tested[(tested["subset"] == "genetics") & (tested["has_genetics"] == "yes")]
    assert known.groupby("member")["score_1"].nunique().min() > 5
    rows = tested[(tested["subset"] == "images") & (tested["has_genetics"] == "no")].set_index("key")
    both = scores.table[(scores.table["part"] == TEST) & (scores.table["member"] < 3)].set_index("key").loc[rows.index]
    assert np.allclose(rows["score_1"], both["score_1"], atol=1e-6)


def test_a_training_cut_short_and_resumed_ends_the_same(
    people: Folders, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, scores and what each side says, to the last bit; stopped in the second member after a checkpoint."""
    read, count = Batches.at, 0

    def at(self: Batches, step: int, part: int) -> Any:
        nonlocal count
        count += 1
        if count > 39:
            raise KeyboardInterrupt
        return read(self, step, part)

    verb = Train.model_validate(fusion(*people, tmp_path / "run", model={"permuted": 1}))
    monkeypatch.setattr(Batches, "at", at)
    with pytest.raises(BaseException):  # noqa: B017 (as the interrupted process ends)
        verb.run()
    monkeypatch.setattr(Batches, "at", read)
    again = verb.run()
    for member in range(4):
        mine, other = load_file(weights_path(run, member)), load_file(weights_path(again, member))
        assert [name for name in mine if not torch.equal(mine[name], other[name])] == []
    for name in (SCORES, MODALITIES.file, "attention.json", "classifier.json"):
        assert (run / name).read_bytes() == (again / name).read_bytes()


def test_inputs_are_standardised_by_training_people_alone(people: Folders, run: Path) -> None:
    material = FusionMaterial.open(Train.model_validate(fusion(*people, run, model={"permuted": 1})))
    for member in range(4):
        values = material.values(member)[material.labelled.shares[member].training]
        model = load_run(run).member(member)
        assert torch.allclose(model.column_mean, torch.from_numpy(np.nanmean(values, axis=0)), atol=1e-5)
    assert not torch.equal(load_run(run).member(0).column_mean, load_run(run).member(1).column_mean)


def test_the_run_enters_a_study_as_a_contestant(people: Folders, run: Path, tmp_path: Path) -> None:
    alone = {"kind": "run", "run": run, "subset": "images"}
    asked: dict[str, Any] = {"heads": [run, alone], "prepared": people[0], "target": "diagnosis", "out": tmp_path / "h"}
    Classify.model_validate(asked | {"permutations": 10, "bootstrap": 100, "voxels": False}).run()
    metrics = json.loads((tmp_path / "h" / "metrics.json").read_text())
    assert metrics["models"][0]["features"] == "network fusion (tokens) on log_jacobian, tokens: diagnosis"
    predictions = pd.read_csv(tmp_path / "h" / "predictions.tsv", sep="\t").query("model == 'run'")
    assert (predictions["fold"] == predictions["subject"].map(read_scores(run).fold_of)).all()
    assert len(predictions) == 72
    assert metrics["models"][1]["name"] == "run (images alone)"
    assert [network["form"] for network in metrics["networks"]] == [
        "tokens: diagnosis",
        "tokens: diagnosis, images alone",
    ]


def test_no_run_holds_a_genotype(people: Folders, run: Path) -> None:
    """No file repeats a person's copies, in any of the forms in which the folder of genotypes holds them."""
    genotypes = open_genotypes(people[1])
    table = pd.read_csv(people[1].parent / "dosages.tsv", sep="\t", dtype=str)
    forms = [row.tobytes() for kind in (np.float16, np.float32, np.int8) for row in genotypes.dosages[:9].astype(kind)]
    forms += [
        mark.join(row[1:]).encode() for row in table.head(9).to_numpy().tolist() for mark in ("\t", ",", ", ", " ")
    ]
    forms += [name.encode() for name in ("e3e4", "e4e4", "e3e3")]
    names = [str(subject).encode() for subject in genotypes.people["subject"]]
    for path in run.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert not [form for form in forms if form in content], path
        if path.name not in (SCORES, MODALITIES.file):
            assert not [name for name in names if name in content], path
    kept = GENETICS.read(run)
    assert kept[["token", "kind"]].head(2).to_numpy().tolist() == [["APOE", "apoe"], ["APOE", "apoe"]]
    assert list(kept.loc[kept["kind"] == "variant", "counted"]) == list(genotypes.variants["counted"].head(4))


def test_relatives_stay_on_one_side(tmp_path: Path) -> None:
    pairs = 8
    cohort, genotypes = write_people(tmp_path, 40, effect=0.0, relatives=pairs, diagnosis=False)
    verb = Train.model_validate(fusion(cohort, genotypes, tmp_path / "run", model={"by": "gene"}))
    material = FusionMaterial.open(verb)
    groups = open_genotypes(genotypes).relatives(material.people.frame["subject"].astype(str).tolist())
    related = [name for name in dict.fromkeys(groups) if str(name).startswith("relatives ")]
    assert len(related) == pairs
    for share in material.labelled.shares:
        for name in related:
            rows = set(np.flatnonzero(groups == name).tolist())
            assert len(rows) == 2
            assert sum(bool(rows & set(part.tolist())) for part in (share.training, share.validation, share.test)) == 1
    assert [token.name for token in material.genetic.tokens] == ["APOE", "BIN1", "CLU", "MS4A", "PICALM"]
    assert f"relatives: {pairs} groups, each in one fold and on one side" in verb.plan()
    apart = train(
        (cohort, genotypes), tmp_path / "single", optim={"steps": 1}, model={"classes": None, "target": "sex"}
    )
    seen = read_scores(apart).fold_of
    assert all(
        len({seen[s] for s, g in zip(material.people.frame["subject"], groups) if g == name}) == 1 for name in related
    )


@pytest.mark.parametrize(("target", "task", "columns"), [("cdr", "ordered", 2), ("mmse", "number", 1)])
def test_grades_and_numbers_are_learned_too(
    people: Folders, tmp_path: Path, target: str, task: str, columns: int
) -> None:
    model = {"target": target, "task": task, "classes": None, "encoders": "separate"}
    out = train(people, tmp_path / "run", model=model, optim={"steps": 6})
    scores = read_scores(out)
    assert scores.num_scores == columns
    assert np.isfinite(scores.scores(scores.table)).all()


def test_separate_encoders_stay_as_they_are_once_the_fusion_is_trained(people: Folders, tmp_path: Path) -> None:
    """The same seed with more steps for the fusion: the encoders of the last weights are equal, and the head is not."""
    ends = []
    for steps, share in ((8, 0.5), (12, 1 / 3)):
        model = {"encoders": "separate", "encoder_share": share, "validation": 0.0}
        optim = {"steps": steps, "ema_decay": 0.0, "warmup": 0.0, "final_rate": 1.0}
        ends.append(load_file(weights_path(train(people, tmp_path / str(steps), model=model, optim=optim), 0)))
    moved = {name for name in ends[0] if not torch.equal(ends[0][name], ends[1][name])}
    assert not [name for name in moved if name.startswith(("network.embed", "network.pool", "network.genetic_head"))]
    assert {"network.head.weight", "network.to_image.0.attention.query.weight"} <= moved


def test_the_published_network_says_that_its_attention_is_one(people: Folders, tmp_path: Path) -> None:
    verb = Train.model_validate(fusion(*people, tmp_path / "run", model={"network": "published"}, optim={"steps": 6}))
    plan = verb.plan()
    assert any("attention over a single token is identically 1" in line for line in plan)
    assert any(line == "6 genetic columns are brought to 130 by a linear layer" for line in plan)
    out = verb.run()
    verdict = json.loads((out / "attention.json").read_text())
    assert not verdict["shown"]
    assert "identically 1" in verdict["sentence"]
    assert not (out / "attention.tsv").exists()


def test_a_few_permutations_are_no_null(run: Path) -> None:
    verdict = json.loads((run / "attention.json").read_text())
    assert verdict["num_permuted"] == 1
    assert not verdict["shown"]
    assert "compared with 1 members with permuted labels, and 19 are needed" in verdict["sentence"]
    assert not (run / "figures").exists()


def test_volumes_of_regions_are_those_planted(people: Folders) -> None:
    prepared = open_prepared(people[0])
    keys = prepared.manifest["key"].astype(str).tolist()[:5]
    values = region_values(prepared, keys)
    voxels = 36 * 0.512
    for row, key in enumerate(keys):
        planted = prepared.volume(key, "log_jacobian")[1 : 1 + len(REGIONS), 3, 3]
        assert np.allclose(values[row], voxels * np.exp(planted), rtol=1e-5)


def test_genetics_are_found_by_subject_and_refused_where_alleles_differ(
    people: Folders, run: Path, tmp_path: Path
) -> None:
    genotypes = open_genotypes(people[1])
    side = FusionMaterial.open(Train.model_validate(fusion(*people, run))).genetic
    kept = side.definitions
    one, other = (genetic_values(side, genotypes, order) for order in (["p010", "p020", "p000"], ["p020", "p010", "x"]))
    assert np.array_equal(one[:2], other[1::-1])
    assert np.isnan(one[2]).all()
    assert np.isnan(other[2]).all()
    require_same_alleles(kept, genotypes)
    turned = kept.copy()
    row = int(np.flatnonzero(kept["kind"] == "variant")[0])
    turned.loc[row, ["counted", "other"]] = kept.loc[row, ["other", "counted"]].to_numpy()
    with pytest.raises(UserError, match=r"but the network was trained with .* counting"):
        require_same_alleles(turned, genotypes)
    with pytest.raises(UserError, match=r"GRCh38, counting .* but the network was trained with .* GRCh37"):
        require_same_alleles(kept.replace({"build": {kept["build"][row]: "GRCh37"}}), genotypes)
    with pytest.raises(UserError, match="lacks the variant rs1 that the network was trained with"):
        require_same_alleles(kept.replace({"column": {kept["column"][row]: "rs1"}}), genotypes)
    score = pd.DataFrame([["prs_ad", "prs_ad", "score", "", "", "", "", "", "key"]], columns=kept.columns)
    with pytest.raises(UserError, match="lacks the score prs_ad that the network was trained with"):
        require_same_alleles(score, genotypes)


def test_who_shares_no_key_is_not_joined_by_order(people: Folders, tmp_path: Path) -> None:
    _, others = write_people(tmp_path / "others", 72, prefix="q", seed=1)
    with pytest.raises(
        UserError, match="both have 72 people, but the keys differ; people are joined by subject and never"
    ):
        train((people[0], others), tmp_path / "run")
    _, fewer = write_people(tmp_path / "fewer", 40, prefix="q", seed=1)
    with pytest.raises(
        UserError, match=r"shares no subject with .*such as q000 there and p000 here\); people are joined"
    ):
        train((people[0], fewer), tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": {"variants": ["rs9"]}}, "the variant rs9 of model.variants is not carried"),
        ({"model": {"most_tokens": 2}}, "5 tokens of genetics are more than model.most_tokens=2"),
        ({"model": {"by": "gene"}}, "model.by=gene, and 4 variants .* have no gene"),
        ({"model": {"classes": ["CN", "MCI"]}}, "nobody has diagnosis MCI"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(people: Folders, tmp_path: Path, changes: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        train(people, tmp_path / "run", **changes)


def test_a_side_that_everybody_with_a_label_lacks_is_refused(tmp_path: Path) -> None:
    cohort, genotypes = write_people(tmp_path, 40, lacking=20)
    table = pd.read_csv(cohort / "manifest.tsv", sep="\t", dtype=str, keep_default_na=False)
    copy = tmp_path / "copy"
    shutil.copytree(cohort, copy)
    table.loc[20:, "diagnosis"] = "n/a"
    table.to_csv(copy / "manifest.tsv", sep="\t", index=False)
    with pytest.raises(
        UserError, match="nobody with a label has anything there, so one modality is missing for everybody"
    ):
        train((copy, genotypes), tmp_path / "run")


def test_settings_that_do_not_go_together(people: Folders, tmp_path: Path) -> None:
    tree = fusion(*people, tmp_path / "run")
    for changes, sentence in (
        ({"genotypes": None}, "needs genotypes=FOLDER"),
        ({"prepared": None}, "needs prepared=FOLDER"),
        ({"augment": {"flip": True}}, "augment= changes volumes"),
        ({"model": {**tree["model"], "heads": 3}}, "width=16 cannot be shared by heads=3"),
        ({"model": {"kind": "pca"}}, "genotypes= goes with model.kind=fusion only"),
    ):
        with pytest.raises(ValueError, match=sentence):
            Train.model_validate({**tree, **changes})


def test_latents_are_the_other_side_and_whom_they_saw_is_not_tested(people: Folders, tmp_path: Path) -> None:
    small = {"kind": "pca", "num_components": 3}
    quiet = {"track": [], "channels": ["t1w"], "engine": {"device": "cpu"}}
    asked = {"prepared": people[0], "model": small, "patients": 0.3, "out": tmp_path / "pca", **quiet}
    encoder = Train.model_validate(asked).run()
    latents = Encode(prepared=people[0], run=encoder, out=tmp_path / "latents").run()
    out = train(people, tmp_path / "run", latents=str(latents), optim={"steps": 4})
    seen = load_run(encoder).seen
    table = open_prepared(people[0]).manifest
    known = set(table.loc[seen.by_any(table), "subject"])
    scores = read_scores(out)
    assert known
    assert not known & set(scores.fold_of)
    assert set(scores.fold_of) == set(table["subject"]) - known
    assert scores.channels == ("t1w",)
    opened = open_latents_folder(latents)
    keys = opened.table["key"].astype(str).tolist()
    values = latent_values(opened, 0, [keys[3], "nobody", keys[1]])
    assert np.array_equal(values[[0, 2]], opened.values[0][[3, 1]])
    assert np.isnan(values[1]).all()
    assert [token.columns for token in latent_side(opened).tokens] == [1, 1, 1]


def test_who_watches_a_training_is_not_tested(run: Path) -> None:
    scores = read_scores(run)
    for member in scores.members:
        tested, watched = (set(scores.rows(member.index, part)["subject"]) for part in (TEST, VALIDATION))
        assert tested
        assert watched
        assert not tested & watched
