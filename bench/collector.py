"""Takes spans by OTLP and forgets them: where a benchmark sends its traces."""

from __future__ import annotations

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


class Sink(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes everything."""

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        """Forgets it."""
        del request, context
        return trace_service_pb2.ExportTraceServiceResponse()


def main() -> None:
    """Until it is told to end."""
    server = grpc.server(ThreadPoolExecutor(1))
    add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
    add(Sink(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(json.dumps({"listening": f"127.0.0.1:{port}"}), flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    server.stop(0).wait()


if __name__ == "__main__":
    # Before threads are made, which would take the signals otherwise.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main()
