"""The compiled module: store bytes, data order, counter-based random numbers, views of images. C++17, sources in csrc/.

Errors: ValueError for an argument that makes no sense, OSError for what the system refuses, IndexError for
a place outside a file, RuntimeError for bytes that are not what was written. File errors name path, offset
and reason. Every call that reads, writes or loops releases the GIL.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Segment = range | NDArray[np.integer]
Ids = Segment | Sequence[Segment] | Sequence[int]
Pool = tuple[Ids, int] | tuple[Ids, int, NDArray[np.floating] | None]

def order(
    pools: Sequence[Pool], seed: int, epoch: int, start: int, count: int, rank: int = 0, world: int = 1
) -> NDArray[np.int64]:
    """Ids of one epoch at the positions start <= p < min(start + count, total) with p % world == rank.

    pools: (ids, quota) or (ids, quota, weights) each. ids: a 1-D integer array, a range, or a list of these that
    stands for its concatenation; quota: the draws from it in this epoch; total = sum of quotas. A pool is drawn
    without replacement while quota <= len(ids), else in whole shuffled passes and one partial one, so that
    counts differ by at most 1.

    weights: float [largest id + 1], by id. An id is then drawn quota * weight / sum(weights of the pool) times
    in expectation, exactly, less than 2 more or fewer, and with equal weights and whole passes equally often.

    The order is a pure function of (pools, seed, epoch, p): any start, any world size, the same global order.
    Nothing is materialised: O(count / world) time, O(pools) memory; weights cost one pass and 12 bytes for 16 ids.
    seed in [0, 2^64), epoch in [0, 2^32).
    """

class Order:
    """The same, for many calls about one epoch. Holds the arrays of its pools; int32 and int64 ids, contiguous, and
    float32 weights are not copied and must not change."""

    def __init__(self, pools: Sequence[Pool], seed: int, epoch: int) -> None: ...
    def ids(self, start: int, count: int, rank: int = 0, world: int = 1) -> NDArray[np.int64]: ...
    @property
    def total(self) -> int: ...

def philox(seed: int, epoch: int, positions: NDArray[np.integer] | range) -> NDArray[np.uint32]:
    """Four random words per position of an epoch, [N] -> [N, 4]; independent of what `order` draws."""

def philox4x32(counter: Sequence[int], key: Sequence[int]) -> list[int]:
    """One block of Philox4x32-10: four counter words and two key words in, four words out."""

def crc32c(data: bytes | bytearray | memoryview, crc: int = 0) -> int:
    """CRC32C (Castagnoli) of `data`; `crc` continues an earlier checksum."""

def crc32c_table(data: bytes | bytearray | memoryview, crc: int = 0) -> int:
    """The same by table, as on CPUs without the instruction."""

def is_plain(row: dict[str, object], kinds: str) -> bool:
    """Whether the first values of `row` are None or exactly of these kinds.

    One letter each: s str, i an int of 32 bits, l of 64, f float, b bool, S a list of str; k a key, not None; any
    other: None only.
    """

class IndexColumns:
    """Columns of an index in Arrow's layout, grown row by row.

    One letter each, as of `is_plain` but k, and t: a datetime in UTC, kept in microseconds since 1970.
    """

    def __init__(self, kinds: str) -> None: ...
    def append(self, row: dict[str, object]) -> None:
        """The first values of `row`. None, NaN and infinity are null. TypeError or ValueError for what does not fit:
        the columns are no longer of one length then."""

    def buffers(self, column: int) -> list[NDArray[np.uint8]]:
        """As pyarrow's Array.from_buffers takes them, offsets of 64 bits; of a list's strings behind its own.

        Good until the next `append`.
        """

class ShardWriter:
    """An unsealed shard: a growing tar and its journal (csrc/format.h).

    Opening an existing pair cuts both after the last sample that verifies and goes on from there. Samples are
    written by a thread of their own and fsynced by another, in groups of `sync_samples` or what came in
    `sync_seconds`. For one thread at a time.
    """

    def __init__(self, tar: str, journal: str, sync_samples: int = 64, sync_seconds: float = 10.0) -> None: ...
    def append(
        self, key: str, extension: str, image: bytes, in_tar: int, row: bytes, embedding: bytes | NDArray
    ) -> int:
        """Take <key>.<extension> and <key>.json for the tar, row and embedding for the journal. extension "": no image.

        <key>.json is a brace and the row from byte `in_tar` on.

        embedding: fp16, or float32 [D], which is rounded to it. Returns the bytes of tar and journal, with
        what is still to be written.

        Waits only when 8 MB are unwritten. OSError when an earlier sample could not be written, which has then
        been tried again: this one is not taken, the earlier ones are still to be written. After a failed fsync
        that error for ever: what lies behind the last good one is cut off. ValueError for an embedding of another
        length than those before.
        """

    def flush(self) -> None:
        """Return when what was appended survives a power cut; raises as `append`."""

    def records(self) -> list[tuple[bytes, bytes, tuple[int, int, int] | None]]:
        """(row, embedding, (offset, length, crc32c) of the image or None) per sample, read back and verified."""

    def rows(self) -> NDArray[np.uint8]:
        """The rows of every sample, recovered ones too, each with a line feed. Good until the next `append`."""

    def embeddings(self) -> NDArray[np.uint8]:
        """The embeddings end to end, NaN in fp16 for a sample without; empty if none has one. As long as `rows`."""

    @property
    def embedding_bytes(self) -> int:
        """Of one sample; 0 while none has one."""

    def finish(self) -> None:
        """Write the tar's footer and fsync both files. Opening the pair again takes the footer off."""

    def close(self) -> None:
        """Write what was appended, without fsync, and leave the files alone from then on. Raises nothing."""

    def places(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint32]]:
        """After `finish`: offset, length and CRC32C per sample; offset -1 where there is no image."""

    @property
    def samples(self) -> int:
        """Appended so far."""

    @property
    def synced_samples(self) -> int:
        """Of them those that survive a power cut."""

    @property
    def tar_bytes(self) -> int: ...
    @property
    def tar_crc(self) -> int:
        """After `finish`: CRC32C of the whole tar."""

