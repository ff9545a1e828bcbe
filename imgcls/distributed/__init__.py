"""Several processes that train one network: who they are, and how they share what they learn.

`rank_info` reads what a launcher set in the environment, `topology` decides from that and the settings which
processes there are, `process_group` joins them. `data_parallel` (with `compression` and `sync_batch_norm`)
and `parameter_server` are the two ways to share what was learned; `kv_store` maps MXNet's names to them. The
processes themselves are started by `imgcls.launch`. No other package than these two uses torch.distributed.
"""
