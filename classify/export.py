"""Take a run's model elsewhere: ONNX, TorchScript or safetensors, with its labels and its preprocessing inside.

ONNX and TorchScript hold the whole way from an RGB picture of the right size, (n, side, side, 3) uint8 as image
libraries give it, to the probabilities; n is free. Safetensors holds the weights under the names of torchvision, and
says how a picture is prepared. A file is put in place after it was loaded again and said the same as PyTorch.

A run that looks at the specimen's part of an image (`crop`) is exported like the others, though no graph can find a
specimen: whoever has cropped by other means, or by hand, loses nothing. File and model card say that it is needed.
"""

import copy
import json
import re
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import safetensors
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn

from classify.augment import THOUSANDTHS
from classify.data import MEAN, STD, decode_rows, split_rows, to_input
from classify.features import readable
from classify.layers import Renormalised, SmallCNN
from classify.model_card import CARD, Exported, Facts, is_card_of, model_card, read_facts
from classify.models import MODEL_FILE, Trained, load_run
from classify.predict import trained_on
from curate.errors import CurateError
from curate.files import writing

SUFFIXES = {"onnx": ".onnx", "torchscript": ".pt", "safetensors": ".safetensors"}
TOLERANCE = 1e-4  # of a probability, against PyTorch
COMPARED = 16  # images
MOST_ONNX = 2**31 - 2**20  # bytes: protobuf holds no more in a file
TIMM = "timm/"  # of the names of architectures
DEPRECATED = "`torch.jit"  # so begins the warning of each of its functions

Form = Literal["onnx", "torchscript", "safetensors"]
Model = Callable[[np.ndarray], np.ndarray]  # pictures (n, side, side, 3) uint8 -> probabilities (n, classes)


class FromPicture(nn.Module):
    """A classifier of pictures as they are stored: prepares them before, and takes the softmax after."""

    def __init__(
        self,
        model: nn.Module,
        *,
        gray: bool = False,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.gray = model, gray
        self.register_buffer("luma", torch.tensor(THOUSANDTHS).float().view(1, 3, 1, 1), persistent=False)
        self.register_buffer("mean", torch.tensor(mean or MEAN).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(std or STD).view(1, 3, 1, 1) * 255)

    def forward(self, images: Tensor) -> Tensor:
        """(n, side, side, 3), uint8 or float from 0 to 255 -> probabilities (n, classes)."""
        x = images.permute(0, 3, 1, 2).float()
        if self.gray:
            x = ((x * self.get_buffer("luma")).sum(1, keepdim=True) + 500).div(1000).floor().expand_as(x)
        return self.model((x - self.get_buffer("mean")) / self.get_buffer("std")).float().softmax(1)


def export_run(
    run: Path, form: Form, out: Path | None = None, *, manifest: pd.DataFrame | None = None, root: Path | None = None
) -> Exported:
    """Write the best model of a finished run, and MODEL_CARD.md beside it.

    Args:
        run: the run folder.
        form: onnx, torchscript or safetensors.
        out: RUN/export/model.onnx (.pt, .safetensors) if not given.
        manifest: photos of its split val are compared; where it is the one that the run was trained on, its sources
            and licences are in the card.
        root: the data root of the manifest.

    Raises:
        CurateError: no finished run, a place that is taken, no photo that opens, a model that the format cannot hold,
            or one that says something else than in PyTorch (then no file is left).
    """
    trained, facts = load_run(run), read_facts(run)
    out = out or run / "export" / f"model{SUFFIXES[form]}"
    card = out.with_name(CARD)
    _check_places(run, out, card)
    model = copy.deepcopy(trained.model).cpu().to(memory_format=torch.contiguous_format).requires_grad_(False).eval()
    photos = None if manifest is None or root is None else _photos(trained, manifest, root)
    pictures = _random_pictures(trained.side) if photos is None else photos
    write, read = FORMS[form]
    with writing(out) as temporary:
        write(model, trained, about(trained, facts), temporary)
        difference = _difference(read(temporary), model, pictures, trained)
        if not difference <= TOLERANCE:
            raise CurateError(
                f"{form} of {run}: a probability differs from PyTorch's by {difference:.2g}, more than {TOLERANCE:g}. "
                "Nothing was written; take another --format."
            )
    done = Exported(out, card, len(pictures), photos is not None, difference, trained.crop)
    own = manifest if manifest is not None and root is not None and trained_on(run, manifest, root) else None
    with writing(card) as temporary:
        temporary.write_text(model_card(run, trained, facts, done, manifest=own), encoding="utf-8")
    return done


def about(trained: Trained, facts: Facts) -> dict[str, str]:
    """What every file says of itself, as text by key; lists and settings as JSON."""
    mean, std = _normalisation(trained)
    preprocessing = {
        "colour": "RGB",
        "gray": trained.gray,
        "side": trained.side,
        "resize": "the whole image stretched to a square, bilinear with antialiasing",
        "crop_to_specimen": trained.crop,
        "scale": 255,
        "mean": mean,
        "std": std,
    }
    return {
        "classes": json.dumps(trained.classes, ensure_ascii=False),
        "preprocessing": json.dumps(preprocessing),
        "output": "softmax probabilities",
        "arch": trained.arch,
        "trained_at": facts.started_at,
        "made_by": f"DeepRock {version('deeprock')}",
    }


def plain_model(arch: str, classes: int) -> nn.Module:
    """The architecture as its library makes it, without our dropout before the last layer."""
    if arch == "small_cnn":
        return SmallCNN(classes)
    if arch.startswith(TIMM):
        import timm

        return timm.create_model(arch.removeprefix(TIMM), num_classes=classes)
    if arch in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "init_weights": False, "transform_input": True}
        return torchvision.models.get_model(arch, num_classes=classes, **options)
    return torchvision.models.get_model(arch, num_classes=classes)


