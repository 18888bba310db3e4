"""Pictures of one's own: odd folders, the study that is written, the page that answers, the head that is kept."""

import base64
import io
import json
import re
import time
from functools import partial
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import requests
import safetensors.torch
import synthetic
import torch
import torchvision
import yaml
from PIL import Image
from sklearn.datasets import load_digits
from toy_project import run_all

from qtl_utils import predict
from qtl_utils.__main__ import USER_ERROR, main
from qtl_utils.analyses import pictures as own
from qtl_utils.data import images
from qtl_utils.data.datasets import load_dataset
from qtl_utils.data.thumbnails import thumbnail
from qtl_utils.models import backbones
from qtl_utils.results import pictures, tables
from qtl_utils.results.runs import read_runs
from qtl_utils.study import time_left
from qtl_utils.study.config import BackboneConfig, DataConfig, RunConfig
from qtl_utils.study.errors import StudyError
from qtl_utils.study.paths import PROJECT
from qtl_utils.study.steps import steps_of
from qtl_utils.study.study_file import load_study, study_beside
from qtl_utils.training import trained_head
from qtl_utils.training.inputs import open_inputs
from qtl_utils.training.refusals import refusal
from qtl_utils.training.run import run_variant, save_run

ODD = "bees \"of\" Käthe\n'2'"


def picture(seed, size=(12, 10)):
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise)


def fill(root, layout):
    """Writes layout {"ants": 3, ...} as that many different png files per folder."""
    for number, (folder, n) in enumerate(layout.items()):
        (root / folder).mkdir(parents=True)
        for i in range(n):
            picture(1000 * number + i).save(root / folder / f"{i:03d}.png")
    return root


@pytest.fixture
def offline(monkeypatch, tmp_path):
    def fail(*_, **__):
        raise requests.ConnectionError

    monkeypatch.setattr(requests, "head", fail)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))


# ---- folders as they are


def test_a_large_jpeg_is_decoded_smaller_and_keeps_what_a_backbone_needs(tmp_path, monkeypatch):
    whole = Image.linear_gradient("L").resize((640, 480)).convert("RGB")
    whole.save(tmp_path / "a.jpg", quality=95)
    monkeypatch.setattr(images, "LARGE", 640 * 480 - 1)
    for short, size in ((300, (640, 480)), (240, (320, 240)), (60, (80, 60)), (10, (80, 60))):
        monkeypatch.setattr(images, "SHORT", short)
        read = images.read_image(tmp_path / "a.jpg")
        assert read.size == size
        same = np.abs(np.asarray(read.resize((32, 24)), float) - np.asarray(whole.resize((32, 24)), float))
        assert same.max() < 8


def test_a_jpeg_too_large_for_the_memory_is_read_small_and_a_png_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200_000)
    monkeypatch.setattr(images, "LARGE", 100_000)
    monkeypatch.setattr(images, "SHORT", 120)
    for suffix in ("jpg", "png"):
        Image.new("RGB", (640, 480), "red").save(tmp_path / f"a.{suffix}")
    assert images.read_image(tmp_path / "a.jpg").size == (160, 120)
    with pytest.raises(ValueError, match="more than 200000 pixels: too large"):
        images.read_image(tmp_path / "a.png")


