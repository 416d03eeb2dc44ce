#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Find out which index is upstream, and what it can do.

Documented in upstream_probe.yml beside it.
"""

from __future__ import annotations

import html.parser
import http.client
import json
import re
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit

from ansible.module_utils.basic import AnsibleModule

V1_HTML = "application/vnd.pypi.simple.v1+html"
V1_JSON = "application/vnd.pypi.simple.v1+json"
LARGEST_PAGE = 64 * 1024 * 1024
ROOT_BYTES = 64 * 1024

# pip's own parser merges its configuration files, its environment and its built-in default. Before these come the
# variables that its HTTP library minds.
ASK_PIP = """
import json, os, sys
from pip._internal.commands import create_command
from pip._internal.models.index import PyPI
options, _ = create_command("download").parser.parse_args([])
json.dump({
    "index_url": None if options.no_index else options.index_url,
    "built_in": PyPI.simple_url,
    "ca_file": os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or options.cert,
    "proxy": options.proxy,
}, sys.stdout)
"""


class ProbeError(Exception):
    """Something that stands in the way: what, what would be right, what to do."""

    def __init__(self, problem: str, allowed: str, next_step: str) -> None:
        self.problem = without_credentials(problem)
        self.allowed, self.next_step = allowed, next_step
        super().__init__(self.problem)


@dataclass
class Answer:
    """A response, or its refusal."""

    status: int
    url: str
    headers: Any
    body: bytes

    @property
    def type(self) -> str:
        return (self.headers.get("Content-Type") or "").partition(";")[0].strip().lower()

    @property
    def has_serial(self) -> bool:
        return bool(re.fullmatch(r"[0-9]{1,18}", self.headers.get("X-PyPI-Last-Serial") or ""))


# What a mirror can do instead, where its own mode does not work and another does.
WAY_OUT = {
    "cache": "set mirror_mode: cache",
    "origin": "let an origin of the fleet copy from it (origins, in fleet.yml) and name that one",
}


def ask_pip(python: str) -> dict[str, Any]:
    """The index that a pip uses."""
    next_step = "install pip there, or name the index: index_url"
    try:
        done = subprocess.run(
            [python, "-I", "-c", ASK_PIP], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ProbeError(
            f"{python} cannot be asked for its index: {error}", "a Python with pip", next_step
        ) from error
    if done.returncode != 0:
        why = without_credentials((done.stderr.strip().splitlines() or ["no message"])[-1])
        raise ProbeError(
            f"the pip of {python} does not tell its index: {why}", "a Python with pip", next_step
        )
    found: dict[str, Any] = json.loads(done.stdout)
    if not found["index_url"]:
        raise ProbeError(
            f"the pip of {python} is configured to use no index (no-index)",
            "an index",
            "name the index: index_url",
        )
    return found


class Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, and notes in a request's own list where they lead."""

    def redirect_request(  # noqa: PLR0917 (as it is called)
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        if following is not None:
            req.hops.append(newurl)
            following.hops = req.hops  # type: ignore[attr-defined]
        return following


class Index:
    """The index under test."""

    def __init__(
        self, url: str, ca_file: str | None, timeout: float, ca_pem: str = "", proxy: str | None = None
    ) -> None:
        try:
            parts = urlsplit(url)
        except ValueError:  # whose words repeat it
            parts = urlsplit("")
        if parts.scheme not in {"https", "http"} or not parts.hostname or parts.query or parts.fragment:
            raise ProbeError(
                f"the index {without_credentials(url)!a} is no index URL",
                "https://NAME/PATH/",
                "correct index_url, or pip's configuration",
            )
        self.url = without_credentials(url).rstrip("/") + "/"
        self.site = self.url.removesuffix("/simple/") if self.url.endswith("/simple/") else ""
        self.timeout = timeout
        manager = urllib.request.HTTPPasswordMgrWithPriorAuth()
        if parts.username is not None:
            user, password = unquote(parts.username), unquote(parts.password or "")
            host = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/"
            manager.add_password(None, host, user, password, is_authenticated=True)
        try:
            context = ssl.create_default_context(cafile=ca_file)
            if ca_pem:
                context.load_verify_locations(cadata=ca_pem)
        except OSError as error:
            raise ProbeError(
                f"the CA file {ca_file} cannot be used: {error}",
                "a PEM file",
                "correct ca_file, or pip's cert option",
            ) from error
        # Not build_opener: it would follow a redirect to ftp:// as well.
        self.opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler({"http": proxy, "https": proxy} if proxy else None),
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(context=context),
            urllib.request.HTTPBasicAuthHandler(manager),
            Redirects(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.UnknownHandler(),
        ):
            self.opener.add_handler(handler)

    def get(
        self,
        url: str,
        accept: str = "*/*",
        *,
        method: str = "GET",
        limit: int = LARGEST_PAGE,
        hops: list[str] | None = None,
    ) -> Answer:
        """The answer, of whatever status; ProbeError when there is none. The URLs of redirects are added to hops."""
        request = urllib.request.Request(  # noqa: S310 (the scheme was checked)
            url, method=method, headers={"Accept": accept, "User-Agent": "mirrorfleet-probe"}
        )
        request.hops = [] if hops is None else hops  # type: ignore[attr-defined]
        try:
            with self.opener.open(request, timeout=self.timeout) as response:
                return Answer(response.status, response.url, response.headers, response.read(limit))
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, url, error.headers, b"")
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise explain(error, urlsplit(url).hostname or "") from error


