"""Weights of a model: read from a file, a URL or where a library keeps its own. Nothing that they hold is executed."""

import hashlib
import ipaddress
import math
import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import requests
import safetensors
import safetensors.torch
import torch
import torchvision
import urllib3
from torch import Tensor, nn
from torchvision.models.vision_transformer import interpolate_embeddings

from classify import timm_models
from classify.timm_models import Timm
from classify.trunk import HEAD, TOKENS
from curate.errors import CurateError
from curate.files import writing

MOST_BYTES = 10_000_000_000  # of a file that is downloaded
HOPS = 5  # addresses that one may lead to
WAIT = (10, 60)  # seconds for a connection, and for the next bytes
CHUNK = 1 << 20
UNREADABLE = (
    OSError,
    RuntimeError,
    ValueError,
    KeyError,
    EOFError,
    pickle.UnpicklingError,
    safetensors.SafetensorError,
)


def load_weights(model: nn.Module, arch: str, weights: str, last: tuple[str, ...]) -> set[str]:
    """Put weights into a model, but for its last layers.

    Args:
        weights: see `classify.models.build`.
        last: names of the last layers.

    Returns:
        Names of the state dict that were given; what of the head they lack stays as it is.

    Raises:
        CurateError: there are no such weights, they are no plain state dict, or not finite, or do not hold the whole
            trunk.
    """
    if weights == "none" or (weights == "DEFAULT" and arch == "small_cnn"):
        return set()
    state = _named_as(model, arch, _downloaded(arch) if weights == "DEFAULT" else read_state(_file(weights)))
    own = model.state_dict()
    _check_fit(own, state, arch, weights)
    ends = tuple(f"{name}." for name in last)
    given = {n: t for n, t in state.items() if n in own and t.shape == own[n].shape and not n.startswith(ends)}
    if broken := sorted(name for name, tensor in given.items() if not tensor.isfinite().all()):
        raise CurateError(f"--weights {weights}: {broken[0]} holds NaN or infinite values. Get the file anew.")
    put_in(model, given)
    return set(given)


