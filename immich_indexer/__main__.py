"""`python -m immich_indexer` is `immich-indexer`."""

from immich_indexer.cli import main

main()
