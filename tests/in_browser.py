"""What the tests of the page do: assemble and serve it, open it, read it, ask predict.py."""

import base64
import functools
import http.server
import json
import threading
from contextlib import contextmanager

from playwright.sync_api import expect
from runs import REPO, run_script

MODULES = REPO / "demo" / "node_modules"
PUBLISHED = REPO / "results"


@contextmanager
def served(folder):
    """The address of a folder as a plain file server serves it."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Handler, directory=folder)
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
