"""A text's log-probability, by what it is divided by: every name says by what.

Harnesses differ, and the best choice of several depends on it: lm-evaluation-harness' `acc` takes the sum, its
`acc_norm` divides by characters, its `acc_bytes` by bytes of UTF-8 (EleutherAI/lm-evaluation-harness#3278). In English
characters and bytes are nearly the same; a Chinese character is three bytes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Normalization = Literal["sum", "per_token", "per_character", "per_byte"]
NORMALIZATIONS: tuple[Normalization, ...] = ("sum", "per_token", "per_character", "per_byte")


@dataclass(frozen=True)
class Likelihood:
    """`log_prob`, in nats, of `text` after its prompt, all of its `tokens` together."""

    text: str
    log_prob: float
    tokens: int

    def normalized(self, by: Normalization) -> float:
        """The sum, or what of it falls to each token, character (code point) or byte of UTF-8.

        Likelihood(" 巴黎", -5.0, 2).normalized("per_byte")  # -0.714
        """
        units = {
            "sum": 1,
            "per_token": self.tokens,
            "per_character": len(self.text),
            "per_byte": len(self.text.encode("utf-8")),
        }[by]
        return self.log_prob / units


def best_choice(choices: Sequence[Likelihood], by: Normalization) -> int:
    """The place of the most likely choice; of several alike, the first."""
    values = [choice.normalized(by) for choice in choices]
    return values.index(max(values))


def bits_per_byte(nats: float, utf8_bytes: int) -> float:
    """Bits per byte of UTF-8 of a text whose negative log-probability is `nats`; comparable between tokenizers.

    bits_per_byte(300.0, 200)  # 2.164
    """
    return nats / (utf8_bytes * math.log(2))
