"""The apply loop: from the log's topics to a target, each event once."""
