"""The service's page in a headless Chromium, against a real server of a tiny random prior of 3x16x16."""

import base64
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from frugal_rt.runtime.pictures.damage import Damage
from frugal_rt.runtime.pictures.measurement import whole_operator

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and chromium-driver are not installed")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-dev-shm-usage "
    "--disable-background-networking --disable-component-update --disable-sync --window-size=1100,1200"
)
DROP = """
const [content, name, type] = arguments;
const data = new DataTransfer();
data.items.add(new File([Uint8Array.from(atob(content), (one) => one.charCodeAt(0))], name, { type }));
const drop = new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
document.getElementById("frame").dispatchEvent(drop);
"""
PIXELS = """
const of = document.getElementById(arguments[0]);
const canvas = Object.assign(document.createElement("canvas"), { width: 16, height: 16 });
canvas.getContext("2d").drawImage(of, 0, 0);
return [...canvas.getContext("2d").getImageData(0, 0, 16, 16).data];
"""


@pytest.fixture(scope="module")
def serve(tiny_plan: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., tuple[str, Any]]]:
    """Starts a server in a process of its own; gives its address and the process."""
    processes = []

    def start(*options: str, **environment: str) -> tuple[str, Any]:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        main = "from frugal_rt.cli import main; main()"
        command = [sys.executable, "-c", main, "serve", "--engine", str(tiny_plan), "--port", str(port), *options]
        log = tmp_path_factory.mktemp("serve") / "log"
        with log.open("w") as file:
            process = subprocess.Popen(command, stderr=file, env={**os.environ, **environment})
        processes.append(process)
        end = time.monotonic() + 60
        while "on http://" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        return f"http://127.0.0.1:{port}", process

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def server(serve: Callable[..., tuple[str, Any]]) -> str:
    return serve()[0]


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield browser
    browser.quit()


class Page:
    """The page in a browser."""

    def __init__(self, browser: Any, origin: str):
        self.browser, self.origin = browser, origin
        self.requested: list[str] = []
        browser.get_log("performance")  # of what was there before
        browser.get(f"{origin}/")
        self.until(lambda: "16×16" in self.text("about") or self.text("alert"))

    def __getitem__(self, name: str) -> Any:
        return self.browser.find_element("id", name)

    def text(self, name: str) -> str:
        return self[name].text

    def until(self, condition: Callable[[], Any]) -> Any:
        return WebDriverWait(self.browser, 30, 0.05).until(lambda _: condition())

    def set(self, **fields: str) -> None:
        """Settings under More."""
        self.browser.execute_script("document.querySelector('details').open = true")
        for name, value in fields.items():
            self[name].clear()
            self[name].send_keys(value)

    def choose(self, name: str, value: str) -> None:
        Select(self[name]).select_by_value(value)

    def sample(self) -> None:
        self["sample"].click()
        self.until(lambda: "portrait.png" in self.text("name"))

    def drop(self, content: bytes, name: str, type: str = "image/png") -> None:
        self.browser.execute_script(DROP, base64.b64encode(content).decode(), name, type)
        self.until(lambda: name in self.text("name") + self.text("alert"))

    def drag(self, *points: tuple[float, float]) -> None:
        """With the mouse over the mask, from one share of its width and height to the next."""
        mask = self["mask"]
        actions = ActionChains(self.browser, duration=10)
        for i, (x, y) in enumerate(points):
            size = mask.size
            actions.move_to_element_with_offset(mask, int((x - 0.5) * size["width"]), int((y - 0.5) * size["height"]))
            if i == 0:
                actions.click_and_hold()
        actions.release().perform()

    def restore(self) -> None:
        self["restore"].click()
        self.until(lambda: self["result"].is_displayed() or self.text("alert"))
        assert not self.text("alert")

    def pixels(self, name: str) -> np.ndarray:
        """(16, 16, 4) of a canvas or an image."""
        return np.array(self.browser.execute_script(PIXELS, name), float).reshape(16, 16, 4)

    @property
    def requests(self) -> list[str]:
        """The address of everything that was asked for."""
        for entry in self.browser.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self.requested.append(message["params"]["request"]["url"])
        return self.requested


@pytest.fixture
def page(chromium: Any, server: str) -> Iterator[Page]:
    """The page, freshly loaded; afterwards nothing was asked of others, and nothing went wrong but what is refused."""
    page = Page(chromium, server)
    yield page
    assert [url for url in page.requests if not url.startswith((page.origin, "data:", f"blob:{page.origin}"))] == []
    assert [one for one in chromium.get_log("browser") if "/v1/restore" not in one["message"]] == []


