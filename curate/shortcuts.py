"""Shortcuts of a data set: artifacts that predict the label, of which class, how surely, and in which images.

Whether a class has a shortcut is a question of counts: of the images beyond a limit of one measure (its 5 % darkest,
say), how many are of that class? So a shortcut in a third of a class is found as well as one in all of it. The limit
is the best of several (the minimum hypergeometric statistic: Eden et al., "Discovering motifs in ranked lists of DNA
sequences", PLoS Computational Biology 2007, section "The mHG statistic"), and so are class, measure and direction; the
p value of the best of all is had by permuting the labels (single-step min-p: Westfall and Young, "Resampling-based
multiple testing", 1993, section 2.3), which holds whatever the measures have in common.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.linalg import solve
from scipy.special import gammaln
from scipy.stats import rankdata
from sklearn.model_selection import StratifiedKFold

from curate.errors import CurateError
from curate.manifest import require_columns
from curate.shortcuts_found import Accuracy, Finding, Question, Shortcuts, counted_rows
from curate.threads import one_thread_each

KINDS = {  # artifact -> how the columns of its measures begin
    "background": ("background_",),
    "illumination": ("illumination_", "brightness", "contrast"),
    "object_count": ("object_",),
    "overlay": ("overlay_",),
    "quality": ("quality_", "sharpness", "entropy", "aspect_ratio", "width", "height"),
}
AUDITED = ("background_", "illumination_", "object_")  # what an image that was measured has
TAILS = (  # shares of all images beyond the limits that are tried
    *(0.01, 0.0125, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04, 0.05, 0.06, 0.07, 0.08),
    *(0.1, 0.12, 0.14, 0.17, 0.2, 0.25, 0.3, 0.4, 0.5),
)
MOST_CATEGORIES = 12  # of a measure in words
LEAST = 5  # images of a class
LEVEL = 0.05  # chance that a data set without shortcuts has any finding
FAMILIES = 2  # of tests, that share the level: the findings, and the accuracies
PERMUTATIONS = 499  # of the labels, for p values
BLOCK = 400_000  # images x classes x permutations at a time
FOLDS = 5
RIDGE = 0.02  # penalty for each measure that a classifier knows; best of 0.005 to 0.2 for all measures of 1,050 photos
DRAWS = 4000  # of the posterior that an interval is read from


def find_shortcuts(manifest: pd.DataFrame, *, seed: int) -> Shortcuts:
    """The artifacts that predict the label across a data set.

    Rejected and duplicate rows do not count. Where a balance has chosen (`balance_round` or `split` is there) only
    accepted rows do, as only they are trained on; before that, candidates do too. Classes of fewer than LEAST images,
    and images without measures, are left out. Copies count each: mark them first (`curate dedup`).

    Time grows with images x classes x measures: 3 seconds at 730 x 10 x 30.

    Args:
        manifest: with `image_id`, `label`, and measures as `KINDS` names them; numbers, or few words.
        seed: of the permutations and folds.

    Raises:
        CurateError: no measures, or all the same; or fewer than two classes of LEAST images.
    """
    require_columns(manifest, "image_id", "label", made_by="curate scrape")
    rows, counted = counted_rows(manifest)
    audited = [column for column in rows if str(column).startswith(AUDITED)]
    if not audited:
        raise CurateError(f"no artifact measures among {', '.join(manifest)}. Run `curate audit` first.")
    measured = rows[rows[audited].notna().any(axis=1)]
    sizes = measured["label"].value_counts().sort_index()
    kept = sizes[sizes >= LEAST]
    if len(kept) < 2:
        found = ", ".join(f"{label} {n}" for label, n in sizes.items()) or "none"
        raise CurateError(
            f"a shortcut tells classes apart, so two classes of {LEAST} measured images are needed, found {found} "
            f"({counted}). `curate scrape` fetches more, `curate audit` measures."
        )
    table = measured[measured["label"].isin(kept.index)].reset_index(drop=True)
    kinds = measures_of(table)
    if not kinds:
        raise CurateError(f"every measure ({', '.join(audited)}) is the same for all images: there is nothing to tell.")
    questions, holds = ask(table, kinds)
    codes = np.searchsorted(kept.index.to_numpy(str), table["label"].to_numpy(str))
    rng = np.random.default_rng(seed)
    with one_thread_each():
        findings = find_in_classes(table, codes, questions, holds, rng)
        accuracies = predict_from_measures(list(kept.index), codes, questions, holds, rng)
    return Shortcuts(
        counted=counted,
        images={str(label): int(n) for label, n in kept.items()},
        left_out={str(label): int(n) for label, n in sizes[sizes < LEAST].items()},
        unmeasured=len(rows) - len(measured),
        chance=1 / len(kept),
        findings=findings,
        **accuracies,
    )


def measures_of(table: pd.DataFrame) -> dict[str, str]:
    """Column -> artifact, of the measures that vary over the rows: numbers, or at most MOST_CATEGORIES words."""
    kinds = {}
    for column in table:
        kind = next((kind for kind, begin in KINDS.items() if str(column).startswith(begin)), "")
        if kind:
            several = table[column].nunique() >= 2
            few = table[column].nunique() <= MOST_CATEGORIES
            if several and (few or pd.api.types.is_numeric_dtype(table[column])):
                kinds[str(column)] = kind
    return kinds


def ask(table: pd.DataFrame, kinds: dict[str, str]) -> tuple[list[Question], np.ndarray]:
    """Every question to every measure, and (n, q) bool, the answers; to a missing value the answer is no.

    Of a number: whether it lies above, or below, the limits that TAILS of all images lie beyond (fewer where values
    are equal). Of a word: whether it is this one, and whether it is another one.
    """
    questions: list[Question] = []
    answers: list[np.ndarray] = []
    for measure, kind in kinds.items():
        if pd.api.types.is_numeric_dtype(table[measure]):
            values = table[measure].to_numpy(dtype=float, na_value=np.nan)
            for direction, limit in _limits(values):
                questions.append(Question(measure, kind, direction, limit))
                answers.append(values > limit if direction == "above" else values < limit)
        else:
            known = table[measure].notna().to_numpy()
            for word in sorted(table.loc[known, measure].unique()):
                same = (table[measure] == word).to_numpy(dtype=bool)
                questions += [Question(measure, kind, "is", word), Question(measure, kind, "is not", word)]
                answers += [same, known & ~same]
    return questions, np.column_stack(answers)


def find_in_classes(
    table: pd.DataFrame, codes: np.ndarray, questions: Sequence[Question], holds: np.ndarray, rng: np.random.Generator
) -> tuple[Finding, ...]:
    """The findings of all classes, the surest first.

    Args:
        table: n rows with `image_id`, `label` and the measures.
        codes: (n,) number of the class in sorted order.
        questions, holds: of `ask`.
    """
    scores = enrichment(holds, codes)
    strongest = _strongest_by_chance(holds, codes, rng)
    p = (1 + (strongest[:, None, None] >= scores).sum(axis=0)) / (1 + len(strongest))
    p = np.minimum(1, FAMILIES * p)
    kinds = np.array([question.kind for question in questions])
    findings: list[Finding] = []
    for code in range(len(scores)):
        left = np.ones(len(table), bool)
        before: list[str] = []
        best = {str(kind): int(np.where(kinds == kind, scores[code], -1).argmax()) for kind in dict.fromkeys(kinds)}
        for kind, q in sorted(best.items(), key=lambda item: -scores[code, item[1]]):
            if p[code, q] > LEVEL:
                break
            explained = before and _nothing_left(holds[left][:, kinds == kind], codes[left] == code)
            same = np.flatnonzero((kinds == kind) & (p[code] <= LEVEL))
            names = [questions[i].measure for i in same[np.argsort(-scores[code, same], kind="stable")]]
            also = tuple(name for name in dict.fromkeys(names) if name != questions[q].measure)
            proof: dict[str, Any] = {"evidence": float(scores[code, q]), "p": float(p[code, q])}
            because = ", ".join(before) if explained else ""
            described = _describe(table, codes == code, questions[q], holds[:, q])
            findings.append(Finding(**described, **proof, also=also, explained_by=because))
            if not explained:
                left &= ~holds[:, q]
                before.append(kind)
    return tuple(sorted(findings, key=lambda finding: -finding.evidence))


def enrichment(holds: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """-log10 of the chance that as many images of a class answer yes: (n, q) bool, (n,) -> (classes, q).

    The upper tail of the hypergeometric distribution (Fisher's exact test, one-sided).
    """
    members = np.eye(codes.max() + 1, dtype=np.float32)[codes]
    counts = np.rint(members.T @ holds.astype(np.float32)).astype(np.intp)
    tables, which = _tables(holds, codes)
    return np.stack([table[which, count] for table, count in zip(tables, counts, strict=True)])


def auroc_with_interval(above: np.ndarray, below: np.ndarray) -> tuple[float, tuple[float, float]]:
    """P(above > below) + P(equal) / 2 of two samples, and its 95 % interval.

    A score interval, sensible at 1 too: Newcombe, "Confidence intervals for an effect size measure based on the
    Mann-Whitney statistic, part 2", Statistics in Medicine 2006, method 5.
    """
    m, n = len(above), len(below)
    if not m or not n:
        return 0.5, (0.0, 1.0)
    ranks = rankdata(np.r_[above, below])
    theta = float((ranks[:m].sum() - m * (m + 1) / 2) / (m * n))
    grid = np.linspace(0, 1, 2001)
    more = (m + n) / 2 - 1
    variance = grid * (1 - grid) * (1 + more * (1 - grid) / (2 - grid) + more * grid / (1 + grid)) / (m * n)
    inside = grid[np.abs(grid - theta) <= 1.96 * np.sqrt(variance) + 1e-3]
    return theta, (float(min(theta, inside[0])), float(max(theta, inside[-1])))


def predict_from_measures(
    labels: Sequence[str], codes: np.ndarray, questions: Sequence[Question], holds: np.ndarray, rng: np.random.Generator
) -> dict[str, Any]:
    """`accuracies` and `joint` of `Shortcuts`: the label predicted from the answers to the questions to each measure.

    Regularised least squares on the answers (Rifkin et al., "Regularized least-squares classification", 2003), every
    class of the same weight, in FOLDS folds. Labels permuted within the folds give the accuracies that chance reaches.
    """
    measures = np.array([question.measure for question in questions])
    groups = {str(name): measures == name for name in dict.fromkeys(measures)} | {"all": np.ones(len(measures), bool)}
    hits, reached = _reached(holds, measures, list(groups.values()), codes, rng)
    chance = reached[:, 1:]
    z = (reached - chance.mean(axis=1)[:, None]) / np.maximum(chance.std(axis=1), 1e-9)[:, None]
    kinds = {question.measure: question.kind for question in questions} | {"all": ""}
    told = []
    for name, right, score in zip(groups, hits, z[:, 0], strict=True):
        p = min(1.0, FAMILIES * (1 + (z[:, 1:].max(axis=0) >= score).sum()) / (1 + PERMUTATIONS))
        recall = np.bincount(codes, right) / np.bincount(codes)
        best = (str(labels[int(recall.argmax())]), float(recall.max()))
        told.append(
            Accuracy(name, kinds[name], float(recall.mean()), balanced_interval(right, codes, rng), float(p), best)
        )
    return {"joint": told.pop(), "accuracies": tuple(sorted(told, key=lambda a: -a.balanced_accuracy))}


def _limits(values: np.ndarray) -> list[tuple[str, float]]:
    """(direction, limit) of (n,) numbers: halfway between two values that occur, so that rounding moves no image."""
    limits: dict[tuple[str, float], None] = {}
    for direction, sign in (("above", -1), ("below", 1)):
        order = np.sort(sign * values[np.isfinite(values)])
        for share in TAILS:
            size = min(round(share * len(values)), len(order) - 1)
            inside = int(np.searchsorted(order, order[size]))  # those before the first that equals the next one out
            if inside:
                limits[direction, float(sign * (order[inside - 1] + order[size]) / 2)] = None
    return list(limits)


def _tables(holds: np.ndarray, codes: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """For each class (distinct totals, counts) float32, the -log10 p of `enrichment`; (q,) which total a question has.

    Of n images k are of the class and t answer yes: p is P(X >= count), X hypergeometric.
    """
    n, sizes = len(codes), np.bincount(codes)
    totals, which = np.unique(holds.sum(axis=0), return_inverse=True)
    tables = {}
    for k in np.unique(sizes):
        t, count = totals[:, None], np.arange(k + 1)[None]
        possible = (count <= t) & (t - count <= n - k)
        x = np.where(possible, count, np.maximum(0, t - (n - k)))
        log_p = np.where(possible, _log_choose(k, x) + _log_choose(n - k, t - x) - _log_choose(n, t), -np.inf)
        tail = np.logaddexp.accumulate(log_p[:, ::-1], axis=1)[:, ::-1]
        tables[k] = np.maximum(-tail / np.log(10), 0).astype(np.float32)
    return [tables[k] for k in sizes], which


def _log_choose(n: np.ndarray | int, k: np.ndarray) -> np.ndarray:
    return gammaln(np.add(n, 1)) - gammaln(k + 1) - gammaln(np.add(n, 1) - k)


def _strongest_by_chance(holds: np.ndarray, codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(PERMUTATIONS,) the highest `enrichment` of any class and question, each under other permuted labels."""
    tables, which = _tables(holds, codes)
    answers, strongest = holds.astype(np.float32), np.zeros(PERMUTATIONS, np.float32)
    block = max(1, BLOCK // (len(codes) * len(tables)))
    for start in range(0, PERMUTATIONS, block):
        drawn = rng.permuted(np.tile(codes, (min(block, PERMUTATIONS - start), 1)), axis=1)
        now = slice(start, start + len(drawn))
        for code, table in enumerate(tables):
            counts = np.rint((drawn == code).astype(np.float32) @ answers).astype(np.intp)
            strongest[now] = np.maximum(strongest[now], table[which, counts].max(axis=1))
    return strongest


def _nothing_left(holds: np.ndarray, members: np.ndarray) -> bool:
    """Whether no question singles out the class any more: (n, q) bool, (n,) bool; Bonferroni's correction."""
    if members.sum() < LEAST or members.all():
        return True
    return bool(enrichment(holds, members.astype(int))[1].max() < -np.log10(LEVEL / holds.shape[1]))


def _describe(table: pd.DataFrame, members: np.ndarray, question: Question, answers: np.ndarray) -> dict[str, Any]:
    """What a `Finding` says of the images themselves."""
    if isinstance(question.limit, str):
        strength = answers.astype(float)
    else:
        strength = table[question.measure].to_numpy(dtype=float, na_value=np.nan)
        strength = strength if question.direction == "above" else -strength
    known = ~np.isnan(strength)
    auroc, interval = auroc_with_interval(strength[known & members], strength[known & ~members])
    carriers = np.flatnonzero(members & answers)
    carriers = carriers[np.argsort(-strength[carriers], kind="stable")]
    return {
        **question._asdict(),
        "label": str(table["label"].iloc[carriers[0]]),
        "share": float(answers[members].mean()),
        "share_elsewhere": float(answers[~members].mean()),
        "auroc": auroc,
        "auroc_interval": interval,
        "image_ids": tuple(table["image_id"].iloc[carriers]),
    }


def _reached(
    holds: np.ndarray,
    measures: np.ndarray,
    groups: Sequence[np.ndarray],
    codes: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Cross-validated predictions from groups of questions, of the labels as they are and permuted within the folds.

    Args:
        holds: (n, q) bool. measures: (q,) names. groups: each (q,) bool. codes: (n,).

    Returns:
        (groups, n) bool, which labels are predicted rightly; (groups, 1 + PERMUTATIONS) balanced accuracies, that of
        the labels as they are first.
    """
    sizes = np.bincount(codes)
    classes, weights = np.arange(len(sizes)), (1 / sizes).astype(np.float32)
    answers = np.column_stack([holds, np.ones(len(codes))]).astype(np.float32)
    columns = [np.flatnonzero(np.append(group, True)) for group in groups]
    hits, reached = np.zeros((len(groups), len(codes)), bool), np.zeros((len(groups), 1 + PERMUTATIONS))
    folds = list(StratifiedKFold(FOLDS, shuffle=True, random_state=int(rng.integers(2**31))).split(answers, codes))
    penalties = [RIDGE * len(set(measures[group])) for group in groups]
    predictors = [
        [_least_squares(answers, *pair, *fold) for pair in zip(columns, penalties, strict=True)] for fold in folds
    ]
    block = max(1, BLOCK // (len(codes) * len(sizes)))
    for start in range(0, 1 + PERMUTATIONS, block):
        drawn = np.tile(codes, (min(block, 1 + PERMUTATIONS - start), 1))
        for _, unseen in folds:
            drawn[start == 0 :, unseen] = rng.permuted(drawn[start == 0 :, unseen], axis=1)
        targets = (drawn.T[:, :, None] == classes) * weights
        for (train, unseen), predictor in zip(folds, predictors, strict=True):
            moments = answers[train].T @ targets[train].reshape(len(train), -1)
            given = drawn[:, unseen].T
            for group, (chosen, predict) in enumerate(zip(columns, predictor, strict=True)):
                scores = (predict @ moments[chosen]).reshape(*given.shape, len(classes))
                right = scores.argmax(axis=2) == given
                reached[group, start : start + len(drawn)] += (right / sizes[given]).sum(axis=0) / len(classes)
                if start == 0:
                    hits[group, unseen] = right[:, 0]
    return hits, reached


def _least_squares(
    answers: np.ndarray, chosen: np.ndarray, penalty: float, train: np.ndarray, unseen: np.ndarray
) -> np.ndarray:
    """(unseen, chosen): what takes the sums of the answers over each class to the scores of images not seen."""
    learned = answers[np.ix_(train, chosen)]
    penalised = learned.T @ learned / len(train) + penalty * np.eye(len(chosen), dtype=np.float32)
    return solve(penalised, answers[np.ix_(unseen, chosen)].T, assume_a="pos").T


def balanced_interval(hits: np.ndarray, codes: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """95 % credible interval of the balanced accuracy: (n,) bool, (n,).

    Brodersen et al., "The balanced accuracy and its posterior distribution", ICPR 2010, with Jeffreys' prior.
    """
    right, sizes = np.bincount(codes, hits), np.bincount(codes)
    right, sizes = right[sizes > 0], sizes[sizes > 0]
    draws = rng.beta(right + 0.5, sizes - right + 0.5, (DRAWS, len(sizes))).mean(axis=1)
    low, high = np.percentile(draws, (2.5, 97.5))
    return float(low), float(high)
