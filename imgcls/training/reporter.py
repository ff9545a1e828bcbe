"""What a person sees while a run trains: a tqdm bar on a terminal, MXNet's own log lines elsewhere, and the
run's files.

The log lines keep the words of MXNet 1.4 to 1.9, since people's scripts parse them (`tools/parse_log.py` of
MXNet reads them). All of it goes to stderr; results go to stdout, and not from here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from tqdm import tqdm

from imgcls.config.sections import ReportConfig
from imgcls.distributed.rank_info import SCREEN_VARIABLE
from imgcls.errors import as_keyword, printable, spell_settings, tell
from imgcls.training.log_files import open_log_file
from imgcls.training.run_files import RunFiles


class Reporter:
    """Shows what the trainer reports: the one place that decides how it looks. Only rank 0 shows anything.

    `prefix` is where the run leaves its numbers and their page (`RunFiles`), "" for nowhere. With `quiet`
    only warnings are printed; files are written all the same. `spelling` is how messages name settings.
    """

    def __init__(self, config: ReportConfig, *, prefix: str = "", rank: int = 0,
                 terminal: bool | None = None, quiet: bool = False,
                 spelling: Callable[[str], str] = as_keyword) -> None:
        self.is_terminal = (sys.stderr.isatty() if terminal is None else terminal) and not quiet
        self._rank = rank
        self._quiet = quiet
        self._spelling = spelling
        self._log_file = open_log_file(config, rank)
        # `log_file` is for every process, as for MXNet's workers; the other files have the numbers of all of
        # them, and rank 0 writes them
        self._files = RunFiles(prefix, config) if prefix and rank == 0 else None
        #: the path of the run's page, "" where there is none; known when all is closed
        self.page = ""
        self._bar: tqdm[Any] | None = None
        self._epoch_line = ""  # of the last epoch, for the terminal

    def log(self, message: str, *, is_for_programs: bool = False) -> None:
        """Write one of MXNet's log lines: to the log file, and to stderr where that is no terminal.

        With `is_for_programs` it is not printed either where a launcher shows stderr on a terminal.

        Such a line names no settings: text between backquotes in it is part of a path, for example.
        """
        message = printable(message, keep="\t")  # tabs stand between the fields of MXNet's lines
        if self._log_file:
            self._log_file.write(message)
        # what logging.basicConfig made of MXNet's own calls: people's scripts look for the prefix too
        is_screen = self.is_terminal or (is_for_programs and SCREEN_VARIABLE in os.environ)
        if not is_screen and not self._quiet and self._rank == 0:
            print(f"INFO:root:{message}", file=sys.stderr, flush=True)

    def info(self, message: str) -> None:
        """Write a line for people (the summary, a note), on a terminal or not."""
        message = self._for_people(message)
        if self._log_file:
            self._log_file.write(message)
        if not self._quiet and self._rank == 0:
            self._print_above_bar(message)

    def warn(self, message: str) -> None:
        """Write a warning; a quiet run prints it too."""
        message = self._for_people(message)
        if self._log_file:
            self._log_file.write(f"warning: {message}")
        if self._rank == 0:
            self._print_above_bar(f"warning: {message}")

    def epoch_begins(self, epoch: int, num_epochs: int, batches: int, first_batch: int) -> None:
        """Show the bar of an epoch, from the batch it begins at."""
        if self.is_terminal and self._rank == 0:
            # people count from 1, the log from 0
            self._bar = tqdm(total=batches, initial=first_batch, desc=f"epoch {epoch + 1}/{num_epochs}",
                             unit="batch", dynamic_ncols=True, leave=False, file=sys.stderr)

    def batch_done(self) -> None:
        """Move the bar; called after every batch, so it must cost next to nothing."""
        if self._bar is not None:
            self._bar.update()

    def progress(self, epoch: int, batch: int, interval: int, speed: float, loss: float, lr: float,
                 update: int, metrics: Mapping[str, float]) -> None:
        """Write the line every --disp-batches: batches batch-interval .. batch of the epoch, both counted
        from 0.

        `speed` is in samples a second; `metrics` are over the samples since the last line.
        """
        self.log(f"Epoch[{epoch}] Batch [{batch - interval}-{batch}]\tSpeed: {speed:.2f} samples/sec"
                 + "".join(f"\t{name}={value:f}" for name, value in metrics.items()))
        if self._bar is not None:
            accuracy = metrics["accuracy"]
            self._bar.set_postfix_str(f"{speed:,.0f} img/s, loss {loss:.4f}, accuracy {accuracy:.4f}")
        self._record(kind="batch", epoch=epoch, batch=batch, update=update, speed=speed, loss=loss, lr=lr,
                     **metrics)

    def epoch_done(self, epoch: int, train: Mapping[str, float], loss: float, seconds: float, samples: int,
                   lr: float, update: int) -> None:
        """Write the training metrics of the whole epoch, and its time."""
        for name, value in train.items():
            self.log(f"Epoch[{epoch}] Train-{name}={value:f}")
        self.log(f"Epoch[{epoch}] Time cost={seconds:.3f}")
        speed = samples / max(seconds, 1e-9)
        self._record(kind="train", epoch=epoch, update=update, loss=loss, lr=lr, seconds=seconds, speed=speed,
                     **train)
        self._epoch_line = (f"epoch {epoch + 1}: {seconds:.1f} s, {speed:,.0f} img/s, loss {loss:.4f}, "
                            f"train accuracy {train['accuracy']:.4f}")
        self._close_bar()

    def saved(self, path: str) -> None:
        """Log that a checkpoint was written, and copy the run's files to their URL, if they have one."""
        self.log(f'Saved checkpoint to "{path}"')
        for file in filter(None, (self._files, self._log_file)):
            # a log that cannot be copied is no reason to end a run
            if problem := file.sync():
                self.warn(problem)

    def validated(self, epoch: int, metrics: Mapping[str, float], update: int) -> None:
        """Write the metrics on the validation data, after the epoch."""
        for name, value in metrics.items():
            self.log(f"Epoch[{epoch}] Validation-{name}={value:f}")
        self._record(kind="validation", epoch=epoch, update=update, **metrics)
        self._epoch_line += f", validation accuracy {metrics['accuracy']:.4f}"

    def epoch_over(self) -> None:
        """Refresh the page; on a terminal, print the one line that stays when the bar has gone."""
        if self._files and (problem := self._files.epoch_over()):
            self.warn(problem)
        if self.is_terminal and self._rank == 0:
            print(self._epoch_line, file=sys.stderr, flush=True)

    def begin_files(self, update: int, meta: Mapping[str, Any]) -> None:
        """Begin the run's files, or continue with them after this update; `meta` is its meta data."""
        if self._files:
            self._files.begin(update, meta)

    def close(self) -> None:
        """Remove the bar and close the files; later lines go to the terminal alone."""
        self._close_bar()
        problems = [*(self._files.close() if self._files else ()),
                    self._log_file.close() if self._log_file else ""]
        self.page = self._files.page if self._files else self.page
        for problem in filter(None, problems):
            tell(f"warning: {problem}")
        # what is reported after this goes to the terminal alone
        self._files = None
        self._log_file = None

    def _for_people(self, message: str) -> str:
        return printable(spell_settings(message, self._spelling), keep="\t")

    def _record(self, **fields: Any) -> None:
        if self._files:
            self._files.add(fields)

    def _print_above_bar(self, message: str) -> None:
        if self._bar is None:
            print(message, file=sys.stderr, flush=True)
        else:  # a plain print would leave half a bar behind
            self._bar.write(message, file=sys.stderr)

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
