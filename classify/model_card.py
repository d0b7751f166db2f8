"""The model card of a run, Markdown: what it is, what it learnt from, how good it is, where it fails, how to load it.

The headings follow Mitchell et al., "Model Cards for Model Reporting", FAT* 2019. Names that came from the web are
text in it, never markup.
"""

import json
import re
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import pandas as pd

from classify.data import check_rows
from classify.models import Trained
from curate.errors import CurateError
from curate.sources import clean_text
from curate.stats import tally

CARD = "MODEL_CARD.md"
SWEEP = "sweep.json"  # beside the runs of a sweep
FEW = 30  # training images of a class: with fewer the card warns of it
MOST_ROWS = 20  # of a table of origins
AT_EXPORT = ("torch", "torchvision", "onnx", "onnxruntime", "onnxscript", "safetensors")
FREEZE = {
    "head": "of its weights only the last layer was trained",
    "last_block": "its last block and its last layer were trained",
    "none": "all its weights were trained",
}
WEIGHTS = {"DEFAULT": "the library's ImageNet weights", "none": "random weights"}
PICTURE = """
photo = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")
photo = photo.resize(({side}, {side}), Image.Resampling.BILINEAR, reducing_gap=2.0){gray}
images = np.array(photo)[None]  # (1, {side}, {side}, 3) uint8
"""
GRAY = '.convert("L").convert("RGB")'
ONNX = """\
import json

import numpy as np
import onnxruntime
from PIL import Image, ImageOps
{picture}
session = onnxruntime.InferenceSession({file!r}, providers=["CPUExecutionProvider"])
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
probabilities = session.run(["probabilities"], {{"images": images}})[0]
print(classes[probabilities[0].argmax()], probabilities[0].max())
"""
TORCHSCRIPT = """\
import json

import numpy as np
import torch
from PIL import Image, ImageOps
{picture}
told = {{"classes": ""}}
model = torch.jit.load({file!r}, _extra_files=told)
classes = json.loads(told["classes"])
with torch.inference_mode():
    probabilities = model(torch.from_numpy(images)).numpy()
print(classes[probabilities[0].argmax()], probabilities[0].max())
"""
SAFETENSORS = """\
import json

import numpy as np
import torch
{library}
from PIL import Image, ImageOps
from safetensors import safe_open
from safetensors.torch import load_file
{picture}
with safe_open({file!r}, "pt") as file:
    classes, told = (json.loads(file.metadata()[key]) for key in ("classes", "preprocessing"))
model = {made}
{loaded}
model.eval()
mean, std = (told["scale"] * torch.tensor(told[key]).view(3, 1, 1) for key in ("mean", "std"))
with torch.inference_mode():
    x = (torch.from_numpy(images).permute(0, 3, 1, 2).float() - mean) / std
    probabilities = model(x).softmax(1).numpy()
print(classes[probabilities[0].argmax()], probabilities[0].max())
"""
LOADED = "model.load_state_dict(load_file({file!r}))"
LOADED_WITH_VERSIONS = """\
state = model.state_dict()  # with the version of its layers, which it asks for
state.update(load_file({file!r}))
model.load_state_dict(state)"""
CODE = {"onnx": (ONNX, ".onnx"), "torchscript": (TORCHSCRIPT, ".pt"), "safetensors": (SAFETENSORS, ".safetensors")}


class Exported(NamedTuple):
    """What was written, and how it was compared with PyTorch.

    Attributes:
        images: how many were compared.
        are_photos: whether these are photos of split val, or random pixels.
        difference: largest one of a probability.
        crop: whether the model expects the specimen's part of an image.
    """

    path: Path
    card: Path
    images: int
    are_photos: bool
    difference: float
    crop: bool


class Facts(NamedTuple):
    """What the folder of a finished run says.

    Attributes:
        settings: how it was trained; see `classify.config.TrainConfig`.
        versions: of the programs, then.
        started_at: UTC, ISO 8601.
        digest: sha256 of the images, labels and splits.
        metrics: what metrics.json holds.
        evaluations: split -> its evaluation-<split>.json, of those that are there.
        looks: at the test set, each with its time.
    """

    settings: dict[str, Any]
    versions: dict[str, str]
    started_at: str
    digest: str
    metrics: dict[str, Any]
    evaluations: dict[str, dict[str, Any]]
    looks: int