def test_a_panorama_keeps_its_shape(tmp_path):
    Image.new("L", (12_000, 3_000), 90).save(tmp_path / "a.jpg")
    read = images.read_image(tmp_path / "a.jpg")
    assert read.mode == "RGB" and read.width == 4 * read.height and read.height == 1_500  # decoded at half its size
    assert read.height >= images.SHORT > 1024 * 256 // 224  # and large enough for any study


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.heic", b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", "HEIC, .* save it as JPEG"),
        ("no heic.jpg", b"\x00\x00\x00\x18ftypmif1\x00\x00\x00\x00mif1heic", "HEIC, .* save it as JPEG"),
        ("a.NEF", b"II*\x00", "raw file: export it as JPEG"),
        ("empty.heic", b"", "empty file"),
        ("a.heic", b"hello", "not an image"),
        ("Thumbs.db", b"\xd0\xcf\x11\xe0" * 20, "not an image"),
    ],
)
def test_what_cannot_be_read_says_what_to_do(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        images.read_image(tmp_path / name)


def test_avif_and_many_pages_are_read(tmp_path):
    Image.new("RGB", (16, 16), "white").save(tmp_path / "a.avif")
    pages = [Image.new("RGB", (16, 16), colour) for colour in ("white", "black")]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    for name in ("a.avif", "a.tif"):
        assert min(images.read_image(tmp_path / name).getpixel((8, 8))) > 250


def test_small_classes_are_left_out_and_listed(tmp_path):
    root = fill(tmp_path, {"ants": 6, ODD: 5, "one": 1, "two": 2, "none": 0})
    data = load_dataset("image_folder", data_dir=root, min_images=5)
    assert data.classes == ("ants", ODD)
    assert len(data) == 11
    assert data.skipped["file"].tolist() == ["none", "one", "two"]
    assert data.skipped["reason"][1] == "class left out: 1 usable images, and 5 are needed to train, validate and test"


def test_two_large_classes_are_needed(tmp_path):
    root = fill(tmp_path / "pictures", {"ants": 6, "one": 1})
    with pytest.raises(ValueError, match=r"has 1 class of at least 5 usable images, .* 'ants' 6, 'one' 1"):
        load_dataset("image_folder", data_dir=root, min_images=5)


def test_a_folder_in_a_folder_is_told(tmp_path):
    fill(tmp_path / "pictures" / "pictures", {"ants": 6, "bees": 6})
    with pytest.raises(
        ValueError, match=r"only one class, 'pictures'.* If the classes lie in .*/pictures/pictures, give"
    ):
        images.scan_folder(tmp_path / "pictures")


# ---- the study that is written


def said_by(prepare):
    lines = []
    return prepare(say=lines.append), lines


def test_a_study_is_written_beside_the_folder_and_fits_it(tmp_path, offline):
    root = fill(tmp_path / "Ämeisen & Bienen", {"train/ants": 12, f"train/{ODD}": 12, "val/ants": 4, f"val/{ODD}": 4})
    for lost in (".DS_Store", "loose.jpg", "train/ants/Thumbs.db"):
        (root / lost).write_bytes(b"?")
    prepare = partial(own.prepare, root, str(tmp_path / "results"))
    file, lines = said_by(prepare)
    assert file == tmp_path / "Ämeisen & Bienen-study.yaml"
    assert [line.split(":")[0] for line in lines] == ["Backbone", "Pictures", "Study"]
    assert "tiny_resnet" in lines[0] and "download.pytorch.org cannot be reached" in lines[0]
    assert lines[1].startswith("Pictures: 32 in 2 classes; left out, and listed with the reason: 3 files")
    study = load_study(root)
    assert study.name == "meisen-Bienen-study"
    assert refusal(study) == ""
    assert study.datasets["pictures"].n_splits % 5 == 0
    assert [step.name for step in steps_of(study)] == [
        "pictures/01_dataset_preparation",
        "pictures/02_train_variant-heads",
        "07_results",
    ]
    grid = study.runs["heads"].lr_grid
    assert {"A", "C", "C-matched"} < set(study.runs["heads"].variants) and len(grid.classical) == len(grid.quantum) > 0


def test_a_file_that_was_changed_is_not_overwritten(tmp_path, offline):
    root = fill(tmp_path / "pictures", {"ants": 6, "bees": 6})
    prepare = partial(own.prepare, root, str(tmp_path / "results"))
    file, _ = said_by(prepare)
    assert own.is_untouched(file)
    _, lines = said_by(partial(prepare, model="tiny_vit"))
    assert load_study(root).backbones["tiny_vit"].init == "shipped"
    assert lines[-1].startswith("Study: rewritten")
    file.write_text(file.read_text(encoding="utf-8").replace("epochs: 30", "epochs: 3"), encoding="utf-8")
    before = file.read_bytes()
    with pytest.raises(StudyError, match="was changed by hand, so --weights and --backbone are not for it"):
        prepare(model="tiny_vit")
    assert file.read_bytes() == before


def test_copies_that_cannot_be_divided_are_told_before_anything_is_written(tmp_path, offline):
    root = fill(tmp_path / "pictures", {"ants": 6, "bees": 0})
    for i in range(6):
        picture(7777).save(root / "bees" / f"{i}.png")
    with pytest.raises(ValueError, match=r"copies of bees/0.png fit into no subset together|no sample of class 'bees'"):
        own.prepare(root, str(tmp_path / "results"), say=lambda line: None)
    assert not study_beside(root).exists()


def test_another_folder_of_that_name_gets_results_of_its_own(tmp_path):
    results = tmp_path / "results"
    root = tmp_path / "a" / "pictures"
    assert own.study_name(root, str(results)) == "pictures-study"
    (results / "pictures-study").mkdir(parents=True)
    record = results / "pictures-study" / "study.json"
    record.write_text(json.dumps({"datasets": {"pictures": {"data_dir": str(root)}}}))
    assert own.study_name(root, str(results)) == "pictures-study"
    assert own.study_name(tmp_path / "b" / "pictures", str(results)) == "pictures-study-2"


@pytest.mark.parametrize("n", [10, 100, 300, 5_000, 1_000_000])
def test_more_pictures_are_trained_on_less_often(n):
    fewer, more = own.sizes(n), own.sizes(10 * n)
    assert fewer["n_splits"] >= more["n_splits"] >= 5
    assert fewer["batch_size"] <= more["batch_size"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "pictures", "--weights", "nothing.pth"], "there is no file 'nothing.pth'"),
        (["run", "pictures", "--backbone", "resnet81"], "--backbone: unknown model 'resnet81'"),
        (["run", "pictures", "--backbone", "resnet50"], "--backbone resnet50: download.pytorch.org cannot be reached"),
        (["run", "pictures", "--dry-run"], "there is no study of the pictures in 'pictures' yet"),
        (["run", "pictures/ants"], "holds no class folders"),
        (["report", "pictures"], "there is no study of the pictures in 'pictures' yet"),
        (["run", "smoke", "--weights", "w.pth"], "--weights and --backbone are for a folder of pictures"),
    ],
)
def test_what_cannot_be_is_one_sentence(arguments, expected, tmp_path, monkeypatch, offline, capsys):
    fill(tmp_path / "pictures", {"ants": 6, "bees": 6})
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "--results-dir", str(tmp_path / "results")]) == USER_ERROR
    message = capsys.readouterr().err
    assert message.startswith("Error: ") and message.count("\n") == 1
    assert expected in message
    assert not (tmp_path / "pictures-study.yaml").exists()


