"""The page in demo/, in a real browser: it says what predict.py says, of any network."""

import base64
import functools
import http.server
import json
import shutil
import threading
from contextlib import contextmanager

import numpy as np
import PIL
import pytest
from PIL import Image
from playwright.sync_api import expect, sync_playwright
from runs import HOSTILE_NAMES, REPO, run_script

MODULES = REPO / "demo" / "node_modules"
PUBLISHED = REPO / "results"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
REPOSITORY = "https://example.org/someone/something"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="there is no chromium on this machine"),
    pytest.mark.skipif(
        not (MODULES / "axe-core").exists(),
        reason="npm install --no-package-lock --prefix demo was not run",
    ),
]


# ---- to serve the page, open it, read it, and ask predict.py


@contextmanager
def served(folder):
    """The address of a folder as a plain file server serves it."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def assemble(root, run, *flags):
    """The folder of the page, for the network of the run in the folder `run`."""
    paths = ("--checkpoint", run / "best.pt", "--out", root / "net.onnx", "--page", root / "site")
    outcome = run_script("export", *paths, *flags)
    assert (outcome.status, outcome.err) == (0, "")
    return root / "site"


@contextmanager
def opened(browser, address, before=lambda page: None, **context):
    """The page at `address`; it must ask nobody else for anything, and throw nothing."""
    page = browser.new_page(**context)
    before(page)
    requests, errors = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    yield page
    page.close()
    own = (address.removesuffix("index.html"), "blob:", "data:")
    assert [url for url in requests if not url.startswith(own)] == []
    assert errors == []


def shown(page, name: str) -> dict[str, str]:
    """The probabilities, once the page shows those of the image `name`."""
    expect(page.locator("#latency")).to_contain_text(f"{name}: ", timeout=30_000)
    items = page.locator("#probabilities li").all()
    found = {
        i.locator("span").first.text_content(): i.locator(".percent").inner_text() for i in items
    }
    first = next(iter(found))
    expect(page.locator("#verdict")).to_have_text(f"{first}, {found[first]}")
    return found


def predicted(path, run=PUBLISHED) -> dict[str, str]:
    flags = ("--checkpoint", run / "best.pt", "--json", "--top", 5)
    (line,) = run_script("predict", *flags, path).out.splitlines()
    found = json.loads(line)["predictions"]
    return {each["class"]: f"{100 * each['probability']:.1f} %" for each in found}


def sample(site, index: int, path):
    """A sample of the page, saved as a file."""
    url = json.loads((site / "net.json").read_text())["samples"][index]["image"]
    path.write_bytes(base64.b64decode(url.partition(",")[2]))
    return path


def axe_violations(page) -> list[str]:
    page.evaluate((MODULES / "axe-core" / "axe.min.js").read_text())
    found = page.evaluate("axe.run()")["violations"]
    return [f"{each['id']}: {node['html']}" for each in found for node in each["nodes"]]


# ---- the page


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the page of the published network."""
    return assemble(tmp_path_factory.mktemp("page"), PUBLISHED, "--repository", REPOSITORY)


@pytest.fixture(scope="module")
def address(site):
    with served(site) as found:
        yield found


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--use-fake-device-for-media-stream"]
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield started
        started.close()


@pytest.fixture
def page(browser, address):
    with opened(browser, address) as found:
        yield found


def test_an_uploaded_image_gets_predict_pys_probabilities(page, site, tmp_path):
    truck = Image.open(sample(site, 0, tmp_path / "truck.png"))
    # Pillow before 13 resizes an upright image in another order and so rounds otherwise
    upright = [(20, 500)] if PIL.__version__ >= "13" else []
    for size in [(32, 32), (100, 75), (500, 20), (7, 5), *upright]:
        path = tmp_path / f"{size}.png"
        truck.resize(size, Image.Resampling.BICUBIC).save(path)
        page.set_input_files("#file", path)
        assert shown(page, path.name) == predicted(path)
        assert page.locator("#original-size").inner_text() == f"{size[0]}x{size[1]} pixels"
        assert page.locator("#input-size").inner_text() == "32x32 pixels"
        assert page.get_attribute("#original", "alt") == path.name


def test_a_transparent_image_is_composited_on_white_before_it_is_resized(page, tmp_path):
    rows, columns = np.mgrid[:90, :120]
    distance = np.hypot(rows - 45, columns - 60)
    pixels = np.full((90, 120, 4), (0, 0, 255, 0), np.uint8)  # blue, which nobody sees
    pixels[distance < 40] = (200, 30, 30, 255)
    pixels[..., 3] = np.clip((42 - distance) * 64, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "disk.png")
    page.set_input_files("#file", tmp_path / "disk.png")
    assert shown(page, "disk.png") == predicted(tmp_path / "disk.png")


@pytest.mark.parametrize(
    ("event", "carrier", "name"),
    [("Drag", "dataTransfer", "frog.png"), ("Clipboard", "clipboardData", "Pasted image")],
)
def test_an_image_dropped_or_pasted(event, carrier, name, page, site, tmp_path):
    """A file in a DataTransfer, as the browser hands it over."""
    frog = sample(site, 2, tmp_path / "frog.png")
    page.evaluate(
        """([event, carrier, bytes]) => {
            const transfer = new DataTransfer();
            const file = new File([new Uint8Array(bytes)], "frog.png", { type: "image/png" });
            transfer.items.add(file);
            const [kind, name] = event === "Drag" ? [DragEvent, "drop"] : [ClipboardEvent, "paste"];
            document.querySelector("#drop").dispatchEvent(
                new kind(name, { [carrier]: transfer, bubbles: true, cancelable: true }));
        }""",
        [event, carrier, list(frog.read_bytes())],
    )
    assert shown(page, name) == predicted(frog)


