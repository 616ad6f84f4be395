"""A batch holds the files' own bytes, a reason for every image that it lacks, and memory that nobody takes away."""

import multiprocessing
import os
import random
import threading
from pathlib import Path

import numpy as np
import pytest

from discl import _C

ANY = 0


class Shards:
    """Files of random bytes, cut into records; some places are wrong on purpose."""

    def __init__(self, folder: Path, seed: int, files: int = 4, records: int = 40):
        self.rng = random.Random(seed)
        self.paths = [folder / f"{number}.bin" for number in range(files)]
        self.places = []  # file, offset, length, crc
        for number, path in enumerate(self.paths):
            records_of_file = [
                self.rng.randbytes(self.rng.choice([0, 1, 63, 64, 65, 4096, 70_000])) for _ in range(records)
            ]
            path.write_bytes(b"".join(records_of_file))
            offset = 0
            for record in records_of_file:
                self.places.append((number, offset, len(record), _C.crc32c(record)))
                offset += len(record)

    def submit(self, reader, places):
        columns = np.array(places, np.int64).reshape(-1, 4).T
        return reader.submit([str(path) for path in self.paths], *columns)

    def bytes(self, place) -> bytes:
        file, offset, length, _ = place
        return self.paths[file].read_bytes()[offset : offset + length]


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("seed", range(3))
def test_bytes_are_the_files_own_in_the_order_asked(tmp_path, seed, threads):
    shards = Shards(tmp_path, seed)
    reader = _C.BatchReader(threads, open_files=2)  # fewer than there are: shards are closed and opened again
    asked = [shards.rng.choices(shards.places, k=shards.rng.choice([0, 1, 5, 100])) for _ in range(20)]
    batches = [shards.submit(reader, places) for places in asked]
    shards.rng.shuffle(both := list(zip(asked, batches, strict=True)))
    for places, batch in both:
        assert len(batch) == len(places) and batch.errors() == {}
        assert [bytes(image) for image in batch.images()] == [shards.bytes(place) for place in places]


def test_a_length_of_minus_one_is_the_whole_file(tmp_path):
    shards = Shards(tmp_path, 0)
    batch = shards.submit(_C.BatchReader(2), [(2, ANY, -1, ANY), (0, 17, -1, ANY)])
    assert [bytes(image) for image in batch.images()] == [shards.paths[2].read_bytes(), shards.paths[0].read_bytes()]


def test_every_bad_image_has_its_reason_and_the_others_are_read(tmp_path):
    shards = Shards(tmp_path, 1)
    good = next(place for place in shards.places if place[2] > 64)
    file, offset, length, crc = good
    size = shards.paths[file].stat().st_size
    (tmp_path / "folder").mkdir()
    paths = [*map(str, shards.paths), str(tmp_path / "gone"), str(tmp_path / "folder")]
    places = [
        good,
        (file, offset, length, crc ^ 1),
        (file, size - 1, 2, crc),
        (file, 2**62, 1, crc),
        (file, 0, 2**62, crc),
        (file, -1, 1, crc),
        (len(paths) - 2, 0, 1, crc),
        (len(paths) - 2, 0, -1, ANY),
        (len(paths) - 1, 0, -1, ANY),
        good,
    ]
    batch = _C.BatchReader(2).submit(paths, *np.array(places, np.int64).T)
    images, errors = batch.images(), batch.errors()
    assert [place for place, image in enumerate(images) if image is None] == sorted(errors) == list(range(1, 9))
    assert bytes(images[0]) == bytes(images[9]) == shards.bytes(good)
    said = ["CRC32C is", *["reach past the end"] * 4, *["gone: cannot open"] * 2, "folder"]
    for place, words in enumerate(said, start=1):
        assert words in errors[place], errors[place]
    assert not batch.plain.any() and not batch.sizes.any()


def test_a_file_that_shrinks_is_an_error_not_a_crash(tmp_path):
    shards = Shards(tmp_path, 2, files=1)
    reader = _C.BatchReader(1)
    place = shards.places[-1] if shards.places[-1][2] else next(p for p in reversed(shards.places) if p[2])
    assert shards.submit(reader, [place]).errors() == {}
    os.truncate(shards.paths[0], place[1])  # the descriptor stays open
    assert "too early" in shards.submit(reader, [place]).errors()[0]