# ---- the backbone


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random weights of SqueezeNet 1.1 without its classifier, in a file whose name says nothing."""
    state = torchvision.models.squeezenet1_1(weights=None).state_dict()
    file = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    kept = {name: value for name, value in state.items() if name.startswith("features")}
    safetensors.torch.save_file(kept, file)
    return file


def test_weights_say_whose_they_are(weights, monkeypatch):
    monkeypatch.setattr(backbones, "known_models", lambda: ["none", "alexnet", "squeezenet1_0", "squeezenet1_1"])
    monkeypatch.setattr(own, "FIRST", ("resnet18",))
    assert own.identify(str(weights)) == "squeezenet1_1"
    with pytest.raises(ValueError, match=r"--backbone alexnet: .* does not fit AlexNet"):
        own.identify(str(weights), "alexnet")
    chosen = own.choose_backbone(str(weights))
    assert (chosen.settings.init, chosen.settings.weights, chosen.image_size) == ("file", str(weights), 224)
    monkeypatch.setattr(backbones, "known_models", lambda: ["none", "alexnet"])
    with pytest.raises(ValueError, match="no other classifier of torchvision fits either"):
        own.identify(str(weights))


def test_weights_are_downloaded_where_there_is_a_server(monkeypatch, tmp_path):
    asked = []

    def head(url, **_):
        asked.append(url)
        response = requests.Response()
        response.status_code = 200
        return response

    monkeypatch.setattr(requests, "head", head)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(backbones, "imagenet_state", lambda model: asked.append(model))
    chosen = own.choose_backbone()
    assert chosen.settings == BackboneConfig(model="squeezenet1_1", init="imagenet")
    assert asked == [backbones.imagenet_url("squeezenet1_1"), "squeezenet1_1"]
    assert "ImageNet weights" in chosen.why


# ---- time


@pytest.mark.parametrize(
    ("there", "took", "since", "expected"),
    [
        ([], 0.0, 0.0, "0 of 3 steps done, about 60 s left"),
        ([], 0.0, 5.0, "0 of 3 steps done, about 55 s left"),
        (["a"], 30.0, 0.0, "1 of 3 steps done, about 2 min left"),
        (["a", "b"], 30.0, 20.0, "2 of 3 steps done, about 10 s left"),
        (["a", "b"], 30.0, 300.0, "2 of 3 steps done, about 30 s left"),  # a tenth of what it took so far
    ],
)
def test_what_is_left_follows_the_pace_so_far(there, took, since, expected):
    assert time_left.line({"a": 10.0, "b": 20.0, "c": 30.0}, there, took, since) == f"  {expected}"


def test_reading_says_how_far_it_is():
    said = []
    assert list(time_left.steadily("abc", "reading", said.append, every=0.0)) == ["a", "b", "c"]
    assert [line.rpartition(",")[0] for line in said] == ["  reading: 1 of 3", "  reading: 2 of 3"]


def test_a_long_run_says_how_long_it_takes(tmp_path):
    said = []
    with time_left.told_now_and_then(tmp_path, {"a": 1.0, "b": 1.0}, said.append, every=0.01):
        (tmp_path / "a").touch()
        until = time.monotonic() + 60
        while time.monotonic() < until and not (said and said[-1].startswith("  1 of 2")):
            time.sleep(0.01)
    assert said[-1].endswith("s left")


# ---- the page


@pytest.mark.parametrize(
    ("plain", "equal", "answer"),
    [
        ("higher", "higher", "Yes."),
        ("higher", "not distinguishable", "Not shown."),
        ("higher", "equivalent", "Not shown."),
        ("equivalent", "higher", "Not shown."),
        ("lower", "higher", "No."),
        ("higher", "lower", "No."),
        ("lower", "not distinguishable", "No."),
        ("equivalent", "equivalent", "No."),
        ("equivalent", "not distinguishable", "We cannot tell."),
        ("not distinguishable", "not run", "We cannot tell."),
        ("higher", "not run", "Not shown."),
        ("one split", "one split", "We cannot tell."),
        ("no variation", "no variation", "No."),
    ],
)
def test_the_first_words_are_the_answer(plain, equal, answer):
    said = pictures.headline({"C": plain, "C-matched": equal})
    assert said.startswith(answer)
    assert "Holm" not in said and "interval" not in said


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (-0.06, -0.02, ", 2 to 6 fewer of 100 pictures are right."),
        (0.004, 0.03, ", 0 to 3 more of 100 pictures are right. Taken alone this would be a difference, but of 4"),
        (-0.024, 0.006, ", between 2 fewer and 1 more of 100 pictures are right."),
        (-0.03, -0.001, ", 0 to 3 fewer of 100 pictures are right. Taken alone"),
        (-0.001, 0.001, ", as many of 100 pictures are right."),
    ],
)
def test_a_difference_is_told_in_pictures(low, high, said):
    verdict = "lower" if high == -0.02 else "not distinguishable"
    line = pictures._change("C", pd.Series({"low": low, "high": high, "verdict": verdict, "n_tests": 4}))
    assert line.removeprefix("With the circuit instead of the linear head without circuit (C)").startswith(said)


def rows_of(*lines):
    columns = ["variant", "id", "label", "prediction", "n", "probability"]
    return pd.DataFrame(lines, columns=columns)


def test_always_wrong_is_what_nobody_ever_got_right():
    found = pictures.always_wrong(
        rows_of(
            ("A", "x/1", "x", "y", 4, 0.6),
            ("C", "x/1", "x", "y", 3, 0.6),
            ("C", "x/1", "x", "z", 1, 0.9),
            ("A", "x/2", "x", "y", 3, 0.9),
            ("A", "x/2", "x", "x", 1, 0.5),
            ("C", "x/2", "x", "y", 4, 0.9),
            ("A", "x/3", "x", "z", 4, 0.9),
            ("C", "x/3", "x", "z", 4, 0.7),
        )
    )
    assert found["id"].tolist() == ["x/3", "x/1"]
    assert found["prediction"].tolist() == ["z", "y"]
    assert found["n"].tolist() == [8, 8]


def test_the_same_picture_counts_only_in_two_classes():
    hashes = {"train/a/1": "h", "train/a/2": "h", "val/a/3": "i", "train/b/1": "i", "train/b/2": "j"}
    assert pictures.same_picture(hashes) == [["train/b/1", "val/a/3"]]


CLASSES = ("ants", "<b>bees</b>", "wasps")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Made-up results of three classes, and the pictures that they are about."""
    folder = tmp_path_factory.mktemp("made up") / "results" / "pictures-study"
    root = folder.parents[1] / "pictures"
    options = {"dataset": "pictures", "backbone": "net", "classes": CLASSES, "n_splits": 10, "settings": "tuned"}
    made = synthetic.run(**options, accuracy={"A": 0.80, "C": 0.90, "C-matched": 0.80})
    made["predictions"]["id"] = [f"{label}/{i}.png" for label, i in made["predictions"][["label", "id"]].to_numpy()]
    ids = sorted(made["predictions"]["id"].unique())
    made["predictions"].loc[made["predictions"]["id"].isin(ids[:2]), "prediction"] = "wasps"  # two are always wrong
    synthetic._write(folder, made)
    tables.save(tables.every(read_runs(folder)), folder / "tables")
    study = {
        "name": "pictures-study",
        "datasets": {"pictures": {"dataset": "image_folder", "data_dir": str(root), "n_splits": 10}},
        "backbones": {"net": {"model": "tiny_resnet", "init": "shipped"}},
        "runs": {"heads": {"dataset": "pictures", "backbone": "net", "variants": ["A", "C", "C-matched"]}},
    }
    for label in CLASSES:
        (root / label).mkdir(parents=True)
    for name in ids:
        picture(1).save(root / name)
    (folder / "study.json").write_text(load_study_text(study, folder))
    sizes = [("train", 72), ("validation", 24), ("test", 24)]
    card = {
        "n": 120,
        "classes": dict.fromkeys(CLASSES, 40),
        "n_splits": 10,
        "splits": [{"split": 0, "subset": subset, "class": "ants", "n": n} for subset, n in sizes],
        "skipped": [{"file": "loose\n'1'.jpg", "reason": "not in a class folder"}],
    }
    (folder / "data" / "pictures").mkdir(parents=True)
    (folder / "data" / "pictures" / "card.json").write_text(json.dumps(card))
    samples = [{"id": name, "hash": "same" if name in ids[:1] + ids[-1:] else name} for name in ids]
    (folder / "data" / "pictures" / "splits.json").write_text(json.dumps({"samples": samples}))
    return folder


