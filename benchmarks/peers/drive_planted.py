"""Which photos CleanVision calls dark, light or blurry, at its defaults; in its own environment.

    {"root": "planted", "files": ["dark/0.jpg", "blur/0.jpg"]}

The last line of its output is JSON: issue -> files.
"""

import json
import sys
from pathlib import Path

from cleanvision import Imagelab

ISSUES = ("dark", "light", "blurry")


def main() -> None:
    order = json.loads(sys.stdin.read())
    root = Path(order["root"])
    lab = Imagelab(filepaths=[str(root / name) for name in order["files"]], verbose=False)
    lab.find_issues({issue: {} for issue in ISSUES}, n_jobs=1, verbose=False)
    found = {}
    for issue in ISSUES:
        flagged = lab.issues.index[lab.issues[f"is_{issue}_issue"]]
        found[issue] = [str(Path(path).relative_to(root)) for path in flagged]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
