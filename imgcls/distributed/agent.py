"""The agent's former module: job scripts of an earlier version run `python -m imgcls.distributed.agent`.

It is run by name and not imported, since its package, `imgcls/launch`, is of a higher level.
"""

import runpy

if __name__ == "__main__":
    # such scripts are on users' disks and in their schedulers: they must keep working
    runpy.run_module("imgcls.launch.agent", run_name="__main__", alter_sys=True)
