"""The runtime without workflows, measured: the workloads that runtimes without a record are compared by."""
