"""What early rejection is measured on: the demo model's samples of handwritten digits, traced to their end.

Every handwritten digit outside of the demo's validation and test splits is a source; all levels and several seeds of it
run to their end while a tracer looks at them.
"""

import json
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from discl import Engine, Request
from discl.data.digits import CLASS_NAMES, split_rows
from discl.engine.rejection import LatentTracer, Tracer
from discl.engine.rejection.decoder import SmallDecoder
from discl.engine.rejection.recording import distil, gather
from discl.engine.rejection.traces import Traces, load_traces, save_traces
from discl.errors import DisclError

LEVELS, STEPS, GUIDANCE, SLOTS = (0, 10, 30, 50), 20, 1.5, 64
PROMPT = "a photo of the digit {class}"
ACCEPTED = 0.45
DISTILLED = 60  # sources whose samples fit the decoder and nothing else


def sources() -> list[tuple[str, str, Image.Image]]:
    """Id, class name and picture of every digit that the demo neither validates nor tests on, shuffled."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    splits = split_rows(digits.target)
    taken = set(np.concatenate([*splits["val"], *splits["test"]]).tolist())
    rows = np.random.default_rng(0).permutation([row for row in range(len(digits.target)) if row not in taken])
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    enlarged = lambda row: Image.fromarray(pixels[row]).convert("RGB").resize((32, 32), Image.Resampling.LANCZOS)  # noqa: E731
    return [(f"{row:04d}", CLASS_NAMES[digits.target[row]], enlarged(row)) for row in rows.tolist()]


def requests(chosen: list, seeds: int) -> list[Request]:
    return [
        Request(
            image,
            PROMPT.replace("{class}", name),
            level,
            noise_seed=1000 * int(source) + seed,
            class_name=name,
            source_id=source,
            key=f"{source}-{seed}-{level}",
        )
        for source, name, image in chosen
        for seed in range(seeds)
        for level in LEVELS
    ]


def demo_engine() -> Engine:
    assets = files("discl.demo") / "assets"
    settings = {"steps": STEPS, "text_guidance": GUIDANCE, "slots": SLOTS, "device": "cpu", "score_prompt": PROMPT}
    return Engine.from_pretrained(str(assets / "generator"), clip=str(assets / "clip"), **settings)


def trace(engine: Engine, chosen: list, seeds: int) -> tuple[SmallDecoder, tuple[str, ...], list[Traces], float]:
    """The decoder, the texts, the traces of all but the first sources, and the threshold."""
    first = min(DISTILLED, len(chosen) // 4)
    engine.reject_by(LatentTracer())
    decoder = distil(engine, engine.run(requests(chosen[:first], 1)))
    texts = tuple(PROMPT.replace("{class}", name) for name in CLASS_NAMES)
    engine.reject_by(Tracer(decoder, texts))
    samples = list(engine.run(requests(chosen[first:], seeds)))
    threshold = float(np.float32(np.quantile([sample.text_score for sample in samples], 1 - ACCEPTED)))
    traces = gather(engine, samples, lambda sample: threshold)
    return decoder, texts, list(traces.values()), threshold


def kept_trace(folder: Path, engine: Engine, chosen: list, seeds: int):
    """What `trace` gives, from the folder if it was made before: it takes long and is no measurement of time."""
    about, file = folder / "about.json", folder / "traces.npz"
    if about.is_file():
        known = json.loads(about.read_text())
        if known["made_for"] != engine.signature or known["seeds"] != seeds:
            raise DisclError(f"{folder}: traces of another model or number of seeds; name another folder")
        return SmallDecoder.from_json(known["decoder"]), tuple(known["texts"]), load_traces(file), known["threshold"]
    decoder, texts, traces, threshold = trace(engine, chosen, seeds)
    folder.mkdir(parents=True, exist_ok=True)
    save_traces(file, traces)
    known = {"made_for": engine.signature, "seeds": seeds, "texts": texts, "threshold": threshold}
    about.write_text(json.dumps({**known, "decoder": decoder.to_json()}))
    return decoder, texts, traces, threshold


def split(traces: list[Traces], seed: int, parts: tuple[float, ...]) -> list[list[Traces]]:
    """Traces of disjoint sources, in these shares."""
    names = np.random.default_rng(seed).permutation(np.unique(traces[0].group))
    cuts = [0, *(np.cumsum(parts) * len(names)).round().astype(int).tolist()]
    return [[each.take(np.isin(each.group, names[a:b])) for each in traces] for a, b in pairwise(cuts)]
