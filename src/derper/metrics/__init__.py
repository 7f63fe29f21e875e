"""Metric families and how they are written, for every program of ours (docs/protocol/metrics.md).

`exposition` (families, and Prometheus's text), `expvar` (the same as JSON, as Go names them), `process` (what the
kernel says of this process). What a program counts stands in its own room: `server.debug.metrics`, `prober.metrics`.
"""
