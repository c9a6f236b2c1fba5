"""A small folder of Python code for whole stages: modules of documented functions, never two alike."""

from pathlib import Path

VERBS = ("add", "take", "join", "scale", "shift", "count")
NOUNS = ("price", "weight", "letter", "number")


def function_source(verb: str, noun: str, amount: int) -> str:
    return (
        f"def {verb}_{noun}_{amount}(first, second):\n"
        f'    """{verb.title()} the {noun} {amount} times."""\n'
        f"    {noun} = first + {amount} * second\n"
        f"    if {noun} > {amount}:\n"
        f"        return {noun} - {amount}\n"
        f"    return {noun}\n"
    )


def module_source(number: int) -> str:
    functions = (function_source(verb, NOUNS[number % 4], number * 10 + place) for place, verb in enumerate(VERBS))
    return f"import math\n\n\nNUMBER = {number}\n\n\n" + "\n\n".join(functions)


def write_corpus(folder: Path, modules: int = 24) -> Path:
    """`folder` with that many modules; the split by file name holds some of them out."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(modules):
        (folder / f"module_{number}.py").write_text(module_source(number))
    return folder