def read_facts(run: Path) -> Facts:
    """What is known of a finished run.

    Raises:
        CurateError: it is not finished, or its files are damaged.
    """
    if not (run / "metrics.json").is_file():
        raise CurateError(
            f"{run} is not finished: metrics.json is missing. `classify train --name {run.name}` with the same options "
            "goes on with it."
        )
    try:
        config, metrics = (_read(run / name) for name in ("config.json", "metrics.json"))
        paths = {part: run / f"evaluation-{part}.json" for part in ("val", "test")}
        evaluations = {part: _read(path) for part, path in paths.items() if path.is_file()}
        log = run / "test-log.jsonl"
        looks = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.is_file() else []
        facts = Facts(
            {**config["config"]},
            {**config["versions"]},
            str(config["started_at"]),
            str(config["data"]["digest"]),
            metrics,
            evaluations,
            sum(look.get("split", "test") == "test" for look in looks),
        )
        for figures in (metrics["val"], *evaluations.values()):
            _figures(figures)
        return facts
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CurateError(
            f"{run}: config.json, metrics.json or an evaluation is damaged ({type(error).__name__}: {error}). Evaluate "
            "the run again, or train it again with --overwrite."
        ) from error


def is_card_of(card: Path, run: Path) -> bool:
    """Whether a file is a card that was written for this run."""
    return card.read_text(encoding="utf-8", errors="replace").startswith(f"{_title(run)}\n")


def model_card(
    run: Path, trained: Trained, facts: Facts, done: Exported, *, manifest: pd.DataFrame | None = None
) -> str:
    """The card as Markdown.

    Args:
        run: the run folder.
        trained: its model.
        facts: see `read_facts`.
        done: what was exported.
        manifest: that it was trained on, where it is there; then the card says where the images come from.
    """
    used = None if manifest is None else check_rows(manifest)[0]
    parts = {
        "": _what(trained, facts),
        "Training data": _data(trained, facts, used),
        "Recipe": _table(["setting", "value"], [[key, _setting(key, facts)] for key in facts.settings]),
        "Figures": _all_figures(facts),
        "Limits": "\n".join(f"- {sentence}" for sentence in _limits(run, trained, facts, used)),
        "Use": _use(trained, done),
        "Versions": _versions(facts),
    }
    sections = [f"## {title}\n\n{text}" if title else text for title, text in parts.items()]
    return "\n\n".join([_title(run), *sections]) + "\n"


def snippets(trained: Trained, file: Path) -> dict[str, str]:
    """A complete program for each format that names the class of photo.jpg; the file's suffix is replaced."""
    library, made = _library(trained.arch)
    loading = LOADED_WITH_VERSIONS if trained.arch.startswith("mnasnet") else LOADED
    loaded = loading.format(file=file.with_suffix(".safetensors").name)
    told = {"library": library, "made": made, "loaded": loaded}

    def program(form: str) -> str:
        code, suffix = CODE[form]
        gray = GRAY if trained.gray and form == "safetensors" else ""  # the others hold it
        picture = PICTURE.format(side=trained.side, gray=gray)
        return code.format(file=file.with_suffix(suffix).name, picture=picture, **told)

    return {form: program(form) for form in CODE}


def text(value: object) -> str:
    """One line of plain text in Markdown, whatever it holds."""
    return re.sub(r"([\\`*_{}\[\]<>()#|~$&!])", r"\\\1", clean_text(str(value)))


def _title(run: Path) -> str:
    return f"# Model card: {text(run.name)}"


def _what(trained: Trained, facts: Facts) -> str:
    settings = facts.settings
    classes = ", ".join(text(name) for name in trained.classes)
    part = "the part of a photo that shows the specimen, cropped" if trained.crop else "a whole photo"
    return (
        f"A classifier of photos: {text(trained.arch)}, begun with {text(_weights(settings))}; "
        f"{FREEZE.get(settings['freeze'], text(settings['freeze']))}. It takes {part}, stretched to {trained.side} x "
        f"{trained.side} pixels, and gives a probability for each of {len(trained.classes)} classes: {classes}. "
        f"Trained with DeepRock, begun on {text(facts.started_at)}."
    )


