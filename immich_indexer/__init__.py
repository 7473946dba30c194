"""The command line: puts the parts together, owns no logic of theirs."""
