import os

from lirdrec_pyg.service.live import Served

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """Measurements in the format of Prometheus.

    If the environment names a folder in ``PROMETHEUS_MULTIPROC_DIR``, they are those of all processes that share it.
    """

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

        self._registry = registry = CollectorRegistry()
        self._seconds = Histogram(
            "lirdrec_request_seconds", "Time to answer.", ["endpoint", "status"], buckets=_SECONDS, registry=registry
        )
        self._loaded = Gauge(
            "lirdrec_run_loaded_timestamp_seconds",
            "When the run was loaded; the latest one is served, or compared with.",
            ["run"],
            multiprocess_mode="max",
            registry=registry,
        )
        self._failures = Counter("lirdrec_reload_failures", "Runs that could not be loaded.", registry=registry)
        ProcessCollector(registry=registry)

    def answered(self, endpoint: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._seconds.labels(endpoint, str(status)).observe(seconds)

    def loaded(self, served: Served) -> None:
        """Note a run that was loaded."""
        self._loaded.labels(served.version).set(served.loaded_at)

    def failed(self) -> None:
        """Count a run that could not be loaded."""
        self._failures.inc()

    def text(self) -> bytes:
        """Return all measurements."""
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector

        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
        return generate_latest(registry)
