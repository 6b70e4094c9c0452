"""The composition root: the only place that wires rooms together, and the processes they run in.

supervisor   owns the ports, the metrics and the management port; restarts children; drains them
child        one process: `ingest` answers webhooks, `worker` archives
"""