def test_views_keep_their_bytes_while_later_batches_are_read(tmp_path):
    """The law of the ring: memory is used again only when every view of it is gone."""
    shards = Shards(tmp_path, 3, files=2, records=200)
    reader = _C.BatchReader(2)
    held = []
    for turn in range(60):
        places = shards.rng.choices(shards.places, k=20)
        images = shards.submit(reader, places).images()
        keep = shards.rng.sample(range(20), 3)
        held.append([(places[i], images[i]) for i in keep])
        del images
        if turn % 3 == 0:
            held.pop(shards.rng.randrange(len(held)))
        for place, image in (pair for some in held for pair in some):
            assert image.tobytes() == shards.bytes(place)
    with pytest.raises(ValueError, match="read-only"):
        held[0][0][1][...] = 0


def test_memory_is_used_again_when_a_batch_is_gone(tmp_path):
    shards = Shards(tmp_path, 4, files=1, records=60)
    reader, seen = _C.BatchReader(1), set()
    places = [place for place in shards.places if place[2]]
    for _ in range(30):
        images = shards.submit(reader, places).images()
        seen.add(images[0].ctypes.data)
        del images
    assert len(seen) <= 2


def test_a_batch_outlives_its_reader(tmp_path):
    shards = Shards(tmp_path, 5)
    reader = _C.BatchReader(2)
    batch = shards.submit(reader, shards.places)
    del reader
    images = batch.images()
    del batch
    assert [bytes(image) for image in images] == [shards.bytes(place) for place in shards.places]


def test_batches_that_nobody_waits_for(tmp_path):
    shards = Shards(tmp_path, 6)
    reader = _C.BatchReader(3)
    for _ in range(50):
        shards.submit(reader, shards.places)
    del reader  # finishes them


def test_many_python_threads_share_a_reader(tmp_path):
    shards = Shards(tmp_path, 7)
    reader, failures = _C.BatchReader(2, open_files=1), []

    def work(seed):
        rng = random.Random(seed)
        for _ in range(20):
            places = rng.choices(shards.places, k=30)
            if [bytes(image) for image in shards.submit(reader, places).images()] != [*map(shards.bytes, places)]:
                failures.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_few_shards_stay_open(tmp_path):
    shards = Shards(tmp_path, 8, files=30, records=3)
    before = open_descriptors()
    reader = _C.BatchReader(2, open_files=5)
    shards.submit(reader, shards.places * 3).images()
    assert open_descriptors() - before == 5
    shards.submit(reader, [(file, ANY, -1, ANY) for file in range(30)]).images()
    assert open_descriptors() - before == 5  # whole files are closed at once
    del reader
    assert open_descriptors() == before


def _in_child(reader, path, queue):
    try:
        reader.submit([path], *np.zeros((4, 1), np.int64))
    except RuntimeError as error:
        queue.put(str(error))
    del reader  # must not wait for threads that the child does not have
    own = _C.BatchReader(1)
    queue.put(bytes(own.submit([path], [0], [0], [-1], [0]).images()[0]))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
def test_a_forked_child_makes_its_own(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    reader = _C.BatchReader(2)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(reader, str(tmp_path / "file"), queue))
    child.start()
    assert "make another" in queue.get(timeout=60)
    assert queue.get(timeout=60) == b"content"
    child.join(60)
    assert child.exitcode == 0


def test_headers_come_with_the_bytes(tmp_path):
    from tests.csrc.test_image_header import OTHERS, PLAIN

    for name, data in [*PLAIN.items(), *OTHERS.items()]:
        (tmp_path / name).write_bytes(data)
    names = [*PLAIN, *OTHERS]
    count = len(names)
    batch = _C.BatchReader(2).submit(
        [str(tmp_path / name) for name in names],
        np.arange(count),
        np.zeros(count, int),
        np.full(count, -1),
        np.zeros(count, int),
    )
    assert batch.plain.tolist() == [name in PLAIN for name in names]
    for name, size in zip(names, batch.sizes, strict=True):
        assert tuple(size) == _C.image_header((tmp_path / name).read_bytes())[:2]


@pytest.mark.parametrize(
    ("columns", "error"),
    [
        (([1], [0], [1], [0]), IndexError),
        (([-1], [0], [1], [0]), IndexError),
        (([0, 0], [0], [1], [0]), ValueError),
        (([[0]], [[0]], [[1]], [[0]]), ValueError),
    ],
)
def test_arguments_that_make_no_sense(columns, error):
    with pytest.raises(error):
        _C.BatchReader(1).submit(["file"], *(np.array(column) for column in columns))
