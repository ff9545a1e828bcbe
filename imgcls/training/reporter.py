"""What a person sees while it trains: a tqdm bar on a terminal, MXNet's own log lines off it, and metrics.jsonl.

The log lines keep the words of MXNet 1.4 to 1.9, since people's scripts parse them (`tools/parse_log.py` of MXNet reads
them). All of it is talk and goes to stderr; results go to stdout, and not from here.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from imgcls.config.sections import ReportConfig
from imgcls.errors import RunError, UsageError, as_keyword, spell_settings
from imgcls.storage import uploads
from imgcls.storage.atomic import write_bytes
from imgcls.storage.paths import to_path
from imgcls.storage.urls import url_scheme


class Reporter:
    """Told what happens by the trainer, in plain sight; decides how it looks.

    `metrics_path` is the file that gets one JSON object per epoch and progress line, or None for none.
    """

    def __init__(self, config: ReportConfig, *, metrics_path: str | None = None, rank: int = 0,
                 terminal: bool | None = None, quiet: bool = False,
                 spelling: Callable[[str], str] = as_keyword) -> None:
        self.terminal = (sys.stderr.isatty() if terminal is None else terminal) and not quiet
        self._rank, self._quiet, self._spelling = rank, quiet, spelling
        self._log_file = _mirrored_log(config)
        self._logger = _open_log(config, self._log_file, rank)
        self._metrics_file = uploads.MirroredFile(to_path(metrics_path)) if metrics_path and rank == 0 else None
        self._metrics = self._metrics_file.path if self._metrics_file else None
        self._bar: Any = None
        self._last = ""  # the line of an epoch that is over
        self._started = time.perf_counter()

    def log(self, message: str) -> None:
        """One of MXNet's log lines: to the log file, and to stderr off a terminal."""
        message = spell_settings(message, self._spelling)
        if self._logger:
            self._logger.info(message)
        if not self.terminal and not self._quiet and self._rank == 0:
            print(f"INFO:root:{message}", file=sys.stderr, flush=True)

    def info(self, message: str) -> None:
        """A line for people (the summary, a note, a warning), on a terminal or not."""
        message = spell_settings(message, self._spelling)
        if self._logger:
            self._logger.info(message)
        if not self._quiet and self._rank == 0:
            self._above_the_bar(message)

    def warn(self, message: str) -> None:
        """Something that will hurt, said once, also by a quiet run."""
        message = spell_settings(message, self._spelling)
        if self._logger:
            self._logger.info(f"warning: {message}")
        if self._rank == 0:
            self._above_the_bar(f"warning: {message}")

    def epoch_begins(self, epoch: int, num_epochs: int, batches: int, first_batch: int) -> None:
        """The bar of an epoch, from the batch it begins at."""
        self._started = time.perf_counter()
        if self.terminal and self._rank == 0:
            from tqdm import tqdm

            self._bar = tqdm(total=batches, initial=first_batch, desc=f"epoch {epoch + 1}/{num_epochs}", unit="batch",
                             dynamic_ncols=True, leave=False, file=sys.stderr)

    def batch_done(self) -> None:
        """Called after every batch: must cost next to nothing."""
        if self._bar is not None:
            self._bar.update()

    def progress(self, epoch: int, batch: int, interval: int, speed: float, loss: float, lr: float, update: int,
                 metrics: Mapping[str, float]) -> None:
        """The line every --disp-batches: batches batch-interval .. batch of the epoch, both counted from 0."""
        self.log(f"Epoch[{epoch}] Batch [{batch - interval}-{batch}]\tSpeed: {speed:.2f} samples/sec"
                  + "".join(f"\t{name}={value:f}" for name, value in metrics.items()))
        if self._bar is not None:
            self._bar.set_postfix_str(f"{speed:,.0f} img/s, loss {loss:.4f}, accuracy {metrics['accuracy']:.4f}")
        self._record(kind="batch", epoch=epoch, batch=batch, update=update, speed=speed, loss=loss, lr=lr, **metrics)

    def epoch_done(self, epoch: int, train: Mapping[str, float], loss: float, seconds: float, samples: int, lr: float,
                   update: int) -> None:
        """The whole epoch's training metrics and its time."""
        for name, value in train.items():
            self.log(f"Epoch[{epoch}] Train-{name}={value:f}")
        self.log(f"Epoch[{epoch}] Time cost={seconds:.3f}")
        speed = samples / max(seconds, 1e-9)
        self._record(kind="train", epoch=epoch, update=update, loss=loss, lr=lr, seconds=seconds, speed=speed, **train)
        self._last = (f"epoch {epoch + 1}: {seconds:.1f} s, {speed:,.0f} img/s, loss {loss:.4f}, "
                      f"train accuracy {train['accuracy']:.4f}")
        self._close_bar()

    def saved(self, path: str) -> None:
        """A checkpoint was written."""
        self.log(f'Saved checkpoint to "{path}"')
        for file in (self._metrics_file, self._log_file):
            if file and (problem := file.sync()):
                self.warn(problem)

    def validated(self, epoch: int, metrics: Mapping[str, float], update: int) -> None:
        """Metrics on the validation data, after the epoch."""
        for name, value in metrics.items():
            self.log(f"Epoch[{epoch}] Validation-{name}={value:f}")
        self._record(kind="validation", epoch=epoch, update=update, **metrics)
        self._last += f", validation accuracy {metrics['accuracy']:.4f}"

    def epoch_over(self) -> None:
        """On a terminal: the one line that stays when the bar of the epoch has gone."""
        if self.terminal and self._rank == 0:
            print(self._last, file=sys.stderr, flush=True)

    def resume_metrics(self, update: int) -> None:
        """Begin metrics.jsonl, or go on with it: what came after `update` will come again and is dropped."""
        if self._metrics is None or self._metrics_file is None:
            return
        kept = []
        if update and self._metrics_file.target.exists():
            for text in self._metrics_file.target.read_text(encoding="utf-8").splitlines():
                try:
                    if json.loads(text)["update"] <= update:
                        kept.append(text)
                except (ValueError, KeyError, TypeError):
                    continue  # a line that a kill cut short
        write_bytes(self._metrics, "".join(f"{text}\n" for text in kept).encode())

    def close(self) -> None:
        """Take the bar away and close the log file; the terminal is the caller's again."""
        self._close_bar()
        for handler in self._logger.handlers if self._logger else ():
            handler.close()
        for file in (self._metrics_file, self._log_file):
            if file and (problem := file.close()):
                print(f"warning: {problem}", file=sys.stderr)
        self._metrics_file = self._log_file = self._metrics = None

    def _record(self, **fields: Any) -> None:
        if self._metrics is not None:
            try:
                with self._metrics.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(fields) + "\n")
            except OSError as error:
                raise RunError(f"cannot write {self._metrics}: {(error.strerror or str(error)).lower()}") from error

    def _above_the_bar(self, message: str) -> None:
        if self._bar is None:
            print(message, file=sys.stderr, flush=True)
        else:
            self._bar.write(message, file=sys.stderr)

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _mirrored_log(config: ReportConfig) -> uploads.MirroredFile | None:
    """Where --log-file is written; None without the flag."""
    if config.log_dir and not config.log_file:
        raise UsageError(f"`log_dir` {config.log_dir}: needs the `log_file` to write there")
    if not config.log_file:
        return None
    if config.log_dir and not url_scheme(config.log_file):
        return uploads.MirroredFile(to_path(config.log_dir, "`log_dir`") / config.log_file)
    return uploads.MirroredFile(to_path(config.log_file, "`log_file`"))


def _open_log(config: ReportConfig, file: uploads.MirroredFile | None, rank: int) -> logging.Logger | None:
    """The logger behind --log-file, in the format of MXNet's first scripts; None without the flag."""
    if file is None:
        return None
    path = file.path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise RunError(f"`log_file` {path}: {(error.strerror or str(error)).lower()}") from error
    handler.setFormatter(logging.Formatter(f"%(asctime)-15s Node[{rank}] %(message)s"))
    logger = logging.Logger("imgcls.run")
    logger.addHandler(handler)
    return logger
