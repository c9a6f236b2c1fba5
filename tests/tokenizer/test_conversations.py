"""Every answer of a conversation is trained, by seven templates: their ids, exactly the answers, and always their ends.

What is expected is computed from `transformers` alone: its text of the conversation, its ids, and where its text up to
an answer ends (`add_generation_prompt`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import groupby
from pathlib import Path
from tempfile import mkdtemp
from unicodedata import normalize

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tests.tiny import tiny_tokenizer
from tests.tokenizer.imported import TEMPLATES, glm4, gpt2, llama2, llama3, qwen3, smollm2
from tests.tokenizer.test_tokenizer import fragments, spells_special
from trine.records import Message, TokenSpan
from trine.runtime.errors import TrineError
from trine.tokenizer.chat_format import Chat, chat_format, format_to_learn, text_span
from trine.tokenizer.template_format import TemplateFormat
from trine.tokenizer.tokenizer import Tokenizer


def ours(folder: Path) -> Path:
    tiny_tokenizer().save(folder)
    return folder


@dataclass(frozen=True)
class Family:
    """How a template writes an answer: the end token, and what stands before and behind the answer, both trained."""

    end: str
    before: str = ""
    behind: str = ""
    trims: bool = False
    rewrites: bool = False
    composed: bool = False

    def normal(self, text: str) -> str:
        """`text` as the tokenizer reads it: Qwen's composes characters (NFC)."""
        return normalize("NFC", text) if self.composed else text


MAKERS = {
    "ours": ours, "smollm2": smollm2, "llama3": llama3, "qwen2.5": partial(qwen3, template=TEMPLATES["qwen2.5"]),
    "qwen3": qwen3, "llama2": llama2, "glm4": glm4,
}  # fmt: skip
WRITES = {
    "ours": Family("<|im_end|>"), "smollm2": Family("<|im_end|>"), "qwen2.5": Family("<|im_end|>", composed=True),
    "llama3": Family("<|eot_id|>", trims=True), "llama2": Family("</s>", " ", " ", trims=True),
    "qwen3": Family("<|im_end|>", "<think>\n\n</think>\n\n", rewrites=True, composed=True),
    "glm4": Family("<|user|>", "\n"),
}  # fmt: skip
each_template = pytest.mark.parametrize("name", MAKERS)


@cache
def opened(name: str) -> tuple[Chat, PreTrainedTokenizerBase]:
    folder = MAKERS[name](Path(mkdtemp()))
    return format_to_learn(Tokenizer.load(folder)), AutoTokenizer.from_pretrained(folder)


def rendered(theirs: PreTrainedTokenizerBase, messages: Sequence[Message], opened: bool = False) -> str:
    turns = [{"role": message.role, "content": message.content} for message in messages]
    return theirs.apply_chat_template(turns, add_generation_prompt=opened, tokenize=False)


def encoded(theirs: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    found = theirs(text, add_special_tokens=False, return_offsets_mapping=True)
    return found["input_ids"], found["offset_mapping"]


words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cn", "Co"]), min_size=1, max_size=12)
texts = st.one_of(
    words, st.sampled_from(["def f(x):\n    return x\n", "4", "日本語 👍🏽", "a\n\nb", " x ", "naïve  é"])
)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[list[Message], list[int]]:
    """A conversation, perhaps with a system message, and the places of the answers that are trained."""
    messages = [Message("system", draw(texts))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 4))):
        messages += [Message("user", draw(texts)), Message("assistant", draw(texts))]
    answers = [place for place, message in enumerate(messages) if message.role == "assistant"]
    return messages, sorted(draw(st.sets(st.sampled_from(answers), min_size=1)))


def trained_texts(span: TokenSpan, theirs: PreTrainedTokenizerBase) -> Iterator[str]:
    """What each run of trained tokens adds to the decoded text."""
    place = 0
    for trained, run in groupby(span.trained):
        end = place + len(list(run))
        if trained:
            parts = (span.ids[:place], span.ids[:end])
            before, both = (theirs.decode(list(ids), clean_up_tokenization_spaces=False) for ids in parts)
            assert both.startswith(before)
            yield both.removeprefix(before)
        place = end


