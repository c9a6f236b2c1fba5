"""Whether a model can learn to answer by a chat template: what is wrong with one is said before training begins.

A template in which the turn's header is not part of the generation prompt would have the model trained to write that
header; one that leaves messages out would have it answer questions that it does not see.
"""

from trine.records import Message
from trine.runtime.errors import TrineError
from trine.tokenizer.template import random_digits
from trine.tokenizer.template_format import TemplateFormat


def check_learnable(chat: TemplateFormat) -> None:
    """Raises `TrineError` that names the template and what is wrong with it."""
    question, answer = Message("user", random_digits()), Message("assistant", random_digits())
    place = f"the chat template of {chat.tokenizer.files.template_place}"
    opened, asked = chat.written([question], opened=True), chat.written([question], opened=False)
    answered = chat.written([question, answer], opened=False)
    if question.content not in opened:
        raise TrineError(f"{place} does not write the user's message, so a model would answer what it does not see")
    lead = answered.partition(answer.content)[0].removeprefix(asked)
    if opened == asked and lead.strip():
        raise TrineError(
            f"{place} writes nothing for add_generation_prompt, but begins an answer with {lead!r:.60}: the model "
            "would be trained to write that itself; let the template write it at its end, in "
            "{% if add_generation_prompt %}...{% endif %}"
        )
    if not answered.startswith(opened):
        raise TrineError(
            f"{place} writes {opened.removeprefix(asked)!r:.60} for add_generation_prompt, but begins an answer with "
            f"{lead!r:.60}: an answer has to begin with what asks for it; make both the same"
        )
    _check_history(chat, place, question, answer)


def _check_history(chat: TemplateFormat, place: str, question: Message, answer: Message) -> None:
    following = [Message("user", random_digits()), Message("assistant", random_digits())]
    try:
        whole = chat.written([question, answer, *following], opened=False)
    except TrineError:  # of one exchange only
        return
    for message in (question, answer, *following):
        _, found, whole = whole.partition(message.content)
        if not found:
            who = "the user's" if message.role == "user" else "the assistant's"
            raise TrineError(f"{place} leaves out {who} messages of a longer conversation, or changes their order")
