import numpy as np
import pandas as pd
import pytest

from curate import looking
from curate.artifacts import measure_image
from curate.audit import audit, cross_predict, energy_outside, peak_distance
from curate.errors import CurateError
from curate.images import inspect, open_rgb, square
from curate.ledger import Decision, Ledger
from curate.looking import Masks, measure_all
from curate.store import store
from tests.pictures import jpeg


def test_energy_is_split_by_the_mask():
    """One heatmap wholly inside, one wholly outside, one half and half, one empty."""
    mask = np.zeros((4, 2, 2), bool)
    mask[:, 0, :] = True
    maps = np.array([[[1, 1], [0, 0]], [[0, 0], [1, 1]], [[1, 0], [1, 0]], [[0, 0], [0, 0]]], float)
    assert energy_outside(maps, mask).tolist()[:3] == [0.0, 1.0, 0.5]
    assert np.isnan(energy_outside(maps, mask)[3])
    assert np.isnan(energy_outside(np.full((1, 2, 2), np.nan), mask[:1])[0])


def test_the_peaks_distance_is_0_in_the_middle_and_1_in_a_corner():
    maps = np.zeros((2, 101, 101))
    maps[0, 50, 50] = maps[1, 0, 0] = 1
    middle, corner = peak_distance(maps)
    assert middle == 0.0
    assert corner == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("kinds", [2, 4])
def test_classes_are_predicted_by_models_that_have_not_seen_the_image(kinds):
    """Separable classes are predicted; an image's own label, when it is wrong, does not help it."""
    rng = np.random.default_rng(0)
    labels = np.repeat([f"class{i}" for i in range(kinds)], 30)
    embeddings = rng.normal(0, 1, (len(labels), 16)) + 6 * np.eye(kinds, 16)[np.repeat(np.arange(kinds), 30)]
    wrong = labels.copy()
    wrong[0] = "class1"
    heads = cross_predict(embeddings, wrong, seed=0)
    assert heads is not None
    predicted = heads.classes[heads.probability.argmax(axis=1)]
    assert (predicted[1:] == labels[1:]).mean() > 0.95
    assert predicted[0] == "class0"


def test_the_heads_act_on_the_embeddings_as_they_are():
    rng = np.random.default_rng(1)
    labels = np.repeat(["a", "b", "c"], 20)
    embeddings = rng.normal(5, 3, (60, 8)) + np.repeat(np.eye(3, 8) * 9, 20, axis=0)
    heads = cross_predict(embeddings, labels, seed=0)
    assert heads is not None
    for i in (0, 25, 59):
        weight, bias = heads.weights[heads.fold[i]]
        logits = weight @ embeddings[i] + bias
        probability = np.exp(logits - logits.max())
        assert probability / probability.sum() == pytest.approx(heads.probability[i], abs=1e-3)


def test_too_small_a_class_gives_no_predictions():
    assert cross_predict(np.random.default_rng(0).normal(size=(8, 3)), np.array(["a"] * 6 + ["b"] * 2), seed=0) is None


@pytest.fixture
def stored(tmp_path) -> tuple[pd.DataFrame, object]:
    rows = []
    for i in range(24):
        data = jpeg(i, hue=i % 2)
        picture = inspect(data)
        row = {"image_id": picture.sha256[:16], "sha256": picture.sha256, "file_name": store(tmp_path, data, picture)}
        rows.append({**row, "label": ("oak", "elm")[i % 2], "status": "candidate"})
    return pd.DataFrame(rows), tmp_path


def colours(root):
    """An embedding of the right kind: mean colours."""
    from curate.images import open_rgb

    def embed(table: pd.DataFrame) -> np.ndarray:
        return np.stack([np.asarray(open_rgb(root, name)).mean(axis=(0, 1)) for name in table["file_name"]])

    return embed


class Watching:
    """A trunk that notes what it is shown; it knows the images `known`."""

    side = 24

    def __init__(self, known=()):
        self.known, self.pixels, self.flushed = set(known), {}, 0

    def unseen(self, keys):
        return np.array([key not in self.known for key in keys])

    def see(self, keys, pixels):
        self.pixels.update(zip(keys, pixels, strict=True))

    def flush(self):
        self.flushed += 1


