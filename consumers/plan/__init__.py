"""What a batch of events means for a target, decided without touching it."""