def test_by_keyboard_alone(page, site, tmp_path):
    page.on("filechooser", lambda _: None)  # intercepted from here on, before the key is pressed
    assert shown(page, "truck") == predicted(sample(site, 0, tmp_path / "truck.png"))
    page.keyboard.press("Tab")
    with page.expect_file_chooser():
        page.keyboard.press("Enter")
    while page.evaluate("document.activeElement.firstChild?.alt") != "Sample image of a frog":
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert shown(page, "frog") == predicted(sample(site, 2, tmp_path / "frog.png"))
    assert page.locator("[aria-pressed=true] img").get_attribute("alt") == "Sample image of a frog"


def unsure_image(site, folder):
    """A blend of two samples, of which the network is not sure."""
    samples = [sample(site, index, folder / f"{index}.png") for index in (3, 4)]
    Image.blend(*map(Image.open, samples), 0.5).save(folder / "blend.png")
    assert float(next(iter(predicted(folder / "blend.png").values()))[:-2]) < 50
    return folder / "blend.png"


def test_what_the_page_says_of_the_published_network(page):
    config = json.loads((PUBLISHED / "config.json").read_text())
    shown(page, "truck")
    expect(page).to_have_title("Image classifier: Net")
    assert page.locator("#classes li").all_inner_texts() == config["classes"]
    facts = page.inner_text("dl")
    assert f"{config['parameters']:,}" in facts
    assert "on 10,000 test images of cifar10" in facts
    assert page.get_by_role("link").get_attribute("href") == REPOSITORY


def test_a_network_of_other_data(hostile_run, browser, tmp_path):
    site = assemble(tmp_path, hostile_run)
    facts = json.loads((site / "net.json").read_text())
    first = sample(site, 0, tmp_path / "first.png")
    with served(site) as address, opened(browser, address) as page:
        assert shown(page, facts["samples"][0]["class"]) == predicted(first, hostile_run)
        assert page.locator("#classes li").all_text_contents() == sorted(HOSTILE_NAMES)
        assert page.locator("script").count() == 1
        assert not page.is_visible("footer")
        page.set_viewport_size({"width": 360, "height": 740})
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_a_missing_file_is_reported(page):
    for name in ("net.onnx", "*.wasm", "*.min.js", "net.json"):
        page.route(f"**/{name}", lambda route: route.fulfill(status=404))
        page.reload()
        expect(page.locator("[role=alert]")).to_contain_text(name.strip("*"))
        expect(page.locator("[role=alert]")).to_contain_text("python export.py --page site")
        expect(page.locator("#loading")).to_be_hidden()
        page.unroute(f"**/{name}")


def test_the_wrong_folder_or_no_server_is_reported(browser, site):
    with served(REPO / "demo") as address, opened(browser, address) as page:
        expect(page.locator("[role=alert]")).to_contain_text("net.json is not beside this page")
    with opened(browser, f"file://{site}/index.html") as page:
        expect(page.locator("[role=alert]")).to_contain_text("do not run this page from a file")
        expect(page.locator("[role=alert]")).to_contain_text("python -m http.server")


def keep_streams(page):
    page.add_init_script(
        """const devices = navigator.mediaDevices;
        const original = devices.getUserMedia.bind(devices);
        window.tracks = [];
        devices.getUserMedia = async (wanted) => {
          const stream = await original(wanted);
          window.tracks.push(...stream.getTracks());
          return stream;
        };"""
    )


STOPPED = "tracks.every((track) => track.readyState === 'ended')"


def test_the_camera_is_stopped_after_use(browser, address):
    with opened(browser, address, keep_streams, permissions=["camera"]) as page:
        for key, found in (("Escape", "truck"), ("Enter", "Picture from the camera")):
            page.click("text=Use camera")
            expect(page.locator("video")).to_be_visible()
            expect(page.locator("video")).to_have_js_property("readyState", 4)
            assert not page.evaluate(STOPPED)
            assert axe_violations(page) == []
            page.keyboard.press(key)
            shown(page, found)
            assert page.evaluate(STOPPED)
            assert page.locator("video").is_hidden()


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1280, "dark")])
def test_axe_finds_nothing_and_nothing_scrolls_sideways(
    width, scheme, browser, address, site, tmp_path
):
    size = {"width": width, "height": 740}
    with opened(browser, address, color_scheme=scheme, viewport=size) as page:
        shown(page, "truck")
        assert page.is_hidden("#unsure")
        page.set_input_files("#file", unsure_image(site, tmp_path))
        shown(page, "blend.png")
        assert page.is_visible("#unsure")
        assert axe_violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        (tmp_path / "notes.txt").write_text("no image")
        page.set_input_files("#file", tmp_path / "notes.txt")
        expect(page.locator("[role=alert]")).to_contain_text("notes.txt is not an image")
        expect(page.locator("#answer")).to_be_hidden()
        assert axe_violations(page) == []
