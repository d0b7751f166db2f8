"""The options of the benchmarks on real photos, and what they say where there are none."""

import argparse
import json
from pathlib import Path

import pandas as pd

SHARED = Path(__file__).resolve().parents[2] / "shared"


def arguments(description: str | None, quick: str) -> argparse.ArgumentParser:
    """The options that such benchmarks share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=SHARED / "data" / "rocks")
    parser.add_argument("--truth", type=Path, default=None, help="CSV of verdicts [default: PHOTOS/truth.csv]")
    parser.add_argument("--weights", default=str(SHARED / "weights" / "mobilenet_v2_imagenet_features.pth"))
    parser.add_argument("--quick", action="store_true", help=quick)
    return parser


def read_truth(options: argparse.Namespace) -> pd.DataFrame | None:
    """The verdicts; None, and said so, where photos or weights are missing."""
    path = options.truth or options.photos / "truth.csv"
    if not path.exists() or not Path(options.weights).exists():
        print(f"no real photos here: {path} or {options.weights} is missing; see --photos, --truth, --weights")
        print(json.dumps({"skipped": str(path)}))
        return None
    return pd.read_csv(path, keep_default_na=False)
