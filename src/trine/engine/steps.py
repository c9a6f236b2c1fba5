"""One step of the active rows: a piece of the prompts that are being read, or some tokens of every answer.

A step reads at most `prefill_tokens` tokens of prompts (chunked prefill, Agrawal et al. 2023), and decoding rows move
on in it, so that a long prompt holds nobody up and a cancelled one is read no further.
"""

import time
from collections.abc import Sequence

from trine.engine.rows import Row, prompt_call
from trine.engine.runner import Chunk, Runner
from trine.engine.sampler import sample_next, sampled_token
from trine.engine.speculation import decode_draft
from trine.tokenizer.tokenizer import Tokenizer

# A call of several steps cannot be cancelled within, and shows its tokens at its end.
SECONDS_A_CALL = 0.05
MAX_STEPS = 32
# Below this, looking for draft tokens costs more than a token.
MIN_DRAFTED_STEP_SECONDS = 0.002


class Stepper:
    """Runs rows on a runner. `invariant`: its numbers do not depend on what is read at once (the native runner's)."""

    def __init__(self, runner: Runner, tokenizer: Tokenizer | None, *, prefill_tokens: int, invariant: bool) -> None:
        self.runner, self.tokenizer = runner, tokenizer
        self.prefill_tokens, self.invariant = prefill_tokens, invariant
        self._step_seconds = SECONDS_A_CALL

    def advance(self, active: Sequence[Row]) -> None:
        """One step. Rows whose requests are done by it stay in `active`."""
        reading = [row for row in active if row.reading]
        decoding = [row for row in active if not row.reading]
        if not reading:
            self._decode(decoding, MAX_STEPS)
            return
        call = prompt_call(reading, self.prefill_tokens)
        if self.invariant:  # a pass costs the reading of all weights, so decoding rows come along
            self._forward([*call, *(row.next_chunk() for row in decoding)])
            return
        # The plain runner pads what it reads at once, so there prompts go alone and decoding follows.
        self._forward(call)
        self._decode([row for row in active if not (row.reading or row.request.done)], 1)

    def _forward(self, call: Sequence[tuple[Row, Chunk]]) -> None:
        """One call of the model, then a token for every row whose logits were wanted."""
        logits = self.runner.forward([chunk for _, chunk in call])  # [B, V]
        for row, chunk in call:
            row.decoding.position = chunk.start + len(chunk.ids)
        rows = [row for row, chunk in call if chunk.wanted]
        if not rows:
            return
        tokens = sample_next(
            self.runner, logits, [row.request for row in rows], [row.decoding.sampling for row in rows]
        )
        for row, token in zip(rows, tokens, strict=True):
            row.accept(token, self.tokenizer)

    def _decode(self, rows: Sequence[Row], max_steps: int) -> None:
        if not rows:
            return
        if any(row.request.needs_logits for row in rows):
            self._forward([row.next_chunk() for row in rows])
            return
        speculates = self._speculates(rows)
        if speculates and decode_draft(self.runner, rows[0], self.tokenizer):
            return
        steps = min(row.request.budget for row in rows)
        steps = max(1, min(steps, 1 if speculates else max_steps, int(SECONDS_A_CALL / self._step_seconds)))
        began = time.perf_counter()
        all_ids, all_log_probs = self.runner.decode([row.decoding for row in rows], steps)
        self._step_seconds = max(1e-6, (time.perf_counter() - began) / len(all_ids))
        for ids, log_probs in zip(all_ids, all_log_probs, strict=True):
            for row, token_id, log_prob in zip(rows, ids, log_probs, strict=True):
                if not row.request.done:
                    row.record(sampled_token(token_id, log_prob), self.tokenizer)

    def _speculates(self, rows: Sequence[Row]) -> bool:
        """One row alone, on the runner whose numbers do not depend on how many tokens are read at once."""
        return self.invariant and len(rows) == 1 and self._step_seconds > MIN_DRAFTED_STEP_SECONDS
