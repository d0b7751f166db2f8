"""The page Contribute without a browser: what it makes of uploads, what it says of them; tests/browser drops files."""

import io
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from apps import contribute as page_module
from apps.contribute import LICENSES, Given, lacking, manifest_beside, next_commands, plain_name, take_in
from apps.desk import Desk, open_desk
from curate.errors import CurateError
from curate.ledger import Ledger
from curate.licenses import identify
from curate.manifest import read_manifest, write_manifest
from curate.recipe import ImageClass, Recipe, Web
from tests.pictures import jpeg

RECIPE = Recipe(
    "trees",
    (ImageClass("oak", ("oak",)), ImageClass("elm", ("elm",))),
    min_side=100,
    web=Web(max_bytes=2_000_000),
)
HOSTILE = "<img src=x onerror=alert(1)>.jpg"


class Dropped(NamedTuple):
    """A file as the browser sends it."""

    name: str
    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    def getvalue(self) -> bytes:
        return self.data


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def ledger(root):
    with Ledger(root / "ledger.db") as book:
        yield book


def give(ledger, root, *uploads, **changes):
    said = {"label": "oak", "contributor": "Ada", "license": "CC BY 4.0", "root": root, "ledger": ledger, **changes}
    return take_in([Dropped(*upload) for upload in uploads], RECIPE, **said)


def test_each_file_has_its_fate_and_its_name_becomes_the_title(ledger, root):
    small = jpeg(3, 60, 60)
    table = give(ledger, root, ("holiday.jpg", jpeg(1)), ("same.jpg", jpeg(1)), ("tiny.jpg", small), ("x.png", b"no"))
    assert table["file"].tolist() == ["holiday.jpg", "same.jpg", "tiny.jpg", "x.png"]
    assert table["state"].tolist() == ["taken", "repeated", "refused", "failed"]
    assert table["cause"].tolist()[2] == "smaller than 100 pixels"
    (held,) = ledger.images().to_dict("records")
    assert (held["title"], held["creator"], held["license"]) == ("holiday.jpg", "Ada", "CC-BY-4.0")
    assert (held["source"], held["label"]) == ("contributed", "oak")
    assert (root / held["file_name"]).read_bytes() == jpeg(1)


@pytest.mark.parametrize(
    ("sent", "title"),
    [
        ("../../etc/x.jpg", "x.jpg"),
        ("C:\\photos\\x.jpg", "x.jpg"),
        ("/abs/x.jpg", "x.jpg"),
        (".hidden.jpg", "hidden.jpg"),
        ("..", "untitled"),
        ("a\nb\x00\u202egpj.jpg", "a b gpj.jpg"),
        (HOSTILE, HOSTILE),
        ("\udcff.jpg", "?.jpg"),
        (f"{'long' * 100}.jpg", f"{'long' * 29}.jpg"),
    ],
)
def test_a_name_that_would_lead_elsewhere_is_only_text(ledger, root, tmp_path, monkeypatch, sent, title):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    table = give(ledger, root, (sent, jpeg(1)))
    assert table["state"].tolist() == ["taken"]
    assert ledger.images()["title"].tolist() == [title]
    assert plain_name(sent) == title
    assert list((tmp_path / "tmp").iterdir()) == []  # nothing is left behind
    assert [p.name for p in tmp_path.iterdir() if p.name not in ("data", "tmp")] == []


def test_a_zip_is_read_as_curate_add_reads_it_and_a_hostile_one_is_a_row(ledger, root):
    good = zipped({"walk/a.jpg": jpeg(1), "walk/b.jpg": jpeg(2), "__MACOSX/._a.jpg": b"x"})
    hostile = zipped({"../../evil.jpg": jpeg(3)})
    table = give(ledger, root, ("w.zip", good), ("evil.zip", hostile), ("cut.zip", good[:200]), ("c.jpg", jpeg(4)))
    assert table.set_index("file")["state"].to_dict() == {
        "c.jpg": "taken",
        "w.zip: walk/a.jpg": "taken",
        "w.zip: walk/b.jpg": "taken",
        "evil.zip": "refused",
        "cut.zip": "refused",
    }
    causes = table.set_index("file")["cause"]
    assert causes["evil.zip"] == "refused, nothing is taken: '../../evil.jpg' leads outside the archive."
    assert tempfile.gettempdir() not in causes["cut.zip"]
    assert sorted(ledger.images()["title"]) == ["a.jpg", "b.jpg", "c.jpg"]


def test_a_zip_by_another_name_and_a_program_are_no_images(ledger, root):
    table = give(ledger, root, ("photo.jpg", zipped({"a.jpg": jpeg(1)})), ("run.png", b"#!/bin/sh\ntouch /tmp/x\n"))
    assert table["state"].tolist() == ["failed", "failed"]
    assert ledger.images().empty


def test_what_is_too_large_is_refused_with_what_to_do_instead(ledger, root, monkeypatch):
    monkeypatch.setattr(page_module, "LARGEST", 0.02)
    table = give(ledger, root, ("large.jpg", b"\xff" * 20_001), ("small.jpg", jpeg(1)[:19_000]))
    assert table["cause"].tolist()[0] == "larger than 0.02 MB: `curate add` takes it from the disk"
    assert table["state"].tolist()[0] == "refused"


