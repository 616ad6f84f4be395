"""A checkpoint in one file -> the diffusers folder without weights that says what its weights mean."""

from pathlib import Path

from discl.errors import ModelError


def configuration_folder(checkpoint: Path) -> Path:
    """The folder of the checkpoint's name without its suffix beside it, else its family's own in the hub cache.

    Needs no network. Raises ModelError when there is no such file, or neither folder.
    """
    if not checkpoint.is_file():
        raise ModelError(f"model {checkpoint} is not a file: give a .safetensors checkpoint or a diffusers folder")
    beside = checkpoint.with_suffix("")
    return beside if beside.is_dir() else _cached(checkpoint, beside)


def _cached(checkpoint: Path, beside: Path) -> Path:
    from diffusers.loaders.single_file_utils import fetch_diffusers_config
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        hub_id = fetch_diffusers_config(load_file(checkpoint))["pretrained_model_name_or_path"]
        return Path(snapshot_download(hub_id, local_files_only=True))
    except LocalEntryNotFoundError as error:
        raise ModelError(
            f"model {checkpoint} is one file, without configuration: put the folder {beside} beside it with what "
            f"{hub_id} has besides weights (model_index.json, tokenizer/, scheduler/, config.json), or get that id "
            "into the hub cache"
        ) from error
    except (OSError, SafetensorError) as error:
        raise ModelError(f"model {checkpoint} is not a safetensors file that can be read: {error}") from error
