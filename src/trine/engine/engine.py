"""The one place where Trine generates text: rollouts, evaluation and chat all call `Engine.generate`.

Prompts of a batch are read at once, then rows decode together, each at its own length; finished rows leave the
batch, so a long answer does not make the short ones wait. Weights are cast to the compute dtype once, exactly as
the trainer casts them on the fly: at equal weights, engine and trainer agree.
Token ids in, token ids out.
"""

import copy
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from trine.engine.cache import RaggedCache
from trine.engine.sampling import Sampling, draw
from trine.model.transformer import Linear, Transformer
from trine.records import Rollout, StopReason
from trine.runtime.errors import TrineError
from trine.runtime.seeds import derive_seed

# Copying the cache to drop rows costs about one decoding step: worth it once a quarter of the rows is done.
SHARE_LEFT_TO_SHRINK = 0.75


class Engine:
    """Generates from one model. Call `refresh` after the model's weights changed."""

    def __init__(self, model: Transformer, *, rows: int = 128) -> None:
        self.source = model
        self.rows = rows
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the source model's weights; until the next call the engine knows no others."""
        dtype = self.source.compute_dtype
        for mine, other in zip(self.model.modules(), self.source.modules(), strict=True):
            for name, parameter in other.named_parameters(recurse=False):
                kept = dtype if isinstance(other, Linear) else parameter.dtype
                getattr(mine, name).data = parameter.detach().to(kept, copy=True)
        self.output_weight = self.model.output_weight.to(dtype)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        policy_version: int = 0,
        on_finished: Callable[[int], None] | None = None,
    ) -> list[Rollout]:
        """One rollout per prompt, in order. Row i draws from (sampling.seed, i) alone, whatever its batch.

        `on_finished(n)` hears of every n rollouts that are done. Raises `TrineError` when a prompt is empty or
        leaves no room for `max_new_tokens` in the model's context.
        """
        self._check(prompts, sampling)
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        rollouts: dict[int, Rollout] = {}
        for start in range(0, len(order), self.rows):
            batch = order[start : start + self.rows]
            seeds = [derive_seed(sampling.seed, "row", index) for index in batch]
            finished = _Decoding(self, [prompts[index] for index in batch], seeds, sampling).run()
            for index, (ids, log_probs, reason) in zip(batch, finished, strict=True):
                rollouts[index] = Rollout(
                    prompt_ids=tuple(prompts[index]),
                    response_ids=tuple(ids),
                    log_probs=tuple(log_probs),
                    stop_reason=reason,
                    temperature=sampling.temperature,
                    seed=sampling.seed,
                    policy_version=policy_version,
                )
            if on_finished is not None:
                on_finished(len(batch))
        return [rollouts[index] for index in range(len(prompts))]

    def _check(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> None:
        context = self.model.config.context
        for index, prompt in enumerate(prompts):
            if not prompt:
                raise TrineError(f"prompt {index} is empty; give at least one token")
            if len(prompt) + sampling.max_new_tokens > context:
                raise TrineError(
                    f"prompt {index} has {len(prompt)} tokens; with max_new_tokens={sampling.max_new_tokens} that is "
                    f"more than the model's context of {context}: shorten the prompt or ask for fewer tokens"
                )


class _Decoding:
    """One batch from prompts to responses. `active[i]` is the place in the batch of cache row i."""

    def __init__(self, engine: Engine, prompts: list[Sequence[int]], seeds: list[int], sampling: Sampling) -> None:
        self.model, self.output_weight, self.sampling = engine.model, engine.output_weight, sampling
        self.prompts = prompts
        self.device = engine.output_weight.device
        self.seeds = torch.tensor(seeds, dtype=torch.int64, device=self.device)
        ends = (*sampling.eos_ids, *sampling.stop_ids)
        self.ends = torch.tensor(ends, dtype=torch.int64, device=self.device)
        self.ids = torch.zeros(len(prompts), sampling.max_new_tokens, dtype=torch.int64, device=self.device)
        self.log_probs = torch.zeros(self.ids.shape, dtype=torch.float32, device=self.device)
        self.counts = torch.zeros(len(prompts), dtype=torch.int64, device=self.device)
        self.active = torch.arange(len(prompts), device=self.device)
        self.done = torch.zeros(len(prompts), dtype=torch.bool, device=self.device)

    @torch.no_grad()
    def run(self) -> list[tuple[list[int], list[float], StopReason]]:
        hidden, cache = self._read_prompts()
        for step in range(self.sampling.max_new_tokens):
            new_ids = self._sample(hidden, step)
            if bool(self.done.all()) or step + 1 == self.sampling.max_new_tokens:
                break
            new_ids = self._shrink(cache, new_ids)
            hidden = self.model(
                new_ids.unsqueeze(1),
                positions=cache.lengths.unsqueeze(1),
                bias=cache.bias(self.model.compute_dtype),
                cache=cache,
            ).squeeze(1)
            cache.advance()
        return self._collect()

    def _read_prompts(self) -> tuple[Tensor, RaggedCache]:
        """Hidden states [B, D] at each prompt's last token, and the cache that holds the prompts."""
        lengths = torch.tensor([len(prompt) for prompt in self.prompts], device=self.device)
        width = int(lengths.max())
        padded = torch.zeros(len(self.prompts), width, dtype=torch.int64)
        for row, prompt in enumerate(self.prompts):
            padded[row, : len(prompt)] = torch.tensor(prompt)
        slots = width + self.sampling.max_new_tokens
        cache = RaggedCache(self.model.config, len(padded), slots, self.model.compute_dtype, self.device)
        hidden = self.model(padded.to(self.device), cache=cache)
        cache.begin_decoding(lengths)
        return hidden[torch.arange(len(padded), device=self.device), lengths - 1], cache

    def _sample(self, hidden: Tensor, step: int) -> Tensor:
        """Draw one token per active row and write it down for the rows that are not done."""
        logits = F.linear(hidden, self.output_weight)
        counters = torch.full_like(self.active, step)
        new_ids, log_probs = draw(logits, self.sampling.temperature, self.seeds[self.active], counters)
        writing = ~self.done
        rows = self.active[writing]
        self.ids[rows, step] = new_ids[writing]
        self.log_probs[rows, step] = log_probs[writing]
        self.counts[rows] = step + 1
        self.done |= torch.isin(new_ids, self.ends)
        return new_ids

    def _shrink(self, cache: RaggedCache, new_ids: Tensor) -> Tensor:
        """Let finished rows leave when enough of them are done."""
        left = (~self.done).nonzero().squeeze(1)
        if len(left) > SHARE_LEFT_TO_SHRINK * len(self.active):
            return new_ids
        cache.keep(left)
        self.active, self.done = self.active[left], self.done[left]
        return new_ids[left]

    def _collect(self) -> list[tuple[list[int], list[float], StopReason]]:
        results: list[tuple[list[int], list[float], StopReason]] = []
        for ids, log_probs, count in zip(self.ids.tolist(), self.log_probs.tolist(), self.counts.tolist(), strict=True):
            reason: StopReason = "length"
            if ids[count - 1] in self.sampling.eos_ids:
                reason = "eos"
            elif ids[count - 1] in self.sampling.stop_ids:
                reason = "stop"
            results.append((ids[:count], log_probs[:count], reason))
        return results
