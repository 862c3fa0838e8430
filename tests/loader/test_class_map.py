"""Class maps by name: ImageNet's classes, and those of a file."""

from pathlib import Path

import pytest
from runs import train
from timm.data import ImageNetInfo
from timm.data.imagenet_info import _NUM_CLASSES_TO_SUBSET
from tiny_models import Noise

from kdcache.config.spec import Spec
from kdcache.errors import ModelError, UsageError
from kdcache.loader.cache_specs import NO_OPTIONS, parse_cache
from kdcache.loader.class_map import read_class_map, read_teacher_names
from kdcache.models.imagenet_names import imagenet_names
from kdcache.sources import DatasetSource

BIRDS = DatasetSource(Noise(3, classes=3), Spec("birds"))
BIRDS.class_names = ("finch", "owl", "hen")


def mapped(path: Path, text: str, classes: int, **names: tuple[str, ...]) -> dict[int, int]:
    """Return the student's class by the teacher's, of those that have one."""
    (path / "map.csv").write_text(text)
    table = read_class_map(str(path / "map.csv"), BIRDS, classes, teacher_names=names.get("names"))
    return {teacher: int(student) for teacher, student in enumerate(table) if student >= 0}


def test_classes_of_imagenet_are_called_by_id_by_synonym_or_by_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (
        "student,teacher\nfinch,brambling\nfinch,n01531178\nfinch,Fringilla montifringilla\n"
        'owl,"great grey owl, great gray owl, Strix nebulosa"\nhen,8\n'
    )
    with pytest.raises(UsageError, match="line 4: class 10 of the teacher has a class"):
        mapped(tmp_path, text, 1000)
    text = text.replace("finch,Fringilla montifringilla\n", "")
    assert mapped(tmp_path, text, 1000) == {10: 0, 11: 0, 24: 1, 8: 2}
    told = capsys.readouterr().err
    assert f"the 1000 classes of the teacher (class map {tmp_path}/map.csv) are taken for" in told
    mapped(tmp_path, "finch,10\n", 1000)
    told = capsys.readouterr().err
    assert "ImageNet" not in told, "numbers need no names"
    assert "has no class of the teacher for owl, hen" in told


def test_a_name_of_two_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="line 1: two classes of the teacher are called 'crane'"):
        mapped(tmp_path, "hen,crane\n", 1000)
    assert mapped(tmp_path, "hen,n02012849\n", 1000) == {134: 2}


def test_a_teacher_of_another_number_of_classes_has_no_names(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"line 1: 'hen,crane' is not STUDENT CLASS,TEACHER.*names=RUN$"
    ):
        mapped(tmp_path, "hen,crane\n", 999)


def test_names_of_imagenet_are_those_of_its_classes() -> None:
    names = imagenet_names(1000)
    assert names is not None
    assert (names.ids[0], names.descriptions[0]) == ("n01440764", "tench, Tinca tinca")
    short = names.short_names()
    assert short[1] == "goldfish" and short[134] == "crane (n02012849)"
    assert len(set(short)) == 1000
    larger = imagenet_names(21841)
    assert larger is not None and len(larger.ids) == 21841
    assert imagenet_names(10) is None


@pytest.mark.parametrize(("num_classes", "subset"), [*_NUM_CLASSES_TO_SUBSET.items()])
def test_names_of_imagenet_are_what_timm_says(num_classes: int, subset: str) -> None:
    """Its files are read, since to import it takes torch."""
    names = imagenet_names(num_classes)
    info = ImageNetInfo(subset)
    assert names is not None
    assert names.ids == tuple(info.label_names())
    assert names.descriptions == tuple(info.label_descriptions())


def test_other_classes_have_the_names_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("a\nb\nc\n")
    names = read_teacher_names(str(file), 3)
    assert mapped(tmp_path, "finch,c\nowl,0\n", 3, names=names) == {0: 1, 2: 0}
    with pytest.raises(UsageError, match="names 3 classes, and the teacher has 4"):
        read_teacher_names(str(file), 4)
    with pytest.raises(UsageError, match="is no text file"):
        read_teacher_names(str(tmp_path / "none.txt"), 3)


def test_or_those_of_the_weights_of_a_run(tmp_path: Path) -> None:
    settings = {"recipe": "digits", "loss": "ce", "epochs": 1}
    train(tmp_path / "named", data="tiny_models:named_digits", **settings)
    names = read_teacher_names(str(tmp_path / "named" / "student.safetensors"), 10)
    assert mapped(tmp_path, "hen,digit 7\n", 10, names=names) == {7: 2}
    train(tmp_path / "bare", data="tiny_models:few_digits", **settings)
    with pytest.raises(UsageError, match="say no names of classes"):
        read_teacher_names(str(tmp_path / "bare" / "student.safetensors"), 10)
    with pytest.raises(ModelError, match="does not exist"):
        read_teacher_names(str(tmp_path / "none.safetensors"), 10)


@pytest.mark.parametrize("name", ["lr=0.1", "a,b", "a,weight=2", " a", 'a"b'])
def test_a_cache_that_is_there_may_have_any_name(tmp_path: Path, name: str) -> None:
    path = str(tmp_path / name / "cache")
    Path(path).mkdir(parents=True)
    assert parse_cache(path) == (path, NO_OPTIONS)
    with pytest.raises(UsageError):
        parse_cache("lr=0.1/none")


def test_names_without_a_map_are_refused() -> None:
    with pytest.raises(UsageError, match="names are for a map of classes, and there is none"):
        parse_cache("caches/x,names=a.txt")


def test_a_misspelled_class_gets_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"line 1\) 'fink'; did you mean 'finch'"):
        mapped(tmp_path, "fink,0\n", 3)
