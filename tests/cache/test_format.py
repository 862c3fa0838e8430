"""The format as docs/reference/format.md tells it, and caches that were written long ago."""

import dataclasses
import hashlib
import io
import json
import random
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from caches import PATTERNS, fill, flipped, records
from PIL import Image
from runs import dump
from tiny_models import FEW

from kdcache.cache import FORMAT_VERSION, Cache, Commit, Manifest, create_cache, open_cache
from kdcache.cache.committing import commit_unit, start_seed
from kdcache.cache.documents.extent import Extent
from kdcache.cache.documents.manifest import json_names
from kdcache.cache.documents.parts import Absence
from kdcache.cache.formats.zarr import object_key
from kdcache.cache.source import CachedSource
from kdcache.codecs import LowRank, codec_to_dict, open_codec
from kdcache.codecs.transform import Fit
from kdcache.positions import Pyramid
from kdcache.runtime.generators import seed_generators
from kdcache.tools.export import export_cache
from kdcache.verify.cache import verify_cache
from kdcache.views import load_recipe
from kdcache.views.permutation import row_order
from kdcache.views.stored_views import ViewKey

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "format.md").read_text()
GOLDEN = Path(__file__).parents[1] / "golden"


def block(function: str) -> str:
    """Return the page's code block that defines `function`."""
    (code,) = [
        code
        for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
        if f"def {function}(" in code
    ]
    return str(code)


def defined(function: str) -> Any:
    names: dict[str, Any] = {}
    exec(block(function), names)
    return names[function]


def read_without_kdcache(path: Path, seed: int) -> subprocess.CompletedProcess[bytes]:
    """Run the page's reader where kdcache and torch cannot be imported; stdout gets the records,
    stderr the absent rows."""
    code = f"""
import sys
sys.modules.update(kdcache=None, torch=None)
{block("read_seed")}
records, absent = read_seed({str(path)!r}, {seed})
sys.stdout.buffer.write(records.tobytes())
print(records.dtype.descr, absent, file=sys.stderr)
"""
    return subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, cwd=path.parent, check=False
    )


def test_the_reader_has_at_most_twenty_lines_and_needs_zarr_numpy_and_json_alone() -> None:
    lines = [line for line in block("read_seed").splitlines() if line.strip()]
    assert len(lines) <= 20 and max(map(len, lines)) <= 110
    assert {line for line in lines if re.search(r"\bimport\b", line)} == {
        "import json",
        "import numpy as np",
        "import zarr",
    }


@pytest.mark.parametrize("codec", ["full:dtype=float32", "topk:k=3"])
def test_the_reader_reads_what_kdcache_reads(tmp_path: Path, codec: str) -> None:
    dump(tmp_path / "cache", codec=codec, unit_rows=50, seeds="3")
    cache = open_cache(tmp_path / "cache")
    done = read_without_kdcache(tmp_path / "cache", 3)
    assert done.returncode == 0, done.stderr
    mine = cache.read(3, range(FEW))
    theirs = np.frombuffer(done.stdout, cache.manifest.dtype)
    assert theirs.tobytes() == mine.tobytes() and done.stderr.decode() == f"{mine.dtype.descr} []\n"
    if codec.startswith("full"):
        np.testing.assert_array_equal(theirs["logits"], cache.codec.decode(mine).logits().numpy())


def test_the_reader_tells_absent_rows_and_refuses_missing_and_emptied_units(tmp_path: Path) -> None:
    cache = create_cache(
        tmp_path / "cache", fill(tmp_path / "pattern", skip_unreadable=True, rows=12).manifest
    )
    start_seed(cache, 0)
    commit_unit(cache, 0, 0, records(cache, 0, 0), absent=[Absence(row=5, reason="not an image")])
    done = read_without_kdcache(tmp_path / "cache", 0)
    assert (
        done.returncode == 1
        and b"FileNotFoundError" in done.stderr
        and b"000001.json" in done.stderr
    )
    commit_unit(cache, 0, 1, records(cache, 0, 1))
    assert read_without_kdcache(tmp_path / "cache", 0).stderr.endswith(b" [5]\n")
    (tmp_path / "cache" / object_key(0, 1)).write_bytes(b"")
    assert (
        b"ValueError: seed 0, unit 1 is damaged"
        in read_without_kdcache(tmp_path / "cache", 0).stderr
    )


