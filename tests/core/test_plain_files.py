"""JSON, YAML, tables and arrays that claim more than they hold, or mean more than one thing, end in a reason."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from gen3d.core import plain_files
from gen3d.core.arrays import read_array, read_arrays
from gen3d.core.errors import UserError
from gen3d.core.names import LONGEST, fault_of
from gen3d.core.plain_files import load_json, load_lines, load_object, load_yaml
from gen3d.core.tables import parse_table, read_cells, read_table

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{after}: &{after} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {k: 1}\n" + "".join(
    f"{after}: &{after} {{<<: [{', '.join([f'*{before}'] * 10)}], {after}{after}: 1}}\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "not JSON"),
        (b"", "not JSON"),
        (b'{"a": 1, "a": 2}', "`a` is given twice"),
        (b"[" * 100_000, "without end"),
        (b"[" * 500 + b"]" * 500, "without end"),
        (b"[1]", "holds a list"),
        ("{}".encode("utf-16"), "utf-8"),
        (b'{"a": NaN}', "holds the number nan"),
        (b'{"a": [1e999]}', "holds the number inf"),
    ],
)
def test_json_that_is_none_or_not_finite_has_a_reason(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        load_object(tmp_path / "a.json", finite=True)


def test_json_with_a_mark_and_lines_with_a_torn_end_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert load_json(tmp_path / "a.json") == {"a": 1}
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n[2]\n{"step": ')
    assert load_lines(tmp_path / "log.jsonl") == [{"step": 1}]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (LAUGHS, "unfolds to more than 200,000 values"),
        (MERGES, "unfolds to more than 200,000 values"),
        ("a: &a [*a]", "an alias that holds itself"),
        ("[" * 3000, "without end"),
        ("a: 1\na: 2", "`a` is given twice"),
        ("a: 2020-13-45", "month"),
        ("a: !!timestamp x", "a tag that its value does not fit"),
        ("? [a]\n: b", "unhashable"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
    ],
)
def test_yaml_that_unfolds_or_contradicts_itself_has_a_reason(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ValueError, match=reason):
        load_yaml(tmp_path / "a.yaml")


def test_anchors_in_use_are_fine(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: &a {x: 1}\nb: {<<: *a, x: 2}\n")
    assert load_yaml(tmp_path / "a.yaml") == {"a": {"x": 1}, "b": {"x": 2}}


def test_a_file_above_the_limit_is_not_read_and_the_limit_can_be_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "a.json").open("wb") as stream:
        stream.truncate(plain_files.GIB + 1)
    with pytest.raises(ValueError, match=r"it needs 1 GiB and 1 GiB are allowed; set GEN3D_LIMIT_GIB"):
        load_json(tmp_path / "a.json")
    monkeypatch.setenv(plain_files.LIMIT_VARIABLE, "0.00001")
    (tmp_path / "a.json").write_text("[" + "1," * 10_000 + "1]")
    with pytest.raises(ValueError, match="are allowed"):
        load_json(tmp_path / "a.json")
    monkeypatch.setenv(plain_files.LIMIT_VARIABLE, "much")
    with pytest.raises(UserError, match=r"GEN3D_LIMIT_GIB='much': not a number"):
        load_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a\tb\n1\t2\t3\n", "line 2 has 3 cells and the header 2"),
        ("a\tb\n1\t2\n1\n", "line 3 has 1 cells"),
        ("a\ta\n1\t2\n", "'a' is there twice"),
        ("a\tb\n1\0\t2\n", "NUL"),
        ("", "No columns"),
    ],
)
def test_a_table_that_would_be_guessed_at_has_a_reason(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text(text)
    with pytest.raises(ValueError, match=reason):
        parse_table(tmp_path / "a.tsv")


def test_quoted_cells_may_hold_tabs_and_line_ends(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('a\tb\n"x\ty"\t"1\n2"\n')
    assert parse_table(tmp_path / "a.tsv").iloc[0].tolist() == ["x\ty", "1\n2"]


@pytest.mark.parametrize(
    "key", ["../../x", "/etc/x", "..\\x", "a/b", "a\0b", "..", "a\nb", "x" * (LONGEST + 1), "é" * LONGEST], ids=ascii
)
def test_a_key_that_leads_elsewhere_is_refused_where_it_is_read(key: str, tmp_path: Path) -> None:
    assert fault_of(key)
    if "\0" in key:
        return
    (tmp_path / "a.tsv").write_text("n\tkey\n1\t" + (f'"{key}"' if "\n" in key else key) + "\n")
    with pytest.raises(UserError, match=r"a\.tsv: the key .* cannot be part of a file's name"):
        read_table(tmp_path / "a.tsv")


def test_a_scan_that_is_no_copy_of_another_has_no_base_and_needs_a_key(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("key\tbase\nk1\tn/a\nk2\tk1\n", encoding="utf-8")
    assert read_cells(path)["base"].tolist() == ["n/a", "k1"]
    path.write_text("key\tbase\nn/a\tk1\n", encoding="utf-8")
    with pytest.raises(UserError, match="the key 'n/a' cannot be part of a file's name"):
        read_cells(path)


@pytest.mark.parametrize("key", ["sub-A1_ses-1", "sub-北京_ses-2", "sub-José", "", "a b", "a..b"])
def test_keys_of_any_script_are_names(key: str) -> None:
    assert fault_of(key) == ""


def _npy(shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return stream.getvalue()


def test_an_array_that_promises_what_its_file_has_not_is_never_allocated(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(_npy((10**12,)) + bytes(400))
    for mapped in (False, True):
        with pytest.raises(ValueError, match="promises 4,000,000,000,000 bytes"):
            read_array(tmp_path / "a.npy", mapped)
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", _npy((10**12,)) + bytes(400))
    with pytest.raises(ValueError, match=r"x\.npy promises"):
        read_arrays(tmp_path / "a.npz")


def test_a_small_archive_that_unfolds_to_much_is_not_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", _npy((25_000_000,)) + bytes(100_000_000))
    with pytest.raises(ValueError, match=r"100,000,128 bytes when unpacked, in a file of"):
        read_arrays(tmp_path / "a.npz")


def test_arrays_come_back_and_objects_do_not(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((4, 5))
    np.savez_compressed(tmp_path / "a.npz", x=values, zeros=np.zeros((500, 500)))
    assert np.array_equal(read_arrays(tmp_path / "a.npz")["x"], values)
    np.save(tmp_path / "a.npy", values)
    assert np.array_equal(read_array(tmp_path / "a.npy", mapped=True), values)
    np.save(tmp_path / "b.npy", np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="objects"):
        read_array(tmp_path / "b.npy")
    for name, content in (("c.npz", b"PK\x03\x04 torn"), ("c.npy", b"none")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=r"."):
            (read_arrays if name.endswith("z") else read_array)(tmp_path / name)
