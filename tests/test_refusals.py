"""What a study asks for and cannot have is refused before anything is computed, in one sentence with a way out."""

import pytest
import safetensors.torch
import torch
from test_config import changed, load_study, write

from qtl_utils.study.config import DataConfig
from qtl_utils.study.paths import PROJECT
from qtl_utils.study.study import StudyConfig
from qtl_utils.training.refusals import refusal
from qtl_utils.training.sketches import cannot_take, kind_of, sketch

POINTS, NONE = {"dataset": "moons"}, {"model": "none", "init": "random"}
INSECTS = {"dataset": "hymenoptera"}
GRID = {"classical": [{"lr_classical": 0.1}], "quantum": [{"lr_classical": 0.1}]}
ON_DEVICE = {"runs.heads.simulator": "device", "runs.heads.device_name": "manila"}
WRONG = [  # key -> value, and how the refusal begins
    ({"train": 1000, "validation": 50, "test": 50}, "datasets.digits: Split sizes train=1000, validation=50, test=50"),
    ({"train": 100}, "datasets.digits: train 100, validation 0.2 mixes counts and fractions"),
    ({"train": 3, "validation": 5, "test": 5}, "datasets.digits: Dataset 'digits': train=3 leaves no sample of class"),
    ({"protocol": "fixed", "n_splits": 1}, "datasets.digits: Dataset 'digits' gives no train set; use protocol"),
    ({"protocol": "as_published", "n_splits": 1}, "datasets.digits: Dataset 'digits' gives no train set"),
    ({"image_size": 20}, "datasets.digits.image_size: tiny_vit cannot take 20 px"),
    ({"datasets.digits": INSECTS | {"protocol": "fixed"}}, "datasets.digits: Dataset 'hymenoptera' gives no test set"),
    ({"datasets.digits": INSECTS | {"train": 300, "validation": 50, "test": 50}}, "datasets.digits: Split sizes"),
    ({"datasets.digits": INSECTS | {"data_dir": "tests"}}, "datasets.digits"),
    ({"datasets.digits": INSECTS | {"options": {"data_dir": "x"}}}, "datasets.digits.options.data_dir: unknown option"),
    ({"datasets.digits": POINTS}, "runs.heads.backbone: data set 'digits' has 2-D points, and tiny_vit needs images"),
    ({"backbones.vit": NONE}, "runs.heads.backbone: 'vit' has model none, which is for 2-D points"),
    ({"backbones.vit.init": "imagenet"}, "backbones.vit.init: tiny_vit has no ImageNet weights"),
    ({"backbones.vit": {"model": "vit_b_16", "init": "imagenet"}}, "backbones.vit.init: the ImageNet weights of vit_b"),
    ({"backbones.vit.model": "alexnet"}, "datasets.digits.image_size: alexnet cannot take 32 px"),
    ({"backbones.vit.source_dataset": "moons"}, "backbones.vit.source_dataset: 'moons' has points"),
    ({"backbones.vit.source_dataset": "image_folder"}, "backbones.vit.source_dataset: 'image_folder' needs a folder"),
    ({"runs.heads.variants": ["B"], "runs.heads.feature_scaling": "standard"}, "runs.heads.feature_scaling: B trains"),
    ({"runs.heads.variants": ["A-joint"], "runs.heads.optimizer": "adam-pl"}, "runs.heads.optimizer: 'adam-pl' trains"),
    ({"runs.heads.variants": ["B"], "runs.heads.start": "published-2d"}, "runs.heads.start: 'published-2d' is for"),
    ({"runs.heads.start": "published-2d", "runs.heads.depth": 15}, "runs.heads.depth: start 'published-2d' has angles"),
    ({"runs.heads.start": "published-2d", "runs.heads.ansatz": "reuploading"}, "runs.heads.ansatz: start 'published"),
    ({"runs.heads.variants": ["A-surrogate"], "runs.heads.n_qubits": 7}, "runs.heads.variants: none of them can be"),
    (
        {"runs.heads.diff_method": "hadamard"},
        "runs.heads.diff_method: 'hadamard' does not work on statevector (",
    ),
    (
        ON_DEVICE | {"runs.heads.n_qubits": 6},
        "runs.heads.n_qubits: 'manila' has 5 qubits, not 6; set n_qubits: 5 or less",
    ),
    (
        ON_DEVICE | {"runs.heads.device_name": "fez", "runs.heads.n_qubits": 9},
        "runs.heads.n_qubits: a device is simulated up to 8 qubits, not 9; set n_qubits: 8",
    ),
    (ON_DEVICE | {"runs.heads.diff_method": "hadamard"}, "runs.heads.diff_method: 'hadamard' does not work on device"),
    (ON_DEVICE | {"runs.heads.device_name": "ibm:ibm_fez"}, "runs.heads.shots: a real device gives samples"),
    (
        ON_DEVICE | {"runs.heads.device_name": "ibm:ibm_fez", "runs.heads.shots": 100},
        "runs.heads.device_name: a real device needs an account of IBM Quantum; set the environment variable QISKIT",
    ),
    ({"runs.heads.settings": "tuned", "runs.heads.lr_grid": GRID}, "runs.heads.settings: 'tuned' is what results"),
    ({"runs.heads.settings": "a\nb"}, "runs.heads.settings: 'a\\nb' is not one line of text"),
    ({"gradients.noise": [0.1]}, "gradients.noise: the others are compared with the first one; begin with 0"),
    ({"gradients.variants": ["A-surrogate"], "gradients.n_qubits": 8}, "gradients.variants: A-surrogate cannot be"),
    ({"attribution.rate_factors": [1, 10]}, "attribution.classical_factors: 4, but 2 rate_factors"),
    ({"attribution.rate_variants": ["C", "A"]}, "attribution.rate_variants: A is compared with the others"),
    ({"attribution.fraction_variants": ["A", "B"]}, "attribution.fraction_variants: A is compared"),
    ({"simulators.scaling_base": {"qubit": 3}}, "simulators.scaling_base: expected qubits, depth and batch"),
    ({"simulators.networks": ["none"]}, "simulators.networks: 'none' is no network"),
    ({"simulators.image_size": 20}, "simulators.image_size: tiny_vit cannot take 20 px"),
]


