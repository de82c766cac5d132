"""A gRPC server, and a client that goes through Stent: every kind of call, trailers, a deadline. No protoc is needed.

grpc_check.py serve PORT            serves until killed
grpc_check.py call ADDRESS          exits with 0 if every call does what it should
"""

import sys
import time
from concurrent import futures

import grpc

NAME = "interop.Echo"


def unary(request, context):
    context.set_trailing_metadata((("x-trailer", "kept"),))
    return request


def server_stream(request, context):
    for number in range(int(request)):
        yield str(number).encode()


def client_stream(requests, context):
    return b"".join(requests)


def both(requests, context):
    for request in requests:
        yield request.upper()


def refuse(request, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now")


def slow(request, context):
    time.sleep(2)
    return request


def serve(port):
    server = grpc.server(futures.ThreadPoolExecutor(16))
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
        "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
        "Both": grpc.stream_stream_rpc_method_handler(both),
        "Refuse": grpc.unary_unary_rpc_method_handler(refuse),
        "Slow": grpc.unary_unary_rpc_method_handler(slow),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, handlers),))
    assert server.add_insecure_port(f"127.0.0.1:{port}") == port
    server.start()
    server.wait_for_termination()


def status_of(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except grpc.RpcError as error:
        return error.code(), error.details()
    return grpc.StatusCode.OK, ""


def call(address):
    with grpc.insecure_channel(address) as channel:
        grpc.channel_ready_future(channel).result(timeout=10)
        method = f"/{NAME}/%s".__mod__
        answer, about = channel.unary_unary(method("Unary")).with_call(b"one", timeout=10)
        assert answer == b"one", answer
        assert ("x-trailer", "kept") in about.trailing_metadata(), about.trailing_metadata()
        large = bytes(1_000_000)
        assert channel.unary_unary(method("Unary"))(large, timeout=10) == large
        numbers = list(channel.unary_stream(method("ServerStream"))(b"500", timeout=10))
        assert numbers == [str(number).encode() for number in range(500)], len(numbers)
        parts = [b"a", b"b" * 70_000, b"c"]
        assert channel.stream_unary(method("ClientStream"))(iter(parts), timeout=10) == b"".join(parts)

        def one_by_one(heard):
            yield b"first"
            # The second goes only after the answer to the first has come.
            while not heard:
                time.sleep(0.01)
            yield b"second"

        heard = []
        for answer in channel.stream_stream(method("Both"))(one_by_one(heard), timeout=10):
            heard.append(answer)
        assert heard == [b"FIRST", b"SECOND"], heard
        code, details = status_of(channel.unary_unary(method("Refuse")), b"", timeout=10)
        assert (code, details) == (grpc.StatusCode.FAILED_PRECONDITION, "not now"), (code, details)
        code, _ = status_of(channel.unary_unary(method("Slow")), b"", timeout=0.3)
        assert code == grpc.StatusCode.DEADLINE_EXCEEDED, code
        code, _ = status_of(channel.unary_unary(method("Missing")), b"", timeout=10)
        assert code == grpc.StatusCode.UNIMPLEMENTED, code
        # All of these on one connection, which must have lived on.
        assert channel.unary_unary(method("Unary"))(b"last", timeout=10) == b"last"


if __name__ == "__main__":
    serve(int(sys.argv[2])) if sys.argv[1] == "serve" else call(sys.argv[2])
