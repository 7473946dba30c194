"""Who runs when: one engine per process owns the models and their threads."""
