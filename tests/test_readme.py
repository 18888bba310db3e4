"""What README and docs/ show works: examples run, files exist, findings are those of the reference results."""

import importlib
import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from qtl_utils.analyses import attribution, calibration, mitigation, repairs, strangers
from qtl_utils.circuits import ansatze as circuits
from qtl_utils.doctor.faults import FAULTS, HEALTHY
from qtl_utils.models import heads
from qtl_utils.models.heads import HeadSettings, count_parameters, make_head
from qtl_utils.results import answer, ladder_tables, noise_tables, portability, stats
from qtl_utils.study.paths import PROJECT
from qtl_utils.study.study_file import load_study

README = PROJECT / "README.md"
PAGES = {path: path.read_text(encoding="utf-8") for path in [README, *sorted((PROJECT / "docs").glob("*.md"))]}
TEXT = "\n".join(PAGES.values())
LINKS = sorted(
    {(path, link) for path, text in PAGES.items() for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text)}
)
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)


def block(language, containing):
    (found,) = [code for kind, code in BLOCKS if kind == language and containing in code]
    return found


def test_the_circuit_of_the_readme_works_as_a_head():
    exec(block("python", "brickwork"), {})
    head = make_head("A", HeadSettings(6, 3, ansatz="brickwork"), 0)
    counts = count_parameters(head, torch.randn(5, 6))
    assert counts["quantum"] == 24 and counts["receiving_gradient"] == counts["trainable"]
    circuits.ANSATZE.pop("brickwork")


def test_the_alteration_of_the_readme_lies_between_the_trained_and_the_zeroed_model():
    from test_attribution import CONFIG, INPUTS

    exec(block("python", "halved angles"), {})
    trained = attribution.train_variant("A", INPUTS, CONFIG.model_copy(update={"angle_init": 0.001}))
    halved, zeroed = (attribution.alter(trained, f"A with {how} angles") for how in ("halved", "zeroed"))
    far, near = (abs(logits - trained.fit.logits["last"]).max() for logits in (zeroed, halved))
    assert 0 < near < far
    attribution.ALTERATIONS.pop("A with halved angles")


def test_the_variant_of_the_readme_is_built():
    exec(block("python", "C-gelu"), {})
    assert make_head("C-gelu", HeadSettings(6, 3), 0)(torch.randn(2, 6)).shape == (2, 3)
    heads.VARIANTS.pop("C-gelu")


def test_the_study_of_the_readme_is_valid(tmp_path):
    for name in ("ants", "bees"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "pictures" / name / "1.png")
    file = tmp_path / "my_study.yaml"
    file.write_text(block("yaml", "my_study").replace("pictures", str(tmp_path / "pictures")))
    assert set(load_study(file).runs) == {"heads", "B"}


@pytest.mark.parametrize(("page", "link"), LINKS, ids=[f"{page.stem}:{link}" for page, link in LINKS])
def test_every_linked_file_and_heading_exists(page, link):
    file, _, heading = link.partition("#")
    target = (page.parent / file).resolve() if file else page
    assert target.exists()
    if heading:
        titles = re.findall(r"^#+ (.+)$", PAGES[target], re.MULTILINE)
        assert heading in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


def test_every_page_is_linked_in_the_readme():
    linked = {link.partition("#")[0] for page, link in LINKS if page == README}
    assert {f"docs/{page.name}" for page in PAGES if page != README} <= linked


def test_the_readme_is_short():
    assert len(PAGES[README].encode()) < 9000


def test_every_notebook_is_in_the_map():
    names = {path.name for path in (PROJECT / "notebooks").glob("*.ipynb")}
    assert set(re.findall(r"\(notebooks/(\S+)\)", PAGES[README])) == names
    assert set(re.findall(r"\(../notebooks/(\S+)\)", PAGES[PROJECT / "docs" / "running.md"])) == names


