"""The layout of docs/architecture.md: a package imports only packages of lower levels, inside functions too."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "imgcls"

#: every package or loose file of imgcls, lowest level first; a package imports only from levels below its own
FLOORS = [
    ["errors"],
    ["storage"],
    ["formats"],
    ["config"],
    ["data", "layers"],
    ["compat", "datasets", "graph", "networks", "optim", "report"],
    ["distributed"],
    ["launch", "training"],
    ["pretrained"],
    ["inference"],
    ["api", "cli"],
    ["__init__", "__main__"],
]
#: leaves that are another leaf under a second name
ALIASES = {"resnetv1"}


def modules() -> dict[str, Path]:
    """Return dotted name below `imgcls` -> file; a package is its `__init__`."""
    paths = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        paths[".".join(parts if len(parts) == 1 or parts[-1] != "__init__" else parts[:-1])] = path
    return paths


def imports(path: Path, paths: dict[str, Path]) -> set[str]:
    """Return the package's modules that a file imports: at its top, in functions, for types only."""
    imported = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            if node.module and node.module.split(".")[0] == "imgcls":
                inner = node.module.partition(".")[2]
                for alias in node.names:
                    full = f"{inner}.{alias.name}".strip(".")
                    imported.add(full if full in paths else inner or "__init__")
        elif isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[2] or "__init__" for alias in node.names
                         if alias.name.split(".")[0] == "imgcls"}
    return imported


def test_every_room_has_a_floor() -> None:
    rooms = {name.split(".")[0] for name in modules()}
    assert rooms == {room for floor in FLOORS for room in floor}
    assert len(FLOORS) <= 12
    assert len(list(PACKAGE.glob("*.py"))) <= 4, "a loose file: put it into a room"


def test_imports_go_down_the_floors_only() -> None:
    paths, wrong = modules(), []
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    for name, path in paths.items():
        room = name.split(".")[0]
        for target in imports(path, paths):
            below = target.split(".")[0]
            if below != room and floor[below] >= floor[room]:
                wrong.append(f"{name} (floor {floor[room]}) imports {target} (floor {floor[below]})")
    assert not wrong, "\n".join(wrong)


def test_leaves_import_no_leaf() -> None:
    paths, wrong = modules(), []
    for name, path in paths.items():
        room, _, leaf = name.partition(".")
        if room in ("networks", "datasets") and leaf and not leaf.startswith("_") and leaf not in ALIASES:
            wrong += [f"{name} imports {target}" for target in imports(path, paths)
                      if target.startswith(f"{room}.") and not target.split(".")[1].startswith("_")]
    assert not wrong, "\n".join(wrong)


def test_no_file_imports_in_a_circle() -> None:
    paths = modules()
    graph = {name: {target for target in imports(path, paths) if target in paths and target != name}
             for name, path in paths.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, "a circle: " + " -> ".join((*trail[trail.index(name):], name))
        if name not in done:
            for target in sorted(graph[name]):
                visit(target, (*trail, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


def test_nobody_imports_a_command() -> None:
    paths, wrong = modules(), []
    for name, path in paths.items():
        wrong += [f"{name} imports {target}" for target in imports(path, paths)
                  if target.startswith("cli.") and not target.startswith("cli._")]
    assert not wrong, "\n".join(wrong)


def test_only_two_rooms_name_torch_distributed() -> None:
    named = {name.split(".")[0] for name, path in modules().items()
             if "torch.distributed" in path.read_text(encoding="utf-8")}
    assert named <= {"distributed", "launch"}


def test_the_page_shows_these_floors() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert floor_list() in page, f"docs/architecture.md must hold this block:\n{floor_list()}"


def floor_list() -> str:
    """Return the block of docs/architecture.md that lists the levels, highest first."""
    lines = [f"{number:2d}  {'  '.join(rooms)}" for number, rooms in reversed(list(enumerate(FLOORS)))]
    return "```text\n" + "\n".join(lines) + "\n```"
