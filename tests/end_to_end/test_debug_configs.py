"""configs/debug: every verb once, in the order of the data, on a CPU; and what they wrote is what they wrote before."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gen3d.cli import main
from gen3d.core.tables import read_cells
from gen3d.verbs import VERBS
from tests.end_to_end.debug_configs import DEBUG, ORDER, command, lay_out
from tests.end_to_end.golden import differences, figures, summary
from tests.end_to_end.readers import READERS, read_all
from tests.validator import bids_errors

GOLDEN = Path(__file__).with_name("golden.json")
ROUNDING = 0.04
"""Share by which a figure may differ where another processor rounds otherwise; training carries such differences on (2.2 % in the
mean of latents between processors with and without AVX512)."""


@pytest.fixture(scope="module")
def debug(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which every debug config has run."""
    folder = tmp_path_factory.mktemp("debug_configs")
    lay_out(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ORDER:
            assert main(command(name)) == 0, name
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_debug_config_runs_as_it_stands(debug: Path) -> None:
    assert (debug / "debug" / "report" / "index.html").stat().st_size > 100_000
    assert {path.stem for path in DEBUG.glob("*.yaml")} == set(ORDER)


@pytest.mark.slow
def test_what_a_norm_judged_is_measured_against_the_truth_and_exported(debug: Path) -> None:
    twins = read_cells(debug / "debug" / "twins" / "manifest.tsv")
    rows = json.loads((debug / "debug" / "evaluation_by_norm" / "metrics.json").read_text())["tables"]["voxels"]
    of_lesions = [row for row in rows if row["condition"] == "lesion"]
    assert {row["num"] for row in rows} == {2}
    assert {row["channel"] for row in of_lesions} == {"residual", "structural"}
    assert all(row["auroc"] > 0.8 for row in of_lesions)
    dataset = debug / "debug" / "derivatives_by_norm"
    assert {f"sub-{subject}" for subject in twins["subject"]} <= {path.name for path in dataset.glob("sub-*")}
    ranges = read_cells(dataset / "desc-controlranges_stats.tsv")
    described = json.loads((dataset / "desc-controlranges_stats.json").read_text())
    assert set(described) == set(ranges.columns)
    assert all("gen3d anomaly writes" not in column["Description"] for column in described.values())
    model = json.loads((dataset / "dataset_description.json").read_text())["GeneratedBy"][0]["Description"]
    assert "voxelwise and pca" in model


@pytest.mark.slow
def test_the_bids_validator_finds_no_error_in_any_dataset(debug: Path) -> None:
    datasets = sorted(path.parent for path in (debug / "debug").rglob("dataset_description.json"))
    assert {"synthetic", "derivatives", "derivatives_by_norm", "derivatives_of_forecasts"} <= {d.name for d in datasets}
    assert {dataset.name: errors for dataset in datasets if (errors := bids_errors(dataset))} == {}


@pytest.mark.slow
def test_every_verb_writes_the_figures_it_wrote_before(debug: Path) -> None:
    """Kept figures change only with a change that means them to: `python -m tests.end_to_end.golden summary`."""
    kept = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert not differences(summary(figures(debug)), kept, ROUNDING)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="a run is a fork")
def test_a_verb_killed_at_any_durable_operation_goes_on_to_the_same_result(debug: Path, tmp_path: Path) -> None:
    """Some kills of some verbs, evenly over their runs; `analysis/14_what_breaks_it_kills.py` does every one of every verb."""
    folder = shutil.copytree(debug, tmp_path / "debug_configs")
    command = [sys.executable, "-m", "tests.end_to_end.kills", str(folder), "--spread", "6", "--verbs"]
    verbs, root = ["harmonise", "encode", "predict"], Path(__file__).parents[2]
    done = subprocess.run([*command, *verbs], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    rows = [[cell.strip() for cell in line.split("|")[1:]] for line in done.stdout.splitlines()]
    assert [(name, kills, equal) for name, _, kills, equal, *_ in rows] == [(verb, "6", "6") for verb in verbs]


@pytest.mark.slow
def test_what_every_verb_writes_is_opened_by_its_reader(debug: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A verb without a reader, or without a debug config that writes its folder, fails here."""
    monkeypatch.chdir(debug)  # records name their inputs as they were given
    assert set(READERS) == set(VERBS) - {"demo", "serve"}
    assert set(read_all(debug)) == set(READERS)
