"""The report of a study: what was shown and what was not, then figures and tables in the study's order, in one page."""

import html
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from classify.compare import curves_figure
from classify.figures import png
from classify.report import inline, jpeg, no_math, table_html, write_page
from classify.study_findings import OPEN, OPPOSITE, SHOWN, Best, Findings
from classify.study_pictures import Card
from classify.study_plan import StudyConfig

STUDY_HEADS = {"vgg19_bn": 0.6607, "resnet18": 0.7143, "densenet121": 0.7857}  # val accuracy, only a head trains
STUDY_VAL = {"accuracy": 0.9107, "macro_f1": 0.9117, "macro_recall": 0.9107, "macro_precision": 0.9273}
STUDY_TEST = {"accuracy": 0.75, "macro_recall": 0.75, "macro_precision": 0.8163}
MEASURES = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "macro_recall": "macro recall",
    "macro_precision": "macro precision",
}
COLOURS = {SHOWN: "C2", OPPOSITE: "C3", OPEN: "C7"}


def study_page(
    name: str,
    found: Findings,
    config: StudyConfig,
    pictures: dict[str, dict[str, list[Card]]],
    home: Path,
) -> None:
    """Write report.html of a study into its folder.

    Args:
        name: of the study.
        found: what it says.
        config: what was asked.
        pictures: "misled" (Fig. 5) and "side by side" (Fig. 7) -> heading -> pictures.
        home: the folder, with the runs in it.
    """
    sections = [
        _shown(found, config),
        _beside_the_study(found),
        _preliminary(found, config),
        _heads(found),
        _unfrozen(found, config),
        _confusion(found.best, home),
        _heatmaps(pictures),
        _colour(found),
        _optimizers(found),
        _baselines(found),
        _curation(found),
        _settings(found, config),
    ]
    write_page(f"Study: {name}", "".join(sections), home / "report.html")


def _shown(found: Findings, config: StudyConfig) -> str:
    """Each claim by its decisive split: test where that was looked at, for val has chosen epochs and rates."""
    decisive = found.verdicts.drop_duplicates("claim", keep="last")
    headings = {SHOWN: "Shown", OPPOSITE: "The opposite was shown", OPEN: "Not shown, either way"}
    lines = [
        f"{heading}: {'; '.join(decisive.loc[decisive['answer'] == answer, 'claim']) or 'nothing'}."
        for answer, heading in headings.items()
    ]
    lines += [f"{row.claim}: {row.answer}." for row in decisive[~decisive["answer"].isin(headings)].itertuples()]
    images = ", ".join(f"{split} {n}" for split, n in found.verdicts.groupby("split")["images"].max().items())
    note = (
        f"Judged on test where it was looked at, else on val (images: {images}). Differences are of macro-F1; the 95 % "
        "intervals are over seeds and images, each claim by itself (not corrected for their number). What is not shown "
        "may still be true: a difference smaller than half an interval's length cannot be seen on so few images. What "
        f"began with random weights had at most {config.unfrozen_epochs} epochs to learn; with more it may come nearer."
    )
    drawn = _picture(
        "Differences in macro-F1: green shown, red the opposite, grey neither", _differences(found.verdicts)
    )
    heading = "<h2>What was shown, and what was not</h2>"
    return heading + _paragraphs(*lines, note) + drawn + table_html(_claims(found.verdicts))


def _claims(verdicts: pd.DataFrame) -> pd.DataFrame:
    """A row a claim; what is said of it on every split."""
    intervals = _intervals(verdicts, "difference", "low", "high")
    said = verdicts.assign(said=[f"{a} {i}" for a, i in zip(verdicts["answer"], intervals, strict=True)])
    table = said.pivot(index="claim", columns="split", values="said").reindex(verdicts["claim"].unique()).fillna("-")
    splits = [split for split in ("val", "test") if split in table]
    seeds = said.groupby("claim")["seeds"].max()
    return pd.DataFrame(
        {
            "claim": table.index,
            "seeds": seeds[table.index].to_numpy(),
            **{f"on {s}": table[s].to_numpy() for s in splits},
        }
    )


