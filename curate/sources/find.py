"""From a name in a recipe to a source: one that comes with DeepRock, an installed one, or a file of the user's own."""

import runpy
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

import requests

from curate.errors import CurateError
from curate.recipe import Recipe
from curate.sources import Source

OpenSource = Callable[[Recipe, requests.Session], Source]
SOURCES = ("bing", "google", "openverse", "commons", "flickr", "inaturalist", "folder", "demo")  # modules beside this
ENTRY_POINTS = "deeprock.sources"  # name = "package.module:open_source" in a distribution's pyproject.toml


def find_sources(names: tuple[str, ...]) -> dict[str, OpenSource]:
    """The `open_source` function of each name: `bing`, an entry point, or `path/to/mine.py`.

    Raises:
        CurateError: there is no such source, or its file or package does not give `open_source`.
    """
    return {name: _find(name) for name in names}


def _find(name: str) -> OpenSource:
    if name in SOURCES:
        ours: OpenSource = import_module(f"curate.sources.{name}").open_source  # only what is asked is loaded
        return ours
    if name.endswith(".py"):
        return _from_file(Path(name).expanduser())
    installed = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if name not in installed:
        there = ", ".join([*SOURCES, *installed])
        raise CurateError(f"no source {name}. There are {there}; or give the path of a file of your own: mine.py")
    try:
        found: OpenSource = installed[name].load()
    except (ImportError, AttributeError) as error:
        raise CurateError(f"the installed source {name} cannot be loaded: {error}") from error
    return found


def _from_file(path: Path) -> OpenSource:
    if not path.is_file():
        raise CurateError(f"{path}: no such file. A source of your own is a Python file with the function open_source.")
    try:
        found = runpy.run_path(str(path)).get("open_source")
    except (SyntaxError, ImportError) as error:
        raise CurateError(f"{path}: this source cannot be loaded: {error}") from error
    if not callable(found):
        raise CurateError(f"{path}: no function open_source(recipe, session) in it; CONTRIBUTING.md shows one.")
    opened: OpenSource = found
    return opened
