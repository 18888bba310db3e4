"""The command line behind run_all.sh: checks a study, runs it through Snakemake, builds and compares reports."""

import argparse
import contextlib
import hashlib
import importlib.util
import inspect
import io
import json
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from qtl_utils.study import extensions, forks, paths, time_left
from qtl_utils.study.environment import available_cores
from qtl_utils.study.errors import StudyError
from qtl_utils.study.names import unknown_name
from qtl_utils.study.notebook import failure_of, keep_failed, kernel_environment
from qtl_utils.study.steps import Step, steps_of
from qtl_utils.study.study import StudyConfig
from qtl_utils.study.study_file import (
    check_names,
    find_study,
    load_study,
    parse_overrides,
    pictures_folder,
    study_beside,
)

USER_ERROR = 2
FAILED = 1
BUSY = 75
INTERRUPTED = 130
OF_JOBS = ("CalledProcessError", "At least one job", "Exiting because a job")  # what Snakemake adds to a failed job


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0, 1 (failed), 2 (wrong input) or 75 (already running)."""
    for stream in (sys.stdout, sys.stderr):  # names may hold what a terminal cannot show
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    logging.raiseExceptions = False  # on a full disk, Snakemake cannot write its log either
    try:
        options = _parser().parse_args(arguments)
        return options.command(options)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BlockingIOError:
        print(f"The study '{options.study}' is being run already; wait until that run ends.", file=sys.stderr)
        return BUSY
    except BrokenPipeError:  # whoever read our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except MemoryError:
        return _fail("not enough memory; end other programs, use fewer cores, or shrink the study", FAILED)
    except (StudyError, ValueError, FileNotFoundError) as error:
        known = not isinstance(error, OSError) or error.errno is None
        return _fail(f"{error}" if known else paths.trouble(error), USER_ERROR if known else FAILED)
    except OSError as error:
        return _fail(paths.trouble(error), FAILED)


def _fail(sentence: str, code: int) -> int:
    print(f"Error: {sentence}", file=sys.stderr)
    return code


def run(options: argparse.Namespace) -> int:
    """Checks a study and computes what is missing of it; a folder of pictures becomes a study first."""
    if root := pictures_folder(options.study):
        _prepare(root, options)
    elif options.weights or options.backbone:
        raise StudyError("--weights and --backbone are for a folder of pictures; a study file has backbones of its own")
    study = load_study(options.study, parse_overrides(options.set))
    folder = paths.study_dir(study.name, options.results_dir)
    resolved = study.model_dump_json(indent=2) + "\n"
    _check(study, find_study(options.study), folder / ".checked")
    if options.dry_run:
        for step in _unfinished(steps_of(study), folder):
            print(f"  would run {step.name}: it failed before, or its files are gone")
        with paths.scratch() as view:  # Snakemake writes where it looks
            paths.likeness(folder, view)
            (view / ".dry.json").write_text(resolved, encoding="utf-8")
            return _snakemake(view, options, view / ".dry.json")
    with paths.lock(folder / ".lock"):
        _write_if_changed(folder / "study.json", resolved)
        _write_if_changed(folder / ".checked", _state(study))
        set_aside(study, folder)
        with _telling_time(study, folder):
            code = _compute(study, folder, options)
        if not code and any(data.dataset == "image_folder" for data in study.datasets.values()):
            _answer(study, folder)
        return code


def _prepare(root: Path, options: argparse.Namespace) -> None:
    """Writes the study file of a folder of pictures, unless there is one."""
    given = options.weights or options.backbone
    if options.dry_run and given:
        raise StudyError("--dry-run lists the steps of a study that is written; leave --weights and --backbone out")
    if (file := study_beside(root)).is_file() and not given:
        _say(f"Study: {file} is there already and is used as it is; move it away to have it written anew.")
    elif not options.dry_run:
        from qtl_utils.analyses import pictures

        pictures.prepare(root, options.results_dir, weights=options.weights, model=options.backbone, say=_say)


def _telling_time(study: StudyConfig, folder: Path) -> contextlib.AbstractContextManager:
    """Of a study of pictures, says now and then how long it still takes."""
    folders = [data.data_dir for data in study.datasets.values() if data.dataset == "image_folder"]
    if not folders:
        return contextlib.nullcontext()
    n = sum(1 for path in paths.user_path(folders[0]).rglob("*") if path.is_file())
    return time_left.told_now_and_then(folder, time_left.expected(steps_of(study), n), _say)


def _answer(study: StudyConfig, folder: Path) -> None:
    """Writes and prints the page that answers for pictures of one's own, and keeps the best head for `predict`."""
    from qtl_utils.data.thumbnails import thumbnail
    from qtl_utils.results import pictures

    dataset = pictures.pictures_of(study)
    if dataset is None or (found := pictures.read_found(folder, dataset)) is None:
        return
    _keep_head(folder / "runs" / dataset, (found.run, found.heads), folder / pictures.MODEL)
    page, text = pictures.write_page(found, thumbnail)
    print(f"\n{text}\nPage: {page}")


