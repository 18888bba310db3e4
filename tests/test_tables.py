"""The report's tables, from made-up runs whose numbers are known."""

import numpy as np
import pandas as pd
import pytest
import synthetic

from qtl_utils.results import runs, stats, tables


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return runs.read_runs(synthetic.study(tmp_path_factory.mktemp("study"), n_seeds=10))


@pytest.fixture(scope="module")
def every(study):
    return tables.every(study)


def row(frame, **wanted):
    found = frame[np.logical_and.reduce([frame[name] == value for name, value in wanted.items()])]
    assert len(found) == 1
    return found.iloc[0]


def test_accuracy_is_the_mean_of_the_last_epoch_on_the_test_set(study, every):
    wanted = {"backbone": "tinyvit-source", "variant": "A"}
    m = study["metrics"]
    m = m[(m["backbone"] == "tinyvit-source") & (m["variant"] == "A") & (m["subset"] == "test")]
    last = m[m["epoch_kind"] == "last"]
    found = row(every["accuracy"], **wanted)
    assert found["accuracy"] == pytest.approx(last["accuracy"].mean())
    assert found["sd"] == pytest.approx(last["accuracy"].std())
    assert (found["n"], found["n_splits"], found["total"], found["quantum"]) == (10, 5, 11_178_574, 24)


def test_all_means_are_taken_over_seeds_within_a_split_first(study, every):
    m = study["metrics"].query("backbone == 'tinyvit-source' and variant == 'B' and subset == 'test'")
    found = row(every["accuracy"], backbone="tinyvit-source", variant="B")  # six seeds on five splits
    for kind, name in (("last", "accuracy"), ("best", "best_accuracy"), ("last", "balanced_accuracy")):
        values = m[m["epoch_kind"] == kind].groupby("split")[name.removeprefix("best_")].mean()
        assert found[name] == pytest.approx(values.mean())


def test_groups_are_never_mixed(every):
    by = [*runs.GROUP, "variant"]
    assert not every["accuracy"].duplicated(by).any()
    assert set(every["accuracy"]["settings"]) == {"2019", "tuned"}


def test_what_the_best_epoch_was_chosen_on_is_said(every):
    chosen = every["accuracy"].groupby("protocol")["best_chosen_on"].unique().str[0]
    assert chosen.to_dict() == {"as_published": "test, as published", "repeated": "validation"}


def test_a_skipped_variant_stays_visible(every):
    found = row(every["accuracy"], backbone="tinyvit-source", variant="A-surrogate")
    assert found["n"] == 0 and "6" in found["skipped_reason"] and np.isnan(found["accuracy"])
    assert np.isnan(found["all_seeds_seconds"])


def test_variants_stand_in_their_order(every):
    found = every["accuracy"].query("backbone == 'tinyvit-source'")["variant"].to_list()
    assert found == runs.VARIANT_ORDER


def test_two_dimensional_data_have_a_table_of_their_own(every):
    assert set(every["accuracy_2d"]["dataset"]) == {"spirals"}
    assert "spirals" not in set(every["accuracy"]["dataset"]) | set(every["factorial"]["dataset"])


def test_wilson_stands_beside_the_interval_of_one_split(every):
    found = row(every["accuracy"], dataset="ants_bees", variant="C")
    assert found["interval"] == stats.ONE_SPLIT
    assert (found["wilson_low"], found["wilson_high"]) == stats.wilson(round(found["accuracy"] * 120), 120)


def test_comparisons_hold_the_family_of_every_group(every):
    family = every["comparisons"].query("family")
    assert (family.groupby(runs.GROUP).size() == 4).all()
    assert family["sentence"].str.len().min() > 20
    assert row(family, backbone="tinyvit-source", b="A-surrogate")["verdict"] == "not run"


def test_collapsed_seeds_are_counted_per_variant(every):
    found = every["collapsed"].query("backbone == 'tinyvit-source'").iloc[0]
    assert (found["C-matched-relu"], found["A"]) == ("1 of 10", "0 of 10")


def test_tuning_counts_what_was_chosen(every):
    found = every["tuning"].query("variant == 'A'")
    assert found["chosen"].to_list() == [0, 10] and found["n"].to_list() == [10, 10]
    assert found["validation_accuracy"].to_list() == pytest.approx([0.801, 0.81])


