"""Recipes: settings that work together, by name, in YAML files that come with the package (`configs/`).

`--recipe NAME` reads one as a --config file is read, below it: what the user sets otherwise wins. The comment
at the head of a file says what can be expected of it: a title, then the entries of `ENTRIES`. `resolve` calls
this for the commands that train; another command may have recipes of its own by the same functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgcls.config import files
from imgcls.config.flags import shortened
from imgcls.errors import UsageError, nearest, verbatim

#: what the head of every recipe says, in this order; "not run here" is an answer too
ENTRIES = ("command", "hardware", "time", "accuracy", "trials")
#: in the checkout a link to `configs/`, in an installed package the files themselves
_FOLDERS = (Path(__file__).parents[1] / "configs", Path(__file__).parents[2] / "configs")
#: given in place of a name, this has the names of all recipes printed
LIST = "list"


@dataclass(frozen=True)
class Recipe:
    """One file: its name and what its head says."""

    name: str
    path: Path
    #: one line: network, data, and whose settings they are
    title: str
    #: entry -> text, lines joined
    entries: Mapping[str, str]

    @property
    def command(self) -> str:
        """Return the command that it is for, such as imgcls-train."""
        return self.entries.get("command", "").partition(" ")[0]

    def settings(self) -> dict[str, Any]:
        """Return its settings, as `files.read_settings` does of any file."""
        return files.read_settings(str(self.path))


def all_recipes() -> list[Recipe]:
    """Return all recipes that are there, by name."""
    # a checkout on a system without links has the folder beside the package only
    folder = next((folder for folder in _FOLDERS if folder.is_dir()), _FOLDERS[0])
    return [_read_head(path) for path in sorted(folder.glob("*.yaml"))]


def find(name: str, command: str) -> Recipe:
    """Return a recipe of `command`; UsageError for another command's recipe, and for an unknown name.

    For an unknown name the message proposes the nearest of the command's own recipes.
    """
    recipes = {recipe.name: recipe for recipe in all_recipes()}
    recipe = recipes.get(name.strip().lower().replace("_", "-"))
    if recipe is None:
        close = nearest(name, [other.name for other in recipes.values() if other.command == command])
        guess = f"did you mean {' or '.join(close)}? " if close else ""
        raise UsageError(f"`recipe` {verbatim(shortened(name))} is not known: {guess}`recipe` {LIST} prints "
                         "all")
    if recipe.command != command:
        raise UsageError(f"`recipe` {recipe.name}: is for {recipe.command}")
    return recipe


def listing(command: str) -> str:
    """Return the recipes of a command, one line each: name and title."""
    recipes = [recipe for recipe in all_recipes() if recipe.command == command]
    width = max((len(recipe.name) for recipe in recipes), default=0)
    return "".join(f"{recipe.name:{width}}  {recipe.title}\n" for recipe in recipes)


def _read_head(path: Path) -> Recipe:
    """Return a recipe, read from the comment that its file begins with: a title, then lines `entry: text`."""
    # a comment and not settings: the results that a recipe reached are no settings of a run
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    entries: dict[str, str] = {}
    entry = ""
    for line in lines[1:]:
        word, colon, text = line.partition(":")
        # a colon in the middle of a text is no entry
        if colon and word in ENTRIES:
            entry = word
            entries[entry] = text.strip()
        elif entry:
            entries[entry] = f"{entries[entry]} {line}".strip()
    return Recipe(path.stem, path, lines[0].rstrip(".") if lines else "", entries)
