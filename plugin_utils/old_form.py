"""Inventories of the old form, in which contract keys stood in group_vars/ and host_vars/: what to move where.

Only names of keys are looked at, line by line. What these files say is Ansible's to read: they may hold vaults and
templates.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from plugin_utils import contract

# May be set beside the contract, too: secrets, paths of the control node, and how a run goes about it.
ALSO_IN_GROUP_VARS = {
    *(
        "fleet_mail_relay",
        "fleet_private_dir",
        "fleet_ca_certificates",
        "fleet_monitor_settings",
        "fleet_check_names",
    ),
    *("fleet_drain_seconds", "fleet_listed_seconds", "fleet_update_sync_seconds"),
}
# What mirrors and the fleet's own sites share is the role nginx's.
RENAMED = {
    **{
        f"web_server_{one}": f"nginx_{one}"
        for one in (
            *("acme_webroot", "address_families", "certificate", "certificate_key", "hsts_max_age", "http3"),
            *("ocsp_stapling", "resolvers", "worker_connections"),
        )
    },
    "document_server_certificate": "nginx_certificate",
    "document_server_certificate_key": "nginx_certificate_key",
    "web_server_nginx_version": "nginx_version",
    "document_server_nginx_version": "nginx_version",
}


def _places() -> dict[str, str]:
    places = {key: "fleet.yml" for key in contract.keys(contract.FLEET) if key.startswith("fleet_")}
    for key in contract.keys(contract.RECORD):
        if key.startswith("mirror_"):
            places[key] = "mirrors/NAME.yml"
    for section in ("origins", "redirectors", "monitors", "clients"):
        shape = contract.keys(contract.FLEET)[section]["additionalProperties"]
        for key in shape["properties"]:
            if key.startswith(section[:-1]):
                places[key] = f"fleet.yml, {section}: {{NAME: …}}"
    places = {key: place for key, place in places.items() if key not in ALSO_IN_GROUP_VARS}
    return places | {former: f"its new name, {now}" for former, now in RENAMED.items()}


def found(folder: Path) -> Iterator[tuple[str, int, str, str]]:
    """File, line, key, and the place that it belongs to."""
    places = _places()
    for part in ("group_vars", "host_vars"):
        for path in sorted((folder / part).rglob("*")):
            if path.suffix not in {".yml", ".yaml", ".json", ""} or not path.is_file():
                continue
            text = path.read_text("utf-8", errors="replace")
            for number, line in enumerate(text.splitlines(), 1):
                matched = re.match(r"[\"']?([a-z0-9_]+)[\"']?\s*:", line)
                if matched and matched[1] in places:
                    yield str(path.relative_to(folder)), number, matched[1], places[matched[1]]


def told(folder: Path) -> str:
    """One message, or nothing where all is in its place."""
    wrong = [f"  {file}:{line}: {key} -> {place}" for file, line, key, place in found(folder)]
    scripts = [name for name in ("hosts.yml", "mirrors.py") if (folder / name).exists()]
    if not wrong and (not scripts or (folder / "fleet.yml").exists()):
        return ""
    more = [f"  and {len(wrong) - 40} more"] if len(wrong) > 40 else []
    gone = [f"  {name} -> not needed any more: remove it" for name in scripts]
    return "\n".join(
        [
            f"In the inventory {folder} these keys are not where they are read. Nothing was done. Move each "
            "(docs/inventory.md; connection variables, secrets and inputs of roles stay):",
            *wrong[:40],
            *more,
            *gone,
        ]
    )