def _data(trained: Trained, facts: Facts, used: pd.DataFrame | None) -> str:
    counts = facts.metrics["counts"]
    rows = [[name, *(str(counts[part].get(name, 0)) for part in counts)] for name in trained.classes]
    rows.append(["all", *(str(sum(counts[part].values())) for part in counts)])
    digest = f"the sha256 of their digests, labels and splits is {text(facts.digest)}"
    parts = [f"Images by class and split; {digest}:", _table(["class", *counts], rows)]
    if facts.metrics["unreadable"]:
        parts.append(f"{len(facts.metrics['unreadable'])} of these did not open and were left out.")
    if used is None:
        parts.append("Where the images come from stands in the manifest, which this card was written without.")
        return "\n\n".join(parts)
    for column, what in (("source", "source"), ("license", "licence, as the source gave it")):
        if column in used:
            table = tally(used, [column])
            shown = [[str(name), *map(str, row)] for name, row in zip(table.index, table.to_numpy(), strict=True)]
            more = f"\n\nAnd {len(shown) - MOST_ROWS} more." if len(shown) > MOST_ROWS else ""
            parts += [f"Images by {what}:", _table([column, *table.columns], shown[:MOST_ROWS]) + more]
    return "\n\n".join(parts)


def _all_figures(facts: Facts) -> str:
    val = {"val": facts.metrics["val"]}
    tests = {part: found for part, found in facts.evaluations.items() if part == "test"}
    parts = [
        f"Split {part}, {found['images']} images: {_figures(found)}{_calibration(facts.evaluations.get(part))}"
        for part, found in {**val, **tests}.items()
    ]
    last = tests.get("test", facts.metrics["val"])
    rows = [
        [row["label"], str(row["images"]), *(_percent(row[key]) for key in ("precision", "recall", "f1"))]
        for row in last["per_class"]
    ]
    by_class = f"By class, on split {'test' if tests else 'val'}:"
    return "\n\n".join([*parts, by_class, _table(["class", "images", "precision", "recall", "F1"], rows)])


def _figures(found: dict[str, Any]) -> str:
    names = {"accuracy": "accuracy", "macro_f1": "macro-F1", "macro_recall": "macro recall"}
    figures = [
        f"{name} {_percent(found[key])} (95 % interval {_percent(low)} to {_percent(high)})"
        for key, name in names.items()
        for low, high in [found["interval_95"][key]]
    ]
    return (
        f"{', '.join(figures)}, macro precision {_percent(found['macro_precision'])}. Guessing evenly gives an "
        f"accuracy of {_percent(found['chance_accuracy'])}, always naming the largest class "
        f"{_percent(found['largest_class_accuracy'])}."
    )


def _calibration(evaluation: dict[str, Any] | None) -> str:
    found = (evaluation or {}).get("calibration")
    if not found:
        return ""
    scaled = ""
    if found["temperature"]:
        scaled = (
            f"; with the logits divided by {found['temperature']:.3f} (fitted on {text(found['fitted_on'])}; the "
            f"exported model does not do this) it is {found['error_scaled']:.3f}"
        )
    return f" Expected calibration error {found['error']:.3f} in 15 bins{scaled}."


