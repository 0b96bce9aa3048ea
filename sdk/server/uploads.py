"""Read requests: a picture with options as multipart form, JSON, or the body itself; limited in bytes and in time."""

import asyncio
import base64
import binascii
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from sdk.bundles.files import first_fault
from sdk.errors import ImageError

READ_SECONDS = 60.0  # in which a client must have sent its request
_OPTIONS = ("tasks", "faces", "max_new_tokens")


class Options(BaseModel):
    """What is asked about a picture.

    Attributes:
        tasks: see `Analyzer.analyze`; None answers emotion and action units.
        faces: "detect", or "aligned" for the crop of one face.
        max_new_tokens: limit of each answer.
    """

    model_config = ConfigDict(extra="forbid")

    tasks: tuple[Literal["emotion", "action_units", "labels"], ...] | None = Field(None, min_length=1, max_length=3)
    faces: Literal["detect", "aligned"] = "detect"
    max_new_tokens: int | None = Field(None, ge=1)


class JsonUpload(Options):
    """A picture in JSON.

    Attributes:
        image: the file in base64.
    """

    image: str


BODY = {  # of OpenAPI
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["image"],
                "properties": {
                    "image": {"type": "string", "format": "binary"},
                    "tasks": {
                        "type": "array",
                        "items": {"enum": ["emotion", "action_units", "labels"]},
                        "maxItems": 3,
                    },
                    "faces": {"enum": ["detect", "aligned"]},
                    "max_new_tokens": {"type": "integer", "minimum": 1},
                },
                "additionalProperties": False,
            }
        },
        "application/json": {"schema": JsonUpload.model_json_schema()},
    },
}


async def read_upload(request: Request, max_bytes: int) -> tuple[bytes, Options]:
    """The picture of a request, and what is asked about it.

    Raises:
        HTTPException: 408 too slow, 413 too large, 415 another content type, 422 anything else that is wrong.
    """
    kind = _content_type(request)
    if kind == "multipart/form-data":
        return await _read_form(request, max_bytes)
    if kind == "application/json":
        upload = parse(JsonUpload, await read_body(request, max_bytes))
        return decode_base64(upload.image, "image"), Options(**upload.model_dump(include=set(_OPTIONS)))
    raise HTTPException(415, f"expected multipart/form-data or application/json, found {kind or 'no content type'}")


def parse(model: "type[Any]", body: bytes) -> Any:
    """Validate a JSON body.

    Raises:
        HTTPException: 422, with the place of the first fault.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise HTTPException(422, first_fault(error)) from None


def decode_base64(text: str, name: str) -> bytes:
    """Decode base64.

    Raises:
        HTTPException: 422; it is not base64.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise HTTPException(422, f"{name}: expected the file in base64") from None


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The body of a request with JSON.

    Raises:
        HTTPException: 408 too slow, 413 too large, 415 another content type.
    """
    if (kind := _content_type(request)) != "application/json":
        raise HTTPException(415, f"expected application/json, found {kind or 'no content type'}")
    return await _receive(request, max_bytes)


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _receive(request: Request, max_bytes: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise _too_large(max_bytes)
    parts, size = [], 0

    async def read() -> None:
        nonlocal size
        async for part in request.stream():
            size += len(part)
            if size > max_bytes:
                raise _too_large(max_bytes)
            parts.append(part)

    try:
        await asyncio.wait_for(read(), READ_SECONDS)
    except asyncio.TimeoutError:
        raise HTTPException(408, f"the request was not complete after {READ_SECONDS:g} s") from None
    return b"".join(parts)


def _too_large(max_bytes: int) -> HTTPException:
    return HTTPException(413, f"the request is larger than {max_bytes / 1e6:g} MB")


async def _read_form(request: Request, max_bytes: int) -> tuple[bytes, Options]:
    body = await _receive(request, max_bytes)

    async def parts() -> Any:
        yield body

    parser = MultiPartParser(request.headers, parts(), max_files=1, max_fields=8)
    parser.spool_max_size = max_bytes + 1  # a larger file would go to the disk: pictures stay in memory
    try:
        form = await parser.parse()
    except (MultiPartException, ValueError, KeyError) as error:
        raise HTTPException(422, f"the form cannot be read: {getattr(error, 'message', error)}") from None
    try:
        return await _read_fields(form)
    finally:
        await form.close()


async def _read_fields(form: FormData) -> tuple[bytes, Options]:
    picture = form.get("image")
    if not isinstance(picture, UploadFile):
        raise HTTPException(422, "image: expected one file in the form")
    options: dict[str, Any] = {name: form[name] for name in form if name != "image"}
    if "tasks" in options:
        options["tasks"] = form.getlist("tasks")
    try:
        return await picture.read(), Options(**options)
    except ValidationError as error:
        raise HTTPException(422, first_fault(error)) from None


def picture_of(url: str) -> bytes:
    """The picture in a data URI.

    Raises:
        ImageError: it is the address of another machine, or not base64.
    """
    head, comma, data = url.partition(",")
    if not head.startswith("data:") or not comma or not head.endswith(";base64"):
        raise ImageError(
            "expected the picture as data:image/...;base64,...; pictures of other addresses are not fetched"
        )
    return decode_base64(data, "image_url")