def test_seeds_of_one_variant_may_come_from_several_runs(study):
    parts = {kind: frame[frame["backbone"] == "tinyvit-source"] for kind, frame in study.items()}
    again = {kind: frame.assign(run="more") for kind, frame in parts.items()}
    again["metrics"]["seed"] += 10
    found = tables.accuracy({kind: pd.concat([parts[kind], again[kind]]) for kind in parts})
    assert row(found, variant="A")["n"] == 20
    assert row(found, variant="A")["all_seeds_seconds"] == 80


def test_the_answer_counts_how_the_tests_ended_and_names_every_group(every):
    lines = tables.answer(every["comparisons"])
    assert lines[0].startswith("Of 16 comparisons of A that were fixed beforehand")  # 8 of 24 were not run
    assert len(lines) == 1 + 6
    assert lines[1].startswith(
        "ants_bees, resnet18-source (2019 settings, as published): On this one split: A minus C is "
    )
    assert lines[-1].startswith("spirals (2019 settings, fixed): On this one split: A minus C-matched is ")


def test_tables_and_answer_say_which_backbones_an_interval_covers(tmp_path):
    made = synthetic.run(n_sources=5)
    made["tuning"] = pd.DataFrame(columns=runs.TUNING)
    frames = {kind: runs.tidy(frame, kind) for kind, frame in made.items() if kind in runs.COLUMNS}
    found = tables.comparisons(frames)
    found = found[found["verdict"] != "not run"]
    assert set(found["interval"]) == set(tables.accuracy(frames).query("n > 0")["interval"])
    assert set(found["interval"]) == {"over splits and test images; 5 initial backbones"}
    assert set(tables.factorial(frames)["interval"]) == set(found["interval"])
    assert "draws 5 initial backbones, intervals cover" in tables.answer(found)[-1]


def test_the_headline_has_a_row_per_group_and_the_cells_of_the_factorial(every):
    one = row(every["accuracy"], backbone="tinyvit-source", variant="A")
    found = every["headline"].set_index("test accuracy")
    text = f"{one['accuracy']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"
    assert found.loc["digits, tinyvit-source (2019 settings, repeated)", "A"] == text
    assert not any("spirals" in name for name in found.index)
    assert set(found) <= {"C", "A", "B", "A-joint"}


def test_without_a_planned_comparison_the_answer_says_what_it_takes(study):
    alone = {kind: frame[frame["variant"] == "C"] for kind, frame in study.items()}
    assert "takes A and one of C, C-matched" in tables.answer(tables.comparisons(alone))[0]


def test_a_loss_that_is_no_number_is_not_averaged_away(study):
    parts = {kind: frame[frame["backbone"] == "tinyvit-source"].copy() for kind, frame in study.items()}
    parts["metrics"].loc[(parts["metrics"]["variant"] == "A") & (parts["metrics"]["seed"] == 1), "loss"] = np.nan
    found = tables.accuracy(parts)
    assert np.isnan(row(found, variant="A")["loss"]) and row(found, variant="C")["loss"] > 0


def test_nothing_run_yet_gives_no_tables():
    assert tables.every(runs.no_runs()) == {}


def test_saved_tables_are_the_same_bytes_each_time(every, tmp_path):
    for name in ("one", "two"):
        tables.save(every, tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    assert len(list((tmp_path / "one").iterdir())) == 7


@pytest.mark.parametrize("name", ["accuracy", "accuracy_2d", "comparisons", "factorial", "collapsed", "tuning"])
def test_every_table_can_be_styled_and_gives_the_same_html(every, name):
    html = tables.style(every[name], caption=name).to_html()
    assert name in html and "nan" not in html.lower()
    assert html == tables.style(every[name], caption=name).to_html()


def test_style_joins_mean_and_sd(every):
    one = every["accuracy"].query("backbone == 'tinyvit-source' and variant == 'A'")
    html = tables.style(one).to_html()
    assert f"{one['accuracy'].iloc[0]:.3f} ± {one['sd'].iloc[0]:.3f}" in html
    assert "11,178,574" in html and "balanced accuracy" in html
