"""Starting and supervising the processes of a job, on one machine or many."""
