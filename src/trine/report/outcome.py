"""What PPO changed: in scores, in figures that no reward sees, and in answers side by side."""

import math
import statistics
from pathlib import Path
from typing import Any, Literal

from trine.config.rewards import shown_reward
from trine.config.stages import PREFERENCE_PAIRS, REWARD_MODEL
from trine.report.before_after import before_after
from trine.report.plots import Group, histogram_plot
from trine.report.run_reader import FinishedStage, RecipeRun
from trine.report.sections import Answer, Plot, Sample, Section, titled, units
from trine.report.tables import ABSENT, Table, number, percent, share_of, signed, whole

REWARDS = ("reward", "held_out_reward")
SIDES: dict[Literal["before", "after", "person"], str] = {
    "before": "Before PPO", "after": "After PPO", "person": "What a person wrote",
}  # fmt: skip
HEADLINE = "Rewards, before and after PPO: mean and median"


def compares_policies(run: FinishedStage) -> bool:
    """Whether a run of `evaluate` was asked the task ppo, and not tasks alone."""
    return "before" in run.results or "tasks" not in run.results


def headline_section(run: FinishedStage, recipe: RecipeRun) -> Section:
    """What to look at first: the scores before and after, as distributions and as means and medians."""
    if not compares_policies(run):
        return Section(HEADLINE, "")
    words = (
        "PPO maximised the reward, so a gain there is expected; the held-out reward model is a second one, which PPO "
        "did not use. Good is a gain in both; a gain in the reward alone is reward hacking. A score has no zero and no "
        "unit of its own, only differences mean something: in deviations, they are divided by the standard deviation "
        f"of the scores before PPO ({_deviations(run)})."
    )
    tables = [rewards_table(run), *intervals_tables(run)]
    return Section(titled(HEADLINE, run, recipe), words, tables, _score_plots(run, recipe))


def _deviations(run: FinishedStage) -> str:
    names = {"reward": "reward", "held_out_reward": "held-out"}
    return ", ".join(f"{name} {number(run.results['before'][key].get('deviation'), 2)}" for key, name in names.items())


def reward_label(reward: str, run: FinishedStage) -> str:
    name = shown_reward(run.config.get(reward) or reward)
    role = "reward it learned from" if reward == "reward" else "held-out reward model"
    return role if name == reward else f"{role} ({name})"


def rewards_table(run: FinishedStage) -> Table:
    """Mean and median of both scores, before, after, and the gain in deviations of the scores before."""
    results = run.results
    rows: list[tuple[str, ...]] = []
    for reward in REWARDS:
        for statistic in ("mean", "median"):
            before, after = (results[side][reward][statistic] for side in ("before", "after"))
            gain = signed(after - before)
            if statistic == "mean":
                gain += f" ± {number(_standard_error(results, reward), 2)}"
            deviations = results.get(f"{reward}_gain_in_deviations", {}).get(statistic)
            label = f"{reward_label(reward, run)}, {statistic}"
            rows.append((label, number(before, 2), number(after, 2), gain, signed(deviations)))
        rows += _label_rows(results, reward, run)
    caption = (
        f"{whole(results.get('prompts'))} answers to held-out prompts on each side. In deviations: the gain over the "
        "standard deviation of the scores before. ± is one standard error of the mean gain, answer by answer."
    )
    if any("half the score" in row[0] for row in rows):
        caption += (
            " Where a score is the log-odds of a label, above 0 is called positive, and half the score is about the "
            "positive logit of a classifier with two logits, which is what is often averaged."
        )
    return Table(
        ("score", "before", "after", "gain", "in deviations"), rows, caption, title="Means and medians", open=True
    )


