"""What a hub of one's own holds and answers: the part of huggingface.co that a push talks to.

It keeps what it is sent as the hub does: git blobs, large files, chunks of hf_xet.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

CHUNK_HEADER = 8
"""Of hf_xet: version, compressed length (3 bytes), scheme, length (3 bytes)."""

Answer = tuple[int, dict[str, Any]]


@dataclass(frozen=True)
class Asked:
    """A request that arrived."""

    method: str
    path: str
    authorization: str | None
    body: bytes


@dataclass
class Repository:
    """Branch main of a repository: its files after each commit."""

    private: bool
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)
    headers: list[dict[str, Any]] = field(default_factory=list)
    large: set[str] = field(default_factory=set)

    @property
    def sha(self) -> str:
        return self.commits[-1][0]

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1][1]

    def commit(self, files: dict[str, bytes]) -> str:
        oid = hashlib.sha1(f"{len(self.commits)} {sorted(files)}".encode()).hexdigest()
        self.commits.append((oid, files))
        return oid


class Hub:
    """State and routes.

    Attributes:
        token: the one that is accepted.
        repositories: by id.
        asked: every request, in the order of arrival.
        faults: path fragment -> status, or a word of tests/hub_server.py; the first match counts.
        words: what a failing answer says; ``{authorization}`` gives the header back.
        namespaces: organisations that exist.
        ignored: names that a .gitignore there excludes.
        may_create: whether the token may make repositories.
    """

    def __init__(self, token: str) -> None:
        self.token = token
        self.repositories: dict[str, Repository] = {}
        self.asked: list[Asked] = []
        self.faults: dict[str, int | str] = {}
        self.words = "no, {authorization}"
        self.namespaces = {"org"}
        self.ignored: set[str] = set()
        self.may_create = True
        self.stored: dict[str, bytes] = {}
        self.xorbs: list[bytes] = []
        self.url = ""

    def add(
        self, name: str, files: dict[str, bytes] | None = None, *, private: bool = True
    ) -> None:
        """A repository as the hub makes it, with files that someone else put there."""
        self.repositories[name] = Repository(private)
        attributes = {".gitattributes": b"*.safetensors filter=lfs\n"}
        self.repositories[name].commit(attributes | (files or {}))

    def uploaded(self) -> list[Asked]:
        """Requests that brought the content of large files."""
        return [x for x in self.asked if x.method == "PUT" or x.path.startswith("/v1/xorbs/")]

    # -- routes: the method's name, then what its path matches -----------------------------------

    def answer(self, asked: Asked) -> Answer:
        for pattern, route in self._routes():
            if found := re.fullmatch(pattern, f"{asked.method} {asked.path}"):
                if not self._accepted(asked):
                    return 401, {"error": f"Invalid credentials: {asked.authorization}"}
                return route(asked, *found.groups())  # type: ignore[no-any-return]
        return 404, {"error": "no such page"}

    def _accepted(self, asked: Asked) -> bool:
        stored_elsewhere = asked.path.startswith(("/bucket/", "/v1/", "/v2/"))
        return stored_elsewhere or asked.authorization == f"Bearer {self.token}"

    def _routes(self) -> list[tuple[str, Any]]:
        repository = "/api/models/([^/]+/[^/]+)"
        return [
            ("POST /api/repos/create", self._create),
            ("POST /api/validate-yaml", self._validate),
            (f"GET {repository}", self._info),
            (f"GET {repository}/revision/(.+)", self._info),
            (f"POST {repository}/preupload/main", self._preupload),
            (f"POST {repository}/commit/main", self._commit),
            (r"POST /([^/]+/[^/]+)\.git/info/lfs/objects/batch", self._batch),
            ("PUT /bucket/(.+)", self._store),
            (f"GET {repository}/xet-write-token/main", self._xet_token),
            ("POST /v1/xorbs/default/.+", self._xorb),
            ("POST /v1/shards", lambda _: (200, {"result": 1})),
        ]

    def _create(self, asked: Asked) -> Answer:
        wanted = json.loads(asked.body)
        name = f"{wanted['organization']}/{wanted['name']}"
        if wanted["organization"] not in self.namespaces:
            return 404, {"error": "this organisation does not exist"}
        if not self.may_create:
            return 403, {"error": "you have no right to make a repository"}
        if name in self.repositories:
            return 409, {"error": "you have this already", "url": f"{self.url}/{name}"}
        self.add(name, private=wanted["visibility"] == "private")
        return 200, {"url": f"{self.url}/{name}"}

    def _validate(self, asked: Asked) -> Answer:
        content = json.loads(asked.body)["content"]
        warnings = [] if content.startswith("---\n") else [{"message": "empty metadata"}]
        return 200, {"errors": [], "warnings": warnings}

    def _info(self, _: Asked, name: str, revision: str = "main") -> Answer:
        if name not in self.repositories:
            return 404, {"error": "repository not found"}
        repository = self.repositories[name]
        files = repository.files if revision == "main" else dict(repository.commits)[revision]
        return 200, {
            "id": name,
            "sha": repository.sha if revision == "main" else revision,
            "private": repository.private,
            "siblings": [{"rfilename": x} for x in sorted(files)],
        }

    def _preupload(self, asked: Asked, name: str) -> Answer:
        repository = self.repositories[name]
        told = []
        for wanted in json.loads(asked.body)["files"]:
            path = wanted["path"]
            large = path.endswith(".safetensors")
            entry = {"path": path, "uploadMode": "lfs" if large else "regular"}
            entry["shouldIgnore"] = path in self.ignored
            if path in repository.files:
                entry["oid"] = _oid(repository.files[path], large)
            told.append(entry)
        return 200, {"files": told}

    def _batch(self, asked: Asked, _: str) -> Answer:
        objects = []
        for wanted in json.loads(asked.body)["objects"]:
            if wanted["oid"] not in self.stored:
                wanted["actions"] = {"upload": {"href": f"{self.url}/bucket/{wanted['oid']}"}}
            objects.append(wanted)
        return 200, {"transfer": "basic", "objects": objects}

    def _store(self, asked: Asked, oid: str) -> Answer:
        if hashlib.sha256(asked.body).hexdigest() != oid:
            return 400, {"error": "these are not the bytes of this digest"}
        self.stored[oid] = asked.body
        return 200, {}

    def _commit(self, asked: Asked, name: str) -> Answer:
        repository = self.repositories[name]
        header, *operations = [json.loads(line) for line in asked.body.splitlines()]
        if header["value"].get("parentCommit", repository.sha) != repository.sha:
            return 412, {"error": "the branch has moved"}
        files = dict(repository.files)
        for operation in operations:
            value = operation["value"]
            match operation["key"]:
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self._large(value["oid"])
                case "deletedFile":
                    del files[value["path"]]
        repository.headers.append(header["value"])
        oid = repository.commit(files)
        return 200, {"commitUrl": f"{self.url}/{name}/commit/{oid}", "commitOid": oid}

    # -- hf_xet: chunks instead of files ---------------------------------------------------------

    def _xet_token(self, _: Asked, __: str) -> Answer:
        return 200, {"casUrl": self.url, "accessToken": "of-the-storage", "exp": 2**33}

    def _xorb(self, asked: Asked) -> Answer:
        self.xorbs.append(asked.body)
        return 200, {"was_inserted": True}

    def _large(self, oid: str) -> bytes:
        """Content by its digest: as it was put, or from the chunks that hold it."""
        for xorb in self.xorbs:
            chunks = list(_chunks(xorb))
            ends = [0, *accumulate(map(len, chunks))]
            joined = b"".join(chunks)
            for start in ends:
                for end in ends:
                    content = joined[start:end]
                    self.stored.setdefault(hashlib.sha256(content).hexdigest(), content)
        return self.stored[oid]


def _oid(content: bytes, large: bool) -> str:
    """SHA-256 of a large file, git's SHA-1 of any other."""
    if large:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _chunks(xorb: bytes) -> Iterator[bytes]:
    """Contents of the chunks of a xorb, which must not be compressed."""
    while len(xorb) > CHUNK_HEADER and xorb[0] == 0:
        packed, scheme = int.from_bytes(xorb[1:4], "little"), xorb[4]
        assert scheme == 0
        yield xorb[CHUNK_HEADER : CHUNK_HEADER + packed]
        xorb = xorb[CHUNK_HEADER + packed :]
