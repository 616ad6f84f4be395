"""Scoring generated images: the scorer against the released way and against the bare image tower; filtering millions.

Peer: the paper's code (paper.md 2.1), which for every synthetic image opens it and its real image with PIL, runs
Hugging Face's processor and CLIP on both and on the text, one at a time. Both have the weights and shapes of ViT-B/32,
drawn at random. `tower`: open_clip's image tower on ready tensors at the best of several batches. The scorer has that
batch too, and a round as many real images, so that none of its batches is padded, as hardly any of a large store's is.
JPEGs: see `score_jpeg`. The filter's rows are seconds asked over seconds taken, and gigabytes asked over the peak of
the process.
"""

import functools
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTextConfig, CLIPVisionConfig

from benchmarks.bench_kernels import PREPROCESS
from benchmarks.score_device import score_kernels, score_on_device
from benchmarks.score_jpeg import score_jpegs
from benchmarks.scored_rows import write_scored_rows
from benchmarks.timing import interleave, record, seconds
from discl.engine.clip_checkpoint import ClipCheckpoint
from discl.engine.scorer import Scorer
from discl.kernels import cosine_scores

PER_SOURCE = 8  # synthetic images of one real image
SOURCES = 64  # real images
Pictures = list[tuple[Image.Image, list[Image.Image]]]  # a real one and its synthetic ones

BATCHES, SMALL_BATCH = (16, 32, 64, 128), 2
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ROUNDS = {"float32": 3, "bfloat16": 15}  # AMX of a shared machine may be three times as fast a second later
FILTERS = {
    "threshold": ["--threshold", "0.3"],
    "quantile": ["--quantile", "0.5", "--by", "class-level"],
    "quota": ["--threshold", "0.25", "--quota", "2000"],
}


def arguments(parser) -> None:
    parser.add_argument("--part", choices=("images", "jpeg", "filter"), help="default: all")
    parser.add_argument("--rows", type=int, default=10_000_000, help="of the filter's store (default: 10 million)")
    parser.add_argument("--store", help="where the filter's store is kept for the next call (default: nowhere)")
    parser.add_argument("--dtype", choices=tuple(DTYPES), help="of the images' part (default: all)")


def run(
    small: bool = False, part: str | None = None, rows: int = 10_000_000, store: str | None = None,
    dtype: str | None = None,
) -> None:  # fmt: skip
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if part in (None, "images") and (small or device.type == "cuda"):
        score_kernels(device, small)
        score_on_device(build(small), device, small)
    if part in (None, "images") and device.type == "cpu":
        for name in [dtype] if dtype else DTYPES:
            score_images(name, small)
    if part in (None, "jpeg"):
        with tempfile.TemporaryDirectory(prefix="discl-bench-") as folder:
            score_jpegs(Path(folder), build(small), clip_config(small), device, small)
    if part in (None, "filter"):
        with tempfile.TemporaryDirectory(prefix="discl-bench-") as folder:
            filter_rows(Path(store or folder) / "rows", 20_000 if small else rows, small)


