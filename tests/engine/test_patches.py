import copy

import open_clip
import pytest
import torch

from discl.engine.compiled import prepared
from discl.engine.patches import PatchProduct, multiply_patches
from discl.engine.reproducible import make_rowwise

TEXT = {"context_length": 16, "vocab_size": 100, "width": 32, "heads": 2, "layers": 1}
SIZES = [
    {"image_size": 32, "patch_size": 8},
    {"image_size": 70, "patch_size": 14},
    {"image_size": (24, 48), "patch_size": 8},
]


def towers(**options) -> tuple[torch.nn.Module, torch.nn.Module]:
    """(open_clip's own, the exchanged one)"""
    torch.manual_seed(4)
    plain = open_clip.CLIP(24, {"layers": 1, "width": 64, "head_width": 16} | options, TEXT).visual.eval()
    exchanged = copy.deepcopy(plain)
    multiply_patches(exchanged)
    return plain, exchanged


@pytest.mark.parametrize("options", SIZES, ids=str)
# float32: 588 products in another order; the others: their own rounding of weights, pixels and result
@pytest.mark.parametrize(("dtype", "shift"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2), (torch.float16, 1e-3)])
def test_the_product_gives_the_convolutions_numbers(options, dtype, shift):
    plain, exchanged = towers(**options)
    assert isinstance(exchanged.conv1, PatchProduct)
    assert exchanged.state_dict().keys() == plain.state_dict().keys()
    size = options["image_size"]
    images = torch.randn(3, 3, *(size if isinstance(size, tuple) else (size, size)))
    with torch.no_grad():
        theirs, ours = plain.conv1(images), exchanged.to(dtype).conv1(images.to(dtype)).float()
    torch.testing.assert_close(ours, theirs, atol=shift * theirs.abs().max().item(), rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rows", [1, 3, 4, 8, 16, 32])
def test_every_place_of_a_batch_computes_the_same_bits(rows, dtype):
    tower = towers(image_size=64, patch_size=16)[1].to(dtype)
    make_rowwise(tower)
    images = torch.randn(1, 3, 64, 64).to(dtype).expand(rows, -1, -1, -1).contiguous()
    with torch.no_grad():
        out = prepared(tower, torch.device("cpu"), compiled=False)(images)
    assert torch.equal(out, out[:1].expand_as(out))


def test_other_towers_are_left_alone():
    tower = torch.nn.Module()
    tower.conv1 = torch.nn.Conv2d(3, 8, 4, stride=4)
    multiply_patches(tower)
    assert type(tower.conv1) is torch.nn.Conv2d
