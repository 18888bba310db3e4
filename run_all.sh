#!/usr/bin/env bash
# One command: sets up Python packages once, runs a study, builds its report. See usage below.
set -eu

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
export PYTHONPATH="$HERE${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONUTF8=1 PYTHONIOENCODING=utf-8 # files and output are UTF-8 whatever the locale, in kernels too
export JUPYTER_PREFER_ENV_PATH=1 # the python3 kernel is this environment's, not one from the home folder
CPU=no

usage() {
  cat <<'USAGE'
./run_all.sh [STUDY] [options]       run a study (default: default), build its report, say where it is
./run_all.sh PICTURES/               run a study of your own pictures, one folder a class, and say what came out
./run_all.sh predict RESULTS PICTURES ... --out FILE.csv  name new pictures with the best model of a study
./run_all.sh test [pytest options]   run the tests; with --slow also those that take minutes
./run_all.sh lab                     open the notebooks in JupyterLab, at a page that says what to do first
./run_all.sh report [STUDY]          rebuild the report of a finished study; --compare A B: two studies side by side
./run_all.sh archive [STUDY]         one zip file of a finished study with its metadata, for a repository with DOIs
./run_all.sh plan [STUDY]            say what difference a study will be able to see, and what it would take to see more
./run_all.sh verify [STUDY]          compare a finished study with results/reference/
./run_all.sh portability [STUDY]     the same study as on other processors, with other threads and seeds, compared
./run_all.sh names [STUDY]           list what a study may name: variants, data sets, simulators ..., yours too
./run_all.sh keys                    list every key of a study file: what it may hold, what it is when left out
./run_all.sh doctor FILE.py:FUNCTION  diagnose the model that FUNCTION returns with a batch; exit code 1 on a fault
./run_all.sh repair FILE.py:FUNCTION  mend what the doctor finds, as far as code can; exit code 1 if a fault is left
./run_all.sh --help

STUDY is a study file (my_study.yaml), the name of one in studies/ (smoke, default, ants_bees), or a folder of pictures.
  --cores N          use at most N CPU cores (default: all)
  --dry-run          list what would run, compute nothing
  --set KEY=VALUE    change a key of the study: --set seeds=5 everywhere, --set runs.heads.seeds=5 in one run
  --results-dir DIR  write to DIR instead of results/
  --profile NAME     how jobs are started: local (default) or slurm; see workflow/profiles/
  --weights FILE     of a folder of pictures: the backbone's weights; --backbone NAME: which of torchvision's
  --json             doctor, repair: print one JSON document; --minutes M, --seeds N: how much repair may train
  --cpu              at set-up, install the smaller CPU build of PyTorch where the package index has it

What is finished is never computed twice; an interrupted run continues where it stopped.
The first call sets up .venv (a few minutes, about 6 GB) unless the active conda or virtual environment has
the packages. Exit code: 0 done, 1 a step failed, 2 wrong input, 75 the study is being run already.
USAGE
}

fail() {
  echo "Error: $1" >&2
  exit "${2:-2}"
}

find_python() { # sets PYTHON to an interpreter that is new enough
  local candidate
  for candidate in "${PYTHON:-python3}" python3 python3.14 python3.13 python3.12 python3.11 python; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      PYTHON="$(command -v "$candidate")"
      return
    fi
  done
  fail "Python 3.11 or newer is needed and was not found; install it, or set PYTHON=/path/to/python3."
}

has_packages() { # whether the interpreter $1 has everything that pyproject.toml names
  [ -x "$1" ] && "$1" -P -c 'import sys; from qtl_utils.study.environment import missing; sys.exit(bool(missing()))' 2>/dev/null
}

make_venv() { # an empty .venv with pip, also where Debian's python3-venv (ensurepip) is missing
  if "$PYTHON" -c 'import ensurepip' 2>/dev/null; then
    "$PYTHON" -m venv --clear "$HERE/.venv" && return
  fi
  "$PYTHON" -m venv --clear --without-pip "$HERE/.venv" ||
    fail "'$PYTHON -m venv' does not work; install your system's python3-venv package."
  if "$PYTHON" -m pip --python "$HERE/.venv/bin/python" install -q pip 2>/dev/null; then return; fi
  "$HERE/.venv/bin/python" - "$HERE/.venv/pip.pyz" <<'FETCH' 2>/dev/null ||
import sys, urllib.request
urllib.request.urlretrieve("https://bootstrap.pypa.io/pip/pip.pyz", sys.argv[1])
FETCH
    fail "pip is missing and could not be downloaded; install your system's python3-venv or python3-pip package."
  "$HERE/.venv/bin/python" "$HERE/.venv/pip.pyz" install -q pip || fail "pip could not be installed into .venv."
}

