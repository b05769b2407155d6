"""launch/node.sh on two hosts (two network namespaces): a killed process, a killed host, a replacement."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import pytest

from tests.launch.training import (
    LAUNCH,
    PROJECT,
    arguments,
    checkpoints,
    distance,
    environment,
    has_checkpoint,
    lacks,
    processes,
    shell,
    wait_until,
)

pytestmark = [pytest.mark.multi, pytest.mark.slow, pytest.mark.timeout(1200)]

JOIN_TIMEOUT_S = 25
GIVE_UP_S = JOIN_TIMEOUT_S + 240
"""Within this time a host whose partner is gone must have ended: contact lost, then no partner at the rendezvous."""


@dataclass
class Host:
    """One network namespace with its own host name; everything on it can be killed at once, as by a power cut."""

    number: int
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def space(self) -> str:
        return f"gen3d-{os.getpid()}-{self.number}"

    @property
    def card(self) -> str:
        return f"g{os.getpid() % 10**8}-{self.number}"

    @property
    def address(self) -> str:
        return f"10.77.31.{self.number}"

    def start(self, words: list[str], folder: Path) -> subprocess.Popen[bytes]:
        """Start launch/node.sh here, with host 1 as the meeting point."""
        given = {
            "GEN3D_NODES": "2",
            "GEN3D_RENDEZVOUS": "10.77.31.1:29431",
            "GEN3D_JOB": "hosts",
            "SLURMD_NODENAME": "",
        }
        given |= {"GEN3D_ADDRESS": self.address, "GLOO_SOCKET_IFNAME": self.card}
        given |= {"GEN3D_JOIN_TIMEOUT_S": str(JOIN_TIMEOUT_S), "LOCAL_SCRATCH": str(folder)}
        names = folder / "hosts"
        names.write_text("127.0.0.1 localhost\n10.77.31.1 host1\n10.77.31.2 host2\n", encoding="utf-8")
        own = ["unshare", "--uts", "--mount", "--propagation", "private", "sh", "-c"]
        own += [f'hostname host{self.number} && mount --bind {names} /etc/hosts && exec "$@"', "sh"]
        log: IO[bytes] = (folder / f"host{self.number}.log").open("ab")
        with log:
            self.started.append(
                subprocess.Popen(
                    ["nsenter", f"--net=/run/netns/{self.space}", *own, str(LAUNCH / "node.sh"), *words],
                    stdout=log,
                    stderr=log,
                    env=environment(folder / "logs", **given),
                    cwd=PROJECT,
                )
            )
        return self.started[-1]

    def has(self, pid: int) -> bool:
        """Whether a process runs here."""
        try:
            return os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat(f"/run/netns/{self.space}").st_ino
        except OSError:
            return False

    def cut_the_power(self) -> None:
        for entry in Path("/proc").glob("[0-9]*"):
            if self.has(int(entry.name)):
                os.kill(int(entry.name), signal.SIGKILL)
        for process in self.started:
            process.wait(10)


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    missing = lacks("ip", "nsenter", "unshare")
    if missing or subprocess.run(["ip", "netns", "list"], capture_output=True).returncode != 0:
        pytest.skip(missing or "this machine allows no network namespaces")
    first, second = both = Host(1), Host(2)
    if subprocess.run(["ip", "netns", "add", first.space], capture_output=True).returncode != 0:
        pytest.skip("this machine allows no network namespaces")
    shell("ip", "netns", "add", second.space)
    try:
        peer = ["type", "veth", "peer", "name", second.card, "netns", second.space]
        shell("ip", "link", "add", first.card, "netns", first.space, *peer)
        for host in both:
            inside = ["ip", "-n", host.space]
            shell(*inside, "address", "add", f"{host.address}/24", "dev", host.card)
            shell(*inside, "link", "set", host.card, "up")
            shell(*inside, "link", "set", "lo", "up")
        yield both
    finally:
        for host in both:
            host.cut_the_power()
            shell("ip", "netns", "del", host.space)


def logs_of(folder: Path) -> str:
    return "\n".join(path.read_text(errors="replace") for path in sorted(folder.glob("host*.log")))


def start_and_wait_for_a_checkpoint(hosts: tuple[Host, Host], words: list[str], out: Path) -> None:
    for host in hosts:
        host.start(words, out.parent)

    def begun() -> bool:
        assert all(host.started[-1].poll() is None for host in hosts), logs_of(out.parent)
        return has_checkpoint(out)

    wait_until(begun, 400, "no checkpoint was written")


def wait_for_success(hosts: tuple[Host, Host], out: Path) -> None:
    for host in hosts:
        assert host.started[-1].wait(240) == 0, logs_of(out.parent)


def test_a_host_that_is_gone_ends_the_other_with_an_error(
    hosts: tuple[Host, Host], cohort: Path, tmp_path: Path
) -> None:
    out = tmp_path / "vae"
    start_and_wait_for_a_checkpoint(hosts, arguments(cohort, out), out)
    hosts[1].cut_the_power()
    assert hosts[0].started[-1].wait(GIVE_UP_S) == 1, logs_of(tmp_path)
    assert re.search(r"rank \d on host2 \(process \d+\) ended or was killed", logs_of(tmp_path)), logs_of(tmp_path)
    assert has_checkpoint(out)
    assert not processes(out)


def test_a_killed_process_is_started_again_and_a_host_that_is_gone_replaced(
    hosts: tuple[Host, Host], cohort: Path, alone: Path, tmp_path: Path
) -> None:
    """Both in one training, each after a new checkpoint; the weights are those of one process that nobody disturbed."""
    out, words = tmp_path / "vae", arguments(cohort, tmp_path / "vae")
    start_and_wait_for_a_checkpoint(hosts, words, out)
    [victim] = [pid for pid in processes(out) if hosts[1].has(pid)]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: list((tmp_path / "logs").rglob("attempt_1")), 400, "it had ended before it was killed")
    before = checkpoints(out)
    wait_until(lambda: checkpoints(out) - before, 400, "no checkpoint was written by the second start")
    hosts[1].cut_the_power()
    assert hosts[0].started[-1].poll() is None, "it had ended before its partner was gone"
    hosts[1].start(words, tmp_path)
    wait_for_success(hosts, out)
    assert distance(out, alone) < 1e-4
