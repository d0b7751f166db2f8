import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from curate import decoders
from curate.arrivals import Arrivals
from curate.collected import collected
from curate.crew import excluded_word
from curate.errors import CurateError
from curate.images import inspect
from curate.ledger import Ledger
from curate.scrape import scrape
from curate.sources import Candidate
from curate.sources.find import find_sources
from tests.pictures import jpeg, photos, recipe_for
from tests.web import Faults, LoopbackWeb, Photo


def image_requests(web: LoopbackWeb) -> list[str]:
    return [path for path in web.requests if "/images/async" not in path and "/search" not in path]


def run(web, root: Path, wanted: dict[str, int], **changes):
    with Ledger(root / "ledger.db") as ledger:
        result = scrape(recipe_for(web, *wanted, **changes), wanted, root=root, ledger=ledger)
        table = collected(ledger, list(wanted))
    return result, table


def test_each_class_holds_exactly_what_was_asked_and_every_image_is_on_disk(tmp_path):
    with LoopbackWeb({"oak": photos("oak", range(60)), "elm": photos("elm", range(100, 160))}) as web:
        result, table = run(web, tmp_path, {"oak": 45, "elm": 5})
    assert result.counts == {"oak": 45, "elm": 5}
    assert not result.short
    assert table["label"].value_counts().to_dict() == {"oak": 45, "elm": 5}
    assert table["image_id"].is_unique
    for row in table.itertuples():
        picture = inspect((tmp_path / row.file_name).read_bytes())
        assert picture.sha256 == row.sha256
        assert row.image_id == row.sha256[:16]
    assert table["title"][0] == "oak number 0"
    assert table["source"].unique().tolist() == ["bing"]
    assert table["rank"].tolist()[:3] == [1, 2, 3]


def test_the_same_command_twice_fetches_nothing_more_and_a_larger_one_only_the_rest(tmp_path):
    with LoopbackWeb({"oak": photos("oak", range(60))}) as web:
        run(web, tmp_path, {"oak": 20})
        before = len(web.requests)
        run(web, tmp_path, {"oak": 20})
        assert len(web.requests) == before
        _, table = run(web, tmp_path, {"oak": 30})
        fetched = image_requests(web)
    assert len(table) == 30
    assert len(fetched) == len(set(fetched)) == 30


def test_bytes_that_are_held_already_do_not_count(tmp_path):
    repeats = [Photo(f"oak/copy{i}", lambda: jpeg(0)) for i in range(5)]
    with LoopbackWeb({"oak": [*photos("oak", [0]), *repeats, *photos("oak", range(1, 9))]}) as web:
        result, table = run(web, tmp_path, {"oak": 9})
    assert result.counts == {"oak": 9}
    assert table["sha256"].is_unique


def test_a_class_that_runs_out_is_short_with_its_causes(tmp_path):
    small = [Photo(f"oak/small{i}", lambda i=i: jpeg(50 + i, 60, 60)) for i in range(3)]
    with LoopbackWeb({"oak": [*photos("oak", range(12)), *small]}) as web:
        result, table = run(web, tmp_path, {"oak": 20})
    assert result.short == {"oak": 8}
    assert len(table) == 12
    assert result.causes["oak"] == {"smaller than 100 pixels": 3}


def test_a_source_that_is_blocked_is_named_and_the_next_one_is_asked(tmp_path):
    classes = {"oak": photos("oak", range(20))}
    with LoopbackWeb(classes, faults=Faults(google="enablejs")) as web:
        result, table = run(web, tmp_path, {"oak": 10}, sources=("google", "bing"))
        assert "blocked" in result.problems["google"]
        assert len(table) == 10
        alone, table = run(web, tmp_path, {"oak": 15}, sources=("google",))
    assert alone.short == {"oak": 5}
    assert len(table) == 10


def test_every_fault_of_an_image_host_is_made_up_for(tmp_path):
    faults = Faults(missing=0.1, busy=0.1, html=0.1, truncated=0.1, bomb=0.05, private_redirect=0.1, robots=0.05)
    with LoopbackWeb({"oak": photos("oak", range(90))}, faults=faults, seed=1) as web:
        result, table = run(web, tmp_path, {"oak": 30})
        with Ledger(tmp_path / "ledger.db") as ledger:
            failed = ledger.outcomes()
    assert result.counts == {"oak": 30}
    assert len(table) == 30
    failed = failed[failed["state"] == "failed"]
    assert failed["cause"].notna().all()
    assert failed["cause"].nunique() >= 4


