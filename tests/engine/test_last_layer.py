import copy

import open_clip
import pytest
import torch

from discl.engine.compiled import prepared
from discl.engine.last_layer import OneTokenBlock, read_one_token
from discl.engine.reproducible import make_rowwise

VISION = {"image_size": 32, "patch_size": 8, "layers": 3, "width": 64, "head_width": 16}
TEXT = {"context_length": 16, "vocab_size": 100, "width": 32, "heads": 2, "layers": 1}


def towers(**options) -> tuple[torch.nn.Module, torch.nn.Module]:
    """(open_clip's own, the exchanged one)"""
    torch.manual_seed(4)
    plain = open_clip.CLIP(24, VISION | options, TEXT).visual.eval()
    exchanged = copy.deepcopy(plain)
    make_rowwise(exchanged)
    read_one_token(exchanged)
    return plain, exchanged


@pytest.mark.parametrize("options", [{}, {"final_ln_after_pool": True}, {"ls_init_value": 0.5}], ids=str)
@pytest.mark.parametrize(("dtype", "shift"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_one_token_of_the_last_block_gives_open_clips_embedding(options, dtype, shift):
    plain, exchanged = towers(**options)
    assert isinstance(exchanged.transformer.resblocks[-1], OneTokenBlock)
    assert exchanged.state_dict().keys() == plain.state_dict().keys()
    images = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        theirs, ours = plain(images), exchanged.to(dtype)(images.to(dtype)).float()
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, atol=shift * theirs.abs().max().item(), rtol=0)


@pytest.mark.parametrize(
    "options", [{"pool_type": "avg"}, {"attentional_pool": True}, {"output_tokens": True}], ids=str
)
def test_a_tower_that_reads_other_tokens_is_left_alone(options):
    plain, exchanged = towers(**options)
    assert not isinstance(exchanged.transformer.resblocks[-1], OneTokenBlock)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(exchanged(images), plain(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rows", [1, 3, 4, 8, 16, 32])
def test_every_place_of_a_batch_computes_the_same_bits(rows, dtype):
    tower = towers()[1].to(dtype)
    images = torch.randn(1, 3, 32, 32).to(dtype).expand(rows, -1, -1, -1).contiguous()
    with torch.no_grad():
        out = prepared(tower, torch.device("cpu"), compiled=False)(images)
    assert torch.equal(out, out[:1].expand_as(out))
