"""The device's own matrix-product rate and a network's work: what a share of the ceiling is taken of."""

import time

import torch
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from discl.engine.pretrained import DiffusionModel

SIDE = {"cuda": 8192, "cpu": 1024}


def matmul_rate(device: torch.device, dtype: torch.dtype, repeats: int = 20) -> float:
    """FLOP/s of the fastest of `repeats` dense square products (2 FLOP a multiply-add)."""
    side = SIDE[device.type]
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begin)
    return 2 * side**3 / min(times)


def evaluation_flops(model: DiffusionModel, width: int, height: int) -> int:
    """FLOP of one row of the UNet, counted by torch on an empty copy: the engine's own operators go uncounted."""
    text = model.encode_text("a", negative=False)
    states, pooled, time_ids, guidance = (
        None if part is None else torch.empty(1, *part.shape, device="meta")
        for part in model.condition(text, height, width, 7.5, negative=False)
    )
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(model.unet.config)
        latent = torch.empty(1, model.latent_channels, height // model.multiple, width // model.multiple)
        timestep = torch.empty(1)
    added = {} if pooled is None else {"text_embeds": pooled, "time_ids": time_ids}
    with FlopCounterMode(display=False) as counter:
        unet(
            latent,
            timestep,
            encoder_hidden_states=states,
            timestep_cond=guidance,
            added_cond_kwargs=added,
            return_dict=False,
        )
    return counter.get_total_flops()
