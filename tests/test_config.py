"""Wrong study files end with one sentence that names file and key, and nothing is computed."""

import copy

import pytest
import yaml

from qtl_utils.__main__ import main
from qtl_utils.study.config import RunConfig, TrainConfig
from qtl_utils.study.errors import StudyError
from qtl_utils.study.paths import PROJECT
from qtl_utils.study.study import StudyConfig
from qtl_utils.study.study_file import load_study, parse_overrides

STUDY = {
    "datasets": {"digits": {"dataset": "digits", "n_splits": 2}},
    "backbones": {"vit": {"model": "tiny_vit"}},
    "runs": {"heads": {"dataset": "digits", "backbone": "vit", "variants": ["A", "C"], "seeds": 2}},
}
WRONG = [  # where, value, what the error says
    ("name", "a b", "name: expected letters, digits"),
    ("name", "reference", "name: results/reference/ has another use"),
    ("nmae", "x", "nmae: unknown key 'nmae'; did you mean 'name'?"),
    ("threads", 0, "threads: expected at least 1, got 0"),
    ("threads", "two", 'threads: expected a whole number, got "two"'),
    ("runs", {}, "runs: expected at least 1 entry"),
    ("runs", ["heads"], "runs: expected keys with values"),
    ("defaults", 3, "defaults: expected keys with values, got 3"),
    ("defaults.sedes", 3, "defaults.sedes: unknown key 'sedes'; did you mean 'seeds'?"),
    ("runs.heads.sedes", 3, "runs.heads.sedes: unknown key 'sedes'; did you mean 'seeds'?"),
    ("runs.heads.seeds", 0, "runs.heads.seeds: expected at least 1, got 0"),
    ("runs.heads.seeds", 2.5, "runs.heads.seeds: expected a whole number, got 2.5"),
    ("runs.heads.seeds", True, "runs.heads.seeds: expected a number or text, got true"),
    ("runs.heads.n_qubits", 0, "runs.heads.n_qubits: expected at least 1, got 0"),
    ("runs.heads.epochs", -1, "runs.heads.epochs: expected at least 1, got -1"),
    ("runs.heads.lr_quantum", 0, "runs.heads.lr_quantum: expected more than 0, got 0"),
    ("runs.heads.lr_quantum", float("nan"), "runs.heads.lr_quantum: expected a number, got NaN"),
    ("runs.heads.beta2", 1, "runs.heads.beta2: expected less than 1, got 1"),
    ("runs.heads.optimizer", "adm", "runs.heads.optimizer: expected 'adam'"),
    ("runs.heads.variants", [], "runs.heads.variants: expected at least 1 entry"),
    ("runs.heads.variants", "A", "runs.heads.variants: expected a list such as [A, C]"),
    ("runs.heads.variants", ["A", "A"], "runs.heads.variants: A is listed twice"),
    ("runs.heads.variants", ["A", "D"], "runs.heads.variants: unknown variant 'D'"),
    ("runs.heads.ansatz", "mari", "runs.heads.ansatz: unknown ansatz 'mari'"),
    ("runs.heads.device_name", "manila", "device_name: simulator: device and device_name: NAME go together; give both"),
    ("runs.heads.shots", 100, "shots: simulator 'statevector' has none; set simulator: density or device, or leave"),
    ("runs.heads.encoding", "none", "runs.heads.encoding: unknown encoding 'none'"),
    ("backbones.vit.source_dataset", "digits", "'digits' is also what run 'heads' learns; name other data"),
    ("runs.heads.device", "gpu", "runs.heads.device: 'gpu' is no device"),
    ("runs.heads.dataset", "digit", "runs.heads.dataset: unknown dataset 'digit'; known: digits"),
    ("runs.heads.backbone", "resnet", "runs.heads.backbone: unknown backbone 'resnet'; known: vit"),
    ("runs.heads.lr_grid.classical", [{"lr_classical": 0.1}], "lr_grid: 1 classical and 0 quantum candidates"),
    ("runs.heads.lr_grid.quantum", [{"lr": 0.1}], "lr_grid.quantum.0.lr: unknown key 'lr'"),
    ("runs.HEADS", {"dataset": "digits", "backbone": "vit"}, "runs: two names differ in upper and lower case only"),
    ("datasets.digits.train", 1.5, "datasets.digits.train: expected a fraction such as 0.6 or a count"),
    ("datasets.digits.train", 0.9, "datasets.digits: train + validation + test is 1.1"),
    ("datasets.digits.n_splits", 0, "datasets.digits.n_splits: expected at least 1, got 0"),
    ("datasets.digits.protocol", "fixed", "datasets.digits.n_splits: protocol 'fixed' has one partition"),
    ("datasets.digits.image_size", 4, "datasets.digits.image_size: expected at least 8, got 4"),
    ("datasets.digits.dataset", "digist", "datasets.digits.dataset: unknown dataset 'digist'"),
    ("datasets.digits.dataset", "image_folder", "data_dir: 'image_folder' needs the folder of your images"),
    ("datasets.digits.data_dir", "no/where", "datasets.digits.data_dir: there is no folder 'no/where'"),
    ("datasets.digits.data_dir", "tests", "datasets.digits.data_dir: 'digits' reads no folder"),
    ("datasets.digits.options", {"turns": 2}, "datasets.digits.options.turns: unknown option 'turns'"),
    ("backbones.vit.model", "resnet17", "backbones.vit.model: unknown model 'resnet17'; did you mean 'resnet18'?"),
    ("backbones.vit.init", "file", "backbones.vit.weights: init 'file' needs a .safetensors or .pth file"),
    ("attribution.variants", ["A-zeor"], "attribution.variants: unknown variant 'A-zeor'; did you mean"),
    ("noise.devices", ["yorktwon"], "noise.devices: unknown device 'yorktwon'; known: "),
    ("noise.ansatz", "mari", "noise.ansatz: unknown ansatz 'mari'"),
    ("noise.n_qubits", 6, "noise.n_qubits: 'yorktown' has 5 qubits, not 6; set n_qubits: 5 or less"),
    ("attribution.scalings", ["minmax"], "attribution.scalings.0: expected 'none' or 'standard'"),
    ("attribution.fractions", [1.5], "attribution.fractions.0: expected at most 1, got 1.5"),
    ("attribution.backbone", "vti", "attribution.backbone: unknown backbone 'vti'"),
    ("attribution.geometry", 1, "attribution.geometry: unknown key 'geometry'"),
    ("backbones.vit.weights", "w.pth", "backbones.vit.weights: init 'source' reads no file"),
    ("runs.heads.momentum", 0.9, "runs.heads.momentum: optimizer 'adam' has none; set optimizer: sgd"),
    ("published", {"variants": ["A"]}, "published.variants: C missing; the published numbers are A's and C's"),
    ("published", {"variants": ["A", "C", "D"]}, "published.variants: unknown variant 'D'"),
    ("published", {"dataset": "digit"}, "published.dataset: unknown dataset 'digit'; known: digits"),
    ("published", {"plane_tasks": ["moon"]}, "published.plane_tasks.0: expected 'spirals 1.52 turns'"),
    (
        "published",
        {"checkpoint": "w.pt"},
        "published.checkpoint: there is no file 'w.pt'; give a .pt file, download or",
    ),
    ("published", {"cifar_dir": "no/where"}, "published.cifar_dir: there is no folder 'no/where'"),
]
OVERRIDES = [
    ("seeds", "--set seeds: expected key=value"),
    ("seeds=[", "--set seeds=[: line 1: not readable as YAML"),
    ("sedes=3", "--set sedes: unknown key 'sedes'; did you mean 'seeds'?"),
    ("seeds=0", "runs.heads.seeds: expected at least 1, got 0"),
    ("runs.other.seeds=3", "--set runs.other.seeds: there is no such section"),
]


