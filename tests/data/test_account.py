"""Every file and record that was seen is accounted for: read, left out (why), broken (where), passed over (why)."""

import json
import os
import random
from pathlib import Path

import pytest

from tests.small_corpus import write_corpus
from trine.config.corpus import CorpusConfig, FilterConfig, SourceConfig
from trine.data.account import Account, Tally
from trine.data.corpus import open_corpus
from trine.data.corpus_reader import Place, read_from
from trine.data.filters import FilterCounts
from trine.data.folder_files import WRITTEN_BY_RUNS, walk
from trine.runtime.errors import TrineError
from trine.training.continuing import EVERY_RUN

NAMES = (
    "a.txt", "README.TXT", "b.md", "c.py", "rows.jsonl", "rows.ndjson", "d.rst", "e.png", "noend", "data.json",
    "._a.txt", ".hidden.md", ".git/x.txt", ".venv/lib/y.py", "venv/z.py", "env/pyvenv.cfg", "env/lib/q.py",
    "node_modules/m/r.md", "sub/__pycache__/s.py", "sub/t.txt", "x.egg-info/SOURCES.txt", "out/run.json",
    "out/metrics.jsonl", "out/readme.txt", "toks/shards.json", "toks/words.txt", "model/config.json",
    "model/model.safetensors", "model/merges.txt", "f.py.gz",
)  # fmt: skip
READ = {"a.txt", "README.TXT", "b.md", "c.py", "rows.jsonl", "rows.ndjson", "sub/t.txt", "f.py.gz"}


def make(folder: Path, names: tuple[str, ...] = NAMES) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}" if name.endswith("run.json") else '{"text": "words"}\n')
    return folder


def found(folder: Path, **fields: object) -> set[str]:
    return {name for name, _ in walk(folder, SourceConfig(folder=folder, **fields)).found}  # type: ignore[arg-type]


def test_what_is_no_corpus_is_passed_over_with_a_word(tmp_path: Path) -> None:
    """1.8, 4.11: by reason: suffixes, hidden files, environments, caches, runs, links."""
    folder = make(tmp_path / "corpus")
    (folder / "linked").symlink_to(make(tmp_path / "elsewhere", ("n.txt",)))
    (folder / "circle").symlink_to(folder)
    (folder / "gone.txt").symlink_to(tmp_path / "gone")
    (folder / "linked.txt").symlink_to(folder / "a.txt")
    os.mkfifo(folder / "pipe.txt")
    result = walk(folder, SourceConfig(folder=folder))
    assert {name for name, _ in result.found} == READ | {"linked.txt"}
    assert dict(result.passed_over) == {
        ".rst": 1, ".png": 1, ".json": 1, "file without suffix": 1, "hidden file": 2, ".git folder": 1,
        ".venv folder": 1, "venv folder": 1, "Python environment": 1, "node_modules folder": 1, "__pycache__ folder": 1,
        "x.egg-info folder": 1, "run folder": 1, "model or shards folder": 2, "linked folder": 2, "broken link": 1,
        "pipe, socket or device": 1,
    }  # fmt: skip
    assert result.seen == len(result.found) + result.passed_over.total()
    words = result.files.words
    assert words.startswith("passed over: 2 hidden files, 2 linked folders, 2 model or shards folders, 1 .git folder")
    assert words.endswith(", 9 others")


@pytest.mark.parametrize(
    "files, more",
    [
        (("*.json",), {"data.json"}),
        ((".venv/**/*.py",), {".venv/lib/y.py"}),
        (("node_modules/**",), {"node_modules/m/r.md"}),
        ((".*", "*.rst"), {".hidden.md", "._a.txt", "d.rst", ".git/x.txt", ".venv/lib/y.py"}),
        (("venv/*.py", "c.py"), {"venv/z.py", "c.py"}),
        (("**/*.jsonl",), {"rows.jsonl"}),
    ],
)
def test_what_a_pattern_names_is_read(tmp_path: Path, files: tuple[str, ...], more: set[str]) -> None:
    """1.8: environments and hidden files where they are asked for; what runs write never."""
    names = found(make(tmp_path / "corpus"), files=files)
    assert more & names == more - {".git/x.txt", ".venv/lib/y.py"} or more == names
    assert not any(name.startswith(("out/", "toks/")) for name in names)


