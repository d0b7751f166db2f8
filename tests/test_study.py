"""The plan of a study, its runs, what they show, and the report; one tiny study is trained for several tests."""

import dataclasses
import json
import math
import re

import numpy as np
import pandas as pd
import pytest
import torch

import classify.baselines
import classify.study
import classify.study_plan
import classify.train
from classify.models import build
from classify.study import PLAN, RESULTS, Clock, find_start, parse_weights, run_study, train_all
from classify.study_findings import OPEN, OPPOSITE, SHOWN, Arm, resampled, verdict
from classify.study_page import study_page
from classify.study_pictures import confused
from classify.study_plan import (
    BALANCED,
    HEAD,
    PRETRAINED,
    RANDOM,
    RATES,
    SCRAPED,
    Start,
    StudyConfig,
    before_and_after,
    experiments,
    lead_arch,
    plan,
)
from classify.train import Diverged
from curate.errors import CurateError
from tests.html_page import Page
from tests.test_data import textures

TINY = StudyConfig(archs=("small_cnn",), epochs=2, unfrozen_epochs=1, image_size=32, seeds=2, threads=1)
ON_IMAGENET, ON_CHANCE = Start("w.pth"), Start("none", "random weights, as asked for")
HOSTILE = "<script>alert(1)</script>"


def rows(text: str) -> pd.DataFrame:
    """A manifest out of words: `a1:a:train:x` is image a1 of class a in split train, a duplicate of x."""
    parts = [[*word.split(":"), "", ""][:4] for word in text.split()]
    table = pd.DataFrame(parts, columns=["image_id", "label", "split", "duplicate_of"])
    table = table.assign(file_name=table["image_id"] + ".jpg", sha256="of " + table["image_id"], status="accepted")
    return table.replace("", np.nan)


SMALL = rows("a1:a:train a2:a:train a3:a:val b1:b:train b2:b:train b3:b:val")


# the plan


def test_a_run_that_several_questions_need_is_trained_once():
    starts = {"resnet18": ON_IMAGENET, "vgg16": ON_CHANCE}
    config = StudyConfig(archs=("vgg16", "resnet18"), epochs=7, unfrozen_epochs=3, seeds=6)
    parts = plan(config, starts, SMALL)
    head = parts["heads"]["resnet18"][0]
    for part, arm in (("preliminary", HEAD), ("colour", "trained on colour"), ("optimizers", "sgd 0.01")):
        assert parts[part][arm][0].name == head.name == "resnet18-head-seed0"
        assert parts[part][arm][0].config == head.config
    names = [run.name for run in experiments(parts)]
    assert len(names) == len(set(names))
    assert head.config.epochs == 7
    assert parts["unfrozen"]["vgg16, nothing frozen"][0].config.epochs == 3
    assert [run.config.seed for run in parts["preliminary"][RANDOM]] == [0, 1, 2, 3, 4, 5]
    assert {run.config.weights for run in parts["preliminary"][RANDOM]} == {"none"}
    assert parts["heads"]["vgg16"][0].name == "vgg16-head-random-seed0", "the name says that it begins at random"


def test_two_runs_of_one_name_are_the_same_run():
    scraped = rows("a4:a a5:a b4:b b5:b")
    parts = plan(StudyConfig(archs=("resnet18",), seeds=3), {"resnet18": ON_IMAGENET}, SMALL, scraped)
    every = [run for arms in parts.values() for runs in arms.values() for run in runs]
    for run in every:
        same = next(other for other in experiments(parts) if other.name == run.name)
        assert same.config == run.config
        pd.testing.assert_frame_equal(same.manifest, run.manifest)


def test_every_optimizer_is_tuned_over_as_many_rates():
    assert len({len(rates) for rates in RATES.values()}) == 1
    parts = plan(StudyConfig(archs=("resnet18",)), {"resnet18": ON_IMAGENET}, SMALL)
    tried = {(runs[0].config.optimizer, runs[0].config.learning_rate) for runs in parts["optimizers"].values()}
    assert tried == {(name, rate) for name, rates in RATES.items() for rate in rates}


@pytest.mark.parametrize(
    ("pretrained", "lead"),
    [("vgg16 resnet18", "resnet18"), ("vgg16", "vgg16"), ("squeezenet1_1", "squeezenet1_1"), ("", "vgg16")],
)
def test_seeds_are_spent_on_resnet18_or_else_on_the_first_that_is_pretrained(pretrained, lead):
    archs = ("vgg16", "resnet18", "squeezenet1_1")
    assert lead_arch(archs, {arch: ON_IMAGENET if arch in pretrained.split() else ON_CHANCE for arch in archs}) == lead


