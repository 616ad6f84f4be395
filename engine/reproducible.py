"""What makes a row's bits independent of its place in the batch, where the CPU's libraries would not.

Found by giving every row of a batch the same input and comparing the rows of every operator's result, for 1 to 16
threads. Layers are exchanged in place by subclasses without state, so parameters and state dicts stay as they are.
"""

import logging
import math
from collections.abc import Callable

import torch
from diffusers.models.activations import GEGLU
from torch.overrides import TorchFunctionMode

log = logging.getLogger(__name__)

GRAIN = 32768  # elements below which torch's elementwise loops do not start another thread
AMX = torch.cpu._is_amx_tile_supported()
STRIDE = 128  # bytes that such a loop takes at once; the rest of a thread's share is computed by scalar code


def make_rowwise(model: torch.nn.Module) -> None:
    """Exchange the layers of a CPU model whose rows would depend on their place."""
    if not torch.backends.mkldnn.is_available():
        log.warning("this torch has no oneDNN: the last bits of an image may depend on its slot")
        return
    for module in model.modules():
        module.__class__ = ROWWISE.get(type(module), type(module))


def make_plain(model: torch.nn.Module) -> None:
    """The reverse: torch's own layers, which exporters know."""
    plain = {ours: theirs for theirs, ours in ROWWISE.items()}
    for module in model.modules():
        module.__class__ = plain.get(type(module), type(module))


def stable_rows(rows: int, copies: int = 1) -> int:
    """The least batch of at least `rows` in which `copies` of it stacked are at most four rows or a multiple of four.

    MKL's float32 matrix product takes another path for the last rows of 5 to 7, 9 to 11, 17 to 19 and 25 to 27 rows.
    """
    while rows * copies > 4 and rows * copies % 4:
        rows += 1
    return rows


def by_rows(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """An elementwise function of x [B, ...], row by row where scalar code would meet some rows and not others."""
    if torch.compiler.is_compiling():
        return function(x)
    threads = min(torch.get_num_threads(), math.ceil(x.numel() / GRAIN))
    if x.numel() * x.element_size() % (STRIDE * threads or 1) == 0:
        return function(x)
    return torch.stack([function(row) for row in x])


# oneDNN's linear as one node of a compiled graph: inductor itself takes it with frozen weights only.
_library = torch.library.Library("discl", "DEF")
_library.define("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))


@torch.library.impl(_library, "linear", "CPU")
def _linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


@torch.library.register_fake("discl::linear")
def _(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Linear through oneDNN (also half of MKL's time on AMD Zen 5); MKL treats the last rows of a thread apart."""
    if x.requires_grad or x.dtype not in (torch.float32, torch.bfloat16):
        return torch.nn.functional.linear(x, weight, bias)
    if torch.compiler.is_compiling():
        return torch.ops.discl.linear(x, weight, bias)
    return _linear(x, weight, bias)


class RowwiseLinear(torch.nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.weight, self.bias)


class RowwiseAttention(torch.nn.MultiheadAttention):
    """Self-attention as CLIP towers call it (one input, no weights returned); anything else is torch's own."""

    def forward(self, query, key, value, need_weights=True, attn_mask=None, **options):
        masks = attn_mask is not None and attn_mask.dtype == torch.bool
        if need_weights or masks or options or query is not key or key is not value or query.dim() != 3:
            return super().forward(query, key, value, need_weights=need_weights, attn_mask=attn_mask, **options)
        x = query if self.batch_first else query.transpose(0, 1)
        if attn_mask is not None and attn_mask.dim() == 3:  # of every row and head, one after the other: CoCa's texts
            attn_mask = attn_mask.unflatten(0, (len(x), self.num_heads))
        heads = linear(x, self.in_proj_weight, self.in_proj_bias).unflatten(2, (3, self.num_heads, self.head_dim))
        out = torch.nn.functional.scaled_dot_product_attention(*heads.permute(2, 0, 3, 1, 4), attn_mask=attn_mask)
        out = linear(out.transpose(1, 2).flatten(2), self.out_proj.weight, self.out_proj.bias)
        return (out if self.batch_first else out.transpose(0, 1)), None


class RowwiseGroupNorm(torch.nn.GroupNorm):
    """GroupNorm whose input is made contiguous: for channels-last input (what attention leaves behind) torch splits the
    whole batch over its threads and adds up per-thread partial sums."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.contiguous())


class RowwiseSiLU(torch.nn.SiLU):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return by_rows(super().forward, x)


class RowwiseGELU(torch.nn.GELU):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return by_rows(super().forward, x)


class RowwiseGEGLU(GEGLU):
    def gelu(self, gate: torch.Tensor) -> torch.Tensor:
        return by_rows(super().gelu, gate.contiguous())  # half of a wider tensor: its loop has other shares


class StableAttention(TorchFunctionMode):
    """Inside, attention with fewer than 32 queries runs on a multiple of 16 of them, and half precision in float32.

    torch's CPU kernel gives each thread a scratch buffer of as many rows as there are queries; an odd number leaves the
    second thread's buffer unaligned, and MKL's sums depend on alignment. In half precision it packs both factors of
    every small product: without AMX, 64 tokens take 1.5 to 2 times as long as in float32, 1024 tokens 1.1 times.
    Costs microseconds per eager operator, nothing in a compiled graph.
    """

    def __torch_function__(self, function, types, arguments=(), options=None):
        options = options or {}
        attention = function is torch.nn.functional.scaled_dot_product_attention
        if not attention or len(arguments) != 3 or options.get("attn_mask") is not None:
            return function(*arguments, **options)
        query, key, value = (part.to(attention_dtype(part.dtype)) for part in arguments)
        count, missing = query.shape[-2], -query.shape[-2] % 16
        if missing and count < 32:
            query = torch.nn.functional.pad(query, (0, 0, 0, missing))
        return function(query, key, value, **options)[..., :count, :].to(arguments[0].dtype)


def attention_dtype(dtype: torch.dtype) -> torch.dtype:
    """What a CPU attends in."""
    return dtype if dtype.itemsize > 2 or AMX else torch.float32


def few_queries(height: int, width: int, levels: int) -> bool:
    """Whether a latent of this size, halved `levels` - 1 times (rounding up), meets an odd attention below 32."""
    sizes = [-(-height // 2**level) * -(-width // 2**level) for level in range(levels)]
    return any(tokens < 32 and tokens % 16 for tokens in sizes)


ROWWISE = {
    torch.nn.Linear: RowwiseLinear,
    torch.nn.MultiheadAttention: RowwiseAttention,
    torch.nn.GroupNorm: RowwiseGroupNorm,
    torch.nn.SiLU: RowwiseSiLU,
    torch.nn.GELU: RowwiseGELU,
    GEGLU: RowwiseGEGLU,
}
