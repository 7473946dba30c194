"""The indexer: turns jobs in PostgreSQL into searchable text and vectors."""
