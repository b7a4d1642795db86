"""The schema registry: embedded in the log, or Confluent's REST API; and what reads records by it."""
