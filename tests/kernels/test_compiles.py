"""Every kernel becomes machine code for a Hopper device, on any machine: Triton brings its own assembler."""

import pytest

from discl.kernels.clip_input import PACK, _fused, _normalise, _resize
from discl.kernels.cosine_scores import _cosine_scores
from discl.kernels.dispatch import OPTIONS
from discl.kernels.fp8_rows import _fp8_rows
from discl.kernels.guided_step import _guided_step
from discl.kernels.score_rows import BLOCK, MANY, _compact, _few_texts, _score_rows, _total
from discl.kernels.to_uint8 import _to_uint8

HOPPER = ("cuda", 90, 32)
F32, I32, U8 = "*fp32", "*i32", "*u8"
STEP = {"x": F32, "guidance": F32, "coef": F32, "next_x": F32, "x0": F32, "row_size": "i32"}
TABLES = dict.fromkeys(("column_weight", "row_weight"), "*i8")
TABLES |= dict.fromkeys(("column_first", "column_bias", "row_first", "row_bias"), I32)
SIZES = ("groups", "height", "vectors", "origin", "chunks")
FUSED_TILE = {"ALIGN": 16, "WHOLE": True, "TILES": 4, "SPAN": 64, "CHUNK": 32, "ROWS": 16, "BEGUN": 8, "LINEAR": True}
IMAGE = {"HEIGHT": 224, "WIDTH": 224, "BITS": 22, "PACK": PACK}
TAPS = {"start": I32, "weight": I32, "fill": I32}
SCORE_ROWS = dict.fromkeys(("embeddings", "texts"), "*fp16")
SCORE_ROWS |= dict.fromkeys(("text_norm", "text_score", "image_score", "margin"), F32)
SCORE_ROWS |= dict.fromkeys(("count", "classes", "level_count", "copies"), "i32")
SCORE_ROWS |= dict.fromkeys(("class_ids", "levels", "kept_of_block", "tally"), "*i64")
SCORE_ROWS |= {"rank": I32, "keep": "*i8", "threshold": "fp32"}
TILE = {"width": 512, "BINS": 64, "BLOCK": BLOCK, "HALF": True, "STAGES": 3}
LIKE = {"references": "*fp16"}
FP8_ROWS = {"x": "*bf16", "values": "*fp8e4nv", "scales": F32, "width": "i32"}
FUSED = ("geglu_fp8_rows",)  # asks for them by name
CASES = {
    "plain step": (_guided_step, STEP | {"cond": "*fp16"}, {"uncond": None, "history": None, "noise": None}),
    "step with memory": (_guided_step, STEP | {"cond": "*fp16", "history": F32}, {"uncond": None, "noise": None}),
    "step with noise": (_guided_step, STEP | {"cond": "*fp16", "noise": F32}, {"uncond": None, "history": None}),
    "full step": (
        _guided_step,
        STEP | {"cond": "*bf16", "uncond": "*bf16", "history": F32, "noise": F32},
        {},
    ),
    "to_uint8": (_to_uint8, {"decoded": "*fp16", "pixels": U8, "total": "i32", "area": "i32"}, {}),
    "clip_input": (
        _fused,
        TABLES | {"images": U8, "offset": F32, "factor": F32, "tower_input": "*fp16"} | dict.fromkeys(SIZES, "i32"),
        FUSED_TILE | IMAGE,
    ),
    "resize": (
        _resize,
        TAPS | {"pixels": U8, "resized": U8} | dict.fromkeys(("total", "length", "size", "inner"), "i32"),
        {"TAPS": 11, "BITS": 22},
    ),
    "normalise": (
        _normalise,
        {"pixels": U8, "mean": F32, "std": F32, "tower_input": "*bf16", "total": "i32", "area": "i32"},
        {},
    ),
    "cosine_scores": (
        _cosine_scores,
        dict.fromkeys(("embeddings", "texts", "references", "text_score", "image_score", "margin"), F32)
        | {"class_ids": "*i64", "width": "i32"},
        {"CLASSES": 10},
    ),
    "score_rows of few classes": (_score_rows, SCORE_ROWS | LIKE, TILE | {"ONE": True} | _few_texts(64, True, True)),
    "score_rows of ten classes": (
        _score_rows,
        SCORE_ROWS,
        TILE | {"references": None, "ONE": True} | _few_texts(10, True, False),
    ),
    "score_rows of many classes": (_score_rows, SCORE_ROWS | LIKE, TILE | {"ONE": False} | MANY[True]),
    "fp8_rows": (_fp8_rows, FP8_ROWS, {"GATED": False, "PARTS": 6, "BLOCK": 256}),
    "geglu_fp8_rows": (_fp8_rows, FP8_ROWS, {"GATED": True, "PARTS": 6}),
    "compact": (
        _compact,
        {"keep": "*i8", "kept_of_block": "*i64", "accepted": "*i64", "kept": "*i64", "count": "i32"},
        {"BLOCK": BLOCK},
    ),
    "total": (
        _total,
        {"tally": "*i64", "counts": I32, "histogram": I32, "copies": "i32", "cells": "i32"},
        {"BINS": 64, "COPIES": 32},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_compiles_without_hidden_fused_multiply_adds(case, tmp_path, monkeypatch):
    binary = compiled(case, tmp_path, monkeypatch)
    assert ("fma" in binary.asm["ptx"]) == (case in FUSED)
    assert len(binary.asm["cubin"]) > 1000


def test_clip_input_multiplies_the_bytes_that_its_lanes_load(tmp_path, monkeypatch):
    """Pixels and weights come 16 bytes at a time and never go through shared memory, which holds the result alone."""
    binary = compiled("clip_input", tmp_path, monkeypatch, aligned=True, num_stages=1)
    assert binary.metadata.shared == FUSED_TILE["ROWS"] * 4 * 16 * 2  # rows, planes, columns, bytes
    pixels, digits, shares = 4, 6, 3
    assert binary.asm["ptx"].count("ld.global.v4.b32") == 2 * pixels + digits + shares
    assert "st.global.v4.b32" in binary.asm["ptx"]


def test_score_rows_multiplies_the_halves_that_its_lanes_load(tmp_path, monkeypatch):
    """One step of 128 columns: 32 rows and 16 texts, 16 bytes a lane, and only the results are put in order."""
    binary = compiled("score_rows of ten classes", tmp_path, monkeypatch, aligned=True)
    assert binary.metadata.shared <= 32 * 8  # one result of 32 rows at a time
    assert binary.asm["ptx"].count("ld.global.v4.b32") == (32 + 16) * 128 * 2 // (32 * 16)


def compiled(case, folder, monkeypatch, aligned=False, **options):
    """`aligned`: pointers and sizes are multiples of 16, as the launch of an allocated tensor finds them."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(folder))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    kernel, types, constants = CASES[case]
    jitted = kernel.jitted_function()
    signature = {name: types.get(name, "constexpr") for name in jitted.arg_names}
    options |= {name: constants[name] for name in ("num_warps", "num_stages") if name in constants}
    constants = {name: constants[name] for name in jitted.arg_names if name in constants}
    constants = {name: 1024 for name in jitted.arg_names if name == "BLOCK"} | constants
    multiples = {
        (at,): [["tt.divisibility", 16]]
        for at, name in enumerate(jitted.arg_names)
        if aligned and signature[name] != "constexpr"
    }
    source = ASTSource(jitted, signature, constants, multiples)
    return triton.compile(source, target=GPUTarget(*HOPPER), options=OPTIONS | options)
