"""A folder spread over a real Ray cluster of this machine: the same pictures, whatever happens to a worker."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frugal_rt.engines import BackendError, InputError
from frugal_rt.runtime.offline.ray_cluster import Share, shares

from ...commands import frugal
from ..waiting import PATIENCE, wait_for

STEPS = "100"
RESTORE = ("restore", "-e", "tiny.plan", "--steps", STEPS, "photos")


class Node:
    """A head node of two CPUs in processes of our own."""

    def __init__(self, folder: str):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address, self.folder = f"127.0.0.1:{port}", folder
        ray = Path(sys.executable).with_name("ray")
        arguments = (
            f"--port={port}",
            "--min-worker-port=0",
            "--max-worker-port=0",
            "--num-cpus=2",
            "--node-ip-address=127.0.0.1",
            f"--temp-dir={folder}",
        )
        self.process = subprocess.Popen(
            [ray, "start", "--head", "--block", "--include-dashboard=false", "--disable-usage-stats", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for(lambda: list(Path(folder).glob("session_2*/sockets/raylet")))
        asked = [ray, "status", f"--address={self.address}"]  # a busy machine's node takes its time to answer
        wait_for(lambda: subprocess.run(asked, capture_output=True).returncode == 0)

    def workers(self, doing: str = "ray::Worker") -> list[int]:
        """The processes of actors on this node, by what Ray writes into their names."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if not (process / "cmdline").read_bytes().startswith(doing.encode()):
                    continue
                parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
                if self.folder.encode() in Path("/proc", parent, "cmdline").read_bytes():
                    found.append(int(process.name))
            except OSError:
                continue  # it ended while it was looked at
        return found


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    if not Path("/proc/self/stat").exists():
        pytest.skip("looks for Ray's workers in /proc")
    folder = tempfile.mkdtemp(prefix="ray-")  # the sockets in it take a short path
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")  # as Ray will have it for every cluster; this one's word is its own
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        pytest.importorskip("ray", reason="needs the extra [ray]")  # which reads them once
        one = Node(folder)
        yield one
        one.process.terminate()
        one.process.wait(PATIENCE)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def here(twelve_pictures) -> Path:
    return twelve_pictures


def pixels(folder: str) -> dict[str, np.ndarray]:
    return {path.name: np.asarray(Image.open(path)) for path in sorted(Path(folder).iterdir())}


def assert_equal(folder: str, other: str) -> None:
    found, expected = pixels(folder), pixels(other)
    assert list(found) == list(expected)
    for name, picture in found.items():
        np.testing.assert_array_equal(picture, expected[name], name)


def test_a_cluster_restores_a_folder_as_one_process_does(here, node):
    Path("photos/05.png").write_bytes(b"broken")
    Image.new("RGBA", (16, 16)).save("photos/empty.png")  # nothing but missing pixels
    asked = (*RESTORE, "--samples", "2", "--json", "-q")
    alone = frugal(*asked, "-o", "alone")
    result = frugal(*asked, "-o", "out", "--ray", node.address, "--workers", "2")
    assert (alone.exit_code, result.exit_code) == (1, 1)
    assert result.stderr == alone.stderr
    said, expected = json.loads(result.stdout), json.loads(alone.stdout)
    for one in (*said["restored"], *expected["restored"]):
        del one["seconds"], one["outputs"]
    assert said == expected
    assert len(said["restored"]) == 11
    assert_equal("out", "alone")
    wait_for(lambda: not node.workers())  # a killed process takes a moment to go


def test_a_cluster_goes_on_where_a_folder_was_left(here, node):
    assert frugal(*RESTORE, "-o", "alone").exit_code == 0
    shutil.copytree("alone", "out")
    Path("out/03.png").unlink()
    Path("out/04.png").unlink()
    Path("out/00.png").write_bytes(b"left alone")
    result = frugal(*RESTORE, "-o", "out", "--ray", node.address, "--resume", "--save-params", "p.json")
    assert "2 restored, 0 failed, 10 were there" in result.output
    assert Path("out/00.png").read_bytes() == b"left alone"
    Path("out/00.png").write_bytes(Path("alone/00.png").read_bytes())
    assert_equal("out", "alone")
    assert not {"ray", "workers"} & json.loads(Path("p.json").read_text())["options"].keys()


