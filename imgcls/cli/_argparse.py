"""argparse as some commands still use it."""

from __future__ import annotations

import argparse
from typing import NoReturn

from imgcls.errors import UsageError


class Parser(argparse.ArgumentParser):
    """Raises a UsageError where argparse would print its usage and leave; `hint` ends every such line."""

    hint = ""

    def error(self, message: str) -> NoReturn:
        flag, found, _ = message.removeprefix("argument ").partition(": expected")
        raise UsageError((f"{flag}: needs a value" if found else message) + self.hint)
