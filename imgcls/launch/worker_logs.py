"""Where the workers of an agent write: errors to a file, output through the agent or to its own streams.

torch's agent calls a LogsSpecs for this before every start of the workers.
"""

from __future__ import annotations

import os

from torch.distributed.elastic.agent.server.api import WorkerGroup
from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs

from imgcls.launch.launch_spec import AgentState
from imgcls.launch.log_streams import LogStreams


class WorkerLogs(LogsSpecs):
    """The error files and output streams of the current attempt."""

    def __init__(self, state: AgentState) -> None:
        super().__init__()
        self._state = state
        self._num_attempts = 0
        self._ranks: list[int] = []
        self.streams = LogStreams()
        #: by local rank
        self.error_files: dict[int, str] = {}

    def begin_attempt(self, worker_group: WorkerGroup) -> None:
        """Make new streams; before every start of the workers."""
        # their pipes ended with the workers that wrote to them
        self.streams.close()
        self.streams = LogStreams()
        self._num_attempts += 1
        self._ranks = [worker.global_rank for worker in worker_group.workers]

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        """Return the paths that workers write to, by local rank, and complete their environments."""
        spec = self._state.spec
        folder = os.path.join(self._state.folder, f"{self._num_attempts:06d}")
        os.makedirs(folder)
        # a folder for each attempt: files of earlier workers must not be taken for those of these
        # "": the worker has this process's own stream
        stdouts = dict.fromkeys(envs, "")
        stderrs = dict.fromkeys(envs, "")
        self.error_files = {local_rank: os.path.join(folder, f"{local_rank}.json") for local_rank in envs}
        for local_rank, env in envs.items():
            env["TORCHELASTIC_ERROR_FILE"] = self.error_files[local_rank]
            env["TORCHELASTIC_RUN_ID"] = self._state.job  # torch's is "none" until the hosts have agreed
            env["TORCHELASTIC_USE_AGENT_STORE"] = "True"  # see ElasticAgent._serve_workers
            host = f"{spec.host}:" if spec.has_several_hosts else ""
            prefix = f"[{host}{self._ranks[local_rank]}] " if spec.has_launcher else ""
            if spec.has_launcher or local_rank > 0:  # the first may draw on the terminal
                stdouts[local_rank] = self.streams.open(1, prefix, show_noise=spec.verbose)
                stderrs[local_rank] = self.streams.open(2, prefix, show_noise=spec.verbose)
        return LogsDest(stdouts=stdouts, stderrs=stderrs, error_files=self.error_files)

    @property
    def root_log_dir(self) -> str:
        """The folder of all attempts, for torch."""
        return self._state.folder