def test_the_audit_adds_its_columns_and_keeps_every_row(stored):
    table, root = stored
    shown = []

    def explain(manifest, heads, targets):
        shown.append((heads.classes.tolist(), targets[:, 0].tolist(), heads.classes[targets[:, 1]].tolist()))
        yield np.arange(20), np.ones((20, 2, 56, 56), np.float32)

    with Ledger(root / "ledger.db") as ledger:
        ledger.decide(
            Decision(i, "reject" if label == "oak" else "accept", "overlay" if label == "oak" else None)
            for i, label in zip(table["image_id"][:16], table["label"][:16], strict=True)
        )
        earlier = table.assign(cam_background_energy=0.25)
        audited = audit(
            earlier, ledger.standing(), root=root, embed=colours(root), backbone="", explain=explain, jobs=1
        )
    assert audited["image_id"].tolist() == table["image_id"].tolist()
    assert shown == [(["elm", "oak"], [1, 0] * 12, audited["predicted"].tolist())]
    assert audited["predicted"].isin(["oak", "elm"]).all()
    background = audited["background_share"][:20]
    assert audited["cam_background_energy"][:20].tolist() == pytest.approx(background.tolist(), abs=0.05)
    assert audited["cam_predicted_background_energy"].notna().tolist() == [True] * 20 + [False] * 4
    assert (audited["cam_background_energy"][20:] == 0.25).all(), "of which none came keep their figures"
    unseen = audited.iloc[16:]
    rejected = unseen.groupby("label")["reject_probability"].mean()
    assert rejected["oak"] > 0.55 > 0.45 > rejected["elm"]
    assert (audited["suspicion"] == audited["reject_probability"]).all()


def test_an_image_deleted_since_is_named_even_when_it_was_measured_before(stored):
    table, root = stored
    measure_all(table, root, 1)
    (root / table["file_name"][5]).unlink()
    with pytest.raises(CurateError, match=f"{table['file_name'][5]}: no such image"):
        measure_all(table, root, 1)


def test_one_decode_of_each_file_serves_the_measures_and_the_trunk(stored, monkeypatch):
    """The same content twice is decoded once; what the trunk knows, and what is measured, is not decoded again."""
    table, root = stored
    table = pd.concat([table, table[:1]], ignore_index=True)
    opened = []
    real = looking.open_rgb
    monkeypatch.setattr(looking, "open_rgb", lambda root, name: opened.append(name) or real(root, name))
    trunk = Watching(known=table["sha256"][:4])
    measured, masks = measure_all(table, root, 1, trunk=trunk)
    assert sorted(opened) == sorted(table["file_name"][:24])
    assert set(trunk.pixels) == set(table["sha256"][4:24])
    assert trunk.flushed == 1
    np.testing.assert_array_equal(trunk.pixels[table["sha256"][7]], square(real(root, table["file_name"][7]), 24))
    assert measured["quality_sharpness"].notna().all()
    assert measured.iloc[0].equals(measured.iloc[24])
    opened.clear()
    again, same = measure_all(table, root, 1, trunk=Watching(known=table["sha256"][2:24]))
    assert opened == table["file_name"][:2].tolist(), "new to this trunk, though measured"
    pd.testing.assert_frame_equal(measured, again)
    np.testing.assert_array_equal(masks[np.arange(25)], same[np.arange(25)])


def test_the_measures_do_not_depend_on_who_decodes(stored):
    """What the pass keeps is what `measure_image` says of an image, whatever the number of processes."""
    table, root = stored
    measured, masks = measure_all(table, root, 2)
    for row in (0, 11):
        measures, mask = measure_image(open_rgb(root, table["file_name"][row]))
        assert measured.iloc[row].to_dict() == measures
        np.testing.assert_array_equal(masks[np.array([row])][0], mask)


def test_measures_are_made_once_and_an_image_that_does_not_open_is_a_row(stored):
    table, root = stored
    whole = (root / table["file_name"][3]).read_bytes()
    (root / table["file_name"][3]).write_bytes(b"damaged")
    asked = []
    trunk = Watching()
    measured, masks = measure_all(table, root, 1, lambda *words: asked.append(words), trunk=trunk)
    assert masks[np.arange(24)].shape == (24, 56, 56)
    assert masks[np.array([3])].all()
    assert isinstance(measured["audit_error"][3], str)
    assert measured["audit_error"].notna().sum() == 1
    assert len(trunk.pixels) == 23
    again, _ = measure_all(table, root, 1, lambda *words: asked.append(words))
    assert asked == [("pixels", 24, 24), ("pixels", 1, 1)], "only what does not open is tried again"
    pd.testing.assert_frame_equal(measured, again)
    (root / table["file_name"][3]).write_bytes(whole)
    assert measure_all(table, root, 1)[0]["background_share"].notna().all()


def test_a_killed_pass_goes_on_and_a_damaged_part_of_the_cache_is_made_again(stored, monkeypatch, caplog):
    table, root = stored
    monkeypatch.setattr(looking, "CHUNK", 8)
    done = []

    def killed(what, number, total):
        done.append(number)
        if number == 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_all(table, root, 1, killed)
    measured, _ = measure_all(table, root, 1, lambda *words: done.append(words))
    assert done == [8, 16, ("pixels", 8, 8)]
    part = sorted((root / "cache").rglob("*.npz"))[0]
    part.write_bytes(part.read_bytes()[:-40])
    again, _ = measure_all(table, root, 1, lambda *words: done.append(words))
    assert done[3:] == [("pixels", 8, 8)]
    assert "is damaged and is made again" in caplog.text
    pd.testing.assert_frame_equal(measured, again)


