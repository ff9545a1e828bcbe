"""dist_async: servers hold the weights and the optimizer, and every worker trains at its own pace.

A worker sends the gradient of its batch; the server applies it at once and returns the weights as they are
then, with the updates that other workers have made meanwhile. No worker waits for another. The price: a
gradient was computed from weights that are some updates old (its staleness), and no two runs are equal.

`client` is the worker's side, which the trainer calls in place of the optimizer's step. It starts servers
(`server_process`) and sends to them (`connections`, the messages of `protocol`); `server` is their program.
"""
