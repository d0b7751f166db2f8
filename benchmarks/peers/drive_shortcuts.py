"""Which image property cleanlab's Datalab finds correlated with the labels; in its own environment.

    {"root": "pool", "files": ["plain/0.png", ...], "sets": [{"rows": [0, 5, ...], "labels": [0, 0, ...]}, ...],
     "out": "peers.json"}

Datalab's check of images is CleanVision's property scores at its defaults, then `SpuriousCorrelations` on all of them
and the labels; both are called here as Datalab does (which itself takes images from a `datasets.Dataset` only, one more
package). Scores are computed once for all files. The answer is written to `out`: for each set property -> score, low
where the property tells the label; and Datalab's threshold, below which it reports the property.
"""

import json
import sys
from pathlib import Path

import numpy as np
from cleanlab.datalab.internal.adapter.constants import DEFAULT_CLEANVISION_ISSUES, SPURIOUS_CORRELATION_ISSUE
from cleanlab.datalab.internal.spurious_correlation import SpuriousCorrelations
from cleanvision import Imagelab


def main() -> None:
    order = json.loads(sys.stdin.read())
    paths = [str(Path(order["root"]) / name) for name in order["files"]]
    lab = Imagelab(filepaths=paths, verbose=False)
    lab.find_issues(issue_types=DEFAULT_CLEANVISION_ISSUES, n_jobs=1, verbose=False)
    issues = lab.issues.loc[paths]
    threshold = SPURIOUS_CORRELATION_ISSUE["spurious_correlations"]["threshold"]
    found = []
    for planted in order["sets"]:
        rows = issues.iloc[planted["rows"]]
        told = SpuriousCorrelations(rows.filter(regex="_score$"), np.array(planted["labels"])).calculate_correlations()
        found.append({name.removesuffix("_score"): score for name, score in told.itertuples(index=False)})
    Path(order["out"]).write_text(json.dumps({"threshold": threshold, "scores": found}))


if __name__ == "__main__":
    main()
