"""The archive of a study: complete, the same bytes each time, and described as an RO-Crate asks for."""

import hashlib
import json
import re
import subprocess
import zipfile

import nbformat
import pytest
import yaml
from test_report import finished_study

import qtl_utils
from qtl_utils.results.archive import METADATA, SPECIFICATION, SUMS, write_archive
from qtl_utils.results.report import write_manifest
from qtl_utils.study.errors import StudyError
from qtl_utils.study.paths import PROJECT
from qtl_utils.study.study import StudyConfig

CONFIG = PROJECT / ".devcontainer" / "devcontainer.json"


@pytest.fixture
def study(tmp_path):
    folder = finished_study(tmp_path / "toy")
    (folder / "report" / "_static").mkdir(parents=True)
    (folder / "report" / "index.html").write_text("<p>It is a toy.</p>")
    (folder / "report" / "_static" / "style.css").write_text("")
    (folder / "tables" / "a name, with spaces.csv").write_text("a\n1\n")
    for path in folder.glob("notebooks/**/*.ipynb"):
        book = nbformat.read(path, as_version=4)
        book.metadata["papermill"]["end_time"] = "2026-02-03T04:05:06.789"
        nbformat.write(book, path)
    notebooks = [path.relative_to(folder / "notebooks") for path in folder.glob("notebooks/**/*.ipynb")]
    write_manifest(folder, StudyConfig.model_validate_json((folder / "study.json").read_text()), notebooks)
    file = tmp_path / "toy.yaml"
    file.write_text("description: a toy\n")
    return folder, file


@pytest.fixture
def archive(study):
    return zipfile.ZipFile(write_archive(*study))


def entities(archive):
    document = json.loads(archive.read(METADATA))
    assert document["@context"] == f"{SPECIFICATION}/context"
    found = {entity["@id"]: entity for entity in document["@graph"]}
    assert len(found) == len(document["@graph"])
    return found


def references(value):
    if isinstance(value, dict):
        yield from [value["@id"]] if set(value) == {"@id"} else [r for v in value.values() for r in references(v)]
    elif isinstance(value, list):
        yield from (reference for item in value for reference in references(item))


def test_the_same_study_gives_the_same_bytes(study):
    folder, file = study
    first = write_archive(folder, file).read_bytes()
    for path in folder.rglob("*.csv"):
        path.touch()
    assert write_archive(folder, file).read_bytes() == first
    (folder / "tables" / "t.csv").write_text("a\n2\n")
    assert write_archive(folder, file).read_bytes() != first


def test_it_holds_the_study_its_lock_and_what_came_out(archive):
    held = set(archive.namelist())
    for name in ("code/toy.yaml", "study.json", "manifest.json", "requirements.lock", "CITATION.cff", "LICENSE"):
        assert name in held
    assert {"tables/t.csv", "figures/f.png", "report/index.html", "notebooks/07_results.ipynb"} <= held


def test_every_sum_is_right(archive):
    lines = archive.read(SUMS).decode().splitlines()
    assert len(lines) == len(archive.namelist()) - 2
    for line in lines:
        value, name = line.split("  ", 1)
        assert hashlib.sha256(archive.read(name)).hexdigest() == value


def test_the_metadata_are_what_ro_crate_1_1_asks_for(archive):
    found = entities(archive)
    descriptor = found[METADATA]
    assert descriptor["@type"] == "CreativeWork"
    assert descriptor["about"] == {"@id": "./"} and descriptor["conformsTo"] == {"@id": SPECIFICATION}
    root = found["./"]
    assert root["@type"] == "Dataset"
    assert root["name"] and root["description"] and root["license"]
    assert root["datePublished"] == "2026-02-03"


def test_everything_that_is_referred_to_is_described_and_there(archive):
    found = entities(archive)
    known = {*found, SPECIFICATION}
    assert {reference for entity in found.values() for reference in references(entity)} <= known
    files = {name for name, entity in found.items() if entity["@type"] == "File"}
    held = {name.replace(",", "%2C").replace(" ", "%20") for name in archive.namelist()}
    assert files <= held
    assert held - files == {METADATA, "report/_static/style.css"}
    assert "tables/a%20name%2C%20with%20spaces.csv" in files


def test_a_study_without_report_is_refused(study):
    folder, file = study
    (folder / "report" / "index.html").unlink()
    with pytest.raises(StudyError, match="run the study to its end"):
        write_archive(folder, file)


def test_the_citation_is_complete_and_of_this_version():
    citation = yaml.safe_load((PROJECT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "license", "type", "version"} <= set(citation)
    assert citation["cff-version"] == "1.2.0" and citation["version"] == qtl_utils.__version__
    allowed = {"name"}, {"family-names", "given-names"}
    for authors in (citation["authors"], *(work["authors"] for work in citation["references"])):
        assert authors and all(set(author) in allowed for author in authors)
    assert all(re.fullmatch(r"10\.\d{4,}/\S+", work["doi"]) for work in citation["references"])


def test_a_development_container_sets_up_what_run_all_sets_up():
    container = json.loads(CONFIG.read_text(encoding="utf-8"))
    assert container["image"].endswith("python:3.11")
    command = container["postCreateCommand"].split()
    assert (PROJECT / command[0]).is_file() and command[1] in (PROJECT / "run_all.sh").read_text()


def test_binder_installs_the_lock_with_the_cpu_build(tmp_path):
    for name in ("postBuild", "start"):
        script = PROJECT / "binder" / name
        assert script.stat().st_mode & 0o111
        subprocess.run(["bash", "-n", script], check=True)
    made = yaml.safe_load((PROJECT / "binder" / "environment.yml").read_text())
    whole = yaml.safe_load((PROJECT / "environment.yml").read_text())
    assert made["dependencies"] == whole["dependencies"][:2] and made["name"] == whole["name"]
    fake = tmp_path / "pip"
    fake.write_text('#!/bin/sh\necho "$@"\n')
    fake.chmod(0o755)
    text = (PROJECT / "binder" / "postBuild").read_text().replace("/tmp/", f"{tmp_path}/").replace("pip ", f"{fake} ")
    subprocess.run(["bash", "-c", text], cwd=PROJECT, check=True, capture_output=True)
    lines = (tmp_path / "requirements-cpu.lock").read_text().splitlines()
    assert len([line for line in lines if re.match(r"torch(vision)?==[\d.]+\+cpu\b", line)]) == 2
    assert not [line for line in lines if line.startswith(("nvidia-", "cuda-", "triton"))]
