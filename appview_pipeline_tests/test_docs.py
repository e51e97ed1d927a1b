"""Links of the documents, and the files that documents and comments name, exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath

import pytest

from appview_pipeline_tests.support.checkout import CHECKOUT

FOLDERS = ("", "appview_pipeline", "appview_pipeline_tests", "sql", "sql/apply")
"""What paths in documents and comments are relative to."""
ELSEWHERE = ("shared/", "checkout/", "sql/schema/NNNN_")
"""How names begin that are no files here: of the folder beside the checkout, of a test, of a migration to come."""

_SUFFIX = r"\.(?:py|sql|md|mjs|svg|toml|yaml|yml)"
_LINK = re.compile(r"!?\[[^\]]*\]\(([^()\s]+)\)")
_IN_BACKTICKS = re.compile(r"`([^`\n]+)`")
_FILE = re.compile(rf"[\w.-]+(?:/[\w.-]+)*{_SUFFIX}")
_FOLDER = re.compile(r"[\w.-]+(?:/[\w.-]+)*/")
_FILE_WITH_FOLDER = re.compile(rf"(?<![\w./~{{}}*-])[\w-]+(?:/[\w-]+)+{_SUFFIX}\b")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


OURS = (".github", "appview_pipeline", "appview_pipeline_tests", "docker", "docs", "sql")


@cache
def files() -> frozenset[str]:
    """The checkout's files, without what git ignores."""
    found = [path for path in CHECKOUT.iterdir() if path.is_file()]
    for folder in OURS:
        found += [path for path in (CHECKOUT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return frozenset(str(path.relative_to(CHECKOUT)) for path in found)


@cache
def folders() -> frozenset[str]:
    return frozenset(str(parent) for path in files() for parent in PurePosixPath(path).parents)


DOCUMENTS = sorted(path for path in files() if path.endswith(".md"))
SOURCES = sorted(path for path in files() if path.endswith((".py", ".sql")))


def read(path: str) -> str:
    return (CHECKOUT / path).read_text(encoding="utf-8")


def anchors(text: str) -> set[str]:
    """The anchors that GitHub makes of a document's headings."""
    headings = [re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading) for heading in _HEADING.findall(_FENCED.sub("", text))]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def broken_links(path: str) -> Iterator[str]:
    text = read(path)
    for link in _LINK.findall(_FENCED.sub("", text)):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        place = Path(CHECKOUT / path).parent.joinpath(target).resolve() if target else CHECKOUT / path
        if not place.exists() or (anchor and anchor not in anchors(place.read_text(encoding="utf-8"))):
            yield link


def exists(name: str) -> bool:
    """Whether a file or folder of that path, or a file of that name, is somewhere that documents may mean."""
    if "/" not in name:
        return any(path == name or path.endswith(f"/{name}") for path in files())
    if name.startswith(ELSEWHERE):
        return True
    known = folders() if name.endswith("/") else files()
    return any(str(PurePosixPath(folder, name)) in known for folder in FOLDERS)


def is_of_the_checkout(folder: str) -> bool:
    """Whether a folder's path begins like one of ours; `.appview/dagster/` does not."""
    first = folder.split("/")[0]
    return any(str(PurePosixPath(parent, first)) in folders() for parent in ("", "appview_pipeline"))


def names_of_nothing(path: str) -> Iterator[str]:
    for quoted in _IN_BACKTICKS.findall(_FENCED.sub("", read(path))):
        name, _, test = quoted.partition("::")
        is_path = _FILE.fullmatch(name) or (_FOLDER.fullmatch(name) and is_of_the_checkout(name))
        if is_path and not (exists(name) and (not test or any(f"def {test}(" in read(f) for f in files_named(name)))):
            yield quoted


def files_named(name: str) -> list[str]:
    return [path for path in files() if path == name or path.endswith(f"/{name}")]


def test_there_is_something_to_look_at() -> None:
    assert {"README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/decisions/README.md"} <= set(DOCUMENTS)
    assert len(SOURCES) > 200
    assert anchors("# A `b` c-d, (e)\n```\n# no\n```\n## [F](g)") == {"a-b-c-d-e", "f"}
    assert exists("store/apply.py") and exists("apply/like.sql") and exists("like.sql") and exists("docs/decisions/")
    assert not exists("store/like" + ".sql") and not exists("docs/nothing/") and not exists("nothing.py")


@pytest.mark.parametrize("path", DOCUMENTS)
def test_links_lead_somewhere(path: str) -> None:
    assert list(broken_links(path)) == []


@pytest.mark.parametrize("path", DOCUMENTS)
def test_documents_name_files_that_exist(path: str) -> None:
    assert list(names_of_nothing(path)) == []


def test_comments_name_files_that_exist() -> None:
    named = {(path, name) for path in SOURCES for name in _FILE_WITH_FOLDER.findall(read(path))}
    assert len(named) > 100
    assert sorted((path, name) for path, name in named if not exists(name)) == []