def intervals_tables(run: FinishedStage) -> list[Table]:
    """Mean and median of both scores with intervals over prompts, where the scores of single answers are known."""
    rows: list[tuple[str, ...]] = []
    samples = run.config.get("samples", 1)
    for reward in REWARDS:
        scores = run.results.get("scores", {}).get(reward, {})
        before, after = (scores.get(side) or [] for side in ("before", "after"))
        if before and len(before) == len(after):
            prompts = max(len(before) // samples, 1) if isinstance(samples, int) and samples > 0 else len(before)
            groups = [place % prompts for place in range(len(before))]  # a prompt's answers are as far apart
            name = reward_label(reward, run)
            rows += [
                (f"{name}, {each.statistic}", *each.cells[1:]) for each in before_after(before, after, groups, groups)
            ]
    caption = "95% intervals over prompts (bootstrap); a prompt's answers before and after are sampled together."
    columns = ("score", "before", "after", "gain")
    return [Table(columns, rows, caption, brief=False, title="Means and medians with intervals")] if rows else []


def _label_rows(results: dict[str, Any], reward: str, run: FinishedStage) -> list[tuple[str, ...]]:
    """Of plain text, whose reward models are learned from labels: how much is above 0, and half of the log-odds."""
    sides = [results[side][reward] for side in ("before", "after")]
    if any("positive_share" not in side for side in sides):
        return []
    shares = [float(side["positive_share"]) for side in sides]
    label = reward_label(reward, run)
    halves = {statistic: [float(side["half_score"][statistic]) for side in sides] for statistic in ("mean", "median")}
    return [
        (f"{label}, share above 0", *map(percent, shares), f"{100 * (shares[1] - shares[0]):+.1f} points", ABSENT),
        *(
            (f"{label}, half the score, {name}", *(number(each, 2) for each in pair), signed(pair[1] - pair[0]), ABSENT)
            for name, pair in halves.items()
        ),
    ]


def _standard_error(results: dict[str, Any], reward: str) -> float | None:
    """Of the mean gain: before and after answer the same prompts, so differences are taken prompt by prompt."""
    scores = results.get("scores", {}).get(reward, {})
    pairs = zip(scores.get("before", []), scores.get("after", []), strict=False)
    differences = [b - a for a, b in pairs if a is not None and b is not None]
    return statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else None


def evaluation_section(run: FinishedStage, recipe: RecipeRun) -> Section:
    """Figures besides the rewards, and where the two reward models come from."""
    if not compares_policies(run):
        return Section("What PPO changed", "")
    words = (
        "Both policies answer the same held-out prompts with the same seeds. Good is scores that rose while "
        "answers parse as often as before, distinct-2 (the share of token pairs that differ) has not collapsed, and "
        "length has not drifted: reward hacking shows here."
    )
    tables = [changes_table(run)]
    rewards = [reward for reward in REWARDS if recipe.made_at(run.config.get(reward), REWARD_MODEL)]
    if rewards:
        tables.append(_rewards_table(run, recipe, rewards))
    return Section(titled("What PPO changed", run, recipe), words, tables)


def changes_table(run: FinishedStage) -> Table:
    """Figures that no reward model sees, before and after, and those of the person's answers where there are any."""
    names = [name for name in ("before", "after", "person") if name in run.results]
    sides = [run.results[name] for name in names]
    parsing = [side.get("parsing", {}) for side in sides]
    parsed: list[tuple[str, ...]] = [
        ("completions that parse", *(_parsing(part, "share", _total(part)) for part in parsing)),
        ("  of those ended by themselves", *(_parsing(part, "ended_share", part.get("ended")) for part in parsing)),
        ("  of those cut at max_new_tokens", *(_parsing(part, "cut_share", part.get("cut")) for part in parsing)),
    ]
    rows: list[tuple[str, ...]] = [
        ("KL to the reference, nats per response", *(_kl(run, name) for name in names)),
        *(parsed if any(parsing) else []),
        ("ended by themselves", *(percent(side.get("ended_share")) for side in sides)),
        ("distinct-2", *(number(side.get("distinct_2")) for side in sides)),
        ("mean length, tokens", *(number(side.get("length"), 1) for side in sides)),
    ]
    caption = "A completion cut at max_new_tokens counts up to its last complete statement. ± is one standard error."
    if any("perplexity" in side for side in sides):
        rows.append(("perplexity under the policy before", *(number(side.get("perplexity"), 1) for side in sides)))
        caption = "Distinct-2 and perplexity are of the responses alone; what a person wrote is cut as samples are."
    headings = {"before": "before PPO", "after": "after PPO", "person": "a person"}
    return Table((run.name, *(headings[name] for name in names)), rows, caption, title="Before and after", open=True)


def _kl(run: FinishedStage, side: str) -> str:
    """0 before by definition; there is none of a person's answers."""
    return {"before": number(0.0, 2), "after": number(run.results.get("kl"), 2)}.get(side, ABSENT)


def _total(parsing: dict[str, Any]) -> int:
    return int(parsing.get("ended", 0) + parsing.get("cut", 0))


def _parsing(parsing: dict[str, Any], key: str, count: int | None) -> str:
    return f"{share_of(parsing.get(key), count)} (n {whole(count)})" if count else ABSENT


def _rewards_table(run: FinishedStage, recipe: RecipeRun, rewards: list[str]) -> Table:
    """What each reward model was trained on: the held-out one is independent as far as these differ."""
    rows: list[tuple[str, ...]] = []
    for reward in rewards:
        model = recipe.made_at(run.config.get(reward), REWARD_MODEL)
        assert model is not None
        pairs = recipe.made_at(model.config.get("preferences"), PREFERENCE_PAIRS)
        prompts = Path(str(pairs.config.get("examples", ""))).name if pairs else ABSENT
        samples = f"{pairs.name}, seed {pairs.config.get('seed', 0)}" if pairs else ABSENT
        seed, right = str(model.config.get("seed", 0)), percent(model.results.get("accuracy"))
        rows.append((reward_label(reward, run), prompts, samples, seed, right))
    caption = "The held-out reward model is independent of the other as far as these differ."
    return Table(
        ("reward model", "prompts", "samples", "seed", "accuracy"),
        rows,
        caption,
        brief=False,
        title="Where the two reward models come from",
    )


def _score_plots(run: FinishedStage, recipe: RecipeRun) -> list[Plot]:
    plots = []
    for reward in REWARDS:
        scores = run.results.get("scores", {}).get(reward, {})
        if scores.get("before") and scores.get("after"):
            groups: list[Group] = [
                ("before PPO", [score for score in scores["before"] if score is not None], "before"),
                ("after PPO", [score for score in scores["after"] if score is not None], "after"),
            ]
            unit = units(recipe.made_at(run.config.get(reward), REWARD_MODEL))
            label = reward_label(reward, run)
            svg = histogram_plot(groups, f"score, {unit}", f"{run.name}: scores of the {label} before and after PPO")
            plots.append(Plot(svg, f"Scores of single answers by the {label}; dashed: means."))
    return plots


def samples_section(run: FinishedStage, recipe: RecipeRun) -> Section:
    """Answers side by side."""
    words = (
        "Held-out prompts at even distances, none hand-picked: what the model wrote before and after PPO, "
        "and what a person wrote. An answer that was cut at max_new_tokens ends in …"
    )
    samples = [
        Sample(
            str(row.get("prompt", "")),
            [_answer(side, heading, row[side]) for side, heading in SIDES.items() if side in row],
        )
        for row in run.samples
    ]
    return Section(titled("Side by side", run, recipe), words, samples=samples)


def _answer(side: Literal["before", "after", "person"], heading: str, answer: dict[str, Any]) -> Answer:
    scores = [f"{reward} {signed(answer[reward])}" for reward in REWARDS if answer.get(reward) is not None]
    return Answer(side, heading, str(answer.get("text", "")), " · ".join(scores))


def completions_section(run: FinishedStage, recipe: RecipeRun) -> Section:
    """The three fixed prompts."""
    words = (
        "The same three prompts in every run, completed greedily: the pretrained model continues two beginnings, and "
        "both policies answer the third. Good is code that looks like Python and does what it is asked."
    )
    headings: dict[str, tuple[Literal["before", "after", "plain"], str]] = {
        "pretrained": ("plain", "Pretrained model"),
        "before": ("before", "Before PPO"),
        "after": ("after", "After PPO"),
    }
    samples = [
        Sample(
            str(row.get("prompt", "")),
            [Answer(side, heading, str(row[key])) for key, (side, heading) in headings.items() if key in row],
        )
        for row in run.results.get("completions", [])
    ]
    return Section(titled("Three fixed prompts", run, recipe), words, samples=samples)