def _differences(table: pd.DataFrame) -> Figure:
    """A bar of every claim from the low to the high end of its interval, and a line at none."""
    shown = table.dropna(subset="difference")[::-1]
    figure = Figure(figsize=(11, 1.2 + 0.3 * len(shown)), layout="constrained")
    axis = figure.subplots()
    for i, row in enumerate(shown.itertuples()):
        axis.plot([row.low, row.high], [i, i], color=COLOURS[row.answer], linewidth=3)
        axis.plot(row.difference, i, "o", color=COLOURS[row.answer])
    axis.axvline(0, color="black", linewidth=1)
    axis.set_yticks(range(len(shown)), [no_math(f"{row.claim} ({row.split})") for row in shown.itertuples()])
    axis.set(xlabel="difference in macro-F1")
    axis.grid(axis="x", alpha=0.3)
    return figure


def _beside_the_study(found: Findings) -> str:
    """Our figures beside those that the study gives: other rocks, and how many images."""
    heads = found.heads.set_index("run").reindex(STUDY_HEADS) if len(found.heads) else pd.DataFrame()
    rows: list[tuple[str, str, str]] = []
    for arch, accuracy in STUDY_HEADS.items():
        ours = heads.loc[arch] if "accuracy" in heads else pd.Series(dtype=float)
        start = " (random weights)" if str(ours.get("start")).startswith("random") else ""
        rows.append((f"{arch}, head only: val accuracy", f"{accuracy:.2%}", f"{_said(ours, 'accuracy')}{start}"))
    for split, theirs in (("val", STUDY_VAL), ("test", STUDY_TEST)):
        result = None if found.best is None else found.best._asdict()[split]
        rows += [
            (f"best run: {split} {MEASURES[measure]}", f"{value:.2%}", _of_summary(result, measure))
            for measure, value in theirs.items()
        ]
    grey = found.colour[found.colour["arm"].str.endswith("colour, seen in grey") & (found.colour["split"] == "val")]
    ours = grey.iloc[0] if len(grey) else pd.Series(dtype=float)
    rows.append(("trained on colour, seen in grey: val accuracy", "below 15 %", _said(ours, "accuracy")))
    k = len(found.classes)
    rows.append(("chance: accuracy", f"{1 / 7:.2%}", f"{1 / k:.2%}"))
    rows.append(("chance: loss", f"{math.log(7):.3f}", f"{math.log(k):.3f}"))
    images = sum(sum(counts.values()) for counts in found.counts.values())
    columns = ["figure", "the study: 7 classes, 73 images each", f"here: {k} classes, {images} images in train and val"]
    text = (
        "Other images and other classes: the figures are for orientation, not to be equal. The study's precision and "
        "recall stand here under their right names (its Table 2 swaps them)."
    )
    return f"<h2>Beside the study</h2>{_paragraphs(text)}{table_html(pd.DataFrame(rows, columns=columns))}"


def _preliminary(found: Findings, config: StudyConfig) -> str:
    text = (
        f"{found.lead}, {config.seeds} seeds each. Runs that train everything have at most {config.unfrozen_epochs} "
        f"epochs, those that train a head {config.epochs}: the two pretrained arms differ from each other in that too. "
        "The curves are of the first seed."
    )
    curves = _curves("Fig. 3: random against pretrained weights", found.histories["preliminary"])
    heading = "<h2>Preliminary: random against pretrained weights (Fig. 3)</h2>"
    return heading + _paragraphs(text) + curves + _seeded(found.preliminary)


def _heads(found: Findings) -> str:
    curves = _curves("Fig. 4: only a head trains", found.histories["heads"])
    return f"<h2>Only a head trains (Fig. 4, Table 1)</h2>{curves}{_runs(found.heads)}"


def _unfrozen(found: Findings, config: StudyConfig) -> str:
    text = (
        f"At most {config.unfrozen_epochs} epochs. The last table sets each run against the head of its architecture."
    )
    curves = _curves("Fig. 6: the last block, and everything, trains", found.histories["unfrozen"])
    paired = found.against_head
    if len(paired):
        difference = _intervals(paired, "macro_f1_difference", "low", "high")
        titles = {"only_this_right": "only this right", "only_head_right": "only the head right", "p": "p (McNemar)"}
        counts = paired[["run", *titles]].rename(columns=titles)
        counts.insert(1, "difference in val macro-F1", difference)
        text_below = table_html(counts)
    else:
        text_below = _paragraphs("No run to set against its head.")
    return (
        f"<h2>The last block, and everything, trains (Fig. 6)</h2>{_paragraphs(text)}{curves}"
        f"{_runs(found.unfrozen)}{text_below}"
    )


