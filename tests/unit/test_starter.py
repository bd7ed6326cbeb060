"""The starter file: what the folder says is in it, and what is written loads and passes the check of its data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from search.cli import main
from search.config import load_sweep
from search.starter import starter
from tests.support.folders import listed_folder
from trainable import strict_yaml
from trainable.data.synth import write_scenes
from trainable.errors import ConfigError
from trainable.recipes import RECIPES


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("starter") / "scenes"
    write_scenes(made, photos=4, patches_per_photo=4, size=64, labeled=4, seed=0)
    return made


@pytest.fixture
def particles(scenes: Path, tmp_path: Path) -> Path:
    """Images with coordinates, and no masks."""
    made = tmp_path / "particles"
    shutil.copytree(scenes / "images", made / "images")
    names = sorted(path.name for path in (made / "images").iterdir())
    (made / "coordinates.json").write_text(json.dumps({name: [[9, 9], [40, 30]] for name in names[:10]}))
    return made


def test_other_lists_of_labeled_images_are_named(tmp_path: Path) -> None:
    write_scenes(tmp_path / "s", photos=4, patches_per_photo=4, size=64, labeled=4, seed=0)
    assert "other lists" not in starter(tmp_path / "s", tmp_path / "s.yaml")
    for name in ("n1", "n2"):
        (tmp_path / "s" / "splits" / name).mkdir()
        (tmp_path / "s" / "splits" / name / "labelled.txt").write_text("p00_0\n")
    text = starter(tmp_path / "s", tmp_path / "s.yaml")
    assert "  # other lists of labeled images: splits/n1/labelled.txt, splits/n2/labelled.txt\n" in text


@pytest.mark.parametrize("recipe", sorted(RECIPES.keys() - {"surface", "self_training_rounds"}))
def test_the_file_of_every_recipe_loads(recipe: str, scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(starter(scenes, tmp_path / "s.yaml", recipe=recipe))
    made = load_sweep(tmp_path / "s.yaml", ["train.encoder_weights=null"])
    assert (made.recipe, made.search.objective) == (recipe, RECIPES[recipe].objective)
    assert made.train["crop_size"] == 64


def test_coordinates_are_proposed_with_the_recipe_that_learns_from_them(particles: Path, tmp_path: Path) -> None:
    file = tmp_path / "first.yaml"
    assert main(["init", str(particles), "-o", str(file)]) == 0
    assert main(["data", "check", str(file)]) == 0
    data = strict_yaml.load(file).data
    assert (data["recipe"], data["search"]["objective"]) == ("self_training_rounds", "val/f1")
    assert data["data"]["points"] == {"file": "coordinates.json", "radius": 10}
    assert load_sweep(file).space == "self_training_rounds/quick"


def test_masks_go_before_coordinates_and_the_file_says_how_to_turn_that_round(scenes: Path, tmp_path: Path) -> None:
    both = tmp_path / "both"
    shutil.copytree(scenes, both)
    (both / "points.csv").write_text("image,x,y\n")
    text = starter(both, tmp_path / "s.yaml")
    assert "  # points: {file: points.csv, radius: 10}\n" in text and "recipe: per_class " in text
    (both / "class_mapping.csv").write_text("class_name,class_color\nnone,0 0 0\nparticle,255 255 255\n")
    assert "recipe: self_training_rounds " in starter(both, tmp_path / "s.yaml")
    assert "recipe: surface " in starter(both, tmp_path / "s.yaml", recipe="surface")


def test_a_list_of_val_images_alone_is_kept(tmp_path: Path) -> None:
    listed_folder(tmp_path / "set")
    (tmp_path / "set/splits/labeled.txt").unlink()
    text = starter(tmp_path / "set", tmp_path / "s.yaml")
    assert "  val: splits/val.txt\n" in text and "val_fraction" not in text


def test_what_the_file_could_not_be_checked_with_is_refused(scenes: Path, tmp_path: Path) -> None:
    for wrong, words in (({"recipe": "surface"}, "surface must have two classes"), ({"recipe": "per_clas"}, "did you"),
                         ({"name": "../x"}, "--name: name must be"), ({"group_by": "(p"}, "--group-by: ")):  # fmt: skip
        with pytest.raises(ConfigError, match=words):
            starter(scenes, tmp_path / "s.yaml", **wrong)
