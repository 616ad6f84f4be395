"""A CLIP image tower in; the same tower without what its pooling throws away.

Of the last block only the class token's row is read: keys and values are of all tokens, but the query, the output
projection and the MLP are of that token alone. Of ViT-B/32's 12 blocks that is 7 % of all products.
"""

import torch
from open_clip.transformer import ResidualAttentionBlock, Transformer, VisionTransformer
from torch.nn.functional import scaled_dot_product_attention

from discl.engine.reproducible import RowwiseAttention, linear


def read_one_token(tower: torch.nn.Module) -> None:
    """Exchange an open_clip image tower, in place, for one that reads one token in its last block, if it pools so.

    Its attention must be `RowwiseAttention` already; parameters and state dict stay as they are.
    """
    if type(tower) is not VisionTransformer or tower.attn_pool is not None or tower.pool_type != "tok":
        return
    transformer = tower.transformer
    last = transformer.resblocks[-1] if type(transformer) is Transformer and transformer.batch_first else None
    if type(last) is ResidualAttentionBlock and type(last.attn) is RowwiseAttention and not tower.output_tokens:
        last.__class__ = OneTokenBlock


class OneTokenBlock(ResidualAttentionBlock):
    """Tokens [B, n, D] -> the first one [B, 1, D], after attending to all."""

    def forward(self, q_x: torch.Tensor, attn_mask: torch.Tensor | None = None) -> torch.Tensor:  # type: ignore[override]
        attention, out, width = self.attn, self.attn.out_proj, q_x.shape[-1]
        x = self.ln_1(q_x)
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        query = linear(x[:, :1].contiguous(), weight[:width], bias[:width])
        both = linear(x, weight[width:], bias[width:]).unflatten(2, (2, attention.num_heads, attention.head_dim))
        heads = query.unflatten(2, (attention.num_heads, attention.head_dim)).transpose(1, 2)
        seen = scaled_dot_product_attention(heads, *both.permute(2, 0, 3, 1, 4))
        x = q_x[:, :1] + self.ls_1(linear(seen.transpose(1, 2).flatten(2), out.weight, out.bias))
        return x + self.ls_2(self.mlp(self.ln_2(x)))
