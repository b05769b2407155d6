"""`gen3d sample`: what a sample is, whatever is drawn beside it; and everything that can be wrong with a request."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from gen3d.cli import main
from gen3d.cohort.folder import open_prepared
from gen3d.core.errors import UserError
from gen3d.imaging.volume import SLOPE, open_stored
from gen3d.models.diffusion.latent_diffusion import LatentDiffusion
from gen3d.models.run import load_run
from gen3d.prepare.prepare import Prepare
from gen3d.synthesis.drawing import Drawing
from gen3d.synthesis.sample import Sample
from gen3d.synthesis.tiling import decode_in_tiles
from tests.cohorts import write_cohort
from tests.generators import fit_generator

REPOSITORY = Path(__file__).parents[2]
ASKED: dict[str, Any] = {"condition": {"sex": "F", "age_years": [55, 70]}, "seed": 7, "steps": 3, "device": "cpu"}
QUICK_AUDIT = {"draws": 100, "mirrored": False, "min_held_out": 4}


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort of few people, so that an audit against them is quick."""
    return write_cohort(tmp_path_factory.mktemp("few"), num_controls=22, num_patients=0)


@pytest.fixture(scope="module")
def generator(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit_generator(few, tmp_path_factory.mktemp("generator"))


def sample(run: Path, out: Path, **changes: Any) -> Sample:
    tree = {
        "run": run,
        "out": out,
        "count": 5,
        "measure": False,
        "workers": 1,
        "audit": QUICK_AUDIT,
        **ASKED,
        **changes,
    }
    return Sample.model_validate({name: value for name, value in tree.items() if value is not None})


def scans(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "volumes").glob("*_t1w.nii"))}


