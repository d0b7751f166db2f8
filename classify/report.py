"""Pictures and pages of a run: curves, confusion matrix, HTML that opens offline (pictures inside, text escaped)."""

import base64
import html
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from curate.files import replacing

# of the figure; to find what fits would take a third of the time
MARGINS = {"left": 0.065, "right": 0.985, "bottom": 0.125, "top": 0.97, "wspace": 0.17}
CELL = 0.6  # inches of a cell of a confusion matrix
CSS = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { padding: .25rem .75rem; text-align: right; }
th:first-child, td:first-child { text-align: left; } thead th { border-bottom: 2px solid; }
img { max-width: 100%; height: auto; background: white; } figure { margin: 1rem 0; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: 1rem; }
.grid figure { margin: 0; } figcaption { font-size: .875rem; }
"""


def curves_png(history: pd.DataFrame, path: Path) -> None:
    """Loss and accuracy by epoch (training solid, validation dashed) and validation macro-F1."""
    figure = Figure(figsize=(10, 4))
    loss, score = figure.subplots(1, 2, gridspec_kw=MARGINS)
    epochs = history["epoch"]
    for axis, name in ((loss, "loss"), (score, "accuracy")):
        axis.plot(epochs, history[f"train_{name}"], "-", color="C0", label=f"train {name}")
        axis.plot(epochs, history[f"val_{name}"], "--", color="C0", label=f"val {name}")
    score.plot(epochs, history["val_macro_f1"], "--", color="C1", label="val macro-F1")
    score.set_ylim(0, 1.02)
    for axis, title, free in ((loss, "cross-entropy, weighted by class", "upper"), (score, "share of images", "lower")):
        axis.set(xlabel="epoch", ylabel=title)
        axis.legend(loc=f"{free} right")
        axis.grid(alpha=0.3)
    save_figure(figure, path)


def confusion_png(matrix: np.ndarray, classes: tuple[str, ...], path: Path) -> None:
    """The confusion matrix with its counts; rows are the true class, coloured by their shares."""
    cells, text = CELL * len(classes), 0.075 * max(map(len, classes))  # inches
    left, below = 0.8 + text, 0.7 + 0.75 * text  # the names stand aslant
    width, height = cells + left + 0.1, cells + below + 0.1
    figure = Figure(figsize=(width, height))
    axis = figure.add_axes((left / width, below / height, cells / width, cells / height))
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(matrix.shape):
        axis.text(j, i, str(matrix[i, j]), ha="center", va="center", color="white" if shares[i, j] > 0.5 else "black")
    names = [no_math(name) for name in classes]
    axis.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axis.set_yticks(range(len(names)), names)
    axis.set(xlabel="predicted", ylabel="true class")
    save_figure(figure, path)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """CSV in one atomic step."""
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")


def run_page(name: str, metrics: dict[str, Any], config: dict[str, Any], run: Path) -> None:
    """Write report.html of a run beside its curves.png and confusion.png."""
    val = metrics["val"]
    low, high = val["interval_95"]["accuracy"]
    sentences = [
        f"Validation accuracy {val['accuracy']:.2%} (95 % interval {low:.2%} to {high:.2%}, {val['images']} images), "
        f"macro-F1 {val['macro_f1']:.2%}, macro recall {val['macro_recall']:.2%}, "
        f"macro precision {val['macro_precision']:.2%}.",
        f"Chance: accuracy {val['chance_accuracy']:.2%}, loss {val['chance_loss']:.3f}. "
        f"Best epoch {metrics['best_epoch']} of {metrics['epochs_run']}, by validation macro-F1.",
        *(
            f"Images in {part}: {', '.join(f'{label} {n}' for label, n in counts.items())}."
            for part, counts in metrics["counts"].items()
        ),
    ]
    if metrics["unreadable"]:
        sentences.append(f"Left out because they do not open: {', '.join(metrics['unreadable'])}.")
    body = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in sentences)
    body += f"<h2>By class (validation)</h2>{table_html(pd.DataFrame(val['per_class']))}"
    for file, text in (("curves.png", "Curves by epoch"), ("confusion.png", "Confusion matrix (validation)")):
        body += f"<h2>{text}</h2><img alt='{text}' src='{inline((run / file).read_bytes(), 'png')}'>"
    settings = pd.DataFrame({"setting": list(config), "value": [str(value) for value in config.values()]})
    body += f"<h2>Settings</h2>{table_html(settings)}"
    write_page(f"Run {name}", body, run / "report.html")


def explain_page(title: str, cards: list[tuple[np.ndarray, str]], path: Path) -> None:
    """Write a page of pictures (side, side, 3) uint8 with their captions."""
    figures = [
        f"<figure><img alt='{html.escape(caption, quote=True)}' src='{inline(jpeg(picture), 'jpeg')}'>"
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        for picture, caption in cards
    ]
    text = "Yellow: where the evidence for the class lies (Grad-CAM). A model that looks at the background is misled."
    write_page(title, f"<p>{text}</p><div class='grid'>{''.join(figures)}</div>", path)


def write_page(title: str, body: str, path: Path) -> None:
    """A complete HTML page that needs nothing from outside; `body` is HTML, `title` text."""
    safe = html.escape(title)
    head = "<meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
    page = f"<!doctype html><html lang='en'><head>{head}<title>{safe}</title><style>{CSS}</style></head>"
    with replacing(path) as temporary:
        temporary.write_text(f"{page}<body><h1>{safe}</h1>{body}</body></html>\n", encoding="utf-8")


def write_png(picture: np.ndarray, path: Path) -> None:
    """(h, w, 3) uint8 as PNG in one atomic step."""
    with replacing(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")


def jpeg(picture: np.ndarray) -> bytes:
    """(h, w, 3) uint8 as the bytes of a JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=85)
    return buffer.getvalue()


def table_html(table: pd.DataFrame) -> str:
    """An HTML table, its text escaped."""
    shown = table.map(lambda value: f"{value:.4f}" if isinstance(value, float) else value)
    return shown.to_html(index=False, escape=True, border=0, na_rep="-")


def inline(data: bytes, kind: str) -> str:
    """The address of a picture that lies in the page itself; kind: png or jpeg."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def no_math(text: str) -> str:
    """Matplotlib takes text between dollar signs for mathematics."""
    return text.replace("$", r"\$")


def save_figure(figure: Figure, path: Path) -> None:
    """As PNG, in one atomic step."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, pil_kwargs={"compress_level": 1})
