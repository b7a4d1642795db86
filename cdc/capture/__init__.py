"""The capture loop: from a source's stream to the log, with nothing lost."""