def load_study_text(study, folder):
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(study), encoding="utf-8")
    return load_study(file).model_dump_json()


class Tags(HTMLParser):
    """The tags of a page, and whether each that opens is closed again; <rect/> is both."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.addresses = [], [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_answers_in_plain_words(results):
    found = pictures.read_found(results, "pictures")
    page, text = pictures.write_page(found, thumbnail)
    assert (found.best, found.run) == ("C", "heads")
    assert "No. On these pictures a plain linear head without a circuit is right more often." in text
    for word in ("Holm", "p =", "Nadeau", "points"):
        assert word not in text
    for title in ("What accuracy to expect", "How sure is that", "Always wrong", "What to do next"):
        assert f"\n{title}" in text
    mean = found.accuracy.loc["C", "accuracy"]
    assert f"About {100 * mean:.0f} of 100 new pictures" in " ".join(text.split())
    assert "72 to learn from, 24 to choose settings on and 24 to test with" in " ".join(text.split())
    assert "loose\\n'1'.jpg: not in a class folder" in text
    assert "The same picture in two classes" in text
    assert page.read_text(encoding="utf-8").count("<h1>") == 1


def test_the_page_needs_no_network_and_no_name_breaks_it(results):
    page, _ = pictures.write_page(pictures.read_found(results, "pictures"), thumbnail)
    html = page.read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(html)
    assert tags.open == [] and "b" in tags.seen and "script" not in tags.seen
    assert "<b>bees</b></td>" not in html and "&lt;b&gt;bees&lt;/b&gt;" in html
    kinds = {re.match(r"[a-z]+:|", address)[0] for address in tags.addresses}
    assert kinds <= {"data:", "file:", ""}
    wrong = pd.read_csv(results / "tables" / "always_wrong.csv")
    assert tags.seen.count("img") == len(wrong) >= 2
    assert f"Always wrong: {len(wrong)} of 120 pictures" in html


def test_pictures_that_are_gone_leave_the_page_whole(results):
    page, _ = pictures.write_page(pictures.read_found(results, "pictures"), lambda path: "")
    assert "<img" not in page.read_text(encoding="utf-8")


def test_a_study_without_pictures_has_no_page():
    assert pictures.pictures_of(load_study("smoke")) is None


def test_a_thumbnail_is_small(tmp_path):
    picture(1, (700, 500)).save(tmp_path / "a.png")
    address = thumbnail(tmp_path / "a.png")
    small = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))
    assert max(small.size) == 160 and address.startswith("data:image/jpeg;base64,")
    assert thumbnail(tmp_path / "b.png") == ""


# ---- a trained head


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A study of sixty digits in two classes as pictures, trained for a moment: its folder and that of the pictures."""
    folder = tmp_path_factory.mktemp("study")
    root = folder / "pictures"
    digits = load_digits()
    for name, digit in (("sevens", 7), ("zeros", 0)):
        (root / name).mkdir(parents=True)
        for i, grey in enumerate(digits.images[digits.target == digit][:30]):
            Image.fromarray((grey * 15.9).astype(np.uint8)).resize((40, 32)).save(root / name / f"{i}.png")
    data = DataConfig(dataset="image_folder", data_dir=str(root), image_size=32, n_splits=2)
    backbone = BackboneConfig(model="tiny_resnet", init="shipped")
    config = RunConfig(
        dataset="pictures",
        backbone="net",
        variants=["A", "C"],
        seeds=3,
        n_qubits=2,
        depth=1,
        epochs=3,
        lr_classical=0.003,
        lr_grid={
            "classical": [{"lr_classical": 0.02, "feature_scaling": "standard"}],
            "quantum": [{"lr_quantum": 0.02}],
        },
    )
    study = folder / "results" / "mine"
    inputs = open_inputs(study / "data" / "pictures", data, backbone)
    keys = {"study": "mine", "dataset": "pictures", "backbone": "net", "run": "heads"}
    found = [run_variant(variant, inputs, config, keys, study / "checkpoints") for variant in config.variants]
    given = {"data": data.model_dump(), "backbone_settings": backbone.model_dump(), "threads": 1}
    save_run(study / "runs" / "pictures" / "heads", config, found, **given)
    (study / "study.json").write_text(json.dumps({"extensions": []}))
    return study, root, inputs


