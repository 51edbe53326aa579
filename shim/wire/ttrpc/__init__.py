"""ttrpc, as containerd and its shims speak it: unary calls over unix sockets, and no gRPC."""

from shim.wire.ttrpc.client import Client
from shim.wire.ttrpc.limits import Limits
from shim.wire.ttrpc.method import Call, Method, Services
from shim.wire.ttrpc.server import Server

__all__ = ["Call", "Client", "Limits", "Method", "Server", "Services"]
