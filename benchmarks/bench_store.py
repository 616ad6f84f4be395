"""Store writing: 20 kB images appended and sealed by `StoreWriter` beside `dd conv=fsync` of as many bytes.

Timed: from opening to the last sealed shard (rows, journal, CRC32C, tar, index, manifest, fsync) with embeddings of 512
numbers, at the default shard size and fsync policy. Bytes are those of the sealed tars, for all contestants; journal,
index and embeddings come on top. Peers: dd with blocks of 1 MiB, and a loop of one pwrite per record with one fsync at
the end. Both are ceilings: they keep no index and no checksum, and a crash leaves nothing to go on from.
The disk is that of TMPDIR. Encoding: JPEGs of 256 x 256 by the pool of `discl generate`, with one thread and with all.
"""

import os
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.timing import interleave, record
from discl.making import ENCODERS
from discl.store import StoreWriter, encode_image

BYTES, SHARD = 20_000, 256_000_000


def rows(count: int) -> list[dict]:
    """What `discl generate` knows of a sample; keys as even as digests."""
    return [
        {
            "key": f"{number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128:032x}",
            "recipe": "r" * 32,
            "source_id": f"n01440764_{number}.jpg",
            "source_ids": [f"n01440764_{number}.jpg"],
            "source_digest": "d" * 32,
            "class_id": number % 1000,
            "class_name": "tench, Tinca tinca",
            "level": 30,
            "seed": 10,
            "retry": 0,
            "noise_seed": number,
            "prompt": "a photo of a tench",
            "text_score": 0.2871239,
            "image_score": 0.812312,
            "margin": 0.0312312,
            "status": "ok",
            "control": False,
            "width": 256,
            "height": 256,
        }
        for number in range(count)
    ]


class Contest:
    """Each contestant writes the same number of bytes and returns its rate in MB/s."""

    def __init__(self, folder: str, count: int) -> None:
        rng = np.random.default_rng(0)
        self.folder, self.rows, self.image = Path(folder), rows(count), rng.bytes(BYTES)
        self.embedding = rng.standard_normal(512).astype(np.float32)
        self.bytes = self._sealed_bytes()

    def _sealed_bytes(self) -> int:
        """What the store's tars come to, headers and padding too: all contestants write as much. Warms up as well."""
        out = self.folder / "out"
        self._write_store(out)
        written = sum(tar.stat().st_size for tar in out.glob("shards/*.tar"))
        shutil.rmtree(out)
        return written

    def _write_store(self, out: Path) -> None:
        with StoreWriter(out, "bench", shard_bytes=SHARD) as writer:
            for row in self.rows:
                writer.append(row, self.image, "jpg", self.embedding)

    def rate(self, write) -> float:
        os.sync()
        begin = time.perf_counter()
        write(self.folder / "out")
        seconds = time.perf_counter() - begin
        subprocess.run(["rm", "-r", self.folder / "out"], check=True)
        return self.bytes / seconds / 1e6

    def store(self) -> float:
        return self.rate(self._write_store)

    def dd(self) -> float:
        blocks = f"count={self.bytes >> 20}"
        command = ["dd", "if=/dev/zero", "bs=1M", blocks, "conv=fsync", "status=none"]
        return self.rate(lambda out: subprocess.run([*command, f"of={out}"], check=True))

    def pwrite(self) -> float:
        data = self.image + bytes(self.bytes // len(self.rows) - BYTES)

        def write(out: Path) -> None:
            descriptor = os.open(out, os.O_WRONLY | os.O_CREAT)
            for number in range(len(self.rows)):
                os.pwrite(descriptor, data, number * len(data))
            os.fsync(descriptor)
            os.close(descriptor)

        return self.rate(write)


def encoding(threads: int, count: int) -> float:
    """Images/s."""
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    image = np.repeat(np.repeat(noise, 8, axis=0), 8, axis=1)
    with ThreadPoolExecutor(threads) as pool:
        begin = time.perf_counter()
        list(pool.map(lambda _: encode_image(image, "jpg"), range(count)))
        return count / (time.perf_counter() - begin)


def run(small: bool = False) -> None:
    count, repeats = (200, 2) if small else (25_600, 7)
    with tempfile.TemporaryDirectory() as folder:
        contest = Contest(folder, count)
        contestants = {"store": contest.store, "dd conv=fsync": contest.dd, "pwrite, fsync": contest.pwrite}
        rates = interleave(contestants, repeats)
    ratios = {f"store / {peer}": ("store", peer) for peer in ("dd conv=fsync", "pwrite, fsync")}
    record("store", rates, "MB/s", ratios, keep=not small, records=count, record_bytes=BYTES, shard_bytes=SHARD)
    pools = {f"{threads} threads": threads for threads in (1, ENCODERS)}
    images = 20 if small else 1000
    rates = interleave({name: lambda n=n: encoding(n, images) for name, n in pools.items()}, repeats)
    names = list(pools)
    record("store_encode", rates, "images/s", {"all / one": (names[-1], names[0])}, keep=not small, cores=ENCODERS)