def _keep_head(runs: Path, names: Sequence[str], file: Path) -> None:
    """Keeps the best head of the first of these runs that has one in `file`, unless it is newer than the run."""
    if file.is_file() and file.stat().st_mtime >= max((runs / name / "metrics.csv").stat().st_mtime for name in names):
        return
    from qtl_utils.training import trained_head

    file.unlink(missing_ok=True)
    for name in dict.fromkeys(names):
        try:
            trained_head.save_head(trained_head.head_of_run(runs / name), file)
            return
        except ValueError as error:  # of networks that were trained whole nothing but the head is kept, say
            print(f"For predict: {error}")


def _compute(study: StudyConfig, folder: Path, options: argparse.Namespace) -> int:
    """Runs what is missing of `study`; a step that fails or dies is passed over, and the report says so."""
    steps = steps_of(study)
    paths.sweep(folder)
    _forget_unfinished(steps, folder)
    at_hand = contextlib.nullcontext()
    if options.profile == "local":
        at_hand = forks.at_hand(kernel_environment(study.threads), study.threads, "qtl_utils.training.warm")
    with _interrupts() as interrupted, at_hand:
        code = _snakemake(folder, options)
        while code and not interrupted and _mark_died(steps, folder):
            code = _snakemake(folder, options)  # goes on with what waited for them
    if code:
        print("Not finished; the same command continues with what is missing.", file=sys.stderr)
        return INTERRUPTED if interrupted else code
    print(f"Report: {folder / 'report' / 'index.html'}")
    failed = {step.name: why for step in steps if (why := failure_of(folder / step.executed))}
    if not failed:
        return 0
    print(
        f"{len(failed)} of {len(steps)} notebooks failed: {', '.join(failed)}. The report says why and shows "
        "everything else; the same command repeats only them and what depends on them.",
        file=sys.stderr,
    )
    return FAILED


def _forget_unfinished(steps: Sequence[Step], folder: Path) -> None:
    """Takes away executed notebooks that failed or whose files are gone, so that these steps run again."""
    for step in steps:
        (folder / step.log).unlink(missing_ok=True)
    for step in _unfinished(steps, folder):
        (folder / step.executed).unlink()


def _unfinished(steps: Sequence[Step], folder: Path) -> list[Step]:
    executed = [step for step in steps if (folder / step.executed).is_file()]
    return [
        step
        for step in executed
        if failure_of(folder / step.executed) or not all((folder / file).is_file() for file in step.writes)
    ]


def _mark_died(steps: Sequence[Step], folder: Path) -> bool:
    """Notes the steps that were started and left no notebook, not even a failed one; whether there are any."""
    died = [step for step in steps if (folder / step.log).is_file() and not (folder / step.executed).is_file()]
    for step in died:
        message = f"{step.name} ended without a word: its process was killed, often for lack of memory."
        keep_failed(_source(step), folder / step.executed, message)
        (folder / step.log).write_text(f"{message}\n", encoding="utf-8")
        print(f"\n{message}\n", file=sys.stderr, flush=True)
    return bool(died)


