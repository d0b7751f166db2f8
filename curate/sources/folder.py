"""A folder of class folders as a source: what someone collected before is curated like what the web gives."""

import re
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

import requests

from curate.errors import CurateError
from curate.recipe import Recipe
from curate.sources import Answer, Candidate, FetchError, Page, Source

PER_PAGE = 100


def open_source(recipe: Recipe, session: requests.Session) -> Source:
    """The folder that the recipe names; the session is not used.

    Raises:
        CurateError: the recipe names no folder, or there is none.
    """
    if not recipe.folder:
        raise CurateError(
            'the source "folder" needs --folder PATH, or folder = "PATH" in the recipe: one folder a class.'
        )
    root = Path(recipe.folder).expanduser()
    if not root.is_dir():
        raise CurateError(f"{recipe.folder}: no such folder. The recipe's `folder` needs one folder for each class.")
    root = root.resolve()
    return Source(partial(_search, root), partial(_fetch, root, recipe.web.max_bytes), relist=True)


def _search(root: Path, query: str, label: str, cursor: str | None) -> Page:
    folders = [entry for entry in sorted(root.iterdir()) if entry.is_dir()]
    wanted = [folder for folder in folders if folder.name.casefold() == label.casefold()]
    if not wanted:
        held = ", ".join(folder.name for folder in folders[:12]) or "none"
        return Page(Answer.EMPTY, detail=f"{root} holds no folder {label}; it holds {held}.")
    paths = [path for folder in wanted for path in sorted(folder.rglob("*")) if _is_offered(root, path)]
    start = int(cursor or 0)
    found = tuple(Candidate(path.as_uri(), title=path.name) for path in paths[start : start + PER_PAGE])
    if not found:
        return Page(Answer.EMPTY, detail=f"{wanted[0]} holds no (more) files.")
    end = start + PER_PAGE
    return Page(Answer.OK, found, cursor=str(end) if end < len(paths) else None)


def _fetch(root: Path, max_bytes: int, url: str) -> bytes:
    parts = urlsplit(url)
    path = Path(re.sub(r"^/(?=[A-Za-z]:)", "", unquote(parts.path, errors="surrogateescape")))
    if parts.scheme != "file" or parts.netloc or "\0" in str(path) or not path.resolve().is_relative_to(root):
        raise FetchError("refused address", transient=False)
    try:
        if not path.is_file():
            raise FetchError("404", transient=False)
        if path.stat().st_size > max_bytes:
            raise FetchError("too large", transient=False)
        data = path.read_bytes()
    except OSError as error:
        raise FetchError("unreadable file", transient=True) from error
    if not data:
        raise FetchError("empty", transient=False)
    return data


def _is_offered(root: Path, path: Path) -> bool:
    """A regular file that is really below the root, where a symbolic link may lead out of it; hidden ones are not."""
    hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
    return not hidden and path.is_file() and path.resolve().is_relative_to(root)
