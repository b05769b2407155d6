"""Trackers of trainings: what they hold, that they go on after an interruption, and that a training outlives them."""

from __future__ import annotations

import json
import shutil
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.numpy import load_file

from gen3d.core.artefact import digest, read, record_of
from gen3d.core.errors import UserError
from gen3d.models.run_folder import SUBJECTS, weights_path
from gen3d.train.batches import Batches
from gen3d.train.log import figures_of, read_log
from gen3d.train.tracking import mlflow_store
from gen3d.train.tracking.recording import IDS
from gen3d.train.tracking.sinks import TRACKED_WITHIN
from gen3d.train.tracking.tensorboard import BOARD
from gen3d.train.tracking.trackers import SINKS
from gen3d.train.tracking.wandb_files import entries_of, files_of
from gen3d.train.train import Train
from tests.train.launching import settings, train_with
from tests.train.mlflow_server import TrackingServer, tracking_server
from tests.train.wandb_records import begun_in, records_of, rows_of, values_of

STEPS = 6
OPTIM = {"steps": STEPS, "batch_size": 2}
WARNING = "the record of this training stops there"
REASONS = {
    "read_only": "(sqlite3.OperationalError) attempt to write a readonly database",
    "folder": "(sqlite3.OperationalError) unable to open database file",
}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without a run, which takes MLflow seconds to make."""
    pytest.importorskip("mlflow")
    home = tmp_path_factory.mktemp("tables")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(mlflow_store.URI, raising=False)
        mlflow_store.open_store(home)
    return home / mlflow_store.DATABASE


@pytest.fixture
def home(tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a store in it, from which nothing may leave."""
    for name in (mlflow_store.URI, "MLFLOW_EXPERIMENT_NAME", "WANDB_MODE", "WANDB_PROJECT", TRACKED_WITHIN):
        monkeypatch.delenv(name, raising=False)
    shutil.copy(tables, tmp_path / mlflow_store.DATABASE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def train(cohort: Path, small_vae: dict[str, Any], home: Path) -> Callable[..., Path]:
    """Train a small VAE, or another model, with these trackers."""

    def run(out: str, track: list[str], **settings: Any) -> Path:
        engine = {"precision": "fp32", "checkpoint_every": 4}
        tree = {"prepared": str(cohort), "model": small_vae, "optim": OPTIM, "engine": engine, "log_every": 1}
        return Train.model_validate({**tree, "out": home / out, "track": track, **settings}).run()

    return run


@pytest.fixture
def pca(train: Callable[..., Path]) -> Callable[..., Path]:
    """Fit a quick model, or a family of them."""

    def run(out: str, track: list[str], members: int = 1) -> Path:
        return train(out, track, model={"kind": "pca", "num_components": 2}, cross_fit=members)

    return run


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, Callable[[], None]], None]]:
    """Let something happen before the batch of a step is made, once."""
    usual = Batches.at
    planned: dict[int, Callable[[], None]] = {}

    def at(self: Batches, step: int, part: int) -> Any:
        planned.pop(step, lambda: None)()
        return usual(self, step, part)

    monkeypatch.setattr(Batches, "at", at)
    yield planned.__setitem__
    assert not planned, "a step that something was planned for was not reached"


def ids_of(folder: Path, tracker: str = "mlflow") -> dict[str, str]:
    return dict((record_of(folder) or {})[IDS][tracker])


def run_of(home: Path, run: str) -> Any:
    return mlflow_store.open_store(home).client.get_run(run)


def history(home: Path, run: str, name: str) -> list[tuple[int, float]]:
    entries = mlflow_store.open_store(home).client.get_metric_history(run, name)
    return [(entry.step, entry.value) for entry in entries]


def logged(folder: Path, name: str) -> list[tuple[int, float]]:
    return [(entry["step"], entry[name]) for entry in read_log(folder / "log.jsonl")]