def test_the_readme_tells_what_came_out_in_the_numbers_of_the_reference_results():
    tables = PROJECT / "results" / "reference" / "default" / "tables"
    words = " ".join(PAGES[README].split())
    said = answer.sentences(answer.read(tables / "comparisons.csv"))
    assert f"<!-- answer --> {' '.join(said)} <!-- end -->" in words
    frame = ladder_tables.summary(pd.read_csv(tables / "repair_levels.csv"), pd.read_csv(tables / "repair_final.csv"))
    row = frame.set_index("task").loc["digits, tiny_resnet"]
    told = f"A from {row['A as published']} to {row['A repaired']} images right of 100"
    assert f"{told}, and C, given the same mends, to {row['C, same mends']} " in words
    changed = pd.read_csv(tables.parents[1] / "ants_bees" / "tables" / "attribution_changed.csv").set_index("arm")
    assert f"zero changes {100 * changed.loc['A with zeroed angles', 'mean']:.2f} % of the test decisions" in words
    opened = strangers.summary(strangers.first_opening()).set_index(["part", "outcome"])
    named, later = (opened.loc[(part, "named")].astype(int) for part in ("sealed, at first", "second, at first"))
    assert f"finds each of {len(FAULTS)} faults" in words
    assert f"it named {named['k']} of {named['n']}, later {later['k']} of {later['n']}, and accused no" in words
    assert not opened.xs("accused", level="outcome")["k"].any()


def test_the_picture_of_the_readme_is_told_in_the_numbers_of_the_reference_results():
    file = PROJECT / "results" / "reference" / "default" / "tables" / "comparisons.csv"
    assert f"![{answer.in_words(answer.read(file))}](docs/figures/answer.png)" in PAGES[README]


def test_the_picture_of_the_models_has_the_sizes_of_the_modules(monkeypatch):
    monkeypatch.syspath_prepend(str(PROJECT / "docs"))
    draw = importlib.import_module("draw")
    told = {variant: [words for words, _ in draw.boxes(variant)] for variant in "ABC"}
    assert [words.split("\n")[0] for words in told["A"]] == [
        "image",
        "backbone, frozen",
        "linear layer",
        "to angles",
        "quantum circuit",
        "linear layer",
        "scores of",
    ]
    assert told["A"][4].endswith("4 qubits, depth 6\n24 angles") and "512 to 4\n2,052 weights" in told["A"][2]
    assert told["B"][1].startswith("backbone, trained") and told["B"][2:] == told["C"][2:]


@pytest.mark.parametrize("file", sorted((PROJECT / "results" / "reference").glob("*/tables/answer.json")))
def test_the_findings_are_those_of_the_reference_results(file):
    sentences = json.loads(file.read_text(encoding="utf-8"))["answer"]
    assert sentences and all(f"- {sentence}\n" in TEXT for sentence in sentences)


@pytest.mark.parametrize(
    ("module", "table"),
    [("bench_simulators", "simulators"), ("bench_study", "study"), ("bench_accelerator", "accelerator")],
)
def test_the_benchmarks_are_those_of_the_reference_results(module, table, monkeypatch):
    monkeypatch.syspath_prepend(str(PROJECT / "benchmarks"))
    frame = pd.read_csv(PROJECT / "results" / "reference" / "benchmarks" / f"{table}.csv")
    assert importlib.import_module(module).markdown(frame) in TEXT


def test_what_a_study_can_see_is_that_of_the_reference_results():
    folder = PROJECT / "results" / "reference" / "calibration" / "tables"
    counted, alarms = (pd.read_csv(folder / f"{name}.csv") for name in ("calibration", "calibration_alarms"))
    assert portability.markdown(calibration.overview(counted, alarms)) in TEXT
    words = " ".join(TEXT.split())
    real = pd.read_csv(folder / "calibration_real.csv").query("what == 'A - C' and method == 'crossed'").iloc[0]
    assert f"in {real['studies']:.0f} simulated studies" in words
    assert f"{100 * real['coverage']:.0f} of 100 and saw 2 points in {100 * real['power_2']:.0f}" in words
    rows = pd.read_csv(PROJECT / "results" / "reference" / "default" / "tables" / "comparisons.csv")
    rows = rows[rows["family"] & (rows["n_splits"] > 1)]
    seen = pd.Series(
        [100 * stats.least_seen(e, df) for e, df in zip(rows["error"], rows["df"], strict=True)], rows.index
    )
    given = rows["backbone"].isin(["tiny_resnet", "tiny_vit"]) & (rows["settings"] == "tuned")
    for part in (rows["dataset"] == "ants_bees", given):
        assert f"{seen[part].min():.1f} to {seen[part].max():.1f}" in words


def test_the_processors_are_those_of_the_reference_results():
    frame = pd.read_csv(PROJECT / "results" / "reference" / "portability" / "default.csv", dtype=str)
    assert len(frame) and portability.markdown(frame) in TEXT


def test_the_advice_on_methods_is_that_of_the_reference_results():
    advice = pd.read_csv(PROJECT / "results" / "reference" / "default" / "tables" / "simulator_advice.csv", dtype=str)
    assert len(advice) and all(f"| {' | '.join(row)} |\n" in TEXT for row in advice.itertuples(index=False))


