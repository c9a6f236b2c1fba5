"""5.9: the commands of the READMEs and pages run as they are written, from a fresh clone.

Every command names a program inside the environment, every option of `trine` exists and takes what it is given, no two
examples of a page write into the same folder, and what a command reads is in the clone or was written before.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from trine.cli.arguments import parse
from trine.config.registry import COMMANDS, STAGES, command_config_class

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "README.zh-CN.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))
NOTEBOOKS = {"docs/LOG.md", "docs/architecture.md", "docs/glossary.md"}  # tell of commands, do not teach them
READ_PATHS = ("corpus.folders", "tokenizer", "shards", "examples", "held_out", "config")
# What a reader has on the path of a fresh clone; everything else is in .venv/bin.
OF_THE_SYSTEM = {
    "cd",
    "git",
    "make",
    "python3",
    "mkdir",
    "cat",
    "printf",
    "cp",
    "export",
    "source",
    "sudo",
    "xcode-select",
}


def commands(page: str) -> Iterator[list[str]]:
    """The words of every command in the page's blocks, each part of a pipe by itself."""
    for block in re.findall(r"```(?:bash|sh)\n(.*?)```", (ROOT / page).read_text("utf-8"), re.DOTALL):
        text = re.sub(r"<<'END'.*?\nEND\n", "\n", block.replace("\\\n", " "), flags=re.DOTALL)
        for line in text.splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
            lexer.whitespace_split = True
            words = list(lexer)
            start = 0
            for end in [*(i for i, word in enumerate(words) if word in ("|", "&&", ";")), len(words)]:
                if words[start:end]:
                    yield words[start:end]
                start = end + 1


def trine_commands(page: str) -> Iterator[tuple[str, list[str]]]:
    """Name and arguments of every call of `trine`, without redirections."""
    for written in commands(page):
        words = [word for word in written if not re.fullmatch(r"[A-Z_]+=.*", word)]
        if words[:1] == [".venv/bin/torchrun"]:
            words = [".venv/bin/trine", *words[words.index("trine") + 1 :]]
        if words[:1] == [".venv/bin/trine"]:
            stop = next((i for i, word in enumerate(words) if word in ("<", ">", ">>")), len(words))
            two = " ".join(words[1:3])
            name = two if two in COMMANDS else words[1]
            yield name, words[1 + len(name.split()) : stop]


@pytest.mark.parametrize("page", [page for page in PAGES if page not in NOTEBOOKS])
def test_every_command_names_a_program_that_a_fresh_clone_has(page: str) -> None:
    for words in commands(page):
        program = next(word for word in words if not re.fullmatch(r"[A-Z_]+=.*", word))
        assert program.startswith(".venv/bin/") or program in OF_THE_SYSTEM, " ".join(words)
    prose = re.sub(r"```.*?```", "", (ROOT / page).read_text("utf-8"), flags=re.DOTALL)
    assert not re.search(r"pip install\s+'trine\[", prose)


@pytest.mark.parametrize("page", [page for page in PAGES if page not in NOTEBOOKS])
def test_every_option_exists_and_takes_what_it_is_given(page: str) -> None:
    found = 0
    for name, arguments in trine_commands(page):
        assert name in STAGES or name in COMMANDS, name
        try:
            parse(name, command_config_class(name), arguments)
        except SystemExit as help_printed:
            assert help_printed.code == 0
        found += 1
    assert found > 5 or not page.startswith("README")


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md", "docs/terminal.md"])
def test_every_example_writes_a_place_of_its_own_and_reads_what_is_there(page: str) -> None:
    written, made = [], {"runs/quickstart", "my.yaml", "my/text", "my/对话.jsonl", "examples.jsonl"}
    for name, arguments in trine_commands(page):
        config, dry_run = parse(name, command_config_class(name), arguments)
        for path in READ_PATHS:
            value = config
            for part in path.split("."):
                value = getattr(value, part, None)
            for each in value if isinstance(value, tuple) else [value]:
                known = each is None or (ROOT / str(each)).exists() or any(str(each).startswith(m) for m in made)
                assert known, f"{name}: {each} is not there"
        out = getattr(config, "out", None)
        if out is not None and not dry_run and name != "report":
            written.append(str(out))
            made.add(str(out))
    assert len(written) == len(set(written)), sorted(written)


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md"])
def test_the_readmes_say_what_holds_on_each_system(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    assert all(word in text for word in ("macOS", "Windows", "WSL", "fcntl", "troubleshooting"))


def test_the_chinese_pages_name_mirrors_and_a_chinese_corpus() -> None:
    text = (ROOT / "README.zh-CN.md").read_text("utf-8")
    assert all(word in text for word in ("镜像", "HF_ENDPOINT", "ModelScope", "对话.jsonl", "中文"))
