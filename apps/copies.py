"""What the page Duplicates shows: the groups of copies of a manifest, a page at a time."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from curate.copy_groups import Group, Member, Pair, groups
from curate.dedup import known_copies
from curate.errors import CurateError

GROUPS = 20  # on a page, at most
IMAGES = 80  # on a page, about
PART = 24  # images of a group that are shown together; of more, each part is shown with the first image
SHOWN = ("all", "conflict", "open", "judged")  # which groups: open ones have no judgement

Said = dict[str, Any] | None  # what a person said of an image or of a pair


class Part(NamedTuple):
    """A group, or a part of a large one: `images` with their places in the group, from 1."""

    group: Group
    number: int
    parts: int
    images: tuple[tuple[int, Member], ...]
    pairs: tuple[Pair, ...]

    @property
    def key(self) -> str:
        """Names it as long as the manifest stays as it is."""
        return self.images[-1][1].image_id


class Page(NamedTuple):
    """Some groups of a kind; `number` of `pages`, from 0."""

    shown: str
    number: int
    pages: int
    parts: list[Part]


class Copies:
    """The groups of one manifest, made once: they keep their places while they are judged."""

    def __init__(self, manifest: pd.DataFrame, root: Path, judged: pd.DataFrame) -> None:
        """Read what `curate dedup` found, from the cache and the manifest, and the pairs that were judged.

        Args:
            manifest: with `image_id`, `file_name`, `label`.
            root: the data root.
            judged: `Ledger.judged_pairs()`.
        """
        self.problem = ""
        try:
            found = known_copies(manifest, root)
        except CurateError as error:  # a hash that is none
            self.problem = str(error)
            found = pd.DataFrame(columns=["first", "second"])
        mine = judged[judged[["first", "second"]].isin(set(manifest["image_id"])).all(axis=1)]
        different = {frozenset(p) for p in mine.loc[mine["verdict"] == "different", ["first", "second"]].to_numpy()}
        said = pd.DataFrame({"first": mine["first"], "second": mine["second"], "check": "named by a person"})
        self.groups = groups(manifest, pd.concat([found, said], ignore_index=True), different)
        self.parts = [part for group in self.groups for part in in_parts(group)]
        self._by_key = {part.key: part for part in self.parts}
        self._part_of = {pair.images: part.key for part in self.parts for pair in part.pairs}

    def judged(self, pairs: Iterable[frozenset[str]], said_of_image: Callable[[str], Said]) -> set[str]:
        """The keys of what was judged: a pair of it, of a label conflict an image, of other groups a copy to keep."""
        touched = {self._part_of[pair] for pair in pairs if pair in self._part_of}
        others = (part for part in self.parts if part.key not in touched)
        return touched | {part.key for part in others if any(said_of_image(i) for i in _telling(part))}

    def page(self, asked: dict[str, Any], judged: set[str]) -> Page:
        """The groups that a browser asks for.

        Args:
            asked: `kind` of SHOWN, `page` from 0; with `keys` these groups, though they may not be of the kind any
                more: what is judged stays where it is until another page is asked for.
            judged: of `judged`.
        """
        shown = asked.get("kind") if asked.get("kind") in SHOWN else "all"
        pages = list(in_pages(self._of_kind(str(shown), judged)))
        number = asked["page"] if isinstance(asked.get("page"), int) else 0
        number = max(0, min(number, len(pages) - 1))
        keys = asked.get("keys")
        held = [self._by_key[k] for k in keys if isinstance(k, str) and k in self._by_key] if keys else []
        return Page(str(shown), number, len(pages), held or (pages[number] if pages else []))

    def counts(self, judged: set[str]) -> dict[str, int]:
        """Groups, or parts of large ones, of each kind of SHOWN."""
        return {kind: len(self._of_kind(kind, judged)) for kind in SHOWN}

    def _of_kind(self, shown: str, judged: set[str]) -> list[Part]:
        if shown == "conflict":
            return [part for part in self.parts if part.group.kind == "conflict"]
        return [part for part in self.parts if shown == "all" or (part.key in judged) == (shown == "judged")]


def _telling(part: Part) -> Iterator[str]:
    """The images whose own verdict judges the group."""
    conflict = part.group.kind == "conflict"
    return (image.image_id for _, image in part.images if conflict or image.mark == "copy")


def in_parts(group: Group) -> Iterator[Part]:
    """A group whole, or a large one in parts, each pair in the part of the later one of its images."""
    places = list(enumerate(group.images, 1))
    rest = [places[1:][start : start + PART - 1] for start in range(0, len(places) - 1, PART - 1)]
    part_of = {image.image_id: n for n, part in enumerate(rest) for _, image in part}
    pairs: list[list[Pair]] = [[] for _ in rest]
    for pair in group.pairs:
        pairs[max(part_of.get(pair.first, 0), part_of.get(pair.second, 0))].append(pair)
    for n, part in enumerate(rest):
        yield Part(group, n + 1, len(rest), (places[0], *part), tuple(pairs[n]))


def in_pages(parts: Sequence[Part]) -> Iterator[list[Part]]:
    """Up to GROUPS of them at a time, fewer where they are large."""
    page: list[Part] = []
    images = 0
    for part in parts:
        if page and (len(page) == GROUPS or images + len(part.images) > IMAGES):
            yield page
            page, images = [], 0
        page.append(part)
        images += len(part.images)
    if page:
        yield page


def facts_of(
    part: Part, said_of_image: Callable[[str], Said], said_of_pair: Callable[[frozenset[str]], Said]
) -> dict[str, Any]:
    """All that the browser shows of some images of a group; `beside`: images of its pairs that another part shows."""
    place = {image.image_id: n for n, image in enumerate(part.group.images, 1)}
    here = {image.image_id for image in part.group.images if image.mark != "elsewhere"}
    beside = {name for pair in part.pairs for name in pair.images} - {image.image_id for _, image in part.images}

    def image_facts(image: Member) -> dict[str, Any]:
        said = said_of_image(image.image_id) if image.image_id in here else None
        return {**image._asdict(), "place": place[image.image_id], "said": said}

    def pair_facts(pair: Pair) -> dict[str, Any]:
        places = [place[pair.first], place[pair.second]]
        return {**pair._asdict(), "places": places, "here": pair.images <= here, "said": said_of_pair(pair.images)}

    return {
        "key": part.key,
        "kind": part.group.kind,
        "labels": part.group.labels,
        "size": len(part.group.images),
        "part": part.number,
        "parts": part.parts,
        "images": [image_facts(image) for _, image in part.images],
        "beside": [image_facts(part.group.images[place[name] - 1]) for name in sorted(beside)],
        "pairs": [pair_facts(pair) for pair in part.pairs],
    }
