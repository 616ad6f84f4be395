"""The identity of a sample: its recipe (what shapes pixels besides source, prompt, level, seed) and key."""

import json
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from discl.config import RunConfig, require_model

if TYPE_CHECKING:
    from discl.engine.pretrained.files import ModelFiles

KEY_BYTES = 16


def digest(value: Any) -> str:
    """32 hex characters over canonical JSON: sorted keys, no blanks, UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return blake2b(text.encode(), digest_size=KEY_BYTES).hexdigest()


def model_files(config: RunConfig) -> "ModelFiles":
    """The files of the config's model; no weights are read.

    Raises ConfigError where the config names no model, ModelError where there is none at its path.
    """
    require_model(config)
    from discl.engine.pretrained.files import find_model

    revision = f"@{config.model.revision}" if config.model.revision else ""
    return find_model(config.model.path + revision)


def make_recipe(config: RunConfig, files: "ModelFiles | None" = None) -> dict[str, Any]:
    """Design 2's recipe as a JSON object. Reads every weight file of the model once, for its digest.

    files: `model_files` of the config, where they are known. The solver stands under its own name: `auto` and what it
    means for this model are one recipe. LoRA and embeddings count by their bytes, weights, words and order.
    Raises what `model_files` raises.
    """
    files = files or model_files(config)
    from discl.engine.pretrained.digest import model_digest
    from discl.engine.pretrained.embeddings import embedding_digest
    from discl.engine.pretrained.lora import lora_digest
    from discl.engine.solvers import choose_solver

    model, solver = config.model, choose_solver(config.spectrum.solver, files.scheduler_class)
    recipe = recipe_of(config, model_digest(files)) | {"solver": solver}
    if model.loras:
        recipe["loras"] = [lora_digest(model.loras)]
    if model.embeddings:
        recipe["embeddings"] = [embedding_digest(model.embeddings)]
    return recipe


def recipe_of(config: RunConfig, model: str) -> dict[str, Any]:
    """The recipe for a known model digest (32 hex characters); LoRA and embeddings by name.

    What is not used stands in it as before it existed, or not at all: keys of old stores stay valid.
    """
    spectrum = config.spectrum
    recipe: dict[str, Any] = {
        "model": model,
        "loras": list(config.model.loras),
        "dtype": config.model.dtype,
        "backend": config.model.backend,
        "solver": spectrum.solver,
        "mode": spectrum.mode,
        "steps": spectrum.steps,
        "text_guidance": spectrum.text_guidance,
        "size": list(spectrum.size) if spectrum.size else None,
        "size_policy": spectrum.size_policy if spectrum.size else None,
        "upscale": spectrum.upscale,
        "rejection": _rejection(config),
    }
    if config.model.embeddings:
        recipe["embeddings"] = list(config.model.embeddings)
    if spectrum.guidance_interval:
        recipe["guidance_interval"] = list(spectrum.guidance_interval)
    return recipe


def resolved(config: RunConfig, files: "ModelFiles", recipe: dict[str, Any]) -> RunConfig:
    """The config with what it means for this model: the files that were found and the solver that was chosen."""
    model = config.model.model_copy(update={"path": str(files.name), "revision": ""})
    spectrum = config.spectrum.model_copy(update={"solver": recipe["solver"]})
    return config.model_copy(update={"model": model, "spectrum": spectrum})


def _rejection(config: RunConfig) -> dict[str, float] | None:
    """The threshold is not in it: what was made stays valid for a higher one, and a lower one is refused."""
    engine = config.engine
    if not engine.early_rejection:
        return None
    return {"false_reject_limit": engine.false_reject_limit, "control_share": engine.control_share}


def sample_key(
    source: str, recipe: str, prompt: str, negative_prompt: str, level: int, seed: int, retry: int = 0
) -> str:
    """32 hex characters; `source` and `recipe` are digests. Equal wishes have equal keys on every machine."""
    return digest([source, recipe, prompt, negative_prompt, level, seed, retry])


def source_digests(data: bytes, seeds: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """(digest of the source's bytes, one 32-bit noise seed per seed) in two passes over the bytes."""
    noise = blake2b(data, digest_size=4)
    return blake2b(data, digest_size=KEY_BYTES).hexdigest(), tuple(_noise_seed(noise, seed) for seed in seeds)


def retry_noise_seed(source: str, seed: int, retry: int) -> int:
    """32 bits for attempt `retry` >= 1 of (source digest, seed); attempt 0 has the source's own."""
    salted = blake2b(bytes.fromhex(source), digest_size=4)
    salted.update(seed.to_bytes(8, "little") + retry.to_bytes(8, "little"))
    return int.from_bytes(salted.digest(), "big")


def _noise_seed(source: Any, seed: int) -> int:
    salted = source.copy()
    salted.update(seed.to_bytes(8, "little"))
    return int.from_bytes(salted.digest(), "big")
