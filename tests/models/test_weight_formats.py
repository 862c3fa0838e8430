"""Files of weights: what a file is gets told in one line, and nothing in it runs."""

import argparse
import io
import json
import os
import pickle
import random
import resource
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from tiny_models import conv

from kdcache.config.spec import parse_spec
from kdcache.errors import ModelError, UsageError
from kdcache.models.weight_content import read_weight_file
from kdcache.models.weight_formats import check_weight_file
from kdcache.models.weight_misfit import TEACHER_ADVICE
from kdcache.models.weights import load_weights

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 97781232\n"
SPLIT = json.dumps({"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}})
CASES = int(os.environ.get("KDCACHE_FUZZ", "200"))


def zipped(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/"), content)
    return file.getvalue()


def compressed_torch() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in torch_members().items():
            archive.writestr(name, content)
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights.pt"))
    return file.getvalue()


def torch_bytes(held: Any, *, is_zip: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(held, file, _use_new_zipfile_serialization=is_zip)
    return file.getvalue()


def torch_members() -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(torch_bytes(conv().state_dict()))) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def scripted() -> bytes:
    return zipped(m__data__pkl=b"", m__constants__pkl=b"").replace(b"/pkl", b".pkl")


class Greedy:
    """Asks for a gigabyte when it is unpickled, by a function that torch's reader trusts."""

    def __reduce__(self) -> tuple[Any, ...]:
        return bytearray, (10**9,)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", r"is empty \(0 bytes\); copy or download it again"),
        (LFS, "is a git-lfs pointer for 97,781,232 bytes, not the weights; run git lfs pull"),
        (b"/annex/objects/MD5E-s3--abc", "is a git-annex pointer"),
        (b"<!DOCTYPE html><html><title>404", "is a web page, not weights: a download that failed"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied", "is a web page, not weights"),
        (b'{"error": "not found"}', 'is JSON, not weights: .*\'{"error": "not found"}\''),
        ("\ufeffsee\nREADME".encode(), "is text, not weights: a note, .*'see README'"),
        (SPLIT.encode(), "is the index of weights in several files; join these"),
        (b"\x89HDF\r\n\x1a\n....", "is an HDF5 file; take the weights of a torch"),
        (b"\x93NUMPY\x01\x00", "is a numpy array; save the model's state_dict"),
        (zipped(a__npy=b"1").replace(b"/npy", b".npy"), r"is a numpy archive \(.npz\)"),
        (b"\x08\x07\x12\x07pytorch\x1a\x031.9\x00\xff", "is a protobuf file, as ONNX and"),
        (bytes(100), "is a file that begins with zero bytes; copy or download it again"),
        (b"\x00\x00\x00\x18ftypmp42", "is a film; name the file of weights"),
        (b"GGUF\x03\x00\x00\x00", "is a GGUF file"),
        (b"\x1f\x8b\x08\x00\x00\x00", "is a gzip archive; unpack it, and name"),
        (tarred(), "is a tar archive; unpack it, and name the file of weights in it"),
        (zipped(model__safetensors=b"1"), "is a zip archive of other files .*; unpack it"),
        (scripted(), "is a TorchScript archive, which is code; save the state_dict of torch.jit"),
        (zipped(m__archive_format=b"pt2"), "is an exported program, which is code"),
        (compressed_torch(), "is a zip archive with compressed members"),
        (pickle.dumps({"a": np.ones(3)}), "is a pickle that torch.save did not write"),
        (
            random.Random(0).randbytes(100).replace(b"\x80", b"\x00"),
            "is neither safetensors nor a file that",
        ),
        (torch_bytes(argparse.Namespace(lr=1)), "holds an object of argparse.Namespace, and no"),
        (torch_bytes(torch.nn.Linear(2, 2)), "holds an object of torch.nn.modules.linear.Linear"),
        (torch_bytes({"w": np.ones(3)}), r"holds an object of numpy\.\S+_reconstruct, and no code"),
        (torch_bytes(Greedy()), "holds a bytearray, as no weights do"),
        (torch_bytes(Greedy(), is_zip=False), "holds a bytearray, as no weights do"),
        (torch_bytes(conv().state_dict())[:1000], "is cut off or damaged: a zip archive of 1,000"),
        (torch_bytes(conv().state_dict(), is_zip=False)[:-5], "is cut off after"),
        (save(conv().state_dict())[:-5], "is cut off: it has 2,[0-9]+ bytes of at least 2,"),
        (save(conv().state_dict())[:200], "is cut off: it has 200 bytes of at least"),
        (save(conv().state_dict()).replace(b'"F32"', b'"G32"'), "is damaged"),
        (save(conv().state_dict()) + b"more", "is damaged"),
    ],
)
def test_a_file_that_is_none_of_weights_is_told_as_what_it_is(
    tmp_path: Path,
    content: bytes,
    what: str,
) -> None:
    file = tmp_path / "weights.pt"
    file.write_bytes(content)
    with pytest.raises(ModelError, match=f"weights file {file} {what}") as caught:
        read_weight_file(file)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_path_that_is_no_file_is_told_with_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "student.safetensors").touch()
    (tmp_path / "link.pt").symlink_to("gone.pt")
    os.mkfifo(tmp_path / "pipe")
    wanted = {
        "runs": "is a folder; name a file in it: student.safetensors",
        "": r"is a folder; no file in it looks like weights \(it has no files\)",
        "link.pt": "is a link to gone.pt, which does not exist",
        "pipe": "is a device or a pipe",
        "runs/studnet.safetensors": "does not exist; folder .*/runs has student.safetensors",
        "rnus/student.safetensors": "does not exist; folder .* has runs",
        "elsewhere/a/b.pt": "does not exist; folder .* has no elsewhere",
        "x" * 300: "cannot be read: File name too long",
    }
    (tmp_path / "empty").mkdir()
    for name, what in wanted.items():
        with pytest.raises(ModelError, match=f"weights file .*{what}"):
            check_weight_file(tmp_path / (name or "empty"))


def test_a_home_that_no_shell_has_put_in_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UsageError, match=f"weights is '~/w.pt'.*: write {tmp_path}/w.pt"):
        check_weight_file(Path("~/w.pt"))