def score_images(dtype: str, small: bool) -> None:
    """One row: this scorer, the bare tower and the released way by turns."""
    kind = DTYPES[dtype]
    tower = build(small).to(kind)
    best = SMALL_BATCH if small else best_batch(tower, kind)
    peer_images, rounds = (2, 2) if small else (8, ROUNDS[dtype])
    pictures = photographs(2 * SMALL_BATCH if small else SOURCES, 64 if small else 512)
    sources = min(best, len(pictures))
    images = sources * PER_SOURCE
    turns = itertools.cycle(pictures[at : at + sources] for at in range(0, len(pictures), sources))
    model = build(small)
    width = int(model.text_projection.shape[1])
    tokenize = open_clip.get_tokenizer("ViT-B-32")
    checkpoint = ClipCheckpoint(model, tokenize, dict(model.visual.preprocess_cfg), width, "0" * 32)
    scorer = Scorer("random", checkpoint, "cpu", kind, sources)
    peer, ready = Released(small), torch.randn(best, 3, 224, 224).to(kind)
    texts = [f"a photo of a {label}" for label in range(10)]

    def ours() -> float:
        part = next(turns)
        return images / seconds(lambda: score_all(scorer, part, texts))

    @torch.inference_mode()
    def bare() -> float:
        """Of synthetic images, with the share of real ones that ours embeds too."""
        forwards = max(1, images // best)
        taken = seconds(lambda: [tower.encode_image(ready) for _ in range(forwards)])
        return forwards * best / taken * PER_SOURCE / (PER_SOURCE + 1)

    def released() -> float:
        pairs = [(real, made[0]) for real, made in pictures][:peer_images]
        return len(pairs) / seconds(lambda: [peer(real, made, texts[0]) for real, made in pairs])

    contestants = {"discl": ours, "bare tower": bare, "released": released}
    for warm_up in contestants.values():
        warm_up()
    record(
        "score", interleave(contestants, rounds), "images/s",
        {"discl / released": ("discl", "released"), "discl / bare tower": ("discl", "bare tower")}, keep=not small,
        part="images", model="ViT-B-32, random weights", dtype=dtype, images=len(pictures) * PER_SOURCE,
        images_a_round=images, batch=best,
        peer="PIL and transformers CLIP, float32, real image and text embedded again for each image",
    )  # fmt: skip


def clip_config(small: bool) -> dict:
    """open_clip's ViT-B/32, or one of the same shape with two thin layers."""
    config = open_clip.get_model_config("ViT-B-32")
    if small:
        config["vision_cfg"] |= {"layers": 2, "width": 64, "head_width": 32}
        config["text_cfg"] |= {"layers": 2, "width": 64, "heads": 2}
    return config


def build(small: bool) -> torch.nn.Module:
    model = open_clip.CLIP(**clip_config(small)).eval()
    model.visual.preprocess_cfg = PREPROCESS
    return model


def photographs(count: int, side: int) -> Pictures:
    """(real image, its synthetic ones): smooth random pictures."""
    random = np.random.default_rng(0)

    def picture() -> Image.Image:
        return Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((side, side))

    return [(picture(), [picture() for _ in range(PER_SOURCE)]) for _ in range(count)]


def best_batch(model: torch.nn.Module, dtype: torch.dtype) -> int:
    """Of three calls each, by turns: a neighbour on the machine must not choose."""
    ready = {batch: torch.randn(batch, 3, 224, 224).to(dtype) for batch in BATCHES}

    @torch.inference_mode()
    def rate(batch: int) -> float:
        return batch / seconds(lambda: model.encode_image(ready[batch]))

    calls = {str(batch): functools.partial(rate, batch) for batch in BATCHES}
    for warm_up in calls.values():
        warm_up()
    rates = interleave(calls, 3)
    return int(max(rates, key=lambda batch: rates[batch].max()))


def score_all(scorer: Scorer, pictures: Pictures, texts: list[str]) -> None:
    """Text scores, image scores and margins of every synthetic image: each real image once, texts once."""
    lines = scorer.embed_texts(texts)
    reals = scorer.embed_pil([real for real, _ in pictures])
    made = scorer.embed_pil([each for _, several in pictures for each in several])
    own = torch.arange(len(made)) // PER_SOURCE
    cosine_scores(made, lines, own % len(lines), reals[own], 0.3)


class Released:
    """One synthetic image at a time, as the paper's code does."""

    def __init__(self, small: bool):
        thin = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        towers = [kind(**(thin if small else {})).to_dict() for kind in (CLIPTextConfig, CLIPVisionConfig)]
        self.model = CLIPModel(CLIPConfig(text_config=towers[0], vision_config=towers[1])).eval()
        self.process = CLIPImageProcessor()
        self.tokenize = open_clip.get_tokenizer("ViT-B-32")

    @torch.no_grad()
    def __call__(self, real: Image.Image, made: Image.Image, text: str) -> torch.Tensor:
        pixels = self.process(images=[real, made], return_tensors="pt")["pixel_values"]
        images = [self.model.visual_projection(self.model.vision_model(each[None]).pooler_output) for each in pixels]
        words = self.model.text_projection(self.model.text_model(self.tokenize([text])).pooler_output)
        return torch.cosine_similarity(torch.cat(images), words)


def filter_rows(store: Path, rows: int, small: bool) -> None:
    repeats = 1 if small else 3 if rows <= 20_000_000 else 1
    if not store.exists():
        write_scored_rows(store, rows)
    for name, flags in FILTERS.items():
        runs = [filter_once(store, flags) for _ in range(repeats)]
        rates = {"discl": np.array([30 / run["seconds"] for run in runs]), "30 s": np.ones(repeats),
                 "2 GB / peak": np.array([2e6 / run["peak_kb"] for run in runs])}  # fmt: skip
        record(
            "score", rates, "asked / taken",
            {"30 s / discl": ("discl", "30 s"), "2 GB / discl": ("2 GB / peak", "30 s")}, keep=not small,
            part="filter", rows=f"{rows}", rule=name, flags=" ".join(flags),
            seconds=[run["seconds"] for run in runs], peak_mb=[run["peak_kb"] / 1000 for run in runs],
        )  # fmt: skip


def filter_once(store: Path, flags: list[str]) -> dict[str, float]:
    """Wall seconds and peak memory of the command, in a process of its own."""
    code = (
        "import resource, json, sys; from discl.cli import main; code = main(sys.argv[1:]); "
        "print(json.dumps({'code': code, 'peak_kb': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))"
    )
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, "filter", str(store), *flags], capture_output=True, text=True, check=True
    )
    taken = time.perf_counter() - began
    result = json.loads(done.stdout.splitlines()[-1])
    if result["code"]:
        raise SystemExit(done.stderr)
    return {"seconds": taken, "peak_kb": result["peak_kb"]}
