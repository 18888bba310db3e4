"""Running a notebook strictly with papermill, and what a notebook depends on."""

import ast
import contextlib
import hashlib
import inspect
import json
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from qtl_utils.study import forks
from qtl_utils.study.environment import THREAD_VARIABLES
from qtl_utils.study.paths import FOLDER, PACKAGE, atomic, scratch


class NotebookError(RuntimeError):
    """A notebook that failed; the message names the notebook and cell and ends with the error itself."""


# ---- what a notebook declares


def _cells(path: str | Path) -> list[dict[str, Any]]:
    try:
        cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no notebook {path}") from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        raise ValueError(f"{path}: not a notebook; expected the JSON of an .ipynb file") from None
    return [cell | {"source": "".join(cell["source"])} for cell in cells]


def _tags(cell: Mapping[str, Any]) -> list[str]:
    return cell.get("metadata", {}).get("tags", [])


def declared_parameters(path: str | Path) -> dict[str, Any]:
    """Name -> default of every parameter of a notebook, read from its cell tagged `parameters`.

    Raises ValueError unless there is exactly one such cell and it holds nothing but `name = literal`.
    """
    found = [cell["source"] for cell in _cells(path) if "parameters" in _tags(cell)]
    if len(found) != 1:
        raise ValueError(f"{path}: {len(found)} cells are tagged 'parameters'; expected exactly one")
    try:
        body = ast.parse(found[0]).body
    except SyntaxError as error:
        raise ValueError(f"{path}: parameters cell, line {error.lineno}: {error.msg}") from None
    return dict(_literal(statement, path) for statement in body)


def _literal(statement: ast.stmt, path: str | Path) -> tuple[str, Any]:
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    try:
        if len(targets) == 1 and isinstance(targets[0], ast.Name):
            return targets[0].id, ast.literal_eval(statement.value)
    except (AttributeError, ValueError, TypeError):
        pass
    raise ValueError(
        f"{path}: parameters cell, line {statement.lineno}: '{ast.unparse(statement)}' is not 'name = literal'"
    )


def check_parameters(path: str | Path, parameters: Mapping[str, Any]) -> None:
    """Raises ValueError where `parameters` names one that the notebook does not declare."""
    from qtl_utils.study.names import unknown_name

    declared = declared_parameters(path)
    for name in parameters:
        if name not in declared:
            raise ValueError(f"{path}: {unknown_name('parameter', name, declared)}")


# ---- running one


