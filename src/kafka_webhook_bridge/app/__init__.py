"""The composition root: the only place that wires rooms together, and the processes they run in.

preflight    tells everything that is wrong with a configuration before anything starts
supervisor   owns the ports, the metrics and the management port; restarts children; drains them
child        one process: `ingest` answers webhooks, `worker` archives
"""
