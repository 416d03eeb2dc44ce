"""One eye on the fleet: it asks every mirror what its clients ask, compares the answers with the trusted
index and with the standards, and keeps what it found. It may import fleet and common, and nothing but the command
line imports it."""
