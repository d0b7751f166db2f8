"""Files that other programs load: what they say, what they say of themselves, and the card beside them."""

import json
import re
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import safetensors
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file

from classify import export
from classify.config import TrainConfig
from classify.export import export_run, plain_model, plain_state
from classify.model_card import Facts, read_facts, snippets, text
from classify.models import Trained, build, load_run, save_model
from classify.predict import predict_photos, predict_rows, probabilities
from classify.train import train
from curate.errors import CurateError
from curate.manifest import read_manifest
from tests.test_data import COLOURS, damage, textures

SHARED = Path(__file__).resolve().parents[2] / "shared"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as every library has them
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Textures, and a run of one epoch on them: m.csv and runs/small."""
    folder = tmp_path_factory.mktemp("textures")
    config = TrainConfig(arch="small_cnn", weights="none", image_size=32, epochs=1, batch_size=8)
    train(textures(folder), folder, config, folder / "runs" / "small")
    return folder


def manifest_of(root: Path) -> pd.DataFrame:
    return read_manifest(root / "m.csv")


def untrained(
    root: Path, arch: str, side: int, *, weights: str = "none", crop: bool = False, gray: bool = False
) -> Path:
    """A run of another architecture: its model, and the rest as of runs/small."""
    run = root / "runs" / f"{arch.replace('/', '-')}{'-crop' if crop else ''}{'-gray' if gray else ''}"
    run.mkdir(exist_ok=True)
    model = build(arch, len(COLOURS), weights=weights, seed=3).eval()
    save_model(Trained(arch, model, tuple(COLOURS), side, crop, gray), run / "model.safetensors")
    config = json.loads((root / "runs" / "small" / "config.json").read_text())
    config["config"] |= {"arch": arch, "crop": crop}
    (run / "config.json").write_text(json.dumps(config))
    (run / "metrics.json").write_bytes((root / "runs" / "small" / "metrics.json").read_bytes())
    return run


def pictures_of(root: Path, side: int, n: int = 3) -> np.ndarray:
    paths = [root / f"{label}0.png" for label in COLOURS][:n]
    return np.stack([np.asarray(Image.open(path).resize((side, side))) for path in paths])


def said_by_pytorch(run: Path, pictures: np.ndarray) -> np.ndarray:
    x = (pictures.transpose(0, 3, 1, 2) / 255 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
    with torch.inference_mode():
        return load_run(run).model(torch.tensor(x, dtype=torch.float32)).softmax(1).numpy()


def load_torchscript(path: Path, files: dict[str, str]) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)
        return torch.jit.load(str(path), _extra_files=files)


def test_onnx_takes_pictures_and_gives_probabilities(root, tmp_path):
    run = root / "runs" / "small"
    done = export_run(run, "onnx", tmp_path / "rocks.onnx", manifest=manifest_of(root), root=root)
    assert (done.images, done.are_photos, done.crop) == (9, True, False)
    assert done.difference <= 1e-4
    session = onnxruntime.InferenceSession(tmp_path / "rocks.onnx", providers=["CPUExecutionProvider"])
    (given,), (answer,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape) == ("images", "tensor(uint8)", ["n", 32, 32, 3])
    assert (answer.name, answer.shape) == ("probabilities", ["n", 3])
    for n in (1, 3):
        pictures = pictures_of(root, 32, n)
        found = session.run(None, {"images": pictures})[0]
        np.testing.assert_allclose(found, said_by_pytorch(run, pictures), atol=1e-4)
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["classes"]) == ["basalt", "granite", "olivine"]
    preprocessing = json.loads(told["preprocessing"])
    assert (tuple(preprocessing["mean"]), tuple(preprocessing["std"])) == (MEAN, STD)
    assert preprocessing["crop_to_specimen"] is False


def test_onnx_says_nothing_of_the_machine(root, tmp_path):
    export_run(root / "runs" / "small", "onnx", tmp_path / "rocks.onnx")
    proto = onnx.load(tmp_path / "rocks.onnx").SerializeToString()
    assert str(Path(export.__file__).parent).encode() not in proto
    assert b"site-packages" not in proto


def test_torchscript_takes_bytes_and_floats(root, tmp_path):
    run = root / "runs" / "small"
    export_run(run, "torchscript", tmp_path / "rocks.pt")
    files = {"classes": "", "preprocessing": ""}
    model = load_torchscript(tmp_path / "rocks.pt", files)
    assert json.loads(files["classes"]) == ["basalt", "granite", "olivine"]
    assert json.loads(files["preprocessing"])["side"] == 32
    pictures = torch.from_numpy(pictures_of(root, 32))
    for given in (pictures, pictures.float(), pictures[:1]):
        expected = said_by_pytorch(run, given.numpy().astype(np.uint8))
        np.testing.assert_allclose(model(given).numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("arch", ["resnet18", "squeezenet1_1"])
def test_safetensors_hold_what_torchvision_loads(root, tmp_path, arch):
    """A ResNet has no dropout of its own: ours stands before its last layer, whose weights keep torchvision's name."""
    run = untrained(root, arch, 48)
    export_run(run, "safetensors", tmp_path / "rocks.safetensors")
    model = torchvision.models.get_model(arch, num_classes=3).eval()
    model.load_state_dict(load_file(tmp_path / "rocks.safetensors"))
    pictures = pictures_of(root, 48)
    with safetensors.safe_open(tmp_path / "rocks.safetensors", "pt") as file:
        told = json.loads(file.metadata()["preprocessing"])
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2) / told["scale"]
    x = (x - torch.tensor(told["mean"])[:, None, None]) / torch.tensor(told["std"])[:, None, None]
    found = model(x).softmax(1).detach().numpy()
    np.testing.assert_allclose(found, said_by_pytorch(run, pictures), atol=1e-4)
    assert oct((tmp_path / "rocks.safetensors").stat().st_mode)[-3:] == oct((run / "metrics.json").stat().st_mode)[-3:]


