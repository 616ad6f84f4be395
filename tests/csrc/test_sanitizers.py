"""csrc under the compiler's sanitizers: damaged and hostile bytes, many threads (fuzz.cpp says what a round does)."""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from discl.store import encode_image

ROOT = Path(__file__).parents[2]
FLAVOURS = {"address and undefined": "address,undefined", "thread": "thread"}


def built(folder: Path, sanitizers: str) -> Path:
    """The fuzz driver with all of csrc but its bindings; the files are compiled side by side."""
    sources = [file for file in (ROOT / "csrc").glob("*.cpp") if not file.name.startswith(("bind", "module"))]
    flags = ["-std=c++17", "-O1", "-g1", f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all", "-Wall", "-Wextra"]

    def compiled(source: Path) -> Path:
        out = folder / f"{source.stem}.o"
        subprocess.run(["g++", *flags, "-Werror", f"-I{ROOT / 'csrc'}", "-c", source, "-o", out], check=True)
        return out

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, [*sources, ROOT / "tests/csrc/fuzz.cpp"]))
    subprocess.run(["g++", *flags, *objects, "-o", folder / "fuzz", "-lpthread"], check=True)
    return folder / "fuzz"


@pytest.fixture(scope="session", params=FLAVOURS.values(), ids=list(FLAVOURS))
def fuzz(request, tmp_path_factory):
    return built(tmp_path_factory.mktemp("sanitizers"), request.param)


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """One of each kind of header."""
    folder = tmp_path_factory.mktemp("images")
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    for format in ("jpg", "png", "webp"):
        (folder / f"ours.{format}").write_bytes(encode_image(pixels, format))
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(pixels).save(folder / f"turned.{format}", exif=exif)
    Image.fromarray(pixels).save(folder / "lossless.webp", lossless=True)
    return sorted(folder.iterdir())


@pytest.mark.parametrize(
    ("rounds", "seed"),
    [(300, 11), pytest.param(30_000, 12, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])],
)
def test_nothing_that_is_read_breaks_anything(fuzz, images, tmp_path, rounds, seed):
    environment = os.environ | {"TSAN_OPTIONS": "halt_on_error=1", "UBSAN_OPTIONS": "print_stacktrace=1"}
    command = [fuzz, str(seed), str(rounds), tmp_path, *images]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-8000:]
    assert done.stdout.splitlines() == [f"seed {seed}", f"{rounds} rounds"]