def test_the_content_counts_and_not_the_ending(tmp_path: Path) -> None:
    state = conv().state_dict()
    for name, content in {"a.safetensors": torch_bytes(state), "b.pt": save(state)}.items():
        (tmp_path / name).write_bytes(content)
        held, _ = read_weight_file(tmp_path / name)
        assert all(torch.equal(held[key], value) for key, value in state.items())


MODEL = conv()
GOOD = {
    "safetensors": save(MODEL.state_dict()),
    "zip": torch_bytes({"epoch": 3, "state_dict": MODEL.state_dict()}),
    "legacy": torch_bytes({"state_dict": MODEL.state_dict()}, is_zip=False),
}
PLACES = st.integers(0, 2**31)
FLIPS = st.lists(st.tuples(PLACES, st.integers(1, 255)), min_size=1, max_size=4)


def flipped(content: bytes, flips: list[tuple[int, int]], limit: int | None = None) -> bytes:
    changed = bytearray(content)
    for place, pattern in flips:
        changed[place % min(len(changed), limit or len(changed))] ^= pattern
    return bytes(changed)


def repickled(flips: list[tuple[int, int]]) -> bytes:
    """Return an archive with a damaged pickle under a checksum that is right."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in torch_members().items():
            changed = flipped(content, flips) if name.endswith("data.pkl") else content
            archive.writestr(name, changed)
    return file.getvalue()


def flipped_file(kind: str) -> Callable[[list[tuple[int, int]]], bytes]:
    return lambda flips: flipped(GOOD[kind], flips)


def cut_file(kind: str) -> Callable[[list[tuple[int, int]]], bytes]:
    return lambda flips: GOOD[kind][: flips[0][0] % len(GOOD[kind])]


MUTATED: dict[str, Callable[[list[tuple[int, int]]], bytes]] = {
    **{f"{kind} flipped": flipped_file(kind) for kind in GOOD},
    **{f"{kind} cut": cut_file(kind) for kind in GOOD},
    "header flipped": lambda flips: flipped(GOOD["safetensors"], flips, 700),
    "legacy pickle flipped": lambda flips: flipped(GOOD["legacy"], flips, 900),
    "pickle flipped": repickled,
}


def put_in(path: Path, content: bytes) -> None:
    """Load a file into a model: it fits, or there is one line."""
    path.write_bytes(content)
    spec = parse_spec("tiny_models:conv")
    try:
        load_weights(MODEL, path, key=None, spec=spec, classes=10, advice=TEACHER_ADVICE)
    except ModelError as error:
        assert "\n" not in str(error) and len(str(error)) < 500


def peak_memory() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "weights"


@settings(max_examples=CASES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(sorted(MUTATED)), flips=FLIPS)
@example(kind="pickle flipped", flips=[(60, 255), (61, 127)])
def test_damaged_weights_are_one_line_or_fit(
    file: Path,
    kind: str,
    flips: list[tuple[int, int]],
) -> None:
    before = peak_memory()
    put_in(file, MUTATED[kind](flips))
    assert peak_memory() - before < 200e6


@settings(max_examples=CASES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    head=st.sampled_from([b"", b"\x80\x02", b"PK\x03\x04", b"\x40\0\0\0\0\0\0\0{", b"{", b"\x80"]),
    rest=st.binary(max_size=200),
)
def test_random_bytes_are_one_line(file: Path, head: bytes, rest: bytes) -> None:
    put_in(file, head + rest)
