"""Own pictures in one command: a folder becomes a study, with weights that are at hand and sizes that fit it."""

import hashlib
import json
import re
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import requests
import torch
import torchvision

from qtl_utils.data.dataset import Dataset
from qtl_utils.data.datasets import load_dataset
from qtl_utils.data.images import scan_folder
from qtl_utils.data.index import ImageIndex
from qtl_utils.data.splits import make_splits
from qtl_utils.models import backbones
from qtl_utils.results.pictures import left_out
from qtl_utils.study import paths, shipped_files
from qtl_utils.study.config import BackboneConfig
from qtl_utils.study.environment import available_cores
from qtl_utils.study.errors import StudyError
from qtl_utils.study.names import NO_BACKBONE, unknown_name
from qtl_utils.study.study_file import study_beside
from qtl_utils.study.time_left import steadily
from qtl_utils.training.inputs import keep_pixels

DATASET = "pictures"  # what a study calls the folder
MODEL = "squeezenet1_1"  # whose ImageNet weights are downloaded: 5 MB, and features in a twentieth of a second
SHIPPED = "tiny_resnet"  # where nothing can be downloaded
FIRST = ("resnet18", "resnet50", "squeezenet1_1", "mobilenet_v3_small", "efficientnet_b0", "vit_b_16")  # tried first
MIN_IMAGES = 5  # of a class: three to train on, one to validate, one to test
PATIENCE = 4  # seconds to wait for the server of the weights
READERS = 4  # threads: each may hold a picture of a hundred million pixels
SEAL = "# Seal: "
SIZES = (  # most pictures -> how much is trained; five splits share no test image, so their number is a multiple of 5
    (100, {"n_splits": 30, "epochs": 30, "batch_size": 8}),
    (1000, {"n_splits": 30, "epochs": 30, "batch_size": 16}),
    (5000, {"n_splits": 10, "epochs": 15, "batch_size": 32}),
    (np.inf, {"n_splits": 5, "epochs": 9, "batch_size": 64}),
)
Say = Callable[[str], None]


@dataclass(frozen=True)
class Choice:
    """A backbone for a folder of pictures, and in one line which it is and why."""

    settings: BackboneConfig
    image_size: int
    why: str


def prepare(
    root: Path,
    results_dir: str | None = None,
    *,
    weights: str | None = None,
    model: str | None = None,
    say: Say = print,
) -> Path:
    """Writes the study file beside the folder `root`, and returns its path; says in single lines what it does.

    weights, model: of the backbone, where they are given. ValueError or FileNotFoundError where the folder holds no
    classes, or the weights fit no network; StudyError where a file that was changed by hand would be overwritten.
    """
    file = study_beside(root)
    if file.is_file() and not is_untouched(file):
        raise StudyError(
            f"{file} was changed by hand, so --weights and --backbone are not for it; set backbones in that file, or "
            "move it away to have a new one written"
        )
    scan_folder(root)  # says what is wrong with the folder, before anything is downloaded
    name = study_name(root, results_dir)
    folder = paths.study_dir(name, results_dir)
    chosen = choose_backbone(weights, model)
    say(f"Backbone: {chosen.why}")
    with paths.lock(folder / ".lock"):
        data = look(root, folder / "data" / DATASET, chosen.image_size, say)
    make_splits(data, n_splits=sizes(len(data))["n_splits"])  # says which copies of a picture leave no way to divide
    n, skipped = len(data), len(data.skipped)
    rest = f"; left out, and listed with the reason: {left_out(skipped)}" if skipped else ""
    say(f"Pictures: {n} in {len(data.classes)} classes{rest}.")
    how = "rewritten" if file.is_file() else "written"
    with paths.atomic(file) as part:
        part.write_text(study_text(root, name, n, len(data.classes), chosen), encoding="utf-8")
    say(f"Study: {how} to {file}; change it as you like, it is not overwritten then.")
    return file