def test_the_trial_of_the_doctor_is_that_of_the_reference_results():
    table = PROJECT / "results" / "reference" / "default" / "tables" / "doctor_confusion.csv"
    trial = pd.read_csv(table).set_index("model")
    assert set(trial.index) == set(FAULTS) | set(HEALTHY)
    alarms = trial.isin(["fail", "warn"])
    assert all(list(alarms.columns[alarms.loc[name]]) == [fault.check] for name, fault in FAULTS.items())
    assert not alarms.loc[list(HEALTHY)].any().any()
    assert f"{len(FAULTS)} faults" in TEXT and f"{len(HEALTHY)} healthy models" in TEXT


def test_the_trial_with_strangers_is_that_of_the_reference_results():
    tables = PROJECT / "results" / "reference" / "default" / "tables"
    today = strangers.summary(pd.read_csv(tables / "doctor_strangers.csv")).set_index(["part", "outcome"])
    openings = strangers.summary(strangers.first_opening()).set_index(["part", "outcome"])
    assert f"| {cells(today.loc['open'])} |" in TEXT
    for part in ("sealed, at first", "second, at first"):
        first = openings.loc[part]
        interval = f" [{100 * first.loc['named', 'low']:.0f}, {100 * first.loc['named', 'high']:.0f}] %"
        assert f"| {cells(first, interval)} |" in TEXT
    named = today.loc[("sealed", "named")].astype(int)
    assert f"the same {named['n']} are named in {named['k']} today" in " ".join(TEXT.split())
    assert not today.loc[[("open", "accused"), ("sealed", "accused")], "k"].any()


def cells(table, interval=""):
    """A row of the README's table."""
    k, n = table["k"], table["n"]
    told = [f"{k['named']} of {n['named']}{interval}", k["misled"], k["missed"], f"{k['accused']} of {n['accused']}"]
    return " | ".join(map(str, [*told, k["warned"]]))


def test_what_a_watch_takes_is_that_of_the_reference_results():
    table = pd.read_csv(PROJECT / "results" / "reference" / "benchmarks" / "watch.csv").set_index("layer")
    own, other = table.iloc[0], table.iloc[1]
    assert table.index[0] == "QuantumLayer" and other["ratio"] < 1 + abs(1 - other["ratio_without"])
    told = f"takes {100 * (own['ratio'] - 1):.1f} % of a step of our own simulator at 4 qubits and batch 32"
    assert f"{told} ({1000 * own['seconds_without']:.2f} ms)" in " ".join(TEXT.split())


def test_who_learned_is_that_of_the_reference_results():
    folder = PROJECT / "results" / "reference" / "ants_bees" / "tables"
    sentences = json.loads((folder / "who_learned.json").read_text(encoding="utf-8"))["answer"]
    assert sentences and all(f"- {sentence}\n" in TEXT for sentence in sentences)
    travel = pd.read_csv(folder / "attribution_travel.csv").query("stage == 'circuit' and measure == 'net'")
    changed = pd.read_csv(folder / "attribution_changed.csv").set_index("arm").loc["A with zeroed angles", "mean"]
    assert all(f"{row.mean:.3f} rad [{row.low:.3f}, {row.high:.3f}]" in TEXT for row in travel.itertuples())
    assert f"zero changes {100 * changed:.2f} % of the test decisions" in " ".join(TEXT.split())


def noise_of_the_reference():
    """Tables by name, as they were when they were written: levels are names and numbers, as text."""
    folder = PROJECT / "results" / "reference" / "default" / "tables"
    names = ("costs", "answers", "readout", "mitigation", "gradients", "devices", "price")
    text = {"keep_default_na": False, "na_values": [""], "dtype": {"level": str}}
    return {name: pd.read_csv(folder / f"noise_{name}.csv", **text) for name in names}


def test_the_page_on_noise_says_what_the_reference_says():
    folder = PROJECT / "results" / "reference" / "default" / "tables"
    sentences = json.loads((folder / "noise.json").read_text(encoding="utf-8"))["answer"]
    assert sentences and all(f"- {sentence}\n" in TEXT for sentence in sentences)
    tables = noise_of_the_reference()
    told = noise_tables.sentences(*(tables[name] for name in ("costs", "answers", "readout")))
    told += mitigation.sentences(tables["mitigation"]) + noise_tables.pointers(tables["gradients"])
    assert told == sentences


