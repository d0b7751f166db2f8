"""Scores of CleanVision and cleanlab for every image, the least fit lowest; in their own environment.

    {"root": "photos", "files": ["web/a/1.jpg", ...], "arrays": "arrays.npz", "out": "scores.json"}

`arrays` holds `labels` (n,) int, `probabilities` (n, classes) out of fold and `embeddings` (n, d). CleanVision gives a
score for each kind of issue, from 0 to 1, and none for the image: the lowest of them is taken, copies apart. cleanlab
judges the given label, and how far an image lies from the others. The answer is written to `out`: method -> n scores.
"""

import json
import sys
from pathlib import Path

import numpy as np
from cleanlab.outlier import OutOfDistribution
from cleanlab.rank import get_label_quality_scores
from cleanvision import Imagelab

KINDS = ("light", "dark", "odd_aspect_ratio", "low_information", "blurry", "grayscale", "odd_size")  # all but copies


def main() -> None:
    order = json.loads(sys.stdin.read())
    paths = [str(Path(order["root"]) / name) for name in order["files"]]
    lab = Imagelab(filepaths=paths, verbose=False)
    lab.find_issues({kind: {} for kind in KINDS}, n_jobs=1, verbose=False)
    issues = lab.issues.loc[paths]
    arrays = np.load(order["arrays"])
    scores = {
        "cleanvision": issues[[f"{kind}_score" for kind in KINDS]].min(axis=1).to_numpy(),
        "cleanlab": get_label_quality_scores(arrays["labels"], arrays["probabilities"]),
        "cleanlab_outlier": OutOfDistribution().fit_score(features=arrays["embeddings"], verbose=False),
    }
    Path(order["out"]).write_text(json.dumps({name: np.asarray(s, float).tolist() for name, s in scores.items()}))


if __name__ == "__main__":
    main()
