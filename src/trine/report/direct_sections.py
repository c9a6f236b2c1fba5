"""Sections on preferences without rollouts (`trine dpo`), and on the best of n samples."""

from trine.report.data_sections import first_record, prompt_text
from trine.report.overview import Results
from trine.report.plots import Colour, Line, line_plot, loss_lines
from trine.report.run_reader import FinishedStage, RecipeRun
from trine.report.sections import Answer, Plot, Sample, Section, titled
from trine.report.tables import Table, number, percent, signed, whole

# Metrics of one plot (chosen, rejected), its vertical axis, its caption.
CURVES: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        ("chosen_log_ratio", "rejected_log_ratio"),
        "log-ratio to the reference, nats per token",
        "How much more likely answers are than under the reference, per token. The margin is the distance of the two; "
        "good is a chosen line that does not fall.",
    ),
    (
        ("chosen_log_prob", "rejected_log_prob"),
        "log-probability, nats per token",
        "Log-probability of the answers of each step, per token.",
    ),
    (("margin",), "margin", "The margin that the loss is of: how much further than the reference, times beta."),
    (
        ("accuracy",),
        "accuracy",
        "Share of each step's items on the right side: pairs whose margin is above 0 (KTO: answers beyond z0).",
    ),
    (("reference_point",), "z0, nats", "KTO's reference point: an estimate of the KL divergence from the reference."),
)
FIGURES = {
    "preference": "loss",
    "accuracy": "accuracy",
    "margin": "margin",
    "chosen_log_prob": "chosen, log-probability per token",
    "rejected_log_prob": "rejected, log-probability per token",
    "chosen_log_ratio": "chosen, log-ratio to the reference per token",
    "rejected_log_ratio": "rejected, log-ratio to the reference per token",
}


def dpo_overview(results: Results) -> str:
    accuracy = results.get("held_out_accuracy")
    right = f"; {percent(accuracy)} of held-out ones on the right side" if accuracy is not None else ""
    return f"a policy from {whole(results.get('items'))} preferences{right}"


def best_of_n_overview(results: Results) -> str:
    best, mean = ((results.get(name) or {}).get("mean") for name in ("best_score", "score"))
    count, samples = whole(results.get("examples")), whole(results.get("samples"))
    return f"{count} examples, each the best of {samples} samples; mean score {number(best)} against {number(mean)}"


def dpo_section(run: FinishedStage, recipe: RecipeRun) -> Section:
    """Loss, likelihoods and margins."""
    words = (
        f"The policy learns from preferences by the loss {run.config.get('loss', 'dpo')}, without sampling. DPO's "
        "loss is 0.69 where the policy is still its reference. A margin can grow while the chosen answers become less "
        "likely, as long as the rejected ones fall faster, so both are shown."
    )
    tables = [table for table in (_figures(run), _account(run)) if table.rows]
    return Section(titled("Preferences without sampling", run, recipe), words, tables, _plots(run))


def _figures(run: FinishedStage) -> Table:
    rows: list[tuple[str, ...]] = []
    window = 1
    for key, label in FIGURES.items():
        values = run.by_step(key)[1]
        held_out = run.results.get(f"held_out_{key}")
        if values:
            window = max(1, len(values) // 10)
            means = (sum(part) / window for part in (values[:window], values[-window:]))
            rows.append((label, *(number(mean) for mean in means), "" if held_out is None else number(held_out)))
    fell = run.results.get("chosen_change")
    caption = f"Means of the first and the last {window} steps; held out: at the end."
    if fell:
        caption += f" Chosen answers at the end: {signed(fell, 3)} nats per token."
    return Table((run.name, "first", "last", "held out"), rows, caption, title="The curves in numbers")


def _account(run: FinishedStage) -> Table:
    rows: list[tuple[str, ...]] = [("preferences learned from", whole(run.results.get("items")))]
    for name, account in (run.results.get("account") or {}).items():
        part = name.replace("_", " ")
        rows += [(f"{part}: records", whole(account["records"])), (f"{part}: kept whole", whole(account["kept"]))]
        rows += [
            (f"{part}: {what}, {reason}", whole(count))
            for what in ("cut", "dropped")
            for reason, count in account[what].items()
        ]
    weights = run.results.get("class_weights")
    if weights:
        rows.append(("weights of good and bad answers", f"{number(weights[0])}, {number(weights[1])}"))
    return Table(("", ""), rows, brief=False, title="What became of the records")


def _plots(run: FinishedStage) -> list[Plot]:
    plots = []
    steps, losses = run.by_step("preference")
    if steps:
        svg = line_plot(loss_lines(steps, losses), "step", "loss", f"{run.name}: loss over steps", counted=True)
        plots.append(Plot(svg, "Training loss, without the cross-entropy of chosen answers."))
    colours: tuple[Colour, ...] = ("person", "before")
    for keys, y_label, caption in CURVES:
        labels = ("chosen", "rejected") if len(keys) > 1 else ("",)
        curves = zip(keys, labels, colours, strict=False)
        lines = [Line(*run.by_step(key), label, colour) for key, label, colour in curves if run.by_step(key)[0]]
        if lines:
            svg = line_plot(lines, "step", y_label, f"{run.name}: {keys[0]} over steps", counted=True, compact=True)
            plots.append(Plot(svg, caption))
    return plots


def best_of_n_section(run: FinishedStage, recipe: RecipeRun) -> Section:
    """How much better than a sample the best of n is, and one of them."""
    words = (
        f"To each prompt {whole(run.results.get('samples'))} answers were sampled; the one that the reward scores "
        "highest is an example to fine-tune on. Shown is the first record of train.jsonl; nothing is chosen by how it "
        "looks."
    )
    rows: list[tuple[str, ...]] = [
        (label, number((run.results.get(key) or {}).get("mean")))
        for key, label in (("score", "mean score of all samples"), ("best_score", "mean score of the best"))
    ]
    rows.append(("KL of best of n from the policy, nats, at most", number(run.results.get("nats"))))
    labels = {"examples": "examples", "none_ended": "prompts none of whose samples ended"}
    rows += [(label, whole(run.results.get(key))) for key, label in labels.items()]
    row = first_record(run, recipe)
    samples = []
    if row is not None:
        answer = Answer("after", "The best", str(row.get("response", "")), f"score {number(row.get('score'))}")
        samples = [Sample(prompt_text(row), [answer])]
    return Section(titled("Best of n", run, recipe), words, [Table(("", ""), rows, title="Best of n")], samples=samples)
