"""Codec error: gradient errors against their definition, halves by sample, and logits from files,
caches and teachers."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from runs import CONV, DIGITS, IN_PROCESS, dump

from kdcache.cache import open_cache
from kdcache.codec_error.cache_sample import sample_from_cache
from kdcache.codec_error.gradients import Difference, whole_batches
from kdcache.codec_error.ladder import default_ladder
from kdcache.codec_error.measure import (
    TERMS,
    CodecErrorConfig,
    codec_costs,
    measure_codec_error,
)
from kdcache.codec_error.measured_views import dist_errors
from kdcache.codec_error.npz_pairs import pairs_from_npz
from kdcache.codec_error.pairs import Pairs
from kdcache.codec_error.teacher_sample import sample_from_teacher
from kdcache.codecs import open_codec
from kdcache.errors import CacheError, CodecError, KdcacheError, MismatchError, UsageError
from kdcache.losses import dist_loss, kl_loss
from kdcache.positions import One
from kdcache.runtime.device import ComputeConfig
from kdcache.shapes import Logits

CLASSES = 12


def logits(rows: int, classes: int = CLASSES, seed: int = 0) -> Logits:
    """Return logits of rank 4 and some noise."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(rows, 4, generator=generator) @ torch.randn(
        4, classes, generator=torch.Generator().manual_seed(99)
    )
    return 2 * features + 0.3 * torch.randn(rows, classes, generator=generator)


def pairs(rows: int = 400, classes: int = CLASSES, groups: int = 50) -> Pairs:
    return Pairs(
        teacher=logits(rows, classes),
        student=logits(rows, classes, seed=1),
        groups=np.arange(rows) % groups,
        proxy="noise",
    )


def gradient(loss: Any, student: Logits, teacher: Any) -> Logits:
    """Return the gradient of a loss with respect to the student's logits."""
    student = student.clone().requires_grad_()
    return torch.autograd.grad(loss(student, teacher), student)[0]


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_error_and_cosine_are_those_of_the_whole_gradient() -> None:
    exact, found = logits(96), logits(96, seed=2)
    difference = Difference()
    for batch in whole_batches(96, 32):
        difference.add(exact[batch], found[batch])
    assert difference.error == pytest.approx(float((found - exact).norm() / exact.norm()), rel=1e-5)
    assert difference.cosine == pytest.approx(
        float((found * exact).sum() / (found.norm() * exact.norm())), rel=1e-5
    )


def test_equal_logits_have_no_error_and_rows_past_the_last_batch_do_not_count() -> None:
    measured = pairs(100)
    # the last rows, which no record of 8 bits holds exactly, are in no batch
    measured.teacher[:96] = measured.teacher[:96].round()
    specs = ["full:dtype=bfloat16"]
    (cost,) = codec_costs(pairs(), measured, specs, taus=[4.0], batch_sizes=[32])["codecs"]
    (case,) = cost["gradients"]
    for term in TERMS:
        assert case[term] == {"error": 0.0, "cosine": pytest.approx(1.0)}


def test_logits_of_a_model_in_inference_mode_can_be_measured() -> None:
    with torch.inference_mode():
        views = pairs(64).views
    errors = dist_errors(open_codec("full:dtype=uint8", classes=CLASSES), views, [1.0])
    assert 0 < errors[1.0] < 0.1


def test_fewer_rows_than_a_batch_are_refused() -> None:
    with pytest.raises(UsageError, match="20 rows to measure on are less than one batch of 32"):
        codec_costs(pairs(), pairs(20), ["topk:k=3"], taus=[1.0], batch_sizes=[32])