class KeyTable:
    """Distinct keys of 32 hex characters, numbered in order of adding; 23 bytes each.

    ValueError for anything else than such keys, except in `in`.
    """

    def __init__(self) -> None: ...
    def add(self, key: str) -> bool:
        """False if it was there already."""

    def add_all(self, keys: bytes | memoryview) -> int:
        """Add keys that lie end to end; returns how many were new."""

    def find_all(self, keys: bytes | memoryview) -> NDArray[np.int64]:
        """The number of each of these keys, -1 for those that are not there."""

    def __contains__(self, key: object) -> bool: ...
    def __getitem__(self, number: int) -> str: ...
    def __len__(self) -> int: ...

class ShardReader:
    """A sealed shard; one descriptor, any number of threads."""

    def __init__(self, path: str) -> None: ...
    def read(self, offset: int, length: int, crc: int) -> bytes:
        """The bytes at `offset`, checked against their CRC32C."""

    def members(self) -> list[tuple[str, int, int]]:
        """(name, data offset, length) of every member; RuntimeError unless the tar is plain and whole."""

    @property
    def size(self) -> int: ...

class BatchReader:
    """Reads batches of encoded images on `threads` threads, in the order in which they are submitted.

    Shards stay open, one descriptor each, the `open_files` most recently used. After a fork the child must make its
    own (RuntimeError), and does not wait for this one.
    """

    def __init__(self, threads: int, open_files: int = 256) -> None: ...
    def submit(
        self,
        files: Sequence[str | bytes],
        which: NDArray[np.integer],
        offsets: NDArray[np.integer],
        lengths: NDArray[np.integer],
        crcs: NDArray[np.integer],
    ) -> Batch:
        """Start to read image i, `lengths[i]` bytes of files[which[i]] from `offsets[i]` with this CRC32C; a length
        of -1 is the whole file, unchecked. Returns at once. IndexError for a file that is not among `files`."""

class Batch:
    """Images that are being read. Every method but `len` waits until all are there, without the GIL.

    The views of `images` share the batch's memory: it is used again, for a later batch, when the batch and all of its
    views are gone. Nothing is overwritten before.
    """

    def __len__(self) -> int: ...
    def images(self) -> list[NDArray[np.uint8] | None]:
        """Read-only views of the encoded bytes; None for an image that could not be read."""

    def errors(self) -> dict[int, str]:
        """Why, by place in the batch."""

    @property
    def plain(self) -> NDArray[np.bool_]:
        """JPEG, PNG or WebP that all decoders show alike; see `image_header`."""

    @property
    def sizes(self) -> NDArray[np.uint32]:
        """[n, 2]: width and height as `image_header` gives them; 0, 0 where the header is not understood."""

class Renderer:
    """Makes windows of 8-bit images into float32 arrays of one size, in `threads` threads.

    A window is resampled by `filter` ("linear", "cubic" or "lanczos", widened where the window gets smaller; beyond
    the image's border its last pixels go on), rounded to whole values in 0..255, perhaps mirrored, and normalised by
    `mean` and `std`, which have one value for each of 1 or 3 channels. Depends on nothing but the image and its
    window: not on threads or neighbours, and on x86 not on the CPU.
    """

    def __init__(
        self, size: int, filter: str, mean: Sequence[float], std: Sequence[float], threads: int = 1
    ) -> None: ...
    def render(
        self,
        images: Sequence[NDArray[np.uint8]],
        boxes: NDArray[np.floating],
        flipped: NDArray[np.bool_],
        out: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """images: [height, width, channels] each, as arrays or buffers; boxes: [n, 4] of left, top, right, bottom as
        shares of the image; flipped: [n]. Returns [n, channels, size, size]: `out`, a C-contiguous array of that
        shape, or by default one whose memory serves a later call when all views of it are gone."""

def image_header(data: bytes) -> tuple[int, int, bool]:
    """(width, height, plain) of an encoded image, before EXIF turns it. Plain: a JPEG, PNG or WebP of 8 bits, grey or
    RGB, opaque, turned by nothing but a JPEG's EXIF, at most 16384 a side and 64 megapixels. What is damaged or not
    understood is not plain."""
