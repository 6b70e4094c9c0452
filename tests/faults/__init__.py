"""The fault suite: real servers are broken on purpose under load, and every request is accounted for afterwards.

    load (a process of its own) ──journal──▶ checker ◀── observer: every record of Kafka, every row of PostgreSQL
       │                                        ▲
       └──▶ bridge ──▶ proxy ──▶ Kafka          └── what the scenario expects
                  └──▶ proxy ──▶ PostgreSQL

    A consumer reads from outside in two of them: Kafka's listener PROXY ──▶ nginx ──▶ outside.py ──▶ checker.

`make faults` runs the table of scenarios.py and writes docs/reports/faults.md; `python -m faults --list` shows it.
"""
