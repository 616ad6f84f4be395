"""A data config's real images in, each embedded once; likeness to source and class centroid, and leakage, out."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch
from torch.nn.functional import normalize

from discl.data import DataTable
from discl.data.reference import labels_by_name, training_row
from discl.quarantine import Record
from discl.scoring.embedder import Embedder
from discl.scoring.pictures import Block, Picture

if TYPE_CHECKING:
    from discl.engine.scorer import Scorer


class RealImages:
    """Embeddings of a data table's real images; those that cannot be decoded are quarantined.

    Their ids, or failing these their names (`training_row`) -> image_score; the training images' mean by class ->
    centroid_score; the images of all other splits -> leakage_score, the highest cosine with one of them, and
    leakage_id, which.
    """

    def __init__(self, scorer: "Scorer", table: DataTable, class_names: Sequence[str], record: Record):
        train = list(table.rows("train"))
        held = [row for split in table.held_out for row in table.rows(split).tolist()]
        self.row_of = training_row(table)
        label_of = labels_by_name(table.class_names)
        self.labels = [label_of.get(name, -1) for name in class_names]
        self.place: dict[int, int] = {}
        vectors = [np.empty((0, scorer.width), np.float16)]
        sums = torch.zeros(len(table.class_names) + 1, scorer.width, dtype=torch.float64)  # the last: of no class
        for rows, embedded in _embedded(scorer, table, train, record):
            self.place |= {row: len(self.place) + at for at, row in enumerate(rows)}
            vectors.append(embedded.half().numpy())
            sums.index_add_(0, torch.from_numpy(table.labels[rows]).long(), embedded.double())
        sums = sums[self.labels]
        self.sources = np.concatenate(vectors)
        self.centroids = normalize(sums, dim=-1).float().to(scorer.device)
        self.has_centroid = (sums != 0).any(1).numpy()
        found = [(rows, embedded) for rows, embedded in _embedded(scorer, table, held, record)]
        self.held_ids = [table.ids[row] for rows, _ in found for row in rows]
        self.held = torch.cat([each for _, each in found]).to(scorer.device) if found else None

    def columns(
        self, vectors: torch.Tensor, classes: np.ndarray, sources: Sequence[str | None], bad: np.ndarray
    ) -> dict[str, pa.Array]:
        """vectors: float32 [N, D]. Null where a vector is `bad`, a source unknown, a class without real images."""
        unit = normalize(vectors, dim=-1)
        rows = (self.row_of(source or "", self.labels[of]) for source, of in zip(sources, classes, strict=True))
        at = np.array([-1 if row is None else self.place.get(row, -1) for row in rows], np.int64)
        own = torch.from_numpy(self.sources[at].astype(np.float32) if len(self.sources) else unit.cpu().numpy())
        image = (unit * normalize(own.to(unit.device), dim=-1)).sum(1)
        center = (unit * self.centroids[torch.from_numpy(classes)]).sum(1)
        columns = {
            "image_score": pa.array(image.cpu().numpy(), mask=bad | (at < 0)),
            "centroid_score": pa.array(center.cpu().numpy(), mask=bad | ~self.has_centroid[classes]),
        }
        if self.held is not None:
            score, which = (unit @ self.held.T).max(1)
            names = [self.held_ids[place] for place in which.tolist()]
            columns["leakage_score"] = pa.array(score.cpu().numpy(), mask=bad)
            columns["leakage_id"] = pa.array(names, pa.string(), mask=bad)
        return columns


def _embedded(
    scorer: "Scorer", table: DataTable, rows: list[int], record: Record
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """(rows, float32 [n, D] on the CPU), a few images at a time; without those that cannot be decoded."""
    embedder = Embedder(scorer, record)
    left = iter(rows)
    chunks = iter(lambda: list(islice(left, embedder.rows)), [])
    with closing(embedder.embed(_block(table, chunk, scorer.width) for chunk in chunks)) as blocks:
        for block in blocks:
            there = np.isfinite(block.embedded).all(1)
            if there.any():
                yield (
                    [row for row, sound in zip(block.rows, there, strict=True) if sound],
                    torch.from_numpy(block.embedded[there]),
                )


def _block(table: DataTable, rows: list[int], width: int) -> Block:
    pictures: list[Picture | None] = [Picture(table.paths[row], partial(table.encoded, row)) for row in rows]
    return Block(rows, pictures, np.full((len(rows), width), np.nan, np.float32))