def study_name(root: Path, results_dir: str | None = None) -> str:
    """What the study of a folder is called: after it, with a number where another folder of that name has results."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", study_beside(root).stem).lstrip("._-")[:50] or "pictures-study"
    for number in range(1, 1000):
        name = plain if number == 1 else f"{plain}-{number}"
        record = paths.study_dir(name, results_dir) / "study.json"
        if not record.is_file() or str(root) in _folders(record):
            return name
    raise StudyError(f"there are results of 999 other folders called {root.name}; move some away")


def _folders(record: Path) -> list[str]:
    """The folders of pictures that the study in a study.json reads."""
    try:
        datasets = json.loads(record.read_text(encoding="utf-8"))["datasets"].values()
        return [data["data_dir"] for data in datasets]
    except (ValueError, KeyError, AttributeError, TypeError):
        return []


# ---- the backbone


def choose_backbone(weights: str | None = None, model: str | None = None) -> Choice:
    """The backbone of `weights`, else one with ImageNet weights, else the small one that ships.

    model: its name in torchvision; by default what fits the weights, or MODEL. FileNotFoundError where `model` is
    asked for by name and its weights cannot be downloaded.
    """
    if model is not None and (model not in backbones.known_models() or model == NO_BACKBONE):
        raise ValueError(f"--backbone: {unknown_name('model', model, backbones.known_models())}")
    if weights is not None:
        file = str(paths.user_path(weights))
        if not Path(file).is_file():
            raise FileNotFoundError(f"--weights: there is no file '{weights}'; give a .safetensors, .pt or .pth file")
        model = identify(file, model)
        return Choice(
            BackboneConfig(model=model, init="file", weights=file),
            native_size(model),
            f"{model}, because the weights in {weights} are its own (--weights).",
        )
    if model in shipped_files.names(shipped_files.WEIGHTS):
        return _shipped(model, f"{model}, which ships with this project (--backbone).")
    wanted = model or MODEL
    problem = fetch_imagenet(wanted)
    if not problem:
        asked = "--backbone" if model else "the default, small and quick"
        why = f"{wanted} with ImageNet weights from {torch.hub.get_dir()}/checkpoints ({asked})."
        return Choice(BackboneConfig(model=wanted, init="imagenet"), native_size(wanted), why)
    if model:
        raise FileNotFoundError(f"--backbone {model}: {problem}; give its weights with --weights FILE")
    return _shipped(
        SHIPPED,
        f"{SHIPPED}, the small network that ships with this project and knows handwritten digits only, because "
        f"{problem}. With --weights FILE expect much better results.",
    )


def _shipped(model: str, why: str) -> Choice:
    return Choice(BackboneConfig(model=model, init="shipped"), shipped_files.read_card(model)["image_size"], why)


def fetch_imagenet(model: str) -> str:
    """Downloads the ImageNet weights of `model` unless they are there; why that cannot be done, '' where it could."""
    try:
        url = backbones.imagenet_url(model)
        if not (Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]).is_file():
            requests.head(url, timeout=PATIENCE, allow_redirects=True).raise_for_status()
        backbones.imagenet_state(model)
    except requests.RequestException:
        return f"{url.split('/')[2]} cannot be reached to download ImageNet weights"
    except (FileNotFoundError, ValueError) as error:
        return f"ImageNet weights cannot be had ({' '.join(str(error).split())})"
    return ""


def identify(file: str, model: str | None = None) -> str:
    """The name of the torchvision classifier whose weights a file holds; ValueError where it fits none, or not `model`.

    The name of the file is a hint only.
    """
    state = backbones.read_weights(file)
    if model is not None:
        if problem := _misfit(model, state, file):
            raise ValueError(f"--backbone {model}: {problem}")
        return model
    every = [name for name in backbones.known_models() if name != NO_BACKBONE]
    named = [name for name in every if Path(file).stem.lower().startswith(name)]
    likely = [*sorted(named, key=len, reverse=True), *FIRST, *every]
    for name in dict.fromkeys(likely):
        if not _misfit(name, state, file):
            return name
    first = likely[0]
    raise ValueError(f"{_misfit(first, state, file)}; no other classifier of torchvision fits either")


def _misfit(model: str, state: dict[str, torch.Tensor], file: str) -> str:
    """Why tensors are not the weights of `model`; '' where they are."""
    try:
        with torch.device("meta"), warnings.catch_warnings(action="ignore"):
            network = backbones.build_network(model, native_size(model))
            classifier, _ = backbones.cut(network)
            backbones.load_state(network, state, classifier, file)
    except (ValueError, RuntimeError, NotImplementedError) as error:
        return str(error).rstrip(".")
    return ""


def native_size(model: str) -> int:
    """The image size, in pixels, that a backbone's weights were made for."""
    if model in backbones.BACKBONES:
        ships = model in shipped_files.names(shipped_files.WEIGHTS)
        return shipped_files.read_card(model)["image_size"] if ships else 224
    found = torchvision.models.get_model_weights(model)
    return getattr(found, "IMAGENET1K_V1", found.DEFAULT).transforms().crop_size[0]