def put_in(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give the model these tensors, by name; what is not named stays as it is.

    Raises:
        KeyError: it has none of a name. ValueError: of another shape.
    """
    state = model.state_dict()  # which shares its memory
    if strange := sorted(tensors.keys() - state.keys()):
        raise KeyError(f"{strange[0]} is not part of the model")
    for name, tensor in tensors.items():
        if tensor.shape != state[name].shape:
            raise ValueError(f"{name} is {tuple(tensor.shape)}, the model's {tuple(state[name].shape)}")
        state[name].copy_(tensor)


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or .pth file. Nothing in the file is executed.

    Raises:
        CurateError: no such file, damaged, holding more than tensors and plain values, or no tensors at all.
    """
    if not path.is_file():
        raise CurateError(f"--weights {path}: no such file. Give the path of a state dict, DEFAULT or none.")
    try:
        if path.suffix == ".safetensors":
            state: Any = safetensors.torch.load_file(path)
        else:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Detected pickle protocol")  # files of other programs
                state = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        cause = str(error).strip().partition("\n")[0]
        raise CurateError(
            f"--weights {path}: refused: no plain state dict, or damaged ({type(error).__name__}: {cause}). "
            "Only tensors are loaded: save it with torch.save(model.state_dict(), path) or as .safetensors."
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise CurateError(f"--weights {path}: holds no state dict (names to tensors) but {type(state).__name__}.")
    return {str(name): value for name, value in state.items()}


def fetch(url: str) -> Path:
    """A file of the web, kept in torch.hub's folder `checkpoints`; one that is there already is not asked for again.

    Args:
        url: https://...#sha256=<64 hex digits of the file>. Redirects are followed to https only. Plain http is
            allowed to this machine itself.

    Raises:
        CurateError: another scheme, no checksum or a wrong one, no answer, or more than `MOST_BYTES`.
    """
    _check_address(url, url)
    wanted = _checksum(url)
    if wanted is None:
        raise CurateError(
            f"--weights {url}: needs the checksum of the file, so that no other one is taken for it: add "
            "#sha256=<64 hex digits>, as its publisher states it or `sha256sum` counts it."
        )
    path = _place(url, wanted)
    if not (path.is_file() and _sha256(path) == wanted):
        _download(url, path, wanted)
    return path


def at_hand(arch: str, weights: str) -> Path | None:
    """The file of weights where it lies on this machine; nothing is downloaded.

    Args:
        weights: as a run's config.json has it: "DEFAULT", "none", a path or a URL.
    """
    if weights == "DEFAULT":
        if arch not in torchvision.models.list_models(module=torchvision.models):
            return None  # small_cnn has none; timm's lie elsewhere
        path = _cache() / torchvision.models.get_model_weights(arch).DEFAULT.url.rsplit("/", 1)[-1]
    elif _is_url(weights):
        wanted = _checksum(weights)
        path = _place(weights, wanted) if wanted else Path()
    else:
        path = Path(weights)
    return path if path.is_file() else None


def _file(weights: str) -> Path:
    return fetch(weights) if _is_url(weights) else Path(weights)


def _is_url(weights: str) -> bool:
    return "://" in weights


def _check_address(hop: str, url: str) -> None:
    address = urlsplit(hop)
    host = address.hostname or ""
    if host and (address.scheme == "https" or (address.scheme == "http" and _is_this_machine(host))):
        return
    leads = "" if hop == url else f" leads to {hop}, which is"
    raise CurateError(
        f"--weights {url}:{leads} refused: only https:// is taken. Give https://...#sha256=<64 hex digits>, or the "
        "path of a file."
    )


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _checksum(url: str) -> str | None:
    found = re.fullmatch(r"sha256=([0-9a-f]{64})", urlsplit(url).fragment.lower())
    return found[1] if found else None


def _cache() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def _place(url: str, wanted: str) -> Path:
    """Where the file is kept: by its checksum, so that equal names of other files do not meet."""
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    return _cache() / f"{wanted[:16]}-{re.sub(r'[^A-Za-z0-9_.-]', '_', name)[-100:]}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(url: str, path: Path, wanted: str) -> None:
    """Write the file whole or not at all."""
    digest = hashlib.sha256()
    try:
        with closing(_opened(url)) as response, writing(path) as temporary, temporary.open("wb") as file:
            for chunk in _limited(response, url):
                digest.update(chunk)
                file.write(chunk)
            if digest.hexdigest() != wanted:
                raise CurateError(
                    f"--weights {url}: the file there is another one: its sha256 is {digest.hexdigest()}, asked for is "
                    f"{wanted}. Nothing was kept. Ask its publisher which is right."
                )
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise CurateError(
            f"--weights {url}: could not be downloaded ({type(error).__name__}: {error}). Get the file where there is "
            "a network and give its path."
        ) from error


def _opened(url: str) -> requests.Response:
    """The answer at the end of the redirects, unread, no hop of it to where `fetch` would not begin."""
    hop = url
    for _ in range(HOPS + 1):
        response = requests.get(
            hop, stream=True, timeout=WAIT, allow_redirects=False, headers={"Accept-Encoding": "identity"}
        )
        if not response.is_redirect:
            response.raise_for_status()
            return response
        response.close()
        hop = urljoin(hop, response.headers["Location"])
        _check_address(hop, url)
    raise CurateError(f"--weights {url}: leads on and on, more than {HOPS} times. Give the address of the file itself.")


def _limited(response: requests.Response, url: str) -> Iterator[bytes]:
    """The body as it was sent, in parts; CurateError as soon as it is larger than allowed."""
    size = int(response.headers.get("Content-Length") or 0)
    for chunk in response.raw.stream(CHUNK, decode_content=False):
        size = max(size, response.raw.tell())
        if size > MOST_BYTES:
            raise CurateError(
                f"--weights {url}: is larger than {MOST_BYTES / 1e9:g} GB and is not taken. Get the file yourself and "
                "give its path."
            )
        yield chunk


def _downloaded(arch: str) -> dict[str, Tensor]:
    if arch.startswith(timm_models.PREFIX):
        return timm_models.download(arch)
    default = torchvision.models.get_model_weights(arch).DEFAULT
    try:
        return default.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:  # URLError is an OSError
        file, cause = default.url.rsplit("/", 1)[-1], str(error).partition("\n")[0]
        raise CurateError(
            f"{arch}: the pretrained weights could not be downloaded or read ({cause}). Get the file {file} "
            f"(torchvision, {default}) where there is a network and give its path: --weights path/to/{file}. "
            "--weights none trains from random weights."
        ) from error


def _named_as(model: nn.Module, arch: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict as the model wants it: DenseNet's published names, timm's, positions for images of another size."""
    if isinstance(model, Timm):
        return model.named_as_here(state)
    if arch.startswith("densenet"):
        return {re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)\.", r"\1\2.", name): t for name, t in state.items()}
    positions = state.get("encoder.pos_embedding")
    if arch.startswith(TOKENS) and positions is not None:
        own = model.get_parameter("encoder.pos_embedding")
        square = positions.ndim == 3 and math.isqrt(positions.shape[1] - 1) ** 2 == positions.shape[1] - 1
        if square and positions.shape[::2] == own.shape[::2] and positions.shape != own.shape:
            size: Any = (model.image_size, model.patch_size)
            return interpolate_embeddings(*size, OrderedDict(state))
    return state


def _check_fit(own: dict[str, Tensor], state: dict[str, Tensor], arch: str, weights: str) -> None:
    """CurateError where the trunk's tensors are not all there, in their shapes, or others are."""
    trunk = {name for name in own if name.split(".")[0] not in HEAD and not name.endswith("num_batches_tracked")}
    problems = [f"{name} is missing" for name in sorted(trunk - state.keys())]
    problems += [
        f"{name} is {tuple(state[name].shape)}, needs {tuple(own[name].shape)}"
        for name in sorted(trunk & state.keys())
        if state[name].shape != own[name].shape
    ]
    problems += [
        f"{name} is not part of {arch}"
        for name in sorted(state.keys() - own.keys())
        if name.split(".")[0] not in HEAD and not name.lower().startswith("aux")
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CurateError(
            f"--weights {weights}: does not fit --arch {arch}: {'; '.join(problems[:5])}{more}. "
            "Give the architecture that the file was made with, or another file."
        )
