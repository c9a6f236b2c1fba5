"""Judgements in every form that people keep them in; what is written is read back."""

import csv
import gzip
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from trine.data.judgement_texts import Reading
from trine.data.judgements import (
    KINDS,
    common_form,
    counted,
    divided,
    group_of,
    judgement_row,
    judgements_of,
    read_judgements,
    write_judgements,
)
from trine.records import Answer, Judgement, JudgementKind, Message
from trine.runtime.errors import TrineError

ASKED = (Message("user", "Why?"),)
TURNS = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]


def read(*records: dict[str, Any], kinds: Collection[JudgementKind] = KINDS, **reading: Any) -> list[Judgement]:
    places = [(f"f:{number}", record) for number, record in enumerate(records, 1)]
    return judgements_of(places, kinds, Reading(**{"form": common_form(places)} | reading))


def one(record: dict[str, Any], **reading: Any) -> Judgement:
    (found,) = read(record, **reading)
    return found


def texts(judgement: Judgement) -> list[str]:
    return [answer.response for answer in judgement.answers]


@pytest.mark.parametrize(
    ("record", "query", "prompt"),
    [
        ({"text": "So."}, "", ()),
        ({"review": "So."}, "", ()),
        ({"prompt": "Why?", "response": "So."}, None, ASKED),
        ({"prompt": "Why?", "completion": "So."}, None, ASKED),
        ({"prompt": TURNS[:1], "completion": TURNS[1:]}, None, ASKED),
        ({"question": "Why?", "response": "So."}, None, ASKED),
        ({"messages": TURNS}, None, ASKED),
        ({"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]}, None, ASKED),
        ({"instruction": "Why", "input": "not?", "output": "So."}, None, (Message("user", "Why\nnot?"),)),
        ({"query": "Why", "response": "So."}, "Why", ()),
    ],
)
@pytest.mark.parametrize("said", [{"label": True}, {"label": 1}, {"label": "pos"}, {"score": -1.5}, {"rating": "7"}])
def test_a_text_in_any_form_with_a_label_or_a_score(
    record: dict[str, Any], query: str | None, prompt: tuple[Message, ...], said: dict[str, Any]
) -> None:
    found = one(record | said)
    assert (found.prompt, texts(found), found.answers[0].query) == (prompt, ["So."], query)
    assert (found.kind, found.label or found.score) in (("label", True), ("score", -1.5), ("score", 7.0))


PAIRS: list[tuple[dict[str, Any], tuple[Message, ...], str | None]] = [
    ({"prompt": "Why?", "chosen": "So.", "rejected": "No."}, ASKED, None),
    ({"prompt": TURNS[:1], "chosen": "So.", "rejected": "No."}, ASKED, None),
    ({"prompt": "Why?", "chosen": TURNS, "rejected": [TURNS[0], {**TURNS[1], "content": "No."}]}, ASKED, None),
    ({"chosen": TURNS, "rejected": [TURNS[0], {**TURNS[1], "content": "No."}]}, ASKED, None),
    (
        {"chosen": "\n\nHuman: Why?\n\nAssistant: So.", "rejected": "\n\nHuman: Why?\n\nAssistant: No."},
        ASKED, None,
    ),
    (
        {"conversations": [{"from": "human", "value": "Why?"}], "chosen": {"from": "gpt", "value": "So."},
         "rejected": {"from": "gpt", "value": "No."}},
        ASKED, None,
    ),
    ({"instruction": "Why?", "input": "", "output": "So.", "chosen": "So.", "rejected": "No."}, ASKED, None),
    ({"chosen": "It rained. So.", "rejected": "It rained. No."}, (), "It rained."),
]  # fmt: skip


@pytest.mark.parametrize(("record", "prompt", "query"), PAIRS)
def test_a_pair_in_any_form(record: dict[str, Any], prompt: tuple[Message, ...], query: str | None) -> None:
    found = one(record)
    assert (found.kind, found.ranking, found.prompt) == ("pair", ((0,), (1,)), prompt)
    assert [text.strip() for text in texts(found)] == ["So.", "No."]
    assert {answer.query for answer in found.answers} == {query}


def test_a_transcript_has_its_turns() -> None:
    text = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Tell me:\n\n1 or 2?\n\nAssistant: "
    found = one({"chosen": text + "2", "rejected": text + "1"})
    assert found.prompt == (
        Message("user", "Hi"), Message("assistant", "Hello."), Message("user", "Tell me:\n\n1 or 2?"),
    )  # fmt: skip
    assert texts(found) == ["2", "1"]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, (((0,), (1,)), 0.0, None)),
        ({"margin": 0.5}, (((0,), (1,)), 0.5, None)),
        ({"strength": 2}, (((0,), (1,)), 2 / 3, None)),
        ({"strength": "Slightly better"}, (((0,), (1,)), 1 / 3, None)),
        ({"strength": 0}, (((0, 1),), 0.0, None)),
        ({"tie": True}, (((0, 1),), 0.0, None)),
        ({"tie": "false"}, (((0,), (1,)), 0.0, None)),
        ({"probability": 0.8}, (((0,), (1,)), 0.0, 0.8)),
        ({"probability": 0.0}, (((0,), (1,)), 0.0, 0.0)),
        ({"probability": 0.5}, (((0, 1),), 0.0, None)),
    ],
)
def test_how_sure_a_pair_is(said: dict[str, Any], expected: Any) -> None:
    found = one({"prompt": "Why?", "chosen": "So.", "rejected": "No."} | said)
    assert (found.ranking, found.margin, found.probability) == expected