@contextlib.contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Yields a list that is no longer empty once the user has pressed Ctrl-C, which Snakemake keeps to itself."""
    seen = []

    def note(number, frame):
        seen.append(number)
        signal.default_int_handler(number, frame)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)


def report(options: argparse.Namespace) -> int:
    """Rebuilds the report of a study from what its folder holds, or sets two studies side by side."""
    from qtl_utils.results.report import build_report
    from qtl_utils.study.notebook import stop_with_parent

    if options.compare:
        return _compare(options)
    if options.folder:
        stop_with_parent()
        with _logged(options.log):
            build_report(Path(options.folder), _thumbnails(Path(options.folder)))
        _say("  finished  report")
        return 0
    folder = _finished_study(options)
    with paths.lock(folder / ".lock"):
        index = build_report(folder, _thumbnails(folder))
    print(f"Report: {index}")
    return 0


def archive(options: argparse.Namespace) -> int:
    """Writes one zip file of a finished study, with metadata for a repository that gives it a DOI."""
    from qtl_utils.results.archive import write_archive

    folder = _finished_study(options)
    with paths.lock(folder / ".lock"):
        target = write_archive(folder, find_study(options.study))
    print(f"Archive: {target} ({target.stat().st_size / 1e6:.1f} MB)")
    print(f"SHA-256: {hashlib.sha256(target.read_bytes()).hexdigest()}")
    return 0


def _compare(options: argparse.Namespace) -> int:
    from qtl_utils.results import report_compare
    from qtl_utils.results.report import build_comparison

    first, second = (report_compare.find(name, options.results_dir) for name in options.compare)
    if first == second:
        raise StudyError(f"report --compare: '{options.compare[0]}' and '{options.compare[1]}' are one study; name two")
    names = [first.name, second.name]
    if first.name == second.name:
        names = [f"{folder.parent.name}-{folder.name}" for folder in (first, second)]
    target = paths.results_root(options.results_dir) / "compared" / "-".join(names)
    print(f"Comparison: {build_comparison((first, second), target)}")
    return 0


def _thumbnails(folder: Path) -> Callable:
    """Small copies of the images of the study in `folder`: data set of the study, ids -> PNG files by id."""
    study = StudyConfig.model_validate_json((folder / "study.json").read_text(encoding="utf-8"))

    def of(dataset, ids):
        from qtl_utils.data.thumbnails import thumbnails

        return thumbnails(study.datasets[dataset], ids, folder / "data" / dataset / "images.json")

    return of


def execute(options: argparse.Namespace) -> int:
    """Runs one step of the study in this folder for Snakemake, says so in one line, and explains a failure.

    A notebook that fails is kept as far as it ran; only a machine that cannot even write that ends with an error.
    """
    from qtl_utils.study.notebook import NotebookError, run_notebook, stop_with_parent

    stop_with_parent()
    study = StudyConfig.model_validate_json(Path("study.json").read_text(encoding="utf-8"))
    steps = {step.name: step for step in steps_of(study)}
    step = steps[options.step]
    start = time.monotonic()
    step.log.parent.mkdir(parents=True, exist_ok=True)
    step.log.write_text("")
    for file in (*step.writes, step.claims):  # nothing of an earlier run is taken for this one's
        Path(file).unlink(missing_ok=True)
    missing = [name for name in step.needs if failure_of(steps[name].executed)]
    _say(f"  started   {step.name}")
    try:
        if missing:
            raise NotebookError(f"not run: it needs {missing[0]}, which failed")
        here = None if Path.cwd().parent == paths.results_root() else str(Path.cwd().parent)
        parameters = {"study": study.name, "results_dir": here, **step.parameters}
        told = {"failed": step.executed, "environment": extensions.environment(study.extensions)}
        run_notebook(_source(step), step.executed, parameters, threads=study.threads, **told)
    except (NotebookError, ValueError, FileNotFoundError) as error:
        if not step.executed.is_file():
            keep_failed(_source(step), step.executed, str(error))
        step.log.write_text(f"{error}\n", encoding="utf-8")
        print(f"\n{step.name}: {error}\n", file=sys.stderr, flush=True)
        return 0
    _say(f"  finished  {step.name} ({time.monotonic() - start:.0f} s)")
    return 0


def _source(step: Step) -> Path:
    return paths.PROJECT / "notebooks" / f"{step.notebook}.ipynb"


def verify(options: argparse.Namespace) -> int:
    """Compares the tables of a finished study with the committed reference results."""
    from qtl_utils.results.verify import verify as compare

    folder = _finished_study(options)
    verdict = compare(folder, paths.PROJECT / "results" / "reference" / folder.name)
    print(verdict)
    return 0 if verdict.ok else FAILED


def plan(options: argparse.Namespace) -> int:
    """Says what difference a study will be able to see, and what it would take to see 2 of 100 images."""
    from qtl_utils.analyses import plan as planning

    study = load_study(options.study, parse_overrides(options.set))
    _check(study, find_study(options.study), Path(os.devnull))
    found = [line for outlook in planning.outlooks(study) for line in planning.sentences(outlook)]
    print("\n".join(found or ["No data set of this study has images, repeated splits and frozen heads to plan for."]))
    return 0


def portability(options: argparse.Namespace) -> int:
    """Runs a study as on other processors, with other threads and seeds, and compares what it concludes."""
    from qtl_utils.results.portability import CASES, compare_cases

    load_study(options.study)
    names = [name.strip() for name in options.cases.split(",")] if options.cases else list(CASES)
    for name in names:
        if name not in CASES:
            raise ValueError(f"--cases: {unknown_name('case', name, CASES)}")
    root = paths.results_root(options.results_dir) / "portability"
    table, well = compare_cases(options.study, root, names, options.cores)
    print(table)
    return 0 if well else FAILED


def doctor(options: argparse.Namespace) -> int:
    """Diagnoses the model that FILE.py:FUNCTION makes; exit code 1 where a check fails."""
    from qtl_utils.doctor import diagnose

    model, batch, more = _make_model("doctor", options, diagnose)
    with _quiet(options.json):
        diagnosis = diagnose(model, batch, **{"budget": options.budget, **more})
    print(diagnosis.to_json() if options.json else diagnosis)
    return FAILED if any(f.verdict == "fail" for f in diagnosis) else 0


def repair(options: argparse.Namespace) -> int:
    """Mends the model that FILE.py:FUNCTION makes, as far as code can; exit code 1 where a fault is left."""
    from qtl_utils.doctor import repair as mend

    model, data, more = _make_model("repair", options, mend)
    given = {"minutes": options.minutes, "seeds": options.seeds}
    with _quiet(options.json):
        found = mend(model, data, **more | {key: value for key, value in given.items() if value is not None})
    print(found.to_json() if options.json else found)
    return FAILED if found.left else 0


def predict(options: argparse.Namespace) -> int:
    """Names new pictures with a trained head: file, class and a probability per class, as CSV."""
    from qtl_utils.results.runs import write_csv
    from qtl_utils.training import trained_head

    head = trained_head.find_head(options.model, options.variant)
    table = trained_head.predict(head, options.pictures, weights=options.weights)
    if table.empty:
        raise ValueError(
            f"there are no files in {', '.join(options.pictures)}; give pictures or a folder that holds some"
        )
    with paths.atomic(options.out) as part:
        write_csv(table, part)
    print("\n".join([*trained_head.sentences(head, table), f"Answers: {options.out}"]))
    return FAILED if (table["note"] != "").all() else 0


def _quiet(wanted: bool) -> contextlib.AbstractContextManager:
    """With --json, what the user's code prints goes to stderr: one document is all that stdout gets."""
    return contextlib.redirect_stdout(sys.stderr) if wanted else contextlib.nullcontext()