def test_a_folder_given_itself_is_read_whatever_it_is_called(tmp_path: Path) -> None:
    folder = make(tmp_path / "corpus")
    assert found(folder / ".venv") == {"lib/y.py"}
    assert found(folder / "node_modules") == {"m/r.md"}


def test_a_run_below_its_own_corpus_does_not_change_it(tmp_path: Path) -> None:
    """1.3: neither in a folder of its own nor in the corpus's own folder, before, during and after the run."""
    folder = write_corpus(tmp_path / "corpus", 4)
    (folder / "sub").mkdir()
    (folder / "sub" / "more.txt").write_text("more words of the corpus\n")
    config = CorpusConfig(folders=(folder,))
    before = open_corpus(config).fingerprint
    for out in (folder / "runs" / "x", folder / "sub", folder):
        out.mkdir(parents=True, exist_ok=True)
        (out / "run.json").write_text('{"stage": "functions"}')
        assert open_corpus(config).fingerprint == before
        for name in ("metrics.jsonl", "samples.jsonl", "all.jsonl", "train.jsonl"):
            (out / name).write_text('{"text": "of a run"}\n')
        (out / "checkpoints" / "1").mkdir(parents=True)
        (out / "checkpoints" / "1" / "notes.txt").write_text("of a run")
        (out / ".shards.building").mkdir()
        (out / ".shards.building" / "words.txt").write_text("of a run")
        assert open_corpus(config).fingerprint == before


def test_all_that_runs_write_is_known() -> None:
    """1.3: the list that the corpus passes over is that of the run folder."""
    assert set(EVERY_RUN) <= WRITTEN_BY_RUNS


def test_a_source_without_text_says_what_was_passed_over(tmp_path: Path) -> None:
    """1.8."""
    make(tmp_path / "corpus", ("a.rst", "b.rst", "c.json"))
    with pytest.raises(TrineError, match=r"has no text \(passed over: 2 \.rst, 1 \.json\).*files: \['\*\*/\*\.rst'\]"):
        open_corpus(CorpusConfig(folders=(tmp_path / "corpus",)))


def test_passed_over_files_are_in_the_description(tmp_path: Path) -> None:
    """1.8."""
    make(tmp_path / "corpus", ("a.txt", "b.rst", "c.rst"))
    (tmp_path / "corpus" / "linked").symlink_to(tmp_path)
    description = open_corpus(CorpusConfig(folders=(tmp_path / "corpus",))).description
    assert description.endswith("; passed over: 2 .rst, 1 linked folder")


