"""A server of the S3 protocol to push images to, which stores objects as files of a folder."""

from __future__ import annotations

from hack.tools.golang import HERE, Module, from_go
from hack.tools.kept import from_cache
from hack.tools.tool import Tool

_PATH = "github.com/versity/versitygw"
OF_VERSITYGW = Module(
    path=_PATH,
    version="v1.8.0",
    pins=HERE / "distribution" / "versitygw",
    packages={"versitygw": f"{_PATH}/cmd/versitygw"},
    ldflags="-s -w -X main.Version=v1.8.0",
)
VERSITYGW = Tool(
    "versitygw", OF_VERSITYGW.version, ("versitygw",), (from_cache, from_go(OF_VERSITYGW))
)
