"""The agent's former module: job scripts of an earlier version run `python -m imgcls.distributed.agent`.

By name and not by an import, since the agent stands on a higher floor (`imgcls/launch/agent.py`).
"""

import runpy

if __name__ == "__main__":
    # such scripts lie on users' disks and in their schedulers: they go on working
    runpy.run_module("imgcls.launch.agent", run_name="__main__", alter_sys=True)
