"""A reward from a head of `trine finetune --task`: what it says of an answer, in nats.

Of two labels the score is the log-odds of the second, logit(second) - logit(first); of a choice it is the option's
logit. The answer is read as the task's texts were: classify reads what the user wrote and the answer as one text, which
the answer continues; the other tasks read what the user wrote as the first text and the answer as the second.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from trine.model.classifier import TaskModel, reading_ids
from trine.records import Answer
from trine.rewards.batches import finite_scores, rows_at_once, score_in_batches
from trine.runtime.errors import TrineError
from trine.tokenizer.tokenizer import Tokenizer

UNLIMITED = 2**30


class TaskReward:
    """A classifier as a reward::

        reward = TaskReward(task_model, task_tokenizer)
        scores = reward.score(answers)  # [B]

    `positive_logit`: of two labels the second one's logit, about half of the log-odds. Raises `TrineError` for a head
    of more than two labels.
    """

    def __init__(self, model: TaskModel, tokenizer: Tokenizer, *, positive_logit: bool = False) -> None:
        settings = model.settings
        if len(settings.labels) > 2:
            raise TrineError(
                f"a classifier of {len(settings.labels)} labels ({', '.join(settings.labels):.120}) is no reward; one "
                "of two labels is"
            )
        self.model, self.tokenizer = model.requires_grad_(False).eval(), tokenizer
        self.positive_logit = positive_logit
        self.tokens = [tokenizer.special[name] for name in settings.tokens.names]

    def score(self, answers: Sequence[Answer]) -> Tensor:
        """fp32 scores [B]. Raises `TrineError` where an answer is longer than the model's context, or has no score."""
        readings = [(place, ids) for place, answer in enumerate(answers) for ids in self._readings(answer)]
        read = score_in_batches(
            [ids for _, ids in readings], self._log_odds, self.tokenizer.pad, self.model.classifier.weight.device,
            rows_at_once(self.model.trunk),
        )  # fmt: skip
        scores = torch.zeros(len(answers)).index_add(0, torch.tensor([place for place, _ in readings]), read)
        return finite_scores(scores, answers, "the classifier")

    def _log_odds(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """[M] of readings; the head is linear, so that those of a similarity add up to its score."""
        states = self.model.trunk(ids)[torch.arange(len(ids), device=ids.device), lengths - 1]
        logits: Tensor = self.model.classifier(states)
        if logits.shape[1] == 1:
            return logits[:, 0]
        return logits[:, 1] if self.positive_logit else logits[:, 1] - logits[:, 0]

    def _readings(self, answer: Answer) -> list[list[int]]:
        asked = "".join(message.content for message in answer.prompt if message.role == "user")
        task = self.model.settings.task
        texts: tuple[str, ...] = (asked + answer.response,) if task == "classify" else (asked, answer.response)
        orders = (texts, texts[::-1]) if task == "similar" else (texts,)
        found = [
            reading_ids(self.tokens, [self.tokenizer.encode(text) for text in order], UNLIMITED)[0] for order in orders
        ]
        context = self.model.trunk.config.context
        if len(found[0]) > context:
            raise TrineError(
                f"an answer has {len(found[0])} tokens with what it answers, more than the {context} that the "
                f"classifier reads: {answer.response[:60]!r}; shorten max_new_tokens or the prompts"
            )
        return found
