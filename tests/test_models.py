import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from torch import nn

from classify.augment import to_gray
from classify.figures import thumbnails
from classify.layers import Dropout
from classify.models import Trained, build, changing, check_side, load_backbone, load_run, save_model
from classify.trunk import train_mode
from curate.errors import CurateError

torch.set_num_threads(1)  # several threads on a busy machine take far longer
SMALL = ["small_cnn", "resnet18", "mobilenet_v2", "squeezenet1_1", "densenet121", "efficientnet_b0", "googlenet"]


def trainable(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("arch", SMALL)
def test_freezing_the_trunk_leaves_the_last_layer(arch, tmp_path):
    torch.save(build(arch, 2, weights="none").state_dict(), tmp_path / "w.pth")
    names = trainable(build(arch, 3, weights=str(tmp_path / "w.pth"), freeze="head"))
    assert names
    assert all(name.startswith(("fc.", "classifier.")) for name in names)


def test_the_last_layer_is_new_even_where_the_file_has_one_of_its_shape(tmp_path):
    given = build("small_cnn", 3, weights="none", seed=1)
    torch.save(given.state_dict(), tmp_path / "w.pth")
    model = build("small_cnn", 3, weights=str(tmp_path / "w.pth"), seed=2)
    assert torch.equal(model.features[0][0].weight, given.features[0][0].weight)
    assert not torch.equal(model.classifier[1].weight, given.classifier[1].weight)


def test_the_last_block_is_the_deepest_convolutions_with_their_norms_and_the_head():
    names = trainable(build("resnet18", 3, weights="none", freeze="last_block"))
    assert {"layer4.0.conv1.weight", "layer4.1.bn2.bias", "layer4.0.downsample.1.weight", "fc.1.weight"} <= names
    assert {name.split(".")[0] for name in names} == {"layer4", "fc"}


def test_what_is_frozen_keeps_its_statistics_and_drops_nothing():
    model = build("efficientnet_b0", 2, weights="none", freeze="last_block")
    train_mode(model)
    parts = list(model.features)
    assert not any(m.training for part in parts[:6] for m in part.modules()), "stochastic depth among them"
    assert all(m.training for part in parts[6:] for m in part.modules())
    assert model.classifier[0].training
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model(torch.randn(4, 3, 32, 32) + 5)
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {name.split(".")[1] for name in moved} == {"6", "7", "8"}
    assert moved <= set(changing(model))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_dropout_drops_its_share_and_keeps_the_mean(share):
    layer, x = Dropout(share), torch.full((100, 1000), 2.0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = layer(x)
    assert float((found == 0).float().mean()) == pytest.approx(share, abs=0.01)
    assert float(found.max()) == pytest.approx(0 if share == 1 else 2 / (1 - share))
    assert torch.equal(layer.eval()(x), x)


def test_what_changes_is_what_trains_and_the_buffers_beside_it():
    model = build("small_cnn", 2, weights="none", freeze="last_block")
    train_mode(model)
    weights = {"features.3.0.weight", "features.3.1.weight", "features.3.1.bias"}
    statistics = {f"features.3.1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    assert set(changing(model)) == weights | statistics | {"classifier.1.weight", "classifier.1.bias"}


def test_the_seed_makes_the_new_layers_and_leaves_the_callers_alone():
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    first, again, other = (build("small_cnn", 3, weights="none", seed=s).classifier[1].weight for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.rand(3), expected)


def test_dropout_stands_before_the_last_layer():
    assert build("resnet18", 3, weights="none", dropout=0.2).fc[0].p == 0.2
    assert [
        m.p for m in build("mobilenet_v2", 3, weights="none", dropout=0.8).classifier if isinstance(m, nn.Dropout)
    ] == [0.8]


def test_an_unknown_architecture_gets_a_suggestion():
    with pytest.raises(CurateError, match=r"Did you mean .*densenet121"):
        build("densnet121", 2)


def test_images_of_a_size_that_a_model_does_not_take_are_refused():
    model = build("alexnet", 2, weights="none")
    check_side(model, "alexnet", 63)
    with pytest.raises(CurateError, match=r"alexnet does not take images of 30 pixels: .*Try --image-size 224"):
        check_side(model, "alexnet", 30)


def a_run(folder: Path, arch: str = "small_cnn") -> Trained:
    """What `load_run` finds there: a model of two classes."""
    model = build(arch, 2, weights="none", seed=3).eval()
    trained = Trained(arch, model, ("basalt", "gräu $x$"), 48, crop=True, gray=True)
    folder.mkdir(exist_ok=True)
    save_model(trained, folder / "model.safetensors")
    return trained


def rewrite(folder: Path, **changes: object) -> None:
    """Change what the model file in a folder says of itself; None takes it away."""
    path = folder / "model.safetensors"
    with safetensors.safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["deeprock"]) | changes
    about = {name: value for name, value in about.items() if value is not None}
    safetensors.torch.save_file(safetensors.torch.load_file(path), path, {"deeprock": json.dumps(about)})


def test_a_saved_model_comes_back_with_its_classes(tmp_path):
    saved = a_run(tmp_path)
    trained = load_run(tmp_path)
    assert dataclasses.replace(trained, model=saved.model) == saved
    x = torch.randn(2, 3, 48, 48)
    with torch.inference_mode():
        assert torch.equal(trained.model(x), saved.model(x))
    backbone = load_backbone("", run=tmp_path)
    assert (backbone.dim, backbone.side) == (128, 48)


def test_a_run_without_colours_sees_none(tmp_path):
    trained = a_run(tmp_path)
    gone = pd.DataFrame({"image_id": ["a"], "file_name": ["gone.png"]})
    assert thumbnails(trained, gone, tmp_path, ["a"], None) == {}
    colour = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), np.uint8)
    backbone = load_backbone("", run=tmp_path)
    assert torch.equal(backbone.maps(colour), backbone.maps(to_gray(colour)))
    rewrite(tmp_path, gray=None, crop=None)  # as before they were written
    assert (load_run(tmp_path).gray, load_run(tmp_path).crop) == (False, False)
    in_colour = load_backbone("", run=tmp_path)
    assert in_colour.key != backbone.key
    assert not torch.equal(in_colour.maps(colour), backbone.maps(colour))