def study_with(changes, folder) -> StudyConfig:
    content = None
    for key, value in changes.items():
        whole = changed(key if "." in key else f"datasets.digits.{key}", value) if content is None else content
        content, section = whole, whole
        *parents, last = (key if "." in key else f"datasets.digits.{key}").split(".")
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
    return load_study(write(folder, content))


@pytest.mark.parametrize(("changes", "expected"), WRONG, ids=[expected[:50] for _, expected in WRONG])
def test_what_cannot_work_is_refused_in_one_sentence(changes, expected, tmp_path):
    first = refusal(study_with(changes, tmp_path))
    assert first.startswith(expected)
    assert "; " in first, "it says how to mend it"
    assert first.isprintable()
    assert len(first) < 1000


STUDIES = [path for path in sorted((PROJECT / "studies").glob("*.yaml")) if path.stem != "extended"]  # see extensions


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_studies_of_this_project_are_refused_nothing(path):
    assert refusal(load_study(path)) == ""


@pytest.mark.parametrize(("value", "shown"), [("abc", '"abc"'), (None, "null"), (True, "true"), ([1], "[1]")])
def test_an_option_of_another_type_is_refused(value, shown, tmp_path):
    study = study_with({"datasets.digits": {"dataset": "spirals", "options": {"turns": value}}}, tmp_path)
    assert refusal(study) == f"datasets.digits.options.turns: expected a number, got {shown}"


