"""Python code to encode and to pack, found on the machine: the standard library, then installed packages."""

import sysconfig
from collections.abc import Iterator
from pathlib import Path

from trine.records import Document
from trine.runtime.files import write_jsonl
from trine.tokenizer.bpe import SPECIAL_TOKENS, train_tokenizer

ENOUGH_BYTES = 30_000_000
TRAINING_BYTES, VOCABULARY = 12_000_000, 32768


def standard_library() -> Iterator[Document]:
    """Every module of the standard library, without its tests."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        if not {"site-packages", "dist-packages", "test", "tests"} & set(path.relative_to(root).parts):
            yield from _document(path, path.relative_to(root).as_posix())


def python_code(min_bytes: int) -> list[str]:
    """Texts of at least `min_bytes` where there are so many: the standard library and installed packages, in order.

    A text that spells a special token is left out: `tokenizers` would make it that token.
    """
    texts: list[str] = []
    size = 0
    packages = Path(sysconfig.get_paths()["purelib"])
    installed = (document for path in sorted(packages.rglob("*.py")) for document in _document(path, path.name))
    for documents in (standard_library(), installed):
        for document in documents:
            if size >= min_bytes:
                return texts
            if not any(name in document.text for name in SPECIAL_TOKENS):
                texts.append(document.text)
                size += len(document.text.encode())
    return texts


def _document(path: Path, name: str) -> Iterator[Document]:
    try:
        text = path.read_text("utf-8")
    except (UnicodeDecodeError, OSError):
        return
    if text.strip():
        yield Document(text, name, "python", group=name)


def write_texts(folder: Path) -> None:
    """`texts.jsonl`, and a tokenizer trained on the first part of it, in `folder`."""
    write_jsonl(folder / "texts.jsonl", [{"text": text} for text in python_code(ENOUGH_BYTES)])
    write_tokenizer(folder, VOCABULARY)


def write_tokenizer(folder: Path, vocab_size: int) -> None:
    """A tokenizer of about `TRAINING_BYTES` of Python code."""
    train_tokenizer(python_code(TRAINING_BYTES), vocab_size).save(folder)
