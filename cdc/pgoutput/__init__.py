"""The bytes of PostgreSQL's logical replication become values. Nothing here does I/O.

Two layers, as on the wire: `stream` takes apart the frames that the server sends in CopyBoth mode, `decoder` the
pgoutput message inside an XLogData frame.
"""
