import io
from collections import Counter

import imagehash
import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from curate.columns import COLUMNS
from curate.images import decode
from curate.recipe import ImageClass, Recipe
from curate.sources import Answer, FetchError
from curate.sources.demo import BACKGROUNDS, DETAILS, EDITS, Truth, mask, open_source, render, truth, truth_of
from curate.sources.demo_render import LITHOLOGIES
from curate.words import REASONS

SEED = 5
RECIPE = Recipe("demo", (ImageClass("granite", ("granite",)),), sources=("demo",), seed=SEED)
NEAR = {"jpeg": 4, "resize": 4, "brightness": 6, "border": 12, "watermark": 14}  # bits of 64


def pixels(label: str, index: int) -> np.ndarray:
    return np.asarray(decode(render(label, index, SEED)[0]))


def first(label: str, **wanted: str) -> Truth:
    """The first picture of a class whose truth has these values."""
    known = (truth(label, index, SEED) for index in range(400))
    return next(t for t in known if all(getattr(t, name) == value for name, value in wanted.items()))


def phash(label: str, index: int) -> imagehash.ImageHash:
    return imagehash.phash(Image.open(io.BytesIO(render(label, index, SEED)[0])))


def test_the_same_arguments_give_the_same_bytes_and_other_arguments_other_bytes():
    data, known = render("granite", 3, SEED)
    assert render("granite", 3, SEED) == (data, known)
    others = [render("granite", 4, SEED), render("gabbro", 3, SEED), render("granite", 3, SEED + 1)]
    assert data not in [other for other, _ in others]


def test_a_picture_is_a_jpeg_of_web_size():
    for kind in ("keeper", "artifact", "off_topic"):
        index = first("basalt", kind=kind).index
        height, width, _ = pixels("basalt", index).shape
        assert render("basalt", index, SEED)[0].startswith(b"\xff\xd8\xff")
        assert (330 <= width <= 420, 240 <= height <= 360) == (True, True)


@pytest.mark.parametrize("start", [0, 17, 133, 350])
def test_the_planted_shares_hold_in_any_fifty_indexes(start):
    for label in ("granite", "basalt", "sea glass"):
        known = [truth(label, index, SEED) for index in range(start, start + 50)]
        kinds = Counter(t.kind for t in known)
        artifacts = Counter(t.artifact for t in known if t.artifact)
        assert 28 <= kinds["keeper"] <= 34
        assert 2 <= kinds["copy"] <= 6
        assert 4 <= kinds["off_topic"] <= 8
        assert all(1 <= artifacts[kind] <= 5 for kind in ("background", "illumination", "object_count"))


def test_every_truth_uses_the_words_of_the_manifest():
    known = [truth(label, index, SEED) for label in LITHOLOGIES for index in range(400)]
    for t in known:
        assert t.object_count in ("0", *COLUMNS["object_count"].values)
        assert t.background in COLUMNS["background_kind"].values
        assert t.title == f"Rendered {t.label} hand sample {t.index}"
        assert (t.verdict == "keep") == (t.kind == "keeper")
        assert (t.reason in REASONS) == (t.kind in ("artifact", "off_topic"))
    assert {t.edit for t in known} == {*EDITS, None}
    assert {t.detail for t in known} == {*sum(DETAILS.values(), ()), None}


def test_a_copy_repeats_an_earlier_keeper_and_a_few_repeat_one_of_another_class():
    copies = [t for index in range(400) if (t := truth("granite", index, SEED)).kind == "copy"]
    for t in copies:
        assert t.copy_of < t.index
        assert truth(t.copy_of_label, t.copy_of, SEED).kind == "keeper"
    conflicts = sum(t.copy_of_label != "granite" for t in copies)
    assert 3 <= conflicts <= 8 < len(copies)


@pytest.mark.parametrize("edit", sorted(NEAR))
def test_a_copy_is_close_to_its_original_and_is_not_the_same_file(edit):
    copy = first("diorite", edit=edit)
    assert phash("diorite", copy.index) - phash(copy.copy_of_label, copy.copy_of) <= NEAR[edit]
    assert render("diorite", copy.index, SEED)[0] != render(copy.copy_of_label, copy.copy_of, SEED)[0]


def test_a_flipped_copy_is_its_original_in_the_mirror():
    copy = first("gabbro", edit="flip")
    original = pixels(copy.copy_of_label, copy.copy_of)[:, ::-1].astype(float)
    assert np.abs(pixels("gabbro", copy.index) - original).mean() < 4
    np.testing.assert_array_equal(
        mask("gabbro", copy.index, SEED), mask(copy.copy_of_label, copy.copy_of, SEED)[:, ::-1]
    )


@pytest.mark.parametrize("edit", EDITS)
def test_the_mask_follows_the_edit_of_a_copy(edit):
    copy = first("granite", edit=edit)
    covered = mask("granite", copy.index, SEED)
    assert covered.shape == pixels("granite", copy.index).shape[:2]
    original = mask(copy.copy_of_label, copy.copy_of, SEED)
    assert original.mean() - 0.03 <= covered.mean() <= original.mean() * 1.4


def test_the_mask_is_the_specimen():
    """A basalt on white: dark inside the mask, white at a distance from it."""
    known = first("basalt", kind="keeper", background="white")
    covered, lightness = mask("basalt", known.index, SEED), pixels("basalt", known.index).mean(axis=2)
    assert 0.15 < covered.mean() < 0.7
    assert (lightness[covered] < 140).mean() > 0.95
    assert (lightness[~covered] > 140).mean() > 0.95
    rim = np.concatenate([covered[0], covered[-1], covered[:, 0], covered[:, -1]])
    assert not rim.any()