@pytest.mark.parametrize("variant", ["A", "C"])
def test_a_kept_head_is_right_as_often_as_it_was(trained, variant, tmp_path):
    study, _, inputs = trained
    run_folder = study / "runs" / "pictures" / "heads"
    head = trained_head.load_head(
        trained_head.save_head(trained_head.head_of_run(run_folder, variant), tmp_path / "head.safetensors")
    )
    assert head.card["settings"] == "tuned" and head.card["seeds"] == [0, 1, 2]
    metrics = pd.read_csv(run_folder / "metrics.csv").query(
        "variant == @variant and settings == 'tuned' and subset == 'test' and epoch_kind == 'last'"
    )
    every = []
    for row in metrics.itertuples():
        r = head.card["seeds"].index(row.seed)
        one = trained_head.TrainedHead(
            head.card | {"seeds": [row.seed]},
            {name: value[r : r + 1] for name, value in head.weights.items()},
            None if head.scaling is None else head.scaling[r : r + 1],
        )
        every.append(trained_head.probabilities(one, inputs.features))
        test = inputs.splits.indices(row.split, "test")
        assert (every[-1].argmax(1) == inputs.data.labels)[test].mean() == pytest.approx(row.accuracy)
        loss = -np.log(every[-1][test, inputs.data.labels[test]]).mean()
        assert loss == pytest.approx(row.loss, rel=1e-4)
    assert trained_head.probabilities(head, inputs.features) == pytest.approx(np.mean(every, axis=0))