def test_without_pretrained_weights_nothing_is_called_pretrained():
    parts = plan(StudyConfig(archs=("resnet18",)), {"resnet18": ON_CHANCE}, SMALL)
    assert list(parts["preliminary"]) == [RANDOM]
    assert {run.config.weights for run in experiments(parts)} == {"none"}


# before and after curation


def test_before_and_after_differ_in_the_training_images_alone():
    balanced = rows("a1:a:train a2:a:train a3:a:val a4:a:test b1:b:train b2:b:train b3:b:val b4:b:test")
    scraped = rows("a1:a a7:a a8:a a9:a b7:b b8:b:train c1:c")
    before, after = before_and_after(balanced, scraped, 0)
    for made in (before, after):
        held = made[made["split"] != "train"]
        assert held[["image_id", "split"]].to_numpy().tolist() == [
            ["a3", "val"],
            ["b3", "val"],
            ["a4", "test"],
            ["b4", "test"],
        ]
        assert made.query("split == 'train'")["label"].value_counts().to_dict() == {"a": 2, "b": 2}
        assert (made["status"] == "accepted").all()
    assert set(after.query("split == 'train'")["image_id"]) == {"a1", "a2", "b1", "b2"}
    assert set(before.query("split == 'train'")["image_id"]) <= {"a1", "a7", "a8", "a9", "b7", "b8"}


def test_no_copy_of_a_judged_image_is_trained_on():
    """a3 and b3 are judged. x2 is a copy of x1, x1 of a3, as is y under another class; z has the bytes of b3."""
    balanced = rows("a1:a:train a2:a:train a3:a:val b1:b:train b2:b:train:b3 b3:b:val")
    scraped = rows("a3:a x1:a::a3 x2:a::x1 a7:a b3:b y:b::a3 z:b b7:b")
    scraped.loc[scraped["image_id"] == "z", "sha256"] = "of b3"
    for seed in range(4):
        before, after = before_and_after(balanced, scraped, seed)
        assert set(before.query("split == 'train'")["image_id"]) == {"a7", "b7"}
        assert set(after.query("split == 'train'")["image_id"]) < {"a1", "a2", "b1"}


def test_the_draw_depends_on_the_seed_and_not_on_the_order():
    scraped = rows(" ".join(f"{label}{i}:{label}" for label in "ab" for i in range(10, 30)))
    drawn = [set(before_and_after(SMALL, scraped, seed)[0]["image_id"]) for seed in range(3)]
    assert drawn[0] != drawn[1]
    assert set(before_and_after(SMALL, scraped[::-1], 0)[0]["image_id"]) == drawn[0]


def test_manifests_of_different_collections_are_refused():
    with pytest.raises(CurateError, match="class b: no image to train on in one of the two"):
        before_and_after(SMALL, rows("a7:a a8:a b3:b"), 0)


# what runs show


def arm(*predicted: str, label: str = "aabbaabb"):
    """What runs say of eight images, a letter each."""
    told = np.array([["ab".index(letter) for letter in text] for text in predicted])
    truth = np.array(["ab".index(letter) for letter in label])
    return Arm(("a", "b"), tuple(f"{i}" for i in range(len(label))), truth, told)


def test_a_figure_is_the_mean_over_the_seeds_and_its_interval_holds_it():
    samples = resampled(arm("aabbaabb", "aabbaaaa"))
    assert samples.accuracy[0] == pytest.approx((1 + 6 / 8) / 2)
    assert samples.macro_f1[0] == pytest.approx((1 + (8 / 10 + 4 / 6) / 2) / 2)
    low, high = np.quantile(samples.accuracy[1:], (0.025, 0.975))
    assert 0.25 < low < samples.accuracy[0] < high == 1


def test_an_interval_over_seeds_is_wider_where_they_scatter():
    """Both arms are right in 12 of 16; in one, one seed has all the errors."""
    even, uneven = resampled(arm("aabbaaaa", "aaaaaabb")), resampled(arm("aabbaabb", "bbbbaaaa"))
    spread = [np.std(samples.accuracy) for samples in (even, uneven)]
    assert even.accuracy[0] == uneven.accuracy[0] == 0.75
    assert spread[1] > spread[0]