@pytest.mark.parametrize("case", range(60))
def test_the_sums_are_what_was_seen(tmp_path: Path, case: int) -> None:
    """1.8: any mixture of records, filters and shares: records = kept + left out + broken, in both ways of reading."""
    random_ = random.Random(case)
    (tmp_path / "texts").mkdir()
    kinds = [
        '{"text": "words of %d"}',
        '{"text": " "}',
        "{",
        '{"text": 5}',
        '{"text": "twice"}',
        '{"text": "# autogenerated"}',
    ]
    lines = [random_.choice(kinds).replace("%d", str(number)) for number in range(random_.randrange(3, 40))]
    (tmp_path / "texts" / "rows.jsonl").write_text("\n".join([kinds[0] % 99, *lines]))
    for number in range(random_.randrange(5)):
        text = random_.choice(["", "some text\n", "one\n\ntwo\n\n\n\nthree", "twice"])
        (tmp_path / "texts" / f"{number}.txt").write_text(text)
    filters = FilterConfig(exact_duplicates=random_.random() < 0.5, autogenerated=random_.random() < 0.5)
    sources = (
        {
            "folder": tmp_path / "texts",
            "share": random_.choice([1, 0.5]),
            "separator": random_.choice(["", "blank_line"]),
        },
    )
    config = CorpusConfig(
        sources=sources, filters=filters, max_broken_share=1, held_out_share=random_.choice([0, 0.3])  # type: ignore[arg-type]
    )  # fmt: skip
    corpus, counts, tallies = open_corpus(config), FilterCounts(), dict[str, Tally]()
    try:
        kept = len(list(corpus.documents("train", counts, tallies)))
    except TrineError as error:
        assert "held-out part" in str(error) or "has no text" in str(error) or "reject every" in str(error)
        return
    account = corpus.account(tallies.values(), counts)
    assert account.kept == kept
    assert account.records == account.kept + sum(account.left_out.values()) + account.broken
    assert Account.from_json(json.loads(json.dumps(account.as_json()))) == account
    assert account.words.startswith(f"{account.records} records: {kept} kept")
    read, place = 0, Place()
    for batch in read_from(corpus, Place()):
        read, place = read + len(batch.documents), batch.after
    tally = next(iter(place.tallies.values()))
    assert tally.seen == read + sum(tally.left_out.values()) + tally.broken == account.records


def test_the_first_broken_record_is_an_error_that_says_how_to_go_on(tmp_path: Path) -> None:
    """1.8: by default; with max_broken_share it is left out, counted and listed."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "one"}\n{"txt": 1}\n{"text": "two"}\n')
    with pytest.raises(TrineError, match=rf"{path}:2: no field 'text'; there are txt .*corpus\.max_broken_share"):
        list(open_corpus(CorpusConfig(folders=(path,), held_out_share=0)).documents("train"))
    corpus = open_corpus(CorpusConfig(folders=(path,), held_out_share=0, max_broken_share=0.5))
    tallies: dict[str, Tally] = {}
    counts = FilterCounts()
    assert len(list(corpus.documents("train", counts, tallies))) == 2
    words = corpus.account(tallies.values(), counts).words
    assert words == f"3 records: 2 kept, 1 broken ({path}:2: no field 'text'; there are txt)"


def test_unreadable_files_and_folders_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """3.3: a file or folder that may not be read is an error with its name and what to do, never passed over."""
    make(tmp_path, ("a.txt", "sub/b.txt"))

    def refuse(path: Path, *rest: object, **more: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("trine.data.opening.open", refuse, raising=False)
        with pytest.raises(TrineError, match=rf"cannot read {tmp_path}/a.txt: Permission denied; give yourself"):
            list(open_corpus(CorpusConfig(folders=(tmp_path,))).documents("train"))
    with monkeypatch.context() as patch:
        patch.setattr("trine.runtime.files.open", refuse, raising=False)
        with pytest.raises(TrineError, match=rf"cannot read {tmp_path}/a.txt: Permission denied"):
            open_corpus(CorpusConfig(folders=(tmp_path,))).fingerprint  # noqa: B018
    with monkeypatch.context() as patch:
        patch.setattr("trine.data.folder_files.os.scandir", refuse)
        with pytest.raises(TrineError, match=rf"corpus folder {tmp_path} cannot be listed: Permission denied"):
            open_corpus(CorpusConfig(folders=(tmp_path,)))


def test_an_error_of_the_disk_while_reading_is_named(tmp_path: Path) -> None:
    """3.3: /proc/self/mem is a file that cannot be read at its beginning, also by root."""
    (tmp_path / "a.txt").symlink_to("/proc/self/mem")
    with pytest.raises(TrineError, match=rf"cannot read {tmp_path}/a.txt: Input/output error"):
        list(open_corpus(CorpusConfig(folders=(tmp_path / "a.txt",))).documents("train"))
