"""discl.kernels: tensors in, tensors out; the few operations that the engine fuses.

Each launcher has its own file. It runs Triton on CUDA tensors (on all if TRITON_INTERPRET=1), and elsewhere
its torch twin of the same name in `discl.kernels.reference`. Importing this package does not import Triton.

    guided_step     one solver step for a batch whose rows stand at different timesteps
    to_uint8        decoded images in [-1, 1] -> uint8 pixels
    clip_input      uint8 pixels -> what CLIP's image tower eats, equal to Pillow's resize
    clip_pictures   the same on a CPU, of images of several sizes
    clip_window     of one image what the tower sees of it, as uint8 pixels, on a CPU
    cosine_scores   embeddings and texts -> text score, image score, margin, keep; a row's bits are its own
    score_rows      the same for millions of rows, with ranks, accepted rows, counts and histograms
    fp8_rows        activations -> float8 with a scale for each row
    geglu_fp8_rows  the same of a feed-forward layer's hidden * gelu(gate), in one pass
"""

from discl.kernels.clip_input import ClipPlan, clip_input
from discl.kernels.clip_pillow import clip_pictures, clip_window
from discl.kernels.cosine_scores import cosine_scores
from discl.kernels.fp8_rows import fp8_rows, geglu_fp8_rows
from discl.kernels.guided_step import guided_step
from discl.kernels.score_rows import RowScores, score_rows
from discl.kernels.to_uint8 import to_uint8

__all__ = [
    "ClipPlan",
    "RowScores",
    "clip_input",
    "clip_pictures",
    "clip_window",
    "cosine_scores",
    "fp8_rows",
    "geglu_fp8_rows",
    "guided_step",
    "score_rows",
    "to_uint8",
]
