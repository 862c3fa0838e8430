"""Models of transformers, from folders with tiny configurations: as teachers and as students."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
import transformers
from huggingface_hub import errors
from map_caches import made
from runs import dump, losses, train
from safetensors.torch import load_file, save_file

from kdcache.cache import open_cache
from kdcache.errors import KdcacheError, ModelError, UsageError
from kdcache.models.model import open_model
from kdcache.models.modules import state_sha256
from kdcache.models.specs import check_model
from kdcache.models.vision_model import VisionModel
from kdcache.views import Recipe, load_recipe

GREY = load_recipe("digits")
RGB = Recipe("rgb", {"size": 32, "transforms": []})
MEAN = [0.485, 0.456, 0.406]
STD = [0.229, 0.224, 0.225]


def vit(folder: Path, *, processor: bool = True, **changes: Any) -> "transformers.PreTrainedModel":
    """Write a tiny vision transformer, of grey images by default, and return it."""
    settings: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "image_size": 8,
        "patch_size": 4,
        "num_channels": 1,
        "num_labels": 10,
        "initializer_range": 0.3,
    }
    settings |= changes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.ViTForImageClassification(transformers.ViTConfig(**settings))
        torch.nn.init.normal_(model.classifier.weight)
    model.save_pretrained(folder)
    if processor:
        prepare(folder, size={"height": 8, "width": 8}, image_mean=[0.4] * 3, image_std=[0.2] * 3)
    return model.eval()


def prepare(folder: Path, **settings: Any) -> None:
    transformers.ViTImageProcessor(**settings).save_pretrained(folder)


def segformer(folder: Path, classes: int = 4) -> "transformers.PreTrainedModel":
    """Write a tiny SegFormer, and return it."""
    config = transformers.SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 2, 2],
        mlp_ratios=[1, 1, 1, 1],
        sr_ratios=[1, 1, 1, 1],
        decoder_hidden_size=16,
        num_labels=classes,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.SegformerForSemanticSegmentation(config)
    model.save_pretrained(folder)
    transformers.SegformerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return model.eval()


def opened(
    text: str,
    *,
    classes: int = 10,
    recipe: Recipe = GREY,
    trained: bool = False,
    task: str = "classification",
) -> VisionModel:
    return open_model(text, classes=classes, recipe=recipe, trained=trained, task=task)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny vision transformer that no test changes."""
    path = tmp_path_factory.mktemp("vit")
    vit(path)
    return path


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """Return a copy of that folder, which a test may change."""
    return Path(shutil.copytree(folder, tmp_path / "vit"))


def edit(folder: Path, **changes: Any) -> None:
    """Change entries of a config.json; those of None are taken out."""
    path = folder / "config.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def test_logits_are_those_of_transformers(folder: Path) -> None:
    whole = transformers.AutoModelForImageClassification.from_pretrained(folder)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    model = opened(f"transformers:{folder}", trained=True)
    assert model.training and model.preprocessing.size == 8
    views = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)
    images = [view.expand(3, -1, -1).numpy() for view in views]
    with torch.no_grad():
        pixels = processor(images=images, input_data_format="channels_first", return_tensors="pt")
        expected = whole(pixels["pixel_values"][:, :1]).logits
        torch.testing.assert_close(model.eval()(views), expected, rtol=0, atol=1e-5)
    assert model.module.state_dict().keys() == whole.state_dict().keys()


def test_a_teacher_is_dumped_and_a_student_of_transformers_trains_from_its_cache(
    folder: Path, tmp_path: Path
) -> None:
    data = "tiny_models:few_digits,length=128"
    teacher = f"transformers:{folder}"
    dump(tmp_path / "cache", data=data, teacher=teacher, batch_size=64, codec="full:dtype=float32")
    entry = open_cache(tmp_path / "cache").manifest.teacher
    assert entry.architecture == teacher
    assert (entry.mean, entry.std) == ((pytest.approx(0.4),), (pytest.approx(0.2),))
    common: dict[str, Any] = {
        "data": data,
        "student": f"transformers:{folder},pretrained=false,hidden_size=8",
        "batch_size": 64,
        "eval_data": data,
        "loss": "dist:tau=1,beta=1,gamma=1",
    }
    result = train(tmp_path / "cached", cache=str(tmp_path / "cache"), **common)
    train(tmp_path / "online", teacher=teacher, recipe="digits", seeds="0:2", **common)
    assert 0 <= result["top1"] <= 100 and len(losses(tmp_path / "cached")) == 4
    np.testing.assert_allclose(
        losses(tmp_path / "cached"), losses(tmp_path / "online"), rtol=0, atol=1e-5
    )


