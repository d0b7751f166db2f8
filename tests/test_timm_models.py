import builtins

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from classify.cam import grad_cam
from classify.data import to_input
from classify.models import Trained, build, changing, check_side, freeze_model, load_run, save_model
from classify.trunk import backbone_of, explained, last_block, spatial, split, train_mode
from curate.errors import CurateError

timm = pytest.importorskip("timm", reason="timm is not installed: pip install timm")
torch.set_num_threads(1)
RESNET, VIT, NHWC, MOBILE = "timm/test_resnet", "timm/test_vit", "timm/test_mambaout", "timm/mobilenetv3_small_050"


def images(side: int = 160, number: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (number, side, side, 3), dtype=np.uint8)


@pytest.mark.parametrize("arch", [RESNET, VIT, NHWC, MOBILE])
def test_it_says_what_timm_says(arch, tmp_path):
    """timm's own model with the same weights, and images normalised as it wants them."""
    model = build(arch, 3, weights="none", seed=1).eval()
    own = timm.create_model(arch.removeprefix("timm/"), num_classes=3).eval()
    own.load_state_dict({name.partition(".")[2]: tensor for name, tensor in model.state_dict().items()})
    pixels = images()
    mean, std = (torch.tensor(own.pretrained_cfg[key])[:, None, None] for key in ("mean", "std"))
    wanted = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.inference_mode():
        torch.testing.assert_close(model(to_input(pixels)), own(wanted), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("arch", "maps"), [(RESNET, (96, 5, 5)), (VIT, (64, 10, 10)), (NHWC, (64, 5, 5))])
def test_trunk_and_head_make_the_model_and_so_do_what_is_explained_and_what_is_before(arch, maps):
    model = build(arch, 3, weights="none").eval()
    nn.init.uniform_(model.get_parameter(f"{model.last[0]}.weight"))
    trunk, head = split(model, arch)
    body, tail = explained(model, arch)
    x = to_input(images())
    with torch.inference_mode():
        logits = model(x)
        torch.testing.assert_close(head(trunk(x)), logits)
        torch.testing.assert_close(tail(body(x)), logits)
        assert spatial(trunk(x)).shape == (2, *maps)
        activations = body(x)
    heatmaps = grad_cam(tail.requires_grad_(False), activations, [0, 2])
    assert heatmaps.shape == (2, 56, 56)
    assert heatmaps.min() == 0
    assert heatmaps.max() == 1
    pixels = images()
    torch.testing.assert_close(
        backbone_of(model, arch, 160).maps(pixels), spatial(trunk(x)).detach(), rtol=1e-3, atol=1e-4
    )


def test_the_head_takes_the_mean_over_space_first_where_timm_does():
    """Then a vector an image is kept of what is frozen, and not a map."""
    x = torch.rand(2, 96, 5, 5)
    pool, rest = split(model := build(RESNET, 3, weights="none").eval(), RESNET)[1]
    assert pool(x).shape == (2, 96, 1, 1)
    with torch.inference_mode():
        torch.testing.assert_close(rest(pool(x)), model.head.forward_head(x))


@pytest.mark.parametrize(
    ("arch", "freeze", "begins"),
    [
        (RESNET, "head", ("head.",)),
        (VIT, "head", ("head.",)),
        (VIT, "last_block", ("head.", "trunk.blocks.5.", "trunk.norm.")),
        (MOBILE, "head", ("head.",)),
        (MOBILE, "last_block", ("head.", "trunk.blocks.4.", "trunk.blocks.5.")),
        (MOBILE, "none", ("head.", "trunk.")),
    ],
)
def test_a_step_changes_what_trains(arch, freeze, begins):
    model = build(arch, 3, weights="none", freeze=freeze)
    train_mode(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    training = [p for p in model.parameters() if p.requires_grad]
    (-model(to_input(images())).sum()).backward()
    for parameter in training:
        parameter.grad.sign_()
    torch.optim.SGD(training, lr=0.1).step()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed <= set(changing(model))
    assert {n for n, p in model.named_parameters() if p.requires_grad} <= changed
    assert all(any(name.startswith(begin) for name in changed) for begin in begins)
    assert all(name.startswith(begins) for name in changed)


def test_a_model_whose_head_has_its_class_token_alone_has_no_heatmap_where_its_attention_is_not_known():
    arch = "timm/convit_tiny"
    model = build(arch, 2, weights="none").eval()
    with pytest.raises(CurateError, match=r"ConVit hands its class token alone .*has no heatmap"):
        explained(model, arch)
    assert spatial(split(model, arch)[0](torch.zeros(1, 3, 224, 224))).shape == (1, 192, 14, 14)


def test_weights_of_timms_own_file_fit_and_so_do_those_of_a_run(tmp_path):
    own = timm.create_model("test_resnet")
    safetensors.torch.save_file(own.state_dict(), tmp_path / "timm.safetensors")
    first = build(RESNET, 3, weights=str(tmp_path / "timm.safetensors"), freeze="head")
    assert torch.equal(first.state_dict()["trunk.conv1.0.weight"], own.state_dict()["conv1.0.weight"])
    assert {name for name, p in first.named_parameters() if p.requires_grad} == {"head.fc.weight", "head.fc.bias"}
    save_model(Trained(RESNET, first, ("a", "b", "c"), 160), tmp_path / "model.safetensors")
    trained = load_run(tmp_path)
    again = build(RESNET, 2, weights=str(tmp_path / "model.safetensors"))
    for model in (trained.model, again):
        assert torch.equal(model.state_dict()["trunk.conv1.0.weight"], own.state_dict()["conv1.0.weight"])
    with pytest.raises(CurateError, match=r"does not fit --arch timm/test_vit: trunk\.blocks\.0.* is missing"):
        build(VIT, 2, weights=str(tmp_path / "timm.safetensors"))


def test_images_are_normalised_as_the_weights_want_them():
    """test_vit's are made with a mean and a deviation of 0.5: black is -1 and white 1."""
    given = to_input(np.stack([np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)]))
    seen = build(VIT, 2, weights="none").input(given)
    torch.testing.assert_close(seen[0], -torch.ones(3, 4, 4))
    torch.testing.assert_close(seen[1], torch.ones(3, 4, 4))
    assert torch.equal(build(MOBILE, 2, weights="none").input(given), given)


