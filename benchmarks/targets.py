"""What each row is asked to reach, in the order of the README's table. A target without a row is shown as not run."""

from typing import NamedTuple


class Target(NamedTuple):
    """benchmark, kind of device ("cpu" or "cuda"), settings that a row must share, and ratio name -> asked value.

    None: nothing was asked.
    """

    benchmark: str
    device: str
    settings: dict[str, str]
    asked: dict[str, float | None]


TARGETS = [
    Target(
        "engine",
        "cpu",
        {"model": "small", "dtype": "float32"},
        {
            "(a) eager / one call each": 3.0,
            "(a) compiled / one call each": 3.0,
            "(b) compiled / batched": 1.0,
            "(b') compiled / batched, compiled": 1.0,
            "(c) compiled / bare loop": 0.92,
        },
    ),
    Target("engine", "cpu", {"model": "small", "dtype": "bfloat16"}, {"(a) compiled / one call each": 5.0}),
    Target(
        "engine",
        "cuda",
        {"model": "sd15", "size": "480x272", "dtype": "bfloat16"},
        {
            "(a) compiled / one call each": 8.0,
            "(b) compiled / batched": 1.5,
            "(b') compiled / batched, compiled": 1.1,
            "(c) compiled / bare loop": 0.95,
        },
    ),
    Target(
        "engine",
        "cuda",
        {"model": "sd15", "size": "512x512", "dtype": "bfloat16"},
        {
            "(b) compiled / batched": 1.5,
            "(b') compiled / batched, compiled": 1.1,
            "(c) compiled / bare loop": 0.95,
        },
    ),
    Target(
        "engine",
        "cuda",
        {"model": "sdxl-refiner", "dtype": "float8"},
        {"UNet / matmul, bfloat16": 0.45, "float8 / bfloat16": 1.3},
    ),
    Target(
        "engine",
        "cpu",
        {"model": "demo", "backend": "onnx"},
        {"onnx / torch": 1.0, "aoti / torch": 1.0, "onnx / torch-compile": 1.0, "aoti / torch-compile": 1.0},
    ),
    Target(
        "engine",
        "cpu",
        {"model": "demo", "backend": "aoti"},
        {"first image: aoti / compile, cold": 1.0, "first image: aoti / compile, warm": 1.0},
    ),
    Target(
        "engine",
        "cuda",
        {"model": "sd15", "backend": "aoti"},
        {"first image: aoti / compile, cold": 1.0, "first image: aoti / compile, warm": 1.0},
    ),
    Target("engine", "cuda", {"model": "sd15", "backend": "onnx"}, {"onnx / torch": 1.0, "aoti / torch": 1.0}),
    Target("engine", "cuda", {"model": "sd15", "backend": "tensorrt"}, {"tensorrt / torch-compile": 1.0}),
    Target(
        "accepted",
        "cuda",
        {"model": "sd15", "size": "480x272", "dtype": "bfloat16"},
        {"few-step, rejecting / (a)": 10.0},
    ),
    Target("accepted", "cpu", {"model": "small", "dtype": "bfloat16"}, {"few-step, rejecting / (a)": None}),
    Target("rejection", "cpu", {}, {"limit 0.02 / none": 1 / 0.85, "limit 0.1 / none": 1 / 0.75}),
    Target("ablation", "cpu", {}, {"slots / sorted": 1.0, "slots / sorted, rejecting": 1.0}),
    Target("start", "cpu", {"model": "small"}, {"warm / cold": 1.0}),
    Target("ray", "cpu", {"part": "workers"}, {"leased / independent": 0.95, "leased / 95 %": 1.0}),
    Target("ray", "cpu", {"part": "goodput"}, {"goodput / 95 %": 1.0}),
    Target("ray", "cpu", {"part": "planning"}, {"planning / 10^7 in 60 s": 1.0}),
    Target("plan", "cpu", {}, {"10 % / error of worker-hours": 1.0}),
    Target("order", "cpu", {}, {"one_epoch: discl / numpy": 1.0}),
    Target(
        "data",
        "cpu",
        {"part": "order"},
        {
            "ids: discl / numpy": 1.0,
            "ids: discl / 20 M a second": 1.0,
            "shuffled rows: discl / 20 M a second": 1.0,
            "weighted: discl / torch": 1.0,
            "weighted: discl / 20 M a second": 1.0,
        },
    ),
    Target(
        "data",
        "cpu",
        {"part": "epoch start"},
        {
            "1 s / discl": 1.0,
            "1 s / discl, weighted": 1.0,
            "100 MB / discl": 1.0,
            "100 MB / discl, weighted": 1.0,
        },
    ),
    Target("data", "cpu", {"part": "reader"}, {"2 threads / C pread": 0.9, "2 threads / C open": 1.4}),
    Target(
        "data",
        "cpu",
        {"part": "loader"},
        {"discl / torch, PIL": 2.0, "discl / torch, decode_jpeg": 1.2, "discl / DALI": 0.9},
    ),
    Target("store", "cpu", {}, {"store / dd conv=fsync": 0.8}),
    Target("store_encode", "cpu", {}, {"all / one": 1.6}),
    *(
        Target(
            "score",
            "cpu",
            {"part": "images", "dtype": dtype},
            {"discl / released": asked, "discl / bare tower": 0.9},
        )
        for dtype, asked in (("float32", 3.5), ("bfloat16", 12.0))
    ),
    *(
        Target(
            "score",
            "cpu",
            {"part": "filter", "rows": rows, "rule": rule},
            {"2 GB / discl": 1.0} | ({"30 s / discl": 1.0} if rows == "10000000" else {}),
        )
        for rows in ("10000000", "100000000")
        for rule in ("threshold", "quantile", "quota")
    ),
    Target("score", "cuda", {"part": "kernels"}, {"clip input / copy": 0.7, "score rows / copy": 0.8}),
    Target("score", "cuda", {"part": "images", "dtype": "float16"}, {"discl / 20,000 a second": 1.0}),
    Target("score", "cuda", {"part": "JPEG"}, {"discl score / DALI decode": 0.8}),
    Target("train", "cpu", {"model": "demo"}, {"with loader / steps alone": 0.98}),
    Target("train", "cuda", {"model": "resnet50"}, {"loader / resident": 0.97}),
    Target("train", "cuda", {"model": "vit_b_16"}, {"loader / resident": 0.97}),
]

# benchmark, ratio -> when the code that it measures was replaced: an older row is no measurement of this version.
REPLACED = {
    ("engine", "float8 / bfloat16"): "2026-11-28T05:30",  # the GEGLU made and quantised in a kernel, joined projections
    ("score", "clip input / copy"): "2026-11-28T15:30",  # pixels go from memory to the tensor cores in the lanes' order
    ("score", "score rows / copy"): "2026-11-28T19:50",  # programs of one warp, fewer launches
    ("score", "discl / 20,000 a second"): "2026-11-28T15:30",  # with that kernel
    ("score", "discl score / DALI decode"): "2026-11-28T01:14",  # decoded images of one size come at once
    ("train", "loader / resident"): "2026-11-28T18:30",  # what the CPU decodes gets its windows there as well
}
