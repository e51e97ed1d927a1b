"""How fast the pipeline is: `python -m appview_pipeline_tests.benchmark` (docs/benchmarks.md).

The network is simulated, all else is real: signed commits over a WebSocket into the consumer process, which writes to
an embedded PostgreSQL of its own.
"""
