"""Metric families and their text forms, for every program (docs/protocol/metrics.md).

`exposition` (families, and Prometheus's text), `expvar` (JSON with Go's names), `process` (metrics of this process from
the kernel). The programs' own metrics are in `server.debug.metrics` and `prober.metrics`.
"""
