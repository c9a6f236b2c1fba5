"""Texts in folders named by their label, as aclImdb has them (Maas et al. 2011): `pos/123_7.txt`, `neg/5_1.txt`.

A folder with `train` in it is read there. Where `urls_pos.txt` lies beside `pos`, line n (from 0) is the address of the
page that the texts `n_....txt` are about, and becomes the field `movie`: reviews of one film can then be kept together.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trine.runtime.errors import TrineError

WITHOUT_LABEL = ("unsup", "unlabeled", "unlabelled")


def is_class_folder(path: Path) -> bool:
    """Whether `path` is a folder of folders of text files."""
    return path.is_dir() and bool(_classes(path))


def class_folder_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file, {text, label, movie}) of every text, in the order of the labels' and the files' names."""
    for folder in _classes(path):
        pages = _pages(folder.with_name(f"urls_{folder.name}.txt"))
        for file in sorted(folder.glob("*.txt")):
            try:
                record: dict[str, Any] = {"text": file.read_text("utf-8"), "label": folder.name, "id": file.stem}
            except UnicodeDecodeError:
                raise TrineError(f"{file} is not UTF-8; convert it") from None
            number = file.stem.partition("_")[0]
            if number.isdecimal() and int(number) < len(pages):
                record["movie"] = pages[int(number)]
            yield str(file), record


def _classes(path: Path) -> list[Path]:
    root = path / "train" if (path / "train").is_dir() else path
    folders = sorted(each for each in root.iterdir() if each.is_dir() and each.name not in WITHOUT_LABEL)
    return [each for each in folders if next(each.glob("*.txt"), None) is not None]


def _pages(urls: Path) -> list[str]:
    return urls.read_text("utf-8").splitlines() if urls.is_file() else []
