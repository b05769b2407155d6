"""A server under load and under attack: does its memory stay flat, and does anything get in?

    python analysis/benchmarks/serve.py --models MODELS --scan sub-01_T1w.nii.gz --site NAME --out FOLDER --uploads 20

Starts `gen3d serve` on any free port, as a user does, with two users, and asks over real sockets:

- `--hostile` requests of somebody who wants in (`tests/serve/hostile.py`): paths, methods, sizes, types, tokens, forms, host names,
  some with the token of a user who owns nothing of what is asked for. Counted: what was let in, files that changed.
- `--uploads` uploads of the scan in a row. Per upload: seconds from the upload to its maps, resident memory, open files and threads
  of the server, and the most processes that computed at a time.

The first third of the uploads warms it up; growth is the slope of memory over the others.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np

from gen3d.cli import run_script

sys.path.insert(0, str(Path(__file__).parents[2]))  # the tests are not installed with the package
from tests.serve.hostile import attempts, is_let_in
from tests.serve.served import Running, httpx, running


def main() -> None:
    """Attack, then load, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True, help="folder of models, with a norm")
    parser.add_argument("--scan", type=Path, required=True, help="a raw T1w scan of somebody who is no control")
    parser.add_argument("--site", default="", help="its site, one that the norm knows")
    parser.add_argument("--out", type=Path, required=True, help="a folder that does not exist yet")
    parser.add_argument("--uploads", type=int, default=20)
    parser.add_argument("--hostile", type=int, default=1000)
    parser.add_argument("--age", default="60", help="of the person, years")
    parser.add_argument("--sex", default="F", choices=("F", "M"))
    given = parser.parse_args()
    with running(given.models, given.out, "users=[anna,ben]", "per_minute=1000000", "max_waiting=1000") as server:
        began = time.perf_counter()
        first = server.upload(server.tokens["anna"], given.scan, age=given.age, sex=given.sex, site=given.site)
        done = server.wait(server.tokens["anna"], first, lambda found: found["state"] == "done")
        print(f"from the upload to the page: {time.perf_counter() - began:.1f} s")
        print(
            "steps of one scan: "
            + "; ".join(f"{step['title']} {step['told'] or step['state']}" for step in done["steps"])
        )
        attack(server, first, given.hostile)
        if given.uploads:
            load(server, given)


def attack(server: Running, job: str, num: int) -> None:
    """Send hostile requests, and count what was let in and what changed on the disk."""
    before, codes, let_in, began = files(server.out / "jobs"), dict[int, int](), 0, time.perf_counter()
    cut = 0
    with httpx.Client(base_url=server.address, timeout=60) as nobody, server.client(server.tokens["ben"]) as ben:
        for attempt in attempts(num, job):
            client = ben if attempt.with_token else nobody
            try:
                answer = client.request(attempt.method, attempt.path, headers=attempt.headers, content=attempt.content)
            except (ValueError, httpx.HTTPError):  # the client cannot send it, or the server hangs up
                cut += 1
                continue
            codes[answer.status_code] = codes.get(answer.status_code, 0) + 1
            let_in += is_let_in(attempt, answer.status_code, answer.text)
    seconds = time.perf_counter() - began
    changed = files(server.out / "jobs") != before
    print(
        f"{num} hostile requests in {seconds:.0f} s: {let_in} let in, files {'changed' if changed else 'unchanged'}, not sent {cut}"
    )
    print("status codes: " + ", ".join(f"{code}: {codes[code]}" for code in sorted(codes)))


def files(folder: Path) -> dict[Path, tuple[int, int]]:
    """Size and time of every file."""
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def load(server: Running, given: argparse.Namespace) -> None:
    """Upload the scan again and again; all at first, so that they wait in the queue."""
    token, rows = server.tokens["anna"], []
    most, over = [0], threading.Event()
    watching = threading.Thread(target=watch, args=(server.process.pid, most, over), daemon=True)
    watching.start()
    began = time.perf_counter()
    jobs = [
        server.upload(token, given.scan, age=given.age, sex=given.sex, site=given.site) for _ in range(given.uploads)
    ]
    print(f"{given.uploads} uploads taken in {time.perf_counter() - began:.1f} s")
    last = time.perf_counter()
    for number, job in enumerate(jobs, start=1):
        found = server.wait(token, job, lambda found: found["state"] == "done")
        assert all(step["state"] == "done" for step in found["steps"]), found
        now = time.perf_counter()
        rows.append((number, now - last, *of_process(server.process.pid)))
        last = now
        print(
            f"{number:4d}  {rows[-1][1]:6.1f} s  {rows[-1][2]:7.1f} MiB  {rows[-1][3]} files  {rows[-1][4]} threads",
            flush=True,
        )
    over.set()
    watching.join()
    table = np.array(rows)[len(rows) // 3 :]
    slope = np.polyfit(table[:, 0], table[:, 2], 1)[0] if len(table) > 2 else float("nan")
    seconds = np.array(rows)[:, 1]
    print(f"seconds per scan: median {np.median(seconds):.1f}, {seconds.min():.1f} to {seconds.max():.1f}")
    print(
        f"memory: {table[0, 2]:.1f} to {table[-1, 2]:.1f} MiB, {1024 * slope:+.0f} KiB per upload; steps at a time: {most[0]}"
    )


def of_process(pid: int) -> tuple[float, int, int]:
    """Resident memory (MiB), open files and threads."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]) / 1024, len(os.listdir(f"/proc/{pid}/fd")), int(status["Threads"])


def watch(pid: int, most: list[int], over: threading.Event) -> None:
    """The most child processes of the server at a time."""
    while not over.wait(0.1):
        try:
            most[0] = max(most[0], len(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()) + of_threads(pid))
        except OSError:
            return


def of_threads(pid: int) -> int:
    """Children that other threads of the server than the first started."""
    tasks = [path for path in Path(f"/proc/{pid}/task").iterdir() if path.name != str(pid)]
    return sum(len((path / "children").read_text().split()) for path in tasks if (path / "children").exists())


if __name__ == "__main__":
    run_script(main)
