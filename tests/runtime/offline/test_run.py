"""A run without the command line: what it restores and writes, and what it refuses before it begins."""

import json
from pathlib import Path

import pytest
from PIL import Image

from frugal_rt.engines import InputError, Plan
from frugal_rt.runtime.offline.folder import Failed, Order, find_pictures
from frugal_rt.runtime.offline.outputs import Targets
from frugal_rt.runtime.offline.run import Beside, Resources, Run, Written
from frugal_rt.runtime.pictures.damage import Damage
from frugal_rt.runtime.pictures.images import SETTINGS_KEY
from frugal_rt.runtime.sampling.guidance import Guidance

RECORD = {"options": {"engine": "plans/tiny.plan", "images": ["photos"]}, "sha256": {"weights": "0"}}


@pytest.fixture
def here(three_pictures) -> Path:
    return three_pictures


def run_of(beside: Beside, fit: str | None = None, samples: int = 1) -> Run:
    """A run over the folder by this process."""
    order = Order(Damage(), fit, False, Guidance(steps=4, method="closed-form"), samples)
    targets = Targets.settle(find_pictures([Path("photos")]), False, Path("out"), samples, False, False)
    resources = Resources(Path("tiny.plan"), "cpu", trust_engines=False)
    return Run(Plan.open("tiny.plan"), order, targets, beside, resources, RECORD)


def restored(run: Run) -> list[Written | Failed]:
    return [*run.here(lambda prepared: None, lambda event: None, lambda done, total: None)]


def test_every_picture_is_written_or_told(here):
    Path("photos/b.png").write_bytes(b"broken")
    first, second, third = restored(run_of(Beside(), samples=2))
    assert isinstance(second, Failed)
    assert (second.source, second.why.split(" (")[0]) == (Path("photos/b.png"), "b.png is not a picture this can read")
    for outcome, name, task in ((first, "a", "denoise"), (third, "c", "sr")):
        assert isinstance(outcome, Written)
        names = [f"{name}.png", f"{name}.sample-1.png", f"{name}.sample-2.png", f"{name}.deviation.png"]
        assert [*outcome.paths] == [Path("out") / one for one in names]
        assert (outcome.task, outcome.figures["k"]) == (task, [4, 4])
    assert sorted(Path("out").iterdir()) == sorted([*first.paths, *third.paths])


def test_a_picture_carries_the_record_of_itself_alone(here):
    written = restored(run_of(Beside()))[0]
    settings = json.loads(Image.open(written.paths[0]).text[SETTINGS_KEY])
    assert settings["params"]["options"] == {"engine": "tiny.plan", "images": ["a.png"]}
    assert (settings["task"], settings["samples"], settings["faces"], settings["fit"]) == ("denoise", 1, [], None)


@pytest.mark.parametrize(("fit", "said"), [("crop", True), ("resize", True), ("pad", False), (None, False)])
def test_before_workers_read_the_pictures_the_order_tells_that_a_prior_knows_faces_only(here, fit, said):
    run = run_of(Beside(), fit=fit)
    assert run.advice() is None
    run.plan.manifest["prior"]["framing"] = {"centre": [0.5, 0.6], "side": 0.8}
    assert run.advice() == ("tiny knows whole faces framed in one way, and does poorly elsewhere" if said else None)


def test_outcomes_come_apart_in_the_pictures_order(here):
    run = run_of(Beside())
    first, second, third = (Path("photos") / name for name in ("a.png", "b.png", "c.jpg"))
    written = [Written(source, [], "denoise", "", 0.1, None, {}) for source in (third, first)]
    assert run.apart([*written, Failed(second, "why")]) == ([*reversed(written)], [Failed(second, "why")])


@pytest.mark.parametrize(
    ("beside", "sentence"),
    [
        (Beside(traces=[Path("t.txt")]), "t.txt: the output must end in .csv or .png or .svg"),
        (Beside(traces=[Path("mine.csv")]), "mine.csv exists"),
        (Beside(video=Path("v.mp4")), "v.mp4: the output must end in .gif or .webp or .png"),
        (Beside(steps=Path("photos")), "photos holds files already"),
    ],
)
def test_what_may_not_be_written_beside_is_refused_before_anything_runs(here, beside, sentence):
    Path("mine.csv").write_text("mine")
    with pytest.raises(InputError, match=sentence):
        run_of(beside)
    assert not Path("out").exists()


def test_a_folder_of_steps_that_is_forced_is_added_to(here):
    restored(run_of(Beside(steps=Path("photos"), force=True)))
    assert {path.name for path in Path("photos").iterdir()} > {"a.png", "step-0000.png", "step-0003.png"}
