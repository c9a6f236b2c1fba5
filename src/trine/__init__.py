"""Trine: train, align and serve a language model of your own, in the three steps that made ChatGPT.

From Python (docs/python.md)::

    import trine

    tuned = trine.finetune(out="runs/finetune", model="smollm2", examples="examples.jsonl")
    model = trine.load(tuned)
    print(model.chat([{"role": "user", "content": "Hello!"}]))

Nothing is imported before it is used; types and signatures are in `__init__.pyi`, made by `python -m trine.api.stub`.
"""

from trine.runtime.waiting import sleep_while_waiting

__version__ = "0.1.0"

sleep_while_waiting()


def __getattr__(name: str) -> object:
    from trine.api.names import public

    return public(name)


def __dir__() -> list[str]:
    from trine.api.names import public_names

    return sorted({*globals(), *public_names()})
