"""Samples that a tracer has looked at -> what calibration needs: a decoder from the first, traces from the others."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from discl.engine.rejection.decoder import SmallDecoder, fit_decoder
from discl.engine.rejection.evidence import LOOK
from discl.engine.rejection.traces import Traces
from discl.errors import DisclError

if TYPE_CHECKING:
    from discl.engine.engine import Engine
    from discl.engine.request import Sample


def distil(engine: "Engine", samples: Iterable["Sample"]) -> SmallDecoder:
    """The small decoder, from samples of a `LatentTracer` run; those of the most frequent size are used.

    Raises DisclError when none of them could be made.
    """
    recorded = [row for sample in samples if sample.status == "ok" for _, row in sample.trace]
    if not recorded:
        raise DisclError("early rejection cannot be calibrated: none of its first samples could be made")
    networks = engine.networks()
    (height, width), _ = Counter((int(row[0]), int(row[1])) for row in recorded).most_common(1)[0]
    alike = np.stack([row[2:] for row in recorded if (row[0], row[1]) == (height, width)])
    shape = networks.model.latent_channels, height, width
    latents = torch.from_numpy(alike).unflatten(1, shape).to(engine.device)
    with torch.no_grad():
        images = [networks.autoencoder.decode(part)[0] for part in latents.split(networks.autoencoder.batch)]
    return fit_decoder(latents, torch.cat(images))


def gather(engine: "Engine", samples: Iterable["Sample"], threshold: Callable[["Sample"], float]) -> dict[int, Traces]:
    """Traces by level, from samples of a `Tracer` run; those without an image or a score are left out.

    threshold: the lowest text score at which a sample's image is accepted.
    """
    levels: dict[int, list[Sample]] = {}
    for sample in sorted(samples, key=lambda sample: sample.request.key or ""):
        if sample.status == "ok" and sample.text_score is not None and sample.trace:
            levels.setdefault(sample.request.level, []).append(sample)
    return {level: _traces(engine, level, levels[level], threshold) for level in sorted(levels)}


def _traces(engine: "Engine", level: int, samples: Sequence["Sample"], threshold) -> Traces:
    features = np.stack([[row for _, row in sample.trace] for sample in samples])
    return Traces(
        level,
        engine.solver.trajectory(level).steps,
        tuple(check for check, _ in samples[0].trace),
        key=np.array([sample.request.key or "" for sample in samples]),
        group=np.array([sample.request.source_id or "" for sample in samples]),
        text=np.array([engine.judged(sample.request) for sample in samples]),
        looks=features[:, :, :LOOK],
        source=features[:, 0, LOOK:],
        score=np.array([sample.text_score for sample in samples], np.float32),
        threshold=np.array([threshold(sample) for sample in samples], np.float32),
    )
