"""The section on PPO: its curves, rewards at its beginning and end, and what reward cost in KL.

Alarms that training raised (`stages/rl/alarms.py`) stand on top of the page.
"""

from typing import Any

from trine.config.rewards import shown_reward
from trine.config.stages import REWARD_MODEL
from trine.report.before_after import before_after
from trine.report.plots import Colour, Group, Line, histogram_plot, line_plot
from trine.report.run_reader import FinishedStage, RecipeRun, is_number
from trine.report.sections import Plot, Section, Verdict, titled, units
from trine.report.tables import Table, duration, number, percent, whole
from trine.stages.rl.alarms import ALARMS

EXPLAINED_VARIANCE = "Explained variance of the returns by the critic: 1 is perfect, 0 no better than a constant."
APPROXIMATE_KL = "Approximate KL between the policy before and after an iteration's updates: should stay small."
Curves = tuple[tuple[str, str], ...]
"""Metrics of one plot, each with its label."""
# Curves, their vertical axis, the caption.
PPO_CURVES: tuple[tuple[Curves, str, str], ...] = (
    (
        (("score", "mean"), ("score_median", "median"), ("held_out_score", "held-out reward model")),
        "reward",
        "Reward of each iteration's responses: should rise, and the held-out reward model's with it.",
    ),
    ((("kl", ""),), "KL divergence, nats per response", "KL divergence from the reference: should level off."),
    (
        (("length", "mean"), ("length_shortest", "shortest"), ("length_longest", "longest")),
        "response length, tokens",
        "Length of responses. A steady drift, up or down, may be reward hacking.",
    ),
    ((("entropy", ""),), "entropy, nats per token", "Entropy of the policy. A fall to 0 is collapse."),
    (
        (("clip_low", "ratio too low"), ("clip_high", "ratio too high")),
        "clip fraction",
        "Clip fraction: share of tokens with a clipped ratio, by the bound that clips. Up to about 0.2 is usual.",
    ),
    ((("explained_variance", ""),), "explained variance", EXPLAINED_VARIANCE),
    ((("kl_coefficient", ""),), "KL coefficient", "KL coefficient: what the reward is reduced by for a nat of KL."),
    ((("approximate_kl", ""),), "approximate KL, nats", APPROXIMATE_KL),
    (
        (("ended_share", "ended"), ("zero_variance_share", "scores all alike")),
        "share of responses",
        "Responses that ended with the end token within max_new_tokens; and those whose prompt's responses all have "
        "one score, from which nothing is learned.",
    ),
)  # fmt: skip
COLOURS: tuple[Colour, ...] = ("accent", "before", "after", "person", "ink")
PPO_FIGURES = {
    "score": "score, mean",
    "score_median": "score, median",
    "score_deviation": "score, standard deviation",
    "held_out_score": "held-out reward model, mean",
    "kl": "KL to the reference, nats per response",
    "length": "response length, tokens",
    "ended_share": "ended by themselves",
    "zero_variance_share": "scores all alike, share of responses",
    "entropy": "entropy, nats per token",
    "ratio": "ratio, mean",
    "clip_fraction": "clip fraction",
    "clip_low": "  clipped below",
    "clip_high": "  clipped above",
    "explained_variance": "explained variance",
    "approximate_kl": "approximate KL, nats per token",
    "kl_coefficient": "KL coefficient",
}


def verdicts(run: FinishedStage, recipe: RecipeRun) -> list[Verdict]:
    """The alarms of a run, each with the iterations in which it held."""
    total = len(run.by_iteration("score")[0])
    found = []
    for name, alarm in ALARMS.items():
        held = [int(iteration) for iteration in run.by_iteration(f"alarm_{name}")[0]]
        if held:
            when = f"iteration {held[0]}" if len(held) == 1 else f"{len(held)} iterations, the first of them {held[0]}"
            sentence = f"{run.name}: {alarm.meaning} ({when} of {whole(total)})."
            found.append(Verdict(sentence, f"{alarm.advice[:1].upper()}{alarm.advice[1:]}.", warning=True))
    return found


