"""What to collect: classes, queries, filters, sources, targets; read from TOML, where an unknown key stops the run."""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from curate.errors import CurateError
from curate.files import is_inside, replacing
from curate.licenses import require_wanted

SHIPPED = files("manifests")
ASSERTING = ("openverse", "commons", "flickr", "inaturalist")  # sources that say the licence of each image
DEFAULT_QUERIES = ("{name}", "{name} photo", "{name} close up", "{name} specimen")


@dataclass(frozen=True)
class ImageClass:
    """One class: its name is the label, its queries are asked in order."""

    name: str
    queries: tuple[str, ...]


@dataclass(frozen=True)
class Web:
    """How the web is reached.

    Attributes:
        contact: an address or page that goes into the user agent, so that a site's owner can reach you.
        mirrors: "https://host" -> "http://other:port/path": where requests for a host really go (a mirror, a proxy, a
            test server). A host of the form "https://*.example" stands for all of its subdomains.
        threads: downloads under way at once.
        per_host: of those, at most this many to one host.
        timeout: seconds without an answer before a request is given up.
        deadline: seconds that one download may take in all.
        max_bytes: of one image.
    """

    contact: str = ""
    mirrors: dict[str, str] = field(default_factory=dict)
    threads: int = 192
    per_host: int = 6
    timeout: float = 10.0
    deadline: float = 60.0
    max_bytes: int = 30_000_000


@dataclass(frozen=True)
class Recipe:
    """A data set to collect.

    Attributes:
        name: of the data set.
        classes: at least one, no two of one name.
        target: images wanted of each class at the end (the study's 73).
        sources: asked in this order, the next one for what is still missing.
        exclude: words in a title or address that betray what is not wanted.
        min_side: pixels; an image whose shorter side is smaller is not taken.
        license: what the images' licences must allow, one of `licenses.WANTED`; "any" asks for none.
        keys: source -> environment variable that holds its key, where it is not the usual one (FLICKR_API_KEY). The key
            itself never stands in a recipe.
        folder: the root of class folders that the source `folder` reads.
        seed: of the source `demo`.
    """

    name: str
    classes: tuple[ImageClass, ...]
    target: int = 73
    sources: tuple[str, ...] = ("bing", "google")
    exclude: tuple[str, ...] = ()
    min_side: int = 150
    license: str = "any"
    keys: dict[str, str] = field(default_factory=dict)
    folder: str = ""
    seed: int = 0
    web: Web = field(default_factory=Web)

    @property
    def labels(self) -> list[str]:
        """The class names in order."""
        return [c.name for c in self.classes]

    def queries(self, label: str) -> tuple[str, ...]:
        """The queries of one class; KeyError if there is no such class."""
        return next(c.queries for c in self.classes if c.name == label)


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe.

    Raises:
        CurateError: the file is missing or no TOML; a key is unknown or of the wrong type; a class is empty or stands
            there twice.
    """
    if not path.exists():
        shipped = ", ".join(shipped_recipes())
        raise CurateError(
            f"{path}: no such recipe. `curate init NAME` writes a shipped one ({shipped}), "
            "`curate init --classes oak,beech` a new one."
        )
    if path.is_dir():
        raise CurateError(f"{path}: a folder where a recipe, a TOML file, was expected.")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CurateError(f"{path}: not valid TOML: {error}") from error
    return _recipe(table, str(path))


def choose_recipe(
    path: Path | None, sources: list[str] | None, folder: str, mirrors: list[str] | None, license: str = ""
) -> Recipe:
    """The recipe with the command line's changes.

    Without a path: the only recipe in ./manifests, or manifests/igneous.toml among several. Where licences matter, the
    sources that assert them come first, unless the command line names the sources.

    Raises:
        CurateError: no recipe, a licence wish that there is not, or a mirror that is not of the form HOST=BASE.
    """
    recipe = read_recipe(path or usual_recipe())
    wrong = [m for m in mirrors or [] if "=" not in m]
    if wrong:
        raise CurateError(f"--mirror {wrong[0]}: needs the form https://www.bing.com=http://127.0.0.1:8000")
    pairs = dict(m.split("=", 1) for m in mirrors or [])
    web = replace(recipe.web, mirrors={**recipe.web.mirrors, **pairs})
    wanted = require_wanted(license or recipe.license)
    in_order = recipe.sources if wanted == "any" else sorted(recipe.sources, key=lambda name: name not in ASSERTING)
    chosen = tuple(sources or in_order)
    return replace(recipe, sources=chosen, folder=folder or recipe.folder, license=wanted, web=web)


def usual_recipe() -> Path:
    """The only recipe in ./manifests, or manifests/igneous.toml among several or none."""
    found = sorted(Path("manifests").glob("*.toml"))
    return found[0] if len(found) == 1 else Path("manifests/igneous.toml")


def write_recipe(name: str, labels: Iterable[str], path: Path) -> None:
    """Write a new recipe with default queries for the given classes."""
    lines = [
        f"name = {_quoted(name)}",
        "target = 73",
        'sources = ["bing", "google", "openverse", "commons", "flickr", "inaturalist"]',
        "min_side = 150",
        "exclude = []",
    ]
    for label in labels:
        queries = ", ".join(_quoted(query.format(name=label)) for query in DEFAULT_QUERIES)
        lines += ["", "[[classes]]", f"name = {_quoted(label)}", f"queries = [{queries}]"]
    _write_new("\n".join(lines) + "\n", path)
    read_recipe(path)


def copy_shipped(name: str, path: Path) -> None:
    """Write a shipped recipe to `path`; an existing file is left alone and is an error."""
    if name not in shipped_recipes():
        raise CurateError(
            f"no shipped recipe {name!r}; there are {', '.join(shipped_recipes())}. "
            "For classes of your own: `curate init --classes oak,beech`."
        )
    _write_new(SHIPPED.joinpath(f"{name}.toml").read_text(encoding="utf-8"), path)


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with DeepRock."""
    return sorted(p.name.removesuffix(".toml") for p in SHIPPED.iterdir() if p.name.endswith(".toml"))