def test_an_image_deleted_since_is_fetched_again(tmp_path):
    with LoopbackWeb({"oak": photos("oak", range(20))}) as web:
        _, table = run(web, tmp_path, {"oak": 8})
        (tmp_path / table["file_name"][3]).unlink()
        _, again = run(web, tmp_path, {"oak": 8})
    assert again["sha256"].tolist() == table["sha256"].tolist()
    assert all((tmp_path / name).is_file() for name in again["file_name"])


def test_no_more_pages_are_asked_for_than_hold_what_is_wanted(tmp_path):
    """A page holds 35."""
    with LoopbackWeb({"oak": photos("oak", range(150))}) as web:
        for wanted, pages in ((20, 1), (35, 1), (36, 2), (120, 4)):
            run(web, tmp_path, {"oak": wanted})
            assert len(web.requests) - len(image_requests(web)) == pages


DEADLY = """
import os, signal, sys
from pathlib import Path
answers = os.dup(1)
sys.path[:] = {path!r}
from curate import decoder
look = decoder.look
def look_or_die(path):
    if b"deadly" in Path(path).read_bytes():
        os.kill(os.getpid(), signal.SIGSEGV)
    return look(path)
decoder.look = look_or_die
decoder.work(answers)
"""


def test_an_image_that_crashes_the_decoder_is_a_failure_that_may_pass(tmp_path, monkeypatch):
    monkeypatch.setattr(decoders, "CHILD", DEADLY)
    deadly = [Photo(f"oak/deadly{i}", lambda i=i: jpeg(90 + i) + b"deadly") for i in range(2)]
    with LoopbackWeb({"oak": [*photos("oak", range(5)), *deadly, *photos("oak", range(5, 12))]}) as web:
        result, table = run(web, tmp_path, {"oak": 10})
        with Ledger(tmp_path / "ledger.db") as ledger:
            failed = ledger.failures()
    assert result.counts == {"oak": 10}
    assert not table["url"].str.contains("deadly").any()
    assert failed["cause"].tolist() == [f"no image: the decoder died (signal {signal.SIGSEGV.value})"] * 2
    assert failed["transient"].all()


@pytest.mark.parametrize(
    ("title", "url", "word"),
    [
        ("Granite Countertop, 3 cm", "http://x/1.jpg", "countertop"),
        ("", "http://x/img/granite-thin-section_2.jpg", "thin section"),
        ("a mapped outcrop", "http://countertop.example/1.jpg", None),
    ],
)
def test_an_excluded_word_is_found_as_a_whole_word_in_title_and_path(title, url, word):
    assert excluded_word(Candidate(url, title=title), ("countertop", "thin section", "map")) == word


def test_an_unknown_source_or_class_is_named(tmp_path):
    with LoopbackWeb({"oak": []}) as web, Ledger(tmp_path / "l.db") as ledger:
        with pytest.raises(CurateError, match="no source yahoo"):
            scrape(recipe_for(web, "oak", sources=("yahoo",)), {"oak": 1}, root=tmp_path, ledger=ledger)
        with pytest.raises(CurateError, match="no class ash"):
            scrape(recipe_for(web, "oak"), {"ash": 1}, root=tmp_path, ledger=ledger)


KILLED_RUN = """
import sys
from pathlib import Path
from curate.cli import main
main(["scrape", "--per-class", "40", "--recipe", sys.argv[1], "--data", sys.argv[2], "-o", sys.argv[3]])
"""


def command(tmp_path: Path, name: str) -> list[str]:
    places = (tmp_path / "r.toml", tmp_path / name, tmp_path / f"{name}.csv")
    return [sys.executable, "-c", KILLED_RUN, *map(str, places)]


@pytest.mark.slow
def test_a_run_that_is_killed_and_run_again_ends_as_one_that_was_not(tmp_path):
    classes = {"oak": photos("oak", range(60)), "elm": photos("elm", range(100, 160))}
    with LoopbackWeb(classes, latency=0.02) as web:
        mirrors = "\n".join(f'"{host}" = "{base}"' for host, base in web.mirrors.items())
        (tmp_path / "r.toml").write_text(
            'sources = ["bing"]\nmin_side = 100\n[[classes]]\nname = "oak"\nqueries = ["oak"]\n'
            f'[[classes]]\nname = "elm"\nqueries = ["elm"]\n[web]\nthreads = 4\n[web.mirrors]\n{mirrors}\n'
        )
        assert subprocess.run(command(tmp_path, "whole"), capture_output=True, check=False).returncode == 0
        asked = len(web.requests)
        for wait in (0.3, 0.7):
            process = subprocess.Popen(command(tmp_path, "killed"), stderr=subprocess.DEVNULL)
            deadline = time.monotonic() + 60
            seen = len(web.requests) + 3
            while len(web.requests) < seen and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(wait)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        assert subprocess.run(command(tmp_path, "killed"), capture_output=True, check=False).returncode == 0
        assert len(web.requests) > asked
    whole, killed = ((tmp_path / f"{name}.csv").read_text() for name in ("whole", "killed"))
    ids = [[line.split(",")[0] for line in text.splitlines()] for text in (whole, killed)]
    assert ids[0] == ids[1]
    assert len(ids[0]) == 81
    files = [p for p in (tmp_path / "killed" / "images").rglob("*") if p.is_file()]
    assert len(files) == 80
    assert not [p for p in files if p.name.endswith(".tmp")]