def test_the_best_on_validation_is_kept_unless_another_is_named(trained):
    study, _, _ = trained
    metrics = pd.read_csv(study / "runs" / "pictures" / "heads" / "metrics.csv")
    tuned = metrics[metrics["settings"] == "tuned"]
    assert trained_head.find_head(study).card["variant"] == pictures.best_on_validation(tuned)
    assert trained_head.find_head(study, "A").card["variant"] == "A"
    with pytest.raises(ValueError, match="unknown variant 'B'"):
        trained_head.find_head(study, "B")


def test_new_pictures_get_a_class_or_a_note(trained, tmp_path, capsys):
    study, root, inputs = trained
    new = tmp_path / "new"
    (new / "deeper").mkdir(parents=True)
    Image.open(root / "sevens" / "3.png").save(new / "deeper" / 'a "7"\nü.png')
    (new / "broken.jpg").write_bytes(b"?")
    (new / ".DS_Store").write_bytes(b"?")
    out = tmp_path / "answers.csv"
    code = main(["predict", str(study), str(root / "zeros" / "5.png"), str(new), "--out", str(out), "--variant", "C"])
    assert code == 0
    told = capsys.readouterr().out
    assert "2 pictures named by variant C of mine/pictures/heads, on tiny_resnet" in told
    assert "1 file could not be read" in told
    table = pd.read_csv(out, keep_default_na=False)
    assert list(table) == ["file", "class", "probability sevens", "probability zeros", "note"]
    assert table["file"].tolist() == [
        str(root / "zeros" / "5.png"),
        str(new / "broken.jpg"),
        str(new / "deeper" / 'a "7"\nü.png'),
    ]
    assert table["class"][1] == "" and "not an image" in table["note"][1]
    head = trained_head.find_head(study, "C")
    places = [inputs.data.ids.index(name) for name in ("zeros/5.png", "sevens/3.png")]
    expected = trained_head.probabilities(head, inputs.features[places])
    found = table.iloc[[0, 2], 2:4].astype(float).to_numpy()
    assert found == pytest.approx(expected, abs=1e-5)
    assert table["class"].to_numpy()[[0, 2]].tolist() == [head.card["classes"][k] for k in expected.argmax(1)]


