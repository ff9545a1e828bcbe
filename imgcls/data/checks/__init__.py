"""What is wrong with a data set before anything is trained on it: `imgcls-doctor`.

`look` reads every image once and keeps a few numbers of each; the other files look for faults in those
numbers. Nothing here changes a file of the user's; `clean` writes a copy.
"""
