"""What a search for shortcuts found: its records, their file, and what became of them from before to after."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from curate.errors import CurateError
from curate.files import writing


class Question(NamedTuple):
    """What is asked of an image: whether a measure lies beyond a limit, or is (not) a certain word.

    Attributes:
        measure: the column.
        kind: the artifact that it measures.
        direction: above, below, is, is not.
        limit: a number in the measure's units, or a word.
    """

    measure: str
    kind: str
    direction: str
    limit: float | str

    def __str__(self) -> str:
        """As a person reads it: "background_chroma > 31"."""
        sign = {"above": ">", "below": "<", "is": "=", "is not": "is not"}[self.direction]
        return f"{self.measure} {sign} {self.limit if isinstance(self.limit, str) else format(self.limit, '.3g')}"


@dataclass(frozen=True)
class Finding:
    """One artifact of one class that sets it apart from all the others.

    Attributes:
        label: the class.
        kind: the artifact: off_topic, background, illumination, object_count, overlay or quality.
        measure: the strongest of that artifact. direction, limit: as in `Question`.
        evidence: -log10 of the p value of this one question alone, by which findings are ordered.
        p: adjusted for everything that was asked; at least FAMILIES / (PERMUTATIONS + 1).
        share: of the class, the images beyond the limit. share_elsewhere: the same, of all the other classes.
        auroc: of the measure in that direction, this class against the rest; of a word, from yes and no.
        auroc_interval: 95 %.
        also: other measures of the same artifact that are found for this class, the strongest first.
        explained_by: the surer artifacts of this class (", " between) that bring this one along: without the images
            that carry them nothing of it is left. "" if it stands for itself.
        image_ids: those of the class beyond the limit, the most extreme first.
    """

    label: str
    kind: str
    measure: str
    direction: str
    limit: float | str
    evidence: float
    p: float
    share: float
    share_elsewhere: float
    auroc: float
    auroc_interval: tuple[float, float]
    also: tuple[str, ...]
    explained_by: str
    image_ids: tuple[str, ...]

    def question(self) -> str:
        """As a person reads it: "background_chroma > 31"."""
        return str(Question(self.measure, self.kind, self.direction, self.limit))


@dataclass(frozen=True)
class Accuracy:
    """How well the label is predicted from one measure, or from all (`measure` "all", `kind` "").

    Attributes:
        balanced_accuracy: mean recall over the classes, of images that the classifier has not seen.
        interval: 95 %. p: that chance is as good, adjusted for all measures and "all" together.
        best: the class with the highest recall, and that recall.
    """

    measure: str
    kind: str
    balanced_accuracy: float
    interval: tuple[float, float]
    p: float
    best: tuple[str, float]


@dataclass(frozen=True)
class Shortcuts:
    """What was found.

    Attributes:
        counted: which rows: "accepted", "candidate or accepted", or "all" where nothing has a status.
        images: of each class that was looked at. left_out: of each class with fewer than LEAST.
        unmeasured: images without measures, left out.
        chance: balanced accuracy of guessing.
        findings: the surest first. accuracies: of each measure, the best first. joint: of all measures together.
        masked: of `masked_accuracy`, or None.
    """

    counted: str
    images: dict[str, int]
    left_out: dict[str, int]
    unmeasured: int
    chance: float
    findings: tuple[Finding, ...]
    accuracies: tuple[Accuracy, ...]
    joint: Accuracy
    masked: dict[str, Any] | None = None


def counted_rows(manifest: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The rows that count, as `find_shortcuts` says, and the words for them."""
    if "status" not in manifest:
        return manifest, "all"
    accepted = manifest["status"] == "accepted"
    if accepted.any() and ("balance_round" in manifest or "split" in manifest):
        return manifest[accepted], "accepted"
    return manifest[accepted | (manifest["status"] == "candidate")], "candidate or accepted"


def compare(before: Shortcuts, after: Shortcuts) -> list[tuple[str, str, Finding | None, Finding | None, str]]:
    """What became of each artifact of each class: class, artifact, the finding before and after; gone, left or new."""
    old = {(finding.label, finding.kind): finding for finding in before.findings}
    new = {(finding.label, finding.kind): finding for finding in after.findings}
    rows: list[tuple[str, str, Finding | None, Finding | None, str]] = []
    for key in dict.fromkeys([*old, *new]):
        fate = "new" if key not in old else "left" if key in new else "gone"
        rows.append((*key, old.get(key), new.get(key), fate))
    return sorted(rows, key=lambda row: ("gone", "left", "new").index(row[4]))


def write_shortcuts(found: Shortcuts, path: Path) -> None:
    """Write it as JSON in one step: the fields of `Shortcuts`, each as its docstring says.

    Raises:
        CurateError: the disk refuses.
    """
    with writing(path) as temporary:
        temporary.write_text(json.dumps(asdict(found), indent=1), encoding="utf-8")


def read_shortcuts(path: Path) -> Shortcuts:
    """What `write_shortcuts` wrote.

    Raises:
        CurateError: no such file, or another one.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        accuracies = [_accuracy(given) for given in (*found.pop("accuracies"), found.pop("joint"))]
        findings = tuple(_finding(given) for given in found.pop("findings"))
        return Shortcuts(findings=findings, joint=accuracies.pop(), accuracies=tuple(accuracies), **found)
    except OSError as error:
        raise CurateError(f"{path}: cannot be read: {error.strerror}. `curate shortcuts` writes it.") from error
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise CurateError(f"{path}: not what `curate shortcuts` writes: {error}. Run it again.") from error


def _finding(given: dict[str, Any]) -> Finding:
    pairs = {key: tuple(given[key]) for key in ("auroc_interval", "also", "image_ids")}
    return Finding(**{**given, **pairs})


def _accuracy(given: dict[str, Any]) -> Accuracy:
    return Accuracy(**{**given, "interval": tuple(given["interval"]), "best": tuple(given["best"])})
