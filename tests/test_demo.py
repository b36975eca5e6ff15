"""The page in docs/, in a real browser: it says what predict.py says."""

import functools
import http.server
import json
import shutil
import threading

import numpy as np
import pytest
from conftest import REPO, run_script
from PIL import Image
from playwright.sync_api import expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
RUNTIME = REPO / "docs" / "node_modules" / "onnxruntime-web"

pytestmark = [
    pytest.mark.skipif(not CHROMIUM, reason="there is no chromium on this machine"),
    pytest.mark.skipif(
        not RUNTIME.exists(), reason="npm install --no-package-lock --prefix docs was not run"
    ),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The address of the page as a plain file server serves it."""
    root = tmp_path_factory.mktemp("site")
    (root / "docs").symlink_to(REPO / "docs")
    (root / "results").mkdir()
    (root / "results" / "plots").symlink_to(REPO / "results" / "plots")
    assert run_script("export", "--out", root / "results" / "net.onnx").status == 0

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Handler, directory=root)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser, site):
    """The page, opened; it fails the test if it asks anyone else for anything, or throws."""
    opened = browser.new_page()
    requests, errors = [], []
    opened.on("request", lambda request: requests.append(request.url))
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.goto(f"{site}/docs/")
    yield opened
    opened.close()
    assert all(url.startswith((site, "blob:", "data:")) for url in requests)
    assert errors == []


def shown(page) -> dict[str, str]:
    expect(page.locator(".result")).to_be_visible(timeout=30_000)
    items = page.locator("li").all()
    return {i.locator("span").first.inner_text(): i.locator(".percent").inner_text() for i in items}


def predicted(path) -> dict[str, str]:
    (line,) = run_script("predict", "--json", "--top", 5, path).out.splitlines()
    found = json.loads(line)["predictions"]
    return {each["class"]: f"{100 * each['probability']:.1f} %" for each in found}


def assert_alike(one: dict[str, str], other: dict[str, str], percent: float = 0.25) -> None:
    """The same classes in the same order, with nearly the same probabilities."""
    assert list(one) == list(other)
    values = [[float(text[:-2]) for text in each.values()] for each in (one, other)]
    np.testing.assert_allclose(*values, atol=percent)


# Pillow before 13 resizes an upright image in another order and so rounds otherwise
@pytest.mark.parametrize(
    ("size", "percent"),
    [((32, 32), 0.25), ((100, 75), 0.25), ((500, 20), 0.25), ((7, 5), 0.25), ((20, 500), 4)],
)
def test_an_uploaded_image_gets_predict_pys_probabilities(size, percent, page, tmp_path):
    with Image.open(REPO / "results/plots/test_samples/img_00_truck.png") as truck:
        truck.resize(size, Image.Resampling.BICUBIC).save(tmp_path / "truck.png")
    page.set_input_files("input[type=file]", tmp_path / "truck.png")
    assert_alike(shown(page), predicted(tmp_path / "truck.png"), percent)
    assert "truck.png" in page.locator(".latency").inner_text()


@pytest.mark.parametrize(
    ("event", "carrier"), [("Drag", "dataTransfer"), ("Clipboard", "clipboardData")]
)
def test_an_image_dropped_or_pasted(event, carrier, page):
    """A file in a DataTransfer, as the browser hands it over."""
    sample = REPO / "results/plots/test_samples/img_02_frog.png"
    page.evaluate(
        """([event, carrier, bytes]) => {
            const transfer = new DataTransfer();
            const file = new File([new Uint8Array(bytes)], "frog.png", { type: "image/png" });
            transfer.items.add(file);
            const [kind, name] = event === "Drag" ? [DragEvent, "drop"] : [ClipboardEvent, "paste"];
            document.querySelector(".drop").dispatchEvent(
                new kind(name, { [carrier]: transfer, bubbles: true, cancelable: true }));
        }""",
        [event, carrier, list(sample.read_bytes())],
    )
    assert_alike(shown(page), predicted(sample))


def test_samples_by_keyboard_alone(page):
    page.keyboard.press("Tab")  # the file field
    for _ in range(3):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    sample = REPO / "results/plots/test_samples/img_02_frog.png"
    assert_alike(shown(page), predicted(sample))


def test_every_sample_is_there(page):
    page.wait_for_load_state("networkidle")
    widths = page.eval_on_selector_all(".samples img", "all => all.map(i => i.naturalWidth)")
    assert len(widths) == 8
    assert min(widths) > 0


def test_a_file_that_is_no_image_is_told(page, tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    page.set_input_files("input[type=file]", tmp_path / "notes.txt")
    expect(page.locator("[role=alert]")).to_contain_text("notes.txt is not an image")
    expect(page.locator(".result")).to_be_hidden()


def test_phone_width_has_no_sideways_scrolling(page):
    page.set_viewport_size({"width": 360, "height": 740})
    page.locator(".samples button").first.click()
    shown(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_a_network_that_was_not_exported_is_told(page):
    page.route("**/net.onnx", lambda route: route.fulfill(status=404))
    page.reload()
    expect(page.locator("[role=alert]")).to_contain_text("python export.py")
