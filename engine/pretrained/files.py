"""The name of a model -> the files that make it: a diffusers folder, a hub id, or one checkpoint and a folder.

Weights are safetensors only: a pickle can run code, so it is refused by name.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from discl.engine.pretrained.configuration import configuration_folder
from discl.errors import ModelError

WEIGHTED = ("unet", "vae", "text_encoder", "text_encoder_2")
PARTS = (*WEIGHTED, "tokenizer", "tokenizer_2", "scheduler")  # others (a safety checker, say) shape no pixel
PICKLES = frozenset({".ckpt", ".bin", ".pt", ".pth", ".pkl"})
SETTINGS = (".json", ".txt", ".model")
# Of a hub repository: the components' files, not the single-file checkpoints beside them.
MODEL_PATTERNS = ("model_index.json", *(f"{part}/*{end}" for part in PARTS for end in (*SETTINGS, ".safetensors")))
VOCABULARIES = (("tokenizer.json",), ("vocab.json", "merges.txt"))  # transformers makes an empty one where both lack
# diffusers' and transformers' file names: diffusion_pytorch_model[.variant][-00001-of-00002].safetensors
WEIGHTS = re.compile(r"(?:diffusion_pytorch_)?model(?:\.(?P<variant>\w+))?(?:-\d{5}-of-\d{5})?\.safetensors")
PREFERRED_VARIANT = "fp16"


@dataclass(frozen=True)
class ModelFiles:
    """A model on disk.

    folder: in diffusers' format; of a single-file checkpoint, the one that holds its configuration. index: the folder's
    model_index.json. checkpoint: the single file, if it is one.
    """

    folder: Path
    index: dict
    checkpoint: Path | None = None

    @property
    def name(self) -> Path:
        return self.checkpoint or self.folder

    @property
    def pipeline_class(self) -> str:
        return str(self.index.get("_class_name"))

    @property
    def parts(self) -> dict[str, str]:
        """The components that are loaded: {"unet": "UNet2DConditionModel", ...}."""
        return {
            name: value[1]
            for name, value in self.index.items()
            if name in PARTS and isinstance(value, list) and len(value) == 2 and all(value)
        }

    @property
    def scheduler_class(self) -> str:
        return self.parts.get("scheduler", "none")

    def variant(self, part: str) -> str | None:
        """Which spelling of the weights a component has: None for the plain one, which comes first, else "fp16"."""
        variants = {match["variant"] for match in _weights(self.folder / part)}
        if None in variants:
            return None
        if variants:
            return PREFERRED_VARIANT if PREFERRED_VARIANT in variants else min(variants)
        pickles = [file.name for file in (self.folder / part).iterdir() if file.suffix in PICKLES]
        raise ModelError(
            f"model {self.folder} has {part}/{pickles[0]}, a pickle, which is never loaded: convert it to safetensors"
            if pickles
            else f"model {self.folder} cannot be loaded: {part}/ has no .safetensors weights"
        )

    def shaping_pixels(self) -> list[Path]:
        """Every file that an image depends on, in a fixed order."""
        files = [self.folder / "model_index.json"]
        for part in self.parts:
            files += [file for file in (self.folder / part).rglob("*") if file.suffix in SETTINGS]
            if part in WEIGHTED and not self.checkpoint:
                variant = self.variant(part)
                weights = _weights(self.folder / part)
                files += [self.folder / part / match.string for match in weights if match["variant"] == variant]
        return sorted(files) + ([self.checkpoint] if self.checkpoint else [])


def find_model(path: str | Path) -> ModelFiles:
    """The files of a diffusers folder, of `hub:organisation/name[@revision]`, or of a single .safetensors checkpoint.

    Reads no weights. Raises ModelError for what is not there, is not a model, or would need pickle.
    """
    if str(path).startswith("hub:"):
        folder = hub_folder(str(path))
        return ModelFiles(folder, read_index(folder))
    path = Path(path)
    if path.suffix in PICKLES:
        raise ModelError(f"model {path} is a pickle, which is never loaded: convert it to safetensors")
    if path.suffix == ".safetensors":
        folder = configuration_folder(path)
        return ModelFiles(folder, read_index(folder), checkpoint=path)
    return ModelFiles(path, read_index(path))


def hub_folder(path: str, wanted: Sequence[str] = MODEL_PATTERNS) -> Path:
    """The snapshot of `hub:organisation/name[@revision]`, its `wanted` files fetched where they are not cached yet."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    name, _, revision = path.removeprefix("hub:").partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=list(wanted)))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise ModelError(
            f"model {path} cannot be fetched: {first_line(error)}; check name and network, or give a folder"
        ) from error


def read_index(folder: Path) -> dict:
    """The folder's model_index.json, with every component folder that it names present; else ModelError."""
    file = folder / "model_index.json"
    if not folder.is_dir():
        raise ModelError(
            f"model path {folder} is not a folder: give a diffusers folder (model_index.json, unet/, vae/, ...) "
            "or a .safetensors checkpoint"
        )
    if not file.is_file():
        raise ModelError(
            f"model folder {folder} has no model_index.json: give a folder saved by diffusers' save_pretrained"
        )
    try:
        index = json.loads(file.read_text())
    except ValueError as error:
        raise ModelError(f"{file} is not valid JSON: {first_line(error)}") from error
    if not isinstance(index, dict):
        raise ModelError(f"{file} is not a JSON object: it should name a pipeline class and its parts")
    parts = ModelFiles(folder, index).parts
    missing = [name for name in parts if not (folder / name).is_dir()]
    if missing:
        raise ModelError(f"model folder {folder} lacks {', '.join(missing)}, which its model_index.json names")
    for name in ("tokenizer", "tokenizer_2"):
        if name in parts and not any(all((folder / name / file).is_file() for file in form) for form in VOCABULARIES):
            raise ModelError(f"model folder {folder} lacks the words of its {name}: vocab.json and merges.txt")
    return index


def first_line(error: BaseException) -> str:
    """A library's error as one line of our own."""
    return " ".join((str(error).strip() or type(error).__name__).splitlines()[0].split())


def _weights(folder: Path) -> list[re.Match]:
    return [match for file in folder.iterdir() if (match := WEIGHTS.fullmatch(file.name))]
