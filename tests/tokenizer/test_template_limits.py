"""Chat templates as people have them: several by name, damaged, or hostile. What goes wrong is said, soon, in words."""

import json
import threading
import time
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

from tests.tokenizer.imported import TEMPLATES, gpt2, smollm2
from tests.tokenizer.test_special_tokens import change
from trine.records import Message
from trine.runtime.errors import TrineError
from trine.tokenizer import template as module
from trine.tokenizer.template import ChatTemplate
from trine.tokenizer.template_format import TemplateFormat
from trine.tokenizer.tokenizer import Tokenizer

QUESTION = [Message("user", "What is the number?")]
CHATML = TEMPLATES["chatml"]
GROWING = "{% set ns = namespace(s='aa') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}"
FAULTS = {
    "{{ 1/0 }}": "fails on this conversation: ZeroDivisionError: division by zero",
    "{{ none + 1 }}": "fails on this conversation: TypeError",
    "{{ messages[5].content }}": "refuses this conversation: list object has no element 5",
    "{{ nothing() }}": "refuses this conversation: 'nothing' is undefined",
    "{{ raise_exception('no ' * 1000) }}": "refuses this conversation: no no",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "calls itself without end",
    "{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}": "nested too deeply",
    "{% for i in range(100000000) %}{{ i }}{% endfor %}": "Range too big",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}": "seconds of processor time",
    "{{ 10 ** (10 ** 9) }}": "seconds of processor time",
    "{{ 'a' * 10 ** 11 }}": "too much memory",
    "{{ '%99999999999d' | format(1) }}": "(too much memory|OverflowError|ValueError)",
    GROWING: "too much memory",
    "{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}": r"writes more than 10,000,\d+ characters",
    "{% for %}": "is not valid Jinja: Expected an expression",
    "{% include 'secret' %}": "no loader for this environment",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}": "(refuses|fails on) this conversation",
    "{{ messages.append(1) }}": "refuses this conversation",
}


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.load(smollm2(Path(mkdtemp()), CHATML))


