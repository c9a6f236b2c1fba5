"""A reward model: a Transformer with a scalar head, read at the end token of an answer."""

from collections.abc import Sequence

import torch
from torch import Tensor

from trine.data.packing import pad
from trine.model.heads import ScoreModel
from trine.records import Answer
from trine.runtime.errors import TrineError
from trine.tokenizer.chat_format import chat_format
from trine.tokenizer.tokenizer import Tokenizer

ROWS_AT_ONCE = 64


class ModelReward:
    """A reward model::

        reward = ModelReward(model, tokenizer)
        scores = reward.score(answers)  # [B]

    It was trained on whole answers closed by an end token, so that is what it is shown: an answer that hit
    `max_new_tokens` is cut back to its last whole line and closed. Where answers carry token ids of the same tokenizer,
    those are read; otherwise the text is encoded by the reward model's own tokenizer and chat format.
    """

    def __init__(self, model: ScoreModel, tokenizer: Tokenizer) -> None:
        self.model = model.requires_grad_(False).eval()
        self.chat, self.pad_id = chat_format(tokenizer), tokenizer.pad
        self.fingerprint = tokenizer.fingerprint
        self.newline_ids = frozenset(i for i, data in enumerate(tokenizer.token_bytes) if b"\n" in data)

    def check_reads(self, tokenizer: Tokenizer, longest: int, place: str) -> None:
        """Raise `TrineError` unless rows of `longest` tokens of `tokenizer` fit; of another, it shows when scoring."""
        context = self.model.trunk.config.context
        if tokenizer.fingerprint == self.fingerprint and longest > context:
            raise TrineError(f"reward {place} reads {context} tokens, the policy's rows have up to {longest}")

    @torch.no_grad()
    def score(self, answers: Sequence[Answer]) -> Tensor:
        """fp32 scores [B]. Raises `TrineError` where an answer is longer than the model's context."""
        rows = [self._row(answer) for answer in answers]
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        scores = torch.empty(len(rows))
        device = self.model.head.weight.device
        for start in range(0, len(order), ROWS_AT_ONCE):
            batch = order[start : start + ROWS_AT_ONCE]
            ids, lengths = (tensor.to(device) for tensor in pad([rows[index] for index in batch], self.pad_id))
            scores[batch] = self.model(ids, lengths - 1).cpu()
        return scores

    def _row(self, answer: Answer) -> list[int]:
        """Prompt and closed answer as ids of the reward model's tokenizer."""
        if answer.tokenizer == self.fingerprint:
            row = [*answer.prompt_ids, *self.closed_response(answer.response_ids, ended=answer.ended)]
        else:
            response = self.chat.response_ids(answer.response, ended=answer.ended)
            row = [*self.chat.prompt_ids(answer.prompt), *self.closed_response(response, ended=answer.ended)]
        context = self.model.trunk.config.context
        if len(row) > context:
            raise TrineError(
                f"an answer has {len(row)} tokens with its prompt, more than the {context} that the reward model "
                f"reads: {answer.response[:60]!r}; shorten max_new_tokens or the prompts"
            )
        return row

    def closed_response(self, ids: Sequence[int], *, ended: bool) -> list[int]:
        """The response's ids closed by an end token, which replaces the last, cut line of one that has no end.

        A response of one line loses its last token instead, so that the row is never longer than it was.
        """
        ids = list(ids)
        if ended:
            return [*ids[:-1], self.chat.end_id]
        ends = [place for place, token_id in enumerate(ids) if token_id in self.newline_ids and place > 0]
        return [*ids[: ends[-1] if ends else -1], self.chat.end_id]
