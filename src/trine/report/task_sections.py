"""Section on a head of GPT-1's tasks: its accuracy beside baselines and another run, each with its interval."""

from typing import Any

from trine.report.plots import line_plot, loss_lines
from trine.report.run_reader import FinishedStage, RecipeRun
from trine.report.sections import Plot, Section, titled
from trine.report.tables import Table, number, whole

WORDS = (
    "A linear head reads the hidden state of the last token of a text, and language modelling on the texts is trained "
    "beside it with weight lambda. The accuracy on held-out examples is worth little without what costs nothing: the "
    "most frequent label, and the words in the text. Intervals are Wilson's, 95 %; p is the exact test of McNemar on "
    "the same examples, and the two numbers behind it are how many only this model, and only the other, got right. "
    "Scores have correlations in place of accuracies, beside the share of words that two texts have in common."
)


def task_section(run: FinishedStage, recipe: RecipeRun) -> Section:
    """How often the head is right."""
    figures = run.results.get("accuracies") or {}
    names = sorted(figures, key=lambda name: (name != "this model", -figures[name]["accuracy"]))
    rows: list[tuple[str, ...]] = [_row(name, figures[name]) for name in names]
    table = Table((run.name, "accuracy", "95 % interval", "p", "only this : only other"), rows, title="Accuracy")
    if run.results.get("correlations"):
        table = _correlations(run)
    title = f"Fine-tuning: {run.config['task']}"
    facts: list[tuple[str, ...]] = [
        ("training examples", whole(run.results.get("examples"))),
        ("held-out examples", whole(run.results.get("held_out_examples"))),
        ("lambda", number(run.results.get("auxiliary_weight"))),
        ("trained", str(run.results.get("trains"))),
        ("cut at row_tokens", whole(run.results.get("cut"))),
        ("dropped", whole(run.results.get("dropped"))),
    ]
    tables = [*([table] if table.rows else []), Table(("", ""), facts, brief=False, title="Examples and settings")]
    return Section(titled(title, run, recipe), WORDS, tables, _plots(run))


def _row(name: str, figure: dict[str, Any]) -> tuple[str, ...]:
    interval = f"{figure['low']:.3f} to {figure['high']:.3f}"
    if "p_value" not in figure:
        return name, f"{figure['accuracy']:.4f}", interval, "", ""
    counts = f"{figure['only_this_right']} : {figure['only_other_right']}"
    return name, f"{figure['accuracy']:.4f}", interval, f"{figure['p_value']:.2g}", counts


def _correlations(run: FinishedStage) -> Table:
    """Of a similarity that is given as a number."""
    names = ("pearson", "spearman", "this_more")
    figures = run.results["correlations"]
    rows: list[tuple[str, ...]] = [(each, *(_with_interval(figures[each], name) for name in names)) for each in figures]
    caption = "Correlation with the given scores; 95 % intervals, also of the difference, by bootstrap over groups."
    return Table((run.name, "Pearson", "Spearman", "this model's Pearson is higher by"), rows, caption, title="Scores")


def _with_interval(figure: dict[str, Any], name: str) -> str:
    if figure.get(name) is None:
        return ""
    interval = figure[f"{name}_interval"]
    return f"{figure[name]:.3f}" + (f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else "")


def _plots(run: FinishedStage) -> list[Plot]:
    """Both losses over steps, as far as they were logged."""
    plots = []
    for key, label, words in (
        ("classification", "cross-entropy of the label, nats", "L2, the loss of the labels."),
        ("squared_error", "squared error, standardised", "L2, the loss of the scores."),
        ("language_modelling", "cross-entropy, nats per token", "L1, the auxiliary loss, on all tokens of the texts."),
    ):
        steps, values = run.by_step(key)
        if steps:
            svg = line_plot(loss_lines(steps, values), "step", label, f"{run.name}: {label} over steps", counted=True)
            plots.append(Plot(svg, f"{words} Thin: each step; bold: running mean."))
    return plots