@pytest.mark.parametrize("gray", [False, True])
def test_the_programs_of_the_card_run_without_ours(root, tmp_path, monkeypatch, capsys, gray):
    """A run that was trained on grey images takes the colours off, wherever it goes."""
    run = untrained(root, "squeezenet1_1", 48, gray=gray)
    for form, suffix in export.SUFFIXES.items():
        export_run(run, form, tmp_path / f"it's{suffix}")
    Image.open(root / "granite1.png").save(tmp_path / "photo.jpg", quality=95)
    expected = predict_photos(load_run(run), [tmp_path / "photo.jpg"], root).iloc[0]
    programs = re.findall(r"```python\n(.*?)```", (tmp_path / "MODEL_CARD.md").read_text(), re.DOTALL)
    assert len(programs) == 3
    monkeypatch.chdir(tmp_path)
    for program in programs:
        assert not re.search(r"\b(classify|curate)\b", program)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)
            exec(program, {})
        label, probability = capsys.readouterr().out.split()
        assert label == expected["predicted"]
        assert float(probability) == pytest.approx(expected["probability"], abs=1e-4)
    assert ("sees no colour" in (tmp_path / "MODEL_CARD.md").read_text()) == gray


def test_a_model_that_says_something_else_is_not_left_behind(root, tmp_path, monkeypatch):
    (tmp_path / "rocks.onnx").write_bytes(b"of yesterday")
    monkeypatch.setattr(export, "MEAN", (0.5, 0.5, 0.9))
    with pytest.raises(CurateError, match="differs from PyTorch's by"):
        export_run(root / "runs" / "small", "torchscript", tmp_path / "rocks.onnx")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("rocks.onnx", b"of yesterday")]


def test_the_card_says_what_the_run_is(root, tmp_path):
    run = root / "runs" / "small"
    facts = read_facts(run)
    manifest = manifest_of(root)
    origins = manifest.assign(source=["bing"] * 11 + ["<img src=x>|"] * 22, license=[None] + ["CC0-1.0"] * 32)
    card = export_run(run, "safetensors", tmp_path / "rocks.safetensors", manifest=origins, root=root).card.read_text()
    assert card.startswith("# Model card: small\n")
    assert "small\\_cnn, begun with random weights; all its weights were trained" in card
    assert "| basalt | 6 | 3 |" in card
    assert "| all | 18 | 9 |" in card
    assert "| bing | 9 | 0 | 0 | 9 |" in card, "of the eleven two are of split test"
    assert "\\<img src=x\\>\\|" in card
    assert not re.search(r"(?<!\\)<", card), "no HTML"
    low, high = (f"{100 * end:.1f} %" for end in facts.metrics["val"]["interval_95"]["accuracy"])
    assert f"Split val, 9 images: accuracy {100 * facts.metrics['val']['accuracy']:.1f} % (95 % interval {low}" in card
    assert f"to {high}" in card
    assert "It was not evaluated on a test set." in card
    assert "fewer than 30 images: basalt (6), granite (6), olivine (6)" in card
    assert "the licence is not known" in card
    known = origins.assign(license="CC0-1.0")
    card = export_run(run, "safetensors", tmp_path / "rocks.safetensors", manifest=known, root=root).card.read_text()
    assert "| CC0-1.0 | 9 | 9 | 9 | 27 |" in card
    assert "the licence is not known" not in card
    assert "the weights that it was begun with" not in card, "they were random"
    assert facts.digest in card
    assert f"torch {torch.__version__.split('+')[0]}" in card


