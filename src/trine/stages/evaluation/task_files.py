"""Tasks by name or file: those that come with Trine (`tasks/*.yaml`), and anybody's YAML of the same form."""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from trine.config.loading import nearest, validated
from trine.config.stage import follow
from trine.config.tasks import KINDS, TaskConfig, TaskFile
from trine.config.yaml_text import read_file, read_mapping
from trine.runtime.errors import TrineError
from trine.runtime.files import sha256_of, sha256_of_file
from trine.stages.evaluation.records import find_records
from trine.stages.evaluation.task import Task

SUFFIXES = (".yaml", ".yml")


def shipped_tasks() -> list[str]:
    """The names of the tasks that come with Trine."""
    folder = files("trine.stages.evaluation").joinpath("tasks")
    return sorted(path.name.removesuffix(".yaml") for path in folder.iterdir() if path.name.endswith(".yaml"))


def read_tasks(names: Sequence[str], data: Mapping[str, str]) -> list[TaskFile]:
    """The tasks called `names`, or in files of that name, with the files of `data` (task: file) as their records.

    Raises `TrineError` naming file and key of the first mistake.
    """
    tasks = [read_task(name, data) for name in names]
    known = [task.name for task in tasks]
    twice = next((name for name in known if known.count(name) > 1), None)
    if twice is not None:
        raise TrineError(f"tasks: {twice!r} is given twice; the name of a task is that of its file")
    unused = next((name for name in data if name not in known), None)
    if unused is not None:
        raise TrineError(f"data: {unused!r} is no task that is asked{nearest(unused, known)}")
    return tasks


def read_task(name: str, data: Mapping[str, str]) -> TaskFile:
    """One task."""
    path = Path(name).expanduser()
    if path.suffix in SUFFIXES or path.is_file():
        if not path.is_file():
            raise TrineError(f"task {name} does not exist")
        text, folder, place, called = read_file(path), path.parent, str(path), path.stem
    elif name in shipped_tasks():
        text = files("trine.stages.evaluation").joinpath("tasks", f"{name}.yaml").read_text("utf-8")
        folder, place, called = None, f"task {name}", name
    else:
        raise TrineError(f"task {name!r} is neither a file nor comes with Trine{nearest(name, shipped_tasks())}")
    config = _config(read_mapping(text, place), place)
    return TaskFile(called, _with_files(config, folder, place, called, data), folder, text)


def _config(values: dict[str, object], place: str) -> TaskConfig:
    kind = str(values.get("kind", ""))
    if kind not in KINDS:
        raise TrineError(f"{place}: kind {kind!r} is unknown{nearest(kind, KINDS)}; there are {', '.join(KINDS)}")
    cls: type[TaskConfig] = follow(KINDS[kind].config)
    return validated(cls, values, place)


def _with_files(config: TaskConfig, folder: Path | None, place: str, name: str, data: Mapping[str, str]) -> TaskConfig:
    """`config` with the places of its files, each of which is there."""
    given = data.get(name)
    records = str(Path(given).expanduser().absolute()) if given is not None else config.records
    if records is None:
        raise TrineError(f"{place} names no records; give the file: --data {name}=FILE")
    found = {"records": str(find_records(records, folder, place))}
    pool = getattr(config, "pool", None)
    if pool is not None:
        found["pool"] = str(find_records(pool, folder, place))
    return config.model_copy(update=found)


def make_task(file: TaskFile, seed: int) -> Task:
    """The task of a file; what is chosen at random in it follows from `seed`. Reads its records."""
    task: Task = follow(KINDS[file.config.kind].make)(file.name, file.config, seed)
    return task


def task_fingerprint(file: TaskFile) -> str:
    """Of what a task asks: its settings and the content of its files, wherever they lie."""
    places = {key: getattr(file.config, key, None) for key in ("records", "pool")}
    settings = file.config.model_copy(update={key: None for key, place in places.items() if place})
    digests = [f"{key}:{sha256_of_file(Path(place))}" for key, place in places.items() if place]
    return sha256_of(file.name, settings.model_dump_json(), *digests)
