"""PostgreSQL: the schema, its functions, connections, and the embedded server."""