def test_costs_are_those_of_the_losses_of_training() -> None:
    measured = pairs()
    spec = "topk:k=3"
    result = codec_costs(pairs(), measured, [spec], taus=[1.0, 4.0], batch_sizes=[32, 64])
    (cost,) = result["codecs"]
    codec = open_codec(spec, classes=CLASSES)
    assert [(one["tau"], one["batch_size"]) for one in cost["gradients"]] == [
        (1.0, 32),
        (4.0, 32),
        (1.0, 64),
        (4.0, 64),
    ]
    for one in cost["gradients"]:
        losses = {
            "both": partial(dist_loss, tau=one["tau"], beta=2, gamma=2),
            "inter": partial(dist_loss, tau=one["tau"], beta=1, gamma=0),
            "intra": partial(dist_loss, tau=one["tau"], beta=0, gamma=1),
            "kl": partial(kl_loss, tau=one["tau"]),
        }
        for name, loss in losses.items():
            size = one["batch_size"]
            difference = Difference()
            for batch in whole_batches(len(measured.teacher), size):
                exact = measured.teacher[batch]
                decoded = codec.decode(codec.encode(exact))
                ours = measured.student[batch]
                difference.add(gradient(loss, ours, exact), gradient(loss, ours, decoded))
            assert one[name] == {
                "error": pytest.approx(difference.error, rel=1e-3),
                "cosine": pytest.approx(difference.cosine, rel=1e-3),
            }
    assert cost["worst"] == max(one["both"]["error"] for one in cost["gradients"])


def test_of_equal_codecs_the_first_is_on_the_front() -> None:
    twice = ["lowrank:step=2", "lowrank:step=2.0"]
    costs = codec_costs(pairs(), pairs(), twice, taus=[1.0], batch_sizes=[64])["codecs"]
    assert costs[0]["worst"] == costs[1]["worst"]
    assert [cost["front"] for cost in costs] == [True, False]


def test_the_ladder_has_every_codec_and_its_front_is_what_nothing_beats() -> None:
    costs = codec_costs(pairs(), pairs(), taus=[1.0, 4.0], batch_sizes=[64])["codecs"]
    assert [cost["codec"] for cost in costs] == default_ladder(CLASSES, One())
    assert {cost["codec"].partition(":")[0] for cost in costs} == {"full", "lowrank", "topk"}
    points = {(cost["bytes"], cost["worst"]): cost["front"] for cost in costs}
    for (size, error), front in points.items():
        better = [
            other
            for other in points
            if other != (size, error) and other[0] <= size and other[1] <= error
        ]
        assert front == (not better)
    assert 0 < sum(points.values()) < len(points)


def test_a_codec_that_fails_is_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    specs = ["lowrank:error=1e-9", "topk:k=3"]
    result = codec_costs(pairs(), pairs(), specs, taus=[1.0], batch_sizes=[64])
    assert [cost["codec"] for cost in result["codecs"]] == specs[1:] and list(
        result["failed"]
    ) == specs[:1]
    assert "cannot be met" in result["failed"]["lowrank:error=1e-9"] and not capsys.readouterr().err
    with pytest.raises(CodecError, match="cannot be met"):
        codec_costs(pairs(), pairs(), specs[:1], taus=[1.0], batch_sizes=[64])


def test_a_finer_step_costs_more_bytes_and_less_error() -> None:
    specs = [f"lowrank:step={step}" for step in (0.1, 0.4, 1.6)]
    costs = codec_costs(pairs(800), pairs(800), specs, taus=[1.0], batch_sizes=[128])["codecs"]
    assert (
        sorted(costs, key=lambda cost: cost["worst"])
        == costs
        == sorted(costs, key=lambda cost: -cost["bytes"])
    )


@given(
    st.lists(st.integers(0, 6), min_size=4, max_size=80).filter(lambda groups: len(set(groups)) > 1)
)
def test_halves_share_no_group_and_hold_every_row(groups: list[int]) -> None:
    count = len(groups)
    numbered = torch.arange(count, dtype=torch.float32)[:, None].repeat(1, 2)
    whole = Pairs(teacher=numbered, student=numbered + 1, groups=np.array(groups), proxy="noise")
    fitting, measured = whole.halves()
    assert (
        len(fitting.groups)
        and len(measured.groups)
        and not set(fitting.groups) & set(measured.groups)
    )
    rows = torch.cat([fitting.teacher, measured.teacher])[:, 0].sort().values
    assert torch.equal(rows, numbered[:, 0])
    for half in (fitting, measured):
        assert torch.equal(half.student, half.teacher + 1)
        assert [groups[int(row)] for row in half.teacher[:, 0]] == half.groups.tolist()


