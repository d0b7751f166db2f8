"""`classify predict` and `classify export`: what a run says of photos, and its model for other programs."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pandas as pd
import typer

from classify.cli_options import BALANCED, DATA, Data, Run, Threads, percent, use_threads
from curate.console import print_table, progress_bars
from curate.manifest import read_manifest

if TYPE_CHECKING:
    from classify.data import Progress
    from classify.predict import Familiar

OwnManifest = Annotated[
    Path | None,
    typer.Option("--manifest", "-m", help=f"That the run was trained on. Default: {BALANCED}, where it is that."),
]


def predict(
    run: Run,
    photos: Annotated[list[Path], typer.Argument(help="Photos, folders of photos, or manifests.")],
    manifest: OwnManifest = None,
    data: Data = DATA,
    top: Annotated[int, typer.Option(min=1, help="Classes to name.")] = 3,
    heatmaps: Annotated[Path | None, typer.Option(help="Folder for pictures of what the model looks at.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
    threads: Threads = None,
) -> None:
    """What the run says of photos: classify predict runs/densenet121 photo.jpg folder/ --heatmaps maps"""
    from classify.models import load_run
    from classify.predict import predict_photos

    use_threads(threads)
    trained = load_run(run)
    with progress_bars() as bars:
        known = _familiar(run, _own(run, manifest, data), data, lambda done, total: bars("embedding", done, total))
        found = predict_photos(
            trained,
            photos,
            data,
            top=top,
            familiar=known,
            heatmaps=heatmaps,
            progress=lambda done, total: bars("predicting", done, total),
        )
    rows: list[dict[str, Any]] = json.loads(found.to_json(orient="records"))
    if as_json:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    asked = ["specimen"] if known else []
    print_table(
        ["photo", "predicted", "probability", *asked, "cause"],
        [
            [
                row["file"],
                row.get("predicted") or "-",
                percent(row.get("probability")),
                *(row[name] for name in asked),
                row["error"] or "",
            ]
            for row in rows
        ],
    )
    if known:
        typer.echo(_worth(known))
    damaged = sum(row["error"] is not None for row in rows)
    where = f" Heatmaps: {heatmaps}" if heatmaps else ""
    typer.echo(f"{len(rows) - damaged} photos predicted by {run}, {damaged} do not open.{where}")


def export(
    run: Run,
    form: Annotated[Literal["onnx", "torchscript", "safetensors"], typer.Option("--format")] = "onnx",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File to write. Default: RUN/export/model.onnx, .pt, .safetensors"),
    ] = None,
    manifest: OwnManifest = None,
    data: Data = DATA,
    threads: Threads = None,
) -> None:
    """The model for other programs, and a model card: classify export runs/densenet121 --format onnx"""
    from classify.export import export_run

    use_threads(threads)
    done = export_run(run, form, out, manifest=_own(run, manifest, data), root=data)
    photos = "photos of split val" if done.are_photos else "pictures of random pixels (no --manifest)"
    if done.crop:
        typer.echo("The run looks at the specimen's part of a photo: crop before you give one to the exported model.")
    typer.echo(
        f"{done.path} says what PyTorch says of {done.images} {photos}: a probability differs by at most "
        f"{done.difference:.1g}. How to load it: {done.card}"
    )


def _own(run: Path, manifest: Path | None, data: Path) -> pd.DataFrame | None:
    """The manifest that is given; else the usual one, where it is there and the run was trained on it."""
    if manifest is not None:
        return read_manifest(manifest)
    from classify.predict import trained_on

    usual = read_manifest(BALANCED) if BALANCED.is_file() else None
    return usual if usual is not None and trained_on(run, usual, data) else None


def _familiar(run: Path, manifest: pd.DataFrame | None, data: Path, progress: "Progress") -> "Familiar | None":
    if manifest is None:
        typer.echo(
            "Whether a photo shows a specimen is not asked: give --manifest, the one that the run was trained on.",
            err=True,
        )
        return None
    from classify.identify import load_identifier
    from classify.predict import Familiar

    identifier = load_identifier(run)
    return Familiar(identifier.backbone, identifier.known(manifest, data, progress=progress))


def _worth(familiar: "Familiar") -> str:
    """What the column specimen is worth."""
    known = familiar.known
    caught = f"; of {known.off_topic} that were rejected as off topic, {known.caught:.0%} do" if known.off_topic else ""
    return (
        f"specimen: no where a photo is further than {known.limit:.3f} from the training images. Of {known.validated} "
        f"validation images {1 - known.within:.0%} lie beyond that{caught}."
    )
