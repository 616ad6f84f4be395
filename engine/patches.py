"""A CLIP image tower in; the same tower whose patches are embedded by one matrix product out.

oneDNN's convolution of 32 x 32 patches takes 1.6 to 2.2 times as long as that product in bfloat16 (32 images, AMX, 2
threads: 25 against 11 ms), 5 to 10 % of the whole tower.
"""

import torch
from open_clip.transformer import VisionTransformer

from discl.engine.reproducible import linear


def multiply_patches(tower: torch.nn.Module) -> None:
    """Exchange the patch convolution of an open_clip image tower, in place; parameters stay as they are."""
    conv = getattr(tower, "conv1", None)
    if type(tower) is VisionTransformer and type(conv) is torch.nn.Conv2d and conv.kernel_size == conv.stride:
        conv.__class__ = PatchProduct


class PatchProduct(torch.nn.Conv2d):
    """A convolution whose windows tile the image: [B, C, H, W] -> [B, D, H / h, W / w]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = self.kernel_size
        rows, columns = x.shape[2] // height, x.shape[3] // width
        tiles = x.reshape(len(x), -1, rows, height, columns, width).permute(0, 2, 4, 1, 3, 5)
        embedded = linear(tiles.reshape(len(x), rows * columns, -1), self.weight.flatten(1), self.bias)
        return embedded.transpose(1, 2).unflatten(2, (rows, columns))
