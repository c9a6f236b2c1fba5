"""Prompt-lookup speculative decoding: n-grams of the row's own past give draft tokens, one forward pass verifies them
(Saxena 2023; verification after Leviathan et al. 2023).

A step for one row spends its time reading weights, so six tokens cost hardly more than one. A sampled token is a
function of (seed, position): the token of each position is sampled as it would be without drafts, and a draft token is
accepted only where it is that very token. So the answer is the same, bit for bit where no sum depends on the batch, and
only its speed differs.
"""

from trine.engine.rows import Row
from trine.engine.runner import Chunk, Runner, SamplingState
from trine.engine.sampler import sampled_token
from trine.tokenizer.tokenizer import Tokenizer


def decode_draft(runner: Runner, row: Row, tokenizer: Tokenizer | None) -> bool:
    """Verify the row's draft tokens, and accept up to the first that differs; False where there is no draft."""
    request, decoding = row.request, row.decoding
    draft = row.draft()
    if not draft:
        return False
    ids = [decoding.next_id, *draft]
    runner.forward([Chunk(decoding.pages, ids, decoding.position, wanted=len(ids))])
    state = decoding.sampling
    states = [SamplingState(state.temperature, state.seed, state.counter + offset) for offset in range(len(ids))]
    sampled = runner.sample(range(len(ids)), states)
    # After the last draft token comes one that no draft token is compared with.
    for token_id, log_prob, drafted in zip(*sampled, [*draft, -1], strict=True):
        row.accept(sampled_token(token_id, log_prob), tokenizer)
        decoding.position += 1
        if request.done or token_id != drafted:
            break
    return True
