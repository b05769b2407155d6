"""A scan in a real browser and through a real queue: from the upload to maps that are seen, and over a restart."""

from __future__ import annotations

import io
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.phantoms import matrix, scan_of, write
from tests.serve.browser import Browser, Page, chromium
from tests.serve.served import Running, running, write_small

pytestmark = pytest.mark.timeout(1200)
FIELDS = {"age": "61", "sex": "F", "site": "a"}


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("raw") / "Doe_Jane_T1w.nii.gz", scan_of(matrix(), 3.0))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("browser") / "profile") as found:
        yield found


@pytest.fixture(scope="module")
def killed(models: Path, scan: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str], str]:
    """A server that is killed while it prepares a scan: its folder, the tokens, and the job."""
    out = tmp_path_factory.mktemp("killed") / "out"
    with running(models, out, "users=[anna,ben]", "per_minute=100000") as first:
        job = first.upload(first.tokens["anna"], scan, **FIELDS)
        first.wait(first.tokens["anna"], job, lambda found: found["state"] == "running")
        end = time.monotonic() + 60
        while not (out / "jobs" / job / "prepared").is_dir() and time.monotonic() < end:
            time.sleep(0.1)
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
    assert not (out / "jobs" / job / "over.json").exists()
    return out, first.tokens, job


@pytest.fixture(scope="module")
def server(models: Path, killed: tuple[Path, dict[str, str], str]) -> Iterator[Running]:
    """The same folder, served again: nobody gets a new token."""
    out, tokens, _ = killed
    with running(models, out, "users=[anna,ben]", "per_minute=100000") as second:
        assert second.tokens == {}
        second.tokens = tokens
        yield second


@pytest.fixture(scope="module")
def done(server: Running, killed: tuple[Path, dict[str, str], str]) -> str:
    """The job of the first start, which the second one brought to its end."""
    found = server.wait(server.tokens["anna"], killed[2], lambda found: found["state"] == "done")
    assert [(step["title"], step["state"]) for step in found["steps"]] == [
        ("Quality and alignment", "done"),
        ("Comparison with controls", "done"),
        ("Report", "done"),
    ], found
    return killed[2]


def came_in(browser: Browser, server: Running, user: str) -> Page:
    return browser.came_in(server.address, server.tokens[user])


def test_a_scan_survives_that_its_server_is_killed(server: Running, done: str) -> None:
    folder = server.out / "jobs" / done
    assert not (folder / "upload").exists()  # the scan itself goes when the steps are over
    with server.client(server.tokens["anna"]) as client:
        page = client.get(f"/jobs/{done}", headers={"Accept": "text/html"}).json()
        assert page["over"] == page["of"] == 3
        report = client.get(f"/jobs/{done}/files/report.html")
        assert report.status_code == 200
        assert report.headers["content-disposition"].startswith("attachment")
        z_map = client.get(f"/jobs/{done}/files/maps_1_1-z-residual.nii.gz")
        assert z_map.content[:2] == b"\x1f\x8b"
    assert os.listdir(server.out / ".incoming") == []


def test_the_page_shows_the_verdict_the_regions_and_the_overlay(server: Running, done: str, browser: Browser) -> None:
    page = came_in(browser, server, "anna")
    page.open(f"{server.address}/jobs/{done}")
    text = page.run("document.body.innerText")
    assert re.search(r"Usable", text)
    assert "Compared with" in text
    assert page.run("document.querySelectorAll('section.part table tbody tr').length") > 50
    page.run("document.querySelector('canvas.nv').scrollIntoView()")
    page.until("document.querySelector('canvas.nv').dataset.ready === '1'")
    at_finding(page, server.out / "jobs" / done / "maps_1_1" / "clusters.tsv")
    with_map = canvas_of(page)
    page.run(
        "const slider = document.querySelector('.opacity'); slider.value = 0; slider.dispatchEvent(new Event('input')); undefined"
    )
    without = canvas_of(page)
    overlay = np.abs(with_map - without).max(axis=2) > 40  # the crosshair is in both pictures
    assert overlay.sum() > 100
    assert (hue(with_map[overlay]) > 40).mean() > 0.8  # orange or blue
    assert (hue(without[overlay]) < 20).mean() > 0.8  # over the grey scan
    assert (without.max(axis=2) > 60).mean() > 0.02  # which is still there
    assert all(address.startswith((server.address, "data:", "blob:")) for address in page.asked)
    assert [text for text in page.said if "401" not in text] == []


def show_map(page: Page, number: int) -> None:
    """Choose a map of the first viewer, as a person does."""
    page.run(
        f"(() => {{ const chosen = document.querySelector('.map'); chosen.selectedIndex = {number}; "
        "chosen.dispatchEvent(new Event('change')); })()"
    )
    page.until("document.querySelector('canvas.nv').dataset.ready === '1'")


