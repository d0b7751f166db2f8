import io
import subprocess
import sys

import pandas as pd
import pytest
from PIL import Image

from curate.cli import main
from curate.images import inspect
from curate.ledger import Decision, Ledger
from curate.manifest import read_manifest, write_manifest
from curate.store import store
from tests.pictures import jpeg, photos
from tests.web import Faults, LoopbackWeb

RECIPE = 'sources = ["bing"]\nmin_side = 100\n[[classes]]\nname = "oak"\nqueries = ["oak leaf"]\n'
TORCH = ("torch", "torchvision", "streamlit", "classify", "pytorch_grad_cam")
WITHOUT = """
import sys
BLOCKED = sys.argv.pop(1).split()
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
from curate.cli import main
main(sys.argv[1:])
"""


def fails(capsys, *words: str) -> str:
    """What a command that cannot keep its promise says; never a traceback."""
    with pytest.raises(SystemExit) as end:
        main(list(words))
    assert end.value.code == 1
    said = capsys.readouterr()
    assert "Traceback" not in said.err + said.out
    return said.err + said.out


def works(*words: str) -> None:
    """Run a command that keeps its promise."""
    with pytest.raises(SystemExit) as end:
        main(list(words))
    assert end.value.code == 0


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to stand in, with a recipe and a manifest of three images that are on disk."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / "trees.toml").write_text(RECIPE)
    rows = []
    for i in range(3):
        picture = inspect(data := jpeg(i))
        name = store(tmp_path / "data", data, picture)
        row = {"image_id": picture.sha256[:16], "sha256": picture.sha256, "file_name": name, "label": "oak"}
        rows.append({**row, "status": "candidate", "suspicion": 0.1, "width": 200, "height": 160})
    write_manifest(pd.DataFrame(rows), tmp_path / "manifests" / "audited.csv")
    return tmp_path


def with_mirrors(place, web) -> None:
    mirrors = "".join(f'"{host}" = "{base}"\n' for host, base in web.mirrors.items())
    (place / "manifests" / "trees.toml").write_text(f"{RECIPE}[web.mirrors]\n{mirrors}")


def run_without(packages: tuple[str, ...], place, *words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", WITHOUT, " ".join(packages), *words]
    return subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)


def test_a_scraping_command_loads_neither_pandas_nor_numpy_itself(place):
    """They take a quarter of a second to load; the processes that decode need numpy."""
    with LoopbackWeb({"oak": photos("oak", range(12))}) as web:
        with_mirrors(place, web)
        done = run_without(("pandas", "numpy", "scipy", "cv2"), place, "scrape", "--per-class", "10")
    assert done.returncode == 0, done.stderr
    assert len(read_manifest(place / "manifests" / "scraped.csv")) == 10


@pytest.mark.slow
def test_curate_works_without_torch(place):
    with LoopbackWeb({"oak": photos("oak", range(12))}) as web:
        with_mirrors(place, web)
        for words in (["--help"], ["scrape", "--per-class", "10"], ["dedup"], ["stats", "manifests/unique.csv"]):
            done = run_without(TORCH, place, *words)
            assert done.returncode == 0, done.stderr
    assert len(read_manifest(place / "manifests" / "unique.csv")) == 10
    missing = run_without(TORCH, place, "audit")
    assert missing.returncode == 1
    assert "pip install 'deeprock[classify]'" in missing.stderr
    assert "Traceback" not in missing.stderr


@pytest.mark.parametrize(
    "command", ["init", "scrape", "dedup", "audit", "review", "decide", "balance", "split", "stats"]
)
def test_every_command_has_help_with_an_example(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    works(command, "--help")
    assert f"curate {command}" in capsys.readouterr().out


def test_a_blocked_engine_is_said_and_what_came_before_stays(place, capsys):
    classes = {"oak": photos("oak", range(20))}
    with LoopbackWeb(classes) as web:
        with_mirrors(place, web)
        works("scrape", "--per-class", "6")
    with LoopbackWeb(classes, faults=Faults(google="sorry")) as web:
        with_mirrors(place, web)
        said = fails(capsys, "scrape", "--per-class", "9", "--source", "google")
    assert "google: blocked" in said
    assert len(read_manifest(place / "manifests" / "scraped.csv")) == 6


def test_a_shortfall_is_a_table_with_causes(place, capsys):
    with LoopbackWeb({"oak": photos("oak", range(12))}, faults=Faults(missing=0.5), seed=2) as web:
        with_mirrors(place, web)
        said = fails(capsys, "scrape", "--per-class", "20")
    held = len(read_manifest(place / "manifests" / "scraped.csv"))
    assert 0 < held < 12
    row = next(line for line in said.splitlines() if line.startswith("oak "))
    assert row.split()[:4] == ["oak", "20", str(held), str(12 - held)]
    assert "404" in row


def test_decisions_are_brought_in_once(place, capsys):
    ids = read_manifest(place / "manifests" / "audited.csv")["image_id"]
    (place / "d.csv").write_text(f"image_id,verdict,reason\n{ids[0]},keep,\n{ids[1]},reject,overlay\n")
    works("decide", "d.csv", "--reviewer", "ann")
    assert "2 new decisions (1 accept, 1 reject)" in capsys.readouterr().out
    works("decide", "d.csv", "--reviewer", "ann")
    assert "0 new decisions" in capsys.readouterr().out
    with Ledger(place / "data" / "ledger.db") as ledger:
        assert ledger.standing()["verdict"].to_dict() == {ids[0]: "accept", ids[1]: "reject"}


def spoilt(place, change) -> None:
    table = pd.read_csv(place / "manifests" / "audited.csv", dtype=str)
    change(table).to_csv(place / "manifests" / "audited.csv", index=False)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.drop(columns="file_name"), "no column file_name"),
        (lambda t: t.drop(columns="suspicion"), "Run `curate audit` first"),
        (lambda t: t.assign(image_id=t["image_id"][0]), "row 2, column image_id"),
        (lambda t: t.assign(label="ash"), "row 1, column label: 'ash' is no class of recipe"),
        (lambda t: t.assign(file_name="../../../etc/passwd"), "outside the data root"),
        (lambda t: t.iloc[:0], "holds no images"),
    ],
)
def test_a_manifest_that_cannot_be_balanced_is_a_clear_error(place, capsys, change, says):
    spoilt(place, change)
    assert says in fails(capsys, "balance")