def test_a_verdict_is_computed_from_the_interval():
    """Wrong everywhere, right everywhere, right in one image more."""
    right, wrong, nearly = arm(*["aabbaabb"] * 3), arm(*["bbaabbaa"] * 3), arm(*["aabbaaba"] * 3)
    assert verdict("x", "val", right, wrong).answer == SHOWN
    assert verdict("x", "val", wrong, right).answer == OPPOSITE
    assert verdict("x", "val", right, nearly).answer == OPEN
    assert verdict("x", "val", right, right)[3:6] == (0, 0, 0)
    assert verdict("x", "val", right, wrong).difference == 1


def test_only_images_that_both_have_are_compared():
    right = arm("aabbaabb")
    some = Arm(right.classes, right.image_ids[:5], right.label[:5], 1 - right.predicted[:, :5])
    found = verdict("x", "val", right, some)
    assert (found.images, found.seeds, found.difference) == (5, 1, 1)


def test_the_two_classes_that_are_confused_most():
    classes = ("a", "b", "c")
    assert confused(np.array([[5, 0, 2], [1, 5, 0], [2, 2, 5]]), classes) == ("a", "c")
    assert confused(np.diag([5, 5, 5]), classes) == ("a", "b")


# weights


def test_weights_are_given_by_architecture():
    assert parse_weights(["resnet18=a=b.pth", "vgg16=none"]) == {"resnet18": "a=b.pth", "vgg16": "none"}
    for wrong in (["resnet18"], ["=x"], ["resnet18="], ["vgg16=none", "vgg16=x"]):
        with pytest.raises(CurateError, match="give ARCH=PATH"):
            parse_weights(wrong)


def test_an_architecture_whose_weights_cannot_be_had_begins_at_random_and_says_why(tmp_path, monkeypatch):
    torch.save(build("small_cnn", 2, weights="none").state_dict(), tmp_path / "w.pth")
    assert find_start("small_cnn", str(tmp_path / "w.pth")) == (str(tmp_path / "w.pth"), "")
    assert find_start("small_cnn", None) == ("none", "small_cnn has no pretrained weights")
    assert find_start("small_cnn", "none").weights == "none"
    with pytest.raises(CurateError, match="does not fit"):
        find_start("squeezenet1_1", str(tmp_path / "w.pth"))
    with pytest.raises(CurateError, match="resnet81"):
        find_start("resnet81", None)

    def offline(arch, classes, *, weights):
        if weights == "DEFAULT":
            raise CurateError("the pretrained weights could not be downloaded")

    monkeypatch.setattr(classify.study, "build", offline)
    assert find_start("resnet18", None) == ("none", "the pretrained weights could not be downloaded")


# running


@pytest.fixture
def trained(monkeypatch):
    """Names of the runs that are trained, instead of training them."""
    names = []

    def train(manifest, root, config, folder, **_):
        names.append(folder.name)
        if config.learning_rate > 1:
            raise Diverged("epoch 1, batch 1: the loss is nan, training has diverged and is stopped.")
        folder.mkdir(parents=True)
        (folder / "last.pt").write_text("state")
        (folder / "metrics.json").write_text(json.dumps({"seconds": 10.0}))

    monkeypatch.setattr(classify.study, "train", train)
    return names


def runs_of(number: int):
    parts = plan(StudyConfig(archs=("resnet18",), seeds=max(number, 2)), {"resnet18": ON_IMAGENET}, SMALL)
    return parts["preliminary"][RANDOM][:number]


def test_finished_runs_are_not_trained_again(tmp_path, trained):
    runs, said = runs_of(4), []
    train_all(runs[:2], tmp_path, tmp_path, cache=tmp_path, say=said.append, progress=None)
    assert not list(tmp_path.rglob("last.pt")), "a finished run needs no state to go on from"
    train_all(runs, tmp_path, tmp_path, cache=tmp_path, say=said.append, progress=None)
    assert trained == [run.name for run in runs]
    assert said[0] == "experiment 1 of 2: resnet18-none-random-seed0; no estimate yet of the time left"
    assert said[2].startswith("experiment 3 of 4: resnet18-none-random-seed2; about a minute")


def test_a_run_that_diverges_is_named_and_the_others_go_on(tmp_path, trained):
    runs = runs_of(3)
    runs[1] = runs[1]._replace(config=dataclasses.replace(runs[1].config, learning_rate=1e9))
    failed = train_all(runs, tmp_path, tmp_path, cache=tmp_path, say=lambda _: None, progress=None)
    assert list(failed) == ["resnet18-none-random-seed1"]
    assert "diverged" in failed["resnet18-none-random-seed1"]
    assert len(trained) == 3