def test_a_run_of_an_earlier_version_is_read(tmp_path):
    """The first model files said neither their version nor whether images are cropped."""
    saved = a_run(tmp_path)
    rewrite(tmp_path, version=None, crop=None)
    assert load_run(tmp_path).classes == saved.classes
    assert not load_run(tmp_path).crop


def test_a_run_of_an_earlier_version_whose_images_were_normalised_otherwise_is_refused(tmp_path):
    a_run(tmp_path)
    rewrite(tmp_path, version=None, arch="efficientnet_v2_l")
    with pytest.raises(CurateError, match=r"images normalised otherwise\. Train it again"):
        load_run(tmp_path)


def test_a_run_of_a_later_version_says_so(tmp_path):
    a_run(tmp_path)
    rewrite(tmp_path, version=3, classes={"of": "another", "form": 1})
    with pytest.raises(
        CurateError, match=r"later version of DeepRock wrote it \(layout 3; .*up to 2\)\. Update DeepRock"
    ):
        load_run(tmp_path)


def test_a_damaged_run_says_so(tmp_path):
    with pytest.raises(CurateError, match="no trained run"):
        load_run(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"12345678")
    with pytest.raises(CurateError, match="damaged"):
        load_run(tmp_path)


class Hostile:
    def __reduce__(self):
        return (Path.touch, (Path("owned"),))


def test_a_hostile_model_file_in_a_run_is_refused_unrun(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.safetensors"
    torch.save({"features.0.0.weight": Hostile()}, path)
    with pytest.raises(CurateError, match="damaged"):
        load_run(tmp_path)
    path.write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(CurateError, match="damaged"):
        load_run(tmp_path)
    assert not Path("owned").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"arch": None},
        {"arch": ["small_cnn"]},
        {"arch": "hf-hub:somebody/something"},
        {"arch": "timm/hf-hub:somebody/something"},
        {"arch": "timm/local-dir:."},
        {"arch": "../small_cnn"},
        {"arch": "resnet18"},
        {"classes": "ab"},
        {"classes": []},
        {"classes": ["a"] * 3},
        {"classes": ["a"] * 20_000},
        {"side": "wide"},
        {"side": 10**9},
        {"side": float("inf")},
        {"side": [48]},
        {"version": "one"},
        {"version": None, "side": -1},
    ],
    ids=str,
)
def test_a_model_file_that_says_what_cannot_be_is_refused(tmp_path, changes):
    a_run(tmp_path)
    rewrite(tmp_path, **changes)
    with pytest.raises(CurateError, match=r"damaged|is unknown"):
        load_run(tmp_path)


def test_a_model_file_whose_text_is_no_table_is_refused(tmp_path):
    for text in ("[1, 2]", "7", "null", "{", "[" * 5000):
        safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors", {"deeprock": text})
        with pytest.raises(CurateError, match="damaged"):
            load_run(tmp_path)
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CurateError, match="damaged"):
        load_run(tmp_path)


def test_an_architecture_whose_state_has_a_version_is_loaded_too(tmp_path):
    model = build("mnasnet0_5", 2, weights="none", seed=3).eval()
    save_model(Trained("mnasnet0_5", model, ("basalt", "granite"), 64), tmp_path / "model.safetensors")
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(load_run(tmp_path).model(x), model(x))
