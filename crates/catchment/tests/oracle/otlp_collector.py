"""Takes traces by OTLP over HTTP, read by OpenTelemetry's own messages; prints its port, then each span as a line of JSON."""

import http.server
import json

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse


def plain(value):
    return getattr(value, value.WhichOneof("value"))


class Collector(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
        for resource in request.resource_spans:
            service = {item.key: plain(item.value) for item in resource.resource.attributes}["service.name"]
            for span in (span for scope in resource.scope_spans for span in scope.spans):
                print(json.dumps({
                    "path": self.path, "key": self.headers["x-key"], "service": service, "name": span.name, "trace": span.trace_id.hex(),
                    "span": span.span_id.hex(), "parent": span.parent_span_id.hex(), "start": span.start_time_unix_nano,
                    "end": span.end_time_unix_nano, "status": span.status.code, "message": span.status.message,
                    "attributes": {item.key: plain(item.value) for item in span.attributes},
                }), flush=True)
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.end_headers()
        self.wfile.write(ExportTraceServiceResponse().SerializeToString())

    def log_message(self, *_):
        pass


server = http.server.HTTPServer(("127.0.0.1", 0), Collector)
print(server.server_port, flush=True)
server.serve_forever()