# ---- the pictures


def look(root: Path, folder: Path, image_size: int, say: Say = print) -> Dataset:
    """The pictures of a folder, each decoded once; what was found out is kept in `folder`."""
    index = ImageIndex(folder / "images.json", image_size)
    files = [path for _, _, inside in scan_folder(root)[0] for path in inside]

    def known(path: Path) -> None:
        with suppress(ValueError):  # load_dataset lists it with the reason
            index.look(path)

    # decoders and hashes let other threads run; what each of them does to the filter of warnings, this one takes back
    with (
        warnings.catch_warnings(action="ignore"),
        ThreadPoolExecutor(min(available_cores(), READERS)) as pool,
        closing(pool.map(known, files)) as read,  # whoever interrupts waits for no further picture
    ):
        for _ in steadily(files, "reading pictures", say):
            next(read)
    data = load_dataset("image_folder", data_dir=root, index=index, min_images=MIN_IMAGES)
    keep_pixels(folder, data, image_size, index.squares)
    return data


def sizes(n: int) -> dict[str, int]:
    """How much is trained on n pictures: splits, epochs and the size of a batch."""
    return next(values for most, values in SIZES if n <= most)


# ---- the study file


TEXT = """\
# Written by ./run_all.sh for {n} pictures in {n_classes} classes. Change what you like: a file that was changed is not
# overwritten. Every key is described in qtl_utils/study/config.py; more variants are listed by ./run_all.sh names.
name: {name}
description: {description}
threads: {threads}

datasets:
  {dataset}:
    dataset: image_folder
    data_dir: {data_dir}
    image_size: {image_size} # pixels, as the backbone is used to
    options: {{min_images: {min_images}}} # smaller classes are left out, and listed
    n_splits: {n_splits} # divisions; every picture is tested in one of five
    train: 0.6
    validation: 0.2
    test: rest

backbones:
  {model}: {backbone}

runs:
  heads:
    dataset: {dataset}
    backbone: {model}
    variants: [A, C, C-matched, A-none, A-surrogate] # A has the circuit, the others have none
    seeds: {n_splits} # one on each division: they differ more than seeds do
    depth: 4 # layers of the circuit; with the 6 of 2019 some of its outputs mix inputs that no layer can tell apart
    feature_scaling: standard
    epochs: {epochs}
    lr_step: {lr_step}
    batch_size: {batch_size}
    lr_classical: 0.003
    lr_quantum: 0.01
    settings: first rates # with rates chosen on validation they are called tuned
    lr_grid: # as many candidates for every variant
      classical: [{{lr_classical: 0.001}}, {{lr_classical: 0.01}}]
      quantum: [{{lr_classical: 0.001, lr_quantum: 0.01}}, {{lr_classical: 0.01, lr_quantum: 0.03}}]

gradients: null # these look into the model, and take minutes more; remove a line to have one
simulators: null
troubleshooting: null
attribution: null
"""


def study_text(root: Path, name: str, n: int, n_classes: int, chosen: Choice) -> str:
    """The study file for `n` pictures, sealed: `is_untouched` tells whether it was changed."""
    size = sizes(n)
    backbone = chosen.settings.model_dump(
        include={"model", "init"} | ({"weights"} if chosen.settings.weights else set())
    )
    text = TEXT.format(
        n=n,
        n_classes=n_classes,
        name=name,
        description=_yaml(f"Can the circuit help on the pictures in {root.name}?"),
        threads=min(available_cores(), 4),
        dataset=DATASET,
        data_dir=_yaml(str(root)),
        image_size=chosen.image_size,
        min_images=MIN_IMAGES,
        model=chosen.settings.model,
        backbone=_yaml(backbone),
        lr_step=max(1, size["epochs"] // 3),
        **size,
    )
    return f"{text}{SEAL}{_seal(text)} (tells whether the file was changed)\n"


def _yaml(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)  # JSON is YAML, with every quote where it belongs


def _seal(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def is_untouched(file: Path) -> bool:
    """Whether a study file is as `study_text` made it."""
    text, seal, rest = file.read_text(encoding="utf-8", errors="replace").rpartition(SEAL)
    return bool(seal) and rest.startswith(_seal(text))
