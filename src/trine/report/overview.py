"""The section that says what was run, and for each kind of stage a few words on its results (done.json)."""

from typing import Any

from trine.config.registry import STAGES
from trine.config.stage import follow
from trine.report.run_reader import FinishedStage, RecipeRun
from trine.report.sections import MISSHAPEN, Section
from trine.report.tables import ABSENT, Table, duration, number, percent, whole

COMMIT_LENGTH = 12
Results = dict[str, Any]


def overview_section(recipe: RecipeRun) -> Section:
    """What was run, on what, and how long it took."""
    seconds = [run.seconds for run in recipe.stages if run.seconds is not None]
    rows = [(_named(run), duration(run.seconds), _made(run)) for run in recipe.stages]
    rows.append(("total", duration(sum(seconds)), ""))
    return Section(
        "What was run",
        "The stages in order, what each made and how long it took. The same recipe, seed and versions on the same "
        "kind of machine make the same models.",
        [
            Table(("stage", "time", "what it made"), rows, prose=True, title="Stages"),
            Table(("", ""), _facts(recipe), prose=True, title="Seed, corpus, versions"),
        ],
    )


def _named(run: FinishedStage) -> str:
    return run.name if run.name == run.stage else f"{run.name} ({run.stage})"


def _made(run: FinishedStage) -> str:
    stage = STAGES.get(run.stage)
    try:
        return str(follow(stage.overview)(run.results)) if stage is not None and stage.overview else ""
    except MISSHAPEN:
        return f"{ABSENT} (done.json is damaged)"


def _facts(recipe: RecipeRun) -> list[tuple[str, ...]]:
    made_with = recipe.made_with()
    if "commit" in made_with:
        made_with["commit"] = ", ".join(commit[:COMMIT_LENGTH] for commit in made_with["commit"].split(", "))
    rows: list[tuple[str, ...]] = [("seed", str(recipe.seed))]
    if recipe.plan is not None:
        rows.append(("plan", recipe.plan))
    elif recipe.minutes is not None:
        rows.append(("budget", f"{recipe.minutes:g} minutes"))
    corpora = dict.fromkeys(str(run.results["corpus"]) for run in recipe.stages if "corpus" in run.results)
    return [*rows, *(("corpus", text) for text in corpora), *made_with.items()]


def tokenizer(results: Results) -> str:
    return f"{whole(results.get('vocab_size'))} tokens, {number(results.get('bytes_per_token'), 2)} bytes each"


def reasoning(results: Results) -> str:
    return f"{whole(results.get('train'))} prompts to train on, {whole(results.get('held_out'))} held out"


def split(results: Results) -> str:
    parts = results.get("parts", {})
    return ", ".join(f"{name} {whole(part['records'])} texts" for name, part in parts.items())


def shards(results: Results) -> str:
    documents, tokens = (_over_parts(results, key) for key in ("documents", "tokens"))
    each = number(results.get("bytes_per_token"), 2)
    return f"{whole(documents)} documents in {whole(tokens)} tokens, {each} bytes each"


def _over_parts(results: Results, key: str) -> float:
    """Sum over the training part and the held-out ones."""
    return sum(part.get(key, 0) for part in (results.get("parts") or {}).values())


def pretrain(results: Results) -> str:
    return f"{whole(results.get('parameters'))} parameters, trained on {whole(results.get('tokens'))} tokens"


def functions(results: Results) -> str:
    train, apart, held_out = (whole(results.get(key)) for key in ("train", "held_out_reward", "held_out"))
    return f"{train} tasks for training, {apart} for the held-out reward model, {held_out} held out"


def finetune(results: Results) -> str:
    if results.get("task"):
        found = f"accuracy {percent(results.get('held_out_accuracy'))}"
        if "held_out_pearson" in results:
            found = f"correlation (Pearson) {number(results['held_out_pearson'])}"
        return f"a head trained on {whole(results.get('examples'))} examples; {found} on held-out ones"
    return f"trained on {whole(results.get('examples'))} examples"


def preferences(results: Results) -> str:
    train, held_out, left_out = (whole(results.get(key)) for key in ("train", "held_out", "left_out"))
    return f"{train} pairs for training, {held_out} held out; {left_out} samples reached max_new_tokens"


def reward(results: Results) -> str:
    records = results.get("records", {}).get("train") or {"pair": results.get("training_pairs")}
    trained = ", ".join(f"{whole(count)} {kind}s" for kind, count in records.items())
    figures = {
        "accuracy": "pairs", "held_out_label_accuracy": "labels", "held_out_ranking_accuracy": "rankings",
    }  # fmt: skip
    found = [f"{percent(results[key])} on held-out {kind}" for key, kind in figures.items() if key in results]
    scores = results.get("held_out_score_spearman")
    told = [f"accuracy {', '.join(found)}"] * bool(found) + [f"Spearman {number(scores)} of scores"] * (
        scores is not None
    )
    return "; ".join([f"trained on {trained}", *told])


def preview(results: Results) -> str:
    share = results.get("share_kept") or {}
    return (
        f"best of {whole(results.get('samples'))}: the other reward keeps {percent(share.get('mean'), 0)} of the gain"
    )


def ppo(results: Results) -> str:
    return f"{whole(results.get('iterations'))} iterations"


def evaluate(results: Results) -> str:
    tasks = results.get("tasks", {})
    asked = f"{', '.join(results['models'])} asked {', '.join(tasks)}" if tasks else ""
    compared = f"{whole(results['prompts'])} answers before and after" if "prompts" in results or not tasks else ""
    return "; ".join(filter(None, (compared, asked)))


def control(results: Results) -> str:
    return f"an agent from {whole(results.get('environment_steps'))} steps"
