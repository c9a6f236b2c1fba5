"""Texts with task tokens as token ids: GPT-2's way of saying what is to be done (Radford et al. 2019).

Only a part's name writes a task token; texts are encoded one by one, so that their ids are the same in training and in
generation, and a token's characters inside them stay text. An answer ends with the end of text.
"""

from collections.abc import Sequence

from trine.records import TaskText, TokenSpan
from trine.runtime.errors import TrineError
from trine.tokenizer.tokenizer import Tokenizer

Parts = Sequence[tuple[str, str]]
"""(the name of a task token or "", the text after it), in order"""


def task_prompt_ids(tokenizer: Tokenizer, parts: Parts) -> list[int]:
    """Ids of a prompt with task tokens in it, with BOS if the model uses it.

    >>> task_prompt_ids(tokenizer, [("", "The cat"), ("<|im_end|>", " sat")]) == [
    ...     *tokenizer.encode("The cat"), tokenizer.special["<|im_end|>"], *tokenizer.encode(" sat")]
    True

    Raises `TrineError` for a name that is no special token of the tokenizer.
    """
    ids = tokenizer.prompt_ids("")
    for token, text in parts:
        if token:
            ids.append(_id_of(tokenizer, token))
        ids += tokenizer.encode(text)
    return ids


def task_span(tokenizer: Tokenizer, text: TaskText) -> TokenSpan:
    """`text` with an end-of-text, of which the answer and its end are trained; without an answer all but BOS is."""
    prompt = task_prompt_ids(tokenizer, text.parts)
    if text.answer is None:
        learned = len(prompt) - len(tokenizer.prompt_ids(""))
        answer = [tokenizer.end_of_text]
    else:
        learned, answer = 0, [*tokenizer.encode(text.answer), tokenizer.end_of_text]
    trained = (False,) * (len(prompt) - learned) + (True,) * (learned + len(answer))
    return TokenSpan(tuple(prompt + answer), trained)


def parse_slots(tokenizer: Tokenizer, slots: Sequence[str]) -> list[tuple[str, str]]:
    """Parts as they are typed: TOKEN or TOKEN=TEXT each, TOKEN the name of a special token.

    >>> parse_slots(tokenizer, ["<|im_start|>=Who?", "<|im_end|>"])
    [('<|im_start|>', 'Who?'), ('<|im_end|>', '')]
    """
    return [_parsed(tokenizer, slot) for slot in slots]


def _parsed(tokenizer: Tokenizer, slot: str) -> tuple[str, str]:
    for name in sorted(tokenizer.special, key=len, reverse=True):  # a name may have = in it
        if slot == name or slot.startswith(f"{name}="):
            return name, slot[len(name) + 1 :]
    token, _, text = slot.partition("=")
    _id_of(tokenizer, token)  # says that there is none
    return token, text


def _id_of(tokenizer: Tokenizer, name: str) -> int:
    if name not in tokenizer.special:
        raise TrineError(
            f"{name!r} is no special token of {tokenizer.files.place}, which has {', '.join(tokenizer.special)}"
        )
    return tokenizer.special[name]
