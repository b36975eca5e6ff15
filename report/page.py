"""The web page in demo/: what it shows of a network, and a folder with all that it needs."""

import base64
import io
import json
import shutil
from pathlib import Path
from typing import Any

from PIL import Image

from console.errors import UserError
from console.files import REPOSITORY, replacing
from constraints.tables import count_parameters
from recipe import IMAGE_SIZE
from records import names
from records.results import is_of, read_config
from records.trained_net import TrainedNet
from report.pictures import tile_caption

DEMO = REPOSITORY / "demo"
PAGE = [DEMO / name for name in ("index.html", "page.css", "page.js")]
RUNTIME = [
    DEMO / "node_modules" / "onnxruntime-web" / "dist" / name
    for name in ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
]
INSTALL_RUNTIME = "npm install --no-package-lock --prefix demo"


def page_facts(net: TrainedNet, run: Path, repository: str | None) -> dict[str, Any]:
    """What the page shows of `net`.

    The data set's name and the samples are those of the run in the folder `run`, if the network's
    run is there. `repository` is the address that the page links to, or None.
    """
    checkpoint = net.checkpoint
    images = f"{names.SPLITS[checkpoint.split]} images"
    config = read_config(run) if (run / names.CONFIG).exists() else None
    known = config is not None and is_of(checkpoint, config)
    return {
        "name": checkpoint.network,
        "parameters": count_parameters(net.network),
        "accuracy": checkpoint.accuracy,
        "evaluated_on": f"{config.test_images:,} {images} of {config.dataset}" if known else images,
        "classes": net.classes,
        "image_size": IMAGE_SIZE,
        "samples": _samples(run / names.TEST_TILES) if known else [],
        "repository": repository,
    }


def _samples(folder: Path) -> list[dict[str, str]]:
    """The tiles in a folder in the network's resolution, as data URLs, each with its class."""
    found = []
    for path in names.tiles(folder):
        png = io.BytesIO()
        with Image.open(path) as tile:  # in which each pixel is enlarged to a square
            small = tile.convert("RGB").resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.NEAREST)
        small.save(png, "PNG", optimize=True)
        url = f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"
        found.append({"class": tile_caption(path), "image": url})
    return found


def check_page_folder(folder: Path) -> None:
    """Raises UserError unless `write_page` can write to `folder`."""
    earlier_page = (folder / RUNTIME[0].name).exists()
    if folder.exists() and not earlier_page and any(folder.iterdir()):
        raise UserError(f"--page: {folder} has other files in it; give a new folder")
    if not all(path.exists() for path in RUNTIME):
        raise UserError(f"--page needs onnxruntime-web: {INSTALL_RUNTIME}")


def write_page(folder: Path, onnx: Path, facts: dict[str, Any]) -> int:
    """Writes the page, the network in `onnx` and what it runs on to `folder`; returns the bytes."""
    files = {path.name: path for path in (*PAGE, *RUNTIME)} | {names.ONNX.name: onnx}
    folder.mkdir(parents=True, exist_ok=True)
    for name, source in files.items():
        with replacing(folder / name) as path:
            shutil.copyfile(source, path)
    with replacing(folder / names.PAGE_FACTS) as path:
        path.write_text(json.dumps(facts, indent=1))
    return sum((folder / name).stat().st_size for name in (*files, names.PAGE_FACTS))
