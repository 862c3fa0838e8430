"""The page, without a browser: its figures are those of the runs, and it needs nothing else."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from forged_runs import LAST, compared_runs, forged_run, rising

from kdcache.report.config import ReportConfig
from kdcache.report.page import write_report

VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """Elements and texts of a page; one that is not closed, or closed twice, is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, (tag, self.open)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self.rows and {"td", "th"} & {*self.open}:
            self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def written(folder: Path, *runs: Path, **settings: Any) -> tuple[Page, dict[str, Any]]:
    """Write a report without torch, and return its page and its numbers."""
    out = folder / "report.html"
    names = tuple(map(str, runs))
    result = write_report(ReportConfig(runs=names, out=str(out), evaluate=False, **settings))
    return Page(out.read_text("utf-8")), result


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Page, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("report")
    return written(folder, compared_runs(folder / "runs"))


def test_the_table_has_what_the_results_say(compared: tuple[Page, dict[str, Any]]) -> None:
    page, result = compared
    (ce,) = [row for row in page.rows if row[0].strip() == "ce" and len(row) > 5]
    (dist,) = [row for row in page.rows if row[0].strip() == "dist:tau=4" and len(row) > 5]
    # 80, 82, 81: mean 81, deviation 1, error 1 / sqrt(3); differences 4, 3, 2.5
    assert ce[2].startswith("81.00 ± 0.58") and "80.00 to 82.00" in ce[2]
    assert dist[2].startswith("84.17 ± 0.44")
    assert dist[3].startswith("+3.17 ± 0.44") and "higher in 3 of 3 pairs" in dist[3]
    assert "reference" in ce[3]
    lines = {line["name"]: line for line in result["lines"]}
    assert result["score"] == "top1" and result["against"] == "ce"
    for name, values in LAST.items():
        assert lines[name]["score"]["mean"] == pytest.approx(sum(values) / 3)
        assert (lines[name]["score"]["lowest"], lines[name]["score"]["highest"]) == (
            min(values),
            max(values),
        )
    assert lines["dist:tau=4"]["difference"]["higher_in"] == 3


def test_curves_have_what_the_metrics_say(compared: tuple[Page, dict[str, Any]]) -> None:
    page, _ = compared
    for name, values in LAST.items():
        for epoch in range(1, 6):
            mean = sum(values) / 3 * epoch / 5
            assert f"{name}, epoch {epoch}: {mean:.2f} ±" in page.text
    assert "intra, epoch 2: 2.0000" in page.text and "inter, epoch 3: 1.0000" in page.text


def test_a_sentence_says_which_line_scores_highest(compared: tuple[Page, dict[str, Any]]) -> None:
    page, _ = compared
    assert (
        "dist:tau=4 scores highest: top-1 84.17 ± 0.44 % in the last epoch, over 3 runs. That is"
        " +3.17 ± 0.44 points against ce, higher in 3 of 3 pairs with the same seeds."
    ) in "".join(page.texts)
    assert "\\x" not in page.text, "no escape in the page's own words"


def test_a_line_alone_is_not_said_to_score_highest(tmp_path: Path) -> None:
    forged_run(tmp_path / "run", rising(50))
    page, _ = written(tmp_path, tmp_path / "run")
    assert " scores: top-1 50.00 % in the last epoch, over 1 run." in "".join(page.texts)


def test_the_data_below_the_title_tell_their_part(tmp_path: Path) -> None:
    data = f"segfolder:/data/{'street/' * 8}set,images=images/val/{{}}.jpg,classes=names.txt"
    forged_run(tmp_path / "run", rising(50), eval_data=data)
    page, _ = written(tmp_path, tmp_path / "run")
    assert f"eval data {data}" in page.text


