import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor

from discl.kernels import reference, to_uint8

SHAPES = [(2, 3, 7, 5), (1, 3, 8, 8), (3, 3, 33, 17), (1, 3, 1, 1), (0, 3, 8, 8), (2, 3, 0, 4)]


def images(shape, dtype=torch.float32):
    """Somewhat beyond [-1, 1], so both ends are clamped."""
    generator = torch.Generator().manual_seed(sum(shape))
    return (torch.randn(shape, generator=generator) * 0.8).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_its_reference(shape, dtype, device):
    decoded = images(shape, dtype).to(device)
    torch.testing.assert_close(to_uint8(decoded), reference.to_uint8(decoded), atol=0, rtol=0)


def test_ties_go_to_the_even_pixel(device):
    # Every half step between two pixels; float32 hits some of them exactly.
    half_steps = (torch.arange(-3, 258) + 0.5) / 255 * 2 - 1
    decoded = torch.cat([torch.zeros(3), half_steps])[:264].view(1, 3, 4, 22).to(device)
    expected = np.clip(decoded.cpu().numpy() / 2 + np.float32(0.5), 0, 1) * np.float32(255)
    assert (np.mod(expected, 1) == 0.5).sum() > 10
    expected = torch.from_numpy(np.round(expected).astype(np.uint8)).permute(0, 2, 3, 1)
    torch.testing.assert_close(to_uint8(decoded).cpu(), expected, atol=0, rtol=0)
    torch.testing.assert_close(reference.to_uint8(decoded).cpu(), expected, atol=0, rtol=0)


def test_nan_and_infinities(device):
    decoded = torch.tensor([torch.nan, torch.inf, -torch.inf]).view(1, 3, 1, 1).to(device)
    assert to_uint8(decoded).flatten().tolist() == [0, 255, 0]
    assert reference.to_uint8(decoded).flatten().tolist() == [0, 255, 0]


def test_equals_diffusers_image_processor():
    decoded = images((2, 3, 24, 40))
    judge = VaeImageProcessor().postprocess(decoded, output_type="pil")
    for pixels, image in zip(to_uint8(decoded), judge, strict=True):
        np.testing.assert_array_equal(pixels.numpy(), np.asarray(image))


def test_takes_any_memory_layout(device):
    decoded = images((2, 3, 6, 5)).to(device)
    strided = decoded.contiguous(memory_format=torch.channels_last)
    assert torch.equal(to_uint8(strided), to_uint8(decoded))
    assert to_uint8(strided).is_contiguous()


def test_says_what_was_given_and_what_is_expected():
    with pytest.raises(ValueError, match=r"decoded: expected .* \[B, 3, H, W\] on cpu, given .* \[2, 4, 8, 8\]"):
        to_uint8(torch.zeros(2, 4, 8, 8))
    with pytest.raises(ValueError, match="given uint8"):
        to_uint8(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
