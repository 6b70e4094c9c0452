"""PostgreSQL: the archive of events, and what processes agree on.

pool.py          Store: bounded connections, errors in words
migrate.py       migrations/*.sql → the database; schema.sql is what comes out
archive.py       batches of rows with their Kafka positions, fenced
events.py        Search, get
outbox.py        events that wait for Kafka, written
deliveries.py    claims on deliveries that may be duplicates
relay.py         rows of the outbox, leased and settled
partitions.py    ahead, default, dropped
coordination.py  leases, topics on record
replays.py       what is sent to Kafka once more, and how far it is
rebuilds.py      the list of a rebuild
learned.py       secrets that came by a hand-shake, encrypted
rejections.py    refused requests, bounded per source, and their release
users.py         when outside users end, and whose turn it is to change one
audit.py         rows for an audit, page by page
queries/         every statement by name, a file per subject
"""

from kafka_webhook_bridge.store.migrate import migrate
from kafka_webhook_bridge.store.pool import Store

__all__ = ["Store", "migrate"]