def test_scores_on_unlike_data_are_not_compared(tmp_path: Path) -> None:
    forged_run(tmp_path / "runs" / "a", rising(50), eval_data="digits:val")
    forged_run(tmp_path / "runs" / "b", rising(60), eval_data="digits:train")
    page, result = written(tmp_path, tmp_path / "runs")
    assert "scores highest:" not in page.text and "Lines differ in eval_data:" in page.text
    assert [line["difference"] for line in result["lines"]] == [None, None]
    (row,) = [row for row in page.rows if len(row) > 5 and "60.00" in row[2]]
    assert row[3] == "\u2013other eval_data"


def test_lines_of_one_evaluation_are_compared_beside_one_of_another(tmp_path: Path) -> None:
    forged_run(tmp_path / "runs" / "a", rising(50))
    forged_run(tmp_path / "runs" / "b", rising(60), label_smoothing=0.1)
    forged_run(tmp_path / "runs" / "c", rising(70), eval_recipe="eval-whole")
    page, result = written(tmp_path, tmp_path / "runs")
    differences = [line["difference"] for line in result["lines"]]
    assert differences[1]["mean"] == pytest.approx(10) and differences[2] is None
    assert "scores highest:" not in page.text and "Lines differ in eval_recipe:" in page.text


def test_a_classifier_is_not_compared_with_a_run_of_segmentation(tmp_path: Path) -> None:
    classes = {"accuracy/cat": 50.0}
    forged_run(tmp_path / "runs" / "a", [{"top1": 50.0, **classes}])
    forged_run(tmp_path / "runs" / "b", [{"miou": 40.0, "iou/sky": 40.0}], label_smoothing=0.1)
    page, _ = written(tmp_path, tmp_path / "runs")
    assert "scores highest:" not in page.text and "Lines differ in task:" in page.text
    assert "accuracy or IoU (%)" in page.text


def test_a_line_without_results_hinders_no_comparison(tmp_path: Path) -> None:
    forged_run(tmp_path / "runs" / "a", rising(50), eval_data="digits:val")
    forged_run(tmp_path / "runs" / "b", rising(60), eval_data="digits:val", label_smoothing=0.1)
    forged_run(tmp_path / "runs" / "c", [{}])
    forged_run(tmp_path / "runs" / "d", rising(70), eval_data="digits:train", is_finished=False)
    page, _ = written(tmp_path, tmp_path / "runs")
    assert "scores highest:" in page.text and "Lines differ in" not in page.text


def test_the_footer_says_nothing_of_an_end_that_is_not_there(tmp_path: Path) -> None:
    forged_run(tmp_path / "run", rising(50), is_finished=False)
    page, _ = written(tmp_path, tmp_path / "run")
    assert "Made with kdcache" in page.text and "The last run was finished" not in page.text


def test_the_page_is_whole_and_alone(compared: tuple[Page, dict[str, Any]]) -> None:
    page, _ = compared
    assert "svg" in page.tags and "script" not in page.tags and "link" not in page.tags
    for name, value in page.attributes:
        assert not name.startswith("on"), name
        if name in ("src", "href", "xlink:href", "data"):
            assert (value or "").startswith("data:"), (name, value)
        elif not name.startswith("xmlns"):
            assert "http://" not in (value or "") and "https://" not in (value or "")
        assert "url(" not in (value or "")
    policy = dict(page.attributes)["content"]
    assert policy is not None
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(set(ids)) == len(ids)
    assert "Left out, as asked" in page.text


def test_a_report_written_again_is_the_same(tmp_path: Path) -> None:
    runs = compared_runs(tmp_path / "runs")
    written(tmp_path, runs)
    first = (tmp_path / "report.html").read_bytes()
    written(tmp_path, runs)
    assert (tmp_path / "report.html").read_bytes() == first