def _limits(run: Path, trained: Trained, facts: Facts, used: pd.DataFrame | None) -> list[str]:
    """What a user must know, in sentences; those only that are true of this run."""
    val, train = facts.metrics["val"], facts.metrics["counts"]["train"]
    low, high = val["interval_95"]["accuracy"]
    sentences = [
        f"It names one of its {len(trained.classes)} classes for any picture, also for one that shows none of them, "
        "and its probability does not tell the two apart. `classify predict --manifest` of DeepRock does, by distance.",
        "The labels are those under which the photos were found or given, and people looked at the photos only, not at "
        "the specimens: what is named wrongly, and nobody noticed, it has learnt.",
        "Photos taken in another way (light, camera, background, size of what is shown) than those it learnt from may "
        "be judged worse than the figures say; measure it on photos of your own.",
        f"The epoch was chosen on the {val['images']} images of split val, so that its figures there are somewhat too "
        f"good; the interval of its accuracy, {_percent(low)} to {_percent(high)}, says how little so few images tell.",
    ]
    if "test" in facts.evaluations:
        looks = "once" if facts.looks == 1 else f"{facts.looks} times"
        sentences.append(f"The test set was looked at {looks}; whatever was chosen after a look is not tested.")
    else:
        sentences.append("It was not evaluated on a test set.")
    if few := [name for name in trained.classes if train.get(name, 0) < FEW]:
        names = ", ".join(f"{text(name)} ({train.get(name, 0)})" for name in few)
        sentences.append(f"Of these classes it has seen fewer than {FEW} images: {names}.")
    if not (facts.evaluations.get("test", facts.evaluations.get("val")) or {}).get("calibration"):
        sentences.append("Whether its probabilities are calibrated was not measured: 90 % need not mean 9 of 10.")
    if trained.crop:
        sentences.append(
            "It expects photos that are cropped to the specimen, with a margin of a twentieth, and the exported model "
            "cannot crop: `classify.data.specimen` of DeepRock does. On whole photos its figures do not hold."
        )
    if trained.gray:
        sentences.append("It sees no colour: it learnt from grey images, and turns photos to grey first.")
    if (run.parent / SWEEP).is_file():
        sentences.append(
            "It is a trial of a sweep: if it was chosen as the best of many on split val, its figures there are too"
            " good for that reason too."
        )
    if used is None or "license" not in used or used["license"].isna().any():
        sentences.append(
            "Of some or all training images the licence is not known. Whether a model that was trained on them may be "
            "passed on is for you to find out."
        )
    if _weights(facts.settings) != WEIGHTS["none"]:
        sentences.append("Mind the licence of the weights that it was begun with.")
    return sentences


def _use(trained: Trained, done: Exported) -> str:
    photos = f"{done.images} photos of split val" if done.are_photos else f"{done.images} pictures of random pixels"
    parts = [
        f"{text(done.path.name)} was loaded again and compared with PyTorch on {photos}: the probabilities differ by "
        f"at most {done.difference:.1g}.",
        "Transparent parts of a photo are white in what it learnt from. Each of these programs names the class of "
        "photo.jpg; n pictures at once are (n, ...) likewise. `classify export` makes the files of the other formats.",
    ]
    if trained.crop:
        parts.append("**photo.jpg must be cropped to the specimen already.**")
    titles = {
        "onnx": "ONNX: pictures in, probabilities out; preprocessing and labels are inside",
        "torchscript": "TorchScript: the same; PyTorch calls it deprecated, so prefer ONNX for what is new",
        "safetensors": "Safetensors: weights, and how to prepare a picture",
    }
    for form, code in snippets(trained, done.path).items():
        parts.append(f"### {titles[form]}\n\n```python\n{code}```")
    return "\n\n".join(parts)


def _versions(facts: Facts) -> str:
    then = ", ".join(f"{text(name)} {text(number)}" for name, number in facts.versions.items())
    now = ", ".join(f"{name} {version(name)}" for name in AT_EXPORT)
    return f"Trained with {then}.\n\nExported with {now}."


def _library(arch: str) -> tuple[str, str]:
    """What is imported to make the architecture, and the call that makes it."""
    if arch == "small_cnn":
        return "from classify.layers import SmallCNN  # of DeepRock", "SmallCNN(len(classes))"
    if arch.startswith("timm/"):
        return "import timm", f"timm.create_model({arch.removeprefix('timm/')!r}, num_classes=len(classes))"
    more = ", aux_logits=False, init_weights=False, transform_input=True"
    options = more if arch in ("googlenet", "inception_v3") else ""
    return "import torchvision", f"torchvision.models.get_model({arch!r}, num_classes=len(classes){options})"


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _setting(key: str, facts: Facts) -> str:
    value = _weights(facts.settings) if key == "weights" else facts.settings[key]
    return "-" if value is None else str(value)


def _weights(settings: dict[str, Any]) -> str:
    """In words; of a path or an address its last part, which says nothing of the machine."""
    given = str(settings["weights"])
    if settings["arch"] == "small_cnn" and given == "DEFAULT":
        given = "none"  # it has none
    return WEIGHTS.get(given, f"the weights {PurePath(given).name}")


def _table(header: list[Any], rows: list[list[str]]) -> str:
    lines = [[str(cell) for cell in header], *rows]
    shown = [f"| {' | '.join(text(cell) for cell in line)} |" for line in lines]
    return "\n".join([shown[0], f"|{' --- |' * len(header)}", *shown[1:]])


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}".replace("%", " %")
