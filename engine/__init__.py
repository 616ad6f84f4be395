"""discl.engine: requests become scored images.

    request        what is wished for, and what comes out     scheduler      who runs in the next step (no torch)
    pretrained     model folder -> modules                     noise_schedule the steps of one level
    parts          a model as modules of flat tensors          backends       what runs them
    export         parts -> ONNX, AOTI, TensorRT files         tensorrt_plan  what an engine file is for
    text           prompts -> encoded texts, cached            solvers        update coefficients per step
    condition      what the network is told                    denoiser       UNet behind one contract
    autoencoder    image <-> latent                            noise          a request's own random draws
    sources        source images encoded once                  networks       these rooms, for one dtype
    intake         requests read ahead                         work           a request with all that its steps need
    slots          the batch: places and network rows          finish         latents -> scored samples
    previews       verdicts on latents part-way                rejection      who is given up part-way
    transfer       copies between host and device              slot_count     how many share a batch
    loop           one run                                     faults         out of memory, lost devices
    engine         its face                                    stats          what it counts
    scorer         CLIP scores and embeddings                  pixels         any PIL image -> RGB

The names are loaded when they are first used, so that the torch-free rooms can be imported without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

_HOMES = {
    "Engine": "discl.engine.engine",
    "Request": "discl.engine.request",
    "Sample": "discl.engine.request",
}

__all__ = ["Engine", "Request", "Sample"]

if TYPE_CHECKING:
    from discl.engine.engine import Engine
    from discl.engine.request import Request, Sample


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'discl.engine' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