def without_credentials(text: str) -> str:
    """A URL, or a text with URLs in it, as anybody may read it."""
    return re.sub(r"([A-Za-z][A-Za-z0-9+.-]*://)[^/?#\s\x22<>]*@", r"\1", text)


def credentials_of(url: str) -> set[str]:
    """User and password as they stand in a URL."""
    return set(re.findall(r"^[A-Za-z][A-Za-z0-9+.-]*://([^/?#\s]+)@", url))


def explain(error: Exception, host: str) -> ProbeError:
    """Why there was no answer, and what a person can do about it."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        return ProbeError(
            f"the certificate of {host} is not trusted: {reason.verify_message}",
            "a certificate by a CA that is trusted here",
            "if a proxy inspects TLS here, name its CA: ca_file, or pip's cert option",
        )
    known: list[tuple[type[Exception], str, str]] = [
        # Its own words repeat the URL.
        (http.client.InvalidURL, f"{host} leads to a URL that is none", "ask whoever runs it"),
        (socket.gaierror, f"the name {host} does not resolve", "check the name and this host's DNS"),
        (ssl.SSLError, f"TLS with {host} failed: {reason}", "check that the port speaks TLS"),
        (
            ConnectionRefusedError,
            f"{host} refuses the connection",
            "check that it runs, and firewalls on the way",
        ),
        (
            TimeoutError,
            f"{host} does not answer in time",
            "check firewalls and proxies on the way, or raise timeout",
        ),
    ]
    for kind, problem, next_step in known:
        if isinstance(reason, kind):
            return ProbeError(problem, "an index that answers", next_step)
    return ProbeError(
        f"{host} cannot be asked: {ascii(str(reason))[:200]}", "an index that answers", "check the URL"
    )


class Links(html.parser.HTMLParser):
    """The links of an HTML page, and whether any offers core metadata or provenance."""

    def __init__(self) -> None:
        super().__init__()
        self.files: list[dict[str, Any]] = []
        self.version = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "a" and given.get("href"):
            metadata = given.get("data-core-metadata") or given.get("data-dist-info-metadata")
            self.files.append(
                {"url": given["href"], "core-metadata": metadata, "provenance": given.get("data-provenance")}
            )
        if tag == "meta" and given.get("name") == "pypi:repository-version":
            self.version = given.get("content") or ""


def probe(index: Index, project: str, check_root: bool) -> dict[str, Any]:
    """What the index can do, by asking for one project."""
    page_url = f"{index.url}{quote(project)}/"
    pages = {
        name: index.get(page_url, accept)
        for name, accept in (("html", "text/html"), ("v1+html", V1_HTML), ("v1+json", V1_JSON))
    }
    kinds = {"html": {"text/html"}, "v1+html": {V1_HTML}, "v1+json": {V1_JSON}}
    formats = [name for name, page in pages.items() if page.status == 200 and page.type in kinds[name]]
    if not formats:
        raise not_an_index(index, pages["html"], page_url)
    page = pages["v1+json" if "v1+json" in formats else formats[0]]
    files, version = read_page(page)
    if not files:
        raise ProbeError(
            f"{page_url} names no files",
            "an index with the project",
            f"name another project than {project}: probe_project",
        )
    legacy = index.get(f"{index.site}/pypi/{quote(project)}/json", "application/json") if index.site else None
    has_legacy = legacy is not None and legacy.status == 200 and is_json_object(legacy.body, "releases")
    return {
        "formats": formats,
        "api_version": version,
        "file_origins": sorted({origin_of(file["url"]) for file in files}),
        "file_redirects": file_redirects(index, files),
        "serial_header": {
            "simple": page.has_serial,
            "legacy": bool(has_legacy and legacy and legacy.has_serial),
        },
        "legacy_json": has_legacy,
        "core_metadata": has_core_metadata(index, files),
        "provenance": any(file.get("provenance") for file in files),
        "root_serials": has_root_serials(index) if check_root else None,
    }


def selection_bytes(index: Index, projects: list[str], releases_kept: int | None) -> int:
    """About how much the projects' files take, by the sizes that PEP 700 has on each page; 0 where none are told."""

    def project_bytes(project: str) -> float:
        page = index.get(f"{index.url}{quote(project)}/", V1_JSON)
        if page.status != 200 or page.type != V1_JSON:
            return 0
        files, _ = read_page(page)
        total = float(sum(file["size"] for file in files if isinstance(file.get("size"), int)))
        versions = json.loads(page.body).get("versions")
        if releases_kept and isinstance(versions, list) and len(versions) > releases_kept:
            total *= releases_kept / len(versions)
        return total

    with ThreadPoolExecutor(max_workers=8) as pool:
        return round(sum(pool.map(project_bytes, projects)))


