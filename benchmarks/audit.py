"""What `curate audit` takes beside the naive chain of the tools that do its parts; its memory; what its heatmaps show.

    python -m benchmarks.audit                  # the real photos: a quarter of an hour on two idle cores
    python -m benchmarks.audit --photos DIR --truth CSV --weights PTH

The chain, on the same files and with the same weights, as the tools' own pages show it: CleanVision with all issues
that it looks for by default and its own processes; embeddings by torchvision, a DataLoader of batches of 32;
out-of-fold probabilities by scikit-learn; pytorch-grad-cam image by image (`benchmarks/peers/drive_audit.py`), of the
label and of another class that is predicted, as the audit makes them;
cleanlab's find_label_issues. Whole processes on both sides, from start to exit; `curate audit` runs before the chain
and after it, and the mean of the two counts. CleanVision and cleanlab come from `make peers`.

Milliseconds by stage are processor time an image in one thread. Memory is the sum of the peaks of all processes, with
the photos once and with each of them four times (other bytes, the same picture). The heatmaps of rendered pictures, of
which the true mask is known: the share of their energy inside it, with the weights and with random ones, beside the
share of the frame that the mask covers, which is what an even heatmap has inside (95 % intervals over the pictures).
"""

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from benchmarks.options import arguments, read_truth
from benchmarks.usage import ROOT, Usage, run_measured
from curate.console import print_table
from curate.images import inspect
from curate.manifest import write_manifest
from curate.sources.demo import mask, render, truth
from curate.store import ImageError, store

SHARED = ROOT.parent / "shared"
PEERS = ROOT / ".venv-peers" / "bin" / "python"
DRIVER = ROOT / "benchmarks" / "peers" / "drive_audit.py"
COMMAND = "from curate.cli import main; main()"
LABELS = ("andesite", "basalt", "granite", "rhyolite")  # of the rendered pictures
STAGED = 200  # photos of which the stages are timed


def main() -> None:
    options = arguments(__doc__, "every eighth photo, one run").parse_args()
    listed = read_truth(options)
    if listed is None:
        return
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # for the chain too, as `curate` for itself
    photos = listed[["file_name", "label"]].iloc[:: 8 if options.quick else 1]
    with tempfile.TemporaryDirectory() as home:
        figures = speed(photos, options.photos, options.weights, Path(home), quick=options.quick)
        figures |= stages(stocked(photos[:STAGED], options.photos, Path(home) / "staged"), options.weights)
        figures |= energies(Path(home) / "rendered", options.weights, pictures=15 if options.quick else 60)
    print(json.dumps(figures))


def speed(photos: pd.DataFrame, source: Path, weights: str, home: Path, *, quick: bool) -> dict[str, Any]:
    """The command and the chain on the same photos; then the command on four times as many."""
    root = stocked(photos, source, home / "once")
    first = audited(root, weights)
    again = audited(root, weights, fresh=False)
    chain, steps = naive(root, weights)
    runs = [first] if quick else [first, audited(root, weights)]
    ours = Usage(*np.mean(runs, axis=0))
    fourfold = audited(stocked(photos, source, home / "fourfold", copies=4), weights)
    n = len(pd.read_csv(root / "m.csv"))
    rows = [("curate audit", ours), ("again, nothing new", again), *([("the naive chain", chain)] if chain else [])]
    told = [
        (who, f"{u.seconds:.1f}", f"{u.cpu:.1f}", f"{1000 * u.seconds / n:.1f}", f"{u.peak_mb:.0f}") for who, u in rows
    ]
    print_table((f"{n} photos", "seconds", "of all processors", "ms an image", "peak MB"), told)
    print_table(
        ("of the chain", "seconds", "of all processors"), [(k, f"{s:.1f}", f"{c:.1f}") for k, (s, c) in steps.items()]
    )
    figures = {
        "photos": n,
        "speedup": round(chain.seconds / ours.seconds, 2) if chain else None,
        "speedup_cpu": round(chain.cpu / ours.cpu, 2) if chain else None,
        "ms_per_image": round(1000 * ours.seconds / n, 2),
        "cpu_ms_per_image": round(1000 * ours.cpu / n, 2),
        "again_ms_per_image": round(1000 * again.seconds / n, 2),
        "peak_mb": round(ours.peak_mb),
        "peak_mb_of_4_times_as_many": round(fourfold.peak_mb),
    }
    return figures | {f"chain_{step}_cpu_ms": round(1000 * c / n, 1) for step, (_, c) in steps.items()}