def at_finding(page: Page, clusters: Path) -> None:
    """The crosshair begins at the peak of the least likely cluster of each map, and the page says what it is.

    The map that is shown first holds the least likely cluster of all.
    """
    table = pd.read_csv(clusters, sep="\t")
    of_all = table.loc[table["p_cluster"] == table["p_cluster"].min(), "channel"]
    shown = page.run("document.querySelector('.map').value")
    assert shown.split("-z-")[1].split(".")[0] in set(of_all)
    found = 0
    files = page.run("[...document.querySelector('.map').options].map(option => option.value)")
    for number, file in enumerate(files):
        show_map(page, number)
        rows = table[table["channel"] == file.split("-z-")[1].split(".")[0]]
        if rows.empty:
            assert page.run("document.querySelector('.finding').textContent") == ""
            continue
        found += 1
        least = rows[rows["p_cluster"] == rows["p_cluster"].min()]
        row = least.loc[least["peak_z"].abs().idxmax()]
        said = page.run("document.querySelector('.finding').textContent")
        assert f"{row['region']}," in said
        assert "over the whole map" in said
        place = page.run("document.querySelector('.place').textContent")
        shown = [float(text) for text in re.findall(r"-?\d+(?:\.\d+)?", place)]
        peak = [row["x_mm"], row["y_mm"], row["z_mm"]]
        assert shown[:3] == pytest.approx(peak, abs=4.1), "in mm, to a voxel of 4 mm"
    assert found, "there is a map with a cluster"
    show_map(page, 0)


def canvas_of(page: Page) -> np.ndarray:
    """The pixels of the first viewer as they are on the screen, [y, x, 3]."""
    time.sleep(0.5)
    place = page.run(
        "(() => { const b = document.querySelector('canvas.nv').getBoundingClientRect(); return [b.x, b.y, b.width, b.height]; })()"
    )
    pixels = np.asarray(Image.open(io.BytesIO(page.picture(whole=False))).convert("RGB"))
    x, y, width, height = (max(0, round(value)) for value in place)
    return pixels[y : y + height, x : x + width].astype(int)


def hue(pixels: np.ndarray) -> np.ndarray:
    """How far pixels [..., 3] are from grey."""
    return np.asarray(pixels.max(axis=-1) - pixels.min(axis=-1))


@pytest.mark.parametrize("width", [360, 1440])
@pytest.mark.parametrize("dark", [False, True])
def test_pages_fit_every_screen(width: int, dark: bool, server: Running, done: str, browser: Browser) -> None:
    page = came_in(browser, server, "anna")
    page.size(width, 800, dark)
    for path in ("/", f"/jobs/{done}"):
        page.open(server.address + path)
        assert page.run("document.documentElement.scrollWidth") <= width
        unnamed = page.run(
            "[...document.querySelectorAll('input:not([type=hidden]), select, canvas, progress')].filter((e) => !(e.labels && "
            "e.labels.length) && !e.getAttribute('aria-label')).map((e) => e.outerHTML.slice(0, 80))"
        )
        assert unnamed == []
        contrast = page.run(CONTRAST)
        assert contrast >= 4.5, path


CONTRAST = """(() => {
  const light = (c) => { const v = c.match(/[\\d.]+/g).slice(0, 3).map((x) => { x /= 255;
    return x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4; }); return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2]; };
  const ground = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
    if (!/, 0\\)$|transparent/.test(c)) return c; } return 'rgb(255, 255, 255)'; };
  let least = 21;
  for (const e of document.querySelectorAll('p, a, button, label, th, td, h1, h2, span, caption, summary, input, select')) {
    if (!e.textContent.trim() || e.disabled) continue;
    const [a, b] = [light(getComputedStyle(e).color), light(ground(e))];
    least = Math.min(least, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
  }
  return least;
})()"""


def test_a_wrong_file_and_a_wrong_token_are_sentences_in_the_page(
    server: Running, browser: Browser, tmp_path: Path
) -> None:
    stranger = browser.page()
    stranger.open(f"{server.address}/")
    stranger.run("document.getElementById('token').value = 'wrong'; document.querySelector('main form button').click()")
    stranger.until("document.querySelector('.wrong') !== null")
    assert "not known" in stranger.run("document.querySelector('.wrong').innerText")
    page = came_in(browser, server, "ben")
    (tmp_path / "letter.nii").write_text("Dear colleague")
    page.choose_file("#scan", tmp_path / "letter.nii")
    page.run("document.getElementById('send').click()")
    page.until("!document.getElementById('upload-wrong').hidden")
    assert "none that is known here" in page.run("document.getElementById('upload-wrong').innerText")


def test_two_people_at_once_each_see_their_own_and_no_brain_is_a_sentence(
    server: Running, done: str, browser: Browser, tmp_path: Path
) -> None:
    """Ben's upload is a volume, but no brain: the page says why, while Anna's list is hers alone."""
    ben, anna = came_in(browser, server, "ben"), came_in(browser, server, "anna")
    ben.choose_file("#scan", write_small(tmp_path / "noise.nii.gz", (20, 20, 20)))
    ben.run("document.getElementById('send').click()")
    ben.until("location.pathname.startsWith('/jobs/')")
    ben.until("document.getElementById('delete') !== null && document.getElementById('progress') === null", 200)
    told = ben.run("document.body.innerText")
    assert "Not evaluable" in told
    assert "/jobs/" not in told
    assert "Traceback" not in told
    anna.open(f"{server.address}/")
    assert anna.run("document.querySelectorAll('.scans li').length") == 1
    own = ben.run("location.pathname")
    anna.open(server.address + own)
    assert "not yours" in anna.run("document.body.innerText")
    ben.run("document.querySelector('input[type=checkbox]').click(); document.querySelector('button.danger').click()")
    ben.until("location.pathname === '/'")
    assert ben.run("document.querySelectorAll('.scans li').length") == 0
    assert not (server.out / own.strip("/")).exists()
