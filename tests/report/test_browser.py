"""The page in headless Chromium, light and dark, wide and on a phone; skipped where there is none."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from forged_runs import compared_runs, forged_run
from PIL import Image
from runs import IN_PROCESS, train

from kdcache.report.config import ReportConfig
from kdcache.report.page import write_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next((path for path in map(shutil.which, BROWSERS) if path), None)
SCHEMES = {"light": ("1", (255, 255, 255)), "dark": ("0", (15, 18, 22))}
"""What sets it, and the colour of the page."""
LINES = {"light": [(87, 96, 106), (0, 101, 168)], "dark": [(180, 189, 199), (92, 179, 240)]}
"""The colours of the first two lines."""
FRAME = """<!doctype html><body style="margin:0">
<iframe id="frame" src="report.html" style="width:WIDTHpx;height:6000px;border:0"></iframe>
<pre id="out"></pre>
<script>MEASURE</script>"""
MEASURE = """
const frame = document.getElementById("frame");
frame.onload = () => {
  const page = frame.contentDocument, view = frame.contentWindow;
  const wide = page.documentElement.clientWidth;
  const isShown = (e) => e.getBoundingClientRect().width > 0;
  const ownText = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
  const all = [...page.body.querySelectorAll("*")].filter(isShown);
  const outside = all.filter((e) => !e.closest(".scroll, .matrix, svg"))
    .filter((e) => e.getBoundingClientRect().right > wide + 0.5).map((e) => e.outerHTML.slice(0, 99));
  const parse = (text) => {
    const n = text.match(/[\\d.]+/g).map(Number);
    return n.length < 4 ? [...n.slice(0, 3), 1] : n;
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3]));
  const behind = (e) => {
    const layers = [];
    for (let at = e; at; at = at.parentElement) layers.push(parse(view.getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
  };
  const light = (c) => c.slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const texts = all.filter((e) => ownText(e) && e.tagName !== "title").map((e) => {
    const style = view.getComputedStyle(e);
    const colour = parse(e.closest("svg") ? style.fill : style.color);
    const lights = [light(colour), light(behind(e))].sort((a, b) => b - a);
    const ratio = (lights[0] + 0.05) / (lights[1] + 0.05);
    return { text: e.textContent.trim().slice(0, 40), ratio, pixels: e.getBoundingClientRect().height };
  });
  const overlaps = [];
  for (const svg of all.filter((e) => e.tagName === "svg")) {
    const boxes = [...svg.querySelectorAll("text")].map((e) => [e.textContent, e.getBoundingClientRect()]);
    boxes.forEach(([text, a], i) => boxes.slice(i + 1).forEach(([other, b]) => {
      const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (across > 1 && down > 4) overlaps.push([text, other]);
    }));
    const edge = svg.getBoundingClientRect();
    for (const [text, box] of boxes) {
      if (box.left < edge.left - 1 || box.right > edge.right + 1) overlaps.push([text, "edge"]);
    }
  }
  const cut = all.filter((e) => e.classList.contains("matrix") && e.scrollWidth > e.clientWidth).length;
  const matrices = all.filter((e) => e.classList.contains("matrix")).length;
  const out = { cut, matrices, scroll: page.documentElement.scrollWidth, wide, outside, texts, overlaps,
    charts: all.filter((e) => e.tagName === "svg" && e.getAttribute("role") === "img").length };
  document.getElementById("out").textContent = JSON.stringify(out);
};
"""

pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="there is no Chromium"),
    pytest.mark.slow,
]


def browse(folder: Path, page: str, scheme: str, *words: str) -> str:
    """Open a page of a folder, and return what the browser prints."""
    profile = folder / "profile"
    command = [str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--user-data-dir={profile}", "--allow-file-access-from-files", "--no-first-run"]
    command += [f"--blink-settings=preferredColorScheme={SCHEMES[scheme][0]}", *words]
    done = subprocess.run(
        [*command, (folder / page).as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a report with long names, many classes and lines that end together."""
    folder = tmp_path_factory.mktemp("browser")
    runs = compared_runs(folder / "runs")
    long = "an-unbroken-name-of-a-class-" * 4
    for number, loss in enumerate(("kl:tau=4", "dkd:alpha=1,beta=8,tau=4", "nkd:tau=1")):
        scores = []
        for epoch in range(1, 6):
            classes = {f"accuracy/{long}{c}": 50.0 + c + number + epoch for c in range(12)}
            scores.append({"top1": 84 * epoch / 5, "eval_loss": 1 / epoch, **classes})
        losses = {"one": 2.0, "two": 2.001, "three": 2.002, "task": 2.003}
        cache = "/a/very/long/path/" + "to-a-cache-of-logits/" * 6
        forged_run(
            runs / f"long-{number}", scores, losses=losses, loss=loss, cache=cache, recipe=None
        )
    write_report(ReportConfig(runs=(str(runs),), out=str(folder / "report.html"), evaluate=False))
    return folder


def measured(folder: Path, scheme: str, width: int) -> dict[str, Any]:
    page = FRAME.replace("WIDTH", str(width)).replace("MEASURE", MEASURE)
    (folder / "frame.html").write_text(page)
    text = browse(folder, "frame.html", scheme, "--dump-dom", "--virtual-time-budget=5000")
    match = re.search(r'<pre id="out">(.*?)</pre>', text, re.DOTALL)
    assert match is not None and match[1], text[-2000:]
    result: dict[str, Any] = json.loads(unescape(match[1]))
    return result


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", [375, 1280])
def test_nothing_is_cut_or_overlaps_and_all_text_can_be_read(
    folder: Path, scheme: str, width: int
) -> None:
    result = measured(folder, scheme, width)
    assert result["wide"] == width and result["charts"] >= 5 and len(result["texts"]) > 100
    assert result["scroll"] <= width, "the page itself does not scroll sideways"
    assert not result["outside"]
    assert not result["overlaps"]
    faint = [text for text in result["texts"] if text["ratio"] < 4.5]
    assert not faint
    small = [text for text in result["texts"] if text["pixels"] < 9]
    assert not small


@pytest.fixture(scope="module")
def confused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a report on students that take ten classes for each other."""
    folder = tmp_path_factory.mktemp("confused")
    data = "tiny_models:named_digits"
    settings = {"data": data, "eval_data": data, "recipe": "digits", "loss": "ce", "epochs": 1}
    for smoothing in (0.0, 0.1):
        train(folder / "runs" / str(smoothing), **settings, label_smoothing=smoothing)
    write_report(
        ReportConfig(
            runs=(str(folder / "runs"),), out=str(folder / "report.html"), compute=IN_PROCESS
        )
    )
    return folder


@pytest.mark.parametrize("width", [1200, 1280])
def test_tables_of_which_classes_are_taken_for_which_are_whole(confused: Path, width: int) -> None:
    result = measured(confused, "light", width)
    assert result["matrices"] == 2 and result["cut"] == 0
    assert result["scroll"] <= width and not result["outside"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_screenshot_has_the_colours_of_the_scheme_and_of_the_lines(
    folder: Path, scheme: str
) -> None:
    picture = folder / f"{scheme}.png"
    browse(folder, "report.html", scheme, f"--screenshot={picture}", "--window-size=1280,2200")
    image = Image.open(picture).convert("RGB")
    assert image.size == (1280, 2200)
    counts = {colour: count for count, colour in image.getcolors(1 << 24) or []}
    background = SCHEMES[scheme][1]
    assert image.getpixel((2, 2)) == background
    assert counts[background] > 0.3 * 1280 * 2200
    for colour in LINES[scheme]:
        assert counts.get(colour, 0) > 300, (colour, "a line is drawn")
