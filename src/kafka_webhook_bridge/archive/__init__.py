"""From Kafka into PostgreSQL, and out of it when the time is over.

rows.py        a record as a row of `events`
archiver.py    batches with their positions, one archiver at a time
retention.py   partitions ahead, old ones dropped
"""
