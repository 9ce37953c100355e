"""The process that computes for the panel, the messages between them, and what it keeps between requests."""
