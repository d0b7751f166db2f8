"""What a run says of one photo, and whether it knows such pictures."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from classify import identify
from classify.explain import explain_run
from classify.identify import Identifier, Known, began_with, load_identifier
from classify.models import Trained, build, load_backbone, load_run, save_model
from classify.predict import probabilities
from classify.trunk import backbone_of
from curate.errors import CurateError
from curate.images import inspect, open_rgb, square
from curate.store import store
from tests.test_data import COLOURS, damage, textures

SHARED = Path(__file__).resolve().parents[2] / "shared"
torch.set_num_threads(1)


def make_run(folder: Path, arch: str = "small_cnn", *, seed: int = 0, config: dict | None = None) -> Path:
    """A run that was not trained."""
    folder.mkdir(parents=True)
    model = build(arch, 3, weights="none", seed=seed).eval()
    save_model(Trained(arch, model, tuple(COLOURS), 48), folder / "model.safetensors")
    if config:
        (folder / "config.json").write_text(json.dumps({"config": config}))
    return folder


def stripes(seed: int) -> Image.Image:
    """Black and white: nothing like the textures."""
    rng = np.random.default_rng(seed)
    columns = np.repeat(rng.integers(0, 2, 12), 4).astype(np.uint8) * 255
    return Image.fromarray(np.broadcast_to(columns[None, :, None], (40, 48, 3)).copy())


def reject(root: Path, manifest: pd.DataFrame, images: list[Image.Image], reason: str) -> pd.DataFrame:
    """The manifest with these images, rejected."""
    rows = []
    for n, image in enumerate(images):
        image.save(root / "rejected.png")
        data = (root / "rejected.png").read_bytes()
        picture = inspect(data)
        row = {"image_id": f"{reason}{n}", "sha256": picture.sha256, "file_name": store(root, data, picture)}
        rows.append({**row, "label": "basalt", "status": "rejected", "reason": reason})
    return pd.concat([manifest, pd.DataFrame(rows)], ignore_index=True)


@pytest.mark.parametrize("arch", ["small_cnn", "squeezenet1_1"])
def test_classes_and_heatmap_are_those_of_predict_and_explain(tmp_path, arch):
    manifest = textures(tmp_path, train=2, val=1, test=0)
    run = make_run(tmp_path / "run", arch)
    photo = open_rgb(tmp_path, manifest["file_name"].iloc[4])
    said = load_identifier(run).identify(photo)
    trained = load_run(run)
    expected = probabilities(trained, np.stack([square(photo, 48)]))[0]
    assert said.probabilities.is_monotonic_decreasing
    np.testing.assert_allclose(said.probabilities[list(COLOURS)], expected, atol=1e-5)
    table, maps = explain_run(trained, manifest.iloc[[4]], tmp_path)
    assert said.probabilities.index[0] == table["predicted"].iloc[0]
    np.testing.assert_allclose(said.heatmap, maps[0], atol=1e-3)


def test_distance_is_that_to_the_fifth_nearest():
    """Unit vectors at angles of 0, 60, 90, 120 and 180 degrees from the photo's: cosines 1, 0.5, 0, -0.5, -1."""
    angles = np.deg2rad([180, 0, 120, 60, 90])
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    known = Known(embeddings, 1.0, 1.0, 1, float("nan"), 0)
    photo = np.array([1, 0], np.float32)
    assert known.distance(photo) == pytest.approx(2)
    assert Known(np.vstack([embeddings, photo]), 1.0, 1.0, 1, 0.0, 0).distance(photo) == pytest.approx(1.5)


def test_what_is_like_the_training_images_is_told_from_what_is_not(tmp_path):
    manifest = textures(tmp_path, train=12, val=8, test=6)
    manifest = reject(tmp_path, manifest, [stripes(n) for n in range(5)], "off_topic")
    identifier = load_identifier(make_run(tmp_path / "run"))
    known = identifier.known(manifest, tmp_path)
    assert known.embeddings.shape == (36, identifier.backbone.dim)
    assert known.validated == 24
    assert known.within >= 0.9
    assert (known.caught, known.off_topic) == (1.0, 5)
    unseen = manifest.loc[manifest["split"] == "test", "file_name"]
    apart = [known.distance(identifier.identify(open_rgb(tmp_path, name)).embedding) for name in unseen]
    assert np.mean(np.array(apart) <= known.limit) >= 0.7
    assert known.distance(identifier.identify(stripes(99)).embedding) > known.limit


def test_the_limit_is_exceeded_by_no_more_validation_images_than_is_said(tmp_path):
    manifest = textures(tmp_path, train=6, val=10, test=0)
    known = load_identifier(make_run(tmp_path / "run")).known(manifest, tmp_path)
    assert known.within * known.validated >= 27  # of 30
    assert np.isnan(known.caught)
    assert known.off_topic == 0


def test_only_what_is_rejected_as_off_topic_measures_the_limit(tmp_path):
    manifest = reject(tmp_path, textures(tmp_path), [stripes(n) for n in range(3)], "low_quality")
    assert load_identifier(make_run(tmp_path / "run")).known(manifest, tmp_path).off_topic == 0


def test_a_damaged_training_image_is_left_out_and_too_few_are_refused(tmp_path):
    manifest = textures(tmp_path, train=2, val=1)
    identifier = load_identifier(make_run(tmp_path / "run"))
    damage(tmp_path, manifest, 0)
    assert len(identifier.known(manifest, tmp_path).embeddings) == 5
    with pytest.raises(CurateError, match=r"0 training and 0 validation images open.*Is --data right"):
        load_identifier(make_run(tmp_path / "other", seed=1)).known(manifest, tmp_path / "nowhere")


