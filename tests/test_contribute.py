import io
import os
import random
import stat
import struct
import threading
import tracemalloc
import zipfile
from pathlib import Path

import pytest
import sqlalchemy as sa
from PIL import Image

from curate import archive, contribute
from curate.collected import collected
from curate.contribute import add
from curate.errors import CurateError
from curate.images import inspect
from curate.ledger import Decision, Ledger, Outcome, fetches
from curate.manifest import read_manifest, write_manifest
from curate.recipe import ImageClass, Recipe, Web
from curate.store import store
from tests.pictures import jpeg

RECIPE = Recipe(
    "trees",
    (ImageClass("oak", ("oak",)), ImageClass("elm", ("elm",))),
    min_side=100,
    web=Web(max_bytes=2_000_000),
)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def ledger(root):
    with Ledger(root / "ledger.db") as book:
        yield book


def give(path, ledger, root, **changes):
    given = {"label": "oak", "contributor": "Ada", "license": "CC BY 4.0", "root": root, "ledger": ledger, **changes}
    return add(path, given.pop("recipe", RECIPE), **given)


def zipped(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as made:
        for name, data in members.items():
            made.writestr(name, data)
    return path


def patched(path: Path, signature: bytes, offset: int, value: bytes, nth: int = 0) -> Path:
    """A zip in which the nth record of a kind says something else."""
    data = bytearray(path.read_bytes())
    at = -1
    for _ in range(nth + 1):
        at = data.index(signature, at + 1)
    data[at + offset : at + offset + len(value)] = value
    path.write_bytes(data)
    return path


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def everything(ledger) -> list[tuple]:
    with ledger.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.select(fetches))]


def states(table) -> dict:
    return dict(zip(table["file"], table["state"], strict=True))


def test_a_folder_becomes_rows_with_provenance_that_the_next_manifest_holds(tmp_path, ledger, root):
    (tmp_path / "in" / "walks").mkdir(parents=True)
    (tmp_path / "in" / "one.jpg").write_bytes(jpeg(1))
    (tmp_path / "in" / "walks" / "two.png").write_bytes(jpeg(2))
    seen = []
    table = give(tmp_path / "in", ledger, root, progress=lambda *step: seen.append(step))
    assert states(table) == {"one.jpg": "taken", "walks/two.png": "taken"}
    assert seen == [("oak", 2, 2)]
    write_manifest(collected(ledger, ["oak", "elm"]), tmp_path / "m.csv")
    one, two = read_manifest(tmp_path / "m.csv").to_dict("records")
    assert (root / one["file_name"]).read_bytes() == jpeg(1)
    assert one["url"] == f"contribution:{one['sha256']}"
    assert (one["source"], one["label"], one["query"], one["rank"]) == ("contributed", "oak", "in", 1)
    assert (one["creator"], one["license"], one["license_basis"]) == ("Ada", "CC-BY-4.0", "asserted")
    assert one["license_url"] == "https://creativecommons.org/licenses/by/4.0/"
    assert (one["title"], one["attribution"]) == ("one.jpg", '"one.jpg" by Ada, CC-BY-4.0')
    assert (one["width"], one["height"], one["status"]) == (200, 160, "candidate")
    assert (two["title"], two["rank"], two["format"]) == ("two.png", 2, "JPEG")


def test_a_zip_gives_the_same_as_its_files_and_a_second_time_nothing(tmp_path, ledger, root):
    path = zipped(tmp_path / "in.zip", {"a.jpg": jpeg(1), "deep/b.jpg": jpeg(2)})
    assert states(give(path, ledger, root)) == {"a.jpg": "taken", "deep/b.jpg": "taken"}
    before = everything(ledger)
    again = give(path, ledger, root)
    assert set(again["state"]) == {"repeated"}
    assert set(again["cause"]) == {"added before"}
    assert everything(ledger) == before
    (tmp_path / "renamed.jpg").write_bytes(jpeg(2))
    assert give(tmp_path / "renamed.jpg", ledger, root)["cause"].tolist() == ["added before"]
    assert len(ledger.images()) == 2