def check(name: str, messages: list[Message], answers: list[int]) -> None:
    chat, theirs = opened(name)
    family = WRITES[name]
    spans = chat.conversation(messages, answers)
    groups = [[place] for place in answers] if family.rewrites else [answers]
    # A template that rewrites history may still leave this one as it is: then one example holds all of it.
    assert len(spans) == len(groups)
    for span, group in zip(spans, groups, strict=True):
        check_span(name, span, messages, group)
        for text, place in zip(trained_texts(span, theirs), group, strict=True):
            content = messages[place].content
            content = content.strip() if family.trims else content.lstrip("\n") if family.rewrites else content
            assert text == family.before + family.normal(content) + family.behind + family.end


def check_span(name: str, span: TokenSpan, messages: list[Message], group: list[int]) -> None:
    """Ids and mask against `transformers`; a token that lies across the beginning of an answer is divided there."""
    _, theirs = opened(name)
    end = WRITES[name].end
    text = rendered(theirs, messages[: group[-1] + 1])
    whole = theirs.apply_chat_template(
        [{"role": message.role, "content": message.content} for message in messages[: group[-1] + 1]], return_dict=False
    )
    text = text[: text.rindex(end) + len(end)] if text.rstrip().endswith(end) else text + end
    ids, offsets = encoded(theirs, text)
    assert whole[: len(ids) - 1] == ids[:-1]
    begins = [len(rendered(theirs, messages[:place], opened=True)) for place in group]
    ends = [text.index(end, begin) + len(end) for begin in begins]
    divided = any(begin < start < stop for begin, stop in offsets for start in begins)
    if divided:
        assert theirs.decode(list(span.ids)) == theirs.decode(ids)
        return
    assert list(span.ids) == ids
    inside = [
        any(start <= begin and stop <= end for start, end in zip(begins, ends, strict=True)) for begin, stop in offsets
    ]
    assert list(span.trained) == inside


def suits(name: str, messages: list[Message]) -> bool:
    """Texts that `transformers` would read as special tokens, or that the template refuses, are tested elsewhere."""
    contents = "".join(message.content for message in messages)
    return not spells_special(contents, opened(name)[0].tokenizer) and "think>" not in contents


@each_template
@settings(max_examples=20)
@given(drawn=conversations())
def test_ids_mask_and_decoded_answers_agree_with_transformers(
    name: str, drawn: tuple[list[Message], list[int]]
) -> None:
    assume(suits(name, drawn[0]))
    check(name, *drawn)


@pytest.mark.slow
@each_template
@settings(max_examples=300)
@given(drawn=conversations())
def test_three_hundred_conversations_agree(name: str, drawn: tuple[list[Message], list[int]]) -> None:
    assume(suits(name, drawn[0]))
    check(name, *drawn)


@each_template
@settings(max_examples=20)
@given(pieces=st.lists(fragments, min_size=1, max_size=5))
def test_special_tokens_that_anyone_spells_stay_text_and_end_no_answer(name: str, pieces: list[str]) -> None:
    """Spelled in a question and in an answer: the special tokens are those of a conversation that spells none."""
    chat, _ = opened(name)

    def special(text: str) -> list[tuple[int, bool]]:
        turns = [
            Message("user", text),
            Message("assistant", f"a{text}b"),
            Message("user", "x"),
            Message("assistant", "y"),
        ]
        spans = chat.conversation(turns, [1, 3])
        pairs = [pair for span in spans for pair in zip(span.ids, span.trained, strict=True)]
        return [pair for pair in pairs if pair[0] in chat.tokenizer.special_ids]

    typed = "".join(pieces)
    assume("think>" not in typed)
    assert special(typed) == special("hello")