def write(folder, content):
    path = folder / "mine.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


def changed(key, value):
    content = section = copy.deepcopy(STUDY)
    *parents, last = key.split(".")
    for parent in parents:
        section = section.setdefault(parent, {})
    section[last] = value
    return content


def refuse(arguments, expected, tmp_path, capsys):
    assert main(["run", *arguments, "--results-dir", str(tmp_path / "results")]) == 2
    message = capsys.readouterr().err
    assert expected in message
    assert message.count("\n") == 1
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(("key", "value", "expected"), WRONG)
def test_a_wrong_study_is_refused_in_one_sentence(key, value, expected, tmp_path, capsys):
    path = write(tmp_path, changed(key, value))
    refuse([str(path)], expected, tmp_path, capsys)


@pytest.mark.parametrize(("pair", "expected"), OVERRIDES)
def test_a_wrong_override_is_refused_in_one_sentence(pair, expected, tmp_path, capsys):
    path = write(tmp_path, STUDY)
    refuse([str(path), "--set", pair], expected, tmp_path, capsys)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "expected keys such as datasets, backbones and runs"),
        ("runs: [", "not readable as YAML"),
        ("runs: {a: {}}\nruns: {b: {}}", "the key 'runs' is given twice"),
        ("runs: {a: {dataset: d, backbone: b}}", "datasets: this key is needed and missing"),
    ],
)
def test_a_broken_file_is_refused_in_one_sentence(text, expected, tmp_path, capsys):
    refuse([str(write(tmp_path, text))], expected, tmp_path, capsys)