def test_every_kind_of_photograph_is_taken_as_it_came(tmp_path, ledger, root):
    photo = Image.open(io.BytesIO(jpeg(1)))
    turned = Image.Exif()
    turned[0x0112] = 6  # to be shown turned by 90 degrees
    kinds = {
        "cmyk.jpg": encoded(photo.convert("CMYK"), "JPEG"),
        "turned.jpg": encoded(photo, "JPEG", exif=turned),
        "deep.png": encoded(photo.convert("I;16"), "PNG"),
        "clear.png": encoded(photo.convert("RGBA"), "PNG"),
        "moving.gif": encoded(photo.convert("P"), "GIF", save_all=True, append_images=[Image.new("P", photo.size)]),
        "small.webp": encoded(photo, "WEBP"),
        "no suffix": encoded(photo, "BMP"),
    }
    assert set(give(zipped(tmp_path / "in.zip", kinds), ledger, root)["state"]) == {"taken"}
    held = ledger.images().set_index("title")
    assert (held.at["turned.jpg", "width"], held.at["turned.jpg", "height"]) == (160, 200)
    for title, data in kinds.items():
        assert (root / held.at[title, "file_name"]).read_bytes() == data


def test_what_is_not_taken_has_its_cause_here_and_in_the_ledger(tmp_path, ledger, root):
    members = {
        "notes.txt": b"not a picture",
        "tiny.jpg": jpeg(1, 90, 90),
        "cut.jpg": jpeg(2)[:2000],
        "empty.jpg": b"",
        "script.svg": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
        "more.zip": zipped(tmp_path / "inner.zip", {"a.jpg": jpeg(3)}).read_bytes(),
        "huge.jpg": random.Random(0).randbytes(2_000_001),
        "good.jpg": jpeg(4),
    }
    table = give(zipped(tmp_path / "in.zip", members), ledger, root).set_index("file")
    assert table.at["good.jpg", "state"] == "taken"
    assert table["state"].drop("good.jpg").to_dict() == {
        "notes.txt": "failed",
        "tiny.jpg": "refused",
        "cut.jpg": "failed",
        "empty.jpg": "failed",
        "script.svg": "failed",
        "more.zip": "refused",
        "huge.jpg": "refused",
    }
    assert table.at["tiny.jpg", "cause"] == "smaller than 100 pixels"
    assert table.at["more.zip", "cause"] == "an archive within the archive is not opened"
    assert table.at["huge.jpg", "cause"] == "too large"
    assert table.at["notes.txt", "cause"].startswith("no image")
    assert "0x" not in table.at["notes.txt", "cause"]
    rows = ledger.failures()
    assert sorted(rows["cause"]) == sorted(table["cause"].drop("good.jpg"))
    assert not rows["transient"].any()
    before = everything(ledger)
    give(tmp_path / "in.zip", ledger, root)
    assert everything(ledger) == before


def test_the_same_bytes_twice_in_one_contribution_count_once(tmp_path, ledger, root):
    table = give(zipped(tmp_path / "in.zip", {"a.jpg": jpeg(1), "b.jpg": jpeg(1)}), ledger, root)
    assert table.to_dict("list") == {
        "file": ["a.jpg", "b.jpg"],
        "state": ["taken", "repeated"],
        "cause": ["", "the same bytes as a.jpg"],
    }
    assert len(ledger.images()) == 1


def scraped(ledger, root, data: bytes, label: str = "elm") -> str:
    """An image that a search brought before; its image_id."""
    picture = inspect(data)
    name = store(root, data, picture)
    ledger.add_page(label, "bing", "elm", [{"url": "https://a.example/1.jpg", "rank": 1}], None, 2)
    row = ledger.pending(label, ["bing"], 0, 9)[0]
    facts = {**picture._asdict(), "phash": "0" * 16, "file_name": name}
    assert ledger.settle([Outcome(row["fetch_id"], "ok", None, False, facts)]) == ["ok"]
    return picture.sha256[:16]