def test_a_student_lies_beside_its_configuration_afterwards(copied: Path, tmp_path: Path) -> None:
    student = opened(f"transformers:{copied},pretrained=false")
    save_file(student.module.state_dict(), copied / "model.safetensors")
    again = opened(f"transformers:{copied}", trained=True)
    assert state_sha256(again.module) == state_sha256(student.module)
    file = opened(f"transformers:{copied},weights={copied / 'model.safetensors'}", trained=True)
    assert state_sha256(file.module) == state_sha256(student.module)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_file_with_the_names_that_transformers_writes_is_taken(
    folder: Path, tmp_path: Path, prefix: str
) -> None:
    state = load_file(folder / "model.safetensors")
    path = tmp_path / "weights.pt"
    torch.save({f"{prefix}{name}": value for name, value in state.items()}, path)
    trained = opened(f"transformers:{folder}", trained=True)
    found = opened(f"transformers:{folder},weights={path}", trained=True)
    assert state_sha256(found.module) == state_sha256(trained.module)


def test_weights_are_float32_and_may_be_a_torch_file(copied: Path) -> None:
    state = load_file(copied / "model.safetensors")
    (copied / "model.safetensors").unlink()
    half = {name: value.half() for name, value in state.items()}
    torch.save(half, copied / "pytorch_model.bin")
    edit(copied, dtype="float16")
    model = opened(f"transformers:{copied}", trained=True)
    assert {value.dtype for value in model.module.state_dict().values()} == {torch.float32}
    torch.testing.assert_close(
        model.module.state_dict()["classifier.weight"], half["classifier.weight"].float()
    )


def test_a_student_of_other_classes_gets_a_fresh_head(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = opened(f"transformers:{folder}").module.state_dict()
    assert "fresh head" not in capsys.readouterr().err
    model = opened(f"transformers:{folder}", classes=7)
    assert "a fresh head for 7 classes: classifier.bias, classifier.weight" in (
        capsys.readouterr().err
    )
    state = model.module.state_dict()
    assert state["classifier.weight"].shape == (7, 16)
    body = [name for name in state if not name.startswith("classifier")]
    assert all(torch.equal(state[name], whole[name]) for name in body)


def test_a_teacher_of_other_classes_is_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match="gives 10 classes, and 7 are asked for: add --teacher-cl"):
        opened(f"transformers:{folder}", classes=7, trained=True)
    with pytest.raises(ModelError, match=r"has no weights; add weights=FILE or pretrained=true"):
        opened(f"transformers:{folder},pretrained=false", trained=True)