def test_an_unknown_study_names_the_known_ones(tmp_path, capsys):
    refuse(["smoek"], "unknown study 'smoek'", tmp_path, capsys)


@pytest.mark.parametrize("path", sorted((PROJECT / "studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_resolved_study_reads_back_as_itself(path):
    study = load_study(path)
    assert StudyConfig.model_validate_json(study.model_dump_json()) == study


def test_defaults_reach_every_run_that_does_not_say_otherwise(tmp_path):
    content = STUDY | {"defaults": {"epochs": 3}}
    content["runs"] = {"heads": STUDY["runs"]["heads"], "long": STUDY["runs"]["heads"] | {"epochs": 7}}
    runs = load_study(write(tmp_path, content)).runs
    assert (runs["heads"].epochs, runs["long"].epochs) == (3, 7)


def test_an_override_reaches_every_section_that_has_the_key(tmp_path):
    study = load_study(write(tmp_path, STUDY), parse_overrides(["n_splits=5", "runs.heads.lr_quantum=4e-3"]))
    assert study.datasets["digits"].n_splits == 5
    assert study.runs["heads"].lr_quantum == 0.004


def test_a_share_keeps_its_kind(tmp_path):
    data = load_study(write(tmp_path, changed("datasets.digits.train", 60))).datasets["digits"]
    assert (data.train, type(data.train), data.test) == (60, int, "rest")


def test_runs_are_told_everything_their_names_stand_for(tmp_path):
    parameters = load_study(write(tmp_path, STUDY)).run_parameters("heads")
    assert set(RunConfig.model_fields) < set(parameters)
    assert parameters["backbone_settings"]["model"] == "tiny_vit"


def test_splits_of_its_own_need_a_data_set_that_can_be_divided_again(tmp_path, capsys):
    study = changed("attribution.n_splits", 50)
    assert load_study(write(tmp_path, study)).told("06_who_learned")["n_splits"] == 50
    study["datasets"]["digits"] |= {"protocol": "as_published", "n_splits": 1}
    expected = "attribution.n_splits: data set 'digits' has protocol 'as_published' and so one partition"
    refuse([str(write(tmp_path, study))], expected, tmp_path, capsys)


def test_yaml_anchors_may_be_merged_and_overridden(tmp_path):
    text = yaml.safe_dump(STUDY).replace("  heads:", "  heads: &a")
    path = write(tmp_path, text + "  more: {<<: *a, seeds: 9}\n")
    study = load_study(path)
    assert (study.runs["more"].seeds, study.runs["more"].variants) == (9, ["A", "C"])


def test_a_folder_beside_the_user_is_found_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    monkeypatch.chdir(tmp_path)
    data = load_study(write(tmp_path, changed("datasets.digits.data_dir", "images"))).datasets["digits"]
    assert data.data_dir == str(tmp_path / "images")


def test_load_study_raises_study_error(tmp_path):
    with pytest.raises(StudyError, match=r"mine\.yaml: threads"):
        load_study(write(tmp_path, STUDY | {"threads": 0}))


def test_rates_cannot_be_chosen_where_there_is_no_validation_set(tmp_path):
    content = copy.deepcopy(STUDY)
    content["datasets"]["digits"] = {"dataset": "hymenoptera", "protocol": "as_published"}
    content["runs"]["heads"]["lr_grid"] = {"classical": [{}], "quantum": [{}]}
    with pytest.raises(StudyError, match="runs.heads.lr_grid: protocol 'as_published' has no validation set"):
        load_study(write(tmp_path, content))


def test_heads_are_trained_in_double_precision_and_networks_in_single_unless_told(tmp_path):
    run = load_study(write(tmp_path, STUDY)).runs["heads"]
    assert (run.precision(whole=False), run.precision(whole=True)) == ("float64", "float32")
    run = load_study(write(tmp_path, changed("runs.heads.dtype", "float32"))).runs["heads"]
    assert run.precision(whole=False) == run.precision(whole=True) == "float32"


INSECTS = {"dataset": "ants_bees"}, {"model": "squeezenet1_1", "init": "shipped"}


def test_what_needs_images_is_told_those_of_the_study_or_lent_some(tmp_path):
    content = copy.deepcopy(STUDY)
    content["runs"] = {"bees": {"dataset": "insects", "backbone": "squeeze"}} | content["runs"]
    content["datasets"]["insects"], content["backbones"]["squeeze"] = INSECTS
    study = load_study(write(tmp_path, content))
    told = study.told("05_troubleshooting_gradients")
    assert (told["dataset"], told["backbone"]) == ("digits", "lent")
    assert told["backbone_settings"] | {"model": "tiny_resnet", "init": "shipped"} == told["backbone_settings"]
    assert study.told("03_gradient_diagnostics")["dataset"] == "digits"
    assert study.told("06_who_learned")["dataset"] == "insects"
    alone = {"name": "s", "datasets": {"d": INSECTS[0]}, "backbones": {"b": INSECTS[1]}}
    study = load_study(write(tmp_path, alone | {"runs": {"r": {"dataset": "d", "backbone": "b"}}}))
    assert study.told("05_troubleshooting_gradients")["data"]["dataset"] == "digits"


def test_a_study_with_a_resnet_is_told_that(tmp_path):
    content = copy.deepcopy(STUDY)
    content["backbones"]["other"] = {"model": "tiny_resnet", "init": "random"}
    content["runs"]["more"] = content["runs"]["heads"] | {"backbone": "other"}
    assert load_study(write(tmp_path, content)).told("05_troubleshooting_gradients")["backbone"] == "other"


def test_published_results_need_images_and_are_left_out_unless_asked_for(tmp_path):
    content = copy.deepcopy(STUDY) | {"published": {}}
    assert load_study(write(tmp_path, STUDY)).published is None
    assert load_study(write(tmp_path, content)).told("08_published_results")["backbone"] == "vit"
    content["datasets"]["digits"], content["backbones"]["vit"] = {"dataset": "moons"}, {"model": "none"}
    with pytest.raises(StudyError, match="published.backbone: 2-D points have none; name a backbone"):
        load_study(write(tmp_path, content))


@pytest.mark.parametrize(
    ("given", "label"),
    [
        ({}, "2019"),
        ({"lr_quantum": 0.01}, "lr_quantum 0.01"),
        ({"epochs": 30, "batch_size": 8}, "batch_size 8"),
        ({"loss": "squared"}, "loss squared"),
        ({"simulator": "device", "device_name": "fez", "shots": 100}, "device_name fez, shots 100"),
        ({"simulator": "density", "shots": None}, "2019"),
        ({"lr_quantum": 0.01, "settings": "mine"}, "mine"),
    ],
)
def test_results_are_called_2019_only_with_the_settings_of_2019(given, label):
    assert TrainConfig(**given).settings == label


def test_a_key_of_a_section_that_the_file_leaves_out_can_be_set():
    assert load_study("extended", {"published.seeds": 3}).published.seeds == 3
    with pytest.raises(StudyError, match="no such section"):  # what the file leaves out stays out
        load_study("extended", {"simulators.n_qubits": 2})