def _recipe(table: dict[str, Any], where: str) -> Recipe:
    _check_keys(table, Recipe, where)
    table.setdefault("name", Path(where).stem)
    if not table.get("classes"):
        raise CurateError(f'{where}: no classes. Each is a [[classes]] table with name = "..." and queries = ["..."].')
    classes = tuple(_image_class(entry, where) for entry in table["classes"])
    names = [c.name for c in classes]
    if twice := sorted({name for name in names if [n.casefold() for n in names].count(name.casefold()) > 1}):
        raise CurateError(f"{where}: two classes of one name: {', '.join(twice)}.")
    web = table.get("web", {})
    _check_keys(web, Web, f"{where}, [web]")
    recipe = Recipe(**{**_tuples(table), "classes": classes, "web": Web(**web)})
    counts = (
        (recipe, "target"),
        (recipe, "min_side"),
        *((recipe.web, key) for key in ("threads", "per_host", "max_bytes")),
    )
    for part, key in counts:
        if getattr(part, key) < 1:
            raise CurateError(f"{where}: {key} = {getattr(part, key)} is less than 1.")
    if min(recipe.web.timeout, recipe.web.deadline) <= 0:
        raise CurateError(f"{where}: [web] timeout and deadline are seconds, more than 0.")
    if not recipe.sources:
        raise CurateError(f'{where}: sources = [] names no source. Leave it out, or name some: ["bing", "google"].')
    require_wanted(recipe.license)
    return recipe


def _image_class(entry: dict[str, Any], where: str) -> ImageClass:
    name = entry.get("name", "") if isinstance(entry, dict) else ""
    if not name or not isinstance(name, str) or not is_inside(name) or "/" in name or name != name.strip():
        raise CurateError(f"{where}: a class needs a name of letters, without slashes; found {entry!r}.")
    _check_keys(entry, ImageClass, f"{where}, class {name}")
    queries = entry.get("queries", [])
    if not queries or not all(query.strip() for query in queries):
        raise CurateError(f'{where}: class {name} is empty: give it queries = ["{name} hand sample", ...].')
    return ImageClass(name, tuple(queries))


def _check_keys(table: dict[str, Any], declared: type, where: str) -> None:
    if not isinstance(table, dict):
        raise CurateError(f"{where}: must be a table of keys, found {table!r}.")
    types = {f.name: str(f.type) for f in fields(declared)}
    for key, value in table.items():
        if key not in types:
            raise CurateError(f"{where}: unknown key {key!r}. Known: {', '.join(types)}.")
        if not _fits(value, types[key]):
            raise CurateError(f"{where}: {key} = {value!r} is of the wrong type: needs {_wanted(types[key])}.")


def _fits(value: Any, wanted: str) -> bool:
    match wanted.split("[")[0].removeprefix("<class '").removesuffix("'>"):
        case "str":
            return isinstance(value, str)
        case "int":
            return isinstance(value, int) and not isinstance(value, bool)
        case "float":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "tuple":
            return isinstance(value, list) and ("str" not in wanted or all(isinstance(item, str) for item in value))
        case "dict":
            return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())
        case _:
            return isinstance(value, dict)


def _wanted(type_name: str) -> str:
    kind = type_name.split("[")[0].removeprefix("<class '").removesuffix("'>")
    return {"str": "text", "int": "a whole number", "float": "a number", "tuple": "a list"}.get(kind, "a table")


def _tuples(table: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _write_new(text: str, path: Path) -> None:
    if path.exists():
        raise CurateError(f"{path} is there already; it is left as it is. Delete it first, or give another name.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