@pytest.mark.parametrize(
    ("settings", "size", "mean", "std"),
    [
        ({"size": {"height": 32, "width": 32}}, 32, [0.5] * 3, [0.5] * 3),
        ({"size": {"shortest_edge": 48}, "mean": True}, 48, MEAN, STD),
        (
            {"size": {"shortest_edge": 48}, "crop_size": 40, "mean": True},
            40,
            MEAN,
            STD,
        ),
        ({"size": {"height": 32, "width": 32}, "do_normalize": False}, 32, [0] * 3, [1] * 3),
        (
            {"size": {"height": 32, "width": 32}, "rescale_factor": 1 / 127.5, "mean": True},
            32,
            [value / 2 for value in MEAN],
            [value / 2 for value in STD],
        ),
    ],
)
def test_preprocessing_is_that_of_the_image_processor(
    tmp_path: Path, settings: dict[str, Any], size: Any, mean: list[float], std: list[float]
) -> None:
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], num_labels=10, layer_type="basic"
    )
    config.architectures = ["ResNetForImageClassification"]
    config.save_pretrained(tmp_path)
    if settings.pop("mean", False):
        settings |= {"image_mean": MEAN, "image_std": STD}
    kind = transformers.CLIPImageProcessor
    if "height" in settings["size"]:
        kind = transformers.ViTImageProcessor
    elif "crop_size" not in settings:
        settings |= {"do_center_crop": False}
    kind(**settings).save_pretrained(tmp_path)
    spec = f"transformers:{tmp_path},pretrained=false"
    model = opened(spec, recipe=RGB)
    assert model.preprocessing.size == size
    assert model.preprocessing.mean == pytest.approx(mean, abs=1e-6)
    assert model.preprocessing.std == pytest.approx(std, abs=1e-6)
    own = opened(f"{spec},mean=0.1,std=0.3,input_size=64", recipe=RGB).preprocessing
    assert (own.size, own.mean, own.std) == (64, (0.1,) * 3, (0.3,) * 3)


def test_a_model_that_wants_blue_first_gets_it(tmp_path: Path) -> None:
    config = transformers.MobileNetV1Config(depth_multiplier=0.25, num_labels=10)
    config.save_pretrained(tmp_path)
    transformers.MobileViTImageProcessor(
        size={"shortest_edge": 32}, do_center_crop=False
    ).save_pretrained(tmp_path)
    model = opened(f"transformers:{tmp_path},pretrained=false", recipe=RGB).eval()
    assert (model.preprocessing.mean, model.preprocessing.std) == ((0.0,) * 3, (1.0,) * 3)
    views = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    whole = transformers.MobileNetV1ForImageClassification(config).eval()
    whole.load_state_dict(model.module.state_dict())
    with torch.no_grad():
        expected = whole(views.flip(1) / 255).logits
        torch.testing.assert_close(model(views), expected, rtol=0, atol=1e-5)


def test_without_an_image_processor_mean_and_std_must_be_given(copied: Path) -> None:
    (copied / "preprocessor_config.json").unlink()
    for text in (f"transformers:{copied}", f"transformers:{copied},mean=0.5"):
        with pytest.raises(UsageError, match=r"does not say how images .*; add mean=.* and std="):
            opened(text)
    model = opened(f"transformers:{copied},mean=0.5,std=0.25")
    assert model.preprocessing.mean == (0.5,) and model.preprocessing.size == 8
    (copied / "preprocessor_config.json").write_text("{")
    with pytest.raises(UsageError, match="does not say how images are to be normalised"):
        opened(f"transformers:{copied}")


def test_options_change_the_configuration(folder: Path) -> None:
    model = opened(f"transformers:{folder},pretrained=false,image_size=12,hidden_size=8")
    assert model.preprocessing.size == 12 and model.module.config.hidden_size == 8
    assert model.architecture == f"transformers:{folder},hidden_size=8,image_size=12"
    colour = opened(f"transformers:{folder},pretrained=false,input_size=8", recipe=RGB)
    assert colour(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)).shape == (1, 10)


def test_a_configuration_need_not_name_its_class(tmp_path: Path) -> None:
    config = transformers.DeiTConfig(
        image_size=8,
        patch_size=4,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
    )
    config.save_pretrained(tmp_path)
    assert "architectures" not in json.loads((tmp_path / "config.json").read_text())
    model = opened(f"transformers:{tmp_path},pretrained=false,mean=0.5,std=0.5")
    assert isinstance(model.module, transformers.DeiTForImageClassification)


def text_model(folder: Path) -> None:
    config = transformers.BertConfig(architectures=["BertForMaskedLM"])
    config.save_pretrained(folder)
    (folder / "model.safetensors").unlink()


