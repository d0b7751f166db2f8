"""Copies of one photograph are found whatever was done to them; two photographs are never taken for one."""

import hashlib
import io
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

import curate.dedup
from curate.candidates import near_wholes, shared_words
from curate.copies import compare, is_copy, look_at, to_gray
from curate.dedup import find_copies, find_leaks, known_copies
from curate.duplicates import mark_duplicates
from curate.errors import CurateError
from curate.fingerprint import fingerprint, to_row
from curate.images import phash

REAL = Path(__file__).parents[2] / "shared" / "data" / "rocks"


def texture(seed: int, layout: int | None = None, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """A stone-like picture: grains of its own (seed) on broad light and dark areas (layout, else its own too)."""
    rng, broad = np.random.default_rng(seed), np.random.default_rng(seed if layout is None else layout)
    areas = cv2.resize(broad.normal(size=(6, 8)), size, interpolation=cv2.INTER_CUBIC)
    grains = cv2.GaussianBlur(rng.normal(size=size[::-1]), (0, 0), 2.5)
    gray = 120 + 40 * areas[..., None] + 25 * (grains / grains.std())[..., None]
    return Image.fromarray(np.clip(gray * [1.0, 0.9, 0.75], 0, 255).astype(np.uint8))


def watermarked(image: Image.Image) -> Image.Image:
    marked = image.copy()
    ImageDraw.Draw(marked).text((40, 110), "some stock photo", fill="white", font_size=28)
    return marked


def recompressed(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def collage(image: Image.Image) -> Image.Image:
    page = Image.new("RGB", (640, 480))
    for n, tile in enumerate((texture(71), texture(72), image, texture(73))):
        page.paste(tile, (320 * (n % 2), 240 * (n // 2)))
    return page


def shelf(root: Path, pictures: dict[str, Image.Image], **options: int) -> pd.DataFrame:
    """The pictures as JPEG files under root, and their manifest."""
    root.mkdir(exist_ok=True)
    for name, picture in pictures.items():
        picture.save(root / f"{name}.jpg", **{"quality": 92, **options})
    return manifest_of(root, {name: f"{name}.jpg" for name in pictures}).assign(
        width=[p.width for p in pictures.values()], height=[p.height for p in pictures.values()]
    )


def manifest_of(root: Path, files: dict[str, str]) -> pd.DataFrame:
    """image_id -> file name below the root."""
    data = [(root / name).read_bytes() for name in files.values()]
    table = pd.DataFrame({"image_id": list(files), "file_name": list(files.values())})
    hashes = [hashlib.sha256(d).hexdigest() for d in data]
    return table.assign(sha256=hashes, bytes=[len(d) for d in data], label="granite", status="candidate")


def pairs(found: pd.DataFrame) -> list[tuple[str, str]]:
    there = found[found["second"].notna()]
    return list(zip(there["first"], there["second"], strict=True))


EDITS = {
    "recompressed": lambda im: recompressed(im, 25),
    "half the size": lambda im: im.resize((im.width // 2, im.height // 2)),
    "darkened": lambda im: ImageEnhance.Brightness(im).enhance(0.6),
    "in grey": lambda im: im.convert("L").convert("RGB"),
    "10 % cropped": lambda im: im.crop((16, 12, 304, 228)),
    "half of each side": lambda im: im.crop((140, 20, 300, 140)),
    "lower fifth cut off": lambda im: im.crop((0, 0, 320, 192)),
    "turned by 7 degrees": lambda im: im.rotate(7, Image.Resampling.BICUBIC, expand=True, fillcolor="white"),
    "turned by 90 degrees": lambda im: im.transpose(Image.Transpose.ROTATE_90),
    "upside down": ImageOps.flip,
    "mirrored": ImageOps.mirror,
    "mirrored and cropped": lambda im: ImageOps.mirror(im).crop((0, 0, 288, 216)),
    "white border": lambda im: ImageOps.expand(im, 40, "white"),
    "black bars": lambda im: ImageOps.pad(im, (320, 320), color="black"),
    "watermarked": watermarked,
    "tile of a collage": collage,
}
IN_A_MIRROR = ("mirrored", "mirrored and cropped", "upside down")


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_copy_is_found_and_nothing_else(edit, tmp_path):
    pictures = {"original": texture(1), "other": texture(2), "copy": EDITS[edit](texture(1))}
    found = find_copies(shelf(tmp_path, pictures), tmp_path)
    assert pairs(found) == [("original", "copy")]
    assert found["flipped"].tolist() == [edit in IN_A_MIRROR]
    assert "matched points" in found["check"].iat[0]


def test_a_pair_says_what_each_shows_of_the_other_and_which_is_finer(tmp_path):
    """The copy is the middle of the original, a quarter of its area, with half the pixels along a side."""
    part = texture(1).crop((80, 60, 240, 180)).resize((80, 60))
    pair = find_copies(shelf(tmp_path, {"whole": texture(1), "part": part}), tmp_path).iloc[0]
    assert pair["cover_first"] == pytest.approx(0.25, abs=0.02)
    assert pair["cover_second"] == pytest.approx(1, abs=0.02)
    assert pair["finer"] == pytest.approx(2, rel=0.03)
    assert 0 <= pair["lettering_first"] < 0.05


def test_two_photographs_of_the_same_overall_look_are_candidates_but_no_copies(tmp_path):
    """Light and dark areas lie alike, so the hashes meet; the grains differ."""
    pictures = [texture(seed, layout=9) for seed in (1, 2)]
    rows = np.stack([to_row(fingerprint(look_at(gray(p)))) for p in pictures])
    assert near_wholes(rows)[:, :2].tolist() == [[0, 1]]
    assert find_copies(shelf(tmp_path, dict(zip("ab", pictures, strict=True))), tmp_path).empty


def test_two_photographs_in_one_frame_are_no_copies(tmp_path):
    """The frame gives dozens of matched points and most of the overall look."""
    frame = texture(5)
    pictures = {}
    for name, seed in (("one", 1), ("two", 2)):
        pictures[name] = frame.copy()
        pictures[name].paste(texture(seed, layout=9, size=(200, 150)), (60, 45))
    looks = [look_at(gray(picture)) for picture in pictures.values()]
    rows = np.stack([to_row(fingerprint(look)) for look in looks])
    assert shared_words(rows, np.arange(2)).tolist() == [[0, 1]]
    match = compare(*looks)
    assert match.points > 30
    assert not is_copy(match)
    assert find_copies(shelf(tmp_path, pictures), tmp_path).empty


def test_two_collages_that_share_a_tile_are_no_copies(tmp_path):
    assert find_copies(shelf(tmp_path, {"a": collage(texture(1)).crop((0, 240, 640, 480))}), tmp_path).empty
    one, two = collage(texture(1)), collage(texture(2))
    two.paste(texture(74), (0, 0))
    two.paste(texture(75), (320, 0))
    assert find_copies(shelf(tmp_path, {"one": one, "two": two}), tmp_path).empty


def test_blank_pictures_are_no_copies_of_each_other(tmp_path):
    pictures = {str(grey): Image.new("RGB", (200, 200), (grey,) * 3) for grey in (250, 252, 255)}
    assert find_copies(shelf(tmp_path, pictures), tmp_path).empty


def test_a_missing_and_a_damaged_image_are_rows_with_the_cause(tmp_path):
    manifest = shelf(tmp_path, {"a": texture(1), "gone": texture(2), "broken": texture(3), "b": texture(1)})
    (tmp_path / "gone.jpg").unlink()
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    manifest["sha256"] = None
    found = find_copies(manifest, tmp_path)
    assert found[["first", "second"]].fillna("").to_numpy().tolist() == [["a", "b"], ["gone", ""], ["broken", ""]]
    marked = mark_duplicates(manifest, found).set_index("image_id")
    assert "no such image" in marked.at["gone", "reason"]
    assert marked.at["broken", "reason"].startswith("not compared: none of JPEG")
    assert marked["status"].tolist() == ["candidate", "candidate", "candidate", "duplicate"]


def test_odd_files_are_compared_or_say_why_not(tmp_path):
    """1 x 1, 30,000 pixels wide, animated, transparent, turned by its EXIF: the copies among them are found."""
    stone, turned = texture(1), texture(1).transpose(Image.Transpose.ROTATE_90)
    tag = Image.Exif()
    tag[0x0112] = 6
    Image.new("RGB", (1, 1), "red").save(tmp_path / "dot.png")
    Image.effect_noise((30_000, 12), 60).save(tmp_path / "wide.png")
    stone.convert("P").save(tmp_path / "moving.gif", save_all=True, append_images=[texture(2).convert("P")])
    layer = stone.convert("RGBA")
    layer.putalpha(230)
    layer.save(tmp_path / "clear.png")
    turned.save(tmp_path / "exif.jpg", exif=tag, quality=92)
    Image.fromarray(np.asarray(stone.convert("L")).astype(np.uint16) * 257).save(tmp_path / "deep.png")
    (tmp_path / "text.jpg").write_text("no picture at all")
    names = ["dot.png", "wide.png", "moving.gif", "clear.png", "exif.jpg", "deep.png", "text.jpg"]
    found = find_copies(manifest_of(tmp_path, {n.split(".")[0]: n for n in names}), tmp_path)
    alike = ["moving", "clear", "exif", "deep"]
    assert pairs(found) == [(a, b) for n, a in enumerate(alike) for b in alike[n + 1 :]]
    assert found.loc[found["second"].isna(), "first"].tolist() == ["text"]


def test_images_of_the_same_bytes_are_copies_and_so_are_their_copies(tmp_path):
    manifest = shelf(tmp_path, {"a": texture(1), "small": texture(1).resize((160, 120))})
    (tmp_path / "b.jpg").write_bytes((tmp_path / "a.jpg").read_bytes())
    both = pd.concat([manifest, manifest.iloc[:1].assign(image_id="b", file_name="b.jpg")], ignore_index=True)
    found = find_copies(both, tmp_path)
    assert pairs(found) == [("a", "small"), ("a", "b"), ("small", "b")]
    assert found["check"].tolist()[1] == "the same bytes"


def family(seed: int) -> dict[str, Image.Image]:
    """A photograph and three copies."""
    stone = texture(seed)
    copies = {"small": stone.resize((200, 150)), "part": stone.crop((60, 40, 300, 220)), "back": ImageOps.mirror(stone)}
    return {f"{name}{seed}": picture for name, picture in {"stone": stone, **copies}.items()}


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
def test_one_by_one_is_as_all_at_once(order, tmp_path):
    """Three batches, in either order, each with copies of images of the others."""
    pictures = {name: picture for seed in range(3) for name, picture in family(seed).items()}
    together, apart = tmp_path / "together", tmp_path / "apart"
    manifest = shelf(together, pictures)
    expected = find_copies(manifest, together)
    assert len(pairs(expected)) == 3 * 6
    shelf(apart, pictures)
    seen = np.zeros(len(manifest), bool)
    for batch in order:
        seen |= np.arange(len(manifest)) % 3 == batch
        found = find_copies(manifest[seen], apart)
    pd.testing.assert_frame_equal(found, expected)
    pd.testing.assert_frame_equal(find_copies(manifest, apart), expected)


def test_images_of_two_manifests_of_one_root_are_compared_when_they_come_together(tmp_path):
    pictures = {"a": texture(1), "b": texture(2), "a2": texture(1).resize((160, 120)), "b2": ImageOps.flip(texture(2))}
    manifest = shelf(tmp_path, pictures)
    assert pairs(find_copies(manifest.iloc[:2], tmp_path)) == []
    assert pairs(find_copies(manifest.iloc[2:], tmp_path)) == []
    assert pairs(find_copies(manifest, tmp_path)) == [("a", "a2"), ("b", "b2")]


def test_many_overlapping_crops_turn_out_the_same_in_pieces(tmp_path):
    """Thirty windows along a strip: more than are all compared with each other; which stays does not change."""
    strip = texture(4, size=(900, 150))
    windows = {f"w{n}": strip.crop((20 * n, 0, 20 * n + 200, 150)) for n in range(30)}
    together, apart = tmp_path / "together", tmp_path / "apart"
    manifest = shelf(together, windows)
    shelf(apart, windows)
    for number in (6, 12, 18, 24, 30):
        found = find_copies(manifest.iloc[:number], apart)
    expected = find_copies(manifest, together)
    pd.testing.assert_frame_equal(found, expected)
    assert len(pairs(expected)) > 100


def test_a_file_that_is_gone_is_a_row_although_its_fingerprint_is_kept(tmp_path):
    manifest = shelf(tmp_path, {"a": texture(1), "b": texture(2)})
    find_copies(manifest, tmp_path)
    (tmp_path / "b.jpg").unlink()
    found = find_copies(manifest, tmp_path)
    assert found["first"].tolist() == ["b"]
    assert "no such image" in found["check"].iat[0]
    marked = mark_duplicates(manifest, found)
    texture(2).save(tmp_path / "b.jpg", quality=92)
    assert mark_duplicates(marked, find_copies(manifest, tmp_path))["reason"].isna().all()


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "loop/x.jpg"])
def test_a_name_that_no_file_can_have_is_a_row_with_the_cause(name, tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    manifest = shelf(tmp_path, {"a": texture(1), "b": texture(1).resize((160, 120)), "c": texture(2)})
    manifest.loc[2, "file_name"] = name
    found = find_copies(manifest, tmp_path)
    assert found["first"].tolist() == ["a", "c"]
    assert found["check"].iat[1].startswith("not compared: ")


def test_sizes_that_are_not_known_decide_nothing(tmp_path):
    manifest = shelf(tmp_path, {"part": texture(1).crop((0, 0, 300, 200)), "whole": texture(1)})
    for sides in ({"width": [pd.NA, 320]}, {"width": 0}, {"height": -5}):
        pair = find_copies(manifest.assign(**sides), tmp_path)
        assert pair["finer"].isna().all()
        mark_duplicates(manifest.assign(**sides), pair)
    reason = mark_duplicates(manifest.assign(width=0), pair)["reason"].dropna().iat[0]
    assert reason.endswith(("the larger file stays", "the one with less lettering stays"))


def test_what_was_compared_is_not_compared_again(tmp_path, monkeypatch):
    """Killed in the middle of the verification, run again, and once more with one image added."""
    pictures = {name: picture for seed in range(80, 180) for name, picture in list(family(seed).items())[:4]}
    manifest = shelf(tmp_path, {name: p.resize((96, 72)) for name, p in pictures.items()})
    counted(monkeypatch, "same_photograph", stop_at=300)
    with pytest.raises(KeyboardInterrupt):
        find_copies(manifest.iloc[:399], tmp_path)
    monkeypatch.undo()
    said: list[tuple[str, int, int]] = []
    found = find_copies(manifest.iloc[:399], tmp_path, progress=lambda *step: said.append(step))
    assert "images" not in {what for what, _, _ in said}  # no fingerprint is taken again
    assert len(pairs(found)) >= 500
    assert (
        sum(what.startswith("pairs") for what, _, _ in said) < len(pairs(found)) - 200
    )  # 256 of them are kept at a time
    checks = counted(monkeypatch, "same_photograph")
    again = find_copies(manifest.iloc[:399], tmp_path)
    pd.testing.assert_frame_equal(again, found)
    assert checks == [0]
    find_copies(manifest, tmp_path)
    assert 3 <= checks[0] < 12
    assert known_copies(manifest, tmp_path)["first"].tolist() == find_copies(manifest, tmp_path)["first"].tolist()


def counted(monkeypatch, name: str, stop_at: int = 0) -> list[int]:
    """How often a function of `curate.dedup` is called; a Ctrl-C comes with one of the calls."""
    function, calls = getattr(curate.dedup, name), [0]

    def wrapped(*arguments):
        calls[0] += 1
        if calls[0] == stop_at:
            raise KeyboardInterrupt
        return function(*arguments)

    monkeypatch.setattr(curate.dedup, name, wrapped)
    return calls


def test_a_hundred_copies_of_one_photograph_do_not_explode(tmp_path, monkeypatch):
    """Each is compared with a few, all with the largest one, and all are its duplicates."""
    rng = np.random.default_rng(0)
    stone = texture(3, size=(96, 72))
    pixels = np.asarray(stone, float)
    pictures = {
        f"c{n}": Image.fromarray(np.clip(pixels + rng.normal(0, 4, pixels.shape), 0, 255).astype(np.uint8))
        for n in range(99)
    }
    pictures["best"] = stone.resize((192, 144))
    checks = counted(monkeypatch, "same_photograph")
    manifest = shelf(tmp_path, pictures)
    found = find_copies(manifest, tmp_path)
    assert checks[0] < 100 * 30 < 100 * 99 / 2
    marked = mark_duplicates(manifest, found)
    assert marked["duplicate_of"].fillna("").tolist() == ["best"] * 99 + [""]


def test_copies_of_a_test_set_are_found_whatever_its_data_root(tmp_path):
    mine = shelf(tmp_path / "mine", {"a": texture(1), "b": texture(2), "c": texture(3), "a2": texture(1)})
    theirs = shelf(tmp_path / "theirs", {"x": ImageOps.mirror(texture(2)), "y": texture(4), "z": texture(3)})
    leaks = find_leaks(mine, tmp_path / "mine", theirs, tmp_path / "theirs")
    assert pairs(leaks) == [("b", "x"), ("c", "z")]
    assert leaks["check"].tolist()[1] == "the same bytes"
    swapped = find_leaks(theirs, tmp_path / "theirs", mine, tmp_path / "mine")
    assert pairs(swapped) == [("x", "b"), ("z", "c")]


def test_a_test_set_that_cannot_be_read_is_not_free_of_copies(tmp_path):
    mine = shelf(tmp_path / "mine", {"a b": texture(1), "c": texture(3)})
    theirs = shelf(tmp_path / "theirs", {"x": texture(5)})
    leaks = find_leaks(mine, tmp_path / "mine", theirs, tmp_path / "mine")
    assert leaks["first"].tolist() == ["x"]
    assert "no such image" in leaks["check"].iat[0]
    assert find_leaks(mine, tmp_path / "mine", mine.iloc[:0], tmp_path / "mine").empty


def test_a_hash_of_the_manifest_is_used_and_a_wrong_one_is_named(tmp_path):
    manifest = shelf(tmp_path, {"a": texture(1), "b": texture(1).resize((300, 225))})
    hashed = manifest.assign(phash=[phash(texture(1)), None])
    assert find_copies(hashed, tmp_path)["distance"].tolist() == [0]
    turned = manifest.assign(phash=[phash(texture(1)), "ffffffffffffffff"])
    assert find_copies(turned, tmp_path)["distance"].gt(10).all()
    with pytest.raises(CurateError, match="row 2, column phash: 'granite'"):
        find_copies(manifest.assign(phash=[None, "granite"]), tmp_path)


def test_progress_is_told_until_the_end(tmp_path):
    said = []
    manifest = shelf(tmp_path, {"a": texture(1), "b": texture(1).resize((300, 225))})
    find_copies(manifest, tmp_path, progress=lambda *step: said.append(step))
    assert said == [("images", 1, 2), ("images", 2, 2), ("pairs by hash", 1, 1), ("words", 1, 1)]


def test_a_missing_column_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(CurateError, match=r"no column file_name.*curate scrape"):
        find_copies(pd.DataFrame({"image_id": ["x"]}), tmp_path)


def gray(picture: Image.Image) -> np.ndarray:
    return to_gray(np.asarray(picture.convert("L")))


@pytest.mark.slow
@pytest.mark.skipif(not REAL.exists(), reason="the real rock photographs are not here")
def test_real_photographs_in_one_template_are_told_apart_and_real_copies_found():
    """Pairs seen by eye: copies across classes, a crop, a mirrored one; different stones over one stock-photo bar."""
    copies = [
        ("marble/1 (34).jpg", "quartzite/images(127).jpg"),
        ("marble/1 (595).jpg", "marble/pink-marble.jpg"),
        ("quartzite/images(105).jpg", "quartzite/images(364).jpg"),
    ]
    different = ["quartzite/images(130).jpg", "quartzite/images(95).jpg", "quartzite/images(165).jpg"]
    names = [name for pair in copies for name in pair] + different
    found = find_copies(pd.DataFrame({"image_id": names, "file_name": [f"web/{n}" for n in names]}), REAL)
    assert sorted(pairs(found)) == copies
    assert found["flipped"].tolist() == [False, False, True]
