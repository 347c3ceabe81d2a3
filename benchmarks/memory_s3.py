"""An S3 server in memory that costs little processor time: as much of the protocol as run stores use.

python benchmarks/memory_s3.py PORT

moto takes seconds for an object of 100 MB, on cores that a benchmark on one machine needs. Nothing is checked here.
"""

from __future__ import annotations

import re
import socket
import sys
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

OBJECTS: dict[str, tuple[bytes, float]] = {}
UPLOADS: dict[str, dict[int, bytes]] = {}
_NUMBERS = count(1)


class Handler(BaseHTTPRequestHandler):
    """Answers the calls of one connection."""

    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        """Send small answers at once."""
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""

    def do_PUT(self) -> None:
        """Make a bucket, write an object or a part of one, or copy one."""
        key, query = self._target()
        body = self._body()
        if source := self.headers.get("x-amz-copy-source"):
            OBJECTS[key] = OBJECTS[unquote(source).lstrip("/")][0], time.time()
            self._answer(200, '<CopyObjectResult><ETag>"1"</ETag></CopyObjectResult>')
            return
        if "uploadId" in query:
            UPLOADS[query["uploadId"]][int(query["partNumber"])] = body
        elif "/" in key.rstrip("/"):
            OBJECTS[key] = body, time.time()
        self._answer(200)

    def do_POST(self) -> None:
        """Begin or end the upload of an object in parts."""
        key, query = self._target()
        self._body()
        if "uploadId" in query:
            parts = UPLOADS.pop(query["uploadId"])
            OBJECTS[key] = b"".join(parts[number] for number in sorted(parts)), time.time()
            self._answer(200, '<CompleteMultipartUploadResult><ETag>"1"</ETag></CompleteMultipartUploadResult>')
        else:
            UPLOADS[name := str(next(_NUMBERS))] = {}
            result = "InitiateMultipartUploadResult"
            self._answer(200, f"<{result}><UploadId>{name}</UploadId></{result}>")

    def do_HEAD(self) -> None:
        """Answer with the size of an object."""
        key, _ = self._target()
        content, changed = OBJECTS.get(key, (b"", 0.0))
        self._answer(200 if key in OBJECTS or "/" not in key.rstrip("/") else 404, content, changed=changed)

    def do_GET(self) -> None:
        """Answer with an object, a range of one, or a list."""
        key, query = self._target()
        if "list-type" in query:
            self._answer(200, _listed(key, query.get("prefix", ""), query.get("delimiter", "")))
        elif key not in OBJECTS:
            self._answer(404, "<Error><Code>NoSuchKey</Code></Error>")
        else:
            content, changed = OBJECTS[key]
            first, last = re.findall(r"(\d+)-(\d*)", self.headers.get("Range", "bytes=0-"))[0]
            part = content[int(first) : int(last) + 1 if last else None]
            self._answer(206 if "Range" in self.headers else 200, part, changed=changed)

    def do_DELETE(self) -> None:
        """Delete an object."""
        OBJECTS.pop(self._target()[0], None)
        self._answer(204)

    def _target(self) -> tuple[str, dict[str, str]]:
        parts = urlsplit(self.path)
        query = parse_qs(parts.query, keep_blank_values=True)
        return unquote(parts.path).lstrip("/"), {name: values[0] for name, values in query.items()}

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            return b"".join(_unwrapped(b"".join(self._chunks())))
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _chunks(self) -> list[bytes]:
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return chunks

    def _answer(self, status: int, content: bytes | str = b"", *, changed: float = 0.0) -> None:
        body = content.encode() if isinstance(content, str) else content
        self.send_response(status)
        self.send_header("ETag", '"1"')
        self.send_header("Last-Modified", formatdate(changed, usegmt=True))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _unwrapped(body: bytes) -> list[bytes]:
    """Return the chunks of AWS's encoding with a checksum at the end (aws-chunked)."""
    chunks, at = [], 0
    while size := int(body[at : (line := body.index(b"\r\n", at))], 16):
        chunks.append(body[line + 2 : line + 2 + size])
        at = line + 4 + size
    return chunks


def _listed(bucket: str, prefix: str, delimiter: str) -> str:
    """Return the answer to ListObjectsV2, without pages."""
    found, folders = "", set[str]()
    for name, (content, changed) in sorted(OBJECTS.items()):
        key = name.removeprefix(f"{bucket.rstrip('/')}/")
        if key == name or not key.startswith(prefix):
            continue
        folder, is_below, _ = key.removeprefix(prefix).partition(delimiter or "\0")
        if is_below:
            folders.add(f"{prefix}{folder}{delimiter}")
            continue
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(changed))
        times = f"<LastModified>{stamp}</LastModified><Size>{len(content)}</Size>"
        found += f"<Contents><Key>{escape(key)}</Key>{times}</Contents>"
    common = "".join(f"<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>" for one in sorted(folders))
    return f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}{common}</ListBucketResult>"


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
