"""Characters in many fonts: several hundred classes of small grey images, made from the fonts that
a system has installed.

    apt-get install --no-install-recommends PACKAGES       the list FONT_PACKAGES below (Debian 12:
    242 MB to fetch) python characters.py OUT [--fonts /usr/share/fonts]    writes OUT/train.npz,
    OUT/test.npz and OUT/classes.txt

kdcache then reads `characters:load,root=OUT,split=train` (or test) when this folder is the working
directory or on PYTHONPATH.

A sample is one character in one face, 32x32 pixels, light ink on black, all at one em size on one
baseline. Characters that look the same (Latin A, Greek Alpha, Cyrillic A) are one class. The split
is by family: families of one name (Noto Sans, Noto Serif) and families that share drawings
(Liberation Sans, Arimo) are never on both sides. Other fonts, or other versions of them, give
another data set; its fingerprint in a cache's manifest tells.
"""

import argparse
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

FONT_PACKAGES = (
    "fonts-3270 fonts-agave fonts-anonymous-pro fonts-arundina fonts-b612 fonts-babelstone-modern"
    " fonts-cantarell fonts-cmu fonts-comfortaa fonts-croscore fonts-crosextra-caladea"
    " fonts-crosextra-carlito fonts-dejavu-core fonts-dejavu-extra fonts-dosis fonts-ebgaramond"
    " fonts-ebgaramond-extra fonts-elstob fonts-fantasque-sans fonts-femkeklaver fonts-firacode"
    " fonts-freefont-otf fonts-georgewilliams fonts-gfs-artemisia fonts-gfs-bodoni-classic"
    " fonts-gfs-didot fonts-gfs-neohellenic fonts-gnutypewriter fonts-go fonts-hack fonts-havana"
    " fonts-horai-umefont fonts-humor-sans fonts-inconsolata fonts-inter fonts-ipaexfont-gothic"
    " fonts-ipaexfont-mincho fonts-jetbrains-mono fonts-johnsmith-induni fonts-junicode fonts-jura"
    " fonts-karmilla fonts-kiloji fonts-lato fonts-league-mono fonts-liberation2 fonts-linex"
    " fonts-linuxlibertine fonts-lmodern fonts-lxgw-wenkai fonts-lyx fonts-manrope fonts-migmix"
    " fonts-monofur fonts-monoid fonts-mononoki fonts-mplus fonts-naver-d2coding fonts-noto-core"
    " fonts-noto-mono fonts-ocr-b fonts-oldstandard fonts-open-sans fonts-opendyslexic"
    " fonts-opensymbol fonts-paratype fonts-pc fonts-play fonts-roboto-slab fonts-roboto-unhinted"
    " fonts-sawarabi-gothic fonts-seto fonts-sil-andika fonts-sil-charis fonts-sil-doulos"
    " fonts-sil-galatia fonts-sil-gentium fonts-sil-gentiumplus fonts-smiley-sans fonts-sora"
    " fonts-stix fonts-symbola fonts-takao-gothic fonts-triod-postnaja fonts-tuffy"
    " fonts-ubuntu-title fonts-unfonts-core fonts-urw-base35 fonts-vollkorn fonts-wine"
    " fonts-wqy-microhei fonts-wqy-zenhei fonts-yanone-kaffeesatz"
)

SIDE = 32
EM = 22
BASELINE = 24
CANDIDATES = [
    # ASCII, Latin-1 without the soft hyphen, Latin Extended-A
    *(
        range(0x21, 0x7F),
        range(0xA1, 0xAD),
        range(0xAE, 0x180),
    ),
    *(range(0x386, 0x3CF), range(0x401, 0x460), range(0x490, 0x494)),  # Greek, Cyrillic
    # punctuation, signs
    *(
        range(0x2013, 0x2023),
        range(0x2030, 0x2031),
        range(0x2039, 0x203B),
        range(0x20AC, 0x20AD),
    ),
]
UNFIT = (
    *(
        "italic",
        "oblique",
        "slanted",
        "smallcap",
        " sc",
        "keyboard",
        "initial",
        "symbol",
        "dingbat",
    ),
    *("d050000l", "ellhnikh", "uralic"),
)
"""Words in the name of a face that draws something else than its code points say, or what another
face draws too."""
TEST_SHARE = 0.3
"""Of the groups of families, not of the samples."""
MOST_FACES = 2
"""From one group of families, so that no group outweighs the others."""
LEAST_SHARE = 0.7
"""Of the faces that must draw a character, on either side."""
SAME_SHARE = 0.1
"""Of the faces that draw two characters alike, from which on they count as one."""


class Characters:
    """Images and class indices of one split."""

    def __init__(self, root: str, split: str) -> None:
        with np.load(Path(root) / f"{split}.npz", allow_pickle=False) as arrays:
            self.data = arrays["data"]
            self.targets = arrays["targets"]
        self.classes = (Path(root) / "classes.txt").read_text(encoding="utf-8").split()

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """Return the image (mode L) and its class."""
        return Image.fromarray(self.data[index]), int(self.targets[index])


def load(root: str, split: str = "train") -> Characters:
    """Return the data set that the spec `characters:load,root=OUT,split=train` names."""
    return Characters(root, split)


@dataclass(frozen=True)
class Face:
    """A face of a font family, with the characters that it draws."""

    family: str
    drawn: dict[int, bytes]
    """Code point -> pixels."""


