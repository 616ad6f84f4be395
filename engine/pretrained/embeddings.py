"""Textual inversion (Gal et al. 2022): new words of a prompt, each with vectors of its own."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from discl.engine.pretrained.digest import combined, file_digest
from discl.engine.pretrained.files import PICKLES, first_line
from discl.errors import ModelError

# Tensor names that say which text encoder the vectors are for, or nothing; others are the word itself.
ENCODERS = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}
NAMELESS = frozenset({*ENCODERS, "emb_params"})


@dataclass(frozen=True)
class Embedding:
    """One file of vectors and the word that stands for them."""

    file: Path
    word: str

    @classmethod
    def parse(cls, text: str) -> "Embedding":
        """ "file.safetensors" or "file.safetensors:word"; ModelError for anything else.

        Without a word: the one that the file names (diffusers' form), else the file's own name.
        """
        name, suffix, rest = str(text).partition(".safetensors")
        file, word = Path(name + suffix), rest.removeprefix(":")
        if file.suffix in PICKLES:
            raise ModelError(f"embedding {file} is a pickle, which is never loaded: convert it to safetensors")
        if not file.is_file() or not suffix or (rest and (not word or word == rest)):
            raise ModelError(f"embedding {text} is not a .safetensors file: give its path, or path:word")
        return cls(file, word or _own_word(file))

    def vectors(self) -> dict[str, Any]:
        from safetensors.torch import load_file

        return load_file(self.file)


def embedding_digest(embeddings: Sequence[str]) -> str:
    """32 hex characters over bytes and words of the files, in order; of nothing, the empty string."""
    found = [Embedding.parse(text) for text in embeddings]
    return combined((file_digest(one.file), one.word) for one in found) if found else ""


def add_embeddings(pipe: Any, embeddings: Sequence[str]) -> None:
    """Teach diffusers' pipeline the words of every file; ModelError for vectors that no text encoder can take."""
    found = [Embedding.parse(text) for text in embeddings]
    _check_words(found)
    for embedding in found:
        for name, vectors in embedding.vectors().items():
            _add(pipe, embedding, vectors, _encoder(pipe, name, vectors.shape[-1]))


def _check_words(embeddings: Sequence[Embedding]) -> None:
    """diffusers spells a word of several vectors out by replacing text, so it must not stand inside another word."""
    for one, other in itertools.permutations(embeddings, 2):
        if one.word in other.word:
            raise ModelError(
                f"embeddings {one.file} and {other.file}: the word {one.word!r} stands inside {other.word!r}; give one "
                "of them another word, as path:word"
            )


def _add(pipe: Any, embedding: Embedding, vectors: Any, encoder: str | None) -> None:
    if encoder is None or vectors.ndim > 2:
        raise ModelError(
            f"embedding {embedding.file} has vectors of shape {list(vectors.shape)}, and no text encoder of this model "
            "has words of that width: it was made for another family"
        )
    if not vectors.isfinite().all():
        raise ModelError(f"embedding {embedding.file} holds NaN or infinity: its training had diverged; make it again")
    tokenizer = getattr(pipe, encoder.replace("text_encoder", "tokenizer"))
    try:
        pipe.load_textual_inversion(
            {embedding.word: vectors}, tokenizer=tokenizer, text_encoder=getattr(pipe, encoder), local_files_only=True
        )
    except (ValueError, RuntimeError) as error:
        raise ModelError(f"embedding {embedding.file} cannot be added: {first_line(error)}") from error


def _encoder(pipe: Any, name: str, width: int) -> str | None:
    """The text encoder that the vectors are for: the one they name, else the first whose words have their width."""
    candidates = [ENCODERS[name]] if name in ENCODERS else list(ENCODERS.values())
    for candidate in candidates:
        encoder = getattr(pipe, candidate, None)
        if encoder is not None and encoder.get_input_embeddings().embedding_dim == width:
            return candidate
    return None


def _own_word(file: Path) -> str:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "numpy") as tensors:
            names = list(tensors.keys())
    except (OSError, SafetensorError) as error:
        raise ModelError(f"embedding {file} is not a safetensors file that can be read: {error}") from error
    if len(names) == 1 and names[0] not in NAMELESS:
        return names[0]
    if not names or not set(names) <= NAMELESS:
        raise ModelError(
            f"embedding {file} holds {len(names)} tensors ({', '.join(names[:3])}): one named by its word was expected"
        )
    return file.stem