def test_plain_zarr_raises_on_every_flipped_byte(tmp_path: Path) -> None:
    cache = fill(tmp_path, 0)
    path = tmp_path / object_key(0, 1)
    data = path.read_bytes()
    array = zarr.open_array(tmp_path / "seeds/00000/records", mode="r")
    for position in range(len(data)):
        path.write_bytes(flipped(data, position, PATTERNS[position % 3]))
        with pytest.raises(Exception, match=r".+"):  # zarr, numcodecs and zstd raise what they like
            array[:]
    path.write_bytes(data)
    assert np.asarray(array[:]).tobytes() == cache.read(0, range(20)).tobytes()


def test_the_page_tells_digest_order_and_key_of_a_view(tmp_path: Path) -> None:
    cache = fill(tmp_path, 0)
    root = json.loads((tmp_path / "zarr.json").read_bytes())["attributes"]["kdcache"]
    commit = json.loads((tmp_path / "commits/00000/000001.json").read_bytes())
    assert (
        defined("digest")(root) == root["digest"] and defined("digest")(commit) == commit["digest"]
    )
    for rows, seed in ((20, 0), (1000, 7)):
        np.testing.assert_array_equal(defined("row_order")(rows, seed), row_order(rows, seed))
    np.testing.assert_array_equal(defined("row_order")(20, 0), cache.order)
    recipe = load_recipe("digits")
    words = defined("view_words")(recipe.to_dict(), 3, 41).tolist()
    seed_generators(*recipe.key, 3, 41)
    drawn = torch.default_generator.initial_seed(), np.random.random(), random.random()
    assert drawn == (
        words[0] << 32 | words[1],
        np.random.RandomState(words[2]).random(),
        random.Random(words[3]).random(),
    )


def test_the_page_tells_which_rows_a_subset_holds(tmp_path: Path) -> None:
    fill(tmp_path / "whole", 0)
    export_cache(tmp_path / "whole", tmp_path / "part", samples="3:9")
    part, names = open_cache(tmp_path / "part"), {"np": np, "zarr": zarr}
    exec(block("held_rows"), names)
    found = names["held_rows"](tmp_path / "part", part.manifest.to_json(), part.order)
    np.testing.assert_array_equal(found, np.flatnonzero(part.is_held))


def test_the_page_names_every_field() -> None:
    for cls, section in ((Manifest, "Manifest"), (Commit, "Commit"), (Extent, "Requests")):
        text = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
        cells = {
            name
            for line in text.splitlines()
            if line.startswith("| `")
            for name in re.findall(r"`(\w+)`", line.split("|")[1])
        }
        written = {field.name for field in dataclasses.fields(cls)}
        if cls is Manifest:
            written = {"format_version", *json_names()}
        assert cells == {*written, "digest"}
    assert f"version {FORMAT_VERSION}\n" in PAGE.splitlines()[0] + "\n"


