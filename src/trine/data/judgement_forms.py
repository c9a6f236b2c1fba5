"""The forms in which people keep judgements of texts and answers; each record becomes one `Judgement` or several.

What is judged stands in the fields of one of these:

    {"text": ...}                                                        a whole text (form: text)
    {"prompt": ..., "response": ...}   {"prompt": ..., "completion": ...}    prompt a text, or messages
    {"messages": [...]}   {"conversations": [{"from", "value"}, ...]}    the last answer of a conversation
    {"instruction": ..., "input": ..., "output": ...}                    Alpaca
    {"prompt": ..., "answers": [...]}                                    several answers

and what is said of it in one of these:

    label      "label": true, 1, "pos" ...; "kto_tag"
    score      "score", "rating" or "stars": a number
    pair       "chosen" and "rejected": texts, messages, or whole conversations and "\\n\\nHuman: " transcripts, whose
               common beginning is the prompt; with "margin", "strength", "probability" or "tie"
    ranking    "ranking": [[2], [0, 1]], places of answers, best first, those of one group tied; or "all bad"
               "ranks": [2, 2, 1, null]   "scores": [0.1, 0.1, 3]   "best": 2   "better": [[2, 0], [2, 1]]

A `Judgement` that Trine wrote (`judgements.py`) has `answers` and one of label, score and ranking. Every error names
file, line and field.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from trine.data.conversations import is_list
from trine.data.files import as_json
from trine.data.judgement_texts import (
    ANSWERS,
    LABELS,
    ORDERS,
    SCORES,
    Reading,
    Record,
    answer_to,
    answers_of,
    first_of,
    implicit_prompt,
    named,
    names_of,
    prompt_of,
    side_of,
    truth,
    whole_text,
)
from trine.records import Answer, Judgement, JudgementKind
from trine.runtime.errors import TrineError

GOOD = ("1", "true", "pos", "positive", "good", "yes", "up", "like", "chosen")
BAD = ("0", "-1", "false", "neg", "negative", "bad", "no", "down", "dislike", "rejected")
STRENGTHS = {"negligibly better": 0.0, "slightly better": 1 / 3, "better": 2 / 3, "significantly better": 1.0}
"""Llama 2's margins (Touvron et al. 2023, table 27, small)."""


def renamed(record: Record, fields: Mapping[str, str]) -> dict[str, Any]:
    """The record with the fields that `fields` names under our names."""
    theirs = {name: ours for ours, name in fields.items()}
    return {theirs.get(key, key): as_json(value) for key, value in record.items() if value is not None}


def kinds_of(record: Record) -> tuple[JudgementKind, ...]:
    """What is said in a record."""
    found: list[JudgementKind] = []
    if first_of(record, ANSWERS) and (first_of(record, ORDERS) or _answers_have(record, ("rank", "score"))):
        found.append("ranking")
    if "chosen" in record and "rejected" in record:
        found.append("pair")
    found += ["label"] if first_of(record, LABELS) else []
    return (*found, "score") if first_of(record, SCORES) else tuple(found)


def judgements_in(record: Record, kind: JudgementKind, reading: Reading, place: str) -> list[Judgement]:
    """What `record`, whose fields are `renamed`, says of that kind."""
    try:
        found = _READERS[kind](record, reading, place)
    except ValueError as error:
        raise TrineError(f"{place}: {error}") from None
    judge, name = str(record.get("judge", "")), str(record.get("name", record.get("id", place)))
    group, weight = _group(record, reading, place), _number(record, "weight", place, 1.0)
    if weight < 0:
        raise TrineError(f"{place}: field 'weight' must not be negative, found {weight:g}")
    return [replace(each, weight=each.weight * weight, judge=judge, name=name, group=group) for each in found]


