"""What PPO wrote, and what it did to one response: samples of a few iterations, and one sample followed through."""

import math
from collections.abc import Sequence
from typing import Any

from trine.report.run_reader import FinishedStage, RecipeRun, is_number
from trine.report.sections import Answer, Sample, Section, titled
from trine.report.tables import Table, number, percent, signed, whole

MAX_ITERATIONS, OF_EACH = 4, 3


def samples_section(run: FinishedStage, recipe: RecipeRun) -> Section:
    """Responses of a few iterations, as they were sampled."""
    words = (
        "The first responses of a few iterations; their prompts are in random order, none is hand-picked. What the "
        "score cannot see is seen here."
    )
    by_iteration: dict[int, list[dict[str, Any]]] = {}
    for row in run.samples:
        by_iteration.setdefault(int(row["iteration"]), []).append(row)
    shown = _spread(list(by_iteration), MAX_ITERATIONS)
    samples = [
        Sample(str(row["prompt"]), [Answer("plain", f"Iteration {iteration + 1}", str(row["text"]), _figures(row))])
        for iteration in shown
        for row in by_iteration[iteration][:OF_EACH]
    ]
    return Section(titled("Samples of PPO", run, recipe), words, samples=samples)


def _spread(values: Sequence[int], count: int) -> list[int]:
    """At most `count` of `values`, the first and the last among them."""
    if len(values) <= count:
        return list(values)
    return [values[round(place * (len(values) - 1) / (count - 1))] for place in range(count)]


def _figures(row: dict[str, Any]) -> str:
    ended = "ended" if row["ended"] else "cut"
    return f"score {signed(row['score'])} · KL {number(row['kl'], 2)} nats · {whole(row['length'])} tokens, {ended}"


# One sample, followed through

BEFORE = ("token", "id", "log π old", "log π ref", "KL", "reward", "value", "advantage", "return", "ratio", "clipped")
AFTER = ("token", "id", "log π", "KL", "ratio", "clipped", "policy loss", "value", "value loss")
BEFORE_FIELDS = ("old_log_prob", "reference_log_prob", "kl", "reward", "value", "advantage", "returned", "ratio")


def followed_section(run: FinishedStage, recipe: RecipeRun) -> Section:
    """The first sample, a row for each token, before training and after one update."""
    words = (
        "PPO by one response: query, ids, response, score, then for every token its log-probability under the policy "
        "and the reference, the KL between them, the reward it earns, the critic's value, advantage and return; and "
        "what the first update did to it. `trine ppo --show` prints the same of any run before it starts."
    )
    tables: list[Table] = []
    samples: list[Sample] = []
    for row in run.followed:
        score = f"score {signed(row['score'])}"
        samples.append(Sample(str(row["query"]), [Answer("before", "Response", str(row["response"]), score)]))
        before, after = row["before"], row["after"]
        tables += [
            Table(BEFORE, [_before_cells(token) for token in before], _before_caption(before), brief=False,
                  title="Before training", open=True),
            Table(AFTER, [_after_cells(token) for token in after], _after_caption(after, run), brief=False,
                  title="After one update", open=True),
        ]  # fmt: skip
    return Section(titled("One sample, followed through", run, recipe), words, tables, samples=samples)


def _before_cells(token: dict[str, Any]) -> tuple[str, ...]:
    numbers = (number(token[name], 4) for name in BEFORE_FIELDS)
    return (_visible(token["text"]), str(token["token_id"]), *numbers, "yes" if token["clipped"] else "no")


def _after_cells(token: dict[str, Any]) -> tuple[str, ...]:
    moved = (number(token[name], 4) for name in ("log_prob", "kl", "ratio"))
    losses = (number(token[name], 4) for name in ("policy_loss", "value", "value_loss"))
    return (_visible(token["text"]), str(token["token_id"]), *moved, "yes" if token["clipped"] else "no", *losses)


def _before_caption(tokens: list[dict[str, Any]]) -> str:
    kl, reward = (math.fsum(token[name] for token in tokens) for name in ("kl", "reward"))
    return f"Sums over the response: KL {number(kl, 4)} nats, reward {number(reward, 4)}."


def _after_caption(tokens: list[dict[str, Any]], run: FinishedStage) -> str:
    moved = ("ratio", "policy_loss", "value_loss")
    means = {name: math.fsum(token[name] for token in tokens) / len(tokens) for name in moved}
    clipped = sum(bool(token["clipped"]) for token in tokens) / len(tokens)
    own = (
        f"Means over the response: ratio {number(means['ratio'], 4)}, clipped {percent(clipped)}, policy loss "
        f"{number(means['policy_loss'], 4)}, value loss {number(means['value_loss'], 4)}."
    )
    second = next((row for row in run.metrics if row.get("step") == 2), {})
    names = ("ratio", "clip_fraction", "policy", "value")
    if not all(is_number(second.get(name)) for name in names):
        return own
    logged = ", ".join(f"{name} {number(second[name], 4)}" for name in names)
    return f"{own} Over all responses of that update the log has: {logged}."


def _visible(text: Any) -> str:
    return str(text).replace("\n", "↵").replace(" ", "␣")
