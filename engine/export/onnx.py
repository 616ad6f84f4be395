"""A part -> one ONNX file, with its weights beside it where they are large. Any batch, static sizes."""

import warnings
from pathlib import Path

import onnx
import torch

from discl.engine.parts import Part, Row, any_batch
from discl.errors import ModelError

OPSET = 18  # every operator that it gives our graphs is one that TensorRT 10 and 11 take
LARGEST = 2_000_000_000  # bytes of weights inside the file; protobuf itself ends at 2 GiB


def write_onnx(part: Part, inputs: Row, stem: Path) -> list[Path]:
    """inputs: an example batch of two rows. Returns the files, the graph first."""
    check_exporter()
    file, size = stem.with_suffix(".onnx"), sum(weight.nbytes for weight in part.module.parameters())
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of torch about its own ways
        # Traced here: given a module, torch.onnx goes on to slow ways of tracing when this one fails.
        program = torch.export.export(part.module, inputs, dynamic_shapes=any_batch(part), strict=False)
        torch.onnx.export(
            program,
            (),
            str(file),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(part.inputs),
            output_names=list(part.outputs),
            external_data=size > LARGEST,
            verbose=False,
        )
    onnx.checker.check_model(str(file))
    data = file.with_name(f"{file.name}.data")
    return [file, data] if data.is_file() else [file]


def check_exporter() -> None:
    """Raises ModelError where the packages that torch exports with are missing."""
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ModelError("export to ONNX needs the package onnxscript: pip install 'discl[onnx]'") from error