def test_the_card_of_a_trial_says_that_it_may_be_the_luckiest(root, tmp_path):
    run = untrained(root, "small_cnn", 32)
    (tmp_path / "sweep").mkdir()
    run = run.rename(tmp_path / "sweep" / "trial")
    assert "a trial of a sweep" not in export_run(run, "torchscript").card.read_text()
    (run.parent / "sweep.json").write_text("{}")
    assert "It is a trial of a sweep" in export_run(run, "torchscript").card.read_text()


def test_the_card_tells_a_test_set_and_how_often_it_was_looked_at(root, tmp_path):
    run = untrained(root, "squeezenet1_0", 48)
    found = {**read_facts(run).metrics["val"], "images": 6, "macro_f1": 0.4321}
    found["calibration"] = {"error": 0.123, "temperature": 2.5, "fitted_on": "val", "error_scaled": 0.02}
    (run / "evaluation-test.json").write_text(json.dumps(found))
    looks = [{"split": "test"}, {"split": "val", "manifest": "other"}, {"split": "test"}]
    (run / "test-log.jsonl").write_text("".join(json.dumps(look) + "\n" for look in looks))
    card = export_run(run, "safetensors", tmp_path / "rocks.safetensors").card.read_text()
    assert "Split test, 6 images: " in card
    assert "macro-F1 43.2 %" in card
    assert "calibration error 0.123 in 15 bins; with the logits divided by 2.500" in card
    assert "The test set was looked at 2 times" in card
    assert "calibrated was not measured" not in card


def test_a_run_that_looks_at_specimens_says_so(root, tmp_path):
    run = untrained(root, "small_cnn", 32, crop=True)
    done = export_run(run, "torchscript", tmp_path / "rocks.pt", manifest=manifest_of(root), root=root)
    assert done.crop
    files = {"preprocessing": ""}
    load_torchscript(done.path, files)
    assert json.loads(files["preprocessing"])["crop_to_specimen"] is True
    assert "**photo.jpg must be cropped to the specimen already.**" in done.card.read_text()
    assert "On whole photos its figures do not hold." in done.card.read_text()


def test_without_photos_random_pixels_are_compared_and_the_card_says_so(root, tmp_path):
    done = export_run(root / "runs" / "small", "torchscript", tmp_path / "rocks.pt")
    assert (done.images, done.are_photos) == (16, False)
    assert "16 pictures of random pixels" in done.card.read_text()
    assert "which this card was written without" in done.card.read_text()


def test_photos_of_another_manifest_are_compared_but_tell_no_origin(root, tmp_path):
    other = textures(tmp_path / "other", train=2, val=1, test=0).assign(source="elsewhere")
    damage(tmp_path / "other", other, 2)
    done = export_run(
        root / "runs" / "small", "torchscript", tmp_path / "rocks.pt", manifest=other, root=tmp_path / "other"
    )
    assert (done.images, done.are_photos) == (2, True), "one of the three does not open"
    assert "elsewhere" not in done.card.read_text()
    with pytest.raises(CurateError, match=r"none of 3 images of split val opens .* Is --data right"):
        export_run(root / "runs" / "small", "torchscript", tmp_path / "rocks.pt", manifest=other, root=tmp_path)