def test_the_measured_half_has_half_of_the_rows_or_more_in_mixed_order() -> None:
    fitting, measured = pairs(400, groups=50).halves()
    assert (len(fitting.groups), len(measured.groups)) == (200, 200)
    assert len(set(measured.groups[:25])) > 10


def test_one_group_cannot_be_split() -> None:
    with pytest.raises(UsageError, match="all rows are of one sample"):
        pairs(groups=1).halves()


def test_an_npz_with_a_student(tmp_path: Path) -> None:
    teacher, student = logits(40).half(), logits(40, seed=1)
    groups = np.repeat(["a", "b"], 20)
    opened = pairs_from_npz(
        save(tmp_path / "a.npz", teacher=teacher, student=student, image_id=groups)
    )
    assert torch.equal(opened.teacher, teacher.float()) and torch.equal(opened.student, student)
    assert opened.groups.tolist() == groups.tolist() and opened.teacher.dtype == torch.float32


def test_without_a_student_another_row_of_the_image_stands_in(tmp_path: Path) -> None:
    groups = np.array([3, 1, 3, 2, 1, 3])
    teacher = torch.arange(6.0)[:, None].repeat(1, 2)
    opened = pairs_from_npz(save(tmp_path / "a.npz", teacher=teacher, image_id=groups))
    stands_in = dict(zip(opened.teacher[:, 0].tolist(), opened.student[:, 0].tolist(), strict=True))
    assert stands_in == {1: 4, 4: 1, 0: 2, 2: 5, 5: 0}  # row 3 is alone
    assert opened.groups.tolist() == [groups[int(row)] for row in opened.teacher[:, 0]]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"logits": np.zeros((4, 3))},
            "holds logits; it needs `teacher`, and `student` or `image_id`",
        ),
        ({"teacher": np.zeros((4, 3))}, "holds teacher; it needs"),
        (
            {"teacher": np.zeros(4), "student": np.zeros(4)},
            r"teacher is float64 of shape \(4,\); it must be raw logits",
        ),
        ({"teacher": np.zeros((4, 3), int), "student": np.zeros((4, 3))}, "teacher is int64"),
        (
            {"teacher": np.zeros((4, 3)), "student": np.zeros((4, 2))},
            r"teacher \(4, 3\) and student \(4, 2\) differ",
        ),
        (
            {"teacher": np.zeros((4, 3)), "student": np.zeros((4, 3))},
            "gives the teacher's own logits",
        ),
        (
            {"teacher": np.full((4, 3), np.nan), "student": np.zeros((4, 3))},
            "teacher: row 0 holds NaN or infinite logits",
        ),
        (
            {"teacher": np.zeros((4, 3)), "student": np.diag([1, 1e300, 1])[[0, 1, 2, 0]]},
            "student: row 1 holds NaN or inf",
        ),
        (
            {"teacher": np.ones((4, 3)), "image_id": np.zeros(5)},
            r"image_id has shape \(5,\); it must hold one value for each",
        ),
        ({"teacher": np.ones((4, 3)), "image_id": np.arange(4)}, "no image_id has two rows"),
        (
            {"teacher": np.array([{}] * 4), "student": np.ones((4, 3))},
            "cannot be read as an .npz of plain arrays",
        ),
    ],
)
def test_an_npz_that_is_not_logits(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        pairs_from_npz(save(tmp_path / "a.npz", **arrays)).require_gradient()


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 not a zip"])
def test_a_file_that_is_no_npz(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UsageError, match="cannot be read as an"):
        pairs_from_npz(tmp_path / "a.npz")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("codec-error") / "cache"
    dump(path, codec="full:dtype=float32", seeds="0:2", unit_rows=32)
    return path


def test_a_cache_gives_each_view_the_other_view_of_its_sample(cache: Path) -> None:
    opened = sample_from_cache(cache, views=80)
    held = open_cache(cache)
    first, second = (held.codec.decode(held.read(seed, range(40))).logits() for seed in (0, 1))
    assert torch.equal(opened.teacher, torch.cat([first, second]))
    assert torch.equal(opened.student, torch.cat([second, first]))
    assert opened.groups.tolist() == [*range(40), *range(40)]
    assert len(sample_from_cache(cache, views=10**6).teacher) == 2 * held.manifest.rows


def test_a_teacher_gives_what_its_cache_holds(cache: Path) -> None:
    settings: dict[str, Any] = {
        "data": DIGITS,
        "recipe": "digits",
        "views": 80,
        "compute": IN_PROCESS,
    }
    run, read = (
        sample_from_teacher(f"{CONV},seed=7", **settings),
        sample_from_cache(cache, views=80),
    )
    torch.testing.assert_close(run.teacher, read.teacher)
    torch.testing.assert_close(run.student, read.student)
    assert run.groups.tolist() == read.groups.tolist()
    loaded = sample_from_teacher(
        f"{CONV},seed=7", **{**settings, "compute": ComputeConfig(workers=1, device="cpu")}
    )
    assert torch.equal(loaded.teacher, run.teacher)


def test_a_student_sees_the_views_that_the_teacher_saw(cache: Path) -> None:
    student = f"{CONV},seed=8"
    read = sample_from_cache(cache, views=50, student=student, data=DIGITS, compute=IN_PROCESS)
    settings: dict[str, Any] = {
        "data": DIGITS,
        "recipe": "digits",
        "student": student,
        "compute": IN_PROCESS,
    }
    run = sample_from_teacher(f"{CONV},seed=7", views=100, **settings)
    torch.testing.assert_close(run.teacher[:50], read.teacher)
    torch.testing.assert_close(run.student[:50], read.student)
    (alone,) = (
        sample_from_teacher(student, views=100, **{**settings, "student": None})
        .teacher[:50]
        .split(50)
    )
    torch.testing.assert_close(alone, read.student)


def test_samples_that_cannot_be_read_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    for index in range(6):
        image = tmp_path / "data" / str(index % 2) / f"{index}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((8, 8), 60).convert("RGB").save(image)
    (tmp_path / "data" / "1" / "3.png").write_bytes(b"torn")
    settings: dict[str, Any] = {
        "data": f"imagefolder:{tmp_path}/data",
        "recipe": "digits",
        "compute": IN_PROCESS,
    }
    opened = sample_from_teacher("tiny_models:conv,classes=2", views=12, batch_size=5, **settings)
    assert len(opened.teacher) == 10 and len(set(opened.groups)) == 5
    assert "2 of 12 views are left out: their samples cannot be read" in capsys.readouterr().err
    torch.testing.assert_close(opened.teacher[:5], opened.student[5:])
    tried = sample_from_teacher(
        "tiny_models:conv,classes=2", views=12, batch_size="auto", **settings
    )
    torch.testing.assert_close(tried.teacher, opened.teacher)
    assert "note: batch_size auto is" in capsys.readouterr().err
    dump(
        tmp_path / "cache",
        data=settings["data"],
        teacher="tiny_models:conv,classes=2",
        skip_unreadable=True,
    )
    assert torch.allclose(
        sample_from_cache(tmp_path / "cache", views=12).teacher, opened.teacher, atol=0.02
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"codec": "topk:k=3"},
            "holds topk:k=3.*; codecs are measured against exact logits: full:dtype=float32 or",
        ),
        (
            {"codec": "full:dtype=uint8"},
            "holds full:dtype=uint8; codecs are measured against exact logits",
        ),
        ({"seeds": "0:1"}, "holds 1 complete seeds; two are needed"),
    ],
)
def test_a_cache_that_cannot_be_measured_on(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    dump(tmp_path / "cache", **changes)
    with pytest.raises(CacheError, match=message):
        sample_from_cache(tmp_path / "cache", views=100)


def test_students_and_data_that_do_not_fit(cache: Path) -> None:
    with pytest.raises(UsageError, match="student and data go together"):
        sample_from_cache(cache, views=100, student=CONV)
    with pytest.raises(MismatchError, match="data digits:test is not what cache"):
        sample_from_cache(cache, views=100, student=CONV, data="digits:test", compute=IN_PROCESS)
    with pytest.raises(KdcacheError, match="gives 9 classes, and 10 are asked for"):
        sample_from_cache(
            cache, views=100, student=f"{CONV},classes=9", data=DIGITS, compute=IN_PROCESS
        )


def test_a_recipe_that_draws_nothing_gives_no_proxy(tmp_path: Path) -> None:
    recipe = tmp_path / "still.toml"
    recipe.write_text(
        'mode = "L"\nsize = 8\neval = "eval-whole"\n[[transforms]]\nname = "Resize"\nsize ='
        ' "input"\n'
    )
    with pytest.raises(
        UsageError, match=r"gives the teacher's own logits.*use a recipe that draws at random"
    ):
        sample_from_teacher(
            CONV, data=DIGITS, recipe=str(recipe), views=20, compute=IN_PROCESS
        ).require_gradient()


def test_measuring_says_on_what(tmp_path: Path) -> None:
    arrays = {
        "teacher": logits(300),
        "student": logits(300, seed=1),
        "image_id": np.arange(300) // 3,
    }
    path = save(tmp_path / "a.npz", **arrays)
    result = measure_codec_error(
        CodecErrorConfig(
            logits=str(path), codec=("full:dtype=uint8",), tau=(2.0,), batch_size=(32,)
        )
    )
    assert result["fitted_on"] == 150 == result["measured_on"] and result["classes"] == CLASSES
    assert result["input"] == str(path) and result["proxy"] == "`student` of the file"


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"codec": ("topk:k=13",)}, UsageError, "topk:k=13 on 12 classes"),
        ({"codec": ("topq:k=3",)}, UsageError, "unknown codec 'topq'; did you mean 'topk'"),
        (
            {"batch_size": (256,)},
            UsageError,
            "150 rows to measure on are less than one batch of 256",
        ),
        ({"views": 100}, UsageError, "an .npz file is measured whole"),
        ({"student": CONV}, UsageError, "holds no images for a student"),
    ],
)
def test_settings_that_cannot_be_measured(
    tmp_path: Path, settings: dict[str, Any], error: type[KdcacheError], message: str
) -> None:
    path = save(tmp_path / "a.npz", teacher=logits(300), student=logits(300, seed=1))
    with pytest.raises(error, match=message):
        measure_codec_error(CodecErrorConfig(logits=str(path), **{"batch_size": (32,), **settings}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {},
            (
                "nothing to measure: give an .npz file of logits, a full cache, or --teacher,"
                " --data and --recipe"
            ),
        ),
        ({"teacher": CONV, "data": "digits:train"}, "nothing to measure"),
        ({"logits": "a.npz", "teacher": CONV}, "not both"),
        ({"logits": "a.npz", "tau": (1.0, 0.0)}, "tau is 0.0; it must be above 0"),
        ({"logits": "a.npz", "tau": (float("nan"),)}, "tau is nan; it must be above 0"),
        ({"logits": "a.npz", "batch_size": (1,)}, "batch_size is 1; it must be at least 2"),
        ({"logits": "a.npz", "batch_size": ("auto",)}, "auto is for models, and none is run"),
        ({"logits": "cache", "views": 0}, "views is 0; it must be at least 2"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CodecErrorConfig(**settings)


def test_a_temperature_or_size_given_twice_is_measured_once(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", teacher=logits(300), student=logits(300, seed=1))
    twice = CodecErrorConfig(
        logits=str(path), codec=("full:dtype=uint8",), tau=(2.0, 1.0, 2.0), batch_size=(32, 32)
    )
    result = measure_codec_error(twice)
    assert result["taus"] == [2.0, 1.0] and result["batch_sizes"] == [32]
    assert [case["tau"] for case in result["codecs"][0]["gradients"]] == [2.0, 1.0]


@pytest.mark.parametrize(
    ("batch_size", "of_loss", "of_models"),
    [
        ((64, 32, 64), [64, 32], 32),
        (("auto",), [256], "auto"),
        ((64, "auto"), [64], "auto"),
    ],
)
def test_auto_is_for_models_and_numbers_for_the_loss(
    batch_size: tuple[Any, ...], of_loss: list[int], of_models: int | str
) -> None:
    config = CodecErrorConfig(teacher=CONV, data="digits", recipe="digits", batch_size=batch_size)
    assert config.loss_sizes == of_loss and config.model_size == of_models