def test_a_real_run_that_diverges_is_known(tmp_path):
    run = plan(TINY, {"small_cnn": ON_CHANCE}, textures(tmp_path))["preliminary"][RANDOM][0]
    config = dataclasses.replace(run.config, learning_rate=1e30, epochs=9)
    failed = train_all(
        [run._replace(config=config)], tmp_path, tmp_path / "runs", cache=tmp_path, say=print, progress=None
    )
    assert "the loss is" in failed["small_cnn-none-random-seed0"]


def test_the_time_left_is_that_of_the_last_run_of_the_kind(tmp_path):
    runs = runs_of(6)
    clock = Clock(runs, tmp_path)
    assert clock.left() == "no estimate yet of the time left"
    clock.took(runs[0], 300)
    clock.took(runs[1], 240)
    assert clock.left() == "about 16 minutes of training left", "4 runs of 240 seconds"
    other = plan(StudyConfig(archs=("vgg16",), unfrozen_epochs=50), {"vgg16": ON_IMAGENET}, SMALL)["preliminary"][
        RANDOM
    ][:1]
    clock = Clock([*runs[:1], *other], tmp_path)
    clock.took(runs[0], 303)
    # 15.47 and 1.81 gigaflops, as torchvision says, and 3 seconds beside the work
    assert clock.left() == f"about {(300 * 15.47 / 1.814 + 3) / 60:.0f} minutes of training left"


# a whole study


class Killed(Exception):
    pass


