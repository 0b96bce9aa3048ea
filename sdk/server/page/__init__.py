"""The page at `/`: plain HTML, CSS and modules of this folder, which load nothing from elsewhere."""

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import Response
from starlette.exceptions import HTTPException

_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "media-src 'self' blob:",
        "form-action 'none'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)


def add_page(app: FastAPI) -> None:
    """Add the routes of the page."""
    folder = Path(__file__).parent
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in _TYPES}

    async def index() -> Response:
        return _file("index.html")

    async def part(name: str) -> Response:
        return _file(name)

    def _file(name: str) -> Response:
        if name not in files:
            raise HTTPException(404, "Not Found")
        headers = {"Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer"}
        return Response(files[name], media_type=_TYPES[Path(name).suffix], headers=headers)

    app.get("/", include_in_schema=False)(index)
    app.get("/page/{name}", include_in_schema=False)(part)
