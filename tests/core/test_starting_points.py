"""`configs/...` on a command line: the user's own file, else the one that comes with gen3d, else a sentence that helps."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from gen3d.cli import main
from gen3d.core.config import read_yaml
from gen3d.core.errors import UserError
from gen3d.core.package_data import checkout, configs_folder
from gen3d.core.starting_points import config_file, names_below, starting_points_of
from gen3d.verbs import VERBS

ROOT = Path(__file__).parents[2]
FILE = "configs/simulate/demo.yaml"


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    return tmp_path / "empty"


def own_file(text: str) -> None:
    Path(FILE).parent.mkdir(parents=True)
    Path(FILE).write_text(text)


def test_one_line_says_which_file_is_read_and_it_is_no_part_of_what_is_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["simulate", FILE, "out=x", "--show"]) == 0
    shown, told = capsys.readouterr()
    assert yaml.safe_load(shown)["out"] == "x"
    assert told.splitlines() == [
        f"{FILE}: not in the working directory; reading {ROOT / FILE}, which comes with gen3d."
    ]


def test_a_file_in_the_working_directory_goes_first(capsys: pytest.CaptureFixture[str]) -> None:
    own_file("subjects: 7\n")
    assert main(["simulate", FILE, "out=x", "--show"]) == 0
    shown, told = capsys.readouterr()
    assert yaml.safe_load(shown)["subjects"] == 7
    assert told == ""


def test_settings_that_name_other_settings_find_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert read_yaml(Path("configs/train/pca.yaml"))["model"]["kind"] == "pca"
    words = ["configs/sweep/vae_rate.yaml", "prepared=p", "out=x", "--show"]
    assert main(["sweep", *words]) == 0
    assert "reading" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "name", ["configs/train/../train/pca.yaml", "elsewhere/configs/train/pca.yaml", "train/pca.yaml"]
)
def test_only_a_plain_path_below_configs_is_looked_for(name: str) -> None:
    with pytest.raises(UserError, match=r"no such configuration file.*did you mean configs/train/pca\.yaml\?$"):
        config_file(Path(name), "train")


def test_a_link_that_leads_nowhere_is_not_replaced() -> None:
    own_file("")
    Path(FILE).unlink()
    Path(FILE).symlink_to("gone.yaml")
    with pytest.raises(UserError, match="no such configuration file"):
        config_file(Path(FILE))


@pytest.mark.parametrize(
    ("name", "verb", "hint"),
    [
        ("configs/train/pcaa.yaml", "train", "lists those that come with gen3d; did you mean configs/train/pca.yaml?"),
        ("configs/trian/pca.yaml", "train", "did you mean configs/train/pca.yaml?"),
        ("configs/pca.yml", "train", "did you mean configs/train/pca.yaml?"),
        ("configs/debug/train_pcaa.yaml", "train", "did you mean configs/debug/train_pca.yaml?"),
        ("vae_laptp.yaml", "", "lists those that come with gen3d; did you mean configs/train/vae_laptop.yaml?"),
        ("nowhere.yaml", "simulate", "`gen3d simulate --help` lists those that come with gen3d."),
        ("", "", "`gen3d <verb> --help` lists those that come with gen3d."),
    ],
)  # fmt: skip
def test_a_file_that_is_nowhere_has_its_nearest_named(name: str, verb: str, hint: str) -> None:
    with pytest.raises(UserError) as error:
        config_file(Path(name), verb)
    assert str(error.value).startswith(f"{Path(name)}: no such configuration file; `gen3d {verb}")
    assert str(error.value).endswith(hint)


def test_the_help_of_the_verbs_names_all_of_them_and_no_others(capsys: pytest.CaptureFixture[str]) -> None:
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yaml")}
    assert {f"configs/{name}" for name in names_below(configs_folder())} == files
    assert {f"configs/{one.path}" for verb in VERBS for one in starting_points_of(verb)} == files
    assert main(["simulate", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for one in starting_points_of("simulate"):
        assert f"configs/{one.path}" in shown
        assert one.purpose in shown or one.path.startswith("debug/")


def test_an_installed_package_has_them_inside_and_ignores_what_lies_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    for place in (site / "configs" / "train", site / "gen3d" / "configs" / "train"):
        place.mkdir(parents=True)
        (place / "pca.yaml").write_text(f"# {place}\n")
    (site / "README.md").touch()
    monkeypatch.setattr("gen3d.core.package_data.PACKAGE", site / "gen3d")
    assert checkout() is None
    assert config_file(Path("configs/train/pca.yaml")) == site / "gen3d" / "configs" / "train" / "pca.yaml"
    shutil.rmtree(site / "gen3d" / "configs")
    assert checkout() == site
    (site / "README.md").unlink()
    with pytest.raises(
        UserError, match=r"gen3d/configs is not there either, so this installation of gen3d is not whole"
    ):
        config_file(Path("configs/train/pca.yaml"))