def stocked(photos: pd.DataFrame, source: Path, root: Path, copies: int = 1) -> Path:
    """A data root with the photos that open, and their manifest m.csv; every copy has other bytes."""
    rows = []
    for file_name, label in photos.itertuples(index=False):
        for copy in range(copies):
            data = (source / file_name).read_bytes() + bytes(copy)
            try:
                picture = inspect(data)
            except ImageError:
                continue
            stored = store(root, data, picture)
            rows.append((picture.sha256[:16], picture.sha256, stored, label, "candidate"))
    table = pd.DataFrame(rows, columns=["image_id", "sha256", "file_name", "label", "status"])
    write_manifest(table.drop_duplicates("image_id"), root / "m.csv")
    return root


def audited(root: Path, weights: str, *, fresh: bool = True) -> Usage:
    """What `curate audit` takes; without what earlier runs have cached if `fresh`."""
    if fresh:
        shutil.rmtree(root / "cache", ignore_errors=True)
    words = ["audit", str(root / "m.csv"), "-o", str(root / "a.csv"), "--data", str(root), "--weights", weights]
    usage = run_measured([sys.executable, "-c", COMMAND, *words], root / "log.txt")
    if not (root / "a.csv").exists():
        raise SystemExit(f"curate audit failed: {(root / 'log.txt').read_text()[-2000:]}")
    return usage


def naive(root: Path, weights: str) -> tuple[Usage | None, dict[str, list[float]]]:
    """What the chain takes, whole and by step (seconds, processor seconds); None where the peers are not installed."""
    if not PEERS.exists():
        print("CleanVision and cleanlab are not installed: `make peers`")
        return None, {}
    table = pd.read_csv(root / "m.csv")
    order = {"files": [str(root / name) for name in table["file_name"]], "labels": table["label"].tolist()}
    order |= {"weights": weights, "work": str(root)}
    usages, steps = [], {}
    for python, some in ((str(PEERS), ["cleanvision"]), (sys.executable, ["torch"]), (str(PEERS), ["cleanlab"])):
        (root / "order.json").write_text(json.dumps({**order, "steps": some}))
        usages.append(run_measured([python, str(DRIVER), str(root / "order.json")], root / "log.txt"))
        said = (root / "log.txt").read_text().strip().splitlines()
        try:
            steps |= json.loads(said[-1])
        except (ValueError, IndexError):
            raise SystemExit(f"{DRIVER.name} {some[0]} failed: {said[-5:]}") from None
    seconds, cpu, peak = zip(*usages, strict=True)
    return Usage(sum(seconds), sum(cpu), max(peak)), steps


def stages(root: Path, weights: str) -> dict[str, Any]:
    """Milliseconds of processor time an image by stage, in one thread."""
    import torch

    from classify.explain import explain_heads
    from classify.features import Sight
    from classify.models import load_backbone
    from curate.audit import cross_predict
    from curate.looking import looks_of
    from curate.threads import one_thread_each

    torch.set_num_threads(1)
    table = pd.read_csv(root / "m.csv")
    names, labels, n = table["file_name"].tolist(), table["label"].to_numpy(), len(table)
    backbone = load_backbone("mobilenet_v2", weights)
    sight = Sight(backbone, root / "cache", with_maps=True)
    with one_thread_each():
        looked = {
            (measure, show): timed(lambda m=measure, s=show: looks_of(root, [(f, m, s) for f in names], backbone.side))
            for measure, show in ((False, False), (True, False), (False, True))
        }
        pixels = np.stack([seen.pixels for seen in looked[False, True][1]])
        see = timed(
            lambda: [sight.see(table["sha256"][i : i + 64].tolist(), pixels[i : i + 64]) for i in range(0, n, 64)]
        )
        sight.flush()
        embeddings = sight.embeddings.take(table["sha256"].tolist())
        predict = timed(lambda: cross_predict(embeddings, labels, seed=0, jobs=1))
        heads = predict[1]
        targets = np.stack([np.searchsorted(heads.classes, labels), heads.probability.argmax(1)], 1)
        work = (table, root, backbone, heads.weights, heads.fold, targets, root / "cache" / "heatmaps")
        heat = timed(lambda: [len(rows) for rows, _ in explain_heads(*work, maps=sight.maps)])
    decode = looked[False, False][0]
    seconds = {
        "decode": decode,
        "measures": looked[True, False][0] - decode,
        "pixels": looked[False, True][0] - decode,
        "trunk": see[0],
        "out_of_fold": predict[0],
        "heatmaps": heat[0],
    }
    print_table(("stage", "ms of processor time an image"), [(k, f"{1000 * s / n:.2f}") for k, s in seconds.items()])
    return {f"{stage}_cpu_ms": round(1000 * took / n, 2) for stage, took in seconds.items()}