def plain_state(model: nn.Module, plain: nn.Module) -> dict[str, Tensor]:
    """The weights of a model of ours under the names that they have in the `plain_model`.

    Raises:
        CurateError: they are others.
    """
    known = plain.state_dict().keys()

    def plain_name(name: str) -> str:
        shorter = name.partition(".")[2], re.sub(r"\.1\.(weight|bias)$", r".\1", name)  # timm's part; behind a dropout
        return next((found for found in (name, *shorter) if found in known), name)

    state = {plain_name(name): tensor.contiguous() for name, tensor in model.state_dict().items()}
    if other := sorted(state.keys() ^ known):
        raise CurateError(f"{', '.join(other[:5])}: not as the architecture's library has it. Take another --format.")
    return state


def _normalisation(trained: Trained) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of the channels, RGB in [0, 1], that the library's own model expects."""
    own = [module for module in trained.model.modules() if isinstance(module, Renormalised)]
    return (own[0].mean, own[0].std) if own else (MEAN, STD)


def _check_places(run: Path, out: Path, card: Path) -> None:
    if out.resolve() == (run / MODEL_FILE).resolve():
        raise CurateError(f"{out} is the run's own model. Give -o another name.")
    if card.exists() and not is_card_of(card, run):
        raise CurateError(f"{card} is there already and is not the card of {run}. Give -o a place in another folder.")


def _photos(trained: Trained, manifest: pd.DataFrame, root: Path) -> np.ndarray:
    """Some photos of split val, as they are given to the model: (n, side, side, 3) uint8."""
    rows = split_rows(manifest, "val")
    chosen = np.random.default_rng(0).permutation(len(rows))[:COMPARED]
    pixels = readable(decode_rows(rows, root, chosen, trained.side, crop=trained.crop), {})[1]
    if not len(pixels):
        raise CurateError(f"none of {len(chosen)} images of split val opens under {root}. Is --data right?")
    return pixels


def _random_pictures(side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (COMPARED, side, side, 3), np.uint8)


@torch.inference_mode()
def _difference(exported: Model, model: nn.Module, pictures: np.ndarray, trained: Trained) -> float:
    """The largest difference of a probability from PyTorch's, of all pictures at once and of the first alone."""
    expected = model(to_input(trained.seen(pictures))).float().softmax(1).numpy()
    differences = [np.abs(exported(pictures[:n]) - expected[:n]).max() for n in (len(pictures), 1)]
    return float(np.max(differences))  # NaN if one is


def _write_onnx(model: nn.Module, trained: Trained, told: dict[str, str], path: Path) -> None:
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    if size > MOST_ONNX:
        raise CurateError(
            f"{trained.arch} takes {size / 1e9:.1f} GB, and a file of ONNX holds 2. Take --format safetensors."
        )
    program = torch.onnx.export(
        FromPicture(model, gray=trained.gray).eval(),
        (torch.zeros(2, trained.side, trained.side, 3, dtype=torch.uint8),),
        dynamo=True,
        input_names=["images"],
        output_names=["probabilities"],
        dynamic_shapes=({0: "n"},),
        verbose=False,
    )
    assert program is not None
    proto = program.model_proto
    for node in proto.graph.node:  # where each came from, with the paths of this machine
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    onnx.helper.set_model_props(proto, told)
    onnx.checker.check_model(proto)
    onnx.save(proto, path)


def _read_onnx(path: Path) -> Model:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda pictures: session.run(["probabilities"], {"images": pictures})[0]


def _write_torchscript(model: nn.Module, trained: Trained, told: dict[str, str], path: Path) -> None:
    example = torch.zeros(2, trained.side, trained.side, 3, dtype=torch.uint8)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", DEPRECATED, FutureWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # of sizes that are checked; n is compared as 16 and 1
        traced = torch.jit.trace(FromPicture(model, gray=trained.gray).eval(), example, check_trace=False)
        torch.jit.save(traced, str(path), _extra_files=told)


def _read_torchscript(path: Path) -> Model:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", DEPRECATED, FutureWarning)
        loaded = torch.jit.load(str(path))
    return lambda pictures: loaded(torch.from_numpy(pictures)).numpy()


def _write_safetensors(model: nn.Module, trained: Trained, told: dict[str, str], path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        plain = plain_model(trained.arch, len(trained.classes))
    path.write_bytes(safetensors.torch.save(plain_state(model, plain), {**told, "format": "pt"}))


def _read_safetensors(path: Path) -> Model:
    with safetensors.safe_open(path, framework="pt") as file:
        told: dict[str, Any] = file.metadata()
    with torch.random.fork_rng(devices=[]):
        model = plain_model(told["arch"], len(json.loads(told["classes"]))).eval()
    state = model.state_dict()  # which knows the versions of its layers: MNASNet asks for them
    state.update(safetensors.torch.load_file(path))
    model.load_state_dict(state)
    preprocessing = json.loads(told["preprocessing"])
    prepared = {name: preprocessing[name] for name in ("gray", "mean", "std")}
    whole = FromPicture(model, **prepared)
    return lambda pictures: whole(torch.from_numpy(pictures)).numpy()


Writer = Callable[[nn.Module, Trained, dict[str, str], Path], None]
FORMS: dict[Form, tuple[Writer, Callable[[Path], Model]]] = {
    "onnx": (_write_onnx, _read_onnx),
    "torchscript": (_write_torchscript, _read_torchscript),
    "safetensors": (_write_safetensors, _read_safetensors),
}
