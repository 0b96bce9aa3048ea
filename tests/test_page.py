"""The page of `emola serve` in headless Chromium: upload, stream, two faces, errors, no face, camera, accessibility."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from test_server import served

from sdk.analyzer import Analyzer
from sdk.commands.demo import PICTURES
from sdk.server.app import Settings

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
]
playwright.expect.set_options(timeout=120_000)
FACE = PICTURES / "astronaut.jpg"


@pytest.fixture(scope="module")
def analyzer():
    with Analyzer() as opened:
        yield opened


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    camera = tmp_path_factory.mktemp("camera") / "face.y4m"
    _write_camera(camera)
    options = ["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    with playwright.sync_playwright() as play:
        opened = play.chromium.launch(
            executable_path=CHROMIUM, args=[*options, f"--use-file-for-fake-video-capture={camera}"]
        )
        yield opened
        opened.close()


@pytest.fixture
def page(browser, analyzer):
    """The page, which must not log an error or ask another machine for anything."""
    with served(analyzer) as address:
        opened = browser.new_page(viewport={"width": 1200, "height": 900})
        problems = []
        opened.on("pageerror", lambda error: problems.append(str(error)))
        opened.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        opened.on("request", lambda sent: problems.append(sent.url) if not _is_own(sent.url, address) else None)
        opened.set_default_timeout(120_000)
        opened.goto(address)
        opened.problems = problems
        yield opened
        opened.close()
        assert [problem for problem in problems if "422" not in problem] == []


def _is_own(url, address):
    return url.startswith((address, "blob:", "data:"))


def _write_camera(path):
    """One second of a face for Chromium's fake camera, as YUV4MPEG2."""
    picture = Image.open(FACE).convert("RGB").resize((320, 320)).convert("YCbCr")
    luma, blue, red = (np.asarray(channel) for channel in picture.split())
    frame = luma.tobytes() + blue[::2, ::2].tobytes() + red[::2, ::2].tobytes()
    path.write_bytes(b"YUV4MPEG2 W320 H320 F10:1 Ip A1:1 C420jpeg\n" + 10 * (b"FRAME\n" + frame))


def status(page):
    return page.locator("#status")


def test_a_picture_is_read_and_a_question_is_answered(page, analyzer, tmp_path):
    page.set_input_files("#file", FACE)
    playwright.expect(status(page)).to_have_text("One face read.")
    direct = analyzer.analyze(FACE)
    (face,) = direct.faces
    card = page.get_by_role("article")
    playwright.expect(card).to_contain_text(face.emotion.description)
    for unit in face.action_units:
        if unit.present:
            playwright.expect(card).to_contain_text(f"{unit.id} {unit.name}")
    page.get_by_label("A further question").fill("emotion")
    page.get_by_role("button", name="Ask").click()
    playwright.expect(page.locator("#answer")).to_have_text(analyzer.ask(FACE, "emotion"))
    with page.expect_download() as download:
        page.get_by_role("button", name="JSON").click()
    found = json.loads(download.value.path().read_text())
    assert found["faces"][0]["emotion"]["description"] == face.emotion.description
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").click()
    assert face.emotion.label in download.value.path().read_text()
    with page.expect_download() as download:
        page.get_by_role("button", name="Picture").click()
    with Image.open(download.value.path()) as annotated:
        assert annotated.size == direct.image_size
    playwright.expect(page.locator("#notice")).to_have_text(analyzer.pipeline.notice)


def test_two_faces_have_two_cards(page, tmp_path):
    with Image.open(FACE) as one:
        pair = Image.new("RGB", (2 * one.width, one.height))
        for index in range(2):
            pair.paste(one, (index * one.width, 0))
    pair.save(tmp_path / "pair.png")
    page.set_input_files("#file", tmp_path / "pair.png")
    playwright.expect(status(page)).to_have_text("2 faces read.")
    playwright.expect(page.get_by_role("article")).to_have_count(2)


def test_no_face_and_no_picture(page, tmp_path):
    Image.new("RGB", (200, 200), "green").save(tmp_path / "green.png")
    page.set_input_files("#file", tmp_path / "green.png")
    playwright.expect(status(page)).to_have_text("No face was found in this picture.")
    (tmp_path / "text.png").write_text("no picture")
    page.set_input_files("#file", tmp_path / "text.png")
    playwright.expect(status(page)).to_contain_text("not an image")
    playwright.expect(page.get_by_role("article")).to_have_count(0)


def test_the_camera(page):
    page.get_by_role("button", name="Use the camera").click()
    page.get_by_role("button", name="Take the picture").click()
    playwright.expect(status(page)).to_have_text("One face read.")


def test_the_key_is_asked_for(browser, analyzer):
    with served(analyzer, Settings(api_key="sesame")) as address:
        page = browser.new_page()
        page.set_default_timeout(120_000)
        page.goto(address)
        page.get_by_label("API key").fill("sesame")
        page.get_by_role("button", name="Continue").click()
        playwright.expect(page.locator("#notice")).to_have_text(analyzer.pipeline.notice)
        page.set_input_files("#file", FACE)
        playwright.expect(status(page)).to_have_text("One face read.")
        page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(page, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page.emulate_media(color_scheme=scheme)
    page.set_input_files("#file", FACE)
    playwright.expect(status(page)).to_have_text("One face read.")
    page.locator("details").first.evaluate("every => every.open = true")
    found = axe.Axe().run(page).response["violations"]
    assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found] == []


def test_a_phone_needs_no_sideways_scrolling(page):
    page.set_viewport_size({"width": 360, "height": 740})
    page.set_input_files("#file", FACE)
    playwright.expect(status(page)).to_have_text("One face read.")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
