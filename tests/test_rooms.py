"""Rooms import one way: one table says which room may import which, and there is no circle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from runs import REPO

# what each room may import, from the bottom to the top
ALLOWED = {
    "console": "",
    "recipe": "console",
    "constraints": "console recipe",
    "inputs": "console recipe",
    "model": "console recipe constraints",
    "data": "console recipe inputs",
    "records": "console recipe constraints model",
    "training": "console recipe",
    "report": "console recipe constraints model records",
    "experiments": "console recipe constraints model inputs data records training report",
}
ROOMS = set(ALLOWED)
# whose functions import what is slow once the flags are checked
AFTER_FLAGS = {"train", "predict", "evaluate", "export", "update_readme", "visualize_augmentations"}
AFTER_FLAGS |= {"experiments"}
TOP = sorted(REPO.glob("*.py"))
FILES = [
    *TOP,
    *(path for room in sorted({*ROOMS, "tests"}) for path in (REPO / room).rglob("*.py")),
]
VERBS = {path.stem for path in TOP} - ROOMS


def room_of(path: Path) -> str:
    return path.relative_to(REPO).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The top-level names of the modules that `path` imports, also within functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_what_is_below_it(room):
    for path in FILES:
        if room_of(path) == room:
            ours = imported(path) & (ROOMS | VERBS) - {room}
            assert ours <= set(ALLOWED[room].split()), path


def test_no_files_import_each_other_in_a_circle():
    """At import time; what a function imports is not counted."""
    names = {".".join(path.relative_to(REPO).with_suffix("").parts): path for path in FILES}
    graph = {}
    for name, path in names.items():
        graph[name] = set()
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ImportFrom):
                parts = {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
                graph[name] |= parts & names.keys()
    assert list(TopologicalSorter(graph).static_order())


def test_the_top_level_has_ten_scripts_at_most():
    assert len(TOP) <= 10


def test_imports_stand_at_the_top_but_for_those_after_the_flags():
    """And one of scikit-learn, which takes a second, for those who hold images out."""
    excused = {"inputs/image_data.py"}
    for path in FILES:
        name = path.relative_to(REPO).as_posix()
        if room_of(path) in {*AFTER_FLAGS, "tests"} or name in excused:
            continue
        for function in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
                inner = [
                    x for x in ast.walk(function) if isinstance(x, (ast.Import, ast.ImportFrom))
                ]
                assert not inner, f"{name}: {function.name}"


def test_files_and_functions_are_short():
    for path in FILES:
        text = path.read_text("utf-8")
        assert text.count("\n") <= 350, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and room_of(path) != "tests":
                assert node.end_lineno - node.lineno < 50, f"{path}: {node.name}"