@pytest.mark.parametrize("classes", [10, 11, 300, 70_000])
def test_the_page_tells_the_bytes_of_every_field(classes: int) -> None:
    table = PAGE.split("\n## Records\n")[1].split("\n## ")[0].split("|---|\n")[1]
    codec, told = "", {}
    for line in table.split("\n\n")[0].splitlines():
        name, field, kind = (cell.strip() for cell in line.split("|")[1:4])
        codec = name.strip("`").replace("K", "4") or codec
        types = re.findall(r"`([<\w]+)`", kind)
        shapes = {
            "[C]": (classes,),
            "[C/2]": (-(-classes // 2),),
            "[K]": (4,),
            "[W]": (2,),
            "[B]": (3,),
            "[T]": (2,),
        }
        shape = next((shape for name, shape in shapes.items() if name in kind), ())
        smallest = (classes > 256) + (classes > 65_536)
        told.setdefault(codec, []).append(
            (field.strip("`"), types[smallest if len(types) > 1 else 0], shape)
        )
    assert len(told) == 8
    axes = [("axes", "<i4", (classes,))]
    assert np.dtype(told.pop("cosine")) == np.dtype(axes)
    rounding, basis = np.zeros((2, 11), np.float32), np.zeros((11, classes), np.float32)
    mean = np.zeros(classes, np.float32)
    fit = Fit(
        basis=basis, mean=mean, step=1.0, rounding=rounding, wide=2, byte=3
    )  # leaves 6 in 2 bytes
    assert (
        np.dtype(told.pop("lowrank")) == LowRank(classes=classes, step=1.0, fitted=fit).record_dtype
    )
    for spec, fields in told.items():
        assert np.dtype(fields) == open_codec(spec, classes=classes).record_dtype, spec


def test_lowrank_reads_as_the_page_says(tmp_path: Path) -> None:
    dump(tmp_path, codec="lowrank:step=2", seeds="3")
    cache = open_cache(tmp_path)
    digest = cache.manifest.codec.fit
    root = zarr.open_group(tmp_path, mode="r")
    fit = {
        name: np.asarray(root[f"codec/{digest[:16]}/{name}"])
        for name in ("basis", "mean", "step", "kinds", "rounding")
    }
    parts = [
        f"{name} {fit[name].dtype.str} {fit[name].shape} ".encode() + fit[name].tobytes()
        for name in sorted(fit)
    ]
    assert hashlib.sha256(b"".join(parts)).hexdigest() == digest
    records = cache.read(3, range(FEW))
    integers = [
        records[name].astype(float) for name in ("wide", "byte") if name in records.dtype.names
    ]
    if "ternary" in records.dtype.names:
        packed = records["ternary"].view("i1").astype(int) + 121
        integers.append(np.stack([packed // 3**i % 3 - 1 for i in range(5)], 2).reshape(FEW, -1))
    axes = int(fit["kinds"].sum())
    logits = fit["mean"] + fit["step"] * np.concatenate(integers, 1)[:, :axes] @ fit[
        "basis"
    ].astype(float)
    np.testing.assert_allclose(
        cache.codec.decode(records).logits().numpy(), logits, rtol=1e-3, atol=1e-2
    )


def golden(name: str) -> Cache:
    return open_cache(GOLDEN / name)


def test_golden_caches_are_there_for_every_version() -> None:
    names = {
        f"v{version}-{codec}"
        for version in range(1, FORMAT_VERSION + 1)
        for codec in (
            *("full", "topk", "lowrank", "cosine", "webdataset"),
            *("fkd", "ml-dr", "tinyvit"),
        )
    }
    assert {path.name for path in GOLDEN.iterdir() if path.is_dir()} - {"__pycache__"} == names
    files = [
        path for path in GOLDEN.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    ]
    assert sum(path.stat().st_size for path in files) < 275_000
    assert not [path for path in files if path.name.endswith(".tmp")]


def test_golden_manifests_read_as_they_were_written() -> None:
    full, topk = golden("v1-full"), golden("v1-topk")
    assert (
        full.manifest.digest == "f0cc64cc1502e58fdec8e57aaf92f172eed010aa08eea75d380c91404a50bfe8"
    )
    assert (
        topk.manifest.digest == "2404675205b5049cb734e3dc6b738031fd399b522b8416eadedc76de369ea5cb"
    )
    for cache in (full, topk):
        assert (
            cache.complete_seeds() == [0, 12]
            and cache.manifest.rows == 20
            and cache.manifest.unit_rows == 8
        )
        assert cache.order.tolist() == [
            0,
            8,
            19,
            9,
            3,
            18,
            14,
            7,
            15,
            5,
            1,
            17,
            11,
            2,
            16,
            10,
            6,
            13,
            12,
            4,
        ]
    assert full.codec == open_codec("full:dtype=float16", classes=5)
    assert topk.codec == open_codec(
        "topk:k=3,mantissa=10", classes=5
    )  # as it was before there were options
    assert codec_to_dict(topk.codec) == topk.manifest.codec.to_json()


def test_golden_records_are_what_was_written() -> None:
    logits = np.load(GOLDEN / "v1.npy")
    assert logits[1, 0].tolist() == [
        -0.70947265625,
        -0.25,
        -0.033203125,
        -2.099609375,
        0.2462158203125,
    ]
    full, topk = golden("v1-full"), golden("v1-topk")
    for place, seed in enumerate((0, 12)):
        np.testing.assert_array_equal(
            full.codec.decode(full.read(seed, range(20))).logits().numpy(), logits[place]
        )
        kept = topk.read(seed, range(20))
        np.testing.assert_array_equal(
            kept["logits"], np.take_along_axis(logits[place], kept["classes"].astype(int), 1)
        )
        assert np.array_equal(
            np.sort(kept["classes"]), np.sort(np.argsort(-logits[place], 1)[:, :3])
        )
    first = topk.read(12, [0])[0]
    assert first["classes"].tolist() == [4, 2, 1]
    tail = [float(first[name]) for name in ("tail_lse", "tail_mean", "tail_var")]
    assert tail == pytest.approx([-0.487, -1.404, 0.4827], rel=1e-3)
    probs = topk.codec.decode(topk.read(12, [0])).probs(4.0)[0].tolist()
    assert probs == pytest.approx(
        [0.161509141, 0.212368309, 0.224196136, 0.161509141, 0.240417257], rel=1e-6
    )


def test_a_golden_fit_decodes_as_it_did() -> None:
    lowrank, logits = golden("v1-lowrank"), np.load(GOLDEN / "v1.npy")[1]
    assert (
        lowrank.manifest.digest
        == "48d3304850cd4c15279f11ff6f5031fa67fada4ee59509cf646fad8ded6448fb"
    )
    records = lowrank.read(12, range(20))
    assert records[0]["byte"].tolist() == [-1, -1, 3, -2]
    decoded = lowrank.codec.decode(records).logits().numpy()
    assert decoded[0].tolist() == pytest.approx(
        [-0.11136244, 0.270095, 0.532369, -1.5209291, 0.8298032], rel=1e-5
    )
    assert abs(decoded - (logits - logits.mean(1, keepdims=True))).max() < 0.06


def test_a_golden_cache_of_a_detector_decodes_as_it_did() -> None:
    cache = golden("v1-cosine")
    digest = "4967742587765fbe04ac92d121b3ce961eb3b43ce1e4169ce6cf572490b25640"
    assert cache.manifest.digest == digest
    layout = cache.manifest.layout
    assert isinstance(layout, Pyramid) and layout.levels == ((8, 8), (4, 4))
    assert layout.anchors == (2, 2) and layout.anchor_boxes == "24a6fe0bec21967f"
    records = cache.read(12, range(20))
    assert records[0]["level1"][:8].tolist() == [110, 59, 181, 95, 169, 2, 1, 0]
    decoded = cache.codec.decode(records).logits().numpy()
    assert decoded.shape == (20, 160, 3)
    assert decoded[0, 0].tolist() == pytest.approx([-4.75759, -5.40061, -3.32371], abs=1e-4)
    assert decoded[5, 159].tolist() == pytest.approx([-2.53686, -2.9782, -4.59577], abs=1e-4)


def test_golden_views_of_boxes_and_flips_are_those_that_were_stored() -> None:
    cache = golden("v1-fkd")
    digest = "608454921c87afc05a16bc85522e7f580d34324dbd38b4669799aefbeee2917a"
    assert cache.manifest.digest == digest
    views = cache.recipe.stored_views
    assert views is not None
    stored = views.view(ViewKey(4, 1))
    shares = [0.1818181872367859, 0.03333333507180214, 0.1818181872367859, 0.15000000596046448]
    assert [*stored.box] == shares
    assert (stored.is_in_pixels, stored.is_flipped) == (False, True)
    assert (stored.operations, stored.block) == ((), None)
    decoded = cache.codec.decode(cache.read(1, [0])).probs(1.0)[0]
    assert decoded.tolist() == pytest.approx([0.4903, 0.3460, 0.1637], abs=1e-4)


def test_golden_views_with_operations_blocks_and_partners_are_those_that_were_stored() -> None:
    cache = golden("v1-ml-dr")
    digest = "f41ce365ab192dd408aad728be37ef0ff609ad94a333d62e7f2462a09db8b60a"
    assert cache.manifest.digest == digest
    views = cache.recipe.stored_views
    assert views is not None
    key = ViewKey(4, 1)
    own = views.view(key)
    assert [*own.box] == [27, 10, 12, 31]
    assert (own.is_in_pixels, own.is_flipped) == (True, False)
    assert (own.operations, own.block) == ((18, 19), None)
    other = views.view(key._replace(is_partner=True))
    assert [*other.box] == [2, 2, 37, 43]
    assert other.operations == (3, 6)
    assert other.block is not None
    assert [*other.block] == [0.25, 0.458251953125, 0.291748046875, 0.2083740234375]
    mix = views.mix(key)
    assert mix is not None
    assert (mix.partner, mix.share) == (4, 0.8768905997276306)
    assert mix.cut is not None
    assert [*mix.cut] == [0.125, 0.375, 0.458251953125, 0.54150390625]
    decoded = cache.codec.decode(cache.read(1, [0])).probs(1.0)[0]
    assert decoded.tolist() == pytest.approx([0.5908, 0.3110, 0.0982], abs=1e-4)


def test_golden_seeds_of_views_are_those_that_were_stored() -> None:
    cache = golden("v1-tinyvit")
    digest = "6844728ff63ce7624f744a2183b46d66b22ae3361a039afaf93083a6a9b4140e"
    assert cache.manifest.digest == digest
    views = cache.recipe.stored_views
    assert views is not None
    assert views.draw_seed(ViewKey(4, 1)) == 1295943087
    decoded = cache.codec.decode(cache.read(1, [0])).probs(1.0)[0]
    assert decoded.tolist() == pytest.approx([0.7403, 0.1407, 0.1190], abs=1e-4)


def test_a_golden_tar_is_read_by_kdcache_and_by_tar(tmp_path: Path) -> None:
    cache, logits = golden("v1-webdataset"), np.load(GOLDEN / "v1.npy")[1]
    assert (
        cache.manifest.digest == "f1cb7f8f82922262a7d3ef147e0306612704cf032bbf120ac9e14da31697bce3"
    )
    assert (
        cache.complete_seeds() == [12, 13]
        and cache.manifest.seeds_per_unit == 2
        and cache.manifest.has_images
    )
    np.testing.assert_array_equal(
        cache.codec.decode(cache.read(12, range(20))).logits().numpy(), logits
    )
    second = cache.codec.decode(cache.read(13, [0])).logits()[0].tolist()
    assert second == [
        -0.2474365234375,
        0.137939453125,
        0.0138397216796875,
        -1.7041015625,
        0.1363525390625,
    ]
    assert (
        cache.commit_of(13, 2).writer.startswith("worker:")
        and golden("v1-full").commit_of(12, 2).writer == ""
    )
    report = verify_cache(cache, views=8, data=cache.manifest.source.spec)
    assert report["faults"] == report["foreign"] == [] and report["views"]["checked"] == 8
    with tarfile.open(GOLDEN / "v1-webdataset/shards/00012-00013/000002.tar") as tar:
        assert tar.getnames()[:3] == ["00000006.png", "00000006.cls", "00000006.records.npy"]
        image = Image.open(
            io.BytesIO(member.read() if (member := tar.extractfile("00000006.png")) else b"")
        )
    source = CachedSource(cache)
    assert source.sample(6).image.tobytes() == image.tobytes() and source.key(6) == "00000006"


@pytest.mark.parametrize("name", ["v1-full", "v1-fkd", "v1-ml-dr", "v1-tinyvit"])
def test_golden_views_render_as_they_did(name: str) -> None:
    cache = golden(name)
    report = verify_cache(cache, views=24, data=cache.manifest.source.spec)
    assert report["faults"] == [] and report["views"]["checked"] == 24


@pytest.mark.parametrize("name", ["v1-full", "v1-topk", "v1-lowrank", "v1-cosine"])
def test_golden_caches_are_read_by_zarr_alone(name: str) -> None:
    root = zarr.open(GOLDEN / name, mode="r")
    assert isinstance(root, zarr.Group) and root.attrs["kdcache"]["format_version"] == 1  # type: ignore[index,call-overload]
    array = root["seeds/00012/records"]
    assert isinstance(array, zarr.Array)
    assert np.asarray(array[:]).tobytes() == golden(name).read(12, range(20)).tobytes()
