"""A reward model: a Transformer with a scalar head, read at the end token of an answer."""

from collections.abc import Sequence

from torch import Tensor

from trine.model.heads import ScoreModel
from trine.records import Answer, Closing, Form
from trine.rewards.batches import finite_scores, rows_at_once, score_in_batches
from trine.rewards.closing import closed_ids, shortened
from trine.rewards.end_token import check_end_token
from trine.runtime.errors import TrineError
from trine.tokenizer.text_format import TextFormat, answer_format
from trine.tokenizer.tokenizer import Tokenizer


class ModelReward:
    """A reward model::

        reward = ModelReward(model, tokenizer)
        scores = reward.score(answers)  # [B]

    It was trained on whole answers closed by an end token; `closed` says how it is shown an answer that hit
    `max_new_tokens` (`closing.py`), and None leaves that to the model. Where answers carry token ids of the same
    tokenizer, those are read; otherwise the text is encoded by the reward model's own tokenizer, as the model's `form`
    says: a conversation in its chat format, or plain text as it stands (of a conversation the answer alone).
    """

    def __init__(self, model: ScoreModel, tokenizer: Tokenizer, closed: Closing | None = None) -> None:
        self.closed: Closing = closed or model.closed
        self.model = model.requires_grad_(False).eval()
        self.reads: Form = model.form
        self.form, self.pad_id = answer_format(tokenizer, model.form), tokenizer.pad
        self.fingerprint = tokenizer.fingerprint
        self.newline_ids = frozenset(i for i, data in enumerate(tokenizer.token_bytes) if b"\n" in data)
        check_end_token(model, tokenizer)

    def check_reads(self, tokenizer: Tokenizer, longest: int, place: str) -> None:
        """Raise `TrineError` unless rows of `longest` tokens of `tokenizer` fit; of another, it shows when scoring."""
        context = self.model.trunk.config.context
        cuts = self.model.max_tokens is not None
        if tokenizer.fingerprint == self.fingerprint and longest > context and not cuts:
            raise TrineError(f"reward {place} reads {context} tokens, the policy's rows have up to {longest}")

    def score(self, answers: Sequence[Answer]) -> Tensor:
        """fp32 scores [B]. Raises `TrineError` where an answer is longer than the model's context, or has no score."""
        rows = [self._row(answer) for answer in answers]
        scores = score_in_batches(
            rows, lambda ids, lengths: self.model(ids, lengths - 1), self.pad_id, self.model.head.weight.device,
            rows_at_once(self.model.trunk),
        )  # fmt: skip
        return finite_scores(scores, answers, "the reward model")

    def _row(self, answer: Answer) -> list[int]:
        """Prompt and closed answer as ids of the reward model's tokenizer."""
        if answer.tokenizer == self.fingerprint:
            row = self._fitted(answer.prompt_ids, self.closed_response(answer.response_ids, ended=answer.ended))
        else:
            response = self.form.response_ids(answer.response, ended=answer.ended)
            row = self._fitted(self._prompt_ids(answer), self.closed_response(response, ended=answer.ended))
        context = self.model.trunk.config.context
        if len(row) > context:
            raise TrineError(
                f"an answer has {len(row)} tokens with its prompt, more than the {context} that the reward model "
                f"reads: {answer.response[:60]!r}; shorten max_new_tokens or the prompts"
            )
        return row

    def _fitted(self, prompt: Sequence[int], response: Sequence[int]) -> list[int]:
        """One row, of which a model that was trained on cut texts is shown what it was shown in training."""
        if self.model.max_tokens is None:
            return [*prompt, *response]
        asked, kept = shortened(prompt, response, self.model.max_tokens, self.model.truncation_side)
        return [*asked, *kept]

    def _prompt_ids(self, answer: Answer) -> list[int]:
        if isinstance(self.form, TextFormat):
            return self.form.query_ids(answer.query or "")
        if answer.query is not None:
            raise TrineError(
                f"the reward model reads conversations, and {answer.response[:60]!r} is plain text: give it records of "
                "{prompt, response} or {messages}, or train one with form=text"
            )
        return self.form.prompt_ids(answer.prompt)

    def closed_response(self, ids: Sequence[int], *, ended: bool) -> list[int]:
        """The response's ids as they are scored: with the end token, whatever ended them; of one cut, by `closed`."""
        if ended:
            return [*ids[:-1], self.form.end_id]
        return closed_ids(ids, self.form.end_id, self.newline_ids, self.closed)