def test_bytes_that_a_search_brought_before_are_repeated_and_a_rejection_stands(tmp_path, ledger, root):
    image_id = scraped(ledger, root, jpeg(1))
    (tmp_path / "mine.jpg").write_bytes(jpeg(1))
    (_, state, cause), *_ = give(tmp_path / "mine.jpg", ledger, root).itertuples(index=False)
    assert (state, cause) == ("repeated", "the same bytes as an image of elm")
    ledger.decide([Decision(image_id, "reject", "off_topic")])
    (_, state, cause), *_ = give(tmp_path / "mine.jpg", ledger, root).itertuples(index=False)
    assert (state, cause) == ("repeated", "the same bytes as an image of elm, rejected: off_topic")
    assert ledger.images()["source"].tolist() == ["bing"]
    assert ledger.outcomes().set_index("source")["state"].to_dict() == {"bing": "ok", "contributed": "repeated"}


def test_a_file_that_was_lost_comes_back_with_the_contribution(tmp_path, ledger, root):
    (tmp_path / "a.jpg").write_bytes(jpeg(1))
    give(tmp_path / "a.jpg", ledger, root)
    held = root / ledger.images()["file_name"][0]
    held.unlink()
    assert "lost and is back" in give(tmp_path / "a.jpg", ledger, root)["cause"][0]
    assert held.read_bytes() == jpeg(1)
    held.unlink()
    ledger.forget([int(ledger.images()["fetch_id"][0])])  # as the next scrape does
    assert give(tmp_path / "a.jpg", ledger, root)["state"].tolist() == ["taken"]
    assert held.exists()


def test_what_was_too_small_comes_in_under_todays_recipe_class_and_licence(tmp_path, ledger, root):
    (tmp_path / "a.jpg").write_bytes(jpeg(1))
    strict = Recipe("trees", RECIPE.classes, min_side=170)
    assert give(tmp_path / "a.jpg", ledger, root, recipe=strict)["state"].tolist() == ["refused"]
    table = give(tmp_path / "a.jpg", ledger, root, label="elm", contributor="Bo", license="CC0")
    assert table["state"].tolist() == ["taken"]
    row = ledger.images().iloc[0]
    assert (row["label"], row["creator"], row["license"]) == ("elm", "Bo", "CC0-1.0")
    other = give(tmp_path / "a.jpg", ledger, root, label="elm", contributor="Cy")
    assert other["cause"].tolist() == ["added before, by Bo under CC0-1.0: that stays"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"label": "ash"}, "no class 'ash' in recipe trees. It has oak, elm"),
        ({"contributor": " \x1b\n "}, "--contributor needs a name"),
        ({"license": ""}, "the licence is not said"),
    ],
)
def test_a_contribution_names_its_class_giver_and_licence(tmp_path, ledger, root, changes, says):
    (tmp_path / "a.jpg").write_bytes(jpeg(1))
    with pytest.raises(CurateError, match=says):
        give(tmp_path / "a.jpg", ledger, root, **changes)
    assert ledger.outcomes().empty


def test_hostile_names_become_one_clean_line(tmp_path, ledger, root):
    path = zipped(tmp_path / "in.zip", {"=HYPERLINK(1).jpg": jpeg(1), "a\x1b[31m\nb\u202e.jpg": jpeg(2)})
    table = give(path, ledger, root, contributor="Eve\n\x1b[2J<b>", license="my own\nwords")
    assert table["file"].tolist() == ["=HYPERLINK(1).jpg", "a [31m b .jpg"]
    rows = collected(ledger, ["oak"])
    assert rows["title"].tolist() == ["=HYPERLINK(1).jpg", "a [31m b .jpg"]
    assert set(rows["creator"]) == {"Eve [2J<b>"}
    assert set(rows["license"]) == {"my own words"}
    write_manifest(rows, tmp_path / "m.csv")
    assert "'=HYPERLINK(1).jpg" in (tmp_path / "m.csv").read_text()