def test_nothing_of_others_is_overwritten(root, tmp_path):
    run = root / "runs" / "small"
    with pytest.raises(CurateError, match="is the run's own model"):
        export_run(run, "safetensors", run / "model.safetensors")
    (tmp_path / "MODEL_CARD.md").write_text("# Model card: other\n\nText")
    with pytest.raises(CurateError, match=r"MODEL_CARD.md is there already and is not the card of"):
        export_run(run, "safetensors", tmp_path / "rocks.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["MODEL_CARD.md"]


def test_an_unfinished_and_a_damaged_run_are_refused(root, tmp_path):
    run = untrained(root, "squeezenet1_1", 48)
    (run / "config.json").write_text('{"config": {}}')
    with pytest.raises(CurateError, match="is damaged"):
        export_run(run, "onnx", tmp_path / "rocks.onnx")
    (run / "metrics.json").unlink()
    with pytest.raises(CurateError, match=r"is not finished: metrics\.json is missing"):
        export_run(run, "onnx", tmp_path / "rocks.onnx")


def test_what_onnx_cannot_hold_is_refused(root, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "MOST_ONNX", 1000)
    with pytest.raises(CurateError, match="Take --format safetensors"):
        export_run(root / "runs" / "small", "onnx", tmp_path / "rocks.onnx")


def test_text_is_no_markup():
    assert (
        text("a|b\n# <script> *x* [y](z) `c` \x1b[1m") == "a\\|b \\# \\<script\\> \\*x\\* \\[y\\]\\(z\\) \\`c\\` \\[1m"
    )


@pytest.mark.parametrize("arch", ["timm/vit_tiny_patch16_224", "timm/mobilenetv3_small_050"])
def test_safetensors_hold_what_timm_loads(root, tmp_path, arch, monkeypatch, capsys):
    """The first normalises otherwise than ImageNet's mean and deviation, and the file says so."""
    pytest.importorskip("timm")
    run = untrained(root, arch, 224)
    export_run(run, "safetensors", tmp_path / "rocks.safetensors", manifest=manifest_of(root), root=root)
    Image.open(root / "granite1.png").save(tmp_path / "photo.jpg", quality=95)
    expected = predict_photos(load_run(run), [tmp_path / "photo.jpg"], root).iloc[0]
    program = re.findall(r"```python\n(.*?)```", (tmp_path / "MODEL_CARD.md").read_text(), re.DOTALL)[2]
    monkeypatch.chdir(tmp_path)
    exec(program, {})
    assert float(capsys.readouterr().out.split()[1]) == pytest.approx(expected["probability"], abs=1e-4)


def test_weights_of_a_network_that_asks_for_its_version_are_loaded(tmp_path, monkeypatch):
    model = build("mnasnet0_5", 3, weights="none", seed=3).eval()
    trained = Trained("mnasnet0_5", model, tuple(COLOURS), 48)
    facts = Facts({}, {}, "", "", {}, {}, 0)
    export._write_safetensors(model, trained, export.about(trained, facts), tmp_path / "rocks.safetensors")
    pictures = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), np.uint8)
    with torch.inference_mode():
        expected = probabilities(trained, pictures)
        found = export._read_safetensors(tmp_path / "rocks.safetensors")(pictures)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    Image.fromarray(pictures[0]).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    exec(snippets(trained, tmp_path / "rocks.onnx")["safetensors"], {})


@pytest.mark.parametrize("arch", ["googlenet", "vit_b_16"])
def test_weights_have_the_names_of_their_library(arch):
    with torch.device("meta"):  # names and shapes only
        plain = plain_model(arch, 3)
    ours = build(arch, 3, weights="none")
    shapes = {name: tensor.shape for name, tensor in plain_state(ours, plain).items()}
    assert shapes == {name: tensor.shape for name, tensor in plain.state_dict().items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "arch",
    [
        *("resnet18", "densenet121", "squeezenet1_1", "efficientnet_b0", "convnext_tiny", "vit_b_16"),
        "timm/mobilenetv3_small_050",
    ],
)
def test_architectures_become_onnx(root, tmp_path, arch):
    """MobileNetV2 does so below, on real photos."""
    if arch.startswith("timm/"):
        pytest.importorskip("timm")
    run = untrained(root, arch, 224 if arch.startswith("vit") else 64)
    assert export_run(run, "onnx", tmp_path / "rocks", manifest=manifest_of(root), root=root).difference <= 1e-4


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="no real photos here: ../shared is absent")
def test_real_photos_agree(root, tmp_path):
    photos = sorted((SHARED / "data" / "rocks" / "web2" / "basalt").iterdir())[:8]
    manifest = pd.DataFrame({"image_id": [f"p{n}" for n in range(8)], "label": "basalt", "split": "val"})
    manifest["file_name"] = [str(path.relative_to(SHARED / "data")) for path in photos]
    weights = SHARED / "weights" / "mobilenet_v2_imagenet_features.pth"
    run = untrained(root, "mobilenet_v2", 224, weights=str(weights))
    expected = predict_rows(load_run(run), manifest, SHARED / "data")
    for form in export.SUFFIXES:
        done = export_run(run, form, tmp_path / form, manifest=manifest, root=SHARED / "data")
        assert done.are_photos
        assert done.difference <= 1e-4
    model = load_torchscript(tmp_path / "torchscript", {})
    photo = Image.open(photos[0]).convert("RGB").resize((224, 224), Image.Resampling.BILINEAR, reducing_gap=2.0)
    np.testing.assert_allclose(model(torch.from_numpy(np.array(photo)[None])).numpy(), expected[:1], atol=1e-4)
