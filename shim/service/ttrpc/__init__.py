"""ttrpc as containerd and its shims use it: unary calls over unix sockets, without gRPC."""

from shim.service.ttrpc.client import Client
from shim.service.ttrpc.envelope import NAMESPACE_KEY
from shim.service.ttrpc.limits import Limits
from shim.service.ttrpc.method import Call, Services
from shim.service.ttrpc.server import Server

__all__ = ["NAMESPACE_KEY", "Call", "Client", "Limits", "Server", "Services"]
