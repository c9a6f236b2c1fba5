"""Sections on fine-tuning and reward models; and the plot of a training loss."""

from dataclasses import replace
from typing import Any

from trine.config.stages import PREFERENCE_PAIRS
from trine.report.plots import Group, Line, histogram_plot, line_plot, loss_lines, reliability_plot
from trine.report.run_reader import FinishedStage, RecipeRun
from trine.report.sections import Plot, Section, TokenRow, titled, units
from trine.report.tables import Table, number, share_of, whole
from trine.report.task_sections import task_section


def loss_plot(run: FinishedStage, key: str, y_label: str) -> list[Plot]:
    """The training loss over steps, when it was logged."""
    steps, values = run.by_step(key)
    if not steps:
        return []
    svg = line_plot(loss_lines(steps, values), "step", y_label, f"{run.name}: {y_label} over steps", counted=True)
    return [Plot(svg, "Training loss. Thin: each step; bold: running mean.")]


def finetune_section(run: FinishedStage, recipe: RecipeRun) -> Section:
    """How well the model predicts the answers."""
    if run.config.get("task"):
        return task_section(run, recipe)
    weight = run.config.get("prompt_weight") or 0
    counted = f"answer tokens, and prompt tokens at weight {weight:g}" if weight else "answer tokens only"
    words = (
        f"The model is trained to answer prompts. The training loss counts {counted}, in nats per token; held-out "
        "cross-entropy counts the answers of held-out examples. Lower is better; held-out is usually the higher of the "
        "two, and if it rises while training falls, the model is memorising."
    )
    rows: list[tuple[str, ...]] = [("examples", whole(run.results.get("examples")))]
    last = run.by_step("cross_entropy")[1][-20:]
    if last:
        rows.append((f"training cross-entropy, mean of last {len(last)} steps", number(sum(last) / len(last))))
    if "held_out_cross_entropy" in run.results:
        rows.append(("held-out cross-entropy", number(run.results["held_out_cross_entropy"])))
    tables = [Table(("", ""), rows, title="Examples and cross-entropy"), *_account_tables(run)]
    plots = loss_plot(run, "cross_entropy", "cross-entropy, nats per token")
    return Section(titled("Fine-tuning", run, recipe), words, tables, plots, token_rows=_token_rows(run))


def _account_tables(run: FinishedStage) -> list[Table]:
    """What became of the records: kept whole, cut, dropped."""
    parts = run.results.get("account") or {}
    rows: list[tuple[str, ...]] = []
    for name, account in parts.items():
        part = name.replace("_", " ")
        rows += [(f"{part}: records of {form}", whole(count)) for form, count in account["forms"].items()]
        rows.append((f"{part}: examples kept whole", whole(account["kept"])))
        for what in ("cut", "dropped"):
            rows += [(f"{part}: {what}, {reason}", whole(count)) for reason, count in account[what].items()]
    return [Table(("", ""), rows, title="What became of the records")] if rows else []


def _token_rows(run: FinishedStage) -> list[TokenRow]:
    """The first training rows, as `--show` prints them."""
    return [
        TokenRow(
            f"row {row['row']} of {row['of']}",
            [
                (example["place"], list(zip(example["tokens"], example["trained"], strict=True)))
                for example in row["examples"]
            ],
        )
        for row in run.shown_rows
    ]


def reward_section(run: FinishedStage, recipe: RecipeRun) -> Section:
    """The accuracy of a reward model, beside that of baselines that do not read the text."""
    source = " (here: what a person wrote)" if recipe.made_at(run.config.get("preferences"), PREFERENCE_PAIRS) else ""
    words = (
        f"From pairs of answers the model learns a score that is higher for the chosen one{source} than for the "
        "rejected one. Chance is 50%; good is well above the classifiers that see only length or only the bag of "
        "tokens, and about as good on pairs of similar length. ± is one standard error."
    )
    if "accuracy" not in run.results:
        table = Table(("", ""), [("training pairs", whole(run.results.get("training_pairs")))])
    else:
        table = accuracy_table(run.name, run.results)
    return Section(titled("Reward model", run, recipe), words, [table], _reward_plots(run))


def accuracy_table(name: str, results: dict[str, Any]) -> Table:
    """Held-out accuracy of the model and of its two baselines."""
    pairs, alike = int(results.get("pairs", 0)), int(results.get("pairs_alike_lengths", 0))
    rows: list[tuple[str, ...]] = [
        ("reward model", share_of(results.get("accuracy"), pairs), whole(pairs)),
        ("reward model, lengths within 2 tokens", share_of(results.get("accuracy_alike_lengths"), alike), whole(alike)),
        ("a classifier that sees only length", share_of(results.get("accuracy_length_only"), pairs), whole(pairs)),
        ("a classifier on the bag of tokens", share_of(results.get("accuracy_bag_of_tokens"), pairs), whole(pairs)),
    ]
    caption = f"Share of held-out pairs ranked right; all trained on {whole(results.get('training_pairs'))} pairs."
    return Table((name, "accuracy", "pairs"), rows, caption, title="Accuracy beside baselines")


REWARD_LOSSES = {
    "ranking": "ranking loss, nats per pair",  # of runs that learned from pairs alone
    "pair_loss": "loss of pairs, nats",
    "ranking_loss": "loss of rankings, nats",
    "label_loss": "loss of labels, nats",
    "score_loss": "squared error of standardised scores",
}


def _reward_plots(run: FinishedStage) -> list[Plot]:
    caption = "Loss in training; of labels and pairs ln 2 = 0.69 is chance, of standardised scores 1."
    plots = [
        replace(plot, caption=caption) for key, label in REWARD_LOSSES.items() for plot in loss_plot(run, key, label)
    ]
    plots += _accuracy_plot(run)
    results = run.results
    if results.get("reliability"):
        svg = reliability_plot(results["reliability"], f"{run.name}: reliability")
        caption = "Calibration: confidence is the sigmoid of the score difference; dashed: perfect calibration."
        plots.append(Plot(svg, caption))
    if results.get("chosen_scores"):
        groups: list[Group] = [
            ("rejected", results["rejected_scores"], "before"),
            ("chosen", results["chosen_scores"], "person"),
        ]
        svg = histogram_plot(groups, f"score, {units(run)}", f"{run.name}: scores of chosen and rejected")
        plots.append(Plot(svg, "Scores of held-out answers; dashed: means."))
    return plots


def _accuracy_plot(run: FinishedStage) -> list[Plot]:
    steps, values = run.by_step("accuracy")
    if not steps:
        return []
    lines = loss_lines(steps, values)
    held_out = run.by_step("held_out_accuracy")
    if held_out[0]:
        lines.append(Line(*held_out, "held out", "after"))
    svg = line_plot(lines, "step", "accuracy", f"{run.name}: accuracy over steps", counted=True)
    return [Plot(svg, "Accuracy: share of the pairs of each training batch ranked right.")]