def _make_model(command: str, options: argparse.Namespace, function: Callable) -> tuple:
    """What `FILE.py:FUNCTION` returns: a model, its samples, and a dict of further arguments of `function`."""
    known = list(inspect.signature(function).parameters)[2:]
    with _quiet(options.json):
        extensions.load(options.extension)
        model, samples, more = _made(command, options.model, known)
    for key in more:
        if key not in known:
            raise ValueError(f"{command}: {unknown_name(f'argument of {function.__name__}', key, known)}")
    return model, samples, more


def _made(command: str, target: str, known: list[str]) -> tuple:
    from qtl_utils.doctor import explain
    from qtl_utils.doctor.samples import read_made

    file, _, name = target.rpartition(":")
    if not file or not Path(file).is_file():
        raise FileNotFoundError(
            f"{command}: '{target}' is no FILE.py:FUNCTION with a file that exists, as in model.py:make"
        )
    sys.path.insert(0, str(Path(file).resolve().parent))  # it may import its neighbours
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"{command}: {file} cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(make := getattr(module, name, None)):
        raise ValueError(f"{command}: {file} has no function '{name}'; it should return (model, (images, labels))")
    try:
        made = make()
    except Exception as error:
        found = explain(error)
        told = f"raised {found.evidence}; cause: {found.cause}; fix: {found.fix}"
        raise ValueError(f"{command}: {name}() of {file} {told}") from error
    try:
        return read_made(made, known)
    except ValueError as error:
        raise ValueError(f"{command}: {name}() of {file} {error}") from error