def headless(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in state.items() if not name.startswith("classifier")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def cut(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


WRONG: list[tuple[Callable[[Path], Any], str, type[KdcacheError], str]] = [
    (lambda at: None, ",hiden_size=8", UsageError, "did you mean 'hidden_size'"),
    (lambda at: None, ",hidden_size=wide", UsageError, "check its options"),
    (lambda at: None, ",hidden_act=gelo", UsageError, "check its options"),
    (lambda at: None, ",pretrained=no", UsageError, "write pretrained=true or pretrained=false"),
    (lambda at: None, ",trust_remote_code=true", UsageError, "no code of a repository is run"),
    (lambda at: None, ",num_labels=10", UsageError, "the number of classes comes from the data"),
    (lambda at: None, ",num_classes=10", UsageError, "the number of classes comes from the data"),
    (lambda at: None, ",dtype=float16", UsageError, "--precision decides; leave it out"),
    (lambda at: None, ",revision=main", UsageError, "a folder has no revisions"),
    (lambda at: None, ",weights=true", UsageError, "write weights=FILE"),
    (lambda at: None, ",image_size=16", ModelError, r"weights do not fit .*\(1, 5, 16\) in them"),
    (
        lambda at: (at / "config.json").unlink(),
        "",
        ModelError,
        "has no config.json, but model.safetensors, preprocessor_config.json; name a folder",
    ),
    (lambda at: (at / "config.json").write_text("{"), "", ModelError, "config.json cannot be read"),
    (lambda at: (at / "config.json").write_text("[]"), "", ModelError, "holds a list"),
    (lambda at: edit(at, model_type=None), "", ModelError, "has no model_type; it is no config"),
    (
        lambda at: edit(at, model_type=None, architecture="resnet50"),
        "",
        ModelError,
        "it is one of timm: write timm:hf-hub:",
    ),
    (lambda at: edit(at, model_type="vjt"), "", ModelError, "type 'vjt', unknown to transformers"),
    (
        lambda at: edit(at, model_type="vjt", auto_map={"AutoConfig": "own.Own"}),
        "",
        ModelError,
        "comes as code of its repository, and none is run",
    ),
    (text_model, "", ModelError, "is BertForMaskedLM, of type 'bert'; wanted is an image class"),
    (
        lambda at: (at / "model.safetensors").unlink(),
        "",
        ModelError,
        "has no model.safetensors or pytorch_model.bin in .*; add weights=FILE, or pretrained=",
    ),
    (
        lambda at: (at / "model.safetensors").write_text("version https://git-lfs.github.com/"),
        "",
        ModelError,
        "is a git-lfs pointer",
    ),
    (headless, "", ModelError, "has no trained head: classifier.bias is not in them"),
    (cut, "", ModelError, "copy or download its weights again"),
]


@pytest.mark.parametrize(("change", "options", "error", "message"), WRONG)
def test_what_is_wrong_is_told_in_one_line(
    copied: Path,
    change: Callable[[Path], Any],
    options: str,
    error: type[KdcacheError],
    message: str,
) -> None:
    change(copied)
    with pytest.raises(error, match=message) as caught:
        opened(f"transformers:{copied}{options}", trained=True)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_pickle_is_not_run(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    torch.save({"classifier.bias": Path("x")}, copied / "pytorch_model.bin")
    with pytest.raises(ModelError, match="copy or download its weights again") as caught:
        opened(f"transformers:{copied}", trained=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "./none", "/none/of/it", "a/b/c"])
def test_a_folder_that_is_not_there_is_told_before_anything_is_opened(name: str) -> None:
    with pytest.raises(KdcacheError, match=r"there is no folder|names no repository"):
        check_model(f"transformers:{name}")


def test_grey_images_are_told(folder: Path) -> None:
    with pytest.raises(ModelError, match='images of 1 channels; use a recipe with mode = "L"'):
        opened(f"transformers:{folder}", recipe=RGB)


def test_transformers_may_not_be_installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for call in (check_model, opened):
        with pytest.raises(ModelError, match=r"needs transformers; pip install 'kdcache\[hub\]'"):
            call(f"transformers:{folder}")


def test_a_repository_that_cannot_be_reached_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    told = (
        "repository nobody/none of the hub cannot be reached, and is not in the hub's local cache"
    )
    with pytest.raises(ModelError, match=told) as caught:
        opened("transformers:nobody/none", recipe=RGB, trained=True)
    assert "\n" not in str(caught.value)


class Hub:
    """A hub with one repository, whose files lie in a folder that is called as a commit."""

    def __init__(self, folder: Path, error: Exception | None = None) -> None:
        self.folder = folder
        self.error = error
        self.asked: list[tuple[str, str, str | None]] = []

    def download(self, name: str, file: str, *, revision: str | None = None) -> str:
        self.asked.append((name, file, revision))
        if self.error is not None:
            raise self.error
        if not (self.folder / file).is_file():
            raise errors.EntryNotFoundError("none")
        return str(self.folder / file)


def test_files_of_a_repository_are_of_one_commit(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder, tmp_path / "0123abc")
    hub = Hub(tmp_path / "0123abc")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub.download)
    model = opened("transformers:me/vit,revision=v2", trained=True)
    assert state_sha256(model.module) == state_sha256(opened(f"transformers:{folder}").module)
    assert model.architecture == "transformers:me/vit,revision=v2"
    assert hub.asked[0] == ("me/vit", "config.json", "v2")
    assert {revision for _, _, revision in hub.asked[1:]} == {"0123abc"}
    hub.asked.clear()
    opened("transformers:me/vit,pretrained=false")
    assert "model.safetensors" not in [file for _, file, _ in hub.asked]
    text_model(hub.folder)
    with pytest.raises(ModelError, match="is BertForMaskedLM"):
        opened("transformers:me/vit")
    assert "model.safetensors" not in [file for _, file, _ in hub.asked]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (errors.RepositoryNotFoundError, "the hub has no repository me/vit; check its name"),
        (errors.GatedRepoError, "is gated; accept its terms on its page, then log in"),
        (errors.RevisionNotFoundError, "has no revision 'v2'; give a branch, a tag or a commit"),
        (errors.EntryNotFoundError, "repository me/vit has no config.json: it is no model of"),
        (OSError, "cannot be read: OSError; check its name and the network"),
    ],
)
def test_what_the_hub_says_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: type[Exception], message: str
) -> None:
    error = kind.__new__(kind)
    hub = Hub(tmp_path, error)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub.download)
    with pytest.raises(ModelError, match=message) as caught:
        opened("transformers:me/vit,revision=v2")
    assert "\n" not in str(caught.value)


