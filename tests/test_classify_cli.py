import json
import subprocess
import sys

import pytest

from classify.cli import main
from tests.test_data import damage, textures


def run(capsys, *words):
    """(exit code, stdout, stderr) of the command."""
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    captured = capsys.readouterr()
    return stopped.value.code, captured.out, captured.err


def train_words(tmp_path, *more):
    words = ["train", "-m", tmp_path / "m.csv", "--data", tmp_path, "--runs", tmp_path / "runs", "--threads", 1]
    return [*words, "--arch", "small_cnn", "--image-size", 32, "--epochs", 2, "--name", "quick", *more]


def test_train_evaluate_explain_predict(tmp_path, capsys):
    manifest = textures(tmp_path)
    code, out, _ = run(capsys, *train_words(tmp_path))
    assert code == 0
    assert out.startswith("small_cnn has no pretrained weights")
    assert out.splitlines()[-1].startswith("validation accuracy ")
    assert out.rstrip().endswith("report.html")
    quick = tmp_path / "runs" / "quick"
    common = ["-m", tmp_path / "m.csv", "--data", tmp_path]

    code, out, _ = run(capsys, "evaluate", quick, *common, "--split", "test")
    assert code == 0
    assert "olivine" in out
    assert out.splitlines()[-1].startswith("test accuracy ")
    assert (quick / "test-log.jsonl").exists()

    code, out, _ = run(capsys, "explain", quick, *common, "--split", "val")
    assert code == 0
    assert out.startswith("9 heatmaps of split val: ")
    assert (quick / "explain-val" / "index.html").exists()

    name = damage(tmp_path, manifest, 0)
    code, out, _ = run(capsys, "predict", quick, tmp_path / "granite0.png", tmp_path / name, "--json")
    assert code == 0
    good, bad = json.loads(out)
    assert good["predicted"] in set(manifest["label"])
    assert good["error"] is None
    assert "ImageError" in bad["error"]
    assert bad["predicted"] is None
    code, out, _ = run(capsys, "predict", quick, tmp_path / "granite0.png", tmp_path / name)
    assert out.splitlines()[-1].startswith("1 photos predicted by ")


def test_an_error_is_one_line_that_says_what_to_do(tmp_path, capsys):
    textures(tmp_path)
    code, _, err = run(capsys, "train", "-m", tmp_path / "missing.csv")
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith("error: ")
    assert "no such manifest" in err
    code, _, err = run(capsys, *train_words(tmp_path, "--weights", tmp_path / "missing.pth"))
    assert code == 1
    assert "missing.pth: no such file" in err
    code, _, err = run(capsys, "evaluate", tmp_path / "nowhere", "-m", tmp_path / "m.csv")
    assert code == 1
    assert "no trained run" in err


def test_labels_are_no_markup(tmp_path, capsys):
    textures(tmp_path, labels=("basalt", "granite"))
    text = (tmp_path / "m.csv").read_text().replace(",basalt,", ",[red]basalt,")
    (tmp_path / "m.csv").write_text(text)
    run(capsys, *train_words(tmp_path))
    _, out, _ = run(capsys, "evaluate", tmp_path / "runs" / "quick", "-m", tmp_path / "m.csv", "--data", tmp_path)
    assert "[red]basalt" in out


@pytest.mark.slow
def test_predict_warns_of_what_is_no_specimen_and_export_and_sweep_say_where(tmp_path, capsys, monkeypatch):
    textures(tmp_path, train=12, val=8)
    run(capsys, *train_words(tmp_path))
    quick = tmp_path / "runs" / "quick"
    common = ["-m", tmp_path / "m.csv", "--data", tmp_path]
    photo = tmp_path / "granite0.png"

    code, out, _ = run(capsys, "predict", quick, photo, *common, "--heatmaps", tmp_path / "maps")
    assert code == 0
    assert "specimen: no where a photo is further than" in out
    assert out.rstrip().endswith(f"Heatmaps: {tmp_path / 'maps'}")
    assert [path.name for path in (tmp_path / "maps").iterdir()] == ["0001-granite0.jpg"]
    code, out, err = run(capsys, "predict", quick, photo, "--data", tmp_path, "--json")
    assert "specimen" not in json.loads(out)[0]
    assert "give --manifest, the one that the run was trained on" in err
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / "balanced.csv").write_bytes((tmp_path / "m.csv").read_bytes())
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(capsys, "predict", quick, photo, "--data", tmp_path, "--json")
    assert json.loads(out)[0]["distance"] >= 0, "the usual manifest is the run's"

    code, out, _ = run(
        capsys, "export", quick, *common, "--format", "safetensors", "-o", tmp_path / "out" / "x.safetensors"
    )
    assert code == 0
    assert "says what PyTorch says of 16 photos of split val" in out
    assert (tmp_path / "out" / "MODEL_CARD.md").exists()

    few = ["--arch", "small_cnn", "--freeze", "none", "--batch-size", 8, "--dropout", 0.2, "--weight-decay", 0.001]
    words = ["--lr", 0.01, "--lr", 0.05, "--epochs", 1, "--image-size", 32, "--runs", tmp_path / "runs", "--threads", 1]
    code, out, _ = run(capsys, "sweep", *common, *few, *words, "--name", "tiny")
    assert code == 0
    assert out.splitlines()[-1].startswith("2 trials done, 0 failed.")
    assert (tmp_path / "runs" / "tiny" / "sweep.html").exists()


COMMANDS = ("train", "evaluate", "compare", "sweep", "study", "explain", "predict", "export")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(command, capsys):
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert f"classify {command} " in " ".join(out.split())


def test_help_loads_no_torch():
    code = "import sys\nfrom classify.cli import main\n"
    code += "try: main(['--help'])\nexcept SystemExit: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