def test_the_pictures_of_a_worker_that_is_killed_go_to_another(here, node):
    assert frugal(*RESTORE, "-o", "alone").exit_code == 0
    killed = []

    def kill() -> None:
        wait_for(lambda: list(Path("out").glob("*.png")))
        killed.append(wait_for(lambda: node.workers("ray::Worker.restore"))[0])
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    result = frugal(*RESTORE, "-o", "out", "--ray", node.address, "--workers", "2", "--json")
    killer.join()
    assert result.exit_code == 0, result.output
    assert not Path("/proc", str(killed[0])).exists()
    assert "a worker died; " in result.stderr
    assert [one["image"] for one in json.loads(result.stdout)["restored"]] == [f"photos/{i:02}.png" for i in range(12)]
    assert_equal("out", "alone")


def test_a_picture_whose_workers_all_die_is_told(here, node):
    done = threading.Event()

    def kill() -> None:
        while not done.wait(0.01):
            for worker in node.workers("ray::Worker.restore"):
                os.kill(worker, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        result = frugal(*RESTORE[:-1], "photos/00.*", "-o", "out", "--ray", node.address)
    finally:
        done.set()
        killer.join()
    assert result.exit_code == 1
    assert "0 restored, 1 failed, 0 were there" in result.output
    assert "photos/00.png: its worker died 3 times" in result.stderr
    assert not Path("out").exists()


def test_ctrl_c_ends_the_workers_and_leaves_whole_pictures(here, node):
    command = [sys.executable, "-c", "from frugal_rt.cli import main; main()", *RESTORE, "-o", "out"]
    command += ["--steps", "1000", "--ray", node.address, "--workers", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: list(Path("out").glob("*.png")))
    assert len(node.workers()) == 2
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "Stopped."
    wait_for(lambda: not node.workers())
    assert 0 < len(pixels("out")) < 12  # each can be read
    assert [path for path in Path("out").iterdir() if path.suffix != ".png"] == []


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (("--ray", "127.0.0.1:1"), "Error: no Ray cluster answers at 127.0.0.1:1: Connection refused\n"),
        (("--ray", "head"), "a cluster's address is auto, local or HOST:PORT; got 'head'"),
        (("--workers", "2"), "--workers is for a cluster"),
        (("--ray", "local", "--video", "x.gif"), "for one picture, restored here"),
    ],
)
def test_a_cluster_that_cannot_be_had_is_one_sentence(here, asked, sentence):
    pytest.importorskip("ray", reason="needs the extra [ray]")
    result = frugal(*RESTORE, "-o", "out", *asked)
    assert result.exit_code != 0
    assert sentence in result.stderr


def test_more_workers_than_fit_are_refused(here, node):
    result = frugal(*RESTORE, "-o", "out", "--ray", node.address, "--workers", "3")
    assert "--workers 3: the cluster has room for 2, a CPU each" in result.stderr
    cuda = frugal(*RESTORE, "-o", "out", "--ray", node.address, "--backend", "cuda")
    assert "the cluster has no GPU" in cuda.stderr


def test_without_ray_the_extra_is_named(here, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install 'frugal-rt[ray]'" in frugal(*RESTORE, "-o", "out", "--ray", "auto").stderr


@pytest.mark.parametrize(
    ("nodes", "backend", "workers", "expected"),
    [
        ([{"CPU": 8.0}], "cpu", None, (1, Share(8, 0))),
        ([{"CPU": 8.0}], "cpu", 3, (3, Share(2, 0))),
        ([{"CPU": 8.0}, {"CPU": 4.0}, {"CPU": 0.0}], "cpu", None, (3, Share(4, 0))),
        ([{"CPU": 8.0}, {"CPU": 4.0}], "auto", 5, (5, Share(2, 0))),
        ([{"CPU": 16.0, "GPU": 2.0}, {"CPU": 4.0}], "auto", None, (2, Share(8, 1))),
        ([{"CPU": 16.0, "GPU": 2.0}, {"CPU": 4.0, "GPU": 4.0}], "cuda", None, (6, Share(1, 1))),
        ([{"CPU": 16.0, "GPU": 2.0}], "cuda", 1, (1, Share(16, 1))),
        ([{"CPU": 16.0, "GPU": 2.0}], "cpu", None, (1, Share(16, 0))),
    ],
)
def test_what_each_worker_reserves(nodes, backend, workers, expected):
    assert shares(nodes, backend, workers) == expected


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="room for 2, a GPU each"):
        shares([{"CPU": 16.0, "GPU": 2.0}], "cuda", 3)
    with pytest.raises(BackendError, match="no GPU"):
        shares([{"CPU": 16.0}], "cuda", None)
    with pytest.raises(BackendError, match="no CPU to give"):
        shares([{"CPU": 0.0}], "cpu", None)