def test_maps_of_a_segmentation_model_are_those_of_transformers(
    tmp_path: Path, recipe: str
) -> None:
    whole = segformer(tmp_path / "segformer")
    spec = f"transformers:{tmp_path / 'segformer'}"
    shapes = load_recipe(recipe)
    model = opened(spec, classes=4, recipe=shapes, trained=True, task="segmentation").eval()
    views = torch.randint(0, 256, (2, 3, 16, 24), dtype=torch.uint8)
    mean = torch.tensor(MEAN).view(1, 3, 1, 1)
    std = torch.tensor(STD).view(1, 3, 1, 1)
    with torch.no_grad():
        expected = whole((views / 255 - mean) / std).logits
        torch.testing.assert_close(
            model(views)[:, 0].permute(0, 3, 1, 2), expected, rtol=0, atol=1e-5
        )
    made(tmp_path / "cache", recipe, teacher=spec)
    maps = open_cache(tmp_path / "cache").manifest.layout.maps
    assert maps is not None and maps[0] == 1
    student = opened(f"{spec},pretrained=false", classes=4, recipe=shapes, task="segmentation")
    assert student.sites == model.sites
    with pytest.raises(ModelError, match=r"weights do not fit|no trained head"):
        opened(spec, classes=4, recipe=RGB, trained=True)


def test_a_classifier_is_no_segmentation_model(folder: Path, recipe: str) -> None:
    told = "is ViTForImageClassification, of type 'vit'; wanted is a model of semantic segmentation"
    with pytest.raises(ModelError, match=f"{told}, such as segformer, upernet, beit"):
        opened(
            f"transformers:{folder}", recipe=load_recipe(recipe), trained=True, task="segmentation"
        )