def killed_before_the_fifth(line):
    if line.startswith("experiment 5"):
        raise Killed


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A study of three classes, stopped and then finished: its folder, what it was given, findings, what it said."""
    root = tmp_path_factory.mktemp("study")
    balanced = textures(root)
    balanced["label"] = balanced["label"].replace("granite", HOSTILE)
    torch.save(build("small_cnn", 2, weights="none", seed=11).state_dict(), root / "w.pth")
    scraped = balanced.assign(status="candidate").drop(columns="split")
    given = {"weights": {"small_cnn": str(root / "w.pth")}, "scraped": scraped}
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classify.study_plan, "RATES", {name: RATES[name][1:2] for name in ("sgd", "adam")})
        patch.setattr(classify.baselines, "FOLDS", 2)
        for name in ("curves_png", "run_page"):
            patch.setattr(classify.train, name, lambda *_: None)
        with pytest.raises(Killed):
            run_study(balanced, root, TINY, root / "runs" / "tiny", say=killed_before_the_fifth, **given)
        found = run_study(balanced, root, TINY, root / "runs" / "tiny", say=said.append, **given)
        yield root, (balanced, given), found, said


@pytest.mark.slow
def test_a_study_that_was_stopped_goes_on_where_it_was(whole):
    said = whole[-1]
    number = int(said[0].split()[3].rstrip(":"))
    assert [line.split(":")[0] for line in said[: number - 4]] == [
        f"experiment {i} of {number}" for i in range(5, number + 1)
    ]
    assert said[number - 4] == "classical classifiers on colour and texture"


@pytest.mark.slow
def test_the_report_says_what_was_shown_and_opens_offline(whole):
    root, _, found, _ = whole
    text = (root / "runs" / "tiny" / "report.html").read_text()
    page = Page(text)
    assert "http" not in text
    assert "<script" not in text
    assert HOSTILE in page.text
    assert all(image["src"].startswith("data:image/") for image in page.all("img"))
    assert len(page.all("img")) > 15, "curves, differences, a matrix and heatmaps"
    for row in found.verdicts.itertuples():
        assert row.claim in page.text
    for figure in ("66.07%", "91.17%", "75.00%", "14.29%", "33.33%", "1.946", "1.099"):
        assert figure in page.text, "the study's figures, ours and chance"
    titles = re.findall("<h2>(.*?)</h2>", text)
    assert titles[0] == "What was shown, and what was not"
    assert [title for title in titles if "Fig." in title or "Table" in title] == [
        "Preliminary: random against pretrained weights (Fig. 3)",
        "Only a head trains (Fig. 4, Table 1)",
        "The last block, and everything, trains (Fig. 6)",
        "The best run (Table 2)",
        "What misleads (Fig. 5)",
        "Two classes side by side (Fig. 7)",
    ]


@pytest.mark.slow
def test_the_results_are_written_in_plain_types(whole):
    root, _, found, _ = whole
    results = json.loads((root / "runs" / "tiny" / RESULTS).read_text())
    assert [row["claim"] for row in results["verdicts"]] == found.verdicts["claim"].tolist()
    assert results["best"]["name"] == found.best.name
    assert results["curation"][0]["arm"] == SCRAPED
    answers = {row["answer"] for row in results["verdicts"] if row["images"]}
    assert answers <= {SHOWN, OPPOSITE, OPEN}
    assert {row["claim"] for row in results["verdicts"] if not row["images"]} == {
        "SGD generalises better than AdaGrad",
        "SGD generalises better than RMSProp",
    }, "no run of this tiny study used these two"


@pytest.mark.slow
def test_the_tables_are_those_of_the_runs(whole):
    root, _, found, _ = whole
    metrics = json.loads((root / "runs" / "tiny" / "small_cnn-head-seed0" / "metrics.json").read_text())
    assert found.heads["macro_f1"].tolist() == [metrics["val"]["macro_f1"]]
    seeds = [
        json.loads((root / "runs" / "tiny" / f"small_cnn-none-random-seed{i}" / "metrics.json").read_text())
        for i in (0, 1)
    ]
    random = found.preliminary[found.preliminary["arm"] == RANDOM].iloc[0]
    assert random["macro_f1"] == pytest.approx(np.mean([run["val"]["macro_f1"] for run in seeds]))
    assert found.preliminary["arm"].tolist() == [RANDOM, PRETRAINED, HEAD]
    assert found.curation["arm"].tolist() == [SCRAPED, BALANCED]
    assert found.training_images == {HOSTILE: 6, "basalt": 6, "olivine": 6}
    assert (found.optimizers["gap"] == found.optimizers["train_accuracy"] - found.optimizers["accuracy"]).all()
    grey = found.colour.iloc[1]
    assert grey["arm"] == "trained on colour, seen in grey"
    predictions = pd.read_csv(root / "runs" / "tiny" / "small_cnn-head-seed0" / "predictions-val-grayscale.csv")
    assert len(predictions) == 9


@pytest.mark.slow
def test_a_finished_study_goes_on_with_nothing_to_train_and_looks_at_test_when_asked(whole):
    root, (balanced, given), found, _ = whole
    home, said = root / "runs" / "tiny", []
    assert not list(home.rglob("test-log.jsonl"))
    looked = run_study(balanced, root, dataclasses.replace(TINY, test=True), home, say=said.append, **given)
    assert not [line for line in said if line.startswith("experiment")]
    looks = {log.parent.name: log.read_text().splitlines() for log in home.rglob("test-log.jsonl")}
    assert found.best.name in looks
    for lines in looks.values():
        ablations = [json.loads(line)["ablation"] for line in lines]
        assert len(ablations) == len(set(ablations)), "no image is looked at twice"
    assert looked.best.test["images"] == 6
    assert set(looked.verdicts["split"]) == {"val", "test"}
    assert looked.preliminary.query("split == 'val'").equals(found.preliminary)


@pytest.mark.slow
def test_a_study_of_other_settings_or_images_is_left_alone(whole):
    root, (balanced, given), _, _ = whole
    home = root / "runs" / "tiny"
    with pytest.raises(CurateError, match="begun with other settings"):
        run_study(balanced, root, dataclasses.replace(TINY, epochs=9), home, **given)
    with pytest.raises(CurateError, match="begun with other images"):
        run_study(balanced[1:], root, TINY, home, **given)
    with pytest.raises(CurateError, match="begun with other weights"):
        run_study(balanced, root, TINY, home, weights={"small_cnn": "none"}, scraped=given["scraped"])
    with pytest.raises(CurateError, match="is no study"):
        run_study(balanced, root, TINY, root, **given)
    with pytest.raises(CurateError, match="resnet18: none of the architectures"):
        run_study(balanced, root, TINY, root / "runs" / "new", weights={"resnet18": "none"})


def test_a_damaged_plan_is_named(tmp_path):
    (tmp_path / PLAN).write_text("{")
    with pytest.raises(CurateError, match=r"study.json is damaged"):
        run_study(SMALL, tmp_path, TINY, tmp_path)


@pytest.mark.slow
def test_what_was_not_examined_says_why(whole, tmp_path):
    """The same findings without pretrained weights, scraped manifest and results."""
    _, _, found, _ = whole
    nothing = found.verdicts.iloc[:1].assign(answer="not examined: no scraped manifest is given", difference=math.nan)
    bare = found._replace(
        verdicts=nothing,
        best=None,
        curation=found.curation[:0],
        training_images={},
        histories={part: {} for part in found.histories},
    )
    study_page("bare", bare, TINY, {}, tmp_path)
    text = Page((tmp_path / "report.html").read_text()).text
    assert "not examined: no scraped manifest is given" in text
    assert "Shown: nothing." in text
    assert "No run came to an end." in text
    assert "No scraped manifest was given (--scraped)." in text
