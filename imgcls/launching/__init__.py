"""Starting a job: on this machine, on many over ssh, with mpirun, or as a script for a cluster's scheduler.

`hosts` reads host files and deals the workers out, `remote` knows ssh and rsync, `job` starts one agent
(`imgcls.distributed.agent`) on each host and stays with them until all have ended, `schedulers` writes the scripts.
Nothing here needs torch: the launcher has to start where only Python is.
"""