OWN_SOURCE = """
from pathlib import Path
from curate.sources import Answer, Candidate, Page, Source

def open_source(recipe, session):
    files = sorted(Path(recipe.folder).glob("*.jpg"))
    found = tuple(Candidate(file.name, title=recipe.name, creator="me") for file in files)
    fetch = lambda name: (Path(recipe.folder) / name).read_bytes()
    return Source(lambda query, label, cursor: Page(Answer.OK, found), fetch)
"""


def test_a_source_in_a_file_of_ones_own_is_asked(tmp_path):
    (tmp_path / "mine.py").write_text(OWN_SOURCE)
    for number in range(5):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(number))
    with LoopbackWeb({}) as web:
        mine = str(tmp_path / "mine.py")
        result, table = run(web, tmp_path / "data", {"oak": 4}, sources=(mine,), folder=str(tmp_path))
    assert result.counts == {"oak": 4}
    assert table["source"].unique().tolist() == [mine]
    assert table["creator"].unique().tolist() == ["me"]


def test_a_file_that_is_no_source_is_named(tmp_path):
    (tmp_path / "empty.py").write_text("x = 1")
    with pytest.raises(CurateError, match=r"empty.py: no function open_source"):
        find_sources((str(tmp_path / "empty.py"),))
    with pytest.raises(CurateError, match=r"absent.py: no such file"):
        find_sources((str(tmp_path / "absent.py"),))


def test_what_had_arrived_before_a_kill_is_not_fetched_again(tmp_path):
    with LoopbackWeb({"oak": photos("oak", range(20))}) as web:
        run(web, tmp_path, {"oak": 6})
        with Ledger(tmp_path / "ledger.db") as ledger:
            held = ledger.images(["oak"])
            arrivals = Arrivals(tmp_path, "oak")
            arrivals.open([])
            for row in held.itertuples():
                arrivals.keep(row.url, (tmp_path / row.file_name).read_bytes())
            (tmp_path / held["file_name"][0]).unlink()  # killed between the ledger and the store
            ledger.forget([int(held["fetch_id"][1])])  # killed before the ledger knew
            arrivals.keep("https://nobody.example/asks", b"for it")
        before = len(image_requests(web))
        result, _ = run(web, tmp_path, {"oak": 6})
        assert len(image_requests(web)) == before
    assert result.counts == {"oak": 6}
    assert list(arrivals.folder.iterdir()) == []


def test_only_images_whose_licence_allows_what_was_asked_are_held_and_listed(tmp_path):
    with LoopbackWeb({"oak": photos("oak", range(30))}) as web:
        run(web, tmp_path, {"oak": 6})
        with Ledger(tmp_path / "ledger.db") as ledger:
            told = [
                {"url": row.url, "license": "CC-BY-4.0", "license_basis": "asserted"}
                for row in ledger.images().head(2).itertuples()
            ]
            ledger.add_page("oak", "bing", "oak leaf", told, None, 2)
            assert len(collected(ledger, ["oak"])) == 6
            assert collected(ledger, ["oak"], "commercial")["license"].tolist() == ["CC-BY-4.0"] * 2
            assert len(collected(ledger, ["oak"], "public-domain")) == 0


def test_nothing_held_is_a_manifest_without_rows(tmp_path):
    with Ledger(tmp_path / "l.db") as ledger:
        assert {"image_id", "label", "status"} <= set(collected(ledger, ["oak"], "commercial"))


BROKEN_SOURCE = """
from curate.sources import Answer, Candidate, Page, Source

def open_source(recipe, session):
    def search(query, label, cursor):
        if recipe.folder == "raises":
            return {}["sheets"]
        return Page(Answer.OK, (Candidate("https://a.example/1", license_basis="sure"),))
    return Source(search, lambda url: b"")
"""


@pytest.mark.parametrize(("kind", "said"), [("raises", "KeyError: 'sheets'"), ("claims", "license_basis 'sure'")])
def test_a_mistake_in_a_source_of_ones_own_is_said_and_the_next_source_is_asked(tmp_path, kind, said):
    (tmp_path / "mine.py").write_text(BROKEN_SOURCE)
    with LoopbackWeb({"oak": photos("oak", range(9))}) as web:
        sources = (str(tmp_path / "mine.py"), "bing")
        result, table = run(web, tmp_path / "data", {"oak": 4}, sources=sources, folder=kind)
    assert len(table) == 4
    assert said in result.problems[sources[0]]
    assert ".py, line" in result.problems[sources[0]]