def _group(record: Record, reading: Reading, place: str) -> str:
    if reading.held_out_by is None:
        return str(record.get("group", ""))
    if reading.held_out_by not in record:
        raise TrineError(
            f"{place}: no field {reading.held_out_by!r}, which held_out_by names; there are {names_of(record)}"
        )
    return str(record[reading.held_out_by])


def _label(record: Record, reading: Reading, place: str) -> list[Judgement]:
    answer = _one_of_answers(record, reading, place)
    return [Judgement(answer.prompt, (answer,), label=_is_good(record[named(record, LABELS)], reading, place))]


def _score(record: Record, reading: Reading, place: str) -> list[Judgement]:
    answer = _one_of_answers(record, reading, place)
    return [Judgement(answer.prompt, (answer,), score=_number(record, named(record, SCORES), place))]


def _one_of_answers(record: Record, reading: Reading, place: str) -> Answer:
    if not first_of(record, ANSWERS):
        return whole_text(record, reading, place)
    answers = answers_of(record, reading, place)
    if len(answers) != 1:
        raise TrineError(f"{place}: a label or score is of one answer, and there are {len(answers)}")
    return answers[0]


def _is_good(value: Any, reading: Reading, place: str) -> bool:
    if isinstance(value, bool):
        return value
    number = isinstance(value, float) and value.is_integer()
    name = str(int(value) if number else value).strip()
    if reading.positive:
        return name in reading.positive
    if name.lower() in GOOD or name.lower() in BAD:
        return name.lower() in GOOD
    raise TrineError(
        f"{place}: whether the label {name!r:.60} is a good one does not follow from its name: say it, "
        "--positive NAME (all other labels are bad then); a number of more than two values is a score (--scores)"
    )


def _pair(record: Record, reading: Reading, place: str) -> list[Judgement]:
    prompt = prompt_of(record, reading, place)
    sides = [side_of(record, name, prompt, reading, place) for name in ("chosen", "rejected")]
    prompt, texts = implicit_prompt(sides, prompt, reading, place)
    answers = tuple(
        answer_to(record, prompt, text, ended=truth(record.get(f"{name}_ended", True)))
        for name, text in zip(("chosen", "rejected"), texts, strict=True)
    )
    margin, probability = _strength(record, place)
    ranking: tuple[tuple[int, ...], ...] = ((0, 1),) if probability == 0.5 else ((0,), (1,))
    soft = None if probability in (0.5, 1.0) else probability
    return [Judgement(prompt[0], answers, ranking=ranking, margin=margin, probability=soft)]


def _strength(record: Record, place: str) -> tuple[float, float]:
    """(margin, probability that the first is better) of a pair."""
    tied = truth(record.get("tie", False))
    given = [name for name in ("margin", "strength", "probability") if record.get(name) not in (None, "")]
    if len(given) + tied > 1:
        names = " and ".join(map(repr, [*given, *["tie"] * tied]))
        raise TrineError(f"{place}: fields {names} all say how sure a pair is: give one of them")
    if tied or not given:
        return 0.0, 0.5 if tied else 1.0
    word = str(record[given[0]]).strip().lower()
    if given[0] == "strength" and word in STRENGTHS:
        return STRENGTHS[word], 1.0
    value = _number(record, given[0], place)
    if value < 0 or (given[0] == "probability" and value > 1):
        raise TrineError(
            f"{place}: field {given[0]!r} must be {'from 0 to 1' if given[0] == 'probability' else '0 or more'}, found "
            f"{value:g}; the better answer is the chosen one"
        )
    if given[0] == "probability":
        return 0.0, value
    return (value, 1.0) if given[0] == "margin" else (value / 3, 1.0 if value else 0.5)