def picture(width: int, height: int, noise: float = 0.0) -> bytes:
    """A PNG of a gradient, with noise of so many grey levels."""
    y, x = np.mgrid[:height, :width]
    levels = np.stack([x * 255 / width, y * 255 / height, 0 * x + 128], -1)
    pixels = (levels + noise * np.random.default_rng(0).standard_normal(levels.shape)).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_drop_restores_what_is_damaged(page: Page) -> None:
    page.drop(picture(24, 20, noise=20), "mine.png")
    assert "mine.png as it is, 24×20" in page.text("sends")
    page.set(steps="4", noise="20")
    assert '"noise":20' in page.text("sends")
    page.choose("method", "hybrid")
    page.restore()
    assert page.text("status").startswith("Restored (denoise:")
    assert "4 network calls" in page.text("status")
    assert page["download"].get_attribute("download") == "mine.restored.png"
    assert page["after"].get_property("naturalWidth") == 24
    assert "switch t_C" in page["trace"].get_property("textContent")


def test_a_clean_picture_is_left_as_it_was(page: Page) -> None:
    page.drop(picture(16, 16), "mine.png")
    page["restore"].click()
    page.until(lambda: page.text("status").startswith("Left as it was: nothing is missing from the picture"))
    assert page["after"].get_property("naturalWidth") == 16


def test_an_old_jpeg_is_restored_from_its_own_coefficients(page: Page) -> None:
    file = io.BytesIO()
    Image.open(io.BytesIO(picture(16, 16))).convert("RGB").save(file, "JPEG", quality=20)
    page.drop(file.getvalue(), "old.jpg", "image/jpeg")
    page.choose("task", "jpeg")
    page["restore"].click()
    page.until(lambda: page.text("status").startswith("Restored (jpeg:"))
    assert page["after"].get_property("naturalWidth") == 16
    page.sample()  # a clean picture, to be damaged here
    assert page["jpeg"].get_property("disabled")


def test_paint_and_inpaint(page: Page) -> None:
    page.sample()
    assert "hole in the middle" in page.text("status")
    page.drag((0.2, 0.5), (0.8, 0.5))
    painted = page.pixels("mask")[..., 3] > 0
    assert painted[8, 4:12].all()
    assert not painted[:4].any()
    assert 0 < painted.mean() < 0.3
    page.set(steps="20")
    page.choose("method", "closed-form")
    page.restore()
    before, after = page.pixels("picture"), page.pixels("after")
    assert (before[painted] == [128, 128, 128, 255]).all()
    assert np.abs(after - before)[~painted].mean() < 6
    assert np.abs(after - before)[painted][:, :3].mean() > 12


@pytest.mark.parametrize("task", ["sr", "outpaint", "colorize", "deblur", "denoise"])
def test_sample_is_damaged_first(page: Page, task: str) -> None:
    page.sample()
    page.choose("task", task)
    assert f'"task":"{task}"' in page.text("sends")
    page.set(steps="4")
    page.restore()
    assert "PSNR to the photograph" in page.text("status")


def test_damage_is_what_the_service_calls_it(page: Page) -> None:
    """The page's blur and block mean agree with the operators."""
    page.drop(picture(16, 16), "clean.png")
    page.browser.find_element("css selector", "[name=clean][value=yes]").click()
    clean = np.asarray(Image.open(io.BytesIO(picture(16, 16))), np.float32).transpose(2, 0, 1)[None]
    page.set(noise="0")
    page.choose("task", "sr")
    expected = whole_operator("sr", (3, 16, 16), Damage(scale=4)).A(clean)[0].transpose(1, 2, 0)
    assert np.abs(page.pixels("picture")[:4, :4, :3] - expected).max() <= 0.51
    page.choose("task", "deblur")
    expected = whole_operator("deblur", (3, 16, 16), Damage(kernel="gaussian:1.5")).A(clean)[0].transpose(1, 2, 0)
    assert np.abs(page.pixels("picture")[..., :3] - expected).max() <= 0.51


def test_keyboard_paints(page: Page) -> None:
    page.sample()
    page["size"].send_keys(Keys.HOME)
    page["mask"].send_keys(Keys.SPACE, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.SHIFT, Keys.ARROW_DOWN)
    rows, columns = np.nonzero(page.pixels("mask")[..., 3])
    assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == {(8, 8), (8, 10), (9, 10)}
    page["erase"].send_keys(Keys.SPACE)
    page["mask"].send_keys(Keys.SPACE)
    assert page.pixels("mask")[9, 10, 3] == 0
    page["hole"].send_keys(Keys.ENTER)
    assert (page.pixels("mask")[5:11, 5:11, 3] > 0).all()
    page["clear"].send_keys(Keys.ENTER)
    assert not page.pixels("mask").any()


def test_slider_by_keyboard(page: Page) -> None:
    page.sample()
    page["hole"].click()
    page.set(steps="4")
    page["restore"].send_keys(Keys.ENTER)
    page.until(page["result"].is_displayed)
    slider = page["slider"]
    assert page.until(lambda: page.browser.switch_to.active_element == slider)
    slider.send_keys(*[Keys.ARROW_RIGHT] * 5)
    assert slider.get_property("value") == "55"
    assert page["after"].value_of_css_property("clip-path") == "inset(0px 0px 0px 55%)"
    slider.send_keys(Keys.HOME)
    assert page["after"].value_of_css_property("clip-path") == "inset(0px 0px 0px 0%)"