def test_the_mask_is_everything_where_the_rock_fills_the_frame_and_nothing_off_topic():
    assert mask("rhyolite", first("rhyolite", kind="keeper", object_count="fill").index, SEED).all()
    assert not mask("rhyolite", first("rhyolite", detail="scenery").index, SEED).any()
    assert mask("rhyolite", first("rhyolite", detail="many").index, SEED).mean() > 0.7


def test_bad_light_is_bad_and_a_shortcut_has_the_colour_of_its_class():
    def at(label: str, detail: str) -> np.ndarray:
        return pixels(label, first(label, detail=detail).index) / 255

    assert at("granite", "dark").mean() < 0.25
    assert (at("granite", "bright") > 0.98).mean() > 0.5
    middle = at("granite", "cast").mean(axis=(0, 1))
    assert middle.max() > 1.4 * middle.min()
    corners = {label: at(label, "shortcut")[:10, :10].mean(axis=(0, 1)) for label in LITHOLOGIES}
    apart = [np.abs(corners[a] - corners[b]).max() for a in corners for b in corners if a < b]
    assert min(apart) > 0.15


def test_the_background_of_keepers_says_nothing_about_the_class():
    """Chance is 1/7 = 0.14; the surfaces that fill the frame have no background."""
    features, labels = [], []
    for label in LITHOLOGIES:
        wanted = [t for i in range(40) if (t := truth(label, i, SEED)).kind == "keeper" and t.background != "none"]
        for t in wanted[:12]:
            image = pixels(label, t.index) / 255
            border = np.concatenate([image[:6].reshape(-1, 3), image[:, :6].reshape(-1, 3)])
            features.append([*border.mean(axis=0), *border.std(axis=0)])
            labels.append(label)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    assert cross_val_score(model, np.array(features), labels, cv=4).mean() < 0.3


def test_every_class_has_the_same_mix_of_backgrounds():
    for label in LITHOLOGIES:
        kinds = Counter(t.background for i in range(400) if (t := truth(label, i, SEED)).kind == "keeper")
        for kind, share in BACKGROUNDS.items():
            assert kinds[kind] / kinds.total() == pytest.approx(share, abs=0.04)


def test_an_unknown_class_gets_a_look_of_its_own():
    def colour(label: str) -> np.ndarray:
        indexes = [t.index for i in range(30) if (t := truth(label, i, SEED)).kind == "keeper"][:6]
        return np.mean([pixels(label, i)[mask(label, i, SEED)].mean(axis=0) for i in indexes], axis=0)

    assert np.abs(colour("blue marble") - colour("sandstone")).max() > 12


@pytest.mark.parametrize(
    "address",
    [
        "demo:red granite/0017?seed=5",
        "demo:red%20granite/0017?seed=5",
        "http://127.0.0.1:8000/img/red%20granite/17.jpg",
        "https://host/a/b/red granite/0017?seed=5&w=3",
        "http://host/red%20granite/0017",
    ],
)
def test_the_truth_is_found_from_an_address(address):
    assert truth_of(address, SEED) == render("red granite", 17, SEED)[1]


def test_the_seed_of_an_address_goes_before_the_given_one():
    assert truth_of("demo:granite/0009?seed=7", SEED) == truth("granite", 9, 7)


def test_an_address_that_names_no_picture_has_no_truth():
    with pytest.raises(ValueError, match="must end in <label>/<index>"):
        truth_of("https://host/granite/about.html", SEED)


def test_the_source_offers_400_pictures_in_pages_of_35():
    source = open_source(RECIPE, None)
    cursor, sizes, urls = None, [], []
    while True:
        page = source.search("granite hand sample", "granite", cursor)
        assert page.answer is Answer.OK
        sizes.append(len(page.candidates))
        urls += [candidate.url for candidate in page.candidates]
        if (cursor := page.cursor) is None:
            break
    assert sizes == [35] * 11 + [15]
    assert (urls[0], urls[-1]) == ("demo:granite/0000?seed=5", "demo:granite/0399?seed=5")
    assert len(set(urls)) == 400
    assert source.search("granite", "granite", "400").answer is Answer.EMPTY


def test_an_offer_says_where_it_comes_from_and_fetches_as_the_picture():
    source = open_source(RECIPE, None)
    offer = source.search("granite", "granite", None).candidates[17]
    assert offer.title == "Rendered granite hand sample 17"
    assert (offer.creator, offer.license, offer.license_basis) == ("DeepRock demo renderer", "CC0-1.0", "asserted")
    assert offer.license_url.startswith("https://creativecommons.org/publicdomain/zero")
    assert source.fetch(offer.url) == render("granite", 17, SEED)[0]


def test_a_class_name_with_marks_of_an_address_comes_back_whole():
    label = "50% sand? #1"
    source = open_source(RECIPE, None)
    offer = source.search(label, label, None).candidates[2]
    assert truth_of(offer.url, 0) == truth(label, 2, SEED)
    assert source.fetch(offer.url) == render(label, 2, SEED)[0]


@pytest.mark.parametrize(
    "url", ["https://host/granite/0001?seed=5", "demo:granite/1?seed=5", "demo:granite/0001", "demo:a/b/0001?seed=5"]
)
def test_what_is_no_demo_address_is_not_fetched(url):
    with pytest.raises(FetchError, match="not a demo address"):
        open_source(RECIPE, None).fetch(url)


def test_beyond_the_last_picture_there_is_nothing():
    with pytest.raises(FetchError, match="404"):
        open_source(RECIPE, None).fetch("demo:granite/0400?seed=5")
