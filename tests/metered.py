"""Reading metrics as Prometheus would. A helper."""

from __future__ import annotations

import asyncio

from prometheus_client.parser import text_string_to_metric_families

from services.metrics import CallMetrics


def value(metrics: CallMetrics, name: str, **labels: str) -> float:
    """A sample's value; 0 for one that is not there yet."""
    return metrics.registry.get_sample_value(name, labels) or 0.0


def calls(metrics: CallMetrics, method: str, status: str = "OK") -> float:
    """How many unary calls of a method (`/package.Service/Method`) ended so."""
    return value(
        metrics, "rookery_call_seconds_count", method=method.removeprefix("/"), status=status
    )


async def http(address: str, request: bytes) -> tuple[int, dict[str, str], str]:
    """Status, headers and body that an HTTP server answers some bytes with."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request)
        head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    finally:
        writer.close()
    first, *rest = head.split("\r\n")
    headers = dict(line.split(": ", 1) for line in rest)
    return int(first.split(" ")[1]), headers, body


async def scraped(address: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample of a page: (name, labels) to value."""
    status, _, body = await http(address, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    assert status == 200
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
    }