# ---- checks


def _check(study: StudyConfig, file: Path, seal: Path) -> None:
    """Everything that can be wrong with a study before something is computed; skipped where `seal` fits."""
    from qtl_utils.study.notebook import check_parameters
    from qtl_utils.training.refusals import refusal

    for step in steps_of(study):
        check_parameters(_source(step), step.parameters)
    if seal.is_file() and seal.read_bytes() == _state(study).encode():
        return
    extensions.load(study.extensions)
    check_names(study, file, _registries(study))
    if sentence := refusal(study):
        raise StudyError(f"{file}: {sentence}")


def _state(study: StudyConfig) -> str:
    code = [path.read_bytes() for path in sorted(paths.PACKAGE.rglob("*.py"))]
    files = sorted({path for dataset in study.datasets for path in study.files_of(dataset)})
    files = [paths.fingerprint(path).encode() for path in files]
    own = json.dumps(extensions.hashes(study.extensions))
    return hashlib.sha256(b"".join([study.model_dump_json().encode(), own.encode(), *files, *code])).hexdigest()


def _registries(study: StudyConfig) -> dict[str, list[str]]:
    from qtl_utils.models.backbones import known_models

    cases = []
    if study.troubleshooting and study.troubleshooting.confusion:
        from qtl_utils.doctor.faults import FAULTS, HEALTHY

        cases = [*FAULTS, *HEALTHY]
    return {kind: list(rows) for kind, rows in _rows().items()} | {"model": known_models(), "case": cases}


def _rows() -> dict[str, dict]:
    """What a study may name, by kind: the registries."""
    from qtl_utils import ANSATZE, BACKBONES, DATASETS, DEVICES, ENCODINGS, METHODS, SIMULATORS, VARIANTS

    return {
        "variant": VARIANTS,
        "ansatz": ANSATZE,
        "encoding": ENCODINGS,
        "simulator": SIMULATORS,
        "device": DEVICES,
        "differentiation method": METHODS,
        "dataset": DATASETS,
        "model": BACKBONES,
    }


def names(options: argparse.Namespace) -> int:
    """Lists what a study may name: variants, ansätze, simulators ..., those of its extensions too."""
    extensions.load([*load_study(options.study).extensions, *options.extension])
    for kind, rows in _rows().items():
        print(f"{kind}:")
        for name, row in rows.items():
            about = getattr(row, "about", "") or (inspect.getdoc(getattr(row, "func", row)) or "").split("\n")[0]
            print(f"  {name:<18} {about}")
    print("  and any classifier of torchvision by its name")
    return 0