def test_links_out_of_the_folder_and_what_is_no_file_are_not_opened(tmp_path, ledger, root):
    given, outside = tmp_path / "in", tmp_path / "outside"
    (given / "sub").mkdir(parents=True)
    outside.mkdir()
    for path in (outside / "secret.jpg", given / "sub" / "mine.jpg", given / ".hidden.jpg", given / "Thumbs.db"):
        path.write_bytes(jpeg(1))
    (given / "file.jpg").symlink_to(outside / "secret.jpg")
    (given / "folder").symlink_to(outside)
    (given / "loop").symlink_to(given)
    (given / "gone.jpg").symlink_to(given / "nothing")
    os.mkfifo(given / "pipe.jpg")
    (given / os.fsdecode(b"\xff.jpg")).write_bytes(jpeg(2))
    table = give(given, ledger, root).set_index("file")
    assert table["state"].to_dict() == {
        "file.jpg": "refused",
        "folder": "refused",
        "gone.jpg": "failed",
        "pipe.jpg": "failed",
        "sub/mine.jpg": "taken",
        "?.jpg": "taken",
    }
    assert table.at["file.jpg", "cause"] == table.at["folder", "cause"] == "a link that leads outside the folder"


def test_what_systems_leave_in_a_zip_is_passed_over(tmp_path, ledger, root):
    names = ("__MACOSX/._a.jpg", ".DS_Store", "sub/Thumbs.db", "sub/.x/a.jpg", "Desktop.ini", "./sub/a.jpg")
    table = give(zipped(tmp_path / "in.zip", {name: jpeg(1) for name in names}), ledger, root)
    assert table["file"].tolist() == ["./sub/a.jpg"]


def is_refused_whole(path, ledger, root, says: str) -> None:
    with pytest.raises(CurateError, match=says):
        give(path, ledger, root)
    assert ledger.outcomes().empty
    assert not (root / "images").exists()


@pytest.mark.parametrize(
    "name",
    [
        "../evil.jpg",
        "a/../../evil.jpg",
        "/etc/evil.jpg",
        "//server/evil.jpg",
        "C:/evil.jpg",
        "c:evil.jpg",
        "..\\evil.jpg",
        "a\\..\\..\\evil.jpg",
        "\\evil.jpg",
        "\\\\server\\share\\evil.jpg",
        "C:\\evil.jpg",
        ".hidden/../../evil.jpg",
        "__MACOSX/../evil",
    ],
)
def test_a_zip_with_a_member_that_leads_out_is_refused_whole(tmp_path, ledger, root, name):
    path = zipped(tmp_path / "in.zip", {"good.jpg": jpeg(1), name: jpeg(2)})
    is_refused_whole(path, ledger, root, "nothing is taken: .*evil.* leads outside the archive")


def test_a_zip_with_a_nul_in_a_name_is_refused_whole(tmp_path, ledger, root):
    path = zipped(tmp_path / "in.zip", {"good.jpg": jpeg(1), "evilX.jpg": jpeg(2)})
    path.write_bytes(path.read_bytes().replace(b"evilX.jpg", b"evil\0.jpg"))
    is_refused_whole(path, ledger, root, "leads outside the archive")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_a_zip_with_a_link_or_a_device_is_refused_whole(tmp_path, ledger, root, kind):
    path = zipped(tmp_path / "in.zip", {"good.jpg": jpeg(1)})
    with zipfile.ZipFile(path, "a") as made:
        member = zipfile.ZipInfo("evil.jpg")
        member.external_attr = (kind | 0o777) << 16
        made.writestr(member, "/etc/passwd")
    is_refused_whole(path, ledger, root, "'evil.jpg' is a link or a device")


def test_an_encrypted_zip_is_refused_whole(tmp_path, ledger, root):
    path = zipped(tmp_path / "in.zip", {"a.jpg": jpeg(1), "b.jpg": jpeg(2)})
    patched(path, b"PK\x01\x02", 8, struct.pack("<H", 1), nth=1)
    is_refused_whole(path, ledger, root, "'b.jpg' is encrypted")


