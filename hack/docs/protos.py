"""The reference of the gRPC services, from their .proto files with comments."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
)

ROOT = Path(__file__).resolve().parents[2]
PROTO = ROOT / "proto"
# The services that clients call; a page has also what their messages are made of.
SERVICES = {
    "cryo.v1": "shim/api/cryo/v1/cryo.proto",
    "containerd.task.v3": "shim/api/containerd/task/v3/shim.proto",
}
LIMIT_S = 60
# Numbers of the parts of a file, in the paths of its comments (descriptor.proto).
MESSAGES, ENUMS, FILE_SERVICES, PARTS, NESTED_ENUMS = 4, 5, 6, 2, 4

# The place of a part in its file, as comments have it.
Place = tuple[int, ...]


def references() -> dict[str, str]:
    """Return the page of each service, by its package."""
    return {name: page(name, files(path)) for name, path in SERVICES.items()}


def files(path: str) -> list[FileDescriptorProto]:
    """Return a .proto and the files of ours that it imports, with comments, itself first."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set"
        argv = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", "--include_imports"]
        argv += ["--include_source_info", f"--descriptor_set_out={out}", path]
        subprocess.run(argv, check=True, timeout=LIMIT_S)
        found = FileDescriptorSet.FromString(out.read_bytes()).file
    ours = [file for file in found if not file.package.startswith("google.")]
    return sorted(ours, key=lambda file: file.name != path)


def page(package: str, found: Sequence[FileDescriptorProto]) -> str:
    """Return the page of a service: its calls, then every message and enumeration."""
    own = {name: heading for file in found for name, heading in names(file)}
    parts = [f"# {package}", f"Written from `proto/{found[0].name}`."]
    for file in found:
        parts += File(file, own).parts()
    return "\n\n".join(parts) + "\n"


def names(file: FileDescriptorProto) -> Iterator[tuple[str, str]]:
    """Give the full name of each message and enumeration of a file, with its heading."""
    for message in file.message_type:
        yield f".{file.package}.{message.name}", message.name
        for enum in message.enum_type:
            name = f"{message.name}.{enum.name}"
            yield f".{file.package}.{name}", name
    for enum in file.enum_type:
        yield f".{file.package}.{enum.name}", enum.name


class File:
    """A file as Markdown."""

    def __init__(self, file: FileDescriptorProto, own: Mapping[str, str]) -> None:
        """Take a file, and the headings of the page by full name."""
        self._file = file
        self._own = own
        self._comments = {
            tuple(one.path): one.leading_comments or one.trailing_comments
            for one in file.source_code_info.location
        }

    def parts(self) -> Iterator[str]:
        """Give the paragraphs, headings and tables of the file."""
        for index, service in enumerate(self._file.service):
            place = (FILE_SERVICES, index)
            yield f"## {service.name}"
            yield self._text(place)
            yield "\n".join(self._calls(service.method, place))
        for index, message in enumerate(self._file.message_type):
            yield from self._message(message, (MESSAGES, index))
        for index, enum in enumerate(self._file.enum_type):
            yield from self._enum(enum, (ENUMS, index), enum.name)

    def _text(self, place: Place) -> str:
        lines = (line.strip() for line in self._comments.get(place, "").split("\n"))
        return "\n".join(lines).strip()

    def _cell(self, place: Place) -> str:
        return " ".join(self._text(place).split()).replace("|", "\\|")

    def _calls(self, methods: Sequence[MethodDescriptorProto], place: Place) -> Iterator[str]:
        yield "| call | request | response | |"
        yield "|---|---|---|---|"
        for index, method in enumerate(methods):
            request = self._stream(method.input_type, streaming=method.client_streaming)
            response = self._stream(method.output_type, streaming=method.server_streaming)
            text = self._cell((*place, PARTS, index))
            yield f"| `{method.name}` | {request} | {response} | {text} |"

    def _stream(self, name: str, *, streaming: bool) -> str:
        return f"{'stream of ' if streaming else ''}{self._link(name)}"

    def _link(self, name: str) -> str:
        if heading := self._own.get(name):
            return f"[{heading}](#{heading.lower().replace('.', '')})"
        return f"`{name[1:]}`"

    def _message(self, message: DescriptorProto, place: Place) -> Iterator[str]:
        yield f"### {message.name}"
        if text := self._text(place):
            yield text
        if message.field:
            fields = enumerate(message.field)
            rows = (self._field(message, one, (*place, PARTS, index)) for index, one in fields)
            yield "\n".join(["| field | type | number | |", "|---|---|---|---|", *rows])
        for index, enum in enumerate(message.enum_type):
            yield from self._enum(
                enum, (*place, NESTED_ENUMS, index), f"{message.name}.{enum.name}"
            )

    def _field(self, message: DescriptorProto, field: FieldDescriptorProto, place: Place) -> str:
        text = self._cell(place)
        return f"| `{field.name}` | {self._type(message, field)} | {field.number} | {text} |"

    def _type(self, message: DescriptorProto, field: FieldDescriptorProto) -> str:
        maps = {one.name: one for one in message.nested_type if one.options.map_entry}
        entry = maps.get(field.type_name.rpartition(".")[2])
        if entry is not None:
            key, value = (self._type(entry, one) for one in entry.field)
            return f"map of {key} to {value}"
        scalar = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
        name = self._link(field.type_name) if field.type_name else f"`{scalar}`"
        if field.label == FieldDescriptorProto.LABEL_REPEATED:
            return f"list of {name}"
        if field.proto3_optional:
            return f"optional {name}"
        if field.HasField("oneof_index"):
            return f"{name}, one of `{message.oneof_decl[field.oneof_index].name}`"
        return name

    def _enum(self, enum: EnumDescriptorProto, place: Place, name: str) -> Iterator[str]:
        yield f"### {name}"
        if text := self._text(place):
            yield text
        rows = (
            f"| `{value.name}` | {value.number} | {self._cell((*place, PARTS, index))} |"
            for index, value in enumerate(enum.value)
        )
        yield "\n".join(["| value | number | |", "|---|---|---|", *rows])
