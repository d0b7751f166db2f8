import pytest

from curate.errors import CurateError
from curate.recipe import copy_shipped, read_recipe, shipped_recipes, write_recipe

CLASS = '[[classes]]\nname = "oak"\nqueries = ["oak leaf"]\n'


def recipe(tmp_path, text: str):
    (tmp_path / "r.toml").write_text(text)
    return read_recipe(tmp_path / "r.toml")


def test_the_shipped_igneous_recipe_is_the_studys(tmp_path):
    copy_shipped("igneous", tmp_path / "igneous.toml")
    igneous = read_recipe(tmp_path / "igneous.toml")
    assert igneous.labels == ["andesite", "basalt", "diorite", "gabbro", "granite", "peridotite", "rhyolite"]
    assert igneous.target == 73
    assert igneous.sources == ("bing", "google", "openverse", "commons", "flickr")
    assert {"countertop", "tile", "map", "thin section"} <= set(igneous.exclude)
    assert all(len(igneous.queries(label)) >= 4 for label in igneous.labels)


@pytest.mark.parametrize("name", ["igneous", "metamorphic", "sedimentary"])
def test_every_shipped_recipe_is_valid(tmp_path, name):
    assert name in shipped_recipes()
    copy_shipped(name, tmp_path / "r.toml")
    assert len(read_recipe(tmp_path / "r.toml").classes) >= 6


def test_a_new_recipe_has_queries_for_each_class(tmp_path):
    write_recipe("trees", ["oak", 'silver "birch"'], tmp_path / "trees.toml")
    trees = read_recipe(tmp_path / "trees.toml")
    assert trees.labels == ["oak", 'silver "birch"']
    assert trees.queries("oak")[0] == "oak"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (CLASS + "quieries = 3", "unknown key 'quieries'"),
        ("tarqet = 73\n" + CLASS, "unknown key 'tarqet'. Known: name, classes, target"),
        ('target = "many"\n' + CLASS, "needs a whole number"),
        ("target = 0\n" + CLASS, "less than 1"),
        ("target = true\n" + CLASS, "needs a whole number"),
        ('sources = "bing"\n' + CLASS, "needs a list"),
        (CLASS + CLASS, "two classes of one name: oak"),
        (CLASS + CLASS.replace('"oak"', '"Oak"'), "two classes of one name"),
        ('[[classes]]\nname = "oak"\nqueries = []', "class oak is empty"),
        ('[[classes]]\nname = "../oak"\nqueries = ["x"]', "needs a name"),
        ('name = "x"', "no classes"),
        ("name = ", "not valid TOML"),
        (CLASS + "[web]\nthread = 3", "unknown key 'thread'"),
    ],
)
def test_a_typo_stops_the_run_and_is_named(tmp_path, text, says):
    with pytest.raises(CurateError) as error:
        recipe(tmp_path, text)
    assert says in str(error.value)


def test_a_missing_recipe_names_the_shipped_ones(tmp_path):
    with pytest.raises(CurateError, match="curate init NAME"):
        read_recipe(tmp_path / "none.toml")


def test_an_existing_recipe_is_not_overwritten(tmp_path):
    (tmp_path / "igneous.toml").write_text("mine")
    with pytest.raises(CurateError, match="there already"):
        copy_shipped("igneous", tmp_path / "igneous.toml")
    assert (tmp_path / "igneous.toml").read_text() == "mine"