def test_two_at_once_take_each_image_once(ledger, root):
    uploads = [(f"{n}.jpg", jpeg(n)) for n in range(12)]
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda name: give(ledger, root, *uploads, contributor=name), ["Ada", "Bo"])
    assert len(ledger.images()) == 12
    states = pd.concat([first, second])["state"].value_counts().to_dict()
    assert states == {"taken": 12, "repeated": 12}


def test_an_unknown_class_stops_all_of_it(ledger, root):
    with pytest.raises(CurateError, match="no class 'ash' in recipe trees"):
        give(ledger, root, ("a.jpg", jpeg(1)), label="ash")


def test_every_licence_that_is_offered_is_recognised_as_itself():
    assert [identify(name) for name in LICENSES] == list(LICENSES)


def test_what_is_not_filled_in_is_said():
    assert lacking(Given([], "oak", "Ada", "CC0-1.0")).startswith("No file is chosen")
    assert lacking(Given([Dropped("a.jpg", b"x")] * 501, "oak", "Ada", "CC0-1.0")).startswith("501 files: at most 500")
    said = lacking(Given([Dropped("a.jpg", b"x")], None, " \n", None))
    assert said == "Nothing is taken yet: the class and a name to credit and the licence must be said."
    assert lacking(Given([Dropped("a.jpg", b"x")], "oak", "Ada", "CC0-1.0")) == ""


def script() -> None:
    from apps.contribute import page

    page()


@pytest.fixture
def desk(tmp_path, request):
    row = {"image_id": "a", "file_name": "a.jpg", "label": "oak", "status": "candidate"}
    write_manifest(pd.DataFrame([row]), tmp_path / "audited.csv")
    desk = Desk(
        tmp_path / "audited.csv",
        tmp_path / "data",
        str(tmp_path / "data/ledger.db"),
        target=3,
        reviewer="local",
        recipe=getattr(request, "param", RECIPE),
    )
    open_desk(desk)
    yield desk
    desk.close()


def run() -> AppTest:
    app = AppTest.from_function(script, default_timeout=20).run()
    assert not app.exception
    return app


@pytest.mark.parametrize("desk", [None], indirect=True)
def test_without_a_recipe_it_says_how_to_start_with_one(desk):
    app = run()
    assert app.code[0].value == f"curate review {desk.path} --recipe manifests/igneous.toml"
    assert len(app.button) == 0


def test_the_form_takes_files_and_says_what_comes_next(desk):
    app = run()
    assert app.text_input[0].value == ""  # nobody is credited as "local"
    app.file_uploader[0].upload("one.jpg", jpeg(1), "image/jpeg").upload(HOSTILE, jpeg(2), "image/jpeg")
    app.selectbox[0].select("oak")
    app.text_input[0].input("Ada")
    app.selectbox[1].select("CC-BY-4.0")
    app.button[0].click().run()
    assert not app.exception
    assert app.dataframe[0].value["state"].tolist() == ["taken", "taken"]
    assert app.dataframe[0].value["file"].tolist() == ["one.jpg", HOSTILE]
    assert "2 files for oak: 2 taken, 0 repeated, 0 refused, 0 failed." in [text.value for text in app.text]
    assert len(app.markdown) == 0
    written = read_manifest(desk.path.with_name("scraped.csv"))
    assert written["title"].tolist() == ["one.jpg", HOSTILE]
    assert app.code[0].value.splitlines() == next_commands(desk, desk.path.with_name("scraped.csv"))
    assert app.file_uploader[0].value == []  # and the bytes are let go


def test_a_sent_form_that_lacks_something_takes_nothing(desk):
    app = run()
    app.file_uploader[0].upload("one.jpg", jpeg(1), "image/jpeg")
    app.button[0].click().run()
    assert "Nothing is taken yet: the class and a name to credit and the licence must be said." in [
        text.value for text in app.text
    ]
    assert desk.ledger.images().empty


def test_a_licence_that_the_recipe_does_not_take_is_said(desk):
    desk.recipe = Recipe("trees", RECIPE.classes, min_side=100, license="commercial")
    app = run()
    app.file_uploader[0].upload("one.jpg", jpeg(1), "image/jpeg")
    app.selectbox[0].select("oak")
    app.text_input[0].input("Ada")
    app.selectbox[1].select("CC-BY-NC-4.0")
    app.button[0].click().run()
    assert any("no manifest of this recipe lists them" in text.value for text in app.text)
    assert not desk.path.with_name("scraped.csv").exists()


def test_the_manifest_under_review_is_never_written_over():
    assert manifest_beside(Path("m/audited.csv")) == Path("m/scraped.csv")
    assert manifest_beside(Path("m/scraped.csv")) == Path("m/contributed.csv")


def test_the_next_commands_name_the_data_root_and_never_a_password(desk, monkeypatch):
    monkeypatch.setattr(desk.ledger, "where", "postgresql://ana:secret@db/ledger")
    dedup, audit, review = next_commands(desk, Path("m/scraped.csv"))
    assert dedup == f"curate dedup m/scraped.csv -o m/unique.csv --data {desk.root} --ledger LEDGER"
    assert audit.startswith("curate audit m/unique.csv -o m/audited.csv")
    assert review.startswith("curate review m/audited.csv")