@each_template
def test_the_end_token_is_trained_after_every_answer_and_ends_generation(name: str) -> None:
    """Whoever the template gives it to: in GLM-4's, the marker of the user's turn ends the answer before."""
    chat, _ = opened(name)
    turns = [Message("user", "a"), Message("assistant", "b"), Message("user", "c"), Message("assistant", "d")]
    spans = chat.conversation(turns, [1, 3])
    assert chat.tokenizer.name_of(chat.end_id) == WRITES[name].end and chat.end_id in chat.end_ids
    trained = [token for span in spans for token, learned in zip(span.ids, span.trained, strict=True) if learned]
    assert trained.count(chat.end_id) == 2 and all(span.ids[-1] == chat.end_id for span in spans)


def test_one_example_per_answer_where_a_template_rewrites_history() -> None:
    """Qwen3 drops the thinking of earlier turns: each answer is trained with the history that it will really see."""
    chat, theirs = opened("qwen3")
    thought = "<think>\nTwo and two.\n</think>\n\n4"
    turns = [Message("user", "a"), Message("assistant", thought), Message("user", "c"), Message("assistant", "d")]
    first, second = chat.conversation(turns, [1, 3])
    assert thought in theirs.decode(list(first.ids)) and list(trained_texts(first, theirs)) == [f"{thought}<|im_end|>"]
    assert "Two and two" not in theirs.decode(list(second.ids))
    assert list(trained_texts(second, theirs)) == ["<think>\n\n</think>\n\nd<|im_end|>"]


def test_a_conversation_of_one_answer_is_the_example_that_it_was() -> None:
    """Records of a prompt and a response give the same ids and mask as ever."""
    for name in MAKERS:
        chat, _ = opened(name)
        for prompt in ([Message("user", "a\n")], [Message("system", "S"), Message("user", "  b")]):
            (span,) = chat.conversation([*prompt, Message("assistant", "c d")], [len(prompt)])
            assert span == chat.example(prompt, "c d")


def test_a_plain_text_is_trained_whole_with_its_end(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(llama2(tmp_path))
    span = text_span(tokenizer, "a b")
    assert span.ids == (tokenizer.bos_id, *tokenizer.encode("a b"), tokenizer.end_of_text)
    assert span.trained == (False, *(True,) * (len(span.ids) - 1))


CHATML = "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
WRONG = {
    "writes nothing for add_generation_prompt": "{% for m in messages %}" + CHATML + "{% endfor %}",
    "writes nothing for add_generation_prompt, but begins an answer with 'assistant: '":
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}",
    "begins an answer with '<|im_start|>assistant": "{% for m in messages %}" + CHATML + "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}",
    "does not write the user's message": "{% for m in messages if m.role == 'assistant' %}" + CHATML + "{% endfor %}",
    "leaves out the user's messages of a longer conversation": "{% for m in messages[-2:] %}" + CHATML + "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "does not write the assistant's message as it is":
        "{% for m in messages %}{{ '<|im_start|>' + m.content[:9] }}{% endfor %}",
    "is not valid Jinja": "{% for m in messages %}\n{{ m.content }",
}  # fmt: skip


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_template_is_named_before_anything_is_trained(words: str, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(smollm2(tmp_path)).with_chat_template(WRONG[words])
    with pytest.raises(TrineError) as caught:
        format_to_learn(tokenizer)
    assert words in str(caught.value) and "chat template" in str(caught.value)


def test_a_template_that_changes_an_answer_is_named_with_it(tmp_path: Path) -> None:
    shouting = TEMPLATES["smollm2"].replace("message['content']", "message['content'] | upper")
    chat = chat_format(Tokenizer.load(smollm2(tmp_path)).with_chat_template(shouting))
    with pytest.raises(TrineError, match="does not write the answer yes as it is, but YES"):
        chat.conversation([Message("user", "a"), Message("assistant", "yes")], [1])


def test_a_template_of_one_exchange_is_no_wrong_one(tmp_path: Path) -> None:
    once = (
        "{% if messages | length > 2 %}{{ raise_exception('one exchange only') }}{% endif %}"
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    chat = format_to_learn(Tokenizer.load(gpt2(tmp_path)).with_chat_template(once))
    assert isinstance(chat, TemplateFormat) and chat.end_id == chat.tokenizer.end_of_text