FOUR = {"prompt": "Why?", "answers": ["a", "b", "c", "d"]}


@pytest.mark.parametrize(
    ("said", "ranking"),
    [
        ({"ranking": [[2], [0, 1], [3]]}, ((2,), (0, 1), (3,))),
        ({"ranking": [2, 0, 1, 3]}, ((2,), (0,), (1,), (3,))),
        ({"ranking": [[2], [0]]}, ((2,), (0,))),
        ({"ranks": [2, 2, 1, 4]}, ((2,), (0, 1), (3,))),
        ({"ranks": [2, None, 1, None]}, ((2,), (0,))),
        ({"scores": [0.5, 0.5, 3, -1]}, ((2,), (0, 1), (3,))),
        ({"answers": [{"response": text, "score": score} for text, score in zip("abcd", (1, 1, 2, 0), strict=True)]},
         ((2,), (0, 1), (3,))),
    ],
)  # fmt: skip
def test_rankings_with_ties_and_answers_that_nobody_ranked(said: dict[str, Any], ranking: Any) -> None:
    found = one(FOUR | said)
    assert found.ranking == ranking and texts(found) == list("abcd") and found.prompt == ASKED


def test_all_bad_is_a_label_of_each_answer() -> None:
    found = read(FOUR | {"ranking": "all bad"}, kinds=["ranking"])
    assert [(judgement.label, texts(judgement)) for judgement in found] == [(False, [text]) for text in "abcd"]
    assert {judgement.prompt for judgement in found} == {ASKED}


@pytest.mark.parametrize(
    ("said", "pairs"), [({"best": 1}, ["ba", "bc", "bd"]), ({"better": [[0, 1], [2, 3]]}, ["ab", "cd"])]
)
def test_a_partial_order_is_pairs_that_weigh_one_together(said: dict[str, Any], pairs: list[str]) -> None:
    found = read(FOUR | said | {"weight": 3}, kinds=["ranking"])
    assert ["".join(texts(judgement)) for judgement in found] == pairs
    assert {judgement.weight for judgement in found} == {3 / len(pairs)}


def test_a_record_that_says_two_things_is_read_as_what_is_asked_for() -> None:
    record = {"text": "So.", "label": 0, "rating": 3}
    assert [judgement.kind for judgement in read(record)] == ["label", "score"]
    assert [judgement.kind for judgement in read(record, kinds=["score"])] == ["score"]


def test_names_of_fields_and_of_good_labels_are_the_users_to_say() -> None:
    found = one({"comment": "So.", "stars_given": 4}, fields={"text": "comment", "score": "stars_given"})
    assert (texts(found), found.score) == (["So."], 4.0)
    toxic = read({"text": "a", "label": "toxic"}, {"text": "b", "label": "civil"}, positive=("civil",))
    assert [judgement.label for judgement in toxic] == [False, True]


WRITTEN = [
    Judgement((), (Answer((), "A film.", query="", columns={"movie": "tt1"}),), label=False, name="1", group="tt1"),
    Judgement((), (Answer((), " fine.", False, query="It is"),), score=1.25, name="2", judge="ann", weight=0.5),
    Judgement.pair(ASKED, Answer(ASKED, "So."), Answer(ASKED, "No.", False)),
    Judgement(ASKED, (Answer(ASKED, "a"), Answer(ASKED, "b")), ranking=((1,), (0,)), name="4", probability=0.9),
    Judgement(ASKED, (Answer(ASKED, "a"), Answer(ASKED, "b")), ranking=((0,), (1,)), name="4", margin=0.25),
    Judgement(ASKED, tuple(Answer(ASKED, text) for text in "abcd"), ranking=((3,), (0, 2)), name="5"),
    Judgement(ASKED, (Answer(ASKED, "a"), Answer(ASKED, "b")), ranking=((0, 1),), name="6"),
]  # fmt: skip