pip_install() { # bytecode is compiled even where the environment switches that off: kernels start faster
  env -u PYTHONDONTWRITEBYTECODE -u PYTHONPATH "$HERE/.venv/bin/python" -m pip install -qq --no-deps "$@"
}

install_cpu_torch() { # the CPU builds of the locked torch and torchvision, and the lock without CUDA's packages
  local cpu="$HERE/.venv/requirements-cpu.lock"
  grep -v -E '^(nvidia-|cuda-|triton)' "$HERE/requirements.lock" |
    sed -E 's/^((torch|torchvision)==[^ +]+)/\1+cpu/' >"$cpu"
  grep -E '^(torch|torchvision)==' "$cpu" >"$cpu.torch"
  pip_install --retries 1 --extra-index-url https://download.pytorch.org/whl/cpu -r "$cpu.torch" 2>/dev/null || return 1
  grep -v -E '^(torch|torchvision)==' "$cpu" >"$cpu.rest"
  pip_install -r "$cpu.rest"
}

set_up() { # sets PYTHON to the interpreter that has the packages, installing them first if needed
  local stamp="$HERE/.venv/.installed" wanted environment
  for environment in "${VIRTUAL_ENV:-}" "${CONDA_PREFIX:-}"; do
    if [ -n "$environment" ] && has_packages "$environment/bin/python"; then
      PYTHON="$environment/bin/python"
      return
    fi
  done
  wanted="$(cksum <"$HERE/requirements.lock")"
  if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    find_python
    if [ ! -f "$stamp" ] && ! has_packages "$HERE/.venv/bin/python"; then # none yet, or its set-up was interrupted
      echo "Setting up .venv with $PYTHON: once, a few minutes, about 6 GB."
      make_venv
    else
      echo "Bringing .venv up to date with requirements.lock."
    fi
    rm -f "$stamp"
    if [ "$CPU" = yes ] && [ "$(uname)" = Linux ]; then
      install_cpu_torch || {
        echo "No CPU build of PyTorch could be fetched; installing the usual build."
        CPU=no
      }
    else
      CPU=no
    fi
    [ "$CPU" = yes ] || pip_install -r "$HERE/requirements.lock" ||
      fail "the packages of requirements.lock could not be installed (see above); set-up needs a network or a package index that pip knows. Start again to continue." 1
    pip_install --no-build-isolation -e "$HERE" || fail "the package itself could not be installed (see above)." 1
    echo "$wanted" >"$stamp"
  fi
  PYTHON="$HERE/.venv/bin/python"
}

arguments=()
for argument in "$@"; do
  case "$argument" in
    --cpu) CPU=yes ;;
    -h | --help) usage && exit 0 ;;
    *) arguments+=("$argument") ;;
  esac
done
set -- ${arguments[@]+"${arguments[@]}"}

set_up
case "${1:-}" in
  test) # a process per core, four at most, each with one thread; files of tests stay together
    shift
    cd "$HERE"
    cores=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
    case " $* " in *" --pdb "* | *" -s "*) cores=0 ;; esac # a debugger needs the terminal
    exec "$PYTHON" -m pytest -n "$((cores < 4 ? cores : 4))" --dist loadfile "$@"
    ;;
  lab) # from the project's folder, as notebooks link to the glossary; workflow/jupyter answers the question about news
    shift
    cd "$HERE"
    export JUPYTER_CONFIG_PATH="$HERE/workflow/jupyter${JUPYTER_CONFIG_PATH:+:$JUPYTER_CONFIG_PATH}"
    exec "$PYTHON" -m jupyterlab --LabApp.default_url=/lab/tree/notebooks/start/index.ipynb "$@"
    ;;
  names | keys | plan | report | archive | verify | portability | doctor | repair | predict) exec "$PYTHON" -P -m qtl_utils "$@" ;;
  *) exec "$PYTHON" -P -m qtl_utils run "$@" ;;
esac