def test_other_weights_are_refused(trained, tmp_path):
    study, root, _ = trained
    head = trained_head.find_head(study)
    state = backbones.shipped_state("tiny_resnet")
    safetensors.torch.save_file(state, tmp_path / "moved.safetensors")
    assert predict(head, [root / "zeros" / "5.png"], weights=tmp_path / "moved.safetensors")["note"].tolist() == [""]
    other = {"stem.0.weight": state["stem.0.weight"] + 1e-3}
    safetensors.torch.save_file(state | other, tmp_path / "other.safetensors")
    with pytest.raises(
        ValueError, match=r"other.safetensors: these are not the weights of tiny_resnet .* --weights FILE"
    ):
        predict(head, [root / "zeros" / "5.png"], weights=tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("nowhere", "there is no 'nowhere'"),
        ("other.safetensors", "holds no trained head"),
        ("text.safetensors", "not readable as a trained head"),
        (".", "holds no finished run"),
    ],
)
def test_what_is_no_trained_head_is_one_sentence(place, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    safetensors.torch.save_file({"a": torch.zeros(1)}, "other.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    place = place if place == "nowhere" else str(tmp_path / place)
    assert main(["predict", place, "x.png", "--out", "out.csv"]) == USER_ERROR
    message = capsys.readouterr().err
    assert expected in message and message.count("\n") == 1
    assert not (tmp_path / "out.csv").exists()


def test_a_backbone_made_in_the_study_is_kept_with_its_head(trained, tmp_path):
    study, root, inputs = trained
    head = trained_head.find_head(study, "C")
    card = head.card | {"backbone": head.card["backbone"] | {"init": "source"}}
    own_state = trained_head.TrainedHead(card, head.weights, head.scaling, inputs.state)
    kept = trained_head.load_head(trained_head.save_head(own_state, tmp_path / "head.safetensors"))
    files = [root / "zeros" / "5.png"]
    pd.testing.assert_frame_equal(predict(kept, files), predict(head, files))


# ---- all of it


@pytest.mark.slow
def test_three_hundred_pictures_end_in_a_page_and_names_for_new_ones(tmp_path):
    digits = load_digits()
    root = tmp_path / "meine Bilder"
    for digit in (1, 4, 7):
        (root / f"Ziffer {digit}").mkdir(parents=True)
        for i, grey in enumerate(digits.images[digits.target == digit][:100]):
            Image.fromarray((grey * 15.9).astype(np.uint8)).resize((64, 64)).save(root / f"Ziffer {digit}" / f"{i}.png")
    (root / "Ziffer 1" / "broken.jpg").write_bytes(b"?")
    results = tmp_path / "results"
    done = run_all(PROJECT, str(root), "--backbone", "tiny_resnet", "--results-dir", str(results))
    assert done.returncode == 0, done.stderr
    folder = results / "meine-Bilder-study"
    for said in (
        "Pictures: 300 in 3 classes; left out, and listed with the reason: 1 file or",
        "Study: written",
        pictures.QUESTION,
        "broken.jpg: not an image",
    ):
        assert said in done.stdout
    assert done.stdout.endswith(f"Page: {folder / 'pictures.html'}\n")
    again = run_all(PROJECT, str(root), "--results-dir", str(results))
    assert again.returncode == 0 and "is there already" in again.stdout and "started" not in again.stdout
    new = tmp_path / "new"
    new.mkdir()
    for digit in (1, 4, 7):
        grey = digits.images[digits.target == digit][150]
        Image.fromarray((grey * 15.9).astype(np.uint8)).resize((64, 64)).save(new / f"{digit}.png")
    named = run_all(PROJECT, "predict", str(folder), str(new), "--out", str(tmp_path / "a.csv"))
    assert named.returncode == 0, named.stderr
    assert pd.read_csv(tmp_path / "a.csv")["class"].tolist() == ["Ziffer 1", "Ziffer 4", "Ziffer 7"]
