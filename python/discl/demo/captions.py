"""What is said about a rendered digit, and the CLIP tokenizer that reads it: text in, int64 [n, 16] tokens out."""

import json
from pathlib import Path

import torch
from transformers import CLIPTokenizer

from discl.atomic import write_atomic
from discl.demo.rendering import CLASS_NAMES

CAPTIONS = (
    "a photo of the digit {}",
    "a photo of a {}",
    "a photo of the number {}",
    "a handwritten {}",
    "the digit {}",
    "a drawing of the digit {}",
    "{}",
)
TEXT_TOKENS = 16
START, END = "<|startoftext|>", "<|endoftext|>"


def caption_words() -> list[str]:
    """List every word of every caption, once."""
    words = " ".join(CAPTIONS).replace("{}", "").split() + list(CLASS_NAMES)
    return sorted(set(words))


def make_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write a CLIP tokenizer: all bytes, so that any text can be said, and one token per caption word."""
    symbols = byte_symbols()
    merges = {pair: None for word in caption_words() for pair in word_merges(word)}
    names = [*symbols, *(f"{symbol}</w>" for symbol in symbols), *map("".join, merges), START, END]
    tokens = {name: i for i, name in enumerate(dict.fromkeys(names))}
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    settings = special | {"model_max_length": TEXT_TOKENS, "tokenizer_class": "CLIPTokenizer"}
    files = {
        "vocab.json": json.dumps(tokens, ensure_ascii=False),
        "merges.txt": "\n".join(["#version: 0.2", *map(" ".join, merges)]) + "\n",
        "special_tokens_map.json": json.dumps(special, indent=2),
        "tokenizer_config.json": json.dumps(settings, indent=2),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        write_atomic(folder / name, text.encode())
    return CLIPTokenizer.from_pretrained(folder)


def word_merges(word: str) -> list[tuple[str, str]]:
    """Build a word letter by letter from the left: "the" -> ("t", "h"), ("th", "e</w>")."""
    letters = [*word[:-1], f"{word[-1]}</w>"]
    return [("".join(letters[:i]), letters[i]) for i in range(1, len(letters))]


def byte_symbols() -> list[str]:
    """Name the 256 bytes as byte-level BPE does: printable ones by themselves, the others from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(256 - len(printable))]


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Tokens int64 [n, 16], padded as the pipeline pads."""
    shape = {"padding": "max_length", "max_length": TEXT_TOKENS, "truncation": True}
    return tokenizer(texts, return_tensors="pt", **shape).input_ids
