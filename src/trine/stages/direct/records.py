"""The judgements that `trine dpo` learns from: pairs, and for KTO labels."""

from pathlib import Path
from typing import Any

from trine.data.files import read_preferences, read_records
from trine.records import Answer, Form, Judgement, Message, PreferencePair
from trine.runtime.errors import TrineError

LABELS = {"true": True, "1": True, "false": False, "0": False}


def read_judgements_of(path: Path, form: Form) -> list[Judgement]:
    """Pairs {prompt, chosen, rejected}, or labels {prompt, response (or completion), label}."""
    first = next(iter(read_records(path, ("prompt", "label", "chosen", "rejected"))), None)
    if first is not None and "label" in first[1] and "chosen" not in first[1]:
        return [_labelled(row, place, form) for place, row in read_records(path, ("prompt", "label"))]
    return [_pair(preference, form) for preference in read_preferences(path)]


def _pair(preference: PreferencePair, form: Form) -> Judgement:
    query = _query(preference.prompt, form)
    sides = ((preference.chosen, preference.chosen_ended), (preference.rejected, preference.rejected_ended))
    chosen, rejected = (Answer(preference.prompt, text, ended, query=query) for text, ended in sides)
    return Judgement.pair(preference.prompt, chosen, rejected)


def _query(prompt: tuple[Message, ...], form: Form) -> str | None:
    return prompt[0].content if form == "text" and len(prompt) == 1 and prompt[0].role == "user" else None


def _labelled(row: dict[str, Any], place: str, form: Form) -> Judgement:
    prompt, label = row.get("prompt"), LABELS.get(str(row.get("label")).lower())
    response = row.get("response", row.get("completion"))
    if label is None:
        raise TrineError(f"{place}: field 'label' must be true or false, found {row.get('label')!r:.60}")
    if not isinstance(prompt, str) or not isinstance(response, str):
        raise TrineError(f"{place}: a label is of {{prompt, response, label}}, prompt and response strings")
    messages = (Message("user", prompt),)
    return Judgement(messages, (Answer(messages, response, query=_query(messages, form)),), label=label)
