"""What is learnt from maps and how they are scored, against numpy and plain loops."""

from typing import Any

import numpy as np
import pytest
import torch
from processes import launch
from torch import Tensor, nn

from kdcache.errors import UsageError
from kdcache.losses import open_loss
from kdcache.models.vision_model import TeacherLogits
from kdcache.positions import Heads, layout_of_sites
from kdcache.runtime.distributed import rank
from kdcache.shapes import Labels, ViewLogits
from kdcache.soft_targets import SegmentTargets, SoftTargets, by_segment
from kdcache.tasks import open_task
from kdcache.tasks.map_sizes import masks_at
from kdcache.tasks.segmentation import (
    AUXILIARY,
    MapScore,
    Segmentation,
    pixel_loss,
)
from kdcache.tasks.windows import slide

TASK = Segmentation()


def as_maps(logits: ViewLogits) -> SoftTargets:
    return by_segment(logits, layout_of_sites(logits.shape[1:-1]))


def maps(*shape: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def masks(views: int = 2, height: int = 16, width: int = 24, classes: int = 5) -> Tensor:
    found = torch.randint(
        0, classes + 1, (views, height // 4, width // 4), generator=torch.Generator().manual_seed(9)
    )
    return (
        torch.where(found == classes, 255, found)
        .to(torch.uint8)
        .repeat_interleave(4, 1)
        .repeat_interleave(4, 2)
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_pixel_loss_is_that_of_upsampled_logits_where_there_is_a_class(
    smoothing: float,
) -> None:
    logits, target = maps(2, 4, 6, 5), masks()
    planes = nn.functional.interpolate(
        logits.permute(0, 3, 1, 2).double(), (16, 24), mode="bilinear"
    )
    log_p = torch.log_softmax(planes, 1).permute(0, 2, 3, 1)[target != 255]
    own = log_p[torch.arange(len(log_p)), target[target != 255].long()]
    expected = -((1 - smoothing) * own + smoothing * log_p.mean(1)).mean()
    assert float(pixel_loss(logits, target, label_smoothing=smoothing)) == pytest.approx(
        float(expected), rel=1e-5
    )
    assert float(pixel_loss(logits.half(), target)) == pytest.approx(
        float(pixel_loss(logits.half().float(), target))
    )
    nothing = pixel_loss(logits.requires_grad_(), torch.full_like(target, 255))
    nothing.backward()
    assert nothing.item() == 0.0 and not logits.grad.any(), "a batch without any label is no NaN"


def ragged_masks() -> Tensor:
    """Return masks of four views, of which the first two lack most classes, and one has none."""
    found = masks(4)
    found[0] = 255
    found[1, 2:] = 255
    return found


def pixel_loss_of_half() -> tuple[float, Any]:
    """Return the loss of this process's two of the four views, and its gradient by their logits."""
    rows = slice(2 * rank(), 2 * rank() + 2)
    logits = maps(4, 4, 6, 5)[rows].requires_grad_()
    loss = pixel_loss(logits, ragged_masks()[rows])
    loss.backward()
    assert logits.grad is not None
    return loss.item(), logits.grad.numpy()


def test_the_pixel_loss_of_processes_is_that_of_one() -> None:
    """Of two views each, which have 64 pixels of a class, and hundreds."""
    logits = maps(4, 4, 6, 5).requires_grad_()
    loss = pixel_loss(logits, ragged_masks())
    loss.backward()
    found = launch(pixel_loss_of_half, 2)
    assert np.mean([value for value, _ in found]) == pytest.approx(loss.item(), rel=1e-6)
    # DistributedDataParallel takes the mean
    gradient = np.concatenate([gradient for _, gradient in found]) / 2
    assert logits.grad is not None
    np.testing.assert_allclose(gradient, logits.grad.numpy(), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("loss", ["dist:tau=2,beta=1,gamma=3", "kl:tau=2", "cwd"])
def test_the_auxiliary_head_counts_two_fifths(loss: str) -> None:
    student, teacher, labels = maps(2, 2, 4, 6, 5), maps(2, 2, 4, 6, 5, seed=1), Labels(masks())
    opened = open_loss(loss)
    whole = TASK.terms(opened, student, as_maps(teacher), labels, label_smoothing=0.0)
    parts = [
        TASK.terms(
            opened, student[:, [head]], as_maps(teacher[:, [head]]), labels, label_smoothing=0.0
        )
        for head in (0, 1)
    ]
    assert (
        set(whole)
        == set(parts[0])
        == {"task", *({"inter", "intra"} if "dist" in loss else {loss.partition(":")[0]})}
    )
    for name, value in whole.items():
        assert float(value) == pytest.approx(
            float(parts[0][name] + AUXILIARY * parts[1][name]), rel=1e-6
        )
    alone = TASK.terms(opened, student, as_maps(teacher[:, :1]), labels, label_smoothing=0.0)
    assert float(alone["task"]) == pytest.approx(float(whole["task"]))
    name = "inter" if "dist" in loss else loss.partition(":")[0]
    assert float(alone[name]) == pytest.approx(float(parts[0][name])), (
        "what the teacher lacks is not compared"
    )


def flattened_dist(student: Tensor, teacher: Tensor) -> Tensor:
    """Return DIST of rows at temperature 1 and weights 1, with the correlations of numpy's kind
    that torch has."""
    p, q = torch.softmax(student, 1), torch.softmax(teacher, 1)
    rows = torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(p, q, strict=True)])
    columns = torch.stack(
        [torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(p.T, q.T, strict=True)]
    )
    return 2 - rows.mean() - columns.mean()


def test_dist_on_maps_is_that_of_flattened_pixels() -> None:
    """Value and gradient, in the order of pixels that the published code has or any other: it does
    not depend on it."""
    student, teacher = maps(2, 1, 4, 6, 5).requires_grad_(), maps(2, 1, 4, 6, 5, seed=1)
    labels, loss = Labels(masks()), open_loss("dist:tau=1,beta=1,gamma=1,ce=0")
    terms = TASK.terms(loss, student, as_maps(teacher), labels, label_smoothing=0.0)
    found = terms["inter"] + terms["intra"]
    (gradient,) = torch.autograd.grad(found, student)
    planes = (
        student.detach()[:, 0].permute(0, 3, 1, 2).double().requires_grad_()
    )  # as models give them
    flat = [
        one.transpose(1, 3).reshape(-1, 5)
        for one in (planes, teacher[:, 0].permute(0, 3, 1, 2).double())
    ]
    expected = flattened_dist(*flat)
    (wanted,) = torch.autograd.grad(expected, planes)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(
        gradient[:, 0].permute(0, 3, 1, 2).double(), wanted, rtol=1e-4, atol=1e-7
    )


@pytest.mark.parametrize(
    "loss", ["dist:ignore_masked=true", "kl:ignore_masked=true,standardize=true"]
)
def test_pixels_without_a_class_can_be_left_out(loss: str) -> None:
    student, teacher, target = maps(2, 1, 4, 6, 5), maps(2, 1, 4, 6, 5, seed=1), masks()
    labels = Labels(target)
    named, plain = (
        open_loss(loss),
        open_loss(loss.replace("ignore_masked=true", "ignore_masked=false")),
    )
    small = masks_at(target, (4, 6))
    assert torch.equal(small, target[:, 2::4, 2::4]) and 0 < (small == 255).sum() < small.numel()
    found = TASK.terms(named, student, as_maps(teacher), labels, label_smoothing=0.0)
    rows = [one[:, 0][small != 255] for one in (student, teacher)]
    expected = plain.terms(rows[0], as_maps(rows[1]), torch.zeros(len(rows[0]), dtype=torch.int64))
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(float(value), rel=1e-5)
    other = student.clone()
    other[:, 0][small == 255] = 7.0 * maps(1, 5, seed=4)[0]
    again = TASK.terms(named, other, as_maps(teacher), labels, label_smoothing=0.0)
    everywhere = [
        TASK.terms(plain, one, as_maps(teacher), labels, label_smoothing=0.0)
        for one in (student, other)
    ]
    for name in expected:
        assert float(again[name]) == pytest.approx(float(found[name])), "they are not looked at"
        assert float(everywhere[0][name]) != pytest.approx(float(everywhere[1][name])), (
            "else they are, as published"
        )


@pytest.mark.parametrize("sizes", [[6], [1, 2, 3]])
def test_scores_come_from_the_counts_of_pixels(sizes: list[int]) -> None:
    logits, target = maps(6, 2, 4, 6, 5), masks(6)
    score = MapScore(["a", "b", "c", "d", "e"])
    for part, labels in zip(logits.split(sizes), target.split(sizes), strict=True):
        score.add(part, Labels(labels))
    planes = nn.functional.interpolate(logits[:, 0].permute(0, 3, 1, 2), (16, 24), mode="bilinear")
    predicted, wanted, there = planes.argmax(1).numpy(), target.numpy(), target.numpy() != 255
    result = score.result()
    ious = []
    for index, name in enumerate("abcde"):
        hit = ((predicted == index) & (wanted == index) & there).sum()
        union = (((predicted == index) | (wanted == index)) & there).sum()
        ious.append(100 * hit / union)
        assert result[f"iou/{name}"] == pytest.approx(ious[-1])
    assert result["miou"] == pytest.approx(np.mean(ious))
    assert result["pixel_accuracy"] == pytest.approx(100 * (predicted == wanted)[there].mean())
    assert result["eval_loss"] == pytest.approx(float(pixel_loss(logits[:, 0], target)), rel=1e-5)


def test_a_class_that_is_neither_there_nor_predicted_does_not_count() -> None:
    score = MapScore(["a", "b", "c"])
    logits = torch.zeros(1, 1, 2, 2, 3)
    logits[..., 0] = 1
    score.add(logits, Labels(torch.tensor([[[0, 0], [1, 255]]], dtype=torch.uint8)))
    result = score.result()
    assert {name: value for name, value in result.items() if "iou/" in name} == pytest.approx(
        {"iou/a": 200 / 3, "iou/b": 0.0}
    )
    assert result["miou"] == pytest.approx(100 / 3) and result["pixel_accuracy"] == pytest.approx(
        200 / 3
    )


def test_statistics_look_at_the_main_head() -> None:
    logits, target = maps(2, 2, 4, 6, 5), masks()
    layout = Heads(((4, 6),) * 2)
    found = TASK.statistics(TeacherLogits(logits), target, layout)
    rows, labels = logits[:, 0].reshape(-1, 5), masks_at(target, (4, 6)).reshape(-1)
    assert found["mean"] == pytest.approx(float(rows.mean()), abs=1e-6)
    assert found["confidence"] == pytest.approx(float(rows.softmax(1).amax(1).mean()))
    there = labels != 255
    assert found["accuracy"] == pytest.approx(
        100 * float((rows.argmax(1) == labels)[there].float().mean())
    )
    assert "accuracy" not in TASK.statistics(TeacherLogits(logits), None, layout)


class Local(nn.Module):
    """A model whose map at a place depends on that place alone, at stride 1."""

    def forward(self, views: Tensor) -> Tensor:
        return torch.stack([views[:, 0], views[:, 1] * 2], dim=-1)[:, None].float()


@pytest.mark.parametrize("size", [(16, 24), (30, 41), (5, 50), (3, 4)])
def test_sliding_windows_cover_all_once_they_are_averaged(size: tuple[int, int]) -> None:
    views = maps(2, 3, *size)
    seen: list[tuple[int, ...]] = []
    model = Local()
    model.register_forward_hook(lambda module, given, found: seen.append(tuple(given[0].shape[2:])))
    torch.testing.assert_close(slide(model, views, (12, 16)), Local()(views))
    assert set(seen) == {(min(12, size[0]), min(16, size[1]))}, "windows of one size"


def test_corners_are_aligned_in_loss_and_score_if_that_is_asked_for() -> None:
    task = open_task("segmentation", align_corners=True)
    logits, target = maps(2, 1, 4, 6, 5), masks()
    planes = nn.functional.interpolate(
        logits[:, 0].permute(0, 3, 1, 2), (16, 24), mode="bilinear", align_corners=True
    )
    expected = float(nn.functional.cross_entropy(planes, target.long(), ignore_index=255))
    terms = task.terms(
        open_loss("ce"), logits, as_maps(logits), Labels(target), label_smoothing=0.0
    )
    assert float(terms["task"]) == pytest.approx(expected, rel=1e-6)
    scores = []
    for one in (task, TASK):
        score = one.score([*"abcde"], "cpu")
        score.add(logits, Labels(target))
        scores.append(score.result()["eval_loss"])
    assert scores[0] == pytest.approx(expected, rel=1e-6) and scores[1] != pytest.approx(scores[0])


def test_windows_are_upsampled_with_aligned_corners_too() -> None:
    class Coarse(nn.Module):
        def forward(self, views: Tensor) -> Tensor:
            return nn.functional.avg_pool2d(views, 4).permute(0, 2, 3, 1)[:, None]

    views = maps(1, 3, 16, 24)
    whole = slide(Coarse(), views, (16, 24), align_corners=True)
    corners = nn.functional.avg_pool2d(views, 4)[0, :, [0, -1], [0, -1]]
    torch.testing.assert_close(whole[0, 0, [0, -1], [0, -1]].T, corners)


def test_a_task_without_maps_refuses_to_align_corners() -> None:
    with pytest.raises(UsageError, match="align_corners is not for classification"):
        open_task("classification", align_corners=True)


def test_memory_of_dist_grows_with_the_pixels() -> None:
    """Bytes that autograd keeps, of 2 images of 512x1024 at stride 8, and of a quarter of that."""
    kept = []
    for height in (16, 64):
        student, teacher = (
            maps(2, 1, height, 128, 19).requires_grad_(),
            as_maps(maps(2, 1, height, 128, 19, seed=1)),
        )
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        labels: Any = Labels(torch.zeros(2, 8 * height, 1024, dtype=torch.uint8))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            TASK.terms(open_loss("dist:ce=0"), student, teacher, labels, label_smoothing=0.0)[
                "inter"
            ].backward()
        kept.append(sum(sizes.values()))
    assert isinstance(teacher, SegmentTargets)
    assert kept[1] == pytest.approx(4 * kept[0], rel=0.02)
