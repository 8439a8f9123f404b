"""Who may import whom, where import-linter cannot see it: the media core is a compiled module."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "mautrix_sfu"


def names_media_core(path: Path) -> bool:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            if (node.module or "").endswith("_media") or any(alias.name == "_media" for alias in node.names):
                return True
        elif isinstance(node, ast.Import) and any(alias.name.endswith("._media") for alias in node.names):
            return True
    return False


def test_only_its_wrapper_imports_the_media_core() -> None:
    assert [path.name for path in sorted(PACKAGE.rglob("*.py")) if names_media_core(path)] == ["media.py"]
