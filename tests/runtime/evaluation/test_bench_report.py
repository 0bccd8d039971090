"""Ratios and pages of a benchmark's report, by hand."""

from frugal_rt.runtime.evaluation.bench_report import figures, markdown

KINDS = ("forward", "dps step", "dmps step")


def made_up() -> dict:
    """A report of three rounds whose ratios can be worked out by hand."""
    seconds = {
        "ours: cpu": {"forward": [1.0, 2.0, 4.0], "dps step": [2.0, 5.0, 10.0], "dmps step": [1.0, 2.0, 4.0]},
        "torch eager": {"forward": [3.0, 4.0, 20.0], "dps step": [4.0, 20.0, 30.0], "dmps step": [3.0, 4.0, 20.0]},
        "torch channels_last": {
            "forward": [2.0, 5.0, 6.0],
            "dps step": [8.0, 20.0, 40.0],
            "dmps step": [2.0, 5.0, 6.0],
        },
    }
    rows = [
        {
            "kind": kind,
            "name": kind,
            "batch": 1,
            "forwards": 1,
            "gradients": int(kind == "dps step"),
            "contenders": {
                label: {
                    "seconds": taken[kind],
                    "network_seconds": [0.75 * value for value in taken[kind]],
                    "first_seconds": 9.0,
                }
                for label, taken in seconds.items()
            },
        }
        for kind in KINDS
    ]
    return {
        "machine": {"processor": "a CPU", "cores": 2, "gpu": None, "system": "an OS", "torch_threads": 2},
        "versions": {"python": "3"},
        "date": "today",
        "prior": {"name": "a prior", "shape": [3, 8, 8], "weights_sha256": "0"},
        "settings": {"rounds": 3, "steps": 4, "batches": [1], "measurement": "a task"},
        "contenders": {label: "engine (cuda)" if "eager" in label else "engine (cpu, bfloat16)" for label in seconds},
        "left_out": {},
        "reference": "ours: cpu",
        "peak_flops": {"numpy (cpu)": [8e9, 10e9], "torch (cpu)": [9e9, 9e9]},
        "network_flops": {"forward": int(4e9), "gradient": int(6e9)},
        "rows": rows,
        "figures": [],
    }


def test_ratios_are_taken_within_rounds_before_their_median():
    found = {figure["name"]: figure for figure in figures(made_up())}
    eager = found["forward, batch 1: torch eager / ours"]
    assert eager["samples"] == [3.0, 2.0, 5.0]
    assert (eager["median"], eager["least"], eager["most"]) == (3.0, 2.0, 5.0)  # of the medians it would be 2
    assert found["DPS step / DMPS step, ours"]["samples"] == [2.0, 2.5, 2.5]
    assert found["dps step, batch 1: best torch (torch eager) / ours"]["median"] == 3.0
    assert found["forward, ours: share of the measured peak"]["samples"] == [40.0, 20.0, 10.0]
    assert found["dps step, ours: share of the measured peak"]["samples"] == [50.0, 20.0, 10.0]
    assert found["dps step, ours: share outside the network"]["median"] == 25.0
    assert not any("hybrid" in name for name in found)


def test_the_page_shows_medians_spreads_and_no_peak_of_another_device():
    lines = markdown(made_up()).splitlines()
    assert "| forward | 1 | 2.00 s (1.00..4.00) | 4.00 s (3.00..20.0) | 5.00 s (2.00..6.00) |" in lines
    assert "| forward | 1 | 3.00x (2.00..5.00) | 2.00x (1.50..2.50) |" in lines
    assert "| forward | 1 | 2.0 (20%) | 1.0 | 0.8 (8%) |" in lines  # eager ran on CUDA, whose peak nobody measured
