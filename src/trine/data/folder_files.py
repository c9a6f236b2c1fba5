"""Which files of a folder are corpus, and what is passed over, counted by reason.

Read are files whose suffix, in any case, says that they hold text or records. Passed over, unless a pattern of `files`
names them: hidden files and folders (among them macOS's `._a.txt`), environments and caches of tools, and links to
folders, which may lead in a circle or twice to the same files. Never corpus, so that a run may write below its own
corpus: what runs of Trine write. A folder that cannot be listed is an error.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from trine.config.corpus import SourceConfig
from trine.config.registry import STAGES
from trine.config.stage import Stage
from trine.data.account import Files
from trine.data.record_files import SUFFIXES as RECORDS
from trine.data.record_files import suffix_of
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json

TEXTS = (".txt", ".md", ".py")
# Read wherever they are found. A .json may be anything; one that is asked for holds records.
READ_UNASKED = (*TEXTS, *(suffix for suffix in RECORDS if suffix != ".json"))
TOOLS = {
    "__pycache__", "__MACOSX", "node_modules", "site-packages", "dist-packages", "venv", "bower_components",
}  # fmt: skip
METADATA = (".egg-info", ".dist-info")
RUN = "run.json"
SHARDS = "shards.json"
# What any run writes besides its stage's outputs, as far as it could be text or a folder.
WRITTEN_BY_RUNS = {
    "checkpoints", "metrics.jsonl", "samples.jsonl", "done.json", "seconds.json", "bad_step.json", "trackers",
    "config.yaml", RUN,
}  # fmt: skip


@dataclass
class Walk:
    """The files found, by name relative to the folder, and what is passed over."""

    found: list[tuple[str, Path]] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    seen: int = 0

    @property
    def files(self) -> Files:
        return Files(self.seen, len(self.found), dict(self.passed_over))


def walk(folder: Path, source: SourceConfig) -> Walk:
    """The files below `folder` that `source` asks for, by name; or the one file that `folder` is."""
    result = Walk()
    if folder.is_file():
        result.seen = 1
        result.found.append((folder.name, folder))
        return result
    if not folder.is_dir():
        raise TrineError(f"corpus {folder} is neither a file nor a folder; write what it gives into a file first")
    _walk(folder, "", source, result)
    result.found.sort(key=lambda found: Path(found[0]))
    return result


def _walk(folder: Path, prefix: str, source: SourceConfig, result: Walk) -> None:
    entries = _listed(folder)
    names = {entry.name for entry in entries}
    ours = _written_by_trine(folder, names, is_root=not prefix)
    if prefix and ours >= {name for name in names if not name.startswith(".")} and ours:
        result.seen += 1
        result.passed_over["run folder" if RUN in names else "folder of a model or of shards"] += 1
        return
    for entry in entries:
        name = f"{prefix}{entry.name}"
        is_folder, reason = _reason(entry, name, source)
        if entry.name in ours:
            reason = "file of a run"
        if is_folder and reason is None:
            _walk(Path(entry.path), f"{name}/", source, result)
            continue
        result.seen += 1
        if reason is None:
            result.found.append((name, Path(entry.path)))
        else:
            result.passed_over[reason] += 1


def _listed(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise TrineError(
            f"corpus folder {folder} cannot be listed: {error.strerror}; give yourself the permission, or leave it out "
            f"by excluded: ['**/{folder.name}/**']"
        ) from error


def _written_by_trine(folder: Path, names: set[str], *, is_root: bool) -> set[str]:
    """Which of the `names` in `folder` a run, shards or an exported model are."""
    if SHARDS in names:
        return names
    if RUN in names:
        stage = _stage_in(folder / RUN)
        return names if stage is None else names & {*WRITTEN_BY_RUNS, *stage.outputs}
    is_model = "config.json" in names and any(name.endswith(".safetensors") for name in names)
    return names if is_model and not is_root else set()


def _stage_in(record: Path) -> Stage | None:
    try:
        described = read_json(record)
    except TrineError:
        return None
    return STAGES.get(str(described.get("stage"))) if isinstance(described, dict) else None


def _reason(entry: os.DirEntry[str], name: str, source: SourceConfig) -> tuple[bool, str | None]:
    """Whether it is a folder, and why it is passed over, if it is."""
    try:
        is_folder, is_file, is_link = entry.is_dir(), entry.is_file(), entry.is_symlink()
    except OSError:
        return False, "broken link"
    if is_folder:
        return True, "linked folder" if is_link else _folder_reason(Path(entry.path), name, source)
    if not is_file:
        return False, "broken link" if is_link else "pipe, socket or device"
    return False, _file_reason(name, source)


def _folder_reason(folder: Path, name: str, source: SourceConfig) -> str | None:
    whole = [pattern for pattern in source.excluded if pattern.endswith("**")]
    if _matches(f"{name}/", whole):
        return "excluded folder"
    if _is_named(folder.name, source.files):
        return None
    if folder.name.startswith(".") or folder.name in TOOLS or folder.name.endswith(METADATA):
        return f"{folder.name} folder"
    return "Python environment" if (folder / "pyvenv.cfg").exists() else None


def _file_reason(name: str, source: SourceConfig) -> str | None:
    own = name.rpartition("/")[2]
    if _matches(name, source.excluded):
        return "excluded file"
    if own.startswith(".") and not _is_named(own, source.files):
        return "hidden file"
    if source.files:
        return None if _matches(name, source.files) else "other file"
    suffix = suffix_of(name)
    return None if suffix in READ_UNASKED else suffix or "file without suffix"


def _is_named(own: str, patterns: Iterable[str]) -> bool:
    """Whether a pattern has a part that is this very name, or begins with a dot as it does."""
    parts = (part for pattern in patterns for part in pattern.split("/"))
    return any(part == own or (part.startswith(".") and bool(_pattern(part).fullmatch(own))) for part in parts)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    """`*` stays within a folder, `**` does not; a pattern without a slash is one for the file's own name."""
    return any(_pattern(pattern).fullmatch(name if "/" in pattern else name.rpartition("/")[2]) for pattern in patterns)


@lru_cache(maxsize=256)
def _pattern(glob: str) -> re.Pattern[str]:
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", glob)
    meanings = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(meanings.get(part) or re.escape(part) for part in parts))