def test_a_manifest_of_other_classes_or_without_splits_is_refused(tmp_path):
    manifest = textures(tmp_path)
    identifier = load_identifier(make_run(tmp_path / "run"))
    with pytest.raises(CurateError, match="basalt, granite, olivine apart, but the manifest holds basalt, granite"):
        identifier.known(manifest[manifest["label"] != "olivine"], tmp_path)
    with pytest.raises(CurateError, match="no column split"):
        identifier.known(manifest.drop(columns="split"), tmp_path)


@pytest.mark.slow
def test_two_threads_get_what_one_gets(tmp_path):
    """Of a vision transformer the heatmap hooks into a layer of the model that all threads share."""
    model = build("vit_b_32", 3, weights="none").eval()
    trained = Trained("vit_b_32", model, tuple(COLOURS), 224)
    identifier = Identifier(trained, backbone_of(model, "vit_b_32", 224))
    model.requires_grad_(False)
    photos = [stripes(n) for n in range(2)] * 2
    alone = [identifier.identify(photo) for photo in photos[:2]]
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(identifier.identify, photos))
    for said, expected in zip(both, alone * 2, strict=True):
        np.testing.assert_allclose(said.heatmap, expected.heatmap, atol=1e-4)
        pd.testing.assert_series_equal(said.probabilities, expected.probabilities)


@pytest.mark.parametrize(
    ("freeze", "weights", "there", "begins"),
    [
        ("none", "w.pth", True, True),
        ("last_block", "w.pth", True, True),
        ("head", "w.pth", True, False),
        ("none", "w.pth", False, False),
        ("none", "none", False, False),
        ("none", "DEFAULT", False, False),
    ],
)
def test_the_trunk_is_the_one_that_the_run_began_with(tmp_path, freeze, weights, there, begins):
    path = tmp_path / "w.pth"
    given = str(path) if weights == "w.pth" else weights
    if there:
        torch.save(build("small_cnn", 2, weights="none", seed=11).state_dict(), path)
    run = make_run(tmp_path / "run", config={"weights": given, "freeze": freeze})
    trained = load_run(run)
    own = backbone_of(trained.model, "small_cnn", 48).key
    expected = load_backbone("small_cnn", str(path), side=48).key if begins else own
    assert began_with(run, trained).key == expected
    assert (expected != own) == begins


def test_torchvisions_weights_are_found_where_it_keeps_them_and_never_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    run = make_run(tmp_path / "run", "squeezenet1_1", config={"weights": "DEFAULT", "freeze": "none"})
    trained = load_run(run)
    own = backbone_of(trained.model, "squeezenet1_1", 48).key
    assert began_with(run, trained).key == own
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    state = build("squeezenet1_1", 1000, weights="none", seed=5).state_dict()
    torch.save(state, tmp_path / "hub/checkpoints/squeezenet1_1-b8a52dc0.pth")
    assert began_with(run, trained).key != own


def test_a_run_without_readable_settings_is_taken_by_itself(tmp_path):
    run = make_run(tmp_path / "run")
    for text in ("", "[]", '{"config": {}}'):
        (run / "config.json").write_text(text)
        trained = load_run(run)
        assert began_with(run, trained).key == backbone_of(trained.model, "small_cnn", 48).key


def test_a_folder_that_is_no_run_says_so(tmp_path):
    with pytest.raises(CurateError, match="no trained run"):
        load_identifier(tmp_path)


@pytest.mark.slow
def test_on_real_photos_off_topic_ones_lie_further_from_the_keepers(tmp_path):
    """Every fourth photo of four classes of rocks; copies would flatter it, so that of each photograph one counts."""
    rocks, weights = SHARED / "data/rocks", SHARED / "weights/mobilenet_v2_imagenet_features.pth"
    if not (rocks / "truth.csv").exists() or not weights.exists():
        pytest.skip("no real photos in ../shared")
    truth = pd.read_csv(rocks / "truth.csv", keep_default_na=False).iloc[::4]
    data = [(rocks / name).read_bytes() for name in truth["file_name"]]
    pictures = [inspect(photo) for photo in data]
    truth["file_name"] = [store(tmp_path, photo, picture) for photo, picture in zip(data, pictures, strict=True)]
    truth["sha256"], truth["phash"] = [p.sha256 for p in pictures], [p.phash for p in pictures]
    truth = truth.drop_duplicates("phash").assign(image_id=lambda table: table["sha256"].str[:16])
    keepers = truth[truth["verdict"] == "keep"].sample(frac=1, random_state=0)
    keepers["split"] = np.array(["train", "train", "val", "test"])[np.arange(len(keepers)) % 4]
    others = truth[truth["reason"] == "off_topic"].assign(status="rejected")
    model = build("mobilenet_v2", 4, weights=str(weights))
    trained = Trained("mobilenet_v2", model, tuple(sorted(set(truth["label"]))), 224)
    identifier = Identifier(trained, backbone_of(model, "mobilenet_v2", 224))
    known = identifier.known(pd.concat([keepers.assign(status="accepted"), others], ignore_index=True), tmp_path)

    def distances(rows: pd.DataFrame) -> np.ndarray:
        vectors = identify.embed(rows, tmp_path, identifier.backbone, cache=tmp_path / "cache")
        return np.array([known.distance(vector / np.linalg.norm(vector)) for vector in vectors])

    unseen, off_topic = distances(keepers[keepers["split"] == "test"]), distances(others)
    assert (off_topic > known.limit).mean() == pytest.approx(known.caught)
    assert roc_auc_score([0] * len(unseen) + [1] * len(off_topic), [*unseen, *off_topic]) > 0.85
    assert known.caught > 2 * (unseen > known.limit).mean()
