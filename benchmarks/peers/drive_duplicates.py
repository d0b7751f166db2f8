"""Which pairs CleanVision and imagededup call duplicates, at their defaults; in their own environment.

    {"root": "pool", "files": ["original/a.jpg", "edit0/a.jpg"], "out": "peers.json"}

The answer is written to `out`: tool -> pairs of files.
"""

import json
import sys
from itertools import combinations
from pathlib import Path

from cleanvision import Imagelab
from imagededup.methods import DHash, PHash


def main() -> None:
    order = json.loads(sys.stdin.read())
    root, files = Path(order["root"]), order["files"]
    pairs = {"cleanvision": cleanvision(root, files)}
    for name, method in (("imagededup_phash", PHash), ("imagededup_dhash", DHash)):
        pairs[name] = imagededup(method(verbose=False), root, files)
    Path(order["out"]).write_text(json.dumps({tool: sorted(found) for tool, found in pairs.items()}))


def cleanvision(root: Path, files: list[str]) -> set[tuple[str, str]]:
    lab = Imagelab(filepaths=[str(root / name) for name in files], verbose=False)
    lab.find_issues(verbose=False)
    pairs = set()
    for kind in ("exact_duplicates", "near_duplicates"):
        for members in lab.info[kind]["sets"]:
            names = sorted(str(Path(path).relative_to(root)) for path in members)
            pairs |= set(combinations(names, 2))
    return pairs


def imagededup(method: object, root: Path, files: list[str]) -> set[tuple[str, str]]:
    hashes = {name: method.encode_image(str(root / name)) for name in files}
    said = method.find_duplicates(encoding_map={name: h for name, h in hashes.items() if h})
    return {tuple(sorted((name, other))) for name, others in said.items() for other in others}


if __name__ == "__main__":
    main()