def test_a_missing_manifest_recipe_or_typo_is_a_clear_error(place, capsys):
    assert "no such manifest" in fails(capsys, "dedup", "none.csv")
    assert "no such recipe" in fails(capsys, "scrape", "--recipe", "none.toml")
    (place / "manifests" / "trees.toml").write_text(RECIPE.replace("min_side", "min_sied"))
    assert "unknown key 'min_sied'" in fails(capsys, "scrape")


def test_init_writes_a_recipe_and_says_what_comes_next(place, capsys):
    works("init", "igneous")
    assert "curate scrape --per-class 100" in capsys.readouterr().out
    works("init", "forest", "--classes", "oak, beech")
    assert (place / "manifests" / "forest.toml").exists()
    assert "which recipe?" in fails(capsys, "init")


def test_stats_counts_a_manifest(place, capsys):
    works("stats", "manifests/audited.csv")
    said = capsys.readouterr().out
    assert "oak" in said
    assert "imbalance ratio 1" in said


def test_dedup_marks_copies_bars_what_was_rejected_and_writes_the_page(place, capsys):
    """The first image was rejected; a smaller copy of it comes in, and one of the second image."""
    table = read_manifest(place / "manifests" / "audited.csv").drop(columns="suspicion")
    rows = [table]
    for row in table.head(2).itertuples():
        with Image.open(place / "data" / row.file_name) as image:
            buffer = io.BytesIO()
            image.resize((150, 120)).save(buffer, "JPEG", quality=80)
        picture = inspect(buffer.getvalue())
        name = store(place / "data", buffer.getvalue(), picture)
        copy = {"image_id": picture.sha256[:16], "sha256": picture.sha256, "file_name": name, "label": "oak"}
        rows.append(pd.DataFrame([{**copy, "status": "candidate", "width": 150, "height": 120}]))
    write_manifest(pd.concat(rows, ignore_index=True), place / "manifests" / "scraped.csv")
    first, second = table["image_id"].tolist()[:2]
    with Ledger(place / "data" / "ledger.db") as ledger:
        ledger.decide([Decision(first, "reject", "background")])
    works("dedup", "--report")
    said = capsys.readouterr().out
    assert "2 of 5 images are copies, 0 lie under two classes: manifests/unique.csv" in said
    marked = read_manifest(place / "manifests" / "unique.csv")
    assert marked["duplicate_of"].fillna("").tolist() == ["", "", "", first, second]
    assert marked["status"].tolist()[0] == "rejected"
    assert marked.at[3, "reason"].endswith("that one was rejected")
    assert first in (place / "manifests" / "unique-copies.html").read_text()


def test_dedup_against_a_test_set_rejects_what_it_holds(place, capsys):
    table = read_manifest(place / "manifests" / "audited.csv")
    write_manifest(table.iloc[1:2], place / "test.csv")
    works("dedup", "manifests/audited.csv", "--against", "test.csv")
    assert "1 of 3 images are in test.csv too, and rejected" in capsys.readouterr().out
    marked = read_manifest(place / "manifests" / "unique.csv")
    assert marked["status"].tolist() == ["candidate", "rejected", "candidate"]
    assert marked.at[1, "reason"].endswith("in test.csv: 0 bits, the same bytes")
    lost = table.iloc[1:2].assign(sha256="0" * 64, image_id="0" * 16, file_name="elsewhere.jpg")
    write_manifest(lost, place / "test.csv")
    said = fails(capsys, "dedup", "manifests/audited.csv", "--against", "test.csv")
    assert "1 of 1 images of test.csv could not be read. Is --against-data right?" in said
    assert "is missing" in fails(capsys, "dedup", "manifests/audited.csv", "--against-data", "data")