def test_trackers_hold_the_log_the_settings_the_pictures_and_the_hashes(
    home: Path, cohort: Path, train: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train("runs/vae", ["mlflow", "tensorboard"], picture_every=STEPS)
    run = run_of(folder.parent, ids_of(folder)["run"])
    assert run.info.run_name == "vae"
    assert run.info.status == "FINISHED"
    last = figures_of(read_log(folder / "log.jsonl")[-1])
    assert run.data.metrics == pytest.approx(last)
    assert history(folder.parent, run.info.run_id, "loss") == logged(folder, "loss")
    assert run.data.params["optim.steps"] == str(STEPS)
    assert run.data.params["model.kind"] == "vae"
    record = record_of(folder) or {}
    assert run.data.tags["gen3d.key"] == record["key"]
    assert run.data.tags["gen3d.input.prepared"] == (record_of(cohort) or {})["key"]
    sealed = record["files"]["members/0/model.safetensors"].split()[-1]
    assert run.data.tags["gen3d.sha256.members/0/model.safetensors"] == sealed
    files = {path.name for path in (folder.parent / mlflow_store.ARTIFACTS).rglob("*") if path.is_file()}
    assert files == {"settings.json", f"member_0_step_{STEPS:06d}.png"}
    assert {path.name for path in home.iterdir()} == {mlflow_store.DATABASE, "runs"}, "something was written elsewhere"
    assert "warning" not in capsys.readouterr().err
    _tensorboard_holds_the_same(folder, sealed, run.data.tags["gen3d.people"])


def board_of(folder: Path) -> Any:
    """What TensorBoard shows of a member."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder / BOARD / "member_0"))
    board.Reload()
    return board


def _tensorboard_holds_the_same(folder: Path, sealed: str, people: str) -> None:
    board = board_of(folder)
    losses = [(entry.step, entry.value) for entry in board.Scalars("loss")]
    assert [step for step, _ in losses] == [step for step, _ in logged(folder, "loss")]
    assert [value for _, value in losses] == pytest.approx([value for _, value in logged(folder, "loss")], rel=1e-6)
    (picture,) = board.Images("picture")
    with Image.open(next((folder / "pictures").glob("*.png"))) as drawn:
        assert (picture.step, picture.width, picture.height) == (STEPS, *drawn.size)
    texts = {tag: board.Tensors(tag)[-1].tensor_proto.string_val[0].decode() for tag in board.Tags()["tensors"]}
    assert "| model.kind | vae |" in texts["settings/text_summary"]
    assert f"| members/0/model.safetensors | {sealed} |" in texts["hashes/text_summary"]
    assert f"| gen3d.people | {people} |" in texts["hashes/text_summary"]


def test_trackers_change_neither_the_key_nor_the_weights(train: Callable[..., Path], home: Path) -> None:
    plain, tracked = train("plain", []), train("tracked", ["mlflow", "tensorboard"])
    assert read(plain).key == read(tracked).key
    one, other = (load_file(weights_path(folder, 0)) for folder in (plain, tracked))
    assert all((one[name] == other[name]).all() for name in one)
    assert IDS not in (record_of(plain) or {})
    assert train("tracked", []) == tracked, "another track= is the same work"


def test_a_training_that_goes_on_goes_on_with_its_record(
    train: Callable[..., Path], at_step: Callable[[int, Callable[[], None]], None], home: Path
) -> None:
    """It fails after step 5 with a checkpoint of step 4, so step 5 is made twice and must be recorded once."""

    def fail() -> None:
        raise UserError("the machine fails")

    at_step(5, fail)
    with pytest.raises(UserError, match="the machine fails"):
        train("vae", ["mlflow", "tensorboard"])
    folder = home / "vae"
    ids = ids_of(folder)
    assert run_of(home, ids["run"]).info.status == "FAILED"
    assert [step for step, _ in history(home, ids["run"], "loss")] == [1, 2, 3, 4, 5]
    train("vae", ["mlflow", "tensorboard"])
    assert ids_of(folder) == ids
    assert run_of(home, ids["run"]).info.status == "FINISHED"
    assert history(home, ids["run"], "loss") == logged(folder, "loss")
    assert [step for step, _ in history(home, ids["run"], "loss")] == [1, 2, 3, 4, 5, 6]
    assert [entry.step for entry in board_of(folder).Scalars("loss")] == [1, 2, 3, 4, 5, 6]


def test_members_are_runs_within_that_of_their_family(pca: Callable[..., Path], home: Path) -> None:
    folder = pca("pca", ["mlflow"], 3)
    ids = ids_of(folder)
    members = [run_of(home, ids[f"member {member}"]) for member in range(3)]
    assert {member.data.tags["mlflow.parentRunId"] for member in members} == {ids["run"]}
    assert all(member.info.status == "FINISHED" for member in (*members, run_of(home, ids["run"])))
    assert [member.data.metrics["volumes"] for member in members] == [
        entry["volumes"] for entry in read_log(folder / "log.jsonl")
    ]
    tags = [
        member.data.tags[f"gen3d.sha256.members/{number}/model.safetensors"] for number, member in enumerate(members)
    ]
    assert len(set(tags)) == 3


def test_trials_are_runs_within_that_of_their_sweep(
    pca: Callable[..., Path], home: Path, tables: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = home / "sweep"
    monkeypatch.setenv(TRACKED_WITHIN, str(sweep))
    folders = [pca(f"sweep/trials/{number:04d}/train", ["mlflow"]) for number in range(2)]
    runs = [run_of(home, ids_of(folder)["run"]) for folder in folders]
    (parent,) = {run.data.tags["mlflow.parentRunId"] for run in runs}
    assert run_of(home, parent).info.run_name == "sweep"
    assert [run.info.run_name for run in runs] == ["trials/0000/train", "trials/0001/train"]


def test_a_store_that_breaks_in_the_middle_stops_the_record_and_not_the_training(
    train: Callable[..., Path],
    at_step: Callable[[int, Callable[[], None]], None],
    home: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    at_step(3, lambda: (home / mlflow_store.DATABASE).write_bytes(b"nothing of a database" * 4096) and None)
    folder = train("vae", ["mlflow"])
    said = capsys.readouterr().err
    assert said.count("warning") == 1
    assert f"MLflow: {WARNING} at step 4" in said
    assert "Traceback" not in said
    assert read(folder).summary["members"] == 1
    assert [step for step, _ in logged(folder, "loss")] == list(range(1, STEPS + 1))


@pytest.mark.parametrize("fault", [TrackingServer.end, TrackingServer.freeze])
def test_a_server_that_is_taken_away_in_the_middle_costs_its_record_alone(
    fault: Callable[[TrackingServer], None],
    train: Callable[..., Path],
    at_step: Callable[[int, Callable[[], None]], None],
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It answers until three steps are recorded; then it refuses, or never answers again."""
    plain = train("plain", [])
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with tracking_server(home / "files") as server:
        monkeypatch.setenv(mlflow_store.URI, server.address)
        at_step(3, lambda: fault(server))
        capsys.readouterr()
        folder = train("vae", ["mlflow"])
        address, recorded = server.address, [row["step"] for row in server.metrics if row["key"] == "loss"]
    said = capsys.readouterr().err
    assert recorded == [1, 2, 3]
    assert said.count("warning") == len(said.splitlines()) == 1, said
    assert f"MLflow: {WARNING} at step 4 (API request to {address}" in said
    assert [step for step, _ in logged(folder, "loss")] == list(range(1, STEPS + 1))
    assert (read(folder).key, read(folder).summary["members"]) == (read(plain).key, 1)
    one, other = (load_file(weights_path(run, 0)) for run in (plain, folder))
    assert all((one[name] == other[name]).all() for name in one)


def test_a_store_that_cannot_be_used_costs_one_sentence(
    pca: Callable[..., Path],
    home: Path,
    tables: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A server that refuses, one that never answers, a store that is read-only, and a place that is a folder."""
    with socket.socket() as silent, socket.socket() as closed:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        (home / "taken").mkdir()
        places = {
            "refusing": f"http://127.0.0.1:{closed.getsockname()[1]}",
            "silent": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "read_only": f"sqlite:///file:{tables}?mode=ro&uri=true",
            "folder": f"sqlite:///{home / 'taken'}",
        }
        for name, place in places.items():
            monkeypatch.setenv(mlflow_store.URI, place)
            folder = pca(name, ["mlflow"])
            said = capsys.readouterr().err
            assert said.count("warning") == 1, (name, said)
            assert f"MLflow: {WARNING} from the beginning ({REASONS.get(name, '')}" in said, name
            assert len(said.splitlines()) == 1, said
            assert read(folder).summary["members"] == 1


def test_a_tracker_that_is_not_installed_says_how_to_install_it(
    pca: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    modules = {"tracking": "torch.utils.tensorboard", "mlflow": "mlflow", "wandb": "wandb"}
    for module in modules.values():
        monkeypatch.setitem(sys.modules, module, None)
    folder = pca("pca", ["tensorboard", "mlflow", "wandb"])
    said = capsys.readouterr().out
    for extra in modules:
        assert f"pip install 'gen3d[{extra}]'" in said
    assert read(folder).summary["members"] == 1


def test_wandb_writes_files_of_its_own_and_sends_nothing(home: Path, cohort: Path, train: Callable[..., Path]) -> None:
    pytest.importorskip("wandb")
    folder = train("vae", ["wandb"], picture_every=STEPS)
    (path,) = (home / "wandb").glob("offline-run-*/run-*.wandb")
    run = begun_in(path)
    assert run.run_id == ids_of(folder, "wandb")["member 0"]
    assert (run.display_name, run.run_group) == ("vae", "vae")
    assert rows_of(path, "loss") == logged(folder, "loss")
    assert [step for step, _ in rows_of(path, "picture/path")] == [STEPS]
    assert list((path.parent / "files" / "media").rglob("*.png"))
    config, record = values_of(run.config.update), record_of(folder) or {}
    assert (config["model.kind"], config["optim.steps"]) == ("vae", STEPS)
    assert config["gen3d.key"] == record["key"]
    assert config["gen3d.input.prepared"] == (record_of(cohort) or {})["key"]
    assert config["gen3d.people"] == digest(json.loads((folder / SUBJECTS).read_text()))
    summary: dict[str, Any] = {}
    for entry in records_of(path):
        summary |= values_of(entry.summary.update)
    assert summary["sha256/members/0/model.safetensors"] == record["files"]["members/0/model.safetensors"].split()[-1]


def test_wandb_goes_on_in_another_file_in_which_no_step_is_a_second_time(
    train: Callable[..., Path], at_step: Callable[[int, Callable[[], None]], None], home: Path
) -> None:
    """As with MLflow, step 5 is made twice; a picture is drawn of it each time."""
    pytest.importorskip("wandb")

    def fail() -> None:
        raise UserError("the machine fails")

    at_step(5, fail)
    with pytest.raises(UserError, match="the machine fails"):
        train("vae", ["wandb"], picture_every=1)
    folder = home / "vae"
    (first,) = files_of(home, ids_of(folder, "wandb")["member 0"])
    train("vae", ["wandb"], picture_every=1)
    paths = files_of(home, ids_of(folder, "wandb")["member 0"])
    assert paths[0] == first
    assert [[step for step, _ in rows_of(path, "loss")] for path in paths] == [[1, 2, 3, 4, 5], [6]]
    assert [[step for step, _ in rows_of(path, "picture/path")] for path in paths] == [[1, 2, 3, 4, 5], [6]]
    assert [row for path in paths for row in rows_of(path, "loss")] == logged(folder, "loss")
    of_wandb = [record.history.step.num for path in paths for record in records_of(path) if record.history.item]
    assert of_wandb == [1, 2, 3, 4, 5, 6], "a server would join the files by these"


@pytest.mark.parametrize("lengths", [(10, 40_000, 90_000), (32_768 - 7 - 7, 5), (32_768 - 7 - 7 - 7 - 3, 5)])
def test_a_file_of_wandb_is_read_to_where_a_killed_process_left_it(tmp_path: Path, lengths: tuple[int, ...]) -> None:
    """Entries in several blocks, and ones that end with a block or a few bytes before its end."""
    entries = [bytes([65 + number]) * length for number, length in enumerate(lengths)]
    data = b":W&B\xe1\xbe\x00"
    for entry in entries:
        left, is_first = entry, True
        while left or is_first:
            if (room := 32_768 - len(data) % 32_768) < 7:
                data, room = data + bytes(room), 32_768
            part, left = left[: room - 7], left[room - 7 :]
            kind = (1 if is_first else 4) if not left else (2 if is_first else 3)
            data, is_first = data + struct.pack("<IHB", 0, len(part), kind) + part, False
    path = tmp_path / "run.wandb"
    path.write_bytes(data)
    assert list(entries_of(path)) == entries
    path.write_bytes(data[:-1])
    assert list(entries_of(path)) == entries[:-1]


@pytest.mark.multi
@pytest.mark.slow
def test_of_two_processes_the_first_alone_records(cohort: Path, home: Path) -> None:
    """A whole training, and one that is stopped after step 5 and goes on from there."""
    pytest.importorskip("wandb")
    whole, stopped = (settings(cohort, home / name, track=list(SINKS)) for name in ("whole", "stopped"))
    ends = train_with(2, [whole, stopped | {"stop": [1, 4]}, stopped], home / "processes")
    assert ends[1].startswith("stopped by SIGUSR1 after step 5 of 12")
    assert (ends[0], ends[2]) == ("", "")
    store = mlflow_store.open_store(home)
    runs = {run.info.run_name: run.info for run in store.client.search_runs([store.experiment()])}
    assert len(store.client.search_runs([store.experiment()])) == len(runs) == 2
    for name, num_starts in (("whole", 1), ("stopped", 2)):
        assert runs[name].status == "FINISHED"
        assert history(home, runs[name].run_id, "loss") == logged(home / name, "loss")
        assert [step for step, _ in logged(home / name, "loss")] == list(range(1, 13))
        boards = sorted((home / name / BOARD / "member_0").iterdir())
        assert len(boards) == num_starts
        curve = [step for path in boards for step in scalar_steps(path, "loss")]
        assert curve == list(range(1, 13))
        files = files_of(home, ids_of(home / name, "wandb")["member 0"])
        assert len(files) == num_starts
        assert [row for path in files for row in rows_of(path, "loss")] == logged(home / name, "loss")
    assert len(list((home / "wandb").glob("offline-run-*"))) == 3


def scalar_steps(path: Path, name: str) -> list[int]:
    """The steps of a figure in one event file of TensorBoard."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    events = EventFileLoader(str(path)).Load()
    return [event.step for event in events for value in event.summary.value if value.tag == name]


def test_mlflow_is_given_up_within_seconds_and_reports_to_nobody(
    tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The seconds that are waited for a server are MLflow's settings; those for a database are counted, not slept."""
    for name in ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        monkeypatch.delenv(name, raising=False)
    mlflow_store.load_mlflow()
    from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_HTTP_REQUEST_TIMEOUT
    from mlflow.telemetry.utils import is_telemetry_disabled

    assert MLFLOW_HTTP_REQUEST_TIMEOUT.get() * (1 + MLFLOW_HTTP_REQUEST_MAX_RETRIES.get()) <= 20
    assert is_telemetry_disabled()
    waits: list[float] = []
    monkeypatch.setattr("mlflow.store.db.utils.time.sleep", waits.append)
    monkeypatch.setenv(mlflow_store.URI, f"sqlite:///{tmp_path}")  # a folder
    with pytest.raises(Exception, match="unable to open database file"):
        mlflow_store.open_store(tmp_path)
    assert 0 < sum(waits) <= 5


def test_settings_of_track(cohort: Path, home: Path) -> None:
    tree = {"prepared": str(cohort), "out": str(home / "run"), "model": {"kind": "pca"}}
    assert Train.model_validate(tree).track == ("tensorboard",)
    assert Train.model_validate(tree | {"track": "mlflow"}).track == ("mlflow",)
    with pytest.raises(ValueError, match="track"):
        Train.model_validate(tree | {"track": ["neptune"]})
