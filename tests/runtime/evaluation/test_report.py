"""Figures and differences of a report, by hand."""

import json

import numpy as np
import pytest

from frugal_rt.runtime.evaluation.report import markdown, paired, results


def made_up() -> list[dict]:
    """Two images, DPS with seeds 0 and 1, frugal with seed 0 and 1 too, of values that differ by image and seed."""
    values = {("dps", 0): (20, 30), ("dps", 1): (22, 34), ("frugal", 0): (21, 33), ("frugal", 1): (25, 35)}
    return [
        {"task": "sr4", "method": method, "seed": seed, "image": image, "psnr": float(value), "ssim": value / 100}
        | {"lpips": None, "k": 5.0, "forwards": 10, "gradients": 5, "seconds": 4.0 if method == "dps" else 3.0}
        for (method, seed), pair in values.items()
        for image, value in zip("ab", pair, strict=True)
    ]


RUN = {"prior": "p", "backend": "b", "images": {"count": 2}, "settings": {"steps": 10}, "sigma": None, "samples": None}


def test_differences_are_paired_by_image():
    """DPS (21, 32), frugal (23, 34): +2 and +2 on average, so the gap has no spread though the images have much."""
    gap = paired(made_up(), "frugal", "dps")["sr4"]
    assert gap["psnr"] == (2.0, 0.0)
    assert gap["lpips"] == (None, None)
    assert gap["time"] == 0.75
    rows = results(made_up(), {})["rows"]
    assert [(row["method"], row["psnr"]) for row in rows] == [("frugal", 28.5), ("dps", 26.5)]
    assert [row["psnr_se"] for row in rows] == pytest.approx([5.5, 5.5])
    page = markdown(made_up(), RUN, (3, 64, 64))
    assert "| super-resolution x4 | +2.00 +- 0.00 | +0.0200 +- 0.0000 |  | x0.75 |" in page
    assert "| super-resolution x4 | frugal | 28.50 +- 5.50 | 0.2850 +- 0.0550 |  | 5 | 10 | 5 | 3.00 |" in page


def test_only_common_seeds_are_paired():
    """With frugal's seed 1 gone: (21 - 20, 33 - 30), mean 2, standard error 1."""
    rows = [row for row in made_up() if (row["method"], row["seed"]) != ("frugal", 1)]
    assert paired(rows, "frugal", "dps")["sr4"]["psnr"] == (2.0, pytest.approx(1.0))
    assert paired(rows[:4], "frugal", "dps") == {}


def test_one_image_has_no_standard_error_and_an_infinite_psnr_is_null():
    rows = [row | {"psnr": np.inf} for row in made_up() if row["image"] == "a"]
    report = results(rows, {})
    assert report["rows"][0]["psnr"] is None
    assert report["rows"][0]["ssim_se"] is None
    json.loads(json.dumps(report, allow_nan=False))


def test_the_best_plain_method_stands_beside_ours():
    """By PSNR: B with 25 and 31, which `detail` is 1 and 2 dB below, and `fidelity` 1 and 3 above."""
    values = {"A": (24, 30, 0.5), "B": (25, 31, 0.4), "detail": (24, 29, 0.1), "fidelity": (26, 34, 0.3)}
    names = {"A": "non-local means", "B": "BM3D"}
    rows = [
        {"task": "denoise25", "method": names.get(method, method), "seed": 0, "image": image, "psnr": float(value)}
        | {"ssim": 0.5, "lpips": lpips, "k": None, "forwards": 1, "gradients": 0, "seconds": 2.0}
        for method, (*pair, lpips) in values.items()
        for image, value in zip("ab", pair, strict=True)
    ]
    page = markdown(rows, RUN, (3, 64, 64))
    assert "| task | plain method | | detail | fidelity | dB | LPIPS |" in page
    cells = ["denoise, 25 grey levels", "BM3D", "28.00 / 0.500 / 0.4000 (2.00)", "26.50 / 0.500 / 0.1000 (2.00)"]
    assert f"| {' | '.join([*cells, '30.00 / 0.500 / 0.3000 (2.00)', '+2.00 +- 1.00', '0.25'])} |" in page
    assert "T = 10" not in page
    assert page.startswith("# p: 2 images; noise 0.01 on [-1, 1] where a task names none")
    assert "plain method" not in markdown(made_up(), RUN, (3, 64, 64))
