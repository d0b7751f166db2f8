"""The page Identify without a browser: what it says of a photo, a run, and of what is missing."""

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from apps import identify as page_module
from apps.desk import Desk, open_desk
from apps.identify import trained_runs, verdict, worth
from classify.identify import Known
from curate.manifest import write_manifest
from tests.pictures import jpeg
from tests.test_data import textures
from tests.test_identify import make_run

HOSTILE = "<img src=x onerror=alert(1)> **bold** :red[x]"


def script() -> None:
    from apps.identify import page

    page()


@pytest.fixture
def desk(tmp_path):
    """Three classes of textures, split, and the folder of runs, empty yet."""
    textures(tmp_path, train=12, val=6, test=1)
    desk = Desk(tmp_path / "m.csv", tmp_path, str(tmp_path / "l.db"), target=3, reviewer="ana", runs=tmp_path / "runs")
    open_desk(desk)
    yield desk
    desk.close()


def run() -> AppTest:
    app = AppTest.from_function(script, default_timeout=60).run()
    assert not app.exception
    return app


def dropped(name: str, data: bytes) -> AppTest:
    app = run()
    app.file_uploader[0].upload(name, data, "image/png").run()
    assert not app.exception
    assert len(app.markdown) == 0
    return app


def texts(app: AppTest) -> str:
    return "\n".join(text.value for text in app.text)


def stripes() -> bytes:
    buffer = io.BytesIO()
    columns = np.repeat([0, 255, 255, 0, 0, 255], 8).astype(np.uint8)
    Image.fromarray(np.broadcast_to(columns[None, :, None], (40, 48, 3)).copy()).save(buffer, "PNG")
    return buffer.getvalue()


def test_without_a_run_it_says_which_command_makes_one(desk, tmp_path):
    (tmp_path / "runs/notes").mkdir(parents=True)
    app = run()
    assert f"No trained run lies in the folder {tmp_path / 'runs'}" in texts(app)
    assert app.code[0].value == (
        f"classify train --manifest {tmp_path / 'balanced.csv'} --data {tmp_path} --runs {tmp_path / 'runs'}"
    )


def test_without_torch_it_says_what_to_install(desk, monkeypatch):
    monkeypatch.setattr(page_module, "find_spec", lambda name: None if name == "torch" else object())
    app = run()
    assert "needs torch, not installed here" in texts(app)
    assert app.code[0].value == "pip install 'deeprock[classify]'"


def test_runs_are_listed_the_newest_first(tmp_path):
    for age, name in enumerate(["new", "old"]):
        path = make_run(tmp_path / name) / "model.safetensors"
        os.utime(path, (time.time() - 100 * age,) * 2)
    (tmp_path / "no_run").mkdir()
    assert [path.name for path in trained_runs(tmp_path)] == ["new", "old"]
    assert trained_runs(tmp_path / "nowhere") == []


def test_a_photo_gets_its_classes_heatmap_and_likeness(desk, tmp_path):
    make_run(tmp_path / "runs/quick")
    photo = (tmp_path / desk.manifest["file_name"].iloc[0]).read_bytes()
    app = dropped("photo.png", photo)
    table = app.dataframe[0].value
    assert set(table["class"]) == {"basalt", "granite", "olivine"}
    assert table["probability"].is_monotonic_decreasing
    assert table["probability"].sum() == pytest.approx(1, abs=1e-5)
    assert texts(app).startswith(f"Most likely {table['class'].iloc[0]}: {table['probability'].iloc[0]:.0%}.")
    assert "It looks like the images that the run was trained on." in texts(app)
    assert "none was rejected as such" in texts(app)
    assert len(app.get("image")) == 2


def test_what_is_like_no_training_image_is_not_to_be_trusted(desk, tmp_path):
    make_run(tmp_path / "runs/quick")
    assert "perhaps no specimen. Trust no class." in texts(dropped("stripes.png", stripes()))


