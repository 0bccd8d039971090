"""A folder spread over a process for each GPU, here on the CPU: the same files, whatever happens to a process."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from frugal_rt.engines import BackendError, InputError, Plan, PlanError, nvidia
from frugal_rt.runtime.offline import gpus
from frugal_rt.runtime.offline.folder import Failed, Order
from frugal_rt.runtime.offline.gpus import Devices, gpus_named
from frugal_rt.runtime.pictures.damage import Damage
from frugal_rt.runtime.pictures.images import SETTINGS_KEY
from frugal_rt.runtime.sampling.guidance import Guidance

from ...commands import frugal
from ..waiting import PATIENCE, wait_for

psutil = pytest.importorskip("psutil", reason="looks for child processes")
RESTORE = ("restore", "-e", "tiny.plan", "--steps", "100", "photos")
ON_TWO = ("-o", "out", "--devices", "0,1")
ON_THE_CPU = """
from frugal_rt.cli import main, restore
from frugal_rt.runtime.offline import run
restore.gpus_named, run.gpu_backend = lambda text: text.split(","), lambda plan, backend, trust: "cpu"
main()
"""


def workers(parent: int | None = None) -> list["psutil.Process"]:
    """The processes that restore for one, in the order in which they were started."""
    found = []
    for child in psutil.Process(parent).children():
        try:
            if gpus.__name__ in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
        except psutil.Error:
            continue  # it ended while it was looked at
    return sorted(found, key=lambda child: child.pid)


def gone(children: list["psutil.Process"]) -> bool:
    return not [one for one in children if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def written() -> list[Path]:
    return sorted(Path("out").glob("*.png"))


def assert_whole(folder: str) -> None:
    for path in Path(folder).iterdir():
        assert path.suffix == ".png", path
        Image.open(path).load()


def assert_equal(folder: str, other: str) -> None:
    """The same pictures, byte for byte, that tell the same of themselves but for how many rows shared a call."""
    found, expected = ({path.name: _read(path) for path in Path(one).iterdir()} for one in (folder, other))
    assert found.keys() == expected.keys()
    for name, picture in found.items():
        assert picture == expected[name], name


def _read(path: Path) -> tuple[bytes, dict[str, object]]:
    with Image.open(path) as picture:
        return picture.tobytes(), {**json.loads(picture.text[SETTINGS_KEY]), "batch": None}


@pytest.fixture
def here(twelve_pictures) -> Path:
    return twelve_pictures


@pytest.fixture
def on_the_cpu(here, monkeypatch) -> None:
    """The command takes any devices for there, and computes on the CPU."""
    monkeypatch.setattr("frugal_rt.cli.restore.gpus_named", lambda text: text.split(","))
    monkeypatch.setattr("frugal_rt.runtime.offline.run.gpu_backend", lambda plan, backend, trust: "cpu")


@pytest.fixture
def order() -> Order:
    return Order(Damage(), fit=None, align=False, guidance=Guidance(steps=4), samples=1)


def in_a_thread(what: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=what)
    thread.start()
    return thread


@pytest.mark.usefixtures("on_the_cpu")
def test_two_processes_restore_a_folder_as_one_does():
    Path("photos/05.png").write_bytes(b"broken")
    Image.new("RGBA", (16, 16)).save("photos/empty.png")  # nothing but missing pixels
    asked = (*RESTORE, "--samples", "2", "--json", "-q")
    alone = frugal(*asked, "-o", "alone")
    result = frugal(*asked, *ON_TWO)
    assert (alone.exit_code, result.exit_code) == (1, 1)
    assert result.stderr == alone.stderr
    said, expected = json.loads(result.stdout), json.loads(alone.stdout)
    for one in (*said["restored"], *expected["restored"]):
        del one["seconds"], one["outputs"]
    assert said == expected
    assert len(said["restored"]) == 11
    assert_equal("out", "alone")
    assert workers() == []


@pytest.mark.usefixtures("on_the_cpu")
def test_it_goes_on_where_a_folder_was_left():
    assert frugal(*RESTORE, "-o", "alone").exit_code == 0
    shutil.copytree("alone", "out")
    Path("out/03.png").unlink()
    Path("out/04.png").unlink()
    Path("out/00.png").write_bytes(b"left alone")
    result = frugal(*RESTORE, *ON_TWO, "--resume", "--save-params", "p.json")
    assert "2 restored, 0 failed, 10 were there" in result.output
    assert Path("out/00.png").read_bytes() == b"left alone"
    Path("out/00.png").write_bytes(Path("alone/00.png").read_bytes())
    assert_equal("out", "alone")
    assert "devices" not in json.loads(Path("p.json").read_text())["options"]
    assert "0 restored, 0 failed, 12 were there" in frugal(*RESTORE, *ON_TWO, "--resume").output


@pytest.mark.usefixtures("on_the_cpu")
def test_one_picture_can_be_had_so_too():
    assert frugal(*RESTORE[:-1], "photos/00.png", "-o", "alone.png").exit_code == 0
    result = frugal(*RESTORE[:-1], "photos/00.png", "-o", "one.png", "--devices", "1")
    assert result.exit_code == 0
    assert "one.png: " in result.stdout
    assert Path("one.png").read_bytes() == Path("alone.png").read_bytes()


def test_each_process_sees_its_device_and_its_share_of_the_cores(here, order, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6,7")
    monkeypatch.setattr(gpus, "cores", lambda: 6)
    with Devices(Path("tiny.plan"), order, "cpu", ["6", "GPU-7f"]) as spread:
        outcomes = spread.restore(sorted(Path("photos").iterdir()))
        next(outcomes)
        seen = [child.environ() for child in workers()]
        assert [one["CUDA_VISIBLE_DEVICES"] for one in seen] == ["6", "GPU-7f"]
        assert [one["FRUGAL_RT_THREADS"] for one in seen] == ["3", "3"]
        assert len([*outcomes]) == 11
    assert workers() == []


@pytest.mark.usefixtures("on_the_cpu")
def test_pictures_are_handed_out_as_processes_get_free():
    def hold_one() -> None:
        held = wait_for(lambda: found if len(found := workers()) == 2 else None)[0]
        held.suspend()
        try:
            wait_for(lambda: len(written()) >= 10)  # all but the portion that it has
        finally:
            held.resume()

    holding = in_a_thread(hold_one)
    result = frugal(*RESTORE, *ON_TWO)
    holding.join()
    assert "12 restored, 0 failed" in result.output


@pytest.mark.usefixtures("on_the_cpu")
def test_the_pictures_of_a_process_that_is_killed_go_to_another():
    assert frugal(*RESTORE, "-o", "alone").exit_code == 0
    killed = []

    def kill() -> None:
        wait_for(lambda: len(workers()) == 2 and written())
        killed.append(workers()[0])
        killed[0].kill()

    killer = in_a_thread(kill)
    result = frugal(*RESTORE, *ON_TWO, "--json")
    killer.join()
    assert result.exit_code == 0, result.output
    assert not killed[0].is_running()
    assert "a worker died; another takes its place, for " in result.stderr
    assert "pictures: the one on device 0 ended with SIGKILL" in result.stderr
    assert [one["image"] for one in json.loads(result.stdout)["restored"]] == [f"photos/{i:02}.png" for i in range(12)]
    assert_equal("out", "alone")
    assert workers() == []


def test_a_picture_whose_processes_die_twice_is_told_and_stops_no_other(here, order):
    class Deadly(Devices):
        def _ask(self, worker, pictures):
            if Path("photos/03.png") in pictures:
                worker.process.kill()
            return super()._ask(worker, pictures)

    lost: list[str] = []
    sources = sorted(Path("photos").iterdir())
    with Deadly(Path("tiny.plan"), order, "cpu", ["0", "1"], lost.append) as spread:
        outcomes = {outcome.source: outcome for outcome in spread.restore(sources)}
    assert len(lost) == 2
    assert outcomes.keys() == {*sources}
    failed = [source for source, outcome in outcomes.items() if isinstance(outcome, Failed)]
    assert failed == [Path("photos/03.png")]
    assert outcomes[failed[0]].why.startswith("its worker died 2 times, for want of memory perhaps: the one on device ")


@pytest.mark.usefixtures("on_the_cpu")
def test_processes_that_die_as_they_start_are_an_error_and_not_a_wait(monkeypatch):
    monkeypatch.setattr("frugal_rt.runtime.process._BOOT", "raise SystemExit(3)")
    result = frugal(*RESTORE, *ON_TWO)
    assert result.exit_code == 1
    assert "Error: 2 workers in a row died as they started; is there memory enough" in result.stderr
    assert "ended with status 3" in result.stderr
    assert not Path("out").exists()
    assert workers() == []


@pytest.mark.usefixtures("on_the_cpu")
def test_what_stops_a_folder_stops_it_in_the_same_words():
    alone, result = (frugal(*RESTORE, "--steps", "0", *more) for more in (("-o", "alone"), ON_TWO))
    assert (alone.exit_code, result.exit_code) == (1, 1)
    assert result.stderr == alone.stderr
    assert workers() == []


def test_any_error_of_a_process_comes_back_as_a_sentence():
    class Failing:
        def restore(self, pictures):
            raise RuntimeError("out of memory")

    error = gpus._restored(Failing(), {})
    assert isinstance(error, BackendError)
    assert str(error) == "a worker failed: RuntimeError('out of memory')"


def test_a_plan_that_is_replaced_meanwhile_is_refused(here, order):
    plan = Plan.open("tiny.plan")
    copy = Path("copy.plan")
    plan.save(copy)
    with Devices(copy, order, "cpu", ["0"]) as spread:
        Plan({**plan.manifest, "licence": "another"}, {name: plan.member(name) for name in plan.members}).save(copy)
        with pytest.raises(BackendError, match=r"could not start: copy\.plan has been replaced by another plan"):
            list(spread.restore(sorted(Path("photos").iterdir())))
    assert workers() == []
    with pytest.raises(PlanError, match="no file"):
        Devices(Path("nothing.plan"), order, "cpu", ["0"])


def command(*more: str) -> "subprocess.Popen[str]":
    """The command in a group of processes of its own, as a shell starts it."""
    return subprocess.Popen(
        [sys.executable, "-c", ON_THE_CPU, *RESTORE, *ON_TWO, *more],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize("whole_group", [True, False])
def test_ctrl_c_ends_the_processes_and_leaves_whole_pictures(here, whole_group):
    process = command("--steps", "1000")
    wait_for(written)
    children = wait_for(lambda: found if len(found := workers(process.pid)) == 2 else None)
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)  # a terminal signals the group
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert said == "12 pictures by tiny, 1000 steps each\nStopped.\n"
    assert gone(children)
    assert 0 < len(written()) < 12
    assert_whole("out")


def test_ctrl_c_while_the_processes_start_leaves_nothing(here):
    process = command()
    children = wait_for(lambda: workers(process.pid))
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE)
    assert (process.returncode, said.splitlines()[-1]) == (130, "Stopped.")
    wait_for(lambda: gone(children))
    assert not Path("out").exists()


def test_processes_end_with_the_one_that_started_them_however_it_ends(here):
    process = command("--steps", "1000")
    children = wait_for(lambda: found if len(found := workers(process.pid)) == 2 else None)
    wait_for(written)
    process.kill()
    process.communicate()
    wait_for(lambda: gone(children))


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (("--backend", "cpu"), "the backend cpu computes on the CPU; GPUs take tensorrt, cuda, torch or auto"),
        (("--backend", "openvino"), "the backend openvino computes on the CPU"),
        (("--ray", "local"), "--devices is for this machine and --ray for a cluster"),
        (("--workers", "2"), "--workers is for a cluster"),
        (("--video", "x.gif"), "for one picture, restored here"),
        (("--devices", "0,3"), "Error: --devices 0,3: there is no device 3; the NVIDIA driver shows devices 0 to 1\n"),
        (("--devices", "0;1"), "--devices takes numbers of CUDA devices, each once, such as 0,1; got '0;1'"),
    ],
)
def test_devices_that_cannot_be_had_are_one_sentence(here, driver, monkeypatch, asked, sentence):
    driver(2)
    monkeypatch.setattr("frugal_rt.runtime.offline.gpus.launch", lambda *_: pytest.fail("something was started"))
    result = frugal(*RESTORE, *ON_TWO, *asked)
    assert result.exit_code != 0
    assert sentence in result.stderr


@pytest.mark.skipif(nvidia.trouble() is None, reason="this machine has a GPU")
def test_without_a_driver_it_says_what_it_needs(here):
    result = frugal(*RESTORE, *ON_TWO)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: --devices needs NVIDIA GPUs: ")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("text", ["", "0,", "-1", "0,0", "0,00", "a", "1.5", "0 1"])
def test_wrong_lists_of_devices_are_refused(driver, text):
    driver(8)
    with pytest.raises(InputError, match="numbers of CUDA devices, each once"):
        gpus_named(text)


@pytest.mark.parametrize(
    ("there", "visible", "text", "expected"),
    [
        (2, None, "0,1", ["0", "1"]),
        (4, None, "3, 1", ["3", "1"]),
        (3, "4,6, GPU-7f", "2,0", ["GPU-7f", "4"]),
        (1, "4,-1,6", "0", ["4"]),
    ],
)
def test_numbers_count_what_this_process_sees(driver, there, visible, text, expected):
    driver(there, visible)
    assert gpus_named(text) == expected
    with pytest.raises(InputError, match=f"there is no device {there}; "):
        gpus_named(str(there))
