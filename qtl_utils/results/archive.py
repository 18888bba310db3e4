"""One zip file of a finished study for a repository that gives it a DOI: what ran, what came out, and how to cite it.

The metadata are an RO-Crate (https://w3id.org/ro/crate/1.1): JSON-LD that says what every file is. The same study gives
the same bytes.
"""

import hashlib
import json
import mimetypes
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from qtl_utils.study.errors import StudyError
from qtl_utils.study.paths import PROJECT, atomic, user_path
from qtl_utils.study.strict_yaml import read_file
from qtl_utils.study.study import StudyConfig

METADATA = "ro-crate-metadata.json"
SUMS = "SHA256SUMS"
SPECIFICATION = "https://w3id.org/ro/crate/1.1"
FOLDERS = {  # of a study, and what is in them
    "tables": "Tables of results as CSV, and sentences made from them",
    "figures": "Figures, as PNG and SVG",
    "notebooks": "Executed notebooks: every step of the study with what it printed",
    "report": "The report as HTML that opens without a network; begin with index.html",
}
OF_PROJECT = {  # files of the project that lie beside the results
    "requirements.lock": "Every package and version that the study was run with",
    "CITATION.cff": "How to cite this study",
    "LICENSE": "The licence of code and results",
}
OF_STUDY = {
    "study.json": "The study with every setting written out",
    "manifest.json": "Machine, versions, commit, hashes of tables and seconds of every notebook",
}
TYPES = {
    ".cff": "application/yaml",
    ".lock": "text/plain",
    ".ipynb": "application/x-ipynb+json",
    ".yaml": "application/yaml",
}
BEGINNING = (1980, 1, 1, 0, 0, 0)  # of time in zip files: when a file was written is no part of it
REGULAR = 0o100644 << 16  # a plain file that everybody may read


def write_archive(folder: str | Path, study_file: str | Path) -> Path:
    """Writes the study in `folder` to NAME.zip beside it, and returns its path.

    `study_file`: the file that the study was read from. Raises StudyError where the study has no report yet.
    """
    folder = Path(folder)
    if not (folder / "report" / "index.html").is_file():
        raise StudyError(f"{folder} has no report yet; run the study to its end first")
    study = StudyConfig.model_validate_json((folder / "study.json").read_text(encoding="utf-8"))
    files = dict(sorted(_files(folder, study, Path(study_file))))
    told = _crate(folder, study, files)
    sums = "".join(f"{_sha256(path)}  {name}\n" for name, path in files.items())
    made = {METADATA: json.dumps(told, indent=2, ensure_ascii=False) + "\n", SUMS: sums}
    target = folder.with_name(f"{folder.name}.zip")
    with atomic(target) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name, text in made.items():
            archive.writestr(_entry(name), text.encode())
        for name, path in files.items():
            archive.writestr(_entry(name), path.read_bytes())
    return target


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, BEGINNING)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = REGULAR
    entry.create_system = 3  # Unix, wherever it is made
    return entry


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _files(folder: Path, study: StudyConfig, study_file: Path) -> Iterator[tuple[str, Path]]:
    """Name in the archive and path of every file that goes into it."""
    yield f"code/{study_file.name}", study_file
    for number, extension in enumerate(study.extensions):
        path = user_path(extension)
        yield f"code/extensions/{number}/{path.name}", path
    for name in OF_STUDY:
        yield name, folder / name
    for name in OF_PROJECT:
        yield name, PROJECT / name
    for name in FOLDERS:
        for path in (folder / name).rglob("*"):
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
                yield path.relative_to(folder).as_posix(), path


# ---- metadata --------------------------------------------------------------------------------------------------------


