"""Prompts with k examples in them, as GPT-3 is asked (Brown et al. 2020, section 2).

A draw is a set of examples in an order: a seeded permutation of the pool, of which k shots take the first k. All items
of a draw are asked with the same examples, as the training sets of Zhao et al. 2021 are, but that an item is never
shown itself, a duplicate of itself, or (`avoid`) what would give its answer away: then the next of the permutation
takes that place (EleutherAI/lm-evaluation-harness#4145). Duplicates are texts alike but for case, white space and
punctuation. What does not fit the context drops examples, the first of them first, and is counted; nothing is cut.
"""

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from trine.config.tasks import PromptTaskConfig
from trine.records import Example, Message
from trine.runtime.errors import TrineError
from trine.runtime.seeds import generator_for
from trine.stages.evaluation.records import Record, Template, chosen, read_records
from trine.stages.evaluation.task import Prompt, Subject, as_turn

DROPPED, SHORTENED, LEFT_OUT = "examples dropped", "prompts with examples dropped", "items that do not fit, left out"


@dataclass(frozen=True)
class Question:
    """A record as it is asked, its right answer, and the keys of examples that must not stand in its prompt."""

    record: Record
    text: str
    answer: str
    avoid: frozenset[str] = frozenset()

    @property
    def item(self) -> str:
        return self.record.place

    @property
    def key(self) -> str:
        """What its duplicates have alike."""
        return duplicate_key(self.text)


@dataclass(frozen=True)
class Asked:
    """One prompt: a question behind `examples` of draw number `draw`; `shots` were asked for."""

    question: Question
    shots: int
    draw: int
    examples: tuple[Question, ...]
    prompt: Prompt


def examples_of(asked: Asked) -> tuple[str, ...]:
    """Which examples stand in a prompt, in order."""
    return tuple(each.item for each in asked.examples)


@cache
def duplicate_key(text: str) -> str:
    """Letters and digits of a text, in one case; of a text without any, what is not white space."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return "".join(filter(str.isalnum, plain)) or "".join(plain.split())


class InContext:
    """The questions of a task and its pool, and the prompts of them: `prompt(subject, examples(question, 4, 0), text)`.

    Raises `TrineError` naming the record that does not fill the templates.
    """

    def __init__(self, name: str, config: PromptTaskConfig, seed: int) -> None:
        self.name, self.config, self.seed = name, config, seed
        self.template = Template(config.template, f"{name}: template")
        self._answer = Template(config.answer, f"{name}: answer")
        path = Path(str(config.records))
        records = read_records(path, config.where, place=name)
        everything = {record.place: self.question(record) for record in records}
        self.questions = [everything[each.place] for each in chosen(records, config.max_items, seed, name)]
        pool = list(everything.values())
        if config.pool is not None:
            pool = [
                self.question(each) for each in read_records(Path(config.pool), config.where, place=f"{name}: pool")
            ]
        self.pool = list({question.key: question for question in reversed(pool)}.values())[::-1]
        self._orders = {draw: self._order(draw) for draw in range(config.draws)} if max(config.shots) else {}

    def question(self, record: Record) -> Question:
        """A record, filled into the task's templates."""
        question = Question(record, self.template.fill(record), self._answer.fill(record))
        return replace(question, avoid=frozenset({question.key}))

    def examples_to_train_on(self) -> list[Example]:
        """What of the pool is not asked, nor a duplicate of it, each a question and its answer as a turn."""
        asked = {question.key for question in self.questions}
        return [
            Example((Message("user", self.config.instruction + each.text),), as_turn(each.answer), each.item, each.item)
            for each in self.pool
            if each.key not in asked
        ]

    def _order(self, draw: int) -> list[int]:
        return [
            int(index) for index in generator_for(self.seed, "examples", self.name, draw).permutation(len(self.pool))
        ]

    def draws(self, shots: int) -> int:
        """How many sets of examples are asked with: without examples, the one there is."""
        return self.config.draws if shots else 1

    def examples(self, question: Question, shots: int, draw: int) -> tuple[Question, ...]:
        """The first `shots` examples of a draw that may stand before a question."""
        if not shots:
            return ()
        found = (self.pool[index] for index in self._orders[draw] if self.pool[index].key not in question.avoid)
        examples = tuple(each for each, _ in zip(found, range(shots), strict=False))
        if len(examples) < shots:
            raise TrineError(
                f"{self.name}: {shots} examples are asked for and the pool has {len(examples)} that may be shown with "
                f"{question.item}: not the item itself, a duplicate, or what gives it away; ask for fewer shots"
            )
        return examples

    def prompt(self, subject: Subject, examples: Sequence[Question], text: str) -> Prompt:
        """Instruction, examples and question: one text, or turns of a conversation where the subject is asked so."""
        config = self.config
        if not subject.asks_in_chat:
            return config.instruction + config.separator.join([*(each.text + each.answer for each in examples), text])
        texts = [*(each.text for each in examples), text]
        texts[0] = config.instruction + texts[0]
        turns = [[Message("user", each)] for each in texts]
        for turn, example in zip(turns, examples, strict=False):
            turn.append(Message("assistant", as_turn(example.answer)))
        return tuple(message for turn in turns for message in turn)


class Asking:
    """The prompts of a task for one subject, `Asking(task, subject, room).prompts(shots=4)`.

    `room`: how many tokens have to fit behind the prompt of a question. `counts`: what did not fit. Questions that do
    not even fit without examples are left out, the same ones for every number of shots.
    """

    def __init__(self, task: InContext, subject: Subject, room: Callable[[Question], int]) -> None:
        self.task, self.subject, self.room = task, subject, room
        self.questions = [question for question in task.questions if self._fits(question, ())]
        self.counts = Counter({LEFT_OUT: len(task.questions) - len(self.questions)})
        if not self.questions:
            raise TrineError(f"{task.name}: no item fits the context of {subject.name}, {subject.context} tokens")

    def prompts(self, shots: int) -> Iterator[Asked]:
        """Every question with every draw, a draw after the other."""
        for draw in range(self.task.draws(shots)):
            for question in self.questions:
                examples = self.task.examples(question, shots, draw)
                while not self._fits(question, examples):
                    examples = examples[1:]
                self.counts[DROPPED] += shots - len(examples)
                self.counts[SHORTENED] += len(examples) < shots
                yield Asked(question, shots, draw, examples, self._prompt(question, examples))

    def _prompt(self, question: Question, examples: Sequence[Question]) -> Prompt:
        return self.task.prompt(self.subject, examples, question.text)

    def _fits(self, question: Question, examples: Sequence[Question]) -> bool:
        ids = self.subject.prompt_ids(self._prompt(question, examples))
        return len(ids) + self.room(question) <= self.subject.context
