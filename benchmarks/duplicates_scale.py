"""How the search for perceptual hashes that lie near each other grows, beside imagededup's and faiss'.

    python -m benchmarks.duplicates_scale            # 10,000, 100,000 and 1,000,000 hashes
    python -m benchmarks.duplicates_scale --quick    # 10,000 alone

All pairs of 64-bit hashes within 8 bits are wanted. `random`: hashes drawn by chance, one in a hundred with a planted
copy 0 to 8 bits away. `skewed`: the same, with clusters as near-constant pictures make them: of 2,000 hashes each at
most 3 bits from one centre, as many as are a hundredth of all, and of as many equal hashes again.

Seconds and memory are of a process of its own: the seconds of the search alone, elapsed and of the processors (of
imagededup's two helpers too), the memory of all of it, Python and numpy (30 MB) included. Up to 10,000 hashes a
search is run three times and the quickest counts, so that what is loaded at the first use does not. `recall` counts
planted pairs that were found. With 10,000 hashes the pairs are also counted by comparing all with all: `exact_at_10k`
says whether the number is the same. Equal hashes are one hash to all searches but imagededup's, which cannot do that.
The peers come from `make peers`; what takes more than `--patience` seconds is said to.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from curate.hamming import each_near

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / ".venv-peers" / "bin" / "python"
RADIUS = 8
SIZES = (10_000, 100_000, 1_000_000)
KINDS = ("random", "skewed")
CLUSTER = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="10,000 hashes only")
    parser.add_argument("--patience", type=float, default=120.0, help="seconds that a search may take")
    parser.add_argument("--one", nargs=3, metavar=("TOOL", "KIND", "N"), help="what a process of its own is to measure")
    options = parser.parse_args()
    if options.one:
        tool, kind, n = options.one
        runs = [SEARCHES[tool](*hashes(kind, int(n)), int(n)) for _ in range(3 if int(n) <= SIZES[0] else 1)]
        print(json.dumps(min(runs, key=lambda run: run["seconds"])))
        return
    from curate.console import print_table  # not where the peers run

    sizes = SIZES[:1] if options.quick else SIZES
    found = {
        (tool, kind, n): measured(tool, kind, n, options.patience)
        for n in sizes
        for kind in KINDS
        for tool in SEARCHES
        if not (tool == "imagededup" and n > SIZES[0])
    }
    rows = [(f"{n:,}", kind, tool, *told(result)) for (tool, kind, n), result in found.items()]
    print_table(("hashes", "kind", "search", "seconds", "of processors", "peak MB", "pairs", "recall"), rows)
    print(json.dumps(figures(found, sizes)))


def hashes(kind: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    """(n,) uint64, and the planted pairs as (m, 2) indices."""
    rng = np.random.default_rng(n)
    bits = rng.integers(0, 2**64, n, dtype=np.uint64)
    planted = rng.permutation(n)[: 2 * (n // 100)].reshape(-1, 2)
    bits[planted[:, 1]] = flipped(bits[planted[:, 0]], rng.integers(0, RADIUS + 1, len(planted)), rng)
    if kind == "skewed":
        free = np.setdiff1d(np.arange(n), planted)
        chosen = rng.permutation(free)[: 2 * (n // 100)]
        near, equal = np.split(chosen, 2)
        for start in range(0, len(near), CLUSTER):
            part = near[start : start + CLUSTER]
            centre = np.full(len(part), rng.integers(0, 2**64, dtype=np.uint64))
            bits[part] = flipped(centre, rng.integers(0, 4, len(part)), rng)
        bits[equal] = rng.integers(0, 2**64, dtype=np.uint64)
    return bits, planted


def flipped(bits: np.ndarray, number: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each hash with so many of its bits turned."""
    order = np.argsort(rng.random((len(bits), 64)), axis=1)
    turned = np.arange(64)[None] < number[:, None]
    masks = np.where(turned, np.uint64(1) << order.astype(np.uint64), np.uint64(0))
    return bits ^ np.bitwise_xor.reduce(masks, axis=1)


