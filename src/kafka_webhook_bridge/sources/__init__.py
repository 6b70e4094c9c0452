"""Who may send: the table of sources, their credentials and keys, read from bridge.yaml."""