def _confusion(best: Best | None, home: Path) -> str:
    heading = "<h2>The best run (Table 2)</h2>"
    if best is None:
        return heading + _paragraphs("No run came to an end.")
    text = (
        f"{best.name}: the highest macro-F1 on val of all runs of Table 1 and Fig. 6. It was chosen by these images, "
        "so that its figures on val are too good; those on test, where they were looked at, are not."
    )
    parts = [heading, _paragraphs(text)]
    files = {"val": "confusion.png", "test": "evaluation-test.png"}
    for split, result in (("val", best.val), ("test", best.test)):
        if result is None:
            parts.append(_paragraphs("Split test was not looked at; --test does, and logs it."))
            continue
        figures = ", ".join(f"{name} {_of_summary(result, measure)}" for measure, name in MEASURES.items())
        sentence = f"{split}, {result['images']} images: {figures}. Chance: {result['chance_accuracy']:.2%}."
        picture = inline((home / best.name / files[split]).read_bytes(), "png")
        title = f"Confusion matrix on {split}: rows the true class"
        parts += [f"<h3>{split}</h3>", _paragraphs(sentence), f"<img alt='{title}' src='{picture}'>"]
        parts.append(table_html(pd.DataFrame(result["per_class"])))
    return "".join(parts)


def _heatmaps(pictures: dict[str, dict[str, list[Card]]]) -> str:
    text = {
        "misled": "Grad-CAM of the predicted class, yellow where the evidence is: the images whose evidence lies most "
        "outside the specimen, as the tool finds it.",
        "side by side": "Grad-CAM of the true class by the best run: the two classes that it confuses most.",
    }
    titles = {"misled": "What misleads (Fig. 5)", "side by side": "Two classes side by side (Fig. 7)"}
    parts = []
    for figure, title in titles.items():
        columns = [
            f"<section><h3>{html.escape(heading)}</h3><div class='grid'>{''.join(map(_card, cards))}</div></section>"
            for heading, cards in pictures.get(figure, {}).items()
        ]
        style = f"display:grid;gap:2rem;grid-template-columns:repeat({max(len(columns), 1)},1fr)"
        parts.append(f"<h2>{title}</h2>{_paragraphs(text[figure])}<div style='{style}'>{''.join(columns)}</div>")
    return "".join(parts)


def _colour(found: Findings) -> str:
    text = f"{found.lead}, a head on frozen layers. Grey is luma in all three channels."
    return f"<h2>Without colour</h2>{_paragraphs(text)}{_seeded(found.colour)}"


def _optimizers(found: Findings) -> str:
    text = (
        f"{found.lead}, a head on frozen layers; of each optimizer the learning rate with the highest mean macro-F1 on "
        "val. The gap is accuracy on the plain training images less that on the split."
    )
    grid, chosen = found.rates, found.optimizers.set_index("arm")["rate"].to_dict()
    ends = grid.groupby("optimizer")["rate"].agg(["min", "max"])
    at_end = [name for name, rate in chosen.items() if rate in ends.loc[name.lower()].to_list()]
    if at_end:
        text += f" At an end of the rates that were tried, so that a better one may lie beyond: {', '.join(at_end)}."
    table = _seeded(found.optimizers, rate="rate", train_accuracy="train accuracy", gap="gap")
    tried = [
        f"{name}: {', '.join(f'{row.rate:g} {_share(row.macro_f1)}' for row in rows.itertuples())}"
        for name, rows in grid.groupby("optimizer", sort=False)
    ]
    below = f"Rates tried, and their mean macro-F1 on val ('-' where a run diverged). {'; '.join(tried)}."
    return f"<h2>Optimizers</h2>{_paragraphs(text)}{table}{_paragraphs(below)}"


def _baselines(found: Findings) -> str:
    table = found.baselines
    shown = pd.DataFrame(
        {
            "classifier": table["classifier"],
            **{
                f"val {MEASURES[name]}": _intervals(table, name, f"{name}_low", f"{name}_high")
                for name in ("accuracy", "macro_f1")
            },
            "cross-validated macro-F1 on train": table["cross_validated_macro_f1"],
            "settings": table["settings"],
        }
    )
    text = "On colour and texture, settings by cross-validation on train alone (Lab histograms and moments, GLCM, LBP)."
    return f"<h2>Classical classifiers</h2>{_paragraphs(text)}{table_html(shown)}"


