"""Trine's models in EleutherAI's lm-evaluation-harness, as its model `trine` (pip install 'trine[evals]').

    python -m trine.api.lm_eval run --model trine --model_args pretrained=runs/base --tasks arc_easy

The rest of the command is lm_eval's own. From Python, importing this module registers the class for `simple_evaluate`.
Requests are cut, and texts encoded, as its class `hf` does with the exported model: at the left where they do not fit,
with one BOS where the model has one, and none in front of a text (a rendered chat template) that brings its own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from trine.catalog.loading import open_hardware, open_model
from trine.config.base import HardwareConfig
from trine.config.loading import validated
from trine.engine.sampling import Sampling
from trine.records import Message, Rollout
from trine.runtime.errors import TrineError
from trine.stages.evaluation.subject import ModelSubject
from trine.tokenizer.template import ChatTemplate

try:
    from lm_eval import utils
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
except ImportError:
    raise TrineError("trine.api.lm_eval needs lm_eval, which is not installed: pip install 'trine[evals]'") from None

POSITIONS_AT_ONCE = 1024
"""Positions whose logits are held at a time"""
_SAMPLED = ("top_k", "top_p", "min_p", "repetition_penalty")

Scored = tuple[Any, list[int], list[int]]
"""What is asked for, the ids before it, and its own"""


@register_model("trine")
class TrineLM(TemplateLM):  # type: ignore[misc]
    """A model of Trine's, asked by lm_eval.

    `pretrained`: run, model or adapter folder, .gguf file, smollm2, or owner/name on the hub; `adapter` is merged in.
    `device`, `precision` and `threads` as `trine.load` has them; `batch_size` rows are read at a time.
    """

    def __init__(
        self,
        pretrained: str,
        adapter: str | None = None,
        device: str | None = None,
        precision: str = "auto",
        threads: int = 0,
        batch_size: int | str = 8,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        values = {"device": device or "auto", "precision": precision, "threads": threads}
        hardware = open_hardware(validated(HardwareConfig, values, "lm_eval's model_args"))
        model, tokenizer = open_model(pretrained, hardware, adapter)
        self._model, self._tokens, self._device = model.eval(), tokenizer, hardware.device
        self._subject = ModelSubject(pretrained, self._model, tokenizer)
        self._names, self._rows = pretrained, int(batch_size) if str(batch_size).isdigit() else 8
        self.max_length = min(max_length or self._subject.context, self._subject.context)
        self.max_gen_toks = max_gen_toks
        named = tokenizer.files.named_tokens
        self._named = {"eos_token": tokenizer.name_of(tokenizer.end_of_text), **named}
        self._bos = tokenizer.vocabulary.get(named.get("bos_token", ""), tokenizer.end_of_text)

    # What lm_eval asks of every class

    @property
    def eot_token_id(self) -> int:
        return self._tokens.end_of_text

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that nothing stands before: BOS, or else the end of the text before."""
        return self._bos

    @property
    def tokenizer_name(self) -> str:
        return self._names.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The Jinja source, which lm_eval keeps with the results."""
        return self._tokens.chat_template if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as text; without the generation prompt, up to the end of its last message, to go on there."""
        source = self._tokens.chat_template
        if source is None:
            raise TrineError(f"{self._names} has no chat template: it is a base model. Leave out --apply_chat_template")
        template = ChatTemplate(source, self._named, self._tokens.files.template_place)
        messages = [Message(turn["role"], turn["content"]) for turn in chat_history]  # type: ignore[arg-type]
        text = template.render(messages, generation_prompt=add_generation_prompt)
        last = messages[-1].content.strip()
        return text if add_generation_prompt else text[: text.rindex(last) + len(last)]

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Ids of a text, names of special tokens as these tokens; one BOS where the model has one."""
        encoder = self._tokens.sealed_encoder
        ids = encoder.encode(encoder.seal(string))
        bos = self._tokens.bos_id
        begins = bos is not None and add_special_tokens is not False and ids[:1] != [bos]
        return [bos, *ids] if begins and bos is not None else ids

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihoods of whole texts, in windows that predict every token once."""
        totals = []
        for request in requests:
            (text,) = request.args
            windows = utils.get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            scored = [(None, *utils.make_disjoint_window(window)) for window in windows]
            totals.append(sum(total for total, _ in self._loglikelihood_tokens(scored)))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), totals[-1])
        return totals

    def _loglikelihood_tokens(
        self, requests: Sequence[Scored], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """For each request the sum of its log-probabilities, and whether each token was the most likely one."""
        found: dict[int, tuple[float, bool]] = {}
        order = sorted(range(len(requests)), key=lambda index: -len(requests[index][1]) - len(requests[index][2]))
        for start in range(0, len(order), self._rows):
            indices = order[start : start + self._rows]
            found |= zip(indices, self._scores([requests[index] for index in indices]), strict=True)
            for index in indices:
                if requests[index][0] is not None:
                    self.cache_hook.add_partial("loglikelihood", requests[index][0], found[index])
        return [found[index] for index in range(len(requests))]

    @torch.no_grad()
    def _scores(self, requests: Sequence[Scored]) -> list[tuple[float, bool]]:
        """Rows padded at their ends, which tokens before do not see."""
        rows = [(before + own)[-(self.max_length + 1) :] for _, before, own in requests]
        width = max(map(len, rows)) - 1
        ids = torch.tensor([row[:-1] + [0] * (width + 1 - len(row)) for row in rows], device=self._device)
        hidden = self._model(ids)  # [B, T, D]
        scores = []
        for row, (_, _, own), states in zip(rows, requests, hidden, strict=True):
            targets = torch.tensor(own[-(len(row) - 1) :], device=self._device)
            scores.append(self._score(states[len(row) - 1 - len(targets) : len(row) - 1], targets))
        return scores

    def _score(self, hidden: Tensor, targets: Tensor) -> tuple[float, bool]:
        """Of the states [N, D] before the tokens `targets` [N]."""
        weight, total, greedy = self._model.output_weight, 0.0, True
        for states, ids in zip(hidden.split(POSITIONS_AT_ONCE), targets.split(POSITIONS_AT_ONCE), strict=True):
            log_probs = torch.log_softmax((states @ weight.to(states.dtype).T).float(), dim=-1)
            total += float(log_probs.gather(1, ids[:, None]).sum())
            greedy = greedy and bool((log_probs.argmax(-1) == ids).all())
        return total, greedy

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Texts up to the first of their stop strings; requests with the same settings are answered together."""
        answers: dict[int, str] = {}
        for settings, indices in _alike([request.args[1] for request in requests]):
            answers |= zip(
                indices, self._generate([requests[index].args[0] for index in indices], settings), strict=True
            )
            for index in indices:
                self.cache_hook.add_partial("generate_until", requests[index].args, answers[index])
        return [answers[index] for index in range(len(requests))]

    def _generate(self, contexts: Sequence[str], settings: dict[str, Any]) -> list[str]:
        given = normalize_gen_kwargs(settings, self.max_gen_toks)
        end = self._tokens.name_of(self._tokens.end_of_text)
        stops = handle_stop_sequences(given.get("until"), eos=end)
        budget = int(given["max_gen_toks"])
        if budget >= self.max_length:
            raise TrineError(f"max_gen_toks={budget} leaves no room for a prompt in a context of {self.max_length}")
        strings = tuple(stop for stop in stops if stop not in ("", end))
        sampling = Sampling(budget, float(given.get("temperature") or 0.0), stop_strings=strings)
        sampling = replace(sampling, **{key: given[key] for key in _SAMPLED if key in given})
        prompts = [self.tok_encode(context)[-(self.max_length - budget) :] for context in contexts]
        rollouts = self._subject.generate(prompts, sampling)
        return [postprocess_generated_text(self._text(rollout), stops, None) for rollout in rollouts]

    def _text(self, rollout: Rollout) -> str:
        return self._tokens.decode(rollout.response_ids, skip="")


def _alike(settings: Sequence[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], list[int]]]:
    """The different settings, each with the places where it stands."""
    different: list[dict[str, Any]] = []
    for each in settings:
        if each not in different:
            different.append(each)
    for each in different:
        yield each, [index for index, other in enumerate(settings) if other == each]


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
