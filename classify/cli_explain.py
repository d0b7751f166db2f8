"""`classify explain`: its options."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from classify.cli_options import BALANCED, DATA, Data, Manifest, Run, Threads, use_threads
from curate.console import progress_bars
from curate.errors import CurateError
from curate.manifest import read_manifest


def explain(
    run: Run,
    photos: Annotated[
        list[Path] | None, typer.Argument(help="Photos or folders of photos, instead of a manifest's images.")
    ] = None,
    manifest: Manifest = BALANCED,
    split: Annotated[
        Literal["train", "val", "test", "all"] | None,
        typer.Option(help="Default: val. A look at test images is logged; all has them too."),
    ] = None,
    labels: Annotated[list[str] | None, typer.Option("--class", help="Images of this class only; repeatable.")] = None,
    images: Annotated[
        list[str] | None, typer.Option("--image", help="This image_id or file of the manifest only; repeatable.")
    ] = None,
    data: Data = DATA,
    method: Annotated[
        str, typer.Option(help="gradcam, or another CAM of pytorch-grad-cam: an unknown name lists them.")
    ] = "gradcam",
    target: Annotated[
        Literal["predicted", "label"], typer.Option(help="The class whose evidence is shown.")
    ] = "predicted",
    pair: Annotated[
        tuple[str, str] | None, typer.Option(help="Two classes: the heatmaps of both beside every image.")
    ] = None,
    sort: Annotated[
        Literal["error", "manifest"], typer.Option(help="error: the surest wrong first, then the least sure.")
    ] = "error",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder. Default: explain-... in the run.")] = None,
    threads: Threads = None,
) -> None:
    """Heatmaps on a page, the worst errors first: classify explain runs/densenet121 --pair granite basalt"""
    if photos and (split or labels or images):
        raise CurateError("photos are given by path: --split, --class and --image choose from a manifest.")
    table = None if photos else read_manifest(manifest)
    from classify.explain import explain_photos, explain_split
    from classify.predict import expand

    use_threads(threads)
    how: dict[str, Any] = {"target": pair or target, "method": method, "out": out}
    with progress_bars() as bars:
        how["progress"] = lambda done, total: bars("explaining", done, total)
        if table is None:
            page, number = explain_photos(run, [file for photo in photos or [] for file in expand(photo, data)], **how)
        else:
            chosen: dict[str, Any] = {"split": split, "labels": labels or (), "images": images or (), "sort": sort}
            page, number = explain_split(run, table, data, **chosen, **how)
    of = "photos" if photos else "chosen images" if images and not split else f"split {split or 'val'}"
    typer.echo(f"{number} heatmaps of {of}: {page}")