def _curation(found: Findings) -> str:
    heading = "<h2>Before and after curation</h2>"
    if not found.training_images:
        return heading + _paragraphs("No scraped manifest was given (--scraped).")
    counts = ", ".join(f"{label} {n}" for label, n in found.training_images.items())
    text = (
        f"{found.lead}, a head on frozen layers, the same recipe, judged on the same curated images. Both arms train "
        f"on as many images of a class, drawn anew for every seed ({counts}); images of val and test and their copies "
        "are in neither."
    )
    return heading + _paragraphs(text) + _seeded(found.curation)


def _settings(found: Findings, config: StudyConfig) -> str:
    asked = {
        "architectures": ", ".join(config.archs),
        "epochs of a head": config.epochs,
        "epochs of the others": config.unfrozen_epochs,
        "image size": config.image_size,
        "seeds": config.seeds,
        "split test": "looked at" if config.test else "not looked at",
        **{
            f"images in {part}": ", ".join(f"{k} {n}" for k, n in counts.items())
            for part, counts in found.counts.items()
        },
    }
    failed = [f"{run}: {why}" for run, why in found.failed.items()]
    text = (
        f"Runs without a result: {'; '.join(failed) or 'none'}. Every other setting is in the config.json of its run."
    )
    table = pd.DataFrame({"setting": list(asked), "value": list(map(str, asked.values()))})
    return f"<h2>Settings</h2>{table_html(table)}{_paragraphs(text)}"


def _runs(table: pd.DataFrame) -> str:
    """A table of `single_runs`; remarks only where there are some."""
    shown = pd.DataFrame({"run": table["run"], "start": table["start"]})
    if "accuracy" in table:
        for name in ("accuracy", "macro_f1"):
            shown[f"val {MEASURES[name]}"] = _intervals(table, name, f"{name}_low", f"{name}_high")
        pairs = {
            "recall, precision": ("macro_recall", "macro_precision"),
            "loss: train, val": ("train_loss", "val_loss"),
        }
        for title, names in pairs.items():
            shown[title] = [", ".join(map(_share, row)) for row in table[[*names]].to_numpy(float)]
        epochs = table[["best_epoch", "epochs"]].to_numpy(float)
        shown["best epoch"] = [f"{_whole(best)} of {_whole(done)}" for best, done in epochs]
        shown["seconds"] = [_whole(value) for value in table["seconds"]]
    return table_html(shown.assign(remark=table["note"]) if table["note"].any() else shown)


def _seeded(table: pd.DataFrame, **more: str) -> str:
    """A table of `seeded_runs`."""
    shown = table[["arm", "split", "seeds", "images"]].copy()
    shown["images"] = [_whole(value) for value in table["images"]]
    for name in ("accuracy", "macro_f1"):
        shown[MEASURES[name]] = _intervals(table, name, f"{name}_low", f"{name}_high")
    return table_html(shown.assign(**{title: table[column] for column, title in more.items()}))


def _curves(title: str, histories: dict[str, pd.DataFrame]) -> str:
    if not histories:
        return _paragraphs("No run came to an end.")
    return _picture(f"{title}; training solid, validation dashed", curves_figure(histories))


def _picture(title: str, figure: Figure) -> str:
    return _framed(title, inline(png(figure), "png"))


def _card(card: Card) -> str:
    return _framed(card.caption, inline(jpeg(card.picture), "jpeg"))


def _framed(caption: str, source: str) -> str:
    text = html.escape(caption, quote=True)
    return f"<figure><img alt='{text}' src='{source}'><figcaption>{text}</figcaption></figure>"


def _paragraphs(*texts: str) -> str:
    return "".join(f"<p>{html.escape(text)}</p>" for text in texts)


def _intervals(table: pd.DataFrame, value: str, low: str, high: str) -> list[str]:
    return [_interval(*row) for row in table[[value, low, high]].to_numpy(float)]


def _interval(value: float, low: float, high: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f} ({low:.3f} to {high:.3f})".replace(" ", "\N{NO-BREAK SPACE}")


def _said(row: pd.Series, measure: str) -> str:
    value, low, high = (float(row.get(f"{measure}{end}", math.nan)) for end in ("", "_low", "_high"))
    return "-" if math.isnan(value) else f"{value:.2%} ({low:.2%} to {high:.2%})"


def _of_summary(result: dict[str, Any] | None, measure: str) -> str:
    """A figure of a summary, with its interval where that has one."""
    if result is None:
        return "-"
    ends = result["interval_95"].get(measure)
    return f"{result[measure]:.2%}" + (f" ({ends[0]:.2%} to {ends[1]:.2%})" if ends else "")


def _share(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f}"


def _whole(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.0f}"