def test_the_numbers_on_noise_are_those_of_the_reference():
    tables = noise_of_the_reference()
    trained = tables["costs"].query("training == 'without noise'")
    seen = trained.query("kind == 'device'")
    published = seen[seen["model"] == "A, as published"].set_index("level")
    price = tables["price"].set_index("device")
    for _, row in tables["devices"].iterrows():
        cost, asked = published.loc[row["device"]], price.loc[row["device"]]
        cells = [row["device"], row["generation"], row["calibrated"]]
        cells += [f"{100 * row[name]:.2f}" for name in ("two-qubit error", "readout error")]
        cells += [f"{round(100 * cost['accuracy_cost'], 1) + 0.0:+.1f}", f"{cost['loss_cost']:+.3f}"]
        cells += [f"{asked['hours, training']:,.0f}", f"{asked['USD, training'] / 1000:,.0f},000"]
        assert f"| {' | '.join(cells)} |" in TEXT
    text = " ".join(TEXT.split())
    circuits_seen = seen[seen["model"] != noise_tables.CLASSICAL]
    assert f"change more than {100 * circuits_seen['changed'].max():.1f} of 100 decisions" in text
    assert f"changes at most {100 * published['changed'].max():.1f} of 100 test decisions" in text
    assert (published["loss_cost"] > 0).all()  # "raises the loss on each"
    strongest = trained.query("kind == 'gate noise' and level == '0.1'").set_index("model")["accuracy"]
    a, b = (100 * strongest[name] for name in (noise_tables.PUBLISHED, noise_tables.REPAIRED))
    assert f"then right in {a:.1f} of 100 images; the repaired A," in text and f"layer as well, in {b:.1f}." in text


def test_the_time_of_noise_is_that_of_the_benchmark():
    found = pd.read_csv(PROJECT / "results" / "reference" / "benchmarks" / "noise.csv")
    few, many = found[found["way"] == "density, float64"].set_index("batch").loc[[4, 64], "times_default_mixed"]
    assert f"{few:.0f} times as long with batches of 4 and {many:.0f} times with batches of 64" in " ".join(
        TEXT.split()
    )


def test_what_the_page_on_noise_shows_runs(tmp_path):
    known = {}
    exec(block("python", "NoiseModel"), known)
    assert known["layer"].weights.grad.abs().sum() > 0
    study = "datasets: {digits: {dataset: digits}}\nbackbones: {vit: {model: tiny_vit}}\n"
    study += "defaults: {dataset: digits, backbone: vit}\nruns: {heads: {variants: [A, C]}}\n"
    (tmp_path / "mine.yaml").write_text(study + block("yaml", "train_devices"))
    assert load_study(tmp_path / "mine.yaml").noise.devices == ["manila", "fez"]


def test_the_table_of_the_repair_is_that_of_the_reference():
    tables = PROJECT / "results" / "reference" / "default" / "tables"
    found = ladder_tables.summary(pd.read_csv(tables / "repair_levels.csv"), pd.read_csv(tables / "repair_final.csv"))
    for row in found.to_numpy().tolist():
        assert f"| {' | '.join(row)} |" in TEXT
    mixing = pd.read_csv(tables / "repair_mixing.csv").set_index("depth")
    assert mixing.loc[6, "products"] == "1, 1, 2, 3" and round(mixing.loc[6, "reach"], 1) == 0.5
    assert (mixing.loc[[4, 8], "unread"] == 0).all()
    said = json.loads((tables / "repair.json").read_text(encoding="utf-8"))["answer"]
    quoted = [sentence for sentence in said if f"- {sentence}\n" in TEXT]
    assert any(", depth:" in sentence for sentence in quoted)


def test_the_trial_of_repair_is_that_of_the_reference():
    folder = PROJECT / "results" / "reference" / "repair"
    found = pd.read_csv(folder / "recovered.csv").set_index("fault")
    healthy = pd.read_csv(folder / "healthy.csv")
    every = found.loc["all"]
    share, low, high = (round(100 * every[name]) for name in ("recovered", "low", "high"))
    assert f"{share} % [{low}, {high}] of the accuracy" in TEXT
    assert f"({100 * found.loc['dead_start', 'recovered']:.0f} %)" in TEXT
    assert len(found) - 1 == 12 and "On twelve faults" in TEXT
    assert list(found.index[:-1]) == list(repairs.ON_TRIAL)
    assert len(healthy) == len(HEALTHY) and not (healthy["high"] < 0).any()
    assert (healthy["mends"] == 0).all()
    assert f"The {len(healthy)} healthy models, three seeds each, it left as they were" in " ".join(TEXT.split())