def ppo_section(run: FinishedStage, recipe: RecipeRun) -> Section:
    """The curves of PPO, iteration by iteration."""
    words = (
        "In every iteration the policy answers a batch of prompts, the reward scores the answers, and updates make "
        "answers with a positive advantage more likely, with a KL penalty against the reference policy. Good is a "
        "score that rises while KL stays moderate and entropy, length and the share of responses that end stay steady."
    )
    kl = run.config.get("kl") or {}
    target = f"adapted to a target of {kl['target']:g} nats per response" if kl.get("target") else "fixed"
    rows: list[tuple[str, ...]] = [
        ("iterations", whole(run.results.get("iterations"))),
        ("responses per iteration", whole(run.config.get("batch_size"))),
        ("reward", shown_reward(run.config.get("reward", ""))),
        ("KL coefficient", f"{number(kl.get('coefficient'))}, {target}"),
    ]
    tables = [*_ends_tables(run), *(table for table in (_ppo_table(run), _phases_table(run)) if table.rows)]
    tables.append(Table(("", ""), rows, brief=False, title="Settings"))
    plots = [*_frontier(run, recipe), *_ppo_plots(run), *_ends_plot(run, recipe)]
    return Section(titled("PPO", run, recipe), words, tables, plots)


def _ppo_table(run: FinishedStage) -> Table:
    """Means over the first and the last iterations: the curves in numbers."""
    rows: list[tuple[str, ...]] = []
    window = 1
    parts = {name: f"  {name.removeprefix('part_')}" for name in _names(run, "part_")}
    for key, label in _with_parts(parts):
        values = run.by_iteration(key)[1]
        if values:
            window = max(1, len(values) // 10)
            digits = 4 if key == "approximate_kl" else 3
            ends = (values[:window], values[-window:])
            rows.append((label, *(number(sum(part) / window, digits) for part in ends)))
    caption = f"Means of the first and last {window} iterations." if window > 1 else ""
    return Table((run.name, "first", "last"), rows, caption, title="The curves in numbers")


def _with_parts(parts: dict[str, str]) -> list[tuple[str, str]]:
    """The figures, with the parts of the reward below its mean."""
    first, *rest = PPO_FIGURES.items()
    return [first, *parts.items(), *rest]


def _names(run: FinishedStage, prefix: str) -> list[str]:
    """Metrics of the log whose names begin with `prefix`, in the order in which they come."""
    return list(dict.fromkeys(name for row in run.metrics for name in row if name.startswith(prefix)))


def _phases_table(run: FinishedStage) -> Table:
    """Seconds of a mean iteration by phase; what is in none of them is the rest."""
    iterations = max(1, len(run.by_iteration("score")[0]))
    of_all = sum(run.by_step("seconds")[1])
    phases = {name.removeprefix("seconds_"): sum(run.by_step(name)[1]) for name in _names(run, "seconds_")}
    if not phases or not of_all:
        return Table(("", ""), [])
    phases["the rest"] = of_all - sum(phases.values())
    rows: list[tuple[str, ...]] = [
        (name.replace("_", " "), f"{seconds / iterations:.3f}", percent(seconds / of_all))
        for name, seconds in phases.items()
    ]
    return Table(("seconds", "an iteration", "share"), rows, f"{duration(of_all)} in all.", brief=False, title="Time")


def _ppo_plots(run: FinishedStage) -> list[Plot]:
    plots = []
    parts = tuple((name, name.removeprefix("part_")) for name in _names(run, "part_"))[: len(COLOURS)]
    of_parts = ((parts, "reward, by part", "Parts of the reward, each over the responses it applies to."),)
    for curves, y_label, caption in (*PPO_CURVES, *(of_parts if parts else ())):
        drawn = [(run.by_iteration(key), label, colour) for (key, label), colour in zip(curves, COLOURS, strict=False)]
        lines = [Line(*series, label, colour) for series, label, colour in drawn if series[0]]
        if lines:
            says = f"{run.name}: {curves[0][0]} over iterations"
            svg = line_plot(lines, "PPO iteration", y_label, says, counted=True, compact=True)
            plots.append(Plot(svg, caption))
    return plots


# The first and the last iteration


def _ends(run: FinishedStage) -> dict[str, dict[str, Any]]:
    """Scores of the first and the last iteration, by side; empty where they are not known."""
    ends = run.results.get("scores") or {}
    return ends if all(ends.get(side, {}).get("scores") for side in ("first", "last")) else {}


def _ends_tables(run: FinishedStage) -> list[Table]:
    """Mean and median of both, and the gain, with intervals."""
    ends = _ends(run)
    if not ends:
        return []
    first, last = ends["first"], ends["last"]
    offset = 1 + max(first["prompts"])
    found = before_after(first["scores"], last["scores"], first["prompts"], [n + offset for n in last["prompts"]])
    caption = "Fresh responses to each iteration's own prompts; 95% intervals over prompts (bootstrap)."
    columns = ("score", "first iteration", "last iteration", "gain")
    return [Table(columns, [each.cells for each in found], caption, title="First and last iteration", open=True)]


def _ends_plot(run: FinishedStage, recipe: RecipeRun) -> list[Plot]:
    ends = _ends(run)
    if not ends:
        return []
    groups: list[Group] = [
        ("first iteration", ends["first"]["scores"], "before"),
        ("last iteration", ends["last"]["scores"], "after"),
    ]
    unit = units(recipe.made_at(run.config.get("reward"), REWARD_MODEL))
    svg = histogram_plot(groups, f"score, {unit}", f"{run.name}: scores of the first and the last iteration")
    return [Plot(svg, "Scores of single responses by the reward; dashed: means.")]


# Reward and KL


def _frontier(run: FinishedStage, recipe: RecipeRun) -> list[Plot]:
    """Gain over KL, iteration by iteration, with the best of n of a preview by the same reward drawn in."""
    lines = [
        *_gain_over_kl(run, "score", "the reward", "after"),
        *_gain_over_kl(run, "held_out_score", "held-out reward model", "accent"),
    ]
    if not lines:
        return []
    best = [line for preview in _previews(run, recipe) for line in _best_of_n(preview)]
    svg = line_plot([*lines, *best], "KL to the reference, nats per response", "gain, deviations",
                    f"{run.name}: gain in reward over KL")  # fmt: skip
    dashed = " Dashed: best of n answers of the policy before PPO (preview)." if best else ""
    caption = "What KL bought: each iteration, gains in deviations of the first iteration's scores."
    return [Plot(svg, caption + dashed, leading=True)]


def _gain_over_kl(run: FinishedStage, name: str, label: str, colour: Colour) -> list[Line]:
    """Points in order of KL, so that the line is a frontier and no path."""
    rows = [row for row in run.metrics if is_number(row.get("kl")) and is_number(row.get(name))]
    deviation = rows[0].get(f"{name}_deviation") if rows else None
    if len(rows) < 2 or not is_number(deviation) or not deviation:
        return []
    points = sorted((float(row["kl"]), (float(row[name]) - float(rows[0][name])) / float(deviation)) for row in rows)
    return [Line([kl for kl, _ in points], [gain for _, gain in points], label, colour)]


def _previews(run: FinishedStage, recipe: RecipeRun) -> list[FinishedStage]:
    """Previews by this run's reward."""
    wanted = shown_reward(run.config.get("reward", ""))
    return [each for each in recipe.of_stage("preview") if shown_reward(each.config.get("reward", "")) == wanted][:1]


def _best_of_n(preview: FinishedStage) -> list[Line]:
    rows = preview.results["rows"]
    nats = [float(row["nats"]) for row in rows]
    sides: tuple[tuple[str, str, Colour], ...] = (
        ("reward", "best of n, the reward", "after"),
        ("other", "best of n, the other reward", "accent"),
    )
    return [
        Line(nats, [float(row[side]["mean"]) for row in rows], label, colour, "dashed") for side, label, colour in sides
    ]