def test_points_need_no_network_and_cannot_train_one(tmp_path):
    study = {"datasets.digits": POINTS, "backbones.vit": NONE}
    assert refusal(study_with(study, tmp_path)) == ""
    first = refusal(study_with(study | {"runs.heads.variants": ["B"]}, tmp_path))
    assert first.startswith("runs.heads.variants: B trains a backbone, and 'digits' has points")


def test_weights_of_another_network_are_refused(tmp_path):
    safetensors.torch.save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    weights = {"model": "resnet18", "init": "file", "weights": str(tmp_path / "other.safetensors")}
    first = refusal(study_with({"backbones.vit": weights}, tmp_path))
    assert first.startswith("backbones.vit.weights: ")
    assert "does not fit ResNet: 120 keys missing" in first


def test_batches_of_one_cannot_train_batchnorm_on_a_single_pixel(tmp_path):
    study = {"backbones.vit.model": "resnet18", "runs.heads.variants": ["B"], "runs.heads.batch_size": 1}
    first = refusal(study_with(study, tmp_path))
    assert "resnet18 cannot take 32 px (Expected more than 1 value per channel" in first
    assert refusal(study_with(study | {"runs.heads.batch_size": 2}, tmp_path)) == ""


# ---- folders


def images(root, counts):
    for name, n in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(n):
            (root / name / f"{i}.png").write_bytes(b"looked at by nobody")
    return {"dataset": "image_folder", "data_dir": str(root)}


@pytest.mark.parametrize(
    ("counts", "more", "expected"),
    [
        ({"a": 5, "b": 50}, {}, ""),
        ({"a": 2, "b": 50}, {}, "leaves no sample of class 'a' for test"),
        ({"a": 5, "b": 0}, {}, "leaves no sample of class 'b' for train"),
        ({"a": 5, "b": 5}, {"train": 9, "validation": 1, "test": 1}, "holds only 10 samples; ask for fewer"),
        ({"a": 5, "b": 5}, {"protocol": "fixed"}, "gives no train set; use protocol 'repeated'"),
        ({"train/a": 5, "train/b": 5, "val/a": 1, "val/b": 1}, {"protocol": "as_published"}, ""),
        (
            {"train/a": 5, "train/b": 5, "test/a": 1, "test/b": 1},
            {"protocol": "fixed", "validation": 10},
            "leaves none",
        ),
        ({"a": 5}, {}, "holds only one class, 'a'"),
    ],
)
def test_images_are_counted_and_not_read(counts, more, expected, tmp_path):
    study = study_with({"datasets.digits": images(tmp_path / "images", counts) | more}, tmp_path)
    assert expected in refusal(study)
    assert bool(refusal(study)) == bool(expected)


def test_ants_and_bees_are_told_from_other_folders(tmp_path):
    folder = images(tmp_path / "images", {"a": 5, "b": 5}) | {"dataset": "hymenoptera"}
    found = refusal(study_with({"datasets.digits": folder}, tmp_path))
    assert "has a beside or instead of ants and bees" in found


# ---- sketches


@pytest.mark.parametrize(("name", "n", "kind"), [("digits", 896, "images"), ("hymenoptera", 397, "images")])
def test_a_sketch_has_as_many_samples_as_the_data_set(name, n, kind):
    config = DataConfig(dataset=name)
    assert (len(sketch(config)), kind_of(config)) == (n, kind)


def test_the_sketch_of_ants_and_bees_is_as_they_are(hymenoptera_dir):
    there = sketch(DataConfig(dataset="hymenoptera", data_dir=str(hymenoptera_dir)))
    known = sketch(DataConfig(dataset="hymenoptera"))
    skipped = len(there) - len(known)  # counted without being read
    assert (known.classes, skipped) == (there.classes, 1)


@pytest.mark.parametrize(("model", "size", "fits"), [("vit_b_16", 40, False), ("resnet18", 32, True)])
def test_networks_are_tried_without_weights(model, size, fits):
    assert (cannot_take(model, size) == "") == fits
