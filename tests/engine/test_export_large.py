"""The largest model of the paper, with random weights: 5 GB in one file beside the graph, in bounded memory."""

import resource
import subprocess
import sys

import pytest

LARGEST_MEMORY = 20e9  # bytes
CODE = """
import sys
from pathlib import Path
import torch
from diffusers import UNet2DConditionModel
from benchmarks.workload import REFINER
from discl.engine.export.onnx import write_onnx
from discl.engine.parts import Part, Unet, make_traceable

with torch.device("meta"):
    unet = UNet2DConditionModel(**REFINER).half().eval().requires_grad_(False)
unet.to_empty(device="cpu")
for number, weight in enumerate(unet.parameters()):
    weight.fill_((number % 7 - 3) / 1000)
extra = ("text_embeds", "time_ids")
module = Unet(unet, extra)
make_traceable(module)
shapes = ((4, 34, 60), (), (77, 1280), (1280,), (5,))
row = tuple(torch.zeros(shape, dtype=torch.float32 if shape == () else torch.float16) for shape in shapes)
part = Part("unet", module, "0" * 32, ("sample", "timestep", "encoder_hidden_states", *extra), ("out_sample",), None)
files = write_onnx(part, tuple(torch.stack([tensor, tensor]) for tensor in row), Path(sys.argv[1]) / "unet")
print(*(file.name for file in files), sum(weight.nbytes for weight in unet.parameters()))
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_refiner_is_exported_once(tmp_path):
    done = subprocess.run([sys.executable, "-c", CODE, tmp_path], capture_output=True, text=True, check=True)
    graph, data, size = done.stdout.split()[-3:]
    assert (graph, data) == ("unet.onnx", "unet.onnx.data")
    assert int(size) > 4.4e9
    assert (tmp_path / graph).stat().st_size < 20e6
    assert int(size) * 0.99 < (tmp_path / data).stat().st_size < int(size) * 1.01
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(f"{memory / 1e9:.1f} GB at most")
    assert memory < LARGEST_MEMORY