@pytest.mark.parametrize("judgement", WRITTEN)
def test_what_is_written_is_read_back(tmp_path: Path, judgement: Judgement) -> None:
    path = tmp_path / "judgements.jsonl.gz"
    path.write_bytes(gzip.compress((json.dumps(judgement_row(judgement)) + "\n").encode()))
    (found,) = read_judgements(path)
    assert (found.name, found.kind) == (judgement.name or f"{path}:1", judgement.kind)
    assert found == type(judgement)(**{**vars(judgement), "name": found.name})


def test_pairs_of_two_are_found_where_pairs_are_asked_for(tmp_path: Path) -> None:
    write_judgements(tmp_path / "j.jsonl", WRITTEN[2:4])
    assert counted(read_judgements(tmp_path / "j.jsonl", ["pair"])) == {"pair": 2}


ROWS = [{"text": "good film", "label": "pos", "movie": "a"}, {"text": "bad film", "label": "neg", "movie": "b"}]


def test_tables_folders_and_lines_give_the_same(tmp_path: Path) -> None:
    with (tmp_path / "t.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label", "movie"])
        writer.writeheader()
        writer.writerows(ROWS)
    parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "t.parquet")
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for number, row in enumerate(ROWS):
        folder = tmp_path / "aclImdb" / "train" / row["label"]
        folder.mkdir(parents=True)
        (folder / f"{number}_7.txt").write_text(row["text"])
    found = [read_judgements(tmp_path / name) for name in ("t.csv", "t.parquet", "t.jsonl")]
    for judgements in found:
        assert [(texts(each), each.label) for each in judgements] == [(["good film"], True), (["bad film"], False)]
        assert [each.answers[0].columns["movie"] for each in judgements] == ["a", "b"]
    folders = read_judgements(tmp_path / "aclImdb", ["label"])
    assert sorted((texts(each)[0], each.label) for each in folders) == [("bad film", False), ("good film", True)]


def test_what_belongs_together_is_held_out_together() -> None:
    records = [{"text": f"review {number}", "label": number % 2, "movie": f"m{number // 5}"} for number in range(100)]
    train, held_out = divided(read(*records, held_out_by="movie"), 0.3)
    assert train and held_out and not {group_of(each) for each in train} & {group_of(each) for each in held_out}
    asked = [{"prompt": f"p{number // 5}", "chosen": f"c{number}", "rejected": "r"} for number in range(100)]
    train, held_out = divided(read(*asked), 0.3)
    assert train and held_out and not {each.prompt for each in train} & {each.prompt for each in held_out}


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"text": "a"}, "f:1: the record has the fields text, of which none is a label or a score"),
        ({"text": "a", "label": "meh"}, "f:1: whether the label 'meh' is a good one does not follow from its name"),
        ({"text": "a", "score": "high"}, "f:1: field 'score' must be a number, found 'high'"),
        ({"text": "a", "score": float("nan")}, "field 'score' must be a number, found nan"),
        ({"text": "a", "score": 1, "weight": -1}, "field 'weight' must not be negative"),
        ({"text": None, "label": 1}, "no text is there to learn from, but the fields label"),
        ({"messages": TURNS[:1], "label": 1}, "field 'messages' must end with the assistant's message"),
        (FOUR | {"ranking": [[0], [0, 1]]}, "does not name each of 4 answers once at most"),
        (FOUR | {"ranking": [[0], [4]]}, "field 'ranking' must name answers by their places, 0 to 3, found 4"),
        (FOUR | {"ranking": [[2]]}, "the ranking orders fewer than two answers"),
        (FOUR | {"ranks": [1, 2]}, "field 'ranks' must have a number for each of 4 answers"),
        (FOUR | {"better": [[1, 1]]}, r"field 'better' must be a list of \[better, worse\]"),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "margin": 1, "tie": True}, "'margin' and 'tie' all say"),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "strength": -2}, "field 'strength' must be 0 or more"),
        ({"prompt": "p", "chosen": "a", "rejected": 3}, "field 'rejected' must be a string, found 3"),
        ({"chosen": TURNS, "rejected": [{**TURNS[0], "content": "How?"}, TURNS[1]]}, "differ before their last"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_place(record: dict[str, Any], said: str) -> None:
    with pytest.raises(TrineError, match=said):
        read(record)


def test_conversations_and_texts_are_not_mixed() -> None:
    with pytest.raises(TrineError, match="f:2 is a conversation, and f:1 a text without a prompt"):
        read({"text": "a", "label": 1}, {"messages": TURNS, "label": 1})
    both = read({"text": "a", "label": 1}, {"prompt": "p", "chosen": "c", "rejected": "r"})
    assert [each.answers[0].query for each in both] == ["", "p"]
    with pytest.raises(TrineError, match="a text without a prompt: say form=text"):
        read({"text": "a", "label": 1}, form="chat")
    with pytest.raises(TrineError, match="is a conversation, and form=text reads plain text"):
        read({"messages": TURNS, "label": 1}, form="text")
