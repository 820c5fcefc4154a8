"""Bodies of multipart/form-data (RFC 7578), as clients send files."""

from dataclasses import dataclass
from email.message import Message

from vram_llm.errors import RequestError

FORM = "multipart/form-data"
MAX_PARTS = 64
_MOST_HEAD_BYTES = 8192  # of one part's headers


@dataclass(frozen=True, slots=True)
class FormPart:
    """A field of a form. `filename` is None for a plain value."""

    name: str
    data: bytes
    filename: str | None = None

    def text(self) -> str:
        """A plain value. Raises RequestError."""
        try:
            return self.data.decode()
        except UnicodeDecodeError:
            raise RequestError(f"'{self.name}' is not text in UTF-8", self.name) from None


def is_form(content_type: str) -> bool:
    """Whether a body of this type is a form."""
    return content_type.partition(";")[0].strip().lower() == FORM


def form_parts(body: bytes, content_type: str) -> list[FormPart]:
    """The fields of a form, in their order. Raises RequestError."""
    boundary = _header(content_type).get_param("boundary")
    if not is_form(content_type) or not isinstance(boundary, str) or not boundary:
        raise RequestError(f"The body must be a form: Content-Type {FORM}, with a boundary")
    mark = b"--" + boundary.encode("latin-1", "replace")
    pieces = (b"\r\n" + body).split(b"\r\n" + mark, MAX_PARTS + 2)
    if len(pieces) > MAX_PARTS + 2:
        raise RequestError(f"The form has more than {MAX_PARTS} fields")
    if len(pieces) < 2 or not pieces[-1].startswith(b"--"):
        raise RequestError("The form breaks off: its last boundary is missing")
    return [_part(piece) for piece in pieces[1:-1]]


def _part(piece: bytes) -> FormPart:
    head, found, data = piece.partition(b"\r\n\r\n")
    if not found or len(head) > _MOST_HEAD_BYTES:
        raise RequestError("A field of the form has no headers, or too long ones")
    for line in head.decode("utf-8", "replace").split("\r\n"):
        name, _, value = line.partition(":")
        if name.strip().lower() == "content-disposition":
            shown = _header(value.strip())
            field, filename = shown.get_param("name"), shown.get_param("filename")
            if isinstance(field, str) and field:
                return FormPart(field, data, filename if isinstance(filename, str) else None)
    raise RequestError("A field of the form has no name")


def _header(value: str) -> Message:
    """A header with parameters; get_param reads them."""
    message = Message()
    message["content-type"] = value.replace("\r", " ").replace("\n", " ")
    return message