def test_images_of_another_size_than_its_own_are_refused_where_it_takes_no_others():
    arch = "timm/vit_tiny_patch16_384"
    with pytest.raises(
        CurateError, match=r"tiny_patch16_384 does not take images of 96 pixels: .*Try --image-size 384"
    ):
        check_side(build(arch, 2, weights="none"), arch, 96)
    check_side(build(RESNET, 2, weights="none"), RESNET, 96)


def test_unknown_names_get_suggestions_and_nothing_is_looked_for_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: pytest.fail("asked for"))
    with pytest.raises(CurateError, match=r"Did you mean timm/.*timm/resnet50"):
        build("timm/resnet5O", 2)
    for name in ("hf-hub:timm/resnet50", f"local-dir:{tmp_path}", "../resnet50", "", "resnet50.nobody"):
        with pytest.raises(CurateError, match="is unknown"):
            build(f"timm/{name}", 2)


@pytest.mark.parametrize("name", ["crossvit_tiny_240", "mobilenetv5_300m_enc"])
def test_models_of_another_kind_are_refused(name):
    with pytest.raises(CurateError, match=f"timm/{name}: timm has it, but not as a classifier that ends in"):
        build(f"timm/{name}", 2, weights="none")


def test_without_a_network_the_error_names_the_file_to_get(monkeypatch):
    real = timm.create_model

    def offline(*names, pretrained=False, **options):
        if pretrained:
            raise FileNotFoundError("An error happened while trying to locate the file on the Hub\nand more")
        return real(*names, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(
        CurateError, match=r"on the Hub\)\. Get the file model\.safetensors of timm/test_resnet\."
    ) as caught:
        build(RESNET, 2)
    assert "--weights path/to/model.safetensors" in str(caught.value)


def test_where_timm_has_no_weights_the_error_says_so():
    with pytest.raises(CurateError, match=r"timm/test_mambaout: timm has no pretrained weights\. --weights none"):
        build("timm/test_mambaout", 2)


def test_downloaded_weights_are_used(monkeypatch):
    real, made = timm.create_model, []

    def downloaded(*names, pretrained=False, **options):
        made.append(real(*names, **options))
        return made[-1]

    monkeypatch.setattr(timm, "create_model", downloaded)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    model = build(RESNET, 2)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(model.state_dict()["trunk.conv1.0.weight"], made[-1].state_dict()["conv1.0.weight"])


def test_without_timm_the_error_says_how_to_install_it(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "timm":
            raise ModuleNotFoundError("No module named 'timm'", name="timm")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(CurateError, match=r"need the library timm: pip install timm"):
        build(RESNET, 2, weights="none")


def test_the_last_block_of_tokens_and_maps_is_looked_for_without_their_weights():
    """On shapes alone: weights that are not numbers do not matter."""
    model = build(VIT, 2, weights="none")
    for parameter in model.parameters():
        nn.init.constant_(parameter, float("nan"))
    assert "trunk.blocks.5.norm1.weight" in last_block(model, VIT)
    freeze_model(model, VIT, "last_block", set())
    assert not model.trunk.pos_embed.requires_grad