def run_notebook(
    path: str | Path,
    out: str | Path,
    parameters: Mapping[str, Any],
    *,
    kernel: str = "python3",
    threads: int = 1,
    failed: str | Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Executes a notebook from the folder that relative names begin at and writes the executed copy to `out`.

    `out` appears only when every cell succeeded; otherwise NotebookError is raised and the part that ran is
    kept as `failed` (beside `out` as NAME.failed.ipynb where not given; it may be `out` itself), which says in its
    metadata that it failed, and why. The kernel has `threads` threads, and further variables of its `environment`.
    """
    from nbclient.exceptions import DeadKernelError
    from papermill import PapermillExecutionError, execute_notebook

    path = Path(path)
    out = Path(out)
    failed = Path(failed) if failed else out.with_suffix(".failed.ipynb")
    check_parameters(path, parameters)
    failed.unlink(missing_ok=True)
    variables = kernel_environment(threads) | dict(environment or {})
    with atomic(out) as part, scratch() as sockets:
        try:
            execute_notebook(
                path,
                part,
                dict(parameters),
                kernel_name=kernel,
                language="python",
                cwd=str(FOLDER),
                progress_bar=False,
                kernel_manager_class=_kernel_manager(f"{sockets}/k", variables, forks.address_for(threads)),
            )
        except (PapermillExecutionError, DeadKernelError) as error:
            message = _explain(path, error)
            keep_failed(part if part.exists() else path, failed, message)
            raise NotebookError(f"{message}\nWhat ran is in {failed}") from None


def kernel_environment(threads: int) -> dict[str, str]:
    """What a kernel's environment has besides ours: pinned threads, inline figures, this copy of the package."""
    return {
        **dict.fromkeys(THREAD_VARIABLES, str(threads)),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")])),
        "PYTHONWARNINGS": "ignore:IProgress not found",  # tqdm's, wherever a library asks for its widget
        "QTL_BATCH": "1",
    }


def _kernel_manager(socket: str, environment: dict[str, str], forked_at: str | None) -> type:
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    class ThisInterpreter(AsyncKernelManager):
        """The kernel of the running interpreter, whatever kernels the user has installed elsewhere.

        Sockets instead of ports: two kernels that start together can be given the same port.
        """

        kernel_spec = KernelSpec(
            **get_kernel_dict(extra_arguments=["--log-level=50"]), env=environment, resource_dir=""
        )

        def __init__(self, **settings):
            told = {"transport": "ipc", "ip": socket, "connection_file": f"{socket}.json"}
            super().__init__(**settings | told)
            if forked_at:
                self.provisioner = _provisioner(self, forked_at)

    return ThisInterpreter


def _provisioner(manager, address: str):
    """Has kernels forked at `address` for a kernel manager; where nobody answers there, it starts them itself."""
    from jupyter_client.provisioning import LocalProvisioner

    class Forking(LocalProvisioner):
        async def launch_kernel(self, cmd, **settings):
            try:
                self.process = forks.ForkedKernel(address, cmd, settings["env"], settings.get("cwd") or os.getcwd())
            except OSError:
                return await super().launch_kernel(cmd, **settings)
            self.pid = self.pgid = self.process.pid
            return self.connection_info

    return Forking(parent=manager, kernel_id=manager.kernel_id, kernel_spec=manager.kernel_spec)


def keep_failed(part: str | Path, out: str | Path, message: str) -> None:
    """Writes the notebook `part` to `out` with a note in its metadata that it failed, and why."""
    try:
        notebook = json.loads(Path(part).read_text(encoding="utf-8"))
        notebook.setdefault("metadata", {})
    except (OSError, ValueError, AttributeError):  # the source itself is no notebook
        notebook = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    notebook["metadata"]["qtl"] = {"failed": message}
    with atomic(out) as whole:
        whole.write_text(json.dumps(notebook, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def failure_of(path: str | Path) -> str | None:
    """Why an executed notebook failed; None for one that ran to its end."""
    metadata = json.loads(Path(path).read_text(encoding="utf-8")).get("metadata", {})
    return metadata.get("qtl", {}).get("failed")


def _explain(path: Path, error: Exception) -> str:
    if not hasattr(error, "ename"):
        return f"{path.name} failed: its kernel died, often for lack of memory."
    lines = f"{error.ename}: {error.evalue}".strip().splitlines()
    where = [line for line in error.source.splitlines() if line.strip()][:1]
    shown = "\n    ".join(lines[-8:])
    return f"{path.name} failed in cell [{error.exec_count}] ({''.join(where)}):\n    {shown}"


# ---- what a notebook depends on


def modules_used(path: str | Path) -> list[Path]:
    """The files of `qtl_utils` that a notebook or module imports, directly or through one another; sorted."""
    path = Path(path).resolve()
    found = set()
    pending = [path]
    while pending:
        new = _imports(pending.pop()) - found
        found |= new
        pending.extend(new)
    return sorted(found - {path})


def source_hash(path: str | Path) -> str:
    """A hash of a notebook's cell sources and tags: outputs, counters and metadata do not matter."""
    return _hash(json.dumps([[c["cell_type"], c["source"], sorted(_tags(c))] for c in _cells(path)]))


def code_hashes(path: str | Path) -> dict[str, str]:
    """Hash by file of a notebook and of every module it uses: when these differ, it must run again.

    Comments, docstrings and the breaks of lines in modules do not matter.
    """
    modules = {module.relative_to(PACKAGE).as_posix(): module_hash(module) for module in modules_used(path)}
    return {Path(path).name: source_hash(path), **modules}


def module_hash(path: str | Path) -> str:
    """A hash of what a module does: of its code without comments, docstrings and layout."""
    tree = _syntax(Path(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body[0] = ast.copy_location(ast.Pass(), first)
    return _hash(ast.unparse(tree))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def _imports(path: Path) -> frozenset[Path]:
    names = []
    for node in ast.walk(_syntax(path)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = _absolute(node, path)
            names += [module, *(f"{module}.{alias.name}" for alias in node.names)]
    return frozenset(file for name in names for file in _files(name))


def _absolute(node: ast.ImportFrom, path: Path) -> str:
    """The dotted name of what a `from ... import` in the file `path` reads."""
    if not node.level:
        return node.module
    package = path.parents[node.level - 1].relative_to(PACKAGE.parent).parts
    return ".".join([*package, *filter(None, [node.module])])


def _files(name: str) -> list[Path]:
    """The files of this package that importing `name` runs: packages on the way, then the module."""
    first, *parts = name.split(".")
    if first != "qtl_utils":
        return []
    if parts and (home := _offered().get(parts[0])):
        return _files(home)
    folder = PACKAGE
    found = []
    for part in parts:
        if (module := folder / f"{part}.py").is_file():
            return [*found, module]
        folder /= part
        if not (package := folder / "__init__.py").is_file():
            break
        found.append(package)
    return found


@cache
def _offered() -> dict[str, str]:
    """Name -> module of what the package itself offers: the imports in its __init__.py."""
    tree = _syntax(PACKAGE / "__init__.py")
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {alias.name: node.module for node in imports for alias in node.names}


def _syntax(path: Path) -> ast.Module:
    if path.suffix == ".py":
        return ast.parse(path.read_text(encoding="utf-8"), str(path))
    body = []
    for cell in _cells(path):
        if cell["cell_type"] == "code":
            lines = ["" if line.lstrip()[:1] in "%!" else line for line in cell["source"].splitlines()]
            with contextlib.suppress(SyntaxError):  # it will fail when it runs; until then it imports nothing
                body += ast.parse("\n".join(lines)).body
    return ast.Module(body, type_ignores=[])


# ---- for the notebooks themselves


def show_source(thing: Any):
    """The source of a function, class or module as highlighted static HTML, with where it stands."""
    from IPython.display import HTML
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    file = Path(inspect.getsourcefile(thing)).resolve()
    line = inspect.getsourcelines(thing)[1]
    place = file.relative_to(PACKAGE.parent) if file.is_relative_to(PACKAGE) else file.name
    style = "padding: 0.6em; overflow-x: auto; color: #222"
    code = highlight(inspect.getsource(thing), PythonLexer(), HtmlFormatter(noclasses=True, cssstyles=style))
    return HTML(f"<small><code>{place}</code>, line {max(line, 1)}</small>{code}")


def stop_with_parent() -> None:
    """Starts a thread that ends this process, and with it the kernel, once the process that started it is gone.

    Without it a job outlives a killed run and computes beside its successor.
    """
    import threading
    import time

    def watch(parent: int) -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, args=(os.getppid(),), daemon=True).start()