def _crate(folder: Path, study: StudyConfig, files: Mapping[str, Path]) -> dict[str, Any]:
    """The JSON-LD document: a descriptor, the study as a data set, its folders and files, who made it, with what."""
    citation = read_file(PROJECT / "CITATION.cff")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    described = [name for name in files if not name.startswith("report/") or name == "report/index.html"]
    folders = [name for name in FOLDERS if any(file.startswith(f"{name}/") for file in files)]
    top = [name for name in described if name.partition("/")[0] not in FOLDERS]
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": f"{citation['title']}: study {study.name}",
        "description": study.description or citation["title"],
        "datePublished": _last_day(files),
        "license": _ref("LICENSE"),
        "author": [_ref(f"#{quote(author['name'])}") for author in _authors(citation)],
        "hasPart": [*map(_ref, [*top, SUMS]), *(_ref(f"{name}/") for name in folders)],
        "mentions": [_ref("#run"), _ref("#software")],
        "citation": [_ref(_address(work)) for work in citation.get("references", ()) if "doi" in work],
    }
    descriptor = {
        "@id": METADATA,
        "@type": "CreativeWork",
        "about": _ref("./"),
        "conformsTo": _ref(SPECIFICATION),
    }
    inside = {name: [file for file in described if file.startswith(f"{name}/")] for name in folders}
    parts = [
        {"@id": f"{name}/", "@type": "Dataset", "name": name, "description": FOLDERS[name]}
        | {"hasPart": [*map(_ref, inside[name])]}
        for name in folders
    ]
    entities = [descriptor, root, *_context(study, citation, manifest, folders), *parts]
    entities += [_file(name, files[name]) for name in described]
    entities.append({"@id": SUMS, "@type": "File", "name": SUMS, "description": "SHA-256 of every other file"})
    return {"@context": f"{SPECIFICATION}/context", "@graph": entities}


def _context(study: StudyConfig, citation: Mapping, manifest: Mapping, folders: list[str]) -> list[dict[str, Any]]:
    """Who made the study, which software ran it, and that it did."""
    versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    software = {
        "@id": "#software",
        "@type": "SoftwareApplication",
        "name": citation["title"],
        "version": str(citation["version"]) + (f" ({manifest['commit']})" if manifest.get("commit") else ""),
        "softwareRequirements": versions,
    }
    run = {
        "@id": "#run",
        "@type": "CreateAction",
        "name": f"The run of study {study.name}",
        "description": f"On {manifest['processor']}, {manifest['platform']}",
        "instrument": _ref("#software"),
        "object": _ref("study.json"),
        "result": [_ref(f"{name}/") for name in folders],
    }
    people = [
        {"@id": f"#{quote(author['name'])}", "@type": author["kind"], "name": author["name"]}
        for author in _authors(citation)
    ]
    works = [
        {"@id": _address(work), "@type": "ScholarlyArticle", "name": work["title"], "datePublished": str(work["year"])}
        for work in citation.get("references", ())
        if "doi" in work
    ]
    return [software, run, *people, *works]


def _authors(citation: Mapping) -> list[dict[str, str]]:
    """Name and kind, Person or Organization, of every author."""
    found = []
    for author in citation["authors"]:
        person = " ".join(author[key] for key in ("given-names", "family-names") if key in author)
        found.append({"name": author.get("name") or person, "kind": "Organization" if "name" in author else "Person"})
    return found


def _address(work: Mapping) -> str:
    return f"https://doi.org/{work['doi']}"


def _ref(name: str) -> dict[str, str]:
    """A reference to an entity; names of files are encoded as in addresses."""
    return {"@id": name if name.startswith(("#", "https:", "./")) else quote(name)}


def _file(name: str, path: Path) -> dict[str, Any]:
    kind = TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "text/plain"
    known = OF_STUDY | OF_PROJECT
    about = {"description": known[name]} if name in known else {}
    size = {"contentSize": str(path.stat().st_size), "encodingFormat": kind}
    return {**_ref(name), "@type": "File", "name": name, **about, **size}


def _last_day(files: Mapping[str, Path]) -> str:
    """The day on which the last notebook of the study was executed, as YYYY-MM-DD."""
    days = []
    for name, path in files.items():
        if name.endswith(".ipynb"):
            papermill = json.loads(path.read_text(encoding="utf-8"))["metadata"].get("papermill", {})
            days.append((papermill.get("end_time") or "")[:10])
    return max(days, default="") or "1980-01-01"  # notebooks that nobody executed have no day