def not_an_index(index: Index, answer: Answer, url: str) -> ProbeError:
    why = {
        401: ("asks for credentials", "put them into pip's configuration on the control node"),
        403: ("refuses us", "ask whoever runs it to let this host in"),
        404: ("has no such project", "name a project it has: probe_project; or correct the URL"),
        407: ("is behind a proxy that asks for credentials", "set https_proxy with credentials"),
    }
    if answer.status in why:
        problem, next_step = why[answer.status]
        return ProbeError(
            f"{index.url} {problem}: {url} answered {answer.status}", "an index that serves us", next_step
        )
    return ProbeError(
        f"{index.url} is no index: {url} answered {answer.status} with the type {ascii(answer.type)[:80]}",
        "PEP 503 or PEP 691 pages",
        "correct index_url, or pip's configuration",
    )


def read_page(page: Answer) -> tuple[list[dict[str, Any]], str]:
    """A project page's files, with absolute URLs, and its API version."""
    if page.type == V1_JSON:
        try:
            document = json.loads(page.body)
            files = [file for file in document["files"] if isinstance(file["url"], str)]
            version = str(document["meta"]["api-version"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ProbeError(
                f"{page.url} is no PEP 691 page: {ascii(str(error))[:200]}",
                "PEP 691 pages",
                "correct the index",
            ) from error
    else:
        links = Links()
        links.feed(page.body.decode("utf-8", "replace"))
        files, version = links.files, links.version
    return [{**file, "url": urljoin(page.url, file["url"])} for file in files], version


def origin_of(url: str) -> str:
    """Scheme and host of a URL."""
    return without_credentials("{0.scheme}://{0.netloc}".format(urlsplit(url)))


def file_redirects(index: Index, files: list[dict[str, Any]]) -> list[str]:
    """Scheme and host of wherever upstream sends who asks it for a file: one file of each host is tried."""
    hops: list[str] = []
    for url in {origin_of(file["url"]): file["url"] for file in files}.values():
        # What comes after the redirect is not looked at: it may be for one request, and for a GET alone.
        with suppress(ProbeError):
            index.get(url.partition("#")[0], limit=1, hops=hops)
    return sorted({origin_of(hop) for hop in hops})


def is_json_object(body: bytes, key: str) -> bool:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and isinstance(document.get(key), dict)


def has_core_metadata(index: Index, files: list[dict[str, Any]]) -> bool:
    """Whether the first file that offers core metadata has it: an offer alone breaks clients."""
    for file in files:
        if file.get("core-metadata") or file.get("data-dist-info-metadata"):
            url = file["url"].partition("#")[0] + ".metadata"
            try:
                return index.get(url, method="HEAD").status == 200
            except ProbeError:
                return False
    return False


def has_root_serials(index: Index) -> bool:
    """Whether the beginning of the list of projects has a serial for each."""
    answer = index.get(index.url, V1_JSON, limit=ROOT_BYTES)
    projects = answer.body.partition(b'"projects"')[2]
    return answer.status == 200 and answer.type == V1_JSON and b'"_last-serial"' in projects


def hindrances(index: Index, found: dict[str, Any]) -> dict[str, list[str]]:
    """By mode, why it would not work."""
    bandersnatch, pages = [], "v1+json" in found["formats"]
    if not index.url.startswith("https://"):
        bandersnatch.append("the index has no TLS, which bandersnatch demands")
    if not index.site:
        bandersnatch.append("the index is not at SITE/simple/, where bandersnatch looks for it")
    elif not found["legacy_json"] and not pages:
        bandersnatch.append(
            "/pypi/NAME/json does not answer, nor does the index have PEP 691 JSON: nothing says what there is to copy"
        )
    elif found["legacy_json"] and not found["serial_header"]["legacy"]:
        bandersnatch.append(
            "X-PyPI-Last-Serial does not come with /pypi/NAME/json: a proxy or cache in front of the index strips it, "
            "and bandersnatch takes every page for stale"
        )
    origin = [] if pages else ["the index has no PEP 691 JSON"]
    cache = [
        f"files are redirected to {place}, which has no TLS, and a cache does not follow there"
        for place in found["file_redirects"]
        if not place.startswith("https://")
    ]
    return {"bandersnatch": bandersnatch, "cache": cache, "origin": origin}


def losses(found: dict[str, Any]) -> dict[str, list[str]]:
    """By mode, what works otherwise than with an index that has all there is."""
    copied = []
    if "v1+json" not in found["formats"]:
        copied.append(
            "the index has no PEP 691 JSON: status and provenance of projects are lost, and core metadata of source "
            "distributions"
        )
    if not found["legacy_json"]:
        copied.append("/pypi/NAME/json does not answer: descriptions of projects are lost")
    mirrored = []
    if found["root_serials"] is False:
        mirrored.append(
            "the list of projects has no serial for each: every run compares the page of every selected project, "
            "a request each"
        )
    return {"bandersnatch": copied + mirrored, "cache": [], "origin": copied}


def result_of(params: dict[str, Any]) -> dict[str, Any]:
    """The module's whole result."""
    result: dict[str, Any] = {
        "reachable": False,
        "formats": [],
        "api_version": "",
        "file_origins": [],
        "file_redirects": [],
        "serial_header": {"simple": False, "legacy": False},
        "legacy_json": False,
        "core_metadata": False,
        "provenance": False,
        "root_serials": None,
        "selection_bytes": 0,
        "modes": {},
        "losses": {},
        "problems": [],
    }
    try:
        url, ca_file, source, proxy = params["index_url"], params["ca_file"], "given", None
        if not url:
            found = ask_pip(params["python"] or sys.executable)
            url, source = (
                found["index_url"],
                "built-in" if found["index_url"] == found["built_in"] else "configured",
            )
            ca_file, proxy = ca_file or found["ca_file"], found["proxy"]
        index = Index(url, ca_file, params["timeout"], params["ca_pem"], proxy)
        result.update(index_url=index.url, site=index.site, source=source)
        result.update(probe(index, params["probe_project"], params["check_root"]), reachable=True)
        result["selection_bytes"] = selection_bytes(index, params["sizes_of"], params["releases_kept"])
    except ProbeError as error:
        result["problems"].append(
            {
                "key": "upstream",
                "problem": error.problem,
                "allowed": error.allowed,
                "next_step": error.next_step,
            }
        )
        return result
    result["modes"], result["losses"] = hindrances(index, result), losses(result)
    working = [mode for mode, reasons in result["modes"].items() if not reasons]
    for reason in result["modes"].get(params["mode"], []):
        result["problems"].append(
            {
                "key": "upstream",
                "problem": f"{index.url}: {reason}",
                "allowed": f"an upstream that mode {params['mode']} can use",
                "next_step": ", or ".join(
                    ["name another upstream", *(WAY_OUT[mode] for mode in working if mode in WAY_OUT)]
                ),
            }
        )
    return result


ARGUMENTS: dict[str, Any] = {
    "index_url": {"type": "str"},
    "python": {"type": "path"},
    "probe_project": {"type": "str", "default": "six"},
    "check_root": {"type": "bool", "default": False},
    "sizes_of": {"type": "list", "elements": "str", "default": []},
    "releases_kept": {"type": "int"},
    "mode": {"type": "str", "choices": ["bandersnatch", "cache", "origin"]},
    "ca_file": {"type": "path"},
    "ca_pem": {"type": "str", "default": ""},
    "timeout": {"type": "float", "default": 20},
}


def main() -> None:
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        supports_check_mode=True,
    )
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", module.params["probe_project"]):
        module.fail_json(msg=f"probe_project is {module.params['probe_project']!a}, expected a project name")
    # What was run is told with its arguments.
    module.no_log_values |= credentials_of(module.params["index_url"] or "")
    result = result_of(module.params)
    for loss in result["losses"].get(module.params["mode"], []):
        module.warn(f"{result['index_url']}: {loss} (docs/sync.md)")
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
