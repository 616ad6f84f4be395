"""A step of a training in, its learning rate out, as a multiple of train.lr: cosine or one-cycle, with a warm-up.

Loshchilov & Hutter 2017 (cosine); Smith & Topin 2018 (one-cycle, with the shape and numbers of torch's OneCycleLR).
"""

import math

CYCLE_START, CYCLE_END = 1 / 25, 1 / 25e4  # of the peak
CYCLE_WARMUP = 0.3  # share of a cycle that rises, where none is given


def cosine(step: int, steps: int, warmup: float = 0.0) -> float:
    """Linearly up to 1 over the share `warmup` of all steps, then along half a cosine towards 0 at the end."""
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))


def one_cycle(step: int, steps: int, warmup: float = 0.0) -> float:
    """From 1/25 up to 1 over the share `warmup` (0: 0.3) of all steps, down to 1/250000: half a cosine each way."""
    top, last = (warmup or CYCLE_WARMUP) * steps - 1, steps - 1
    if step <= top:
        return _between(CYCLE_START, 1.0, step / top if top > 0 else 1.0)
    return _between(1.0, CYCLE_END, (step - top) / (last - top))


def _between(first: float, last: float, share: float) -> float:
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * share))


SCHEDULES = {"cosine": cosine, "one-cycle": one_cycle}