def test_members_that_share_their_bytes_are_a_bomb(tmp_path, ledger, root):
    path = zipped(tmp_path / "in.zip", {f"{i}.jpg": jpeg(1) for i in range(3)})
    patched(path, b"PK\x01\x02", 42, struct.pack("<L", 0), nth=2)
    is_refused_whole(path, ledger, root, "shares its bytes with another")
    path = zipped(tmp_path / "in.zip", {"outer.jpg": jpeg(1), "inner.jpg": jpeg(2)}, zipfile.ZIP_STORED)
    size = len(jpeg(1)) + 500  # the first member now holds the beginning of the second, as in Fifield's bomb
    patched(path, b"PK\x01\x02", 20, struct.pack("<LL", size, size))
    is_refused_whole(path, ledger, root, "'inner.jpg' shares its bytes")


@pytest.mark.parametrize(
    ("offset", "value", "says"),
    [
        (24, 2**32 - 2, "would unpack from .* to 4,294,967,294 bytes"),
        (20, 10_000_000, "reaches beyond the end"),
        (42, 10_000_000, "is not where the table of contents says"),
        (42, 5, "is not where the table of contents says"),
    ],
)
def test_a_table_of_contents_that_cannot_be_true_is_refused(tmp_path, ledger, root, offset, value, says):
    path = zipped(tmp_path / "in.zip", {"a.jpg": jpeg(1)})
    is_refused_whole(patched(path, b"PK\x01\x02", offset, struct.pack("<L", value)), ledger, root, says)


def test_what_is_compressed_beyond_belief_is_refused_whole(tmp_path, ledger, root):
    path = zipped(tmp_path / "in.zip", {"a.jpg": jpeg(1), "zeros.bmp": bytes(1_500_000)})
    is_refused_whole(path, ledger, root, "'zeros.bmp' would unpack from .* to 1,500,000 bytes")


@pytest.mark.parametrize(
    ("limit", "value", "says"),
    [
        ("MAX_MEMBERS", 2, "3 files in one zip; at most 2"),
        ("MAX_TOTAL", 10_000, "would unpack to .* at most 10,000"),
        ("MAX_DIRECTORY", 100, "its table of contents has more than 100 bytes"),
    ],
)
def test_a_zip_has_its_limits_as_a_whole(tmp_path, ledger, root, monkeypatch, limit, value, says):
    path = zipped(tmp_path / "in.zip", {f"{i}.jpg": jpeg(i) for i in range(3)})
    monkeypatch.setattr(archive, limit, value)
    is_refused_whole(path, ledger, root, says)


def test_a_member_that_holds_more_than_it_says_is_read_no_further(tmp_path, ledger, root):
    """60 MB of zeros in 60 KB that claim to be 200,000 bytes: within every limit that the header is held to."""
    path = zipped(tmp_path / "in.zip", {"a.jpg": jpeg(1), "liar.jpg": bytes(60_000_000)})
    patched(path, b"PK\x01\x02", 24, struct.pack("<L", 200_000), nth=1)
    tracemalloc.start()
    table = give(path, ledger, root).set_index("file")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert table.loc["liar.jpg"].tolist() == ["failed", "damaged in the archive"]
    assert table.at["a.jpg", "state"] == "taken"
    assert peak < 15_000_000


def test_the_size_that_counts_is_the_one_that_comes_out(tmp_path, ledger, root, monkeypatch):
    """Where the claim were believed to be small, the bytes are counted all the same."""
    path = zipped(tmp_path / "in.zip", {"a.jpg": random.Random(0).randbytes(2_500_000)})
    with zipfile.ZipFile(path) as opened:
        member = opened.infolist()[0]
        monkeypatch.setattr(opened, "open", lambda _: io.BytesIO(bytes(2_500_000)))
        member.file_size = 10
        read = archive._read_member(opened, member, RECIPE.web.max_bytes)
    assert (read.data, read.cause) == (None, "too large")


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_only_the_usual_compression_is_opened(tmp_path, ledger, root, compression):
    table = give(zipped(tmp_path / "in.zip", {"a.jpg": jpeg(1)}, compression), ledger, root)
    assert table["state"].tolist() == ["refused"]
    assert "use deflate" in table["cause"][0]


