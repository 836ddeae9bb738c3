"""A server of pushed models that speaks the protocol of TF Serving, for machines on which that is not installed.

Not a step of the pipeline: `longplay serve` runs it, in a process of its own. REST and gRPC share one event loop; the graphs run
in threads below it, on whatever waits at the moment in one batch.
"""
