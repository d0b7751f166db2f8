import hashlib
import io
import pickle
import threading
import urllib.error
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn

from classify import weights
from classify.models import build
from classify.weights import at_hand, fetch, load_weights, read_state
from curate.errors import CurateError

torch.set_num_threads(1)
WEIGHTS = Path(__file__).parents[2] / "shared" / "weights"


def small_state(seed: int = 7) -> dict[str, torch.Tensor]:
    return {name: t.contiguous() for name, t in build("small_cnn", 2, weights="none", seed=seed).state_dict().items()}


def saved(state: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


class Hostile:
    def __reduce__(self):
        return (Path.touch, (Path("owned"),))


class Host:
    """A web server on this machine.

    Attributes:
        files: path -> body, or (status, headers, body).
        asked: the paths, in order.
    """

    def __init__(self) -> None:
        self.files: dict[str, object] = {}
        self.asked: list[str] = []
        host = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host.asked.append(self.path)
                found = host.files.get(self.path, (404, {}, b"no such file"))
                status, headers, body = found if isinstance(found, tuple) else (200, {}, found)
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    if value is not None:
                        self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def url(self, path: str, content: bytes = b"") -> str:
        """The address, with the checksum of the content."""
        checksum = hashlib.sha256(content).hexdigest()
        return f"http://127.0.0.1:{self.server.server_port}{path}#sha256={checksum}"


@pytest.fixture
def host(monkeypatch, tmp_path):
    """And a folder of its own for what is downloaded."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    host = Host()
    yield host
    host.server.shutdown()
    host.server.server_close()


def kept(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "torch").rglob("*") if path.is_file()]


def test_weights_by_url_are_downloaded_once(host, tmp_path):
    state, other = small_state(7), small_state(8)
    contents = {"/a/w.pth": saved(state), "/b/w.pth": saved(other), "/w.safetensors": safetensors.torch.save(state)}
    host.files.update(contents)
    for path, expected in (("/a/w.pth", state), ("/b/w.pth", other), ("/w.safetensors", state), ("/a/w.pth", state)):
        model = build("small_cnn", 5, weights=host.url(path, contents[path]))
        assert torch.equal(model.state_dict()["features.2.0.weight"], expected["features.2.0.weight"])
    assert host.asked == ["/a/w.pth", "/b/w.pth", "/w.safetensors"]
    assert sorted(path.read_bytes() for path in kept(tmp_path)) == sorted(contents.values())
    assert {path.parent for path in kept(tmp_path)} == {Path(torch.hub.get_dir()) / "checkpoints"}


def test_a_kept_file_that_was_damaged_since_is_downloaded_again(host):
    host.files["/w.pth"] = b"weights"
    path = fetch(host.url("/w.pth", b"weights"))
    path.write_bytes(b"weights of another kind")
    assert fetch(host.url("/w.pth", b"weights")) == path
    assert path.read_bytes() == b"weights"
    assert len(host.asked) == 2


def test_another_file_than_the_checksum_says_is_refused_and_its_checksum_named(host, tmp_path):
    host.files["/w.pth"] = b"something else"
    with pytest.raises(CurateError, match="its sha256 is " + hashlib.sha256(b"something else").hexdigest()):
        fetch(host.url("/w.pth", b"weights"))
    assert not kept(tmp_path)


@pytest.mark.parametrize("fragment", ["", "#sha256=", "#sha256=abc", "#md5=" + "0" * 64, "#sha256=" + "0" * 63 + "g"])
def test_without_a_checksum_nothing_is_asked_for(host, fragment):
    with pytest.raises(CurateError, match=r"needs the checksum of the file.*#sha256=<64 hex digits>"):
        fetch(host.url("/w.pth").partition("#")[0] + fragment)
    assert not host.asked


@pytest.mark.parametrize(
    "address",
    [
        "file:///etc/passwd",
        "http://example.org/w.pth",
        "http://127.0.0.1.example.org/w.pth",
        "http://192.168.0.1/w.pth",
        "ftp://127.0.0.1/w.pth",
        "https:///w.pth",
        "hf://timm/resnet50",
    ],
)
def test_addresses_without_encryption_or_of_files_are_refused(address, monkeypatch):
    monkeypatch.setattr(weights.requests, "get", lambda *_, **__: pytest.fail("asked for"))
    with pytest.raises(CurateError, match="refused: only https:// is taken"):
        build("small_cnn", 2, weights=f"{address}#sha256={'0' * 64}")


def test_a_redirect_is_followed_but_not_to_where_we_would_not_begin(host):
    host.files["/w.pth"] = b"weights"
    host.files["/latest"] = (302, {"Location": "/w.pth"}, b"")
    assert fetch(host.url("/latest", b"weights")).read_bytes() == b"weights"
    host.files["/away"] = (302, {"Location": "http://example.org/w.pth"}, b"")
    host.files["/file"] = (302, {"Location": "file:///etc/passwd"}, b"")
    for path in ("/away", "/file"):
        with pytest.raises(CurateError, match=r"leads to (http://example\.org|file:///etc).* refused: only https://"):
            fetch(host.url(path, b"other weights"))
    host.files["/round"] = (302, {"Location": "/round"}, b"")
    with pytest.raises(CurateError, match="leads on and on"):
        fetch(host.url("/round", b"other weights"))


@pytest.mark.parametrize("length", ["11", None])
def test_a_file_that_is_too_large_is_refused_before_it_is_all_there(host, tmp_path, monkeypatch, length):
    monkeypatch.setattr(weights, "MOST_BYTES", 10)
    host.files["/w.pth"] = (200, {"Content-Length": length}, b"x" * 11)
    with pytest.raises(CurateError, match="is larger than 1e-08 GB"):
        fetch(host.url("/w.pth", b"x" * 11))
    assert not kept(tmp_path)
    host.files["/w.pth"] = b"x" * 10
    fetch(host.url("/w.pth", b"x" * 10))


def test_an_answer_that_breaks_off_or_none_says_what_to_do(host, tmp_path):
    host.files["/w.pth"] = (200, {"Content-Length": "100"}, b"weights")
    for path, cause in (("/w.pth", "IncompleteRead"), ("/missing.pth", "404")):
        with pytest.raises(CurateError, match=rf"could not be downloaded \(.*{cause}.*Get the file where there is"):
            fetch(host.url(path, b"weights"))
    url = host.url("/w.pth", b"weights")
    host.server.server_close()
    with pytest.raises(CurateError, match="could not be downloaded"):
        fetch(url.replace(str(host.server.server_port), "1"))
    assert not kept(tmp_path)


def test_a_name_in_an_address_cannot_leave_the_folder(host):
    host.files["/..%2F..%2Fetc%2Fpass%20wd"] = b"weights"
    path = fetch(host.url("/..%2F..%2Fetc%2Fpass%20wd", b"weights"))
    assert path.parent == Path(torch.hub.get_dir()) / "checkpoints"
    assert path.name.endswith("-pass_wd")


def test_weights_are_at_hand_where_they_were_downloaded_and_nothing_is_asked_for(host, tmp_path):
    assert at_hand("resnet18", host.url("/w.pth", b"weights")) is None
    assert at_hand("resnet18", "DEFAULT") is None
    host.files["/w.pth"] = b"weights"
    path = fetch(host.url("/w.pth", b"weights"))
    host.asked.clear()
    assert at_hand("resnet18", host.url("/w.pth", b"weights")) == path
    assert at_hand("resnet18", str(path)) == path
    default = path.parent / "resnet18-f37072fd.pth"
    default.write_bytes(b"weights")
    assert at_hand("resnet18", "DEFAULT") == default
    for arch, given in (("small_cnn", "DEFAULT"), ("timm/resnet18", "DEFAULT"), ("resnet18", "none")):
        assert at_hand(arch, given) is None
    assert at_hand("resnet18", "https://example.org/w.pth") is None
    assert not host.asked


def test_safetensors_and_state_dict_load_alike(tmp_path):
    state = small_state()
    torch.save(state, tmp_path / "w.pth")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "checkpoint.pth")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    for file in ("w.pth", "checkpoint.pth", "old.pth", "w.safetensors"):
        loaded = build("small_cnn", 5, weights=str(tmp_path / file)).state_dict()
        assert torch.equal(loaded["features.2.0.weight"], state["features.2.0.weight"])


def test_a_hostile_pickle_is_refused_unrun(host, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"features.0.0.weight": Hostile()}, "w.pth")
    torch.save({"features.0.0.weight": Hostile()}, "old.pth", _use_new_zipfile_serialization=False)
    torch.save(small_state() | {"more": Hostile()}, "w.safetensors")
    Path("raw.pth").write_bytes(pickle.dumps(Hostile()))
    files = [path.name for path in Path().iterdir() if path.is_file()]
    assert len(files) == 4
    for file in files:
        host.files[f"/{file}"] = content = Path(file).read_bytes()
        for given in (file, host.url(f"/{file}", content)):
            with pytest.raises(CurateError, match=r"refused: no plain state dict"):
                build("small_cnn", 2, weights=given)
    assert not Path("owned").exists()


@pytest.mark.parametrize(
    "content", [b"", b"12345678", saved([1, 2]), saved({}), saved({"a": 1}), saved(torch.zeros(2))]
)
def test_what_is_no_state_dict_says_so(tmp_path, content):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(CurateError, match=r"no plain state dict|holds no state dict"):
        read_state(tmp_path / "w.pth")


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(CurateError, match=r"no such file\. Give the path of a state dict, DEFAULT or none"):
        build("small_cnn", 2, weights=str(tmp_path / "w.pth"))


def test_weights_of_another_architecture_name_what_does_not_fit(tmp_path):
    torch.save(small_state(), tmp_path / "w.pth")
    with pytest.raises(
        CurateError, match=r"does not fit --arch mobilenet_v2: features\.1\.conv\.0\.0\.weight is missing;.*more\."
    ):
        build("mobilenet_v2", 2, weights=str(tmp_path / "w.pth"))
    torch.save({**small_state(), "features.0.0.weight": torch.zeros(16, 3, 5, 5)}, tmp_path / "wide.pth")
    with pytest.raises(CurateError, match=r"features\.0\.0\.weight is \(16, 3, 5, 5\), needs \(16, 3, 3, 3\)"):
        build("small_cnn", 2, weights=str(tmp_path / "wide.pth"))
    state = small_state()
    del state["features.1.1.running_mean"]
    torch.save({**state, "neck.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(CurateError, match=r"1\.1\.running_mean is missing; neck\.weight is not part of small_cnn"):
        build("small_cnn", 2, weights=str(tmp_path / "other.pth"))


def test_without_a_network_the_error_names_the_file_to_get(monkeypatch):
    def offline(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(
        CurateError, match=r"Get the file resnet18-f37072fd\.pth .*--weights path/to/resnet18"
    ) as caught:
        build("resnet18", 2)
    assert "//" not in str(caught.value), "no host"


def test_the_librarys_own_file_is_not_executed_either(host, tmp_path, monkeypatch):
    """One that somebody put where torchvision keeps its weights."""
    monkeypatch.chdir(tmp_path)
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    folder.mkdir(parents=True)
    torch.save({"conv1.weight": Hostile()}, folder / "resnet18-f37072fd.pth")
    with pytest.raises(CurateError, match="resnet18"):
        build("resnet18", 2)
    assert not Path("owned").exists()


def test_densenet_takes_the_names_of_its_published_file(monkeypatch):
    state = build("densenet121", 2, weights="none", seed=5).state_dict()
    old = {n.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): t for n, t in state.items()}
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: old)
    loaded = build("densenet121", 2).state_dict()
    name = "features.denseblock1.denselayer1.conv2.weight"
    assert torch.equal(loaded[name], state[name])


def test_the_side_branches_of_inception_are_left_out(tmp_path):
    """Its published weights have them; they help training from random weights, and no trunk goes through them."""
    own = build("googlenet", 2, weights="none", seed=5).state_dict()
    torch.save({**own, "aux1.conv.conv.weight": torch.zeros(128, 512, 1, 1)}, tmp_path / "w.pth")
    loaded = build("googlenet", 2, weights=str(tmp_path / "w.pth")).state_dict()
    assert torch.equal(loaded["conv1.conv.weight"], own["conv1.conv.weight"])


def test_positions_of_patches_fit_images_of_another_size(tmp_path):
    """Weights made of images of 64 pixels, a model for 32: every new patch lies between the old ones."""

    def transformer(side: int) -> nn.Module:
        return torchvision.models.VisionTransformer(side, 16, 1, 2, 8, 16, num_classes=3)

    large, small = transformer(64), transformer(32)
    with torch.no_grad():
        large.encoder.pos_embedding[:] = torch.arange(17.0)[None, :, None]
    torch.save(large.state_dict(), tmp_path / "w.pth")
    given = load_weights(small, "vit_b_16", str(tmp_path / "w.pth"), ("heads.head",))
    assert given == {name for name in small.state_dict() if not name.startswith("heads.")}
    positions = small.encoder.pos_embedding[0, :, 0]
    torch.testing.assert_close(positions, torch.tensor([0.0, 1, 4, 13, 16]))
    large.encoder.pos_embedding = nn.Parameter(torch.zeros(1, 15, 8))
    torch.save(large.state_dict(), tmp_path / "w.pth")
    with pytest.raises(CurateError, match=r"encoder\.pos_embedding is \(1, 15, 8\), needs \(1, 5, 8\)"):
        load_weights(small, "vit_b_16", str(tmp_path / "w.pth"), ("heads.head",))


def trainable(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("arch", "file", "new"),
    [
        ("mobilenet_v2", "mobilenet_v2_imagenet_features.pth", {"classifier.1.weight", "classifier.1.bias"}),
        ("squeezenet1_1", "squeezenet1_1_imagenet_tvnorm.pth", {"classifier.1.weight", "classifier.1.bias"}),
        pytest.param(
            "vgg16",
            "vgg16_imagenet_features.pth",
            {f"classifier.{i}.{kind}" for i in (0, 3, 6) for kind in ("weight", "bias")},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_shared_weights_fit_and_what_they_lack_is_new(arch, file, new):
    if not (WEIGHTS / file).exists():
        pytest.skip("the shared weights are not here")
    assert trainable(build(arch, 4, weights=str(WEIGHTS / file), freeze="head")) == new


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    state = small_state()
    state["features.1.0.weight"][0, 0, 0, 0] = float("nan")
    path = tmp_path / "w.pth"
    path.write_bytes(saved(state))
    with pytest.raises(CurateError, match=r"w\.pth: features\.1\.0\.weight holds NaN or infinite values"):
        build("small_cnn", 2, weights=str(path))
