"""How long an answer is, how often it repeats itself, which words it has. A Chinese character counts as a word."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from trine.config.base import Config, NonNegativeInt, PositiveInt, Word
from trine.rewards.words import n_grams
from trine.runtime.errors import TrineError


class Length(Config):
    """1 for an answer of `min` to `max` words; less the shorter or longer it is: half of `min`, or 1.5 times `max`, has
    0.5, and twice `max` 0.

    How it is cheated: by padding. Any words count, the same one again and again included.
    """

    max: PositiveInt | None = None
    """most words that an answer should have; null: as many as it likes. Without `min` and `max` it is 200"""
    min: NonNegativeInt = 0
    """fewest words that an answer should have"""
    unit: Literal["words", "characters"] = "words"
    """what is counted"""

    @model_validator(mode="after")
    def _agree(self) -> "Length":
        if self.max is not None and self.max < self.min:
            raise ValueError(f"max={self.max} is less than min={self.min}")
        return self

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        most = self.max if self.max is not None or self.min else 200
        return [self._of(len(words_of(text)) if self.unit == "words" else len(text), most) for text in responses]

    def _of(self, count: int, most: int | None) -> float:
        if count < self.min:
            return count / self.min
        return 1.0 if most is None or count <= most else max(0.0, 2 - count / most)


class Repetition(Config):
    """Minus the share of an answer's word n-grams that it has had before: 0 where nothing is repeated, down to -1.

    How it is cheated: by few words. An answer of fewer than n words, an empty one too, repeats nothing; and a counter
    between the repetitions makes each of them new. Weigh it against a length.
    """

    n: PositiveInt = 3
    """words that have to be the same in a row"""

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        return [self._of(words_of(text)) for text in responses]

    def _of(self, words: Sequence[str]) -> float:
        count = len(words) - self.n + 1
        runs = {tuple(words[start : start + self.n]) for start in range(count)}
        return len(runs) / count - 1 if count > 0 else 0.0


class WordsWanted(Config):
    """The share of wanted words that an answer has, in any case and order: 1 if it has them all.

    How it is cheated: by listing them. Whether they say anything is not read.
    """

    takes_text: ClassVar[bool] = True
    words: str = ""
    """the words or phrases, with commas between; empty: those of each record"""
    field: Word = "words"
    """field of the records that holds them, as such a text or as a list; where it is null the reward does not apply"""

    @property
    def needs(self) -> tuple[str, ...]:
        return () if self.words else (self.field,)

    def score(self, prompts: Sequence[str], responses: Sequence[str], **columns: Any) -> list[float | None]:
        wanted = [self.words] * len(responses) if self.words else columns[self.field]
        return [self._of(text, given) for text, given in zip(responses, wanted, strict=True)]

    def _of(self, text: str, given: str | Sequence[str] | None) -> float | None:
        if given is None:
            return None
        wanted = [words_of(each) for each in (given.split(",") if isinstance(given, str) else given)]
        wanted = [words for words in wanted if words]
        if not wanted:
            raise TrineError(f"{given!r} holds no words to want")
        said = f" {' '.join(words_of(text))} "
        return sum(f" {' '.join(words)} " in said for words in wanted) / len(wanted)


def words_of(text: str) -> list[str]:
    """The words of `text` in small letters, without punctuation.

    >>> words_of("Not bad, 真好!")
    ['not', 'bad', '真', '好']
    """
    return [word for word in n_grams(text, 1) if word[0].isalnum()]
