"""Copies of one photograph are found whatever was done to them; two photographs are never taken for one."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from curate.dedup import find_copies, mark_duplicates
from curate.errors import CurateError
from curate.hamming import pairs_within
from curate.images import phash

REAL = Path(__file__).parents[2] / "shared" / "data" / "rocks"
PAIRS = ["first", "second", "distance", "check", "flipped"]


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


def shelf(root: Path, pictures: dict[str, Image.Image], **options: int) -> pd.DataFrame:
    """The pictures as JPEG files under root, and their manifest."""
    for name, picture in pictures.items():
        picture.save(root / f"{name}.jpg", **{"quality": 92, **options})
    sizes = [(p.width, p.height, (root / f"{n}.jpg").stat().st_size) for n, p in pictures.items()]
    table = pd.DataFrame(sizes, columns=["width", "height", "bytes"])
    ids = list(pictures)
    return table.assign(image_id=ids, file_name=[f"{i}.jpg" for i in ids], label="granite", status="candidate")


def rows(*images: tuple[str, str, str, int]) -> pd.DataFrame:
    """A manifest of (image_id, label, status, side in pixels)."""
    table = pd.DataFrame(images, columns=["image_id", "label", "status", "width"])
    return table.assign(height=table["width"], bytes=1000)


def pairs_of(*pairs: tuple[str, str]) -> pd.DataFrame:
    return pd.DataFrame([(a, b, 4, "61 matched points", False) for a, b in pairs], columns=PAIRS)


EDITS = {
    "recompressed": lambda im: im,  # at quality 30, see the test
    "half the size": lambda im: im.resize((im.width // 2, im.height // 2)),
    "darkened": lambda im: ImageEnhance.Brightness(im).enhance(0.6),
    "in grey": lambda im: im.convert("L").convert("RGB"),
    "10 % cropped": lambda im: im.crop((16, 12, 304, 228)),
    "25 % cropped": lambda im: im.crop((40, 30, 280, 210)),
    "lower fifth cut off": lambda im: im.crop((0, 0, 320, 192)),
    "mirrored": ImageOps.mirror,
    "mirrored and cropped": lambda im: ImageOps.mirror(im).crop((0, 0, 288, 216)),
    "white border": lambda im: ImageOps.expand(im, 40, "white"),
    "black bars": lambda im: ImageOps.pad(im, (320, 320), color="black"),
    "watermarked": watermarked,
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_copy_is_found_and_nothing_else(edit, tmp_path):
    quality = 30 if edit == "recompressed" else 90
    pictures = {"original": texture(1), "other": texture(2), "copy": EDITS[edit](texture(1))}
    found = find_copies(shelf(tmp_path, pictures, quality=quality), tmp_path)
    assert list(zip(found["first"], found["second"], strict=True)) == [("original", "copy")]
    assert found["flipped"].tolist() == ["mirrored" in edit]
    assert found["distance"].between(0, 12).all()
    assert "matched points" in found["check"].iat[0]


def test_two_photographs_of_the_same_overall_look_are_candidates_but_no_copies(tmp_path):
    """Light and dark areas lie alike, so the hashes meet; the grains differ."""
    manifest = shelf(tmp_path, {"one": texture(1, layout=9), "two": texture(2, layout=9)})
    met = find_copies(manifest, tmp_path, verify=False)
    assert list(zip(met["first"], met["second"], strict=True)) == [("one", "two")]
    assert find_copies(manifest, tmp_path).empty


def test_two_photographs_in_one_frame_are_no_copies(tmp_path):
    """The frame gives dozens of matched points and most of the overall look."""
    frame = texture(5)
    pictures = {}
    for name, seed in (("one", 1), ("two", 2)):
        pictures[name] = frame.copy()
        pictures[name].paste(texture(seed, layout=9, size=(200, 150)), (60, 45))
    manifest = shelf(tmp_path, pictures)
    assert len(find_copies(manifest, tmp_path, verify=False, max_distance=16)) == 1
    assert find_copies(manifest, tmp_path, max_distance=16).empty


def test_blank_pictures_are_no_copies_of_each_other(tmp_path):
    pictures = {str(grey): Image.new("RGB", (200, 200), (grey,) * 3) for grey in (250, 252, 255)}
    assert find_copies(shelf(tmp_path, pictures), tmp_path).empty


def test_a_missing_and_a_damaged_image_are_rows_with_the_cause(tmp_path):
    manifest = shelf(tmp_path, {"a": texture(1), "gone": texture(2), "broken": texture(3), "b": texture(1)})
    (tmp_path / "gone.jpg").unlink()
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    found = find_copies(manifest, tmp_path)
    assert found[["first", "second"]].fillna("").to_numpy().tolist() == [["a", "b"], ["gone", ""], ["broken", ""]]
    marked = mark_duplicates(manifest, found).set_index("image_id")
    assert "no such image" in marked.at["gone", "reason"]
    assert marked.at["broken", "reason"].startswith("not compared: none of JPEG")
    assert marked["status"].tolist() == ["candidate", "candidate", "candidate", "duplicate"]


def test_only_pairs_of_new_images_are_asked_for_and_go_with_the_old_marks(tmp_path):
    small = texture(1).resize((160, 120))
    manifest = shelf(tmp_path, {"a": texture(1), "b": small, "c": ImageOps.mirror(small)})
    found = find_copies(manifest, tmp_path, new_ids={"c"})
    assert sorted(zip(found["first"], found["second"], strict=True)) == [("a", "c"), ("b", "c")]
    first = mark_duplicates(manifest.iloc[:2], find_copies(manifest.iloc[:2], tmp_path))
    both = mark_duplicates(pd.concat([first, manifest.iloc[2:]], ignore_index=True), found)
    assert both["duplicate_of"].fillna("").tolist() == ["", "a", "a"]


def test_a_hash_of_the_manifest_is_used_and_a_wrong_one_is_named(tmp_path):
    manifest = shelf(tmp_path, {"a": texture(1), "b": texture(1)})
    hashed = manifest.assign(phash=[phash(texture(1)), None])
    assert find_copies(hashed, tmp_path)["distance"].tolist() == [0]
    with pytest.raises(CurateError, match="row 2, column phash: 'granite'"):
        find_copies(manifest.assign(phash=[None, "granite"]), tmp_path)


def test_progress_is_told_until_the_end(tmp_path):
    said = []
    manifest = shelf(tmp_path, {"a": texture(1), "b": texture(1)})
    find_copies(manifest, tmp_path, progress=lambda *step: said.append(step))
    assert said == [("hashes", 1, 2), ("hashes", 2, 2), ("copies", 1, 1)]


@pytest.mark.parametrize("radius", [0, 1, 3, 4, 7, 8, 10, 12, 15, 16, 21, 40, 47, 48, 64])
def test_pairs_within_is_exact(radius):
    """Against brute force, on hashes in clusters and with repeats."""
    rng = np.random.default_rng(radius)
    seeds = rng.integers(0, 2**64, 12, dtype=np.uint64)
    flips = (rng.random((150, 64)) < rng.random((150, 1)) * 0.3) @ (np.uint64(1) << np.arange(64, dtype=np.uint64))
    bits = np.append(rng.choice(seeds, 150) ^ flips.astype(np.uint64), np.repeat(seeds[:2], 5))
    i, j = np.triu_indices(len(bits), 1)
    near = np.bitwise_count(bits[i] ^ bits[j]) <= radius
    assert pairs_within(bits, radius).tolist() == np.stack([i, j], axis=1)[near].tolist()


def test_pairs_within_nothing_is_nothing():
    assert pairs_within(np.zeros(0, np.uint64), 8).shape == (0, 2)
    assert pairs_within(np.array([7], np.uint64), 64).shape == (0, 2)


def test_thousands_of_equal_pictures_do_not_explode():
    """Of 3,000 equal hashes each is a candidate with the best ones only: not 4.5 million pairs."""
    from curate.dedup import NEAREST, _candidates, _nearest

    views = np.full((3000, 3, 2), 0x1234567890ABCDEF, np.uint64)
    candidates = _nearest(_candidates(views, np.ones((3000, 3), bool), False, np.arange(3000), 12), np.arange(3000))
    assert len(candidates) < 2 * 3000 * (NEAREST + 1)
    assert set(candidates.loc[candidates["a"] == 0, "b"]) == set(range(1, 3000))


@pytest.mark.parametrize(
    ("images", "survivor", "why"),
    [
        (
            [("x", "granite", "candidate", 400), ("y", "granite", "candidate", 800)],
            "y",
            "the larger one (800x800) stays",
        ),
        (
            [("x", "granite", "accepted", 400), ("y", "granite", "candidate", 800)],
            "x",
            "the accepted one (400x400) stays",
        ),
        (
            [("x", "granite", "candidate", 400), ("y", "granite", "candidate", 400)],
            "x",
            "the earlier one (400x400) stays",
        ),
        ([("x", "granite", "rejected", 400), ("y", "granite", "candidate", 800)], "x", "that one was rejected"),
    ],
)
def test_the_best_copy_stays(images, survivor, why):
    marked = mark_duplicates(rows(*images), pairs_of(("x", "y"))).set_index("image_id")
    (other,) = {"x", "y"} - {survivor}
    assert marked.at[other, "status"] == "duplicate"
    assert marked.at[other, "duplicate_of"] == survivor
    assert marked.at[other, "reason"] == f"copy of {survivor}: 4 bits, 61 matched points; {why}"
    assert marked.at[survivor, "status"] == images["xy".index(survivor)][2]


def test_a_copy_of_a_copy_is_not_chained():
    """middle is a copy of large; small is a copy of middle only, and middle is out: small stays."""
    table = rows(("large", "a", "candidate", 900), ("middle", "a", "candidate", 500), ("small", "a", "candidate", 100))
    marked = mark_duplicates(table, pairs_of(("large", "middle"), ("middle", "small")))
    assert marked["status"].tolist() == ["candidate", "duplicate", "candidate"]


def test_copies_under_two_classes_are_a_conflict_for_a_person():
    table = rows(
        ("x", "granite", "accepted", 900), ("y", "basalt", "candidate", 500), ("z", "basalt", "candidate", 100)
    )
    marked = mark_duplicates(table, pairs_of(("x", "y")))
    assert marked["status"].tolist() == ["accepted", "candidate", "candidate"]
    assert marked["label_conflict"].fillna("").tolist() == ["y", "x", ""]
    settled = mark_duplicates(marked.assign(label="granite"), pairs_of())
    assert settled["label_conflict"].isna().all()
    assert settled["duplicate_of"].fillna("").tolist() == ["", "x", ""]


def test_marking_again_changes_nothing_and_keeps_every_row_in_order():
    table = rows(
        ("r", "a", "rejected", 900),
        ("c", "a", "candidate", 300),
        ("d", "a", "candidate", 400),
        ("e", "b", "accepted", 9),
    ).set_index(pd.Index([7, 3, 3, 1]))
    pairs = pairs_of(("r", "c"), ("c", "d"), ("d", "e"), ("d", "not in the manifest"))
    marked = mark_duplicates(table, pairs)
    assert marked["image_id"].tolist() == ["r", "c", "d", "e"]
    assert marked["status"].tolist() == ["rejected", "duplicate", "candidate", "accepted"]
    pd.testing.assert_frame_equal(mark_duplicates(marked, pairs), marked)
    pd.testing.assert_frame_equal(mark_duplicates(marked, pd.DataFrame()), marked)
    assert list(table) == ["image_id", "label", "status", "width", "height", "bytes"]


def test_when_the_one_that_stayed_is_rejected_its_copy_does_not_come_back():
    table = rows(("x", "a", "candidate", 900), ("y", "a", "candidate", 300))
    marked = mark_duplicates(table, pairs_of(("x", "y")))
    marked.loc[0, "status"] = "rejected"
    assert mark_duplicates(marked, pd.DataFrame())["status"].tolist() == ["rejected", "duplicate"]


def test_a_missing_column_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(CurateError, match=r"no column file_name.*curate scrape"):
        find_copies(pd.DataFrame({"image_id": ["x"]}), tmp_path)
    with pytest.raises(CurateError, match="no column label"):
        mark_duplicates(pd.DataFrame({"image_id": ["x"]}), pairs_of())


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
    found = find_copies(
        pd.DataFrame({"image_id": names, "file_name": [f"web/{n}" for n in names]}), REAL, max_distance=20
    )
    assert sorted(zip(found["first"], found["second"], strict=True)) == copies
    assert found["flipped"].tolist() == [False, False, True]
