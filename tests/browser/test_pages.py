"""Contribute, Identify and Classes in Chromium: files are dropped and judged, and names that attack are text."""

from pathlib import Path

import numpy as np
import pytest

from apps.serve import serve
from curate.ledger import Ledger
from curate.manifest import write_manifest
from curate.recipe import ImageClass, Recipe
from tests.browser.conftest import Server
from tests.pictures import jpeg

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror='window.hacked=1'> **bold** :red[x] [a](javascript:alert(1))"
LABELS = {"basalt": "basalt", "granite": "granite", "olivine": HOSTILE}


class Pages(Server):
    """The review app with a recipe and a folder of runs."""

    @staticmethod
    def run(folder: Path, port: int) -> None:
        """With a ledger in the data root, as `curate review` has it."""
        recipe = Recipe("rocks", tuple(ImageClass(label, ("rock",)) for label in LABELS.values()), min_side=100)
        ledger, of = str(folder / "data/ledger.db"), {"target": 4, "reviewer": "ana", "runs": folder / "runs"}
        serve(folder / "audited.csv", folder / "data", ledger, recipe=recipe, port=port, open_browser=False, **of)


def make_all(folder: Path) -> None:
    """Textures of three classes, audited and split, one class of a hostile name; and a run on them."""
    from classify.models import Trained, build, save_model
    from tests.test_data import textures

    table = textures(folder / "data", train=8, val=4, test=2)
    table["label"] = table["label"].map(LABELS)
    table["predicted"] = np.roll(table["label"], 3)
    table = table.assign(suspicion=0.2, reject_probability=0.2, source=HOSTILE, license=HOSTILE, title=HOSTILE)
    write_manifest(table, folder / "audited.csv")
    run = folder / "runs" / "quick <b>run"
    run.mkdir(parents=True)
    model = build("small_cnn", 3, weights="none").eval()
    save_model(Trained("small_cnn", model, tuple(sorted(LABELS.values())), 48), run / "model.safetensors")


@pytest.fixture(scope="module")
def pages(tmp_path_factory, serve) -> Pages:
    pytest.importorskip("torch", reason="torch is not installed")
    folder = tmp_path_factory.mktemp("pages")
    make_all(folder)
    return serve(folder, Pages)


def open_page(tab, server: Pages, path: str):
    """The page's own part of the window, once it is drawn."""
    tab.goto(f"{server.url}/{path}")
    main = tab.locator(".stMainBlockContainer")
    main.get_by_role("heading", name=path.capitalize(), exact=True).wait_for()
    tab.locator("[data-testid=stApp][data-test-script-state=notRunning]").wait_for()
    return main


def drop(main, *files: tuple[str, bytes]) -> None:
    """As from the dialog of the browser; waits until the server has them."""
    box = main.get_by_test_id("stFileUploader")
    box.locator("input[type=file]").set_input_files(
        [{"name": name, "mimeType": "image/png", "buffer": data} for name, data in files]
    )
    box.get_by_test_id("stFileChip").nth(len(files) - 1).wait_for()


def choose(tab, main, box: str, option: str) -> None:
    main.get_by_role("combobox", name=box).click()
    tab.get_by_role("option", name=option, exact=True).click()


def photo(server: Pages) -> bytes:
    return next((server.folder / "data").glob("granite*.png")).read_bytes()


def identified(tab, server: Pages):
    main = open_page(tab, server, "identify")
    drop(main, ("photo.png", photo(server)))
    main.get_by_text("The run divides all its belief").wait_for(timeout=90_000)  # the first photo loads PyTorch
    main.locator(".stImage img").nth(1).wait_for()
    tab.wait_for_function("[...document.querySelectorAll('.stImage img')].every(i => i.complete && i.naturalWidth)")
    return main