@pytest.mark.parametrize(
    ("scores", "title", "classes"),
    [
        ({"miou": 40.0, "pixel_accuracy": 80.0, "iou/road": 70.0, "iou/sky": 10.0}, "mIoU", "IoU"),
        ({"ap": 30.0, "ap50": 50.0, "ap75": 28.0, "ap/cat": 40.0, "ap/dog": 20.0}, "AP", "AP"),
    ],
)
def test_maps_and_boxes_have_their_scores(
    tmp_path: Path, scores: dict[str, float], title: str, classes: str
) -> None:
    for seed in (0, 1):
        shifted = {name: value + seed for name, value in scores.items()}
        forged_run(tmp_path / "runs" / str(seed), [scores, shifted], run_seed=seed)
    page, result = written(tmp_path, tmp_path / "runs")
    assert result["score"] == title.lower()
    assert f"{title} on the evaluation data" in page.text and f"{classes} (%)" in page.text
    for name, value in scores.items():
        if "/" in name:
            (row,) = [row for row in page.rows if row[0] == name.partition("/")[2]]
            assert row[1] == f"{value + 0.5:.2f} ± 0.50"


HOSTILE = (
    "\"><script>alert('1')</script><img src=x onerror=alert(2)>&amp;\x00\x1b[31m\u202e{{7919*7907}}"
)


def test_texts_from_elsewhere_stay_texts(tmp_path: Path) -> None:
    folder = tmp_path / 'a"><script>alert(3)<' / "r'un<b>"
    scores = [{"miou": 40.0, f"iou/{HOSTILE}": 70.0, "iou/sky": 10.0}]
    forged_run(
        folder,
        scores,
        losses={HOSTILE: 1.0, "task": 2.0},
        cache="</style><script>x",
        recipe=None,
        student=f"timm:{HOSTILE[:40]}",
    )
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**result, "finished": HOSTILE}))
    page, _ = written(tmp_path, folder)
    assert "script" not in page.tags and "b" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert page.tags.count("img") == 0 and page.text.count("62615533") == 0
    text = (tmp_path / "report.html").read_text("utf-8")
    assert "\x00" not in text and "\x1b" not in text and "\u202e" not in text
    assert "<script>alert('1')</script>" in page.text, "it is shown as it is"


def test_runs_that_are_at_work_are_shown_as_far_as_they_are(tmp_path: Path) -> None:
    forged_run(tmp_path / "runs" / "a", rising(50))
    forged_run(tmp_path / "runs" / "b", rising(50)[:2], loss="mse:weight=1", is_finished=False,
               cache="c", recipe=None)  # fmt: skip
    forged_run(tmp_path / "runs" / "c", [], is_finished=False, student="timm:other")
    page, result = written(tmp_path, tmp_path / "runs")
    assert "2 runs are not finished" in page.text
    assert "epoch 2 of 5" in page.text and "epoch 0 of 5" in page.text
    assert [line["score"] is None for line in result["lines"]] == [False, True, True]


def test_runs_without_scores_have_curves_of_their_loss(tmp_path: Path) -> None:
    forged_run(tmp_path / "runs" / "a", [{}, {}])
    page, result = written(tmp_path, tmp_path / "runs")
    assert result["score"] is None and "No run has scores" in page.text
    assert "epoch 2: 1.0000" in page.text and "No run tells scores by class" not in page.text


def test_a_cache_that_is_gone_is_told_in_a_sentence(tmp_path: Path) -> None:
    forged_run(tmp_path / "runs" / "a", rising(50), cache="/nowhere/cache", recipe=None)
    forged_run(tmp_path / "runs" / "b", rising(50), cache="s3://bucket/cache", recipe=None)
    page, _ = written(tmp_path, tmp_path / "runs")
    assert re.search(r"It cannot be looked at here: .*/nowhere/cache", page.text)
    assert "It is in a bucket" in page.text


def test_a_cache_is_described(tmp_path: Path) -> None:
    golden = Path(__file__).parent.parent / "golden" / "v1-topk"
    forged_run(tmp_path / "runs" / "a", rising(50), cache=str(golden), recipe=None)
    page, _ = written(tmp_path, tmp_path / "runs")
    assert "topk:k=" in page.text and "bytes a view" in page.text and "of 2 seeds" in page.text
