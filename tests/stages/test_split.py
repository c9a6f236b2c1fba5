"""Texts in parts that have nothing in common."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PLAIN_CPU
from trine.config.loading import validated
from trine.config.split import SplitConfig
from trine.data.exchanges import read_examples
from trine.data.sources import is_held_out
from trine.runtime.errors import TrineError
from trine.stages.tasks.split import part_of, run

PARTS = {"train": 0.5, "measured": 0.3}
MOVIES = 60


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    """Three reviews of each film; the last two have no film."""
    path = tmp_path / "reviews.jsonl"
    rows = [{"text": f"Review {n} of {n % MOVIES}.", "label": n % 2, "movie": n % MOVIES} for n in range(3 * MOVIES)]
    rows += [{"text": "The same."}, {"text": "The same."}, {"text": " "}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def split(out: Path, records: Path, **changes: Any) -> dict[str, list[dict[str, Any]]]:
    folder = run(SplitConfig(out=out, records=records, parts=PARTS, by="movie", hardware=PLAIN_CPU, **changes))
    return {
        name: [json.loads(line) for line in (folder / "parts" / f"{name}.jsonl").read_text("utf-8").splitlines()]
        for name in PARTS
    }


def test_no_group_is_in_two_parts_and_each_part_has_about_its_share(reviews: Path, tmp_path: Path) -> None:
    parts = split(tmp_path / "out", reviews)
    movies = {name: {row["group"] for row in rows} for name, rows in parts.items()}
    assert not movies["train"] & movies["measured"]
    for name, share in PARTS.items():
        assert abs(len(movies[name]) / MOVIES - share) < 0.15
        films = Counter(row["group"] for row in parts[name] if "movie" in row)
        assert set(films.values()) == {3}
        assert all(row["label"] in (0, 1) for row in parts[name] if "movie" in row)
    results = json.loads((tmp_path / "out" / "done.json").read_text("utf-8"))
    assert results["records"] == 3 * MOVIES + 2
    assert results["parts"]["train"] == {"records": len(parts["train"]), "groups": len(movies["train"])}


def test_a_groups_part_depends_on_its_name_and_the_seed_alone(reviews: Path, tmp_path: Path) -> None:
    whole = split(tmp_path / "whole", reviews)
    some = split(tmp_path / "some", reviews, max_records=90)
    assert sum(map(len, some.values())) < sum(map(len, whole.values()))
    for name, rows in some.items():
        assert all(row in whole[name] for row in rows)
    assert split(tmp_path / "seed", reviews, seed=1) != whole


def test_a_part_can_be_divided_again_as_a_corpus_is() -> None:
    """The two hashes know nothing of each other: of a part of one tenth a tenth is held out, not all or nothing."""
    parts = {"small": 0.1, "rest": 0.9}
    names = [f"film {n}" for n in range(4000)]
    held_out = [is_held_out(name, 0.1) for name in names if part_of(name, parts, 0) == "small"]
    assert 0.05 < sum(held_out) / len(held_out) < 0.15


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"a": 0.7, "b": 0.7}, "are shares of the groups: give at least one, of 1 together at most"),
        ({"a/b": 0.5}, "'a/b' cannot name a part"),
    ],
)
def test_parts_that_cannot_be_are_refused(parts: dict[str, float], words: str) -> None:
    with pytest.raises(TrineError, match=words):
        validated(SplitConfig, {"out": "out", "records": "r", "parts": parts}, "trine split")


def test_a_part_without_any_record_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    with pytest.raises(TrineError, match="none of 1 records falls into the part"):
        split(tmp_path / "out", tmp_path / "one.jsonl")


def test_prompts_are_divided_with_their_answers_and_read_again(tmp_path: Path) -> None:
    """Two records of one group stay together; a conversation keeps its turns."""
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}]
    rows: list[dict[str, Any]] = [{"prompt": f"{n} + 1?", "answer": n + 1, "group": str(n // 2)} for n in range(80)]
    rows += [{"messages": [*turns, {"role": "assistant", "content": "I."}]}, {"prompt": turns}]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = SplitConfig(out=tmp_path / "out", records=path, parts=PARTS, form="chat", hardware=PLAIN_CPU)
    files = [run(config) / "parts" / f"{name}.jsonl" for name in PARTS]
    found = [read_examples(file, answered=False) for file in files]
    assert not {each.group for each in found[0]} & {each.group for each in found[1]}
    whole = read_examples(path, answered=False)
    assert all(each.prompt in {one.prompt for one in whole} for part in found for each in part)
    assert all(each.columns["answer"] == int(each.prompt[0].content[:2]) + 1 for each in found[0] if each.columns)
    told = next((each for part in found for each in part if each.response), None)
    assert told is None or [message.role for message in told.prompt] == ["system", "user"]


@pytest.mark.parametrize("row", [{"text": "The same."}, {"prompt": "The same?"}])
def test_what_is_the_same_is_in_one_part(row: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [row] * 20 + [{name: f"{value} {n}" for name, value in row.items()} for n in range(40)]
    path.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    form = "text" if "text" in row else "chat"
    folder = run(SplitConfig(out=tmp_path / "out", records=path, parts=PARTS, form=form, hardware=PLAIN_CPU))
    groups = [{json.loads(line)["group"] for line in (folder / "parts" / f"{name}.jsonl").open()} for name in PARTS]
    assert not groups[0] & groups[1]
    counts = json.loads((folder / "done.json").read_text("utf-8"))["parts"]
    assert {each["records"] - each["groups"] for each in counts.values()} <= {0, 19}


def test_texts_are_no_conversations(reviews: Path, tmp_path: Path) -> None:
    with pytest.raises(TrineError, match=r"reviews.jsonl:1"):
        run(SplitConfig(out=tmp_path / "out", records=reviews, form="chat", hardware=PLAIN_CPU))