def test_what_is_dropped_is_in_the_ledger_under_its_name_and_a_hostile_name_is_text(tab, pages):
    main = open_page(tab, pages, "contribute")
    name = "<img src=x onerror='window.hacked=1'>.png"
    drop(main, ("walk.png", jpeg(1)), (name, jpeg(2)), ("walk.zip", b"no zip"))
    choose(tab, main, "Class of all of them", HOSTILE)
    main.get_by_label("Name to credit").fill("Ada")
    choose(tab, main, "Licence they are given under", "CC-BY-4.0")
    main.get_by_role("button", name="Contribute").click()
    main.get_by_text(f"3 files for {HOSTILE}: 2 taken, 0 repeated, 1 refused, 0 failed.").wait_for()
    with Ledger(pages.folder / "data/ledger.db") as ledger:
        held = ledger.images()
    assert held["title"].tolist() == ["walk.png", name]
    assert set(held["label"]) == {HOSTILE}
    assert held[["creator", "license"]].drop_duplicates().values.tolist() == [["Ada", "CC-BY-4.0"]]
    assert (pages.folder / "scraped.csv").is_file()
    assert main.get_by_test_id("stFileChip").count() == 0
    assert tab.evaluate("window.hacked") is None


def test_a_photo_is_judged_and_lies_beside_its_heatmap(tab, pages):
    main = identified(tab, pages)
    assert main.get_by_text("Most likely").is_visible()
    assert main.get_by_text("validation images lie within").is_visible()
    left, right = (image.bounding_box() for image in main.locator(".stImage img").all())
    assert left["width"] == pytest.approx(right["width"], abs=1)
    assert left["height"] == pytest.approx(right["height"], abs=1)
    names = main.locator(".stImage img").evaluate_all("images => images.map(image => image.alt)")
    assert names[0] == "The photo"
    assert names[1].startswith("Its heatmap for ")
    assert tab.evaluate("window.hacked") is None


def test_a_file_that_is_no_photo_is_refused_in_words(tab, pages):
    main = open_page(tab, pages, "identify")
    drop(main, ("photo.png", b"GIF89a but no more"))
    main.get_by_text("This file is not opened").wait_for()


def test_the_name_of_a_run_is_text(tab, pages):
    main = open_page(tab, pages, "identify")
    box = main.get_by_role("combobox")
    assert box.input_value() == "quick <b>run"
    box.click()
    assert tab.get_by_role("option", name="quick <b>run").is_visible()


def test_the_classes_are_counted_and_their_names_are_text(tab, pages):
    main = open_page(tab, pages, "classes")
    main.get_by_text("3 of 3 classes have the 4 accepted images they need.").wait_for()
    main.get_by_test_id("stVegaLiteChart").locator("canvas, svg").first.wait_for()
    assert main.get_by_role("heading", level=4).all_text_contents() == [
        "Balance of the classes",
        "What is learnt of each class",
        "Sources",
        "Licences",
        "What balance would fetch",
    ]
    assert main.locator("img").count() == 0
    assert main.locator("a[href^=javascript]").count() == 0
    assert tab.evaluate("window.hacked") is None


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_three_fit_a_tablet_and_axe_finds_nothing(tab, pages, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    tab.set_viewport_size({"width": 820, "height": 900})
    tab.emulate_media(color_scheme=scheme)
    for path in ("contribute", "identify", "classes"):
        main = identified(tab, pages) if path == "identify" else open_page(tab, pages, path)
        assert main.evaluate("e => e.scrollWidth <= e.clientWidth"), path
        result = axe.Axe().run(tab, context={"include": [[".stMainBlockContainer"]]}).response
        found = [(rule["id"], node["html"]) for rule in result["violations"] for node in rule["nodes"]]
        assert [(path, *one) for one in found if not is_streamlits(*one)] == []


def is_streamlits(rule: str, html: str) -> bool:
    """Its uploader: an area with role presentation, and yet named and focusable by script."""
    return rule == "presentation-role-conflict" and 'data-testid="stFileUploaderDropzone"' in html