def ours(bits: np.ndarray, planted: np.ndarray, n: int) -> dict[str, float]:
    """Each distinct hash is looked up once; of a pair of them the count is what it stands for."""
    began = clocks()
    distinct, which, size = np.unique(bits, return_inverse=True, return_counts=True)
    wanted = np.unique(np.sort(which[planted], axis=1), axis=0)
    keys = wanted[:, 0] * len(distinct) + wanted[:, 1]
    pairs, met = int((size * (size - 1) // 2).sum()), np.zeros(len(keys), bool)
    met[wanted[:, 0] == wanted[:, 1]] = True
    for i, j, _ in each_near(distinct, None, RADIUS):
        pairs += int((size[i] * size[j]).sum())
        found = i * len(distinct) + j
        place = np.searchsorted(keys, found).clip(max=len(keys) - 1)
        met[place[keys[place] == found]] = True
    return result(began, pairs, float(met.mean()))


def faiss(bits: np.ndarray, planted: np.ndarray, n: int) -> dict[str, float]:
    """Its exact search, IndexBinaryFlat, one thread."""
    import faiss as library  # type: ignore[import-not-found]

    library.omp_set_num_threads(1)
    began = clocks()
    distinct, which, size = np.unique(bits, return_inverse=True, return_counts=True)
    codes = distinct.view(np.uint8).reshape(-1, 8)
    index = library.IndexBinaryFlat(64)
    index.add(codes)
    pairs, met = int((size * (size - 1) // 2).sum()), set[tuple[int, int]]()
    wanted = set(map(tuple, np.sort(which[planted], axis=1).tolist()))
    for start in range(0, len(codes), 10_000):
        limits, _, j = index.range_search(codes[start : start + 10_000], RADIUS + 1)
        i = start + np.repeat(np.arange(len(limits) - 1), np.diff(limits.astype(np.int64)))
        once = i < j
        i, j = i[once], j[once]
        pairs += int((size[i] * size[j]).sum())
        met |= wanted & set(zip(i.tolist(), j.tolist(), strict=True))
    met |= {pair for pair in wanted if pair[0] == pair[1]}
    return result(began, pairs, len(met) / len(wanted))


def imagededup(bits: np.ndarray, planted: np.ndarray, n: int) -> dict[str, float]:
    """Its own search as it is by default: in a compiled loop over all hashes."""
    from imagededup.handlers.search.retrieval import HashEval  # type: ignore[import-not-found]
    from imagededup.methods import PHash  # type: ignore[import-not-found]

    names = {str(k): f"{value:016x}" for k, value in enumerate(bits.tolist())}
    began = clocks()
    search = HashEval(names, names, PHash.hamming_distance, threshold=RADIUS, search_method="brute_force_cython")
    near = search.retrieve_results(scores=False)
    pairs = sum(len(others) for others in near.values()) // 2
    met = np.mean([str(b) in near[str(a)] for a, b in planted.tolist()])
    return result(began, pairs, float(met))


def all_with_all(bits: np.ndarray, planted: np.ndarray, n: int) -> dict[str, float]:
    """What the others are checked by."""
    began = clocks()
    pairs = sum(int((np.bitwise_count(bits[k] ^ bits[k + 1 :]) <= RADIUS).sum()) for k in range(len(bits)))
    return result(began, pairs, 1.0)


def clocks() -> tuple[float, float]:
    """Seconds elapsed, and of the processors, helpers that have ended included."""
    helpers = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter(), time.process_time() + helpers.ru_utime + helpers.ru_stime


def result(began: tuple[float, float], pairs: int, recall: float) -> dict[str, float]:
    elapsed, processors = (now - then for now, then in zip(clocks(), began, strict=True))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)
    return {"seconds": elapsed, "cpu": processors, "peak_mb": peak, "pairs": pairs, "recall": recall}


SEARCHES = {"ours": ours, "faiss": faiss, "imagededup": imagededup}


def measured(tool: str, kind: str, n: int, patience: float) -> dict[str, float] | str:
    """What a process of its own says; or why it says nothing."""
    python = sys.executable if tool == "ours" else str(PEERS)
    command = [python, "-m", "benchmarks.duplicates_scale", "--one", tool, kind, str(n)]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=patience)
    except FileNotFoundError:
        return "not installed: `make peers`"
    except subprocess.TimeoutExpired:
        return f"not done in {patience:.0f} s"
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["failed"])[-1]
    measures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(f"{n:,} {kind}, {tool}: {measures['seconds']:.3f} s", flush=True)
    return measures


def told(measures: dict[str, float] | str) -> tuple[str, str, str, str, str]:
    if isinstance(measures, str):
        return measures, "", "", "", ""
    seconds, cpu, peak, pairs, recall = (measures[name] for name in ("seconds", "cpu", "peak_mb", "pairs", "recall"))
    return f"{seconds:.3f}", f"{cpu:.3f}", f"{peak:.0f}", f"{pairs:,}", f"{recall:.4f}"


def figures(found: dict, sizes: tuple[int, ...]) -> dict[str, object]:
    def of(tool: str, kind: str, n: int, name: str) -> float:
        return found[tool, kind, n][name]

    least = sizes[0]
    counted = {kind: all_with_all(*hashes(kind, least), least)["pairs"] for kind in KINDS}
    exact = all(of("ours", kind, least, "pairs") == counted[kind] for kind in KINDS)
    told: dict[str, object] = {"exact_at_10k": exact}
    for n in sizes:
        name = f"{n // 1000}k" if n < 1_000_000 else "1m"
        for kind in KINDS:
            suffix = name if kind == "random" else f"{name}_skewed"
            told[f"seconds_{suffix}"] = round(of("ours", kind, n, "seconds"), 4)
            told[f"peak_mb_{suffix}"] = round(of("ours", kind, n, "peak_mb"), 1)
            told[f"exact_recall_{suffix}"] = of("ours", kind, n, "recall")
    if len(sizes) == 3:
        ratio = of("ours", "random", sizes[2], "seconds") / of("ours", "random", sizes[1], "seconds")
        told["growth_exponent"] = round(math.log10(ratio), 3)
    for tool in ("imagededup", "faiss"):
        theirs = found[tool, "random", least]
        if not isinstance(theirs, str):
            for clock, suffix in (("cpu", ""), ("seconds", "_elapsed")):
                speedup = theirs[clock] / of("ours", "random", least, clock)
                told[f"speedup_vs_{tool}_10k{suffix}"] = round(speedup, 1)
    return told


if __name__ == "__main__":
    main()