def test_without_splits_the_classes_are_shown_and_the_rest_is_explained(desk, tmp_path):
    make_run(tmp_path / "runs/quick")
    write_manifest(desk.manifest.drop(columns="split"), tmp_path / "audited.csv")
    desk.path, desk.manifest = tmp_path / "audited.csv", desk.manifest.drop(columns="split")
    app = dropped("stripes.png", stripes())
    assert len(app.dataframe[0].value) == 3
    assert f"cannot be told: {tmp_path / 'balanced.csv'}: no such manifest" in texts(app)


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"no image", "This file is not opened: none of JPEG"),
        (jpeg(1)[:900], "This file is not opened: OSError: image file is truncated"),
        (b"", "This file is not opened: none of JPEG"),
    ],
)
def test_what_is_no_photo_is_refused_in_words(desk, tmp_path, data, cause):
    make_run(tmp_path / "runs/quick")
    app = dropped("photo.png", data)
    assert cause in texts(app)
    assert len(app.dataframe) == 0


def test_too_many_pixels_and_too_many_bytes_are_refused(desk, tmp_path, monkeypatch):
    make_run(tmp_path / "runs/quick")
    buffer = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, "PNG")
    assert "pixels" in texts(dropped("bomb.png", buffer.getvalue()))
    monkeypatch.setattr(page_module, "MB", 100)
    assert "45 MB: at most 30 MB are opened." in texts(dropped("photo.png", b"\xff" * 4_500))


def test_a_damaged_run_is_said_and_not_raised(desk, tmp_path):
    path = make_run(tmp_path / "runs/quick") / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    assert "not a model that `classify train` wrote, or damaged" in texts(dropped("photo.png", stripes()))


def test_a_run_that_is_trained_again_is_loaded_again(desk, tmp_path):
    made = make_run(tmp_path / "runs/quick") / "model.safetensors"
    before = dropped("stripes.png", stripes()).dataframe[0].value
    other = make_run(tmp_path / "other", seed=3) / "model.safetensors"
    made.write_bytes(other.read_bytes())
    os.utime(made, (time.time() + 10,) * 2)
    after = dropped("stripes.png", stripes()).dataframe[0].value
    assert not before.equals(after)


def test_a_class_of_others_is_plain_text(desk, tmp_path):
    from classify.models import Trained, build, save_model

    folder = tmp_path / "runs/quick"
    folder.mkdir(parents=True)
    model = build("small_cnn", 2, weights="none").eval()
    save_model(Trained("small_cnn", model, (HOSTILE, f"{HOSTILE}2"), 48), folder / "model.safetensors")
    app = dropped("stripes.png", stripes())
    assert texts(app).startswith(f"Most likely {HOSTILE}")
    assert "it is not the one that the run was trained on" in texts(app)


def known(caught: float, off_topic: int) -> Known:
    return Known(np.eye(5, dtype=np.float32), 0.5, 0.9, 10, caught, off_topic)


def test_what_the_limit_is_worth_is_said():
    nothing = "How many off-topic photos lie beyond is not known: none was rejected as such."
    assert worth(known(float("nan"), 0)) == nothing
    assert worth(known(0.75, 8)) == "Of 8 images rejected as off topic 75% lie beyond."


@pytest.mark.parametrize(
    ("caught", "off_topic", "distance", "words"),
    [
        (0.75, 8, 0.4, "It looks like the images"),
        (float("nan"), 0, 0.5, "It looks like the images"),
        (0.75, 8, 0.6, "It looks like none of the images"),
        (0.25, 8, 0.4, "It lies as near to the images that the run was trained on as most off-topic photos do"),
        (0.25, 8, 0.6, "It looks like none of the images"),
    ],
)
def test_a_limit_that_lets_most_off_topic_photos_pass_is_not_believed(caught, off_topic, distance, words):
    assert verdict(known(caught, off_topic), distance).startswith(words)


def test_the_page_loads_no_torch_before_a_photo_comes(tmp_path):
    """In a process of its own, as this one has loaded it already."""
    code = (
        "import sys; from pathlib import Path; from apps.desk import Desk, open_desk\n"
        "from streamlit.testing.v1 import AppTest\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "where = {'target': 1, 'reviewer': 'a', 'runs': folder / 'runs'}\n"
        "open_desk(Desk(folder / 'm.csv', folder, str(folder / 'l.db'), **where))\n"
        "def script():\n    from apps.identify import page\n    page()\n"
        "app = AppTest.from_function(script, default_timeout=60).run()\n"
        "assert len(app.file_uploader) == 1 and not app.exception\n"
        "assert 'torch' not in sys.modules\n"
    )
    textures(tmp_path, train=1, val=0, test=0)
    make_run(tmp_path / "runs/quick")
    script_file = tmp_path / "check.py"
    script_file.write_text(code)
    here = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, script_file],
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(here)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
