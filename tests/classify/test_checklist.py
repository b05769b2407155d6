"""The checklist says what the record says, and leaves the rest to the authors."""

from __future__ import annotations

from typing import Any

import pytest

from gen3d import __version__
from gen3d.classify.scores.checklist import (
    AUTHORS,
    COLUMNS,
    DONE,
    ITEMS,
    NOT_APPLICABLE,
    SENTENCES,
    STATUS,
    checklist,
    placeholders,
    record_values,
    rows_of,
)

TRIPOD_ITEMS = (
    "1 2 3a 3b 3c 4 5a 5b 6a 6b 6c 7 8a 8b 8c 9a 9b 9c 10 11 12a 12b 12c 12d 12e 12f 12g 13 14 15 16 17 "
    "18a 18b 18c 18d 18e 18f 19 20a 20b 20c 21 22 23a 23b 24 25 26 27a 27b 27c"
)

SETTINGS: dict[str, Any] = {
    "folds": 5,
    "repeats": 10,
    "seed": 7,
    "bootstrap": 2000,
    "split": "folds",
    "threshold": "prevalence",
    "harmonise": {"unknown": "refuse"},
    "external": None,
}


def metrics(**changes: Any) -> dict[str, Any]:
    record: dict[str, Any] = {
        "target": {"name": "diagnosis", "task": "categories", "classes": ["CN", "AD"]},
        "summary": ["logistic separates AD from CN.", "More."],
        "people": {
            "num_people": 200,
            "num_scans": 240,
            "by_class": {"CN": 120, "AD": 80},
            "left_out": ["3 scans without diagnosis were left out."],
        },
        "guard": {"seen_policy": "waive", "num_seen": 12, "waivers": ["12 people were seen"], "duplicates": [{}]},
        "models": [
            {"name": "logistic", "kind": "head", "features": "latents", "settings": [{"C": 1, "count": 50}]},
            {"name": "hippocampus_ml", "kind": "baseline", "features": "a volume", "settings": []},
        ],
        "tables": {
            "performance": [{"measure": "auc"}, {"measure": "brier"}],
            "differences": [{}],
            "permutation": [{"num_permutations": 1000}],
            "reliability": [{}],
            "confusion": [{}],
            "subgroups": [{"column": "site", "group": "a"}, {"column": "site", "group": "b"}],
        },
    }
    return record | changes


def texts(record: dict[str, Any], settings: dict[str, Any]) -> dict[str, tuple[str, str]]:
    table = checklist(record, settings)
    assert tuple(table.columns) == COLUMNS
    assert set(table["status"]) <= {DONE, AUTHORS, NOT_APPLICABLE}
    rows = table[table["guideline"] == "TRIPOD+AI"]
    return {row["item"]: (row["status"], row["text"]) for row in rows.to_dict("records")}


def test_every_item_once_and_claim_by_topic() -> None:
    table = checklist(metrics(), SETTINGS)
    assert table[table["guideline"] == "TRIPOD+AI"]["item"].str.cat(sep=" ") == TRIPOD_ITEMS
    assert {item.rstrip("abcdefg") for item in TRIPOD_ITEMS.split()} == {str(number) for number in range(1, 28)}
    claim = table[table["guideline"] == "CLAIM 2024"]
    assert (claim["item"] == "").all()
    assert claim["topic"].is_unique
    assert len(claim) > 20


def test_the_record_is_reported() -> None:
    found = texts(metrics(), SETTINGS)
    assert "200 people (CN 120, AD 80) with 240 scans" in found["21"][1]
    assert found["11"] == (DONE, "3 scans without diagnosis were left out.")
    status, text = found["12a"]
    assert status == DONE
    assert "5 stratified folds, repeated 10 times" in text
    assert "policy waive; 12 were training people" in text
    assert "1 pairs looked like one person" in text
    assert "Waived by the user: 12 people were seen." in text
    assert "auc, brier" in found["12e"][1]
    assert "1000 permutations" in found["12e"][1]
    assert "site" in found["23b"][1]
    assert f"gen3d {__version__}, seed 7" in found["18f"][1]
    assert "2 sites" in found["6a"][1]
    assert "ComBat" in found["7"][1]
    assert "logistic separates AD from CN." in found["25"][1]
    assert "12 people were seen." in found["26"][1]


def test_what_only_authors_know_is_left_to_them() -> None:
    found = texts(metrics(), SETTINGS)
    for item in ("1", "3a", "5b", "6c", "8b", "17", "18a", "18b", "18d", "19", "27c"):
        assert found[item] == (AUTHORS, "")
    for item in ("8a", "10", "13", "14", "20b", "25", "26"):  # facts are offered, the item is still theirs
        assert found[item][0] == AUTHORS
        assert found[item][1]


@pytest.mark.parametrize(
    ("kept", "external", "status", "text"),
    [
        (True, None, DONE, "head/ holds the fitted head for `gen3d predict`."),
        (False, None, AUTHORS, "No head for new people is in this folder"),
        (False, ["other"], DONE, "The head that was tested is in the folder given as fit="),
    ],
)
def test_whether_others_can_predict_is_what_the_folder_holds(
    kept: bool, external: list[str] | None, status: str, text: str
) -> None:
    found = texts(metrics(head_kept=kept), SETTINGS | {"external": external})
    assert found["22"][0] == status
    assert found["22"][1].startswith(text)
    assert ("head/ holds" in found["12g"][1]) == kept


def test_every_sentence_and_value_of_the_tables_exists() -> None:
    """A placeholder without a sentence would be left out in silence."""
    rows = {name: list(rows_of(name)) for name in (ITEMS, SENTENCES)}
    sentences = {row["name"] for row in rows[SENTENCES]}
    values = record_values(metrics(), SETTINGS)
    for row in rows[ITEMS]:
        assert set(placeholders(row["text"])) <= sentences, row
    for row in rows[SENTENCES]:
        assert set(placeholders(row["text"])) <= set(values), row
    assert {row["when"] for table in rows.values() for row in table} - {""} <= set(values)
    assert {row["status"] for row in rows[ITEMS]} <= set(STATUS)


def test_an_empty_record_claims_nothing() -> None:
    table = checklist({}, {})
    done = table[table["status"] == DONE]
    assert set(done["topic"]) == {
        "how predictions were calculated",
        "software and versions",
    }
    assert "Nothing was waived" not in " ".join(table["text"])


@pytest.mark.parametrize(("unknown", "said"), [("refuse", False), ("controls", True)])
def test_external_people_and_their_harmonisation(unknown: str, said: bool) -> None:
    settings = SETTINGS | {"external": ["other"], "harmonise": {"unknown": unknown}}
    found = texts(metrics(), settings)
    assert "outside its training set" in found["12a"][1]
    assert "stratified folds" not in found["12a"][1]
    assert ("the controls of that site" in found["12b"][1]) == said
    assert found["12f"] == (DONE, "The head was not updated.")


def test_numbers_and_sites() -> None:
    record = metrics(target={"name": "age_years", "task": "number", "classes": []}, guard={"waivers": []})
    found = texts(record, SETTINGS | {"split": "sites", "harmonise": None})
    assert "one site left out at a time" in found["12a"][1]
    assert found["15"] == (DONE, "A number, in the units of the cohort table.")
    assert "ComBat" not in found["7"][1]
