"""What runs tasks: in this process, or on worker processes of this machine. Knows nothing of workflows and stores.

`protocol` is the interface; `inline` and `processes` implement it. Import from the module that defines a name.
"""