def timed(step: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds of this process, and what the step gives."""
    start = time.process_time()
    result = step()
    return time.process_time() - start, result


def energies(root: Path, weights: str, *, pictures: int) -> dict[str, Any]:
    """Share of the heatmaps' energy inside the true mask of rendered pictures, with the weights and without."""
    table, masks = rendered(root, pictures)
    share = masks.mean(axis=(1, 2))
    inside = {"trained": inside_mask(table, root, masks, weights), "random": inside_mask(table, root, masks, "none")}
    figures: dict[str, Any] = {"rendered": len(table), "cam_energy_chance": spread(share)}
    for which, energy in inside.items():
        figures[f"cam_energy_{which}"] = spread(energy)
        figures[f"cam_energy_{which}_over_chance"] = spread(energy - share)
    rows = [
        (name, *(f"{value:.3f}" for value in values)) for name, values in figures.items() if isinstance(values, list)
    ]
    print_table((f"inside the mask, of {len(table)}", "mean", "from", "to"), rows)
    return figures


def rendered(root: Path, pictures: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Keepers before a background, some of each class, and (n, 56, 56) bool, their true masks."""
    rows, masks = [], []
    for label in LABELS:
        indexes = (
            i for i in range(1000) if truth(label, i, 0).kind == "keeper" and truth(label, i, 0).object_count == "1"
        )
        for _, index in zip(range(pictures), indexes, strict=False):
            data, _ = render(label, index, 0)
            picture = inspect(data)
            rows.append((picture.sha256[:16], picture.sha256, store(root, data, picture), label))
            front = mask(label, index, 0).astype(np.float32)
            masks.append(cv2.resize(front, (56, 56), interpolation=cv2.INTER_AREA) >= 0.5)
    return pd.DataFrame(rows, columns=["image_id", "sha256", "file_name", "label"]), np.stack(masks)


def inside_mask(table: pd.DataFrame, root: Path, masks: np.ndarray, weights: str) -> np.ndarray:
    """(n,) share of the energy of the labelled class's heatmap; NaN where it is empty."""
    from classify.explain import explain_heads
    from classify.features import embed
    from classify.models import load_backbone
    from curate.audit import cross_predict, energy_outside

    backbone = load_backbone("mobilenet_v2", weights)
    embeddings = embed(table, root, backbone, cache=root / "cache")
    heads = cross_predict(embeddings, table["label"].to_numpy(), seed=0)
    given = np.searchsorted(heads.classes, table["label"].to_numpy(str))
    work = (table, root, backbone, heads.weights, heads.fold, np.stack([given, given], 1), root / "heat" / weights[-8:])
    energy = np.full(len(table), np.nan)
    for rows, maps in explain_heads(*work):
        energy[rows] = 1 - energy_outside(maps[:, 0], masks[rows])
    return energy


def spread(values: np.ndarray) -> list[float]:
    """Mean and its 95 % interval (normal, over the pictures)."""
    values = values[np.isfinite(values)]
    half = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    return [round(float(value), 4) for value in (values.mean(), values.mean() - half, values.mean() + half)]


if __name__ == "__main__":
    main()
