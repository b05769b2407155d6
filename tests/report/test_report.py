"""The report shows the numbers of its inputs, needs no other file, and lists the sections that are missing."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from gen3d.anomaly.folder import MapsFolder
from gen3d.core import words as spell
from gen3d.core.artefact import write_json
from gen3d.core.errors import UserError
from gen3d.models.run_folder import is_baseline
from gen3d.report import provenance, summary
from gen3d.report.open import all_sections, open_context
from gen3d.report.report import Report
from tests.world import PATIENTS, ROLES, World

KINDS = ("restorer", "pca")


class Page(HTMLParser):
    """Text, tags and section titles of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.titles: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in ("img", "meta", "br"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        opened = self._open.pop()
        assert opened == tag, f"<{opened}> is closed by </{tag}>"

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("style", "script"):
            self.words.append(data)
        if self._open and self._open[-1] == "h2":
            self.titles.append(data.strip())


@pytest.fixture(scope="session")
def page(report: Path) -> Page:
    return Page((report / "index.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def metrics(report: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((report / "metrics.json").read_text())
    return found


def test_all_sections_are_there_and_none_is_missing(page: Page) -> None:
    wanted = [page_section.title for page_section in (summary.section, *all_sections())]
    assert [title for title in page.titles if title in wanted] == wanted
    assert "Limits and provenance" in page.titles
    assert "Not included" not in page.titles


def test_needs_nothing_but_itself(page: Page, report: Path) -> None:
    for tag, attributes in page.tags:
        for name in ("src", "href", "data", "action", "poster"):
            assert attributes.get(name, "#").startswith(("data:", "#")), (tag, attributes[name])
        assert tag not in ("link", "iframe", "object", "embed")
    html = (report / "index.html").read_text(encoding="utf-8")
    assert "@import" not in html
    assert "url(" not in html
    assert "http://" not in html
    assert "https://" not in html
    assert len(html) < 15e6


def test_links_have_targets_and_pictures_have_descriptions(page: Page) -> None:
    identifiers = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    targets = {attributes["href"][1:] for tag, attributes in page.tags if tag == "a"}
    assert targets
    assert targets <= identifiers
    assert all(len(attributes.get("alt", "")) > 10 for tag, attributes in page.tags if tag == "img")


def test_every_figure_of_the_page_is_a_file(page: Page, report: Path) -> None:
    num_figures = sum(tag == "figure" for tag, _ in page.tags)
    files = sorted(path.name for path in (report / "figures").glob("*.png"))
    assert len(files) == num_figures
    assert {"ages.png", "calibration.png", "group_vae_deformation.png", "latent_latents.png", "severity.png"} <= set(
        files
    )


def test_auc_is_that_of_all_pairs_and_is_shown(world: World, page: Page, metrics: dict[str, Any]) -> None:
    table = pd.read_csv(world["maps/pca"] / "subjects.tsv", sep="\t", keep_default_na=False)
    rows = [row for row in metrics["scores"]["auc"] if row["model"] == "PCA"]
    assert {row["group"] for row in rows} == set(PATIENTS)
    for row in rows:
        prefix = {"regions": "region_score_", "voxels": "score_"}.get(row["kind"], "")
        column = f"{prefix}{row['channel']}" if prefix else "latent_d"
        ill = table.loc[table["diagnosis"] == row["group"], column].to_numpy(float)
        well = table.loc[table["role"] == "test", column].to_numpy(float)
        expected = np.mean([(a > b) + 0.5 * (a == b) for a in ill for b in well])
        assert row["auc"]["value"] == pytest.approx(expected)
        assert row["num_people"] == PATIENTS[row["group"]]
        assert f"{row['auc']['value']:.2f} [{row['auc']['low']:.2f}, {row['auc']['high']:.2f}]" in page.text
    planted = next(
        row for row in rows if (row["group"], row["channel"], row["kind"]) == ("AD", "deformation", "regions")
    )
    assert planted["auc"]["value"] > 0.9


def test_the_cohort_table_counts_people(world: World, page: Page, metrics: dict[str, Any]) -> None:
    frame = world.manifest
    for row in metrics["cohort"]["by_role_and_diagnosis"]:
        part = frame[(frame["role"] == row["role"]) & (frame["diagnosis"] == row["diagnosis"])]
        assert row["num_people"] == len(part)
        assert row["age_mean"] == pytest.approx(part["age_years"].mean())
        assert row["num_women"] == (part["sex"] == "F").sum()
        assert f"{part['age_years'].mean():.1f} ({part['age_years'].std():.1f})" in page.text
    assert metrics["cohort"]["verdicts"] == {"keep": 54, "warn": 1, "exclude": 1}
    assert "mutual information with the template is -0.05" in page.text
    assert "head tilted by 21 degrees" in page.text
    assert metrics["cohort"]["unmatched"] == [["099", "row in participants.tsv without a scan"]]
    assert "099 row in participants.tsv without a scan" in page.text


def test_calibration_figures_are_those_of_the_folder(page: Page, metrics: dict[str, Any]) -> None:
    rows = metrics["calibration"]["held_out_controls"]
    assert len(rows) == 5
    assert all(row["sd"] == 1.0345 and row["num_positive"] == 1 for row in rows)
    assert rows[0]["share_beyond"]["value"] == pytest.approx(np.linspace(0.04, 0.061, 8).mean())
    assert "1 of 8" in page.text
    assert "age2 was left out: too few people" in page.text.lower()


def test_the_models_and_their_training_people(page: Page, metrics: dict[str, Any]) -> None:
    vae, pca = (next(row for row in metrics["model"]["models"] if row["kind"] == kind) for kind in ("vae", "pca"))
    assert vae["num_people"] == vae["num_known"] == ROLES["train"]
    assert vae["num_weights"] == 1200
    assert vae["num_steps"] == 300
    assert pca["num_steps"] is None
    assert "dense latent, 64 numbers" in page.text


def test_the_first_sentences_name_the_winner(page: Page, metrics: dict[str, Any]) -> None:
    best = {(row["condition"], row["direction"]): row for row in metrics["summary"]["best_by_condition"]}
    assert set(best) == {("AD", "loss"), ("AD", "gain"), ("lesion", "")}
    lesion, loss = best["lesion", ""], best["AD", "loss"]
    assert (lesion["model"], lesion["channel"], lesion["measure"]) == ("PCA", "residual", "auprc")
    assert lesion["value"]["value"] == pytest.approx(0.442)
    assert (loss["model"], loss["channel"], loss["measure"]) == ("PCA", "deformation", "auc")
    assert (
        "AUC of both sides of hippocampus (\N{MINUS SIGN}22.9 % planted) 0.92 [0.86, 0.97]. Other models in this channel: VAE 0.90"
        in page.text
    )
    assert "AUC of left lateral ventricle (+31.0 % planted)" in page.text
    lead = next(words for words in page.words if "located best" in words)
    assert lead.startswith(
        "Lesions are located best by PCA in T1w intensity (lesion: AUPRC 0.44 [0.39, 0.49]). Atrophy"
    )
    assert "Atrophy is detected best by PCA in local volume (AD: AUC of both sides of hippocampus" in lead
    assert "on lesion, VAE is worse than PCA (paired difference in AUPRC \N{MINUS SIGN}0.030 [" in lead
    minus = "\N{MINUS SIGN}"
    figures = f"(paired difference in AUC {minus}0.015 [{minus}0.055, 0.025])"
    assert f"on volume loss in AD, VAE does not differ detectably from PCA {figures}" in lead
    assert "PCA is better than VAE (paired difference in AUPRC 0.030 [0.010, 0.050])" in page.text
    assert "0.44 [0.39, 0.49]" in page.text


def test_people_are_shown_with_their_regions(world: World, page: Page, metrics: dict[str, Any]) -> None:
    shown = metrics["people"]["shown"]
    roles = world.manifest.set_index("key").loc[[person["key"] for person in shown]]
    assert list(roles["role"]) == ["evaluation"] * 4 + ["test"] * 2
    assert set(roles["diagnosis"][:3]) == set(PATIENTS)
    regions = pd.read_csv(world["maps/vae"] / "regions.tsv", sep="\t")
    person = shown[0]
    mine = regions[(regions["key"] == person["key"]) & (regions["channel"] == "deformation")]
    strongest = mine.loc[mine["z"].abs().idxmax()]
    assert person["regions"][0]["region"] == strongest["region"]
    assert f"{abs(strongest['effect_percent']):.0f} % " in page.text
    assert spell.number(float(strongest["z"]), 1, signed=True) in page.text


def test_every_model_that_is_no_baseline_is_a_network(world: World, tmp_path: Path) -> None:
    """A kind of model that the report does not know is compared with PCA like any network."""
    run, maps, evaluation = tmp_path / "restorer", world["maps/vae"], world["evaluation"]
    shutil.copytree(world["runs/vae"], run)
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("kind: vae", "kind: restorer"))
    context = open_context((run, maps, world["runs/pca"], world["maps/pca"], evaluation))
    found = summary.section(context)
    assert found is not None
    assert "on lesion, Restorer is worse than PCA" in found.blocks[0].text


@pytest.fixture
def pair(world: World, tmp_path: Path) -> tuple[Path, ...]:
    """A restorer and a PCA of T1w, their maps together (which the evaluation calls vae), and PCA's maps and evaluation."""
    runs = []
    for name, kind in (("vae", "restorer"), ("pca", "pca")):
        run = Path(shutil.copytree(world[f"runs/{name}"], tmp_path / f"{kind}_run"))
        config = yaml.safe_load((run / "config.yaml").read_text())
        config["model"]["kind"], config["channels"] = kind, ["t1w"]
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        record = json.loads((run / "artefact.json").read_text())
        write_json(run / "artefact.json", record | {"key": f"{kind} of T1w"})
        runs.append(run)
    maps = Path(shutil.copytree(world["maps/vae"], tmp_path / "both"))
    record = json.loads((maps / "artefact.json").read_text())
    inputs = [
        {"path": str(run), "verb": "train", "key": f"{kind} of T1w"} for run, kind in zip(runs, KINDS, strict=True)
    ]
    write_json(maps / "artefact.json", record | {"inputs": record["inputs"] | {"run": inputs}})
    return (*runs, maps, world["runs/pca"], world["maps/pca"], world["evaluation"])


def test_two_models_used_together_are_named_and_traced(pair: tuple[Path, ...]) -> None:
    for given in (pair, pair[2:]):  # the runs are found in the record of the maps where they are not given
        context = open_context(given)
        opened = context.all(MapsFolder)
        assert [maps.name for maps in opened] == ["Restorer and PCA", "PCA"]
        assert opened[0].title("residual") == "Restorer and PCA"
        assert opened[0].title("deformation") == "Restorer and PCA (registration alone)"
        assert opened[1].title("deformation") == "PCA"
        assert opened[1].title("contrast") == "PCA (registration alone)"
    text = str(provenance.section(context).blocks)
    assert all(f"{kind} of T1w" in text for kind in KINDS)
    assert not is_baseline("Restorer and PCA")
    assert is_baseline("PCA and Voxelwise regression, maps2")


def test_volume_without_a_model_is_marked_as_registration_alone(pair: tuple[Path, ...]) -> None:
    found = summary.section(open_context(pair, 0))
    assert found is not None
    lead = found.blocks[0].text
    assert "on lesion, Restorer and PCA is worse than PCA" in lead
    assert "on volume loss" not in lead  # there is one model of volume, so nothing to compare it with
    others = next(row for row in found.numbers["best_by_condition"] if row["direction"] == "loss")["others"]
    assert [row["model"] for row in others] == ["Restorer and PCA (registration alone)"]


def test_clusters_have_a_p_against_controls(page: Page) -> None:
    assert "p 0.048 among the heaviest clusters of the controls." in page.text.replace("\N{NO-BREAK SPACE}", " ")
    assert "Clusters of voxels with |z| above 3.1" in page.text


def test_change_between_sessions(page: Page, metrics: dict[str, Any]) -> None:
    found = metrics["change"]["VAE"]
    lost = next(row for row in found["pairs"] if row["subject"] == "L0" and row["channel"] == "deformation")
    assert (lost["num_changed"], lost["num_regions"]) == (1, 5)
    assert lost["strongest"]["region"] == "left hippocampus"
    assert all(row["num_changed"] == 0 for row in found["pairs"] if row is not lost)
    agreement = {row["channel"]: row for row in found["agreement"]}
    assert agreement["deformation"]["icc_quartiles"][1] == pytest.approx(0.95)
    assert agreement["deformation"]["sd_within_quartiles"][1] == pytest.approx(100 * np.expm1(0.012))
    assert "L0, session 1 to 2, 1.5 years" in page.text
    assert "\N{MINUS SIGN}12.0 %" in page.text


def test_a_person_is_shown_with_the_range_of_other_controls(world: World, metrics: dict[str, Any]) -> None:
    subjects = pd.read_csv(world["maps/vae"] / "subjects.tsv", sep="\t", dtype={"subject": str})
    effects = pd.read_csv(world["maps/vae"] / "regions.tsv", sep="\t").merge(subjects[["key", "subject", "diagnosis"]])
    for person in metrics["people"]["shown"]:
        subject = subjects.set_index("key").at[person["key"], "subject"]
        for row in person["regions"]:
            chosen = (effects["channel"] == row["channel"]) & (effects["region"] == row["region"])
            others = effects[chosen & (effects["diagnosis"] == "CN") & (effects["subject"] != subject)]["effect"]
            assert row["controls_5_95"] == pytest.approx(np.percentile(others, [5, 95]).tolist(), rel=1e-3)


def test_values_that_are_not_numbers_are_null(report: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads((report / "metrics.json").read_text(), parse_constant=refuse)


def test_missing_inputs_are_listed_with_their_verb(world: World, tmp_path: Path) -> None:
    out = Report(inputs=(world["prepared"],), out=tmp_path / "report", title="Only <scans> & co").run()
    page = Page((out / "index.html").read_text(encoding="utf-8"))
    assert "Not included" in page.titles
    for title, verb in [(each.title, each.given_by) for each in (summary.section, *all_sections())]:
        if title != "Cohort":
            assert f"{title}: needs a folder of {verb}".replace("`", "").replace("  ", " ") in page.text.replace(
                " :", ":"
            )
    assert "Only <scans> & co" in page.text


def test_finished_work_is_left_alone_and_equal_inputs_give_equal_pages(world: World, tmp_path: Path) -> None:
    inputs = (world["reconstructed"], world["runs/vae"], world["prepared"])
    first = Report(inputs=inputs, out=tmp_path / "first", subjects_shown=2).run() / "index.html"
    second = Report(inputs=inputs, out=tmp_path / "second", subjects_shown=2).run() / "index.html"
    assert first.read_bytes() == second.read_bytes()
    before = first.stat().st_mtime_ns
    Report(inputs=inputs, out=tmp_path / "first", subjects_shown=2).run()
    assert first.stat().st_mtime_ns == before
    with pytest.raises(UserError, match="other settings"):
        Report(inputs=inputs, out=tmp_path / "first", subjects_shown=3).run()


def test_maps_without_prepared_and_a_person_without_z(world: World, tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    shutil.copytree(world["maps/pca"], maps)
    table = pd.read_csv(maps / "subjects.tsv", sep="\t", dtype=str, keep_default_na=False)
    row = table.index[table["diagnosis"] == "AD"][0]
    key = table.at[row, "key"]
    scored = [name for name in table.columns if "score_" in name or "percentile_" in name or name.startswith("voxels_")]
    table.loc[row, [*scored, "latent_d"]] = "n/a"
    table.loc[row, "flags"] = "site Z has no calibration controls"
    table.to_csv(maps / "subjects.tsv", sep="\t", index=False)
    for path in (maps / "maps").glob(f"{key}_*"):
        path.unlink()
    out = Report(inputs=(maps,), out=tmp_path / "report", subjects_shown=1).run()
    page = Page((out / "index.html").read_text(encoding="utf-8"))
    found = json.loads((out / "metrics.json").read_text())
    ad = next(item for item in found["scores"]["auc"] if item["group"] == "AD")
    assert ad["num_people"] == PATIENTS["AD"] - 1
    assert "1 person got no z map" in page.text


def test_without_held_out_controls_nothing_is_claimed(world: World, tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.mkdir()
    for name in ("artefact.json", "regions.tsv", "calibration.json"):
        shutil.copy(world["maps/pca"] / name, maps / name)
    table = pd.read_csv(world["maps/pca"] / "subjects.tsv", sep="\t", dtype=str, keep_default_na=False)
    table[table["role"] != "test"].to_csv(maps / "subjects.tsv", sep="\t", index=False)
    out = Report(inputs=(maps, world["prepared"]), out=tmp_path / "report").run()
    page = Page((out / "index.html").read_text(encoding="utf-8"))
    found = json.loads((out / "metrics.json").read_text())
    assert all(row["auc"]["value"] is None for row in found["scores"]["auc"])
    assert "No AUC can be given: the maps hold no held-out controls" in page.text
    assert page.text.count("too few for a comparison") == len(PATIENTS)


def test_a_folder_that_is_no_artefact_is_one_sentence(tmp_path: Path, world: World) -> None:
    (tmp_path / "stray").mkdir()
    for folder, words in ((tmp_path / "stray", "holds no artefact.json"), (tmp_path / "none", "no such folder")):
        with pytest.raises(UserError, match=words):
            Report(inputs=(world["prepared"], folder), out=tmp_path / "report").run()
    assert not (tmp_path / "report").exists()


def test_a_folder_that_never_finished_is_refused(tmp_path: Path, world: World) -> None:
    shutil.copytree(world["runs/pca"], tmp_path / "run")
    record = json.loads((tmp_path / "run" / "artefact.json").read_text())
    (tmp_path / "run" / "artefact.json").write_text(json.dumps(record | {"status": "running"}))
    with pytest.raises(UserError, match="never finished"):
        Report(inputs=(tmp_path / "run",), out=tmp_path / "report").run()


def test_every_waived_safeguard_is_a_limit(world: World, tmp_path: Path) -> None:
    shutil.copytree(world["maps/vae"], tmp_path / "vae")
    record = json.loads((tmp_path / "vae" / "artefact.json").read_text())
    write_json(tmp_path / "vae" / "artefact.json", record | {"waivers": ["few_site_controls=allow"]})
    for folder, waivers in ((world["maps/vae"], []), (tmp_path / "vae", ["few_site_controls=allow"])):
        limits = provenance.section(open_context((folder,), 1)).blocks[0].items
        expected = [f"A safeguard was waived: {waiver} in {folder}." for waiver in waivers]
        assert [text for text in limits if "waived" in text] == expected
