"""Blocks of encoded images in, their embeddings out: reading and decoding go on while the towers run."""

import os
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing
from importlib.util import find_spec

import numpy as np

from discl.ahead import ahead
from discl.engine.scorer import Scorer
from discl.quarantine import Record
from discl.scoring.gpu_decoder import GpuDecoder, suits
from discl.scoring.pictures import Block, loaded, whole

LEAST = 64  # images decoded together
THREADS = len(os.sched_getaffinity(0))


class Embedder:
    """PIL decodes on one thread per CPU; on a CUDA device DALI decodes the JPEGs there, if it is installed.

    record: told of what cannot be read or decoded. on_cpu: the pixels are wanted too, as PIL gives them.
    rows: images that make a good block.
    """

    def __init__(self, scorer: Scorer, record: Record, on_cpu: bool = False) -> None:
        self._scorer, self._record, self._on_cpu = scorer, record, on_cpu
        self.rows = max(scorer.batch, LEAST)
        gpu = scorer.device.type == "cuda" and not on_cpu and find_spec("nvidia.dali") is not None
        self._decoder = GpuDecoder(scorer.device, self.rows, THREADS) if gpu else None

    def embed(self, blocks: Iterable[Block]) -> Generator[Block]:
        """The same blocks in order, with embeddings where there is an image and no finite embedding; without pixels
        unless they are wanted.

        The blocks are made in a thread. Closing the iterator ends all threads; what `blocks` raises comes after the
        blocks before it.
        """
        pool = ThreadPoolExecutor(THREADS, "discl-decode")
        try:
            with closing(ahead(self._decoded(blocks, pool), 1)) as decoded:
                for block in decoded:
                    self._embed(block)
                    yield block
        finally:
            pool.shutdown(cancel_futures=True)

    def _decoded(self, blocks: Iterable[Block], pool: Executor) -> Iterator[Block]:
        if self._decoder is not None:
            return self._decoder.decoded(loaded(blocks, pool, suits), pool)
        # Photos of any size are held no larger than the tower sees them, unless somebody else wants their pixels.
        reduced = self._scorer.device.type == "cpu" and not self._on_cpu
        return loaded(blocks, pool, reduce=self._scorer.seen if reduced else whole)

    def _embed(self, block: Block) -> None:
        pictures = block.pictures
        self._record([(picture.path, picture.reason) for picture in pictures if picture and picture.reason])
        lacking = ~np.isfinite(block.embedded).all(1)
        ready = {
            at: picture.pixels
            for at, picture in enumerate(pictures)
            if lacking[at] and picture and picture.pixels is not None
        }
        if ready:
            # On the CPU the embeddings are complete: only now may a decoder have the memory of the pixels back.
            block.embedded[list(ready)] = self._scorer.embed_mixed(list(ready.values())).cpu().numpy()
        if not self._on_cpu:
            block.pictures, block.owner = [], None
