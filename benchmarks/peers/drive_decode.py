"""What imagededup and CleanVision need for an image, on files given as JSON on standard input; in their environment.

    {"files": ["000.jpg", "001.jpg", "002.jpg"], "rounds": 5}

The last line of its output is JSON: tool -> milliseconds of processor time an image, the median of the rounds.
"""

import json
import os
import sys
import time
from statistics import median

for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ[name] = "1"
import cleanvision  # noqa: E402
from imagededup.methods import PHash  # noqa: E402


def main() -> None:
    order = json.loads(sys.stdin.read())
    files = order["files"]
    few = files[: len(files) // 3]
    cleaned(few)  # loads what is loaded at the first use
    hashing = PHash(verbose=False)
    hashing.encode_image(files[0])
    hashes, issues = [], []
    for _ in range(order["rounds"]):
        hashes.append(hashed(hashing, files) / len(files))
        issues.append((cleaned(files) - cleaned(few)) / (len(files) - len(few)))
    print(json.dumps({"imagededup": 1000 * median(hashes), "cleanvision": 1000 * median(issues)}))


def hashed(hashing: PHash, files: list[str]) -> float:
    """Seconds of processor time."""
    began = time.process_time()
    for path in files:
        hashing.encode_image(path)
    return time.process_time() - began


def cleaned(files: list[str]) -> float:
    """Seconds of processor time, for all the issues that it looks for by default."""
    began = time.process_time()
    cleanvision.Imagelab(filepaths=files, verbose=False).find_issues(n_jobs=1, verbose=False)
    return time.process_time() - began


if __name__ == "__main__":
    main()