def open_faces(folder: Path, points: Sequence[int]) -> list[Face]:
    """Return the upright faces under `folder` that draw at least a third of the code points."""
    paths = sorted(path for suffix in ("ttf", "otf", "pfb") for path in folder.rglob(f"*.{suffix}"))
    faces = [
        face
        for path in paths
        if (face := open_face(path, points)) and len(face.drawn) >= len(points) / 3
    ]
    return [
        face
        for at, face in enumerate(faces)
        if face.drawn not in [other.drawn for other in faces[max(at - 40, 0) : at]]
    ]


def open_face(path: Path, points: Iterable[int]) -> Face | None:
    """Return a face, or nothing where it is UNFIT, or no font that can be drawn at this size."""
    try:
        font = ImageFont.truetype(str(path), EM)
        family, style = font.getname()
        if any(word in f"{family} {style} {path.stem}".lower() for word in UNFIT):
            return None
        # what it draws for what it lacks
        nothing = {
            draw(font, 0x10FFFF),
            draw(font, 0xE123),
            bytes(SIDE * SIDE),
        }
        drawn = {point: pixels for point in points if (pixels := draw(font, point)) not in nothing}
    except (OSError, ValueError):
        return None
    return Face(family or path.stem, drawn)


def draw(font: ImageFont.FreeTypeFont, point: int) -> bytes:
    """Return the pixels of a character, centred from side to side, nothing where it does not
    fit."""
    left, top, right, bottom = font.getbbox(chr(point), anchor="ls")
    if right - left > SIDE or top < -BASELINE or bottom > SIDE - BASELINE:
        return bytes(SIDE * SIDE)
    image = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(image).text(
        (round((SIDE - left - right) / 2), BASELINE), chr(point), fill=255, font=font, anchor="ls"
    )
    return image.tobytes()


def group_families(faces: Sequence[Face]) -> list[list[Face]]:
    """Return the faces in groups, the largest first: families whose names begin alike, or that
    share at least five drawings."""
    parent = list(range(len(faces)))

    def root(at: int) -> int:
        while parent[at] != at:
            at = parent[at]
        return at

    owners: dict[Any, list[int]] = defaultdict(list)
    shared: Counter[tuple[int, int]] = Counter()
    for at, face in enumerate(faces):
        owners[face.family.split()[0].lower()].append(at)
        for point, pixels in face.drawn.items():
            owners[point, pixels].append(at)
    for key, group in owners.items():
        pairs = list(pairwise(group))
        shared.update(pairs if isinstance(key, tuple) else pairs * 5)
    for (one, other), count in shared.items():
        if count >= 5:
            parent[root(one)] = root(other)
    groups: dict[int, list[Face]] = defaultdict(list)
    for at, face in enumerate(faces):
        groups[root(at)].append(face)
    return sorted(groups.values(), key=len, reverse=True)


def thinned(group: Sequence[Face]) -> list[Face]:
    """Return at most MOST_FACES faces of a group, evenly spread."""
    return [
        group[at] for at in np.linspace(0, len(group) - 1, min(len(group), MOST_FACES)).astype(int)
    ]


def split_groups(groups: Sequence[Sequence[Face]]) -> tuple[list[Face], list[Face]]:
    """Return the faces of the training and of the test groups; a group's side hangs on its first
    family's name only."""
    ranked = sorted(groups, key=lambda group: zlib.crc32(group[0].family.encode()))
    num_test = round(TEST_SHARE * len(ranked))
    return (
        [face for group in ranked[num_test:] for face in group],
        [face for group in ranked[:num_test] for face in group],
    )


def choose_points(train: Sequence[Face], test: Sequence[Face], points: Iterable[int]) -> list[int]:
    """Return the code points that enough faces on both sides draw, the first of those that look the
    same."""
    common = [
        p
        for p in points
        if all(
            sum(p in f.drawn for f in faces) >= LEAST_SHARE * len(faces) for faces in (train, test)
        )
    ]
    faces = [*train, *test]
    alike: Counter[tuple[int, int]] = Counter()
    for face in faces:
        by_pixels = defaultdict(list)
        for point in common:
            if point in face.drawn:
                by_pixels[face.drawn[point]].append(point)
        alike.update(pair for same in by_pixels.values() for pair in combinations(same, 2))
    chosen: list[int] = []
    for point in common:
        if all(alike[other, point] < SAME_SHARE * len(faces) for other in chosen):
            chosen.append(point)
    return chosen


def write(path: Path, faces: Sequence[Face], points: Sequence[int]) -> int:
    """Write a split and return its number of samples; a drawing that two faces share is kept
    once."""
    samples = sorted(
        {
            (at, face.drawn[point])
            for face in faces
            for at, point in enumerate(points)
            if point in face.drawn
        }
    )
    data = np.frombuffer(b"".join(pixels for _, pixels in samples), np.uint8).reshape(
        -1, SIDE, SIDE
    )
    np.savez_compressed(path, data=data, targets=np.array([at for at, _ in samples]))
    return len(samples)


def main() -> None:
    """Write the data set."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--fonts", type=Path, default=Path("/usr/share/fonts"))
    options = parser.parse_args()
    points = [point for part in CANDIDATES for point in part]
    groups = [thinned(group) for group in group_families(open_faces(options.fonts, points))]
    train, test = split_groups(groups)
    chosen = choose_points(train, test, points)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "classes.txt").write_text(
        "".join(f"{chr(point)}\n" for point in chosen), encoding="utf-8"
    )
    for name, faces in (("train", train), ("test", test)):
        families = len({face.family for face in faces})
        print(
            f"{name}: {write(options.out / f'{name}.npz', faces, chosen)} samples, {len(faces)}"
            f" faces of {families} families"
        )
    print(f"{len(chosen)} classes, {len(groups)} groups of families")


if __name__ == "__main__":
    main()
