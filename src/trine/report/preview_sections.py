"""The over-optimisation preview: what of a reward's gain another reward keeps, before PPO."""

from pathlib import Path
from typing import Any

from trine.config.preview import PreviewConfig
from trine.config.rewards import shown_reward
from trine.config.stage import Printed
from trine.report.plots import Band, Colour, Line, line_plot
from trine.report.preview_outcome import kept_by_ppo, outcome_tables
from trine.report.run_reader import FinishedStage, RecipeRun
from trine.report.sections import Plot, Section, Verdict, titled
from trine.report.tables import ABSENT, Table, number, percent, signed, whole
from trine.runtime.files import read_json
from trine.stages.preferences.preview_figures import MIN_PROMPTS

Results = dict[str, Any]
WORDS = (
    "Before PPO, the best of n sampled answers is chosen by the reward that PPO will maximise, and another reward "
    "scores the same choices. Gains are in standard deviations of each one's scores over all samples, so that both "
    "curves have one unit. Good is a second curve close to the first. Where it flattens or falls, more KL "
    "buys only what the first reward is mistaken about (over-optimisation, Gao et al. 2022)."
)


def printed(config: PreviewConfig, folder: Path) -> Printed:
    """What `trine preview` writes at its end: the table, and the same sentences as the report."""
    results = read_json(folder / "done.json")
    lines = [curve_table(results).text(), "", *(each.spoken for each in sentences(results)), *_remarks(results)]
    return Printed("\n".join(lines) + "\n")


def verdicts(run: FinishedStage, recipe: RecipeRun) -> list[Verdict]:
    """What is kept, how much KL to spend, and what PPO then kept."""
    return [*sentences(run.results), *kept_by_ppo(run, recipe)]


def sentences(results: Results) -> list[Verdict]:
    """The share that survives, and where the other reward stops rising."""
    share, last = results["share_kept"], results["rows"][-1]
    if share is None:
        return [
            Verdict("The reward gives all answers of a prompt the same score: there is nothing to choose.", shown=False)
        ]
    low_share = share["interval"] is not None and share["interval"][1] < 0.5
    kept = (
        f"Of each unit of reward, {number(share['mean'], 2)}{_between(share)} survives a reward model that did not "
        f"choose (best of {whole(last['n'])})."
    )
    detail = (
        f"{whole(results['prompts'])} prompts, {whole(results['samples'])} answers each; gains in deviations: "
        f"{number(last['reward']['mean'], 2)} by the reward, {number(last['other']['mean'], 2)} by the other."
    )
    return [Verdict(kept, detail, shown=share["interval"] is not None, warning=low_share), _spend(results)]


def _between(figure: Results) -> str:
    """The interval, such as " (95% interval 0.41 to 0.62)"."""
    between = figure["interval"]
    return f" (95% interval {number(between[0], 2)} to {number(between[1], 2)})" if between else ""


def _spend(results: Results) -> Verdict:
    """How much KL to spend."""
    spend = results["spend"]
    if not spend["known"]:
        return Verdict(f"How much KL to spend cannot be said of fewer than {MIN_PROMPTS} prompts.", shown=False)
    nats = f"best of {whole(spend['n'])}, {number(spend['nats'], 2)} nats"
    if spend["falls_from"] is not None:
        return Verdict(
            f"The other reward rises to {nats}, and falls from best of {whole(spend['falls_from'])} on: spend no more.",
            warning=True,
        )
    if spend["rises_to_the_end"]:
        return Verdict(f"The other reward still rises at {nats}: no limit to the KL was found up to there.")
    if spend["n"] == 1:
        return Verdict("No gain is shown by the other reward at any n.", shown=False)
    return Verdict(f"The other reward is shown to rise up to {nats}; more KL is not shown to be worth anything.")


def _remarks(results: Results) -> list[str]:
    """Repeats, agreement, and what conditioning would cost."""
    again, agreement, above = results["repeats"], results["agreement"], results["above_zero"]
    lines = []
    if again["answers"]:
        lines.append(
            f"{percent(again['share'])} of the answers repeat another one of their prompt ({whole(again['prompts'])} "
            "prompts): the nats of best of n are an upper bound."
        )
    if agreement is not None:
        lines.append(
            f"Of two answers to a prompt both rewards prefer the same one in {percent(agreement['mean'])} of the cases."
        )
    if above["nats"] is not None:
        lines.append(
            f"{percent(above['share'])} of the answers score above 0; writing none but those costs "
            f"{number(above['nats'], 2)} nats."
        )
    return lines


def preview_section(run: FinishedStage, recipe: RecipeRun) -> Section:
    """Both curves over the KL of best of n, and the table behind them."""
    tables = [curve_table(run.results), *outcome_tables(run, recipe), _facts(run)]
    return Section(titled("Over-optimisation preview", run, recipe), WORDS, tables, [_curves(run)])


def _facts(run: FinishedStage) -> Table:
    names: list[tuple[str, ...]] = [
        ("chooses", shown_reward(run.config.get("reward", ""))),
        ("does not choose", str(run.config.get("other", ""))),
        ("prompts, answers to each", f"{whole(run.results['prompts'])}, {whole(run.results['samples'])}"),
        ("remarks", " ".join(_remarks(run.results)) or ABSENT),
    ]
    return Table(("", ""), names, prose=True, title="Rewards and answers")


def curve_table(results: Results) -> Table:
    """A row for each n."""
    rows = [
        (
            f"best of {whole(row['n'])}", number(row["nats"], 2), number(row["estimated_nats"], 2),
            _gain(row["reward"]), _gain(row["other"]),
            number(row["share_kept"]["mean"], 2) + _brief(row["share_kept"]) if row["share_kept"] else ABSENT,
        )
        for row in results["rows"]
    ]  # fmt: skip
    caption = (
        "Nats: log n - (n-1)/n, an upper bound where answers repeat; the next column counts the repeats of these "
        "samples. Gains in deviations of all samples' scores, with 95% intervals over prompts; kept: the second gain "
        "over the first."
    )
    columns = ("", "nats at most", "with repeats", "gain, reward", "gain, other", "kept")
    return Table(columns, rows, caption, title="Best of n", open=True)


def _gain(figure: Results) -> str:
    return signed(figure["mean"]) + _brief(figure)


def _brief(figure: Results) -> str:
    between = figure["interval"]
    return f" ({number(between[0], 2)} to {number(between[1], 2)})" if between and between[0] != between[1] else ""


def _curves(run: FinishedStage) -> Plot:
    rows = run.results["rows"]
    nats = [float(row["nats"]) for row in rows]
    sides: tuple[tuple[str, str, Colour], ...] = (
        ("reward", "the reward that chooses", "after"),
        ("other", "a reward that did not choose", "accent"),
    )
    lines = [Line(nats, [row[side]["mean"] for row in rows], label, colour) for side, label, colour in sides]
    bands = [
        Band(nats, [row[side]["interval"][0] for row in rows], [row[side]["interval"][1] for row in rows], colour)
        for side, _, colour in sides
        if all(row[side]["interval"] for row in rows)
    ]
    svg = line_plot(
        lines,
        "KL from the policy, nats (at most)",
        "gain, deviations",
        f"{run.name}: best of n by two rewards",
        bands=bands,
    )
    caption = (
        f"Best of 1 to {whole(rows[-1]['n'])} answers, chosen by one reward and scored by both; areas: 95% intervals "
        "over prompts."
    )
    return Plot(svg, caption, leading=True)