def keys(options: argparse.Namespace) -> int:
    """Lists every key of a study file: what it may hold, and what it is when left out."""
    from qtl_utils.study.keys import page

    print(page())
    return 0


def _finished_study(options: argparse.Namespace) -> Path:
    folder = paths.study_dir(load_study(options.study).name, options.results_dir)
    if not (folder / "study.json").is_file():
        raise StudyError(f"there are no results of '{options.study}' in {folder}; run the study first")
    return folder


# ---- running


def set_aside(study: StudyConfig, folder: Path) -> None:
    """Moves runs that `study` no longer names to unused/, and back those that it names again.

    Tables are made from every run in runs/; what took hours is not deleted because a line was commented out.
    """
    named = {(run.dataset, name) for name, run in study.runs.items()}
    for source, target, wanted in (("runs", "unused", False), ("unused", "runs", True)):
        for path in sorted((folder / source).glob("*/*")):
            new = folder / target / path.parent.name / path.name
            if ((path.parent.name, path.name) in named) == wanted and not (wanted and new.exists()):
                shutil.rmtree(new, ignore_errors=True)
                new.parent.mkdir(parents=True, exist_ok=True)
                path.rename(new)


def _write_if_changed(path: Path, text: str) -> None:
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        with paths.atomic(path) as part:
            part.write_text(text, encoding="utf-8")


def _snakemake(folder: Path, options: argparse.Namespace, dry_study: Path | None = None) -> int:
    """Runs the workflow in `folder`; with `dry_study` it only lists what that study would run."""
    from snakemake import cli
    from snakemake.logging import logger

    workflow = paths.PROJECT / "workflow"
    profile = workflow / "profiles" / options.profile
    command = ["--snakefile", workflow / "Snakefile", "--directory", folder, "--profile", profile]
    here = options.profile == "local"
    command += ["--cores", options.cores or available_cores()] if here else ["--jobs", options.cores or 100]
    if dry_study:
        command += ["--dry-run", "--config", f"study={dry_study}"]
    if here or dry_study:
        logger.addFilter(_only_what_matters)
    with contextlib.redirect_stderr(io.StringIO()):  # which profile it uses
        parser, parsed = cli.parse_args([str(part) for part in command])
    return 0 if cli.args_to_api(parsed, parser) else FAILED


def _only_what_matters(record: logging.LogRecord) -> bool:
    """Jobs speak for themselves: of Snakemake's messages its own errors are left, and a line per job of a dry run."""
    if getattr(record, "event", None) == "job_info" and not record.local and record.rule_name != "all":
        print(f"  would run {Path(record.log[0]).with_suffix('').relative_to('logs')}: {_why(record.reason)}")
    from_a_job = getattr(record, "event", None) == "job_error" or any(text in record.getMessage() for text in OF_JOBS)
    return record.levelno >= logging.ERROR and not from_a_job


def _why(reason: str) -> str:
    for text, why in (
        ("Missing output", "not done yet"),
        ("Params have changed", "its settings, the notebook or a module it uses changed"),
        ("Code has changed", "the workflow changed"),
        ("updated", "what it reads changes"),
    ):
        if text.lower() in reason.lower():
            return why
    return reason.split(";")[0]


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")  # one write: lines of jobs that run at once do not mix
    sys.stdout.flush()