def test_a_member_with_damage_is_a_row_and_the_others_are_taken(tmp_path, ledger, root):
    path = zipped(tmp_path / "in.zip", {"a.jpg": jpeg(1), "b.jpg": jpeg(2)})
    patched(path, b"PK\x01\x02", 16, b"\0\0\0\0")  # the checksum
    assert states(give(path, ledger, root)) == {"a.jpg": "failed", "b.jpg": "taken"}


@pytest.mark.parametrize("data", [b"", b"not a zip at all", None])
def test_what_is_no_zip_says_so(tmp_path, ledger, root, data):
    good = zipped(tmp_path / "good.zip", {"a.jpg": jpeg(1)}).read_bytes()
    (tmp_path / "in.zip").write_bytes(good[: len(good) // 2] if data is None else data)
    is_refused_whole(tmp_path / "in.zip", ledger, root, "not a zip that can be read")


def test_a_path_that_is_not_there_says_what_can_be_given(tmp_path, ledger, root):
    is_refused_whole(tmp_path / "nothing", ledger, root, "no such file or folder")


def test_random_damage_to_a_zip_never_ends_in_anything_but_rows_or_a_clear_error(tmp_path, ledger, root):
    good = zipped(tmp_path / "good.zip", {f"{i}.jpg": jpeg(i, 20, 20) for i in range(4)}).read_bytes()
    rng = random.Random(7)
    directory = good.index(b"PK\x01\x02")
    outcomes = set()
    for _ in range(120):
        data = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(directory if rng.random() < 0.7 else 0, len(data))] = rng.randrange(256)
        (tmp_path / "in.zip").write_bytes(data)
        try:
            outcomes |= set(give(tmp_path / "in.zip", ledger, root)["state"])
        except CurateError as error:
            outcomes.add(str(error).split(":")[1])
    assert {"refused", "failed", " refused, nothing is taken", " not a zip that can be read"} <= outcomes


@pytest.mark.parametrize("step", ["add_page", "settle"])
@pytest.mark.parametrize("nth", [1, 2])
def test_a_run_that_ends_half_way_goes_on(tmp_path, ledger, root, monkeypatch, step, nth):
    """It ends before or between the two writes of its first or second batch of two."""
    path = zipped(tmp_path / "in.zip", {f"{i}.jpg": jpeg(i) for i in range(5)})
    monkeypatch.setattr(contribute, "BATCH", 2)
    real, calls = getattr(Ledger, step), []

    def killed(self, *args, **kwargs):
        calls.append(step)
        if len(calls) == nth:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Ledger, step, killed)
    with pytest.raises(KeyboardInterrupt):
        give(path, ledger, root)
    monkeypatch.setattr(Ledger, step, real)
    assert len(ledger.images()) == 2 * (nth - 1)
    assert give(path, ledger, root)["state"].value_counts().to_dict() == (
        {"taken": 5} if nth == 1 else {"taken": 3, "repeated": 2}
    )
    assert sorted(ledger.images()["title"]) == [f"{i}.jpg" for i in range(5)]


def test_a_data_root_that_cannot_be_written_is_a_clear_error(tmp_path, ledger, root):
    (root / "images").write_text("in the way")
    (tmp_path / "a.jpg").write_bytes(jpeg(1))
    with pytest.raises(CurateError, match="no image can be written"):
        give(tmp_path / "a.jpg", ledger, root)


def test_two_runs_at_once_lose_nothing_and_take_nothing_twice(tmp_path, ledger, root, monkeypatch):
    monkeypatch.setattr(contribute, "BATCH", 2)
    path = zipped(tmp_path / "in.zip", {f"{i}.jpg": jpeg(i) for i in range(12)})
    tables = []

    def run() -> None:
        with Ledger(root / "ledger.db") as book:
            tables.append(give(path, book, root))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(state for table in tables for state in table["state"]) == ["repeated"] * 24 + ["taken"] * 12
    assert ledger.outcomes()[["state", "fetches"]].to_numpy().tolist() == [["ok", 12]]


def test_a_member_without_a_name_has_no_place_to_lie(tmp_path, ledger, root):
    path = patched(zipped(tmp_path / "in.zip", {"X": jpeg(1)}), b"PK\x01\x02", 46, b"\0")
    is_refused_whole(path, ledger, root, "'' has no name")
