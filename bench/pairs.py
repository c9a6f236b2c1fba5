"""Random preference pairs of the lengths of reviews, the same for every side. Standard library only."""

import random

PROMPT_TOKENS, LONGEST = 16, 256
MEDIAN, DEVIATION = 150.0, 0.35
"""Of a log-normal: an answer's tokens, its end token too; with its prompt it has `LONGEST` at most."""

Pair = dict[str, list[int]]
"""`prompt`, `chosen`, `rejected`: token ids"""


def random_pairs(count: int, vocab_size: int, seed: int = 0) -> list[Pair]:
    """`count` pairs of random ids."""
    draw = random.Random(seed)

    def ids(length: int) -> list[int]:
        return [draw.randrange(3, vocab_size) for _ in range(length)]

    def answer() -> list[int]:
        return ids(min(max(2, round(MEDIAN * draw.lognormvariate(0, DEVIATION))), LONGEST - PROMPT_TOKENS))

    return [{"prompt": ids(PROMPT_TOKENS), "chosen": answer(), "rejected": answer()} for _ in range(count)]


def tokens_of(pairs: list[Pair]) -> int:
    """All tokens that a side reads that does not share prompts: what both are credited with."""
    return sum(2 * len(pair["prompt"]) + len(pair["chosen"]) + len(pair["rejected"]) for pair in pairs)
