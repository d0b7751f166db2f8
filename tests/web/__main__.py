"""Serve the loopback web to people: `python -m tests.web --demo igneous` or `--photos DIR`; Ctrl-C ends it."""

import argparse
import sys
import threading
from pathlib import Path

from curate.recipe import SHIPPED, read_recipe
from tests.web.faults import KINDS, MOODS, Faults
from tests.web.server import LoopbackWeb, demo_photos, folder_photos


def main() -> None:
    """Serve until interrupted; prints the mirrors to paste into a recipe."""
    parser = argparse.ArgumentParser(prog="python -m tests.web", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--photos", type=Path, metavar="DIR", help="a tree of class folders")
    what.add_argument("--demo", metavar="RECIPE", help="photos rendered for the classes of a shipped recipe")
    parser.add_argument("--per-class", type=int, default=400, help="rendered photos of each class")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before every answer")
    for engine, choices in MOODS.items():
        parser.add_argument(f"--{engine}", choices=choices, default="ok")
    parser.add_argument("--fault", action="append", default=[], metavar="NAME=SHARE", help=f"of {', '.join(KINDS)}")
    arguments = parser.parse_args()
    if arguments.photos:
        classes = folder_photos(arguments.photos)
    else:
        recipe = read_recipe(Path(str(SHIPPED.joinpath(f"{arguments.demo}.toml"))))
        classes = demo_photos(recipe.labels, arguments.per_class, arguments.seed)
    wanted = {name: float(share) for name, _, share in (fault.partition("=") for fault in arguments.fault)}
    if unknown := set(wanted) - set(KINDS):
        parser.error(f"no such fault: {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    faults = Faults(**wanted, **{engine: getattr(arguments, engine) for engine in MOODS})
    options = {"seed": arguments.seed, "latency": arguments.latency, "port": arguments.port}
    with LoopbackWeb(classes, faults=faults, **options) as web:
        counts = ", ".join(f"{label} {len(photos)}" for label, photos in classes.items())
        sys.stdout.write(f"# serving {counts}; Ctrl-C ends it. For the recipe:\n[web.mirrors]\n")
        sys.stdout.writelines(f'"{address}" = "{base}"\n' for address, base in web.mirrors.items())
        sys.stdout.flush()
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            sys.stdout.write(f"{len(web.requests)} requests served.\n")


if __name__ == "__main__":
    main()