@pytest.fixture(scope="module")
def whole(generator: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five scans, drawn and measured at once in one process."""
    return sample(generator, tmp_path_factory.mktemp("whole") / "synthetic", measure=True).run()


# ----------------------------------------------------------------------------------------- what determines a sample


@pytest.mark.parametrize(
    "changes", [{"batch_size": 1}, {"batch_size": 3}, {"count": 2}, {"batch_size": 64, "count": 7}]
)
def test_a_sample_is_the_same_to_the_last_bit_in_any_batch_and_any_count(
    changes: dict[str, Any], generator: Path, whole: Path, tmp_path: Path
) -> None:
    ours, known = scans(sample(generator, tmp_path / "out", **changes).run()), scans(whole)
    shared = set(ours) & set(known)
    assert len(shared) == min(5, changes.get("count", 5))
    assert all(ours[name] == known[name] for name in shared)


def test_another_number_per_call_changes_rounding_only(generator: Path, whole: Path, tmp_path: Path) -> None:
    other = open_prepared(sample(generator, tmp_path / "out", per_call=3).run())
    known = open_prepared(whole)
    for key in known.manifest["key"]:
        difference = np.abs(known.stored(key, "t1w").astype(int) - other.stored(key, "t1w").astype(int))
        assert difference.max() <= 1, f"more than one step of {SLOPE:.1e}"


def test_seeds_samplers_and_conditions_change_the_scan(generator: Path, whole: Path, tmp_path: Path) -> None:
    known = scans(whole)["sub-syn00001_ses-1_t1w.nii"]
    changed = {
        "seed": {"seed": 8},
        "sampler": {"sampler": "heun"},
        "ancestral": {"sampler": "ddpm"},
        # A denoiser of a few steps hardly heeds its conditions: only much guidance moves a scan by more than a stored step.
        "guidance": {"guidance": 50.0},
        "condition": {"guidance": 50.0, "condition": {"sex": "M", "age_years": [55, 70]}},
    }
    made = [
        scans(sample(generator, tmp_path / name, count=2, **changes).run())["sub-syn00001_ses-1_t1w.nii"]
        for name, changes in changed.items()
    ]
    assert len({known, *made}) == 1 + len(changed)
    assert len(set(scans(whole).values())) == 5


def test_an_interrupted_request_goes_on_and_ends_the_same(
    generator: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verb = sample(generator, tmp_path / "out", measure=True)
    decoded = Drawing.decoded
    calls: list[int] = []

    def stopping(self: Drawing, latents: torch.Tensor) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return decoded(self, latents)

    monkeypatch.setattr(Drawing, "decoded", stopping)
    with pytest.raises(KeyboardInterrupt):
        verb.run()
    monkeypatch.undo()
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out" / "quarantine" / "volumes").iterdir()}
    assert sorted(kept) == ["sub-syn00000_ses-1_t1w.nii", "sub-syn00001_ses-1_t1w.nii"]
    (tmp_path / "out" / "quarantine" / "volumes" / "sub-syn00000_ses-1_t1w.nii").unlink()  # its pair is still there
    assert "4 of them" not in " ".join(verb.plan())
    assert "(1 of them are there)" in verb.plan()[0]
    with pytest.raises(UserError, match="never finished there"):
        open_prepared(tmp_path / "out")
    with pytest.raises(UserError, match=r"other settings \(seed was 7 and is now 8\)"):
        sample(generator, tmp_path / "out", measure=True, seed=8).run()
    folder = sample(generator, tmp_path / "out", measure=True, batch_size=1).run()
    assert scans(folder) == scans(whole)
    first = folder / "volumes" / "sub-syn00001_ses-1_t1w.nii"
    assert first.stat().st_mtime_ns == kept["sub-syn00001_ses-1_t1w.nii"], "what was there is not drawn again"
    for name in ("manifest.tsv", "participants.tsv", "participants.json"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    assert not (folder / "quarantine").exists()


def test_another_number_of_threads_only_rounds_differently(generator: Path, whole: Path, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2 if threads == 1 else 1)
    try:
        other = sample(generator, tmp_path / "out").run()
    finally:
        torch.set_num_threads(threads)
    for path in sorted((whole / "volumes").glob("*_t1w.nii")):
        assert np.abs(open_stored(path).astype(int) - open_stored(other / "volumes" / path.name)).max() <= 1


@pytest.mark.multi
def test_two_processes_answer_one_request_as_one_does(generator: Path, whole: Path, tmp_path: Path) -> None:
    request = sample(generator, tmp_path / "out", measure=True, timeout_s=120).model_dump(mode="json", by_alias=True)
    beyond = {**request, "out": str(tmp_path / "other"), "condition": {"age_years": 99}}
    answered, refused = run_in_two([request, beyond], tmp_path)
    assert answered == ""
    assert scans(tmp_path / "out") == scans(whole)
    assert (tmp_path / "out" / "manifest.tsv").read_bytes() == (whole / "manifest.tsv").read_bytes()
    assert refused.startswith("age_years=99 is outside the range"), refused
    assert not (tmp_path / "other").exists()


def run_in_two(requests: list[dict[str, Any]], folder: Path) -> list[str]:
    """The sentence that each request ends with in two processes; '' when it was answered."""
    (folder / "requests.json").write_text(json.dumps(requests))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    command += ["--rdzv-endpoint", "127.0.0.1:0", "-m", "tests.synthesis.sampler"]
    command += [str(folder / "requests.json"), str(folder / "results.json")]
    # As many threads as here: their number decides in which order sums are rounded.
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=560, cwd=folder)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    sentences: list[str] = json.loads((folder / "results.json").read_text())
    return sentences


def test_the_noise_of_a_sample_is_standard_normal_and_its_own(generator: Path) -> None:
    """The first noise is what the sampler gets; ancestral noise is fresh in every step."""
    model = load_run(generator).member(0)
    assert isinstance(model, LatentDiffusion)
    drawing = Drawing(model, 3, "ddpm", 4, 1.0, 2, torch.float32)
    seen: list[torch.Tensor] = []

    def generate(conditions: torch.Tensor, first: torch.Tensor, fresh: Any, *settings: Any) -> torch.Tensor:
        seen.extend([first, fresh(0), fresh(1)])
        return first

    model.generate = generate  # type: ignore[method-assign]
    coded = np.zeros((2, 2), np.float32)
    drawing.latents([4, 5], coded)
    again = [tensor.clone() for tensor in seen]
    drawing.latents([4, 5], coded)
    for first, second in zip(again, seen[3:], strict=True):
        assert torch.equal(first, second)
    flat = torch.stack([tensor[row].flatten() for tensor in again for row in range(2)])
    assert torch.corrcoef(flat).fill_diagonal_(0).abs().max() < 0.1
    assert flat.mean().abs() < 0.05
    assert flat.std() == pytest.approx(1, abs=0.03)
    assert drawing.group(5) == [4, 5]


# -------------------------------------------------------------------------------------------------- what is written


def test_the_dataset_is_a_cohort_that_says_what_was_asked_and_measured(few: Path, generator: Path, whole: Path) -> None:
    prepared, run = open_prepared(whole), load_run(generator)
    table = prepared.manifest
    assert list(table["subject"]) == [f"syn{number:05d}" for number in range(5)]
    assert set(table["role"]) == {"evaluation"}
    assert set(table["generator"]) == {run.artefact.key}
    assert set(table["sex"]) == set(table["requested_sex"]) == {"F"}
    np.testing.assert_allclose(table["age_years"], table["requested_age_years"])
    assert table["age_years"].between(55, 70).all()
    reference = open_prepared(few)
    np.testing.assert_array_equal(prepared.regions, reference.regions)
    assert list(prepared.region_table["name"]) == list(reference.region_table["name"])
    assert (table["registration_correlation"] > 0.5).all()
    assert prepared.plan.key == run.plan.key
    volumes = prepared.load(list(table["key"]), ("t1w", "log_jacobian"))
    assert np.isfinite(volumes).all()
    assert not volumes[:, :, ~prepared.mask].any()
    assert volumes[:, 0].min() >= 0
    model = run.member(0)
    np.testing.assert_array_equal(prepared.mask, model.brain_mask.numpy())
    provenance = json.loads((whole / "provenance.json").read_text())
    assert provenance["run"]["key"] == run.artefact.key
    assert provenance["drawing"] | {"seed": 7, "sampler": "dpm_solver", "steps": 3} == provenance["drawing"]
    assert provenance["request"]["condition"] == ASKED["condition"]
    assert provenance["audit"]["failed"] is False
    assert (whole / "figures" / "samples.png").stat().st_size > 10_000


def test_prepare_reads_the_dataset_as_any_other(generator: Path, tmp_path: Path) -> None:
    folder = sample(generator, tmp_path / "synthetic", count=2).run()
    out = Prepare(source=folder, out=tmp_path / "p", spacing_mm=4, workers=1, bias_correction=False).run()
    ours, theirs = open_prepared(folder), open_prepared(out)
    assert list(theirs.manifest["key"]) == list(ours.manifest["key"])
    assert list(theirs.manifest["sex"]) == list(ours.manifest["sex"])
    np.testing.assert_allclose(theirs.manifest["age_years"], ours.manifest["age_years"], rtol=1e-4)
    key = ours.manifest["key"].iloc[0]
    first, second = (prepared.volume(key, "t1w")[ours.mask] for prepared in (ours, theirs))
    assert np.corrcoef(first, second)[0, 1] > 0.9


def test_a_table_asks_for_each_person_by_name(generator: Path, tmp_path: Path) -> None:
    (tmp_path / "people.tsv").write_text("participant_id\tsex\tage_years\na\tM\t61\nb\tunknown\t72.5\n")
    verb = sample(generator, tmp_path / "out", table=tmp_path / "people.tsv", count=None, condition=None)
    table = open_prepared(verb.run()).manifest
    assert list(table["age_years"]) == [61, 72.5]
    assert list(table["sex"]) == ["M", ""]
    assert pd.isna(table["requested_sex"].iloc[1])


def test_a_model_of_both_channels_keeps_what_it_drew_beside_what_is_measured(few: Path, tmp_path: Path) -> None:
    run = fit_generator(few, tmp_path, ("t1w", "log_jacobian"))
    folder = sample(run, tmp_path / "out", count=1, measure=True).run()
    names = {path.name.removeprefix("sub-syn00000_ses-1_") for path in (folder / "volumes").iterdir()}
    assert names == {"t1w.nii", "log_jacobian.nii", "generated_log_jacobian.nii"}
    drawn = sample(run, tmp_path / "drawn", count=1).run()
    volumes = folder / "volumes" / "sub-syn00000_ses-1_generated_log_jacobian.nii"
    assert (drawn / "volumes" / "sub-syn00000_ses-1_log_jacobian.nii").read_bytes() == volumes.read_bytes()


def test_without_measuring_the_plan_names_the_channels_that_are_there(generator: Path, tmp_path: Path) -> None:
    prepared = open_prepared(sample(generator, tmp_path / "out", count=1).run())
    assert prepared.plan.channels == ("t1w",)


def test_tiles_give_the_same_scan_but_for_what_reaches_far(few: Path, tmp_path: Path) -> None:
    """Latents of 20 x 24 x 20 in tiles of 14; encoding, which the audit needs afterwards, is what it was."""
    model = load_run(fit_generator(few, tmp_path, levels=1)).member(0)
    assert isinstance(model, LatentDiffusion)
    drawing = Drawing(model, 3, "euler", 2, 1.0, 2, torch.float32)
    latents = drawing.latents([0, 1], np.zeros((2, 2), np.float32))
    whole = drawing.decoded(latents)
    encoded = model.encode(torch.from_numpy(whole), torch.zeros(2, 2))
    decode_in_tiles(model, 14)
    tiled = drawing.decoded(latents)
    assert 0 < np.abs(whole - tiled).max() < 0.02
    inside = model.brain_mask.numpy()
    assert np.corrcoef(whole[0, 0][inside], tiled[0, 0][inside])[0, 1] > 0.9999
    torch.testing.assert_close(model.encode(torch.from_numpy(whole), torch.zeros(2, 2)), encoded, rtol=0, atol=0)


def test_a_latent_no_larger_than_a_tile_is_decoded_whole(generator: Path, whole: Path, tmp_path: Path) -> None:
    assert scans(sample(generator, tmp_path / "out", decode_tile=12).run()) == scans(whole)


def test_the_plan_says_who_and_how_much_and_writes_nothing(generator: Path, tmp_path: Path) -> None:
    sentences = sample(generator, tmp_path / "out", count=1000, measure=True).plan()
    assert sentences[0] == "draws 1000 scans with dpm_solver, 3 steps, seed 7"
    assert sentences[1] == "conditions: age_years 55 to 70; sex F"
    assert any("registration" in sentence for sentence in sentences)
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------------ bad requests


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"condition": {"age_years": [30, 60]}}, r"age_years=30 is outside the range .* extrapolate=true"),
        ({"condition": {"age_years": [80, 70]}}, r"an empty range|outside the range"),
        ({"condition": {"age_years": [70, 60]}}, r"age_years=\[70, 60\]: an empty range"),
        ({"condition": {"sex": "f"}}, r"sex=f: the model knows F, M .*did you mean F"),
        ({"condition": {"weight_kg": 70}}, r"condition weight_kg: the model is conditioned on age_years .*, sex"),
        ({"table": "none.tsv", "count": None, "condition": None}, r"not a readable table"),
    ],
)
def test_what_the_model_cannot_follow_is_refused_before_anything_is_written(
    changes: dict[str, Any], sentence: str, generator: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=sentence):
        sample(generator, tmp_path / "out", **changes).run()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["count=0"], "`count`: input should be greater than or equal to 1 (got 0)"),
        (["count=2000000"], "`count`: input should be less than or equal to 1000000 (got 2000000)"),
        ([], "count= is missing: how many scans to draw"),
        (["count=1", "table=a.tsv"], "table= sets conditions and count"),
        (["count=1", "condition={sex: }"], "`condition`: sex=None is neither a number nor a text; write unknown"),
        (["count=1", "condition=F"], "`condition`: conditions are `name: value` pairs"),
        (["count=1", "sampler=plms"], "`sampler`: input should be"),
        (["count=1", "decode_tile=3"], "decode_tile=3 is mostly border"),
        (["count=1", "waiver=' '"], "waiver= needs a reason in words"),
    ],
)
def test_settings_that_make_no_sense(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", "run=r", "out=o", *words]) == 2
    told = capsys.readouterr().err
    assert sentence in told
    assert len(told.splitlines()) == 1


def test_outside_the_range_on_request_and_on_record(generator: Path, tmp_path: Path) -> None:
    verb = sample(generator, tmp_path / "out", count=1, condition={"age_years": 95}, extrapolate=True)
    provenance = json.loads((verb.run() / "provenance.json").read_text())
    assert provenance["outside_the_trained_range"]["age_years"]["asked"] == [95, 95]
    assert provenance["training_people_who_fit"] == 0


def test_a_run_of_another_kind(pca_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a pca run does not draw scans; give a run of model.kind=latent_diffusion"):
        sample(pca_run, tmp_path / "out").run()


def test_scans_that_are_not_finite_are_named_and_the_others_kept(
    generator: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = Drawing.decoded
    monkeypatch.setattr(Drawing, "decoded", lambda self, latents: spoiled(decoded(self, latents)))
    with pytest.raises(UserError, match=r"NaN or infinite values of 3 of 5 samples \(0, 2, 4\), the others are kept"):
        sample(generator, tmp_path / "out").run()
    monkeypatch.undo()
    kept = {path.name: path.read_bytes() for path in (tmp_path / "out" / "quarantine" / "volumes").iterdir()}
    assert sorted(kept) == ["sub-syn00001_ses-1_t1w.nii", "sub-syn00003_ses-1_t1w.nii"]
    assert all(scans(whole)[name] == data for name, data in kept.items())
    assert scans(sample(generator, tmp_path / "out").run()) == scans(whole)


def spoiled(volumes: np.ndarray) -> np.ndarray:
    """The first volume of a pair with one NaN in it."""
    volumes = volumes.copy()
    volumes[0, 0, 3, 3, 3] = np.nan
    return volumes


def test_a_full_disk_is_one_sentence_and_costs_nothing(
    generator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nibabel as nib

    save, saved = nib.save, list[Path]()

    def full(image: Any, path: Path) -> None:
        if len(saved) == 2:
            raise OSError(28, "No space left on device", str(path))
        save(image, path)
        saved.append(path)

    monkeypatch.setattr(nib, "save", full)
    with pytest.raises(UserError, match=r"quarantine/volumes: the disk is full .* the same command goes on"):
        sample(generator, tmp_path / "out").run()
    monkeypatch.undo()
    assert len(list((tmp_path / "out" / "quarantine" / "volumes").iterdir())) == 2
    assert len(scans(sample(generator, tmp_path / "out").run())) == 5
