"""From Kafka into PostgreSQL and out of it when the time is over; from the outbox, and from the archive, into Kafka.

rows.py        a record as a row of `events`
archiver.py    batches with their positions, one archiver at a time
retention.py   partitions ahead, old ones dropped
relay.py       the outbox into Kafka
strict.py      the same in order, for sources that ask for it
resend.py      archived events once more to Kafka, through every crash
replay.py      chosen events, marked
rebuild.py     a lost topic made anew
"""