def test_masks_are_a_bit_a_pixel():
    rng = np.random.default_rng(0)
    full = rng.random((5, 56, 56)) < 0.5
    masks = Masks(np.packbits(full, axis=None).reshape(5, -1))
    assert len(masks) == 5
    np.testing.assert_array_equal(masks[np.array([4, 1])], full[[4, 1]])


def test_with_a_real_model_each_file_is_decoded_once_and_a_second_run_takes_everything_from_the_cache(
    stored, monkeypatch
):
    """Measures, embeddings and heatmaps of both classes from one decode; what was kept in between is gone."""
    from classify import explain, features
    from curate.wiring import Model

    table, root = stored
    told, later = [], []
    for module in (features, explain):
        real = module.decode_rows
        monkeypatch.setattr(
            module, "decode_rows", lambda m, r, rows, s, real=real: later.extend(rows) or real(m, r, rows, s)
        )

    def run():
        told.clear()
        model = Model("small_cnn", "none", None, root, lambda what, done, total: told.append((what, done, total)))
        work = {"embed": model.embed, "explain": model.explain, "trunk": model.watch(heatmaps=True)}
        work["backbone"] = model.backbone.key
        with Ledger(root / "ledger.db") as ledger:
            return audit(table, ledger.standing(), root=root, **work, jobs=1, progress=model.progress), model

    audited, model = run()
    assert told == [("pixels", 24, 24), ("heatmaps", 24, 24)]
    again, _ = run()
    assert told == [("heatmaps", 24, 24)]
    assert later == []
    pd.testing.assert_frame_equal(audited, again)
    assert audited["cam_background_energy"].notna().any()
    other = (audited["predicted"] != audited["label"]).to_numpy()
    for image_id, differs in zip(audited["image_id"], other, strict=True):
        assert (root / "cache/heatmaps" / f"{image_id}.png").is_file()
        assert (root / "cache/heatmaps" / f"{image_id}-predicted.png").is_file() == differs
    assert not list((root / "cache/maps").glob("*"))
    _, masks = measure_all(table, root, 1)
    alone = {keep: model.embed_masked(table, masks, keep) for keep in ("background", "foreground")}
    assert not np.allclose(alone["background"], alone["foreground"])


def test_a_copy_of_an_image_does_not_tell_its_class():
    """Noise: nothing is learnt of an image but from its copy, which lies in the same fold."""
    rng = np.random.default_rng(0)
    embeddings, labels = np.repeat(rng.normal(size=(100, 800)), 2, axis=0), np.repeat(rng.choice(["a", "b"], 100), 2)
    kept_together = cross_predict(embeddings, labels, seed=0, photographs=np.repeat(np.arange(100), 2))
    for heads, least, most in ((kept_together, 0.3, 0.7), (cross_predict(embeddings, labels, seed=0), 0.75, 1.0)):
        right = heads.classes[heads.probability.argmax(axis=1)] == labels
        assert least < right.mean() < most


def test_a_class_of_a_few_images_is_left_out_and_the_others_are_predicted():
    rng = np.random.default_rng(0)
    labels = np.array(["a"] * 10 + ["b"] * 10 + ["c"] * 3)
    heads = cross_predict(rng.normal(size=(23, 8)), labels, seed=0)
    assert heads.classes.tolist() == ["a", "b"]
    assert (heads.fold[20:] == -1).all()
    assert np.isnan(heads.probability[20:]).all()
    assert (heads.fold[:20] >= 0).all()


def test_an_image_that_was_repaired_is_unreadable_no_more(stored):
    table, root = stored
    whole = (root / table["file_name"][3]).read_bytes()
    (root / table["file_name"][3]).write_bytes(b"damaged")
    with Ledger(root / "ledger.db") as ledger:
        work = {"root": root, "embed": lambda t: np.full((len(t), 4), np.nan), "backbone": "", "jobs": 1}
        broken = audit(table, ledger.standing(), **work)
        (root / table["file_name"][3]).write_bytes(whole)
        mended = audit(broken.assign(reject_prior=0.9), ledger.standing(), **work)
    assert broken["flags"][3].startswith("unreadable")
    assert not mended["flags"].fillna("").str.contains("unreadable").any()
    assert "reject_prior" not in mended, "of another backbone"


def test_rows_without_a_content_hash_are_refused(stored):
    table, root = stored
    with pytest.raises(CurateError, match="2 rows have no sha256"):
        measure_all(table.assign(sha256=table["sha256"].mask(table.index < 2)), root, 1)