@contextlib.contextmanager
def _logged(log: str) -> Iterator[None]:
    """Writes a failure to `log` and to the terminal, and ends with exit code 1."""
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    Path(log).write_text("")
    try:
        yield
    except (RuntimeError, ValueError, FileNotFoundError) as error:
        Path(log).write_text(f"{error}\n", encoding="utf-8")
        print(f"\n{error}\n", file=sys.stderr, flush=True)
        raise SystemExit(FAILED) from None


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence."""

    def error(self, message):
        self.exit(USER_ERROR, f"Error: {message}; see ./run_all.sh --help\n")


def _parser() -> Parser:
    parser = Parser(prog="run_all.sh", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(function, name, study=True):
        sub = commands.add_parser(name, prog=f"run_all.sh {name}", help=function.__doc__, allow_abbrev=False)
        sub.set_defaults(command=function)
        if study:
            told = "a study file, a name in studies/, or a folder of pictures"
            sub.add_argument("study", nargs="?", default="default", help=told)
            sub.add_argument("--results-dir", type=_folder, help="the folder for results; default: results/")
        return sub

    one = command(run, "run")
    one.add_argument("--cores", type=_cores, help="jobs x threads at most; with slurm: jobs at most")
    one.add_argument("--dry-run", "-n", action="store_true", help="only list what would run")
    one.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the study")
    profiles = sorted(path.parent.name for path in paths.PROJECT.glob("workflow/profiles/*/config.yaml"))
    one.add_argument("--profile", choices=profiles, default="local", help="how jobs are started")
    one.add_argument("--weights", metavar="FILE", help="of a folder of pictures: the backbone's weights")
    one.add_argument("--backbone", metavar="NAME", help="of a folder of pictures: the backbone's name in torchvision")
    six = command(names, "names")
    six.add_argument(
        "--extension", action="append", default=[], metavar="FILE", help="a file of your own, as in a study"
    )
    command(keys, "keys", study=False)
    two = command(report, "report")
    two.add_argument("--compare", nargs=2, metavar="STUDY", help="two finished studies or their folders, side by side")
    two.add_argument("--folder", help=argparse.SUPPRESS)
    two.add_argument("--log", default=os.devnull, help=argparse.SUPPRESS)
    seven = command(plan, "plan")
    seven.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the study")
    command(archive, "archive")
    command(verify, "verify")
    five = command(portability, "portability")
    five.add_argument("--cases", metavar="NAME,NAME", help="only these; default: all")
    five.add_argument("--cores", type=_cores, help="jobs x threads at most, of every case")
    for function, name, told in (
        (doctor, "doctor", "a function that returns (model, (images, labels)), or the model alone"),
        (repair, "repair", "a function that returns (model, (samples, labels)), enough of them to train with"),
    ):
        four = command(function, name, study=False)
        four.add_argument("model", metavar="FILE.py:FUNCTION", help=told)
        four.add_argument(
            "--extension", action="append", default=[], metavar="FILE", help="a file with checks of your own"
        )
        four.add_argument("--json", action="store_true", help="one JSON document on stdout, nothing else")
        if name == "doctor":
            four.add_argument("--budget", type=float, default=60.0, metavar="SECONDS", help="longer checks are skipped")
        else:
            four.add_argument("--minutes", type=float, metavar="M", help="for everything; default: 2")
            four.add_argument("--seeds", type=int, metavar="N", help="how many trainings of each model; default: 5")
    eight = command(predict, "predict", study=False)
    eight.add_argument(
        "model", metavar="RESULTS", help="a study's or a run's folder in results/, or a model.safetensors"
    )
    eight.add_argument("pictures", nargs="+", help="files, or folders whose files are all read")
    eight.add_argument("--out", required=True, metavar="FILE.csv", help="where the answers are written")
    eight.add_argument("--variant", help="another than the best one on validation")
    eight.add_argument("--weights", metavar="FILE", help="where the backbone's weights are now, if they moved")
    three = command(execute, "execute", study=False)
    three.add_argument("step")
    return parser


def _folder(text: str) -> str:
    path = os.path.abspath(os.path.expanduser(text))
    if not text.isprintable() or not text or (os.path.exists(path) and not os.path.isdir(path)):
        raise argparse.ArgumentTypeError(f"{text!r} is no folder; give one, or a name for a new one")
    return path


def _cores(text: str) -> int:
    if not text.isdecimal() or len(text) > 6 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of cores; give 1 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
