"""The gateway: HTTP for Immich (machine learning), for people and for programs (search)."""
