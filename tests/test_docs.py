"""What the pages say holds: links lead somewhere, tests that they name exist, one version stands everywhere."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

from mautrix_sfu import __version__

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "contrib").rglob("*.md"))
    if "node_modules" not in path.parts
)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


@cache
def anchors(page: Path) -> frozenset[str]:
    """The anchors of a page's headings, as forges make them."""
    headings = re.findall(r"^#+ +(.*)$", CODE.sub("", page.read_text()), re.MULTILINE)
    plain = (re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower() for heading in headings)
    return frozenset(re.sub(r"[^\w\- ]", "", text).replace(" ", "-") for text in plain)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in LINK.findall(CODE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        if not there.exists() or (anchor and there.suffix == ".md" and anchor not in anchors(there)):
            broken.append(target)
    assert not broken


def test_a_page_is_reached_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md" or not page.exists():
            continue
        reached.add(page)
        for target in LINK.findall(CODE.sub("", page.read_text())):
            name = target.partition("#")[0]
            waiting += [(page.parent / name).resolve()] if name and ":" not in name else []
    assert set(PAGES) - reached == set()


def test_files_that_pages_name_exist() -> None:
    """Paths in code spans that begin with a folder of this repository."""
    folders = r"(?:mautrix_sfu|media|web|tests|bench|scripts|docs|contrib)"
    missing = []
    for page in PAGES:
        for path in re.findall(rf"`({folders}/[\w./-]+)`", page.read_text()):
            there = (ROOT / path).exists() or list(ROOT.glob(path.rstrip("/") + ".*"))
            missing += [] if there else [f"{page.relative_to(ROOT)}: {path}"]
    assert not missing


def test_the_architecture_names_every_part_and_every_module_of_the_core() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    core = text.partition("## The core")[2].partition("\n## ")[0]
    modules = {path.name for path in (ROOT / "mautrix_sfu/core").glob("*.py")} - {"__init__.py"}
    assert set(re.findall(r"`(\w+\.py)`", core)) == modules
    where = text.partition("## What is where")[2].partition("\n## ")[0]
    parts = {
        path.name
        for path in (ROOT / "mautrix_sfu").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert parts - {"__init__.py"} - set(re.findall(r"[\w]+(?:\.py)?", where)) == set()


def test_one_version() -> None:
    assert tomllib.loads((ROOT / "media/Cargo.toml").read_text())["package"]["version"] == __version__
    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first is not None
    assert first[1] == __version__
    assert "version" in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dynamic"]


@pytest.mark.parametrize("page", ["docs/threat-model.md", "SECURITY.md"])
def test_tests_that_pages_name_exist(page: str) -> None:
    """Each line of the threat model that says what stops somebody names its test as `file::name`."""
    text = (ROOT / page).read_text()
    missing = [
        f"{file}::{name}"
        for file, name in re.findall(r"`([\w./-]+\.(?:py|rs|ts))::(\w+)`", text)
        if not _has_test(ROOT / file, name)
    ]
    assert not missing


def test_each_line_of_the_threat_model_names_its_test() -> None:
    rows = re.findall(r"^\| (?!---|who \| )(.+) \|$", (ROOT / "docs/threat-model.md").read_text(), re.MULTILINE)
    assert len(rows) > 20
    for row in rows:
        cells = [cell.strip() for cell in row.split(" | ")]
        assert len(cells) == 4, row
        assert "::" in cells[3] or cells[3].startswith("none:"), row


def _has_test(path: Path, name: str) -> bool:
    return path.is_file() and re.search(rf"\b(?:def|fn) {name}\b", path.read_text()) is not None