def test_cancel_stops_it(page: Page) -> None:
    page.drop(picture(64, 64, noise=20), "large.png")
    page.set(steps="1000")
    page["restore"].click()
    page.until(lambda: page.text("status").startswith("Step"))
    assert page["after"].get_attribute("src").startswith("data:image/png")
    page["cancel"].click()
    page.until(lambda: page.text("status") == "Cancelled.")
    assert page["restore"].is_enabled()
    (events,) = [url for url in page.requests if url.endswith("/events")]
    with urllib.request.urlopen(events.removesuffix("/events")) as answer:
        assert json.load(answer)["state"] == "cancelled"


def test_errors_are_told(page: Page) -> None:
    page["restore"].click()
    assert page.until(lambda: page.text("alert")).startswith("Choose a photograph first")
    page.drop(b"no picture", "notes.txt", "text/plain")
    assert page.until(lambda: "notes.txt" in page.text("alert"))
    page.drop(picture(16, 16), "mine.png")
    assert not page.text("alert")
    page.set(steps="1")
    page["restore"].click()
    assert page.until(lambda: page.text("alert")).startswith("Steps: ")
    page.set(steps="4")
    page.choose("task", "deblur")
    page.set(kernel="nonsense")
    page["restore"].click()
    assert "nonsense" in page.until(lambda: page.text("alert"))
    page.set(kernel="gaussian:1")
    page.restore()


def test_tab_reaches_every_control(page: Page) -> None:
    page.sample()
    page["hole"].click()
    page.set(steps="4")

    def walk() -> list[str]:
        names: list[str] = []
        page.browser.execute_script("document.body.tabIndex = -1; document.body.focus()")
        while len(names) < 40:
            ActionChains(page.browser).send_keys(Keys.TAB).perform()
            at = page.browser.switch_to.active_element
            name = at.get_attribute("id") or at.get_attribute("name") or at.tag_name
            if name in names or name == "body":
                break
            assert page.browser.execute_script(
                "return getComputedStyle(arguments[0].closest('.button') ?? arguments[0]).outlineStyle", at
            ) not in ("none", "")
            names.append(name)
        return names

    form = ["clean", "task", "preset", "summary", "noise", "method", "steps", "seed", "restore"]
    assert walk() == ["file", "sample", "mask", "size", "erase", "hole", "clear", *form]
    page.restore()
    assert walk() == ["file", "sample", "slider", "download", "back", *form]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(page: Page, scheme: str) -> None:
    """WCAG AA: 4.5 for text, 3 for the lines of controls."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def luminance(name: str) -> float:
        script = "return getComputedStyle(document.documentElement).getPropertyValue(arguments[0])"
        colour = page.browser.execute_script(script, f"--{name}").strip().lstrip("#")
        levels = np.array([int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)])
        linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    def contrast(a: str, b: str) -> float:
        dark, light = sorted([luminance(a), luminance(b)])
        return (light + 0.05) / (dark + 0.05)

    assert (luminance("ground") < 0.05) == (scheme == "dark")
    for ground in ("ground", "raised"):
        assert min(contrast(name, ground) for name in ("ink", "muted", "accent", "forward", "bad")) >= 4.5
        assert contrast("line", ground) >= 3
    assert contrast("on-accent", "accent") >= 4.5
    page.sample()
    assert page["picture"].is_displayed()


def test_token_busy_and_gone(chromium: Any, serve: Any) -> None:
    origin, process = serve("--limit", "1", FRUGAL_RT_TOKEN="s3cret")
    page = Page(chromium, origin)
    assert "token" in page.text("alert")
    page["token"].send_keys("s3cret", Keys.ENTER)
    page.until(lambda: "16×16" in page.text("about"))
    assert not page["unlock"].is_displayed()
    page.sample()
    page["hole"].click()
    page.set(steps="4")
    page.restore()

    asked = urllib.parse.quote(json.dumps({"steps": 1000, "tile": True}))
    headers = {"Authorization": "Bearer s3cret", "Prefer": "respond-async"}
    urllib.request.urlopen(
        urllib.request.Request(f"{origin}/v1/restore?parameters={asked}", picture(64, 64, noise=20), headers)
    ).close()
    page["restore"].click()
    assert page.until(lambda: page.text("alert")).startswith("The service is busy: try again in ")
    process.kill()
    process.wait()
    page["restore"].click()
    page.until(lambda: "does not answer" in page.text("alert"))
    chromium.get_log("browser")


def test_nothing_is_inline(server: str) -> None:
    with urllib.request.urlopen(f"{server}/") as answer:
        policy, text = answer.headers["Content-Security-Policy"], answer.read().decode()
    assert {"default-src 'self'", "frame-ancestors 'none'"} <= {part.strip() for part in policy.split(";")}
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script>", text)