QUITTING_SOURCE = """
from curate.sources import Source

def open_source(recipe, session):
    def search(query, label, cursor):
        raise SystemExit("set MY_KEY")
    return Source(search, lambda url: b"")
"""


def test_a_source_of_ones_own_that_wants_to_quit_ends_the_run(tmp_path):
    (tmp_path / "mine.py").write_text(QUITTING_SOURCE)
    with LoopbackWeb({}) as web, pytest.raises(SystemExit, match="set MY_KEY"):
        run(web, tmp_path / "data", {"oak": 4}, sources=(str(tmp_path / "mine.py"),))


RATE_LIMITED_SOURCE = """
import threading
import time
from curate.sources import Answer, Candidate, Page, Source

asked, oak_is_refused = [], threading.Event()

def open_source(recipe, session):
    def search(query, label, cursor):
        asked.append(label)
        if label == "oak":
            oak_is_refused.set()
            return Page(Answer.RATE_LIMITED, detail="come back tomorrow")
        oak_is_refused.wait(5)
        time.sleep(0.2)  # until that is known
        number = int(cursor or 0)
        if number > 3:
            open(recipe.folder, "w").write(str(len(asked)))
            raise SystemExit("asked on and on")
        return Page(Answer.OK, (Candidate(f"https://a.example/{number}"),), cursor=str(number + 1))
    def fetch(url):
        raise OSError("not there")
    return Source(search, fetch)
"""


def test_a_source_that_refuses_one_class_is_left_by_the_searches_of_all(tmp_path):
    (tmp_path / "mine.py").write_text(RATE_LIMITED_SOURCE)
    with LoopbackWeb({}) as web:
        source = str(tmp_path / "mine.py")
        result, _ = run(web, tmp_path / "data", {"oak": 9, "elm": 9}, sources=(source,), folder=str(tmp_path / "log"))
    assert result.problems == {source: "rate-limited: come back tomorrow"}
    assert not (tmp_path / "log").exists()


def test_what_a_folder_gained_since_is_found_wherever_it_lies_in_the_list(tmp_path):
    (tmp_path / "given" / "oak").mkdir(parents=True)
    with LoopbackWeb({}) as web:
        changes = {"sources": ("folder",), "folder": str(tmp_path / "given")}
        empty, _ = run(web, tmp_path / "data", {"oak": 3}, **changes)
        assert "holds no (more) files" in empty.remarks["oak"]
        for number in (5, 6, 7):
            (tmp_path / "given" / "oak" / f"{number}.jpg").write_bytes(jpeg(number))
        run(web, tmp_path / "data", {"oak": 3}, **changes)
        (tmp_path / "given" / "oak" / "1.jpg").write_bytes(jpeg(1))
        result, table = run(web, tmp_path / "data", {"oak": 4}, **changes)
    assert result.counts == {"oak": 4}
    assert table["title"].tolist() == ["5.jpg", "6.jpg", "7.jpg", "1.jpg"]


def test_images_that_a_licence_rules_out_are_said_to_be_there(tmp_path):
    (tmp_path / "given" / "oak").mkdir(parents=True)
    (tmp_path / "given" / "oak" / "1.jpg").write_bytes(jpeg(1))
    with LoopbackWeb({}) as web:
        changes = {"sources": ("folder",), "folder": str(tmp_path / "given"), "license": "cc"}
        result, _ = run(web, tmp_path / "data", {"oak": 1}, **changes)
    assert result.causes["oak"] == {"left out: not known to allow cc": 1}


def test_a_run_that_is_interrupted_ends_at_once_and_keeps_what_came(tmp_path):
    """Some images drip without end; Ctrl-C does not wait for them."""
    with LoopbackWeb({"oak": photos("oak", range(60))}, faults=Faults(drip=0.2), seed=3) as web:
        recipe = recipe_for(web, "oak")
        with Ledger(tmp_path / "ledger.db") as ledger:
            interrupt = threading.Timer(1.5, lambda: os.kill(os.getpid(), signal.SIGINT))
            began = time.monotonic()
            interrupt.start()
            with pytest.raises(KeyboardInterrupt):
                scrape(recipe, {"oak": 40}, root=tmp_path, ledger=ledger)
            assert time.monotonic() - began < 10
    assert list((tmp_path / "arrivals").rglob("*")) or list((tmp_path / "images").rglob("*"))
    assert not list(tmp_path.rglob("*.tmp"))