@pytest.mark.parametrize("source", FAULTS, ids=lambda source: source[:40])
def test_what_a_template_does_wrong_is_said(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """3.5: an error that names template and cause, within bounded time and memory; the next one renders again."""
    monkeypatch.setattr(module, "SECONDS", 0.3)
    monkeypatch.setattr(module, "MAX_BYTES", 300_000_000)
    started = time.monotonic()
    with pytest.raises(TrineError, match=f"the chat template of .*tokenizer_config.json .*{FAULTS[source]}"):
        ChatTemplate(source, {}, "a/tokenizer_config.json").render(QUESTION, generation_prompt=True)
    assert time.monotonic() - started < 20
    assert (
        ChatTemplate("{{ messages[0].content }}", {}, "b").render(QUESTION, generation_prompt=True)
        == QUESTION[0].content
    )


def test_a_template_in_use_is_named_with_its_file(tmp_path: Path) -> None:
    """3.5: the file that the template stands in, not that of the vocabulary."""
    for source, place in (("{{ 1/0 }}", "chat_template.jinja"), (None, "tokenizer_config.json")):
        folder = smollm2(tmp_path, "{{ 1/0 }}")
        if source is not None:
            (folder / "chat_template.jinja").write_text(source)
        else:
            (folder / "chat_template.jinja").unlink()
        with pytest.raises(TrineError, match=rf"{place} fails on this conversation: ZeroDivisionError"):
            TemplateFormat(Tokenizer.load(folder))


def test_threads_take_turns() -> None:
    """3.5: one process renders for all; no answer reaches another's question."""
    wrong: list[str] = []

    def render(name: str) -> None:
        template = ChatTemplate("{{ messages[0].content }}" + name, {}, name)
        for index in range(50):
            text = template.render([Message("user", f"{index} ")], generation_prompt=False)
            if text != f"{index} {name}":
                wrong.append(text)

    threads = [threading.Thread(target=render, args=(f"<{number}>",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_an_interrupted_conversation_leaves_no_answer_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """3.5: after Ctrl-C in the middle of one, the next one is not answered with its text."""
    exchange = module._exchange

    def interrupted(child: Any, line: bytes) -> None:
        child.stdin.write(line)
        child.stdin.flush()
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_exchange", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ChatTemplate("first", {}, "p").render(QUESTION, generation_prompt=False)
    monkeypatch.setattr(module, "_exchange", exchange)
    assert ChatTemplate("second", {}, "p").render(QUESTION, generation_prompt=False) == "second"


def test_text_of_any_kind_goes_through_unchanged() -> None:
    """3.5: line ends, lone surrogates and a megabyte of text between two processes."""
    for text in ("a\r\nb\u2028c\x85d\x00", "\ud800", "日" * 1_000_000, '{"a": "\\n"}'):
        rendered = ChatTemplate("{{ messages[0].content }}", {}, "p").render(
            [Message("user", text)], generation_prompt=False
        )
        assert rendered == text


# Several templates


@pytest.mark.parametrize("form", ["object", "list"])
@pytest.mark.parametrize(
    ("names", "taken"),
    [(("default", "tool_use"), "default"), (("rag", "default"), "default"), (("mine",), "mine"), ((), None)],
)
def test_templates_by_name(form: str, names: tuple[str, ...], taken: str | None, tmp_path: Path) -> None:
    """3.5: as an object or as a list, the one called default, or the only one."""
    templates = {name: CHATML + "{# " + name + " #}" for name in names}
    listed = [{"name": name, "template": source} for name, source in templates.items()]
    change(smollm2(tmp_path), "tokenizer_config.json", chat_template=templates if form == "object" else listed)
    loaded = Tokenizer.load(tmp_path)
    assert loaded.chat_template == (templates[taken] if taken else None)
    if taken:
        assert TemplateFormat(loaded).prompt_ids(QUESTION)


def test_templates_of_which_none_is_the_default_are_named(tmp_path: Path) -> None:
    """3.5: only for chat; plain text needs no template."""
    change(smollm2(tmp_path), "tokenizer_config.json", chat_template={"rag": "x", "tool_use": "y"})
    loaded = Tokenizer.load(tmp_path)
    assert loaded.encode("plain text")
    with pytest.raises(TrineError, match=r"tokenizer_config\.json: none of the chat templates rag, tool_use is called"):
        TemplateFormat(loaded)


@pytest.mark.parametrize("value", [5, True, [5], [{"name": "default"}], {"default": 5}, [{"name": 1, "template": "x"}]])
def test_templates_of_another_form_are_refused(value: Any, tmp_path: Path) -> None:
    """3.5: never a TypeError."""
    change(smollm2(tmp_path), "tokenizer_config.json", chat_template=value)
    with pytest.raises(TrineError, match=r"tokenizer_config\.json: chat_template must be text, or templates by name"):
        TemplateFormat(Tokenizer.load(tmp_path))


# What is written around an answer

WORDS = ("Answer", "Question", "answer", "ANSWER", "0", "1", "a", "What is 2 + 2?", "{answer}", "user", "assistant")


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("case", ["", "| trim", "| upper", "| lower", "| tojson", "| e"])
def test_a_word_of_the_template_is_not_taken_for_the_answer(word: str, case: str) -> None:
    """1.13: no text of the template can be what is looked for in it."""
    body = "{{ message.content " + case + " }}"
    source = (
        "{% for message in messages %}<|im_start|>{{ message.role }} W\n" + body + " W<|im_end|> W\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant W\n{% endif %}"
    ).replace("W", word.replace("{", "{{ '{' }}"))
    chat = TemplateFormat(tokenizer().with_chat_template(source))
    shown = f" {word}"
    expected = f'"7"{shown}' if "tojson" in case else f"7{shown}"
    assert chat.tokenizer.decode(chat.response_ids("7"), keep_special=True) == f"{expected}<|im_end|>"
    assert chat.end_id == tokenizer().special["<|im_end|>"]


@pytest.mark.parametrize("body", ["{{ message.content | length }}", "nothing", "{{ message.content | reverse }}"])
def test_a_template_that_does_not_write_answers_is_refused(body: str) -> None:
    """1.13: nothing can be learnt from it."""
    source = "{% for message in messages %}<|im_start|>" + body + "<|im_end|>{% endfor %}"
    with pytest.raises(TrineError, match=r"does not write the assistant's message as it is"):
        TemplateFormat(tokenizer().with_chat_template(source))


# Ids in the model's configs


@pytest.mark.parametrize("name", ["generation_config.json", "config.json"])
@pytest.mark.parametrize("value", ["<|im_end|>", [1, "x"], {"a": 1}, 1.5, True, [None]])
def test_end_tokens_of_another_type_are_refused(name: str, value: Any, tmp_path: Path) -> None:
    """3.5: `"eos_token_id": "<|im_end|>"` is an error that names file, key and value."""
    folder = gpt2(tmp_path)
    (folder / "generation_config.json").unlink()
    (folder / name).write_text(json.dumps({"eos_token_id": value}))
    with pytest.raises(TrineError, match=rf"{name}: eos_token_id=.* is invalid: a token's id is a whole number"):
        Tokenizer.load(folder)


def test_an_end_token_beyond_the_vocabulary_is_refused(tmp_path: Path) -> None:
    """3.5: it has no name, so no template could write it."""
    change(gpt2(tmp_path), "generation_config.json", eos_token_id=99_999)
    with pytest.raises(TrineError, match=r"has no token with id 99999, the eos_token_id of the model's configs"):
        Tokenizer.load(tmp_path)
