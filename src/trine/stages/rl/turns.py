"""Conversations of several turns as rollouts: the policy speaks, the user answers, and so on.

One rollout holds all of it: its prompt is the conversation it began with, its response everything after that, and
`written` says which of these tokens the policy wrote. Token ids in, token ids out: a turn is read as it was sampled,
and only what stands between two turns (the end of a turn that a stop string cut, the marks, the user's words) is
encoded. Log-probabilities, KL, rewards and losses are of written tokens alone; advantages and values go on across the
others (`algorithms/advantages.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from trine.engine.engine import Engine
from trine.engine.sampling import Sampling
from trine.records import Message, Rollout
from trine.runtime.errors import TrineError
from trine.runtime.seeds import derive_seed
from trine.stages.rl.prompts import Prompt
from trine.stages.rl.user import User
from trine.tokenizer.chat_format import Chat


@dataclass(frozen=True)
class Talk:
    """A conversation on its way: the prompt of the policy's last turn, and all it has said as a rollout."""

    prompt: Prompt
    rollout: Rollout
    open: bool = True


def further_turns(
    engine: Engine,
    chat: Chat,
    rollouts: Sequence[Rollout],
    prompts: Sequence[Prompt],
    sampling: Sampling,
    user: User,
    max_turns: int,
) -> tuple[list[Rollout], list[Prompt]]:
    """The first turns `rollouts` continued to at most `max_turns` turns of the policy, and the prompt of each's last.

    A conversation is over when the user says nothing, when the policy's turn was cut at `max_new_tokens`, which is each
    turn's, or when another turn would not fit the model's context: then it counts as cut.
    """
    talks = [Talk(prompt, rollout, rollout.ended) for prompt, rollout in zip(prompts, rollouts, strict=True)]
    numbers = _numbers(rollouts)
    room = engine.source.config.context - sampling.max_new_tokens
    for turn in range(1, max_turns):
        talks = [_answered(talk, chat, sampling, user, room) if talk.open else talk for talk in talks]
        going = [place for place, talk in enumerate(talks) if talk.open]
        if not going:
            break
        settings = [replace(sampling, seed=derive_seed(sampling.seed, "turn", turn, numbers[place])) for place in going]
        spoken = engine.generate([talks[place].prompt.ids for place in going], settings)
        for place, rollout in zip(going, spoken, strict=True):
            talks[place] = _spoken(talks[place], rollout)
    return [talk.rollout for talk in talks], [talk.prompt for talk in talks]


def _numbers(rollouts: Sequence[Rollout]) -> list[int]:
    """The number of each response in its iteration, whoever samples it."""
    samples = 1 + max(rollout.sample for rollout in rollouts)
    return [rollout.prompt_index * samples + rollout.sample for rollout in rollouts]


def _answered(talk: Talk, chat: Chat, sampling: Sampling, user: User, room: int) -> Talk:
    """The talk with the user's reply, ready for the policy's next turn; or closed."""
    answer = talk.prompt.answer(talk.rollout, chat, sampling.stop_strings)
    messages = (*talk.prompt.messages, Message("assistant", answer.response))
    reply = user.reply(messages, talk.prompt.columns)
    if reply is None:
        return replace(talk, open=False)
    between = ids_between(chat, talk.prompt.messages, Message("user", reply))
    if talk.rollout.stop_reason == "stop":  # the policy did not write its end token
        between = [chat.end_id, *between]
    ids = (*talk.rollout.prompt_ids, *talk.rollout.response_ids, *between)
    if len(ids) > room:
        return replace(talk, rollout=replace(talk.rollout, stop_reason="length"), open=False)
    return replace(talk, prompt=replace(talk.prompt, ids=ids, messages=(*messages, Message("user", reply))))


def _spoken(talk: Talk, turn: Rollout) -> Talk:
    """The talk with the policy's next turn."""
    before = talk.rollout
    start = len(before.prompt_ids)
    between = len(turn.prompt_ids) - start - len(before.response_ids)
    written = before.written or (True,) * len(before.response_ids)
    rollout = replace(
        before,
        response_ids=(*turn.prompt_ids[start:], *turn.response_ids),
        log_probs=(*before.log_probs, *(0.0,) * between, *turn.log_probs),
        written=(*written, *(False,) * between, *(True,) * len(turn.response_ids)),
        stop_reason=turn.stop_reason,
    )
    return Talk(talk.prompt, rollout, turn.ended)


def ids_between(chat: Chat, messages: Sequence[Message], reply: Message) -> list[int]:
    """What stands between the end token of an answer and the next: the marks of the turns, and the user's reply.

    Raises `TrineError` where the chat template writes earlier turns differently once others follow: what the policy
    said would then be read as something that it did not say.
    """
    answer = Message("assistant", "A")
    before = [*chat.prompt_ids(messages), *chat.response_ids(answer.content)]
    after = chat.prompt_ids([*messages, answer, reply])
    if after[: len(before)] != before:
        raise TrineError(
            "the chat template writes an answer differently once another message follows, so that a conversation of "
            "several turns cannot be continued token by token; use max_turns=1, or a template that only appends"
        )
    return after[len(before) :]
