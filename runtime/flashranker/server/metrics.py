"""What a server counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from flashranker.server.admission import Admission

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The counters of one server. Labels are names of models that are served, so their number is bounded."""

    def __init__(self, admission: Admission) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "flashranker_requests", "Requests to rerank", ["model", "status"], registry=self.registry
        )
        self.passages = Counter("flashranker_passages", "Passages ranked", ["model"], registry=self.registry)
        self.truncated = Counter(
            "flashranker_truncated_passages", "Passages longer than the model reads", ["model"], registry=self.registry
        )
        self.seconds = Histogram(
            "flashranker_request_seconds", "From the first byte of a request to its answer, waiting included",
            ["model"], buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        running = Gauge("flashranker_requests_running", "Requests being ranked", registry=self.registry)
        running.set_function(lambda: admission.running)
        inside = Gauge("flashranker_requests_waiting", "Requests let in that do not run", registry=self.registry)
        inside.set_function(lambda: admission.inside - admission.running)
