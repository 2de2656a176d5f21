"""A tour for somebody without a key: a history, questions about it, and a provider that says what it was given."""
