"""What the server counts, for Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)


class Metrics:
    """Counts requests for replies.

    Args:
        waiting: tells how many wait.
    """

    def __init__(self, waiting: Callable[[], int]):
        self.registry = CollectorRegistry()
        common = {"namespace": "seq2seq_dialog", "registry": self.registry}
        self.requests = Counter(
            "requests", "Requests by status; 499: the client went.", ["status"], **common
        )
        self.tokens = Counter("reply_tokens", "Tokens of replies.", **common)
        self.first_token = Histogram(
            "first_token_seconds", "Time to the first text of a stream.", buckets=SECONDS, **common
        )
        self.duration = Histogram(
            "request_seconds", "Time to the end of the last reply.", buckets=SECONDS, **common
        )
        Gauge("waiting_requests", "Requests that wait.", **common).set_function(waiting)

    def count(self, status: int, tokens: int, seconds: float) -> None:
        """Count a request that a model has worked for."""
        self.requests.labels(status).inc()
        self.tokens.inc(tokens)
        self.duration.observe(seconds)

    def page(self) -> tuple[bytes, int, dict[str, str]]:
        """Return the page that Prometheus reads: content, status and headers."""
        return generate_latest(self.registry), 200, {"Content-Type": CONTENT_TYPE_LATEST}
