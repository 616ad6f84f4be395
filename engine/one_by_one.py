"""The plain loop: one request at a time, one network row at a time. What `loop` must make, whatever it does to be fast.

No scheduler, no slots, no threads, no micro-batches of several; only for reference and tests.
"""

from collections.abc import Iterable, Iterator

import torch

from discl.engine.condition import Condition
from discl.engine.denoiser import Denoise
from discl.engine.engine import Engine
from discl.engine.finish import defect
from discl.engine.noise import Noise
from discl.engine.request import Request, Sample
from discl.engine.work import Work
from discl.kernels import guided_step


@torch.no_grad()
def one_by_one(engine: Engine, requests: Iterable[Request]) -> Iterator[Sample]:
    """Samples of an engine's model and options, in the order of the requests."""
    networks = engine.networks()
    for request in requests:
        work, bucket = engine.preparation(request, networks.sources.read(request), engine.dtype)
        if engine.device.type == "cuda":
            torch.cuda.synchronize(engine.device)  # the source is embedded on a stream of its own
        latent = solve(networks.denoise, work, *engine.preparation.start(work, bucket))
        pixels, finite = networks.autoencoder.decode(latent)
        sample = Sample(request, reason=defect(bool(finite & latent.isfinite().all()), pixels[0].cpu().numpy()))
        sample.status = "nan" if sample.reason else "ok"
        if sample.status == "ok":
            sample.image = pixels[0].cpu().numpy()
            if engine.scorer:
                embedding, text = (
                    engine.scorer.embed_images(pixels)[0],
                    engine.scorer.embed_texts([engine.judged(request)]),
                )
                sample.embedding = embedding.cpu().numpy()
                sample.text_score, sample.image_score = (
                    float(embedding @ text[0]),
                    float(embedding @ work.source.embedding),
                )
        yield sample


def solve(denoise: Denoise, work: Work, x: torch.Tensor, noise: Noise) -> torch.Tensor:
    """The start latent [1, C, h, w] -> the finished one."""
    history = torch.zeros_like(x)
    guidance = torch.full((1,), work.guidance, dtype=torch.float32, device=x.device)
    for row, draws, rows in zip(torch.from_numpy(work.trajectory.rows), work.trajectory.draws, work.rows, strict=True):
        row = row.to(x.device)
        timestep, scaled = row[:1], x * row[1]
        cond = denoise(scaled, timestep, _batch_of_one(work.cond))
        uncond = denoise(scaled, timestep, _batch_of_one(work.uncond)) if rows == 2 else None
        fresh = noise.draw().to(x.device) if draws else torch.zeros_like(x)
        x, history = guided_step(x, cond, uncond, guidance, row[None, 2:], history, fresh)
    return x


def _batch_of_one(condition: Condition) -> Condition:
    return Condition(*(None if part is None else part[None] for part in condition))
