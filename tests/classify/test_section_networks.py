"""The page about networks, readers and rare classes: what was tested, what was not, and by whom."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gen3d.classify.sections import heads
from gen3d.cohort.target import Target
from gen3d.figures import style
from gen3d.figures.blocks import Details, Section, Table, Text
from gen3d.report.open import open_context
from tests.classifier_run import deal, write_run
from tests.classify.test_classify import NUM, classify, people
from tests.classify.test_networks import DIAGNOSIS, FOLDS, logits
from tests.classify.test_readers import write_readers
from tests.latents_folder import write_latents

QUICK = {"bootstrap": 100, "volumes": [], "covariates": ["sex"], "repeats": 1}


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts are laid out and not rendered: for tests of words and tables."""
    monkeypatch.setattr(style, "png_bytes", lambda figure, dpi=0: b"")
    monkeypatch.setattr(style, "svg_bytes", lambda figure: b"")


def section_of(folder: Path) -> Section:
    found = heads.section(open_context((folder,), 2))
    assert found is not None
    return found


def walk(blocks: Any) -> Iterator[Any]:
    for block in blocks:
        yield block
        if isinstance(block, Details):
            yield from walk(block.blocks)


def table_of(section: Section, start: str) -> Table:
    return next(block for block in walk(section.blocks) if isinstance(block, Table) and block.caption.startswith(start))


def test_a_network_its_twin_and_readers_are_on_the_page(tmp_path: Path) -> None:
    values, table = people(shift=0.0)
    latents, folds = write_latents(tmp_path / "latents", values, table), deal(table, FOLDS, "diagnosis")
    shuffled = [np.random.default_rng(seed).standard_normal((NUM, 2)) for seed in (1, 2)]
    run = write_run(tmp_path / "cnn", table, DIAGNOSIS, logits(table, 2.0), folds, logits(table, 0.0, 3), shuffled)
    readers = write_readers(tmp_path / "readers.csv", table, table["diagnosis"])
    asked = QUICK | {"heads": [run, "linear"], "readers": readers, "permutations": 20}
    metrics = classify(tmp_path / "h", latents, **asked)
    section = section_of(tmp_path / "h")
    words = " ".join(block.text for block in walk(section.blocks) if isinstance(block, Text))
    assert "Its folds are those of all models here" in words
    assert "A random twin is the same network" in words
    networks = table_of(section, "Validation:")
    (row,) = networks.rows
    first, second = (item["value"] for item in metrics["networks"][0]["permuted"])
    assert row == ["Cnn", "r3d_18", "trained by hand", "t1w", "4", "30 %", f"{first:.2f}, {second:.2f} (2 trainings)"]
    compared = table_of(section, "Cnn against people")
    assert compared.rows[0][:3] == ["R1", "80", "1.00 [0.95, 1.00]"]
    ratios = table_of(section, "Likelihood ratios")
    assert ratios.rows[0][0] == "Cnn"
    performance = table_of(section, "Performance")
    at = performance.header.index("Accuracy")
    assert performance.header[at + 1] == "Always the most frequent class"
    assert "the network's scores stayed as they are" in str(section.blocks)
    checks = (tmp_path / "h" / "checklist.tsv").read_text()
    assert "the 4 folds in which cnn was trained, once" in checks
    assert "which lies in its run folder" in checks
    assert "run `gen3d classify` again to keep one" not in checks


def test_published_readers_and_a_class_that_cannot_be_evaluated(tmp_path: Path) -> None:
    values, table = people()
    latents = write_latents(tmp_path / "latents", values, table)
    classify(tmp_path / "two", latents, **QUICK)
    section = section_of(tmp_path / "two")
    published = table_of(section, "Published readers")
    assert len(published.rows) == 6
    assert "no test" in " ".join(block.text for block in walk(section.blocks) if isinstance(block, Text))
    grade = np.where(table["diagnosis"] == "AD", "1", "0")
    grade[:4] = "2"
    graded = table.assign(cdr_global=grade)
    target = Target("cdr_global", "ordered", ("0", "1", "2"))
    codes = target.codes(graded["cdr_global"])
    above = np.stack([6 * (codes - 0.5), 6 * (codes - 1.5)], axis=1)
    folds = deal(graded, 2, "cdr_global")
    run = write_run(tmp_path / "stager", graded, target, above, folds)
    grades = write_latents(tmp_path / "graded", values, graded)
    classify(tmp_path / "grades", grades, **QUICK | {"heads": [run], "target": "cdr_global", "covariates": []})
    recalls = table_of(section_of(tmp_path / "grades"), "Of each class")
    assert recalls.header == ["Model", "0, 38 people", "1, 38 people", "2, 4 people"]
    assert recalls.rows[0][3] == "not evaluable"
