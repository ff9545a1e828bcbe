"""Where a run is reported."""

from __future__ import annotations

from dataclasses import dataclass

from imgcls.config.flags import flag


@dataclass(frozen=True)
class ReportConfig:
    """Reporting"""

    log_file: str = flag("", "also write the log lines to this file", since="g1", metavar="FILE")
    log_dir: str = flag("", "folder of --log-file", since="g1", metavar="DIR")
    report_page: bool = flag(True, "do not write PREFIX-report.html, the page with the charts of the run",
                             negation="--no-report", takes="none")
    tensorboard: bool = flag(False, "also write event files for TensorBoard, to PREFIX-tensorboard")
