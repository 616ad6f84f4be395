"""Facts and source images come in; the spectrum as one picture, for a README or a slide, goes out."""

import io
import os

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from discl.atomic import write_atomic
from discl.report.facts import Facts
from discl.report.spectrum import Sources, cells_of, choose_sources

CELL, GAP, HEAD = 72, 8, 30  # pixels
PAPER, INK, KEPT, DROPPED = "#ffffff", "#1b1f24", "#0b6e74", "#b3361b"


def write_picture(out: str | os.PathLike, facts: Facts, sources: Sources, rows: int = 5, seeds: int = 2) -> None:
    """A PNG with a line per source: the source, then `seeds` images per level. Rejected ones are grey."""
    chosen = choose_sources(facts, rows)
    shown = [int(seed) for seed in np.unique(facts.seed)[:seeds]]
    step = CELL + GAP
    block = len(shown) * step + 2 * GAP
    size = (GAP + step + 2 * GAP + len(facts.levels) * block, HEAD + len(chosen) * step + GAP)
    canvas = Image.new("RGB", size, PAPER)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(16)
    draw.text((GAP + CELL / 2, HEAD / 2), "source", INK, font, "mm")
    for column, level in enumerate(facts.levels):
        left = GAP + step + 2 * GAP + column * block
        draw.text((left + (len(shown) * step - GAP) / 2, HEAD / 2), f"level {level}", INK, font, "mm")
        for line, source in enumerate(chosen):
            cells = cells_of(facts, np.flatnonzero(facts.source == source))
            for place, seed in enumerate(shown):
                corner = (left + place * step, HEAD + line * step)
                _draw_sample(canvas, facts, cells.get((level, seed)), corner)
    for line, source in enumerate(chosen):
        encoded = sources(source)
        if encoded is not None:
            canvas.paste(_open(encoded), (GAP, HEAD + line * step))
    packed = io.BytesIO()
    canvas.quantize(128).save(packed, "png", optimize=True)
    write_atomic(out, packed.getvalue())


def _draw_sample(canvas: Image.Image, facts: Facts, row: int | None, corner: tuple[int, int]) -> None:
    if row is None or not facts.stored[row]:
        return
    image, kept = _open(facts.image(row)), bool(facts.kept[row])
    if not kept:
        image = Image.blend(ImageOps.grayscale(image).convert("RGB"), Image.new("RGB", image.size, PAPER), 0.6)
    canvas.paste(image, corner)
    draw = ImageDraw.Draw(canvas)
    box = (*corner, corner[0] + CELL - 1, corner[1] + CELL - 1)
    draw.rectangle(box, outline=KEPT if kept else DROPPED, width=2)
    if not kept and np.isfinite(facts.score[row]):
        label = (box[2] - 36, box[3] - 17, box[2], box[3])
        draw.rectangle(label, fill=DROPPED)
        middle = ((label[0] + label[2]) / 2, (label[1] + label[3]) / 2)
        draw.text(middle, f"{facts.score[row]:.2f}", PAPER, ImageFont.load_default(13), "mm")


def _open(encoded: bytes) -> Image.Image:
    """RGB, CELL pixels wide and high; small images keep their pixels."""
    with Image.open(io.BytesIO(encoded)) as image:
        small = max(image.size) < CELL
        filter = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
        return ImageOps.fit(image.convert("RGB"), (CELL, CELL), filter)
