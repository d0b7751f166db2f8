"""The page of shortcuts without a browser: what it shows of the file beside the manifest; tests/browser opens it."""

import pytest
from streamlit.testing.v1 import AppTest

from apps.desk import Desk, open_desk
from curate.manifest import write_manifest
from curate.shortcuts_found import write_shortcuts
from tests.findings import audited, masked, shortcuts, write_shortcuts_beside

HOSTILE = "<img src=x onerror=alert(1)> **bold** [link](https://a.example) :red[x]"


def script() -> None:
    from apps.shortcuts import page

    page()


@pytest.fixture
def shown(tmp_path):
    """Opens a manifest of tmp_path for review and runs the page."""
    desks = []

    def run(manifest: str = "audited.csv") -> AppTest:
        desk = Desk(tmp_path / manifest, tmp_path / "data", str(tmp_path / "ledger.db"), target=3, reviewer="ana")
        desks.append(desk)
        open_desk(desk)
        app = AppTest.from_function(script, default_timeout=20).run()
        assert not app.exception
        return app

    yield run
    for desk in desks:
        desk.close()


def html(app: AppTest) -> list[str]:
    """The bodies of `st.html` that are no style."""
    return [body for body in (element.proto.body for element in app.get("html")) if not body.startswith("<style>")]


def test_without_a_file_it_says_which_command_makes_it(shown, tmp_path):
    audited(tmp_path)
    app = shown()
    assert app.code[0].value == f"curate shortcuts {tmp_path / 'audited.csv'}"
    assert len(app.dataframe) == 0


def test_each_finding_has_its_numbers_and_each_that_stands_for_itself_its_images(shown, tmp_path):
    audited(tmp_path)
    write_shortcuts_beside(tmp_path, masked=masked())
    app = shown()
    found, told = (table.value for table in app.dataframe)
    first = found.iloc[0].str.replace("\u00a0", " ", regex=False).dropna().to_dict()
    assert first["measure"] == "background_texture > 0.9"
    assert first["AUROC (95 %)"] == "0.93 (0.81 to 0.97)"
    assert (first["of the class"], first["of the others"]) == ("67 %", "50 %")
    assert found["goes with"].tolist() == ["", "background"]
    parts = dict(zip(told["told from"], told["balanced accuracy (95 %)"].str.replace("\u00a0", " "), strict=True))
    assert parts["all artifacts together"] == "72 % (60 to 81)"
    assert parts["background alone (foreground masked), by a model of whole pictures"] == "83 % (70 to 90)"
    (pictures,) = html(app)
    carry, others = pictures.split("that do not")
    assert carry.index("/thumb/b2'") < carry.index("/thumb/b1'")
    assert "/heat/b2?v=" in carry
    assert "/thumb/b3'" in others
    assert "elsewhere" not in pictures
    assert "/thumb/b4" not in pictures  # rejected


def test_before_and_after_are_compared_where_both_files_are_there(shown, tmp_path):
    table = audited(tmp_path)
    write_shortcuts_beside(tmp_path)
    write_manifest(table, tmp_path / "balanced.csv")
    write_shortcuts(shortcuts(findings=shortcuts().findings[:1]), tmp_path / "balanced-shortcuts.json")
    compared = shown("balanced.csv").dataframe[1].value
    assert compared["now"].tolist() == ["gone", "still there", ""]
    assert compared["artifact"].tolist()[:2] == ["illumination", "background"]
    assert len(shown().dataframe) == 2


def test_an_image_without_a_heatmap_says_so(shown, tmp_path):
    audited(tmp_path)
    write_shortcuts_beside(tmp_path)
    (tmp_path / "data/cache/heatmaps/b1.png").unlink()
    assert html(shown())[-1].count("no heatmap") == 1


def test_a_file_that_is_none_is_said_and_not_raised(shown, tmp_path):
    audited(tmp_path)
    (tmp_path / "audited-shortcuts.json").write_text("{}")
    assert "not what `curate shortcuts` writes" in shown().text[0].value


def test_a_class_of_others_is_escaped_or_plain_text(shown, tmp_path):
    audited(tmp_path, {"basalt": HOSTILE})
    write_shortcuts_beside(tmp_path, label=HOSTILE, masked=masked(HOSTILE))
    app = shown()
    assert len(app.markdown) == 0
    assert all("<img src=x" not in body for body in html(app))
    assert "&lt;img src=x onerror=alert(1)&gt;" in html(app)[-1]