def _ranking(record: Record, reading: Reading, place: str) -> list[Judgement]:
    answers = answers_of(record, reading, place)
    prompt, order = answers[0].prompt, record.get("ranking")
    if isinstance(order, str) or truth(record.get("all_bad", False)):
        word = "all bad" if order is None else order.strip().lower().replace("_", " ")
        if word not in ("all bad", "all good"):
            raise TrineError(f"{place}: field 'ranking' must be places of answers, or 'all bad', found {order!r:.60}")
        return [Judgement(prompt, (answer,), label=word == "all good") for answer in answers]
    pairs = _better(record, len(answers), place)
    if pairs:
        made = [Judgement.pair(prompt, answers[better], answers[worse]) for better, worse in pairs]
        return [replace(each, weight=1 / len(pairs)) for each in made]
    groups = tuple(group for group in _groups(record, len(answers), place) if group)
    if sum(map(len, groups)) < 2:
        raise TrineError(f"{place}: the ranking orders fewer than two answers, so nothing is learned from it")
    margin, probability = _strength(record, place)
    soft = None if probability == 1.0 else probability
    return [Judgement(prompt, answers, ranking=groups, margin=margin, probability=soft)]


def _better(record: Record, count: int, place: str) -> list[tuple[int, int]]:
    """A partial order as pairs of places, the better first; `best` is better than every other answer."""
    if "best" in record:
        best = _place(record["best"], count, "best", place)
        return [(best, other) for other in range(count) if other != best]
    if "better" not in record:
        return []
    if not is_list(record["better"]) or not record["better"]:
        raise TrineError(f"{place}: field 'better' must be a list of [better, worse], found {record['better']!r:.60}")
    pairs = [tuple(_place(each, count, "better", place) for each in _items(pair)) for pair in record["better"]]
    if any(len(pair) != 2 or pair[0] == pair[1] for pair in pairs):
        raise TrineError(f"{place}: field 'better' must be a list of [better, worse], found {record['better']!r:.60}")
    return [(pair[0], pair[1]) for pair in pairs]


def _groups(record: Record, count: int, place: str) -> list[tuple[int, ...]]:
    """Groups of places, best first."""
    if "ranking" in record:
        if not is_list(record["ranking"]):
            raise TrineError(f"{place}: field 'ranking' must be a list, found {record['ranking']!r:.60}")
        return [tuple(_place(each, count, "ranking", place) for each in _items(group)) for group in record["ranking"]]
    name = first_of(record, ("ranks", "scores"))
    inner = [each if isinstance(each, Mapping) else {} for each in record[named(record, ANSWERS)]]
    name = name or ("rank" if any("rank" in each for each in inner) else "score")
    values = record[name] if name in ("ranks", "scores") else [each.get(name) for each in inner]
    if not is_list(values) or len(values) != count:
        raise TrineError(
            f"{place}: field {name!r} must have a number for each of {count} answers, found {values!r:.60}"
        )
    numbers = [None if value is None else _number({name: value}, name, place) for value in values]
    levels = sorted({value for value in numbers if value is not None}, reverse=name in ("scores", "score"))
    return [tuple(at for at, value in enumerate(numbers) if value == level) for level in levels]


_READERS = {"label": _label, "score": _score, "pair": _pair, "ranking": _ranking}


def _answers_have(record: Record, keys: Sequence[str]) -> bool:
    name = first_of(record, ANSWERS)
    values = record[name] if name else ()
    return (
        is_list(values)
        and len(values) > 1
        and any(isinstance(each, Mapping) and first_of(each, keys) for each in values)
    )


def _items(value: Any) -> list[Any]:
    return list(value) if is_list(value) else [value]


def _place(value: Any, count: int, name: str, place: str) -> int:
    if type(value) is not int or not 0 <= value < count:
        raise TrineError(
            f"{place}: field {name!r} must name answers by their places, 0 to {count - 1}, found {value!r:.60}"
        )
    return value


def _number(record: Record, name: str, place: str, otherwise: float | None = None) -> float:
    value = record.get(name, otherwise)
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else None
    except ValueError:
        number = None
    if number is None or not abs(number) < float("inf"):
        raise TrineError(f"{place}: field {name!r} must be a number, found {value!r:.60}")
    return number
