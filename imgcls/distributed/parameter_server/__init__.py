"""dist_async: servers hold the weights and the optimizer, and every worker trains at its own pace.

A worker sends the gradient of its batch; the server applies it at once and returns the weights as they are
then, with the updates that other workers have made meanwhile. No one waits for anybody. The price is that a
gradient is of weights some updates old (its staleness), and that no two runs are alike.

`client` is the worker's side, which the trainer calls in place of the optimizer's step. It starts servers
(`server_process`) and talks to them (`connections`, in the words of `protocol`); `server` is their program.
"""
