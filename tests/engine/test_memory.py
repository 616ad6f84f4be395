"""What an engine holds does not grow with the requests it has served."""

import os

import numpy as np
import pytest

from discl import Engine, Request
from tests.tiny import tiny_clip, tiny_sd

REQUESTS, WARM_UP = 10_000, 2_000


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def all_different(count: int):
    """Every image, prompt, negative prompt and scored text is new; sizes, levels and guidance vary."""
    rng = np.random.default_rng(0)
    for i in range(count):
        width, height = ((16, 16), (24, 16), (16, 24), (32, 16), (16, 32), (24, 24))[i % 6 if i % 50 == 0 else 0]
        yield Request(
            rng.integers(0, 256, (height, width, 3), dtype=np.uint8),
            f"cat {i}",
            level=(0, 50)[i % 2],
            noise_seed=i,
            negative_prompt=f"not {i}",
            score_text=f"a {i}",
            text_guidance=1.0 + 5 * (i % 3),
        )


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux's /proc")
@pytest.mark.timeout(3000)
def test_memory_is_flat_over_ten_thousand_requests(tmp_path):
    folder, clip = tiny_sd(tmp_path / "sd", vae_levels=2), str(tiny_clip(tmp_path / "clip"))
    readings = []
    with Engine.from_pretrained(folder, clip=clip, steps=2, slots=16) as engine:
        for count, sample in enumerate(engine.run(all_different(REQUESTS)), 1):
            assert sample.status == "ok", sample.reason
            if count % 500 == 0:
                readings.append(resident_bytes())
    assert count == REQUESTS
    warm, later = readings[WARM_UP // 500 - 1], readings[WARM_UP // 500 :]
    assert max(later) <= 1.05 * warm, [round(reading / 1e6) for reading in readings]
