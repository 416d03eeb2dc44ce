"""The inventory contract: from a fleet's variables to problems, a mirror's configuration, the registry.

Documentation of each filter: the YAML file of its name beside this one.
"""

from __future__ import annotations

import datetime
import json
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Ansible loads a plugin file by itself, not as part of a package: what plugins share has to be put in reach.
sys.path.append(str(Path(__file__).resolve().parents[1]))
from plugin_utils import values as v
from plugin_utils.contract import SELECTION_DEFAULTS, Check, Schema, mapping, optional, selection
from plugin_utils.values import BadValueError, HostValues, Inventory, Report, as_filter

CONTINENTS = ("AF", "AN", "AS", "EU", "NA", "OC", "SA")
_COUNTRIES = (  # ISO 3166-1 alpha-2
    "AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS "
    "BT BV BW BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE "
    "EG EH ER ES ET FI FJ FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM "
    "HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC "
    "LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA "
    "NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW "
    "SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO "
    "TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW "
)
COUNTRIES = frozenset(_COUNTRIES.split())
GROUPS = ("mirrors", "redirectors", "monitors", "origins", "clients")
FILL_MODES = ("bandersnatch", "rsync", "cache")
# With a tree of their own, which others can be fed from.
TREE_MODES = ("bandersnatch", "rsync")


def country(value: Any) -> str:
    if not isinstance(value, str) or value not in COUNTRIES:
        hint = (
            "write UK as GB"
            if value == "UK"
            else "put NO in quotes: YAML reads it as false"
            if value is False
            else ""
        )
        raise BadValueError(f"is {v.shown(value)}", "a country's two capital letters by ISO 3166-1", hint)
    return value


def urls(value: Any) -> list[str]:
    """One public URL or a list of them, the first being the name the mirror is listed under."""
    return (
        [public_url(value)]
        if isinstance(value, str)
        else list(v.list_of(public_url, least=1, most=20)(value))
    )


def public_url(value: Any) -> str:
    url = v.url(value)
    if ":" in url.removeprefix("https://").rpartition("]")[2]:
        raise BadValueError(f"is {v.shown(value)}", "https://NAME: the fleet's hosts serve on port 443")
    return url


def site_url(value: Any) -> str:
    """The base URL of an index's site; its index page's URL is taken as well."""
    return v.url(value, schemes=("https", "http"), path=True).removesuffix("/simple")


def upstream(value: Any) -> str:
    if isinstance(value, str) and "://" in value:
        return site_url(value)
    return inventory_name(value)


def inventory_name(value: Any) -> str:
    return v.text(value, most=253)


LOCATION: Schema = {
    "continent": v.choice(*CONTINENTS),
    "country": country,
    "city": v.text,
    "latitude": v.number(-90, 90),
    "longitude": v.number(-180, 180),
}
PERSON: Schema = {
    "name": v.text,
    "email": v.email,
    "url": lambda value: v.url(value, schemes=("https", "http"), path=True),
    "webhook": v.webhook,
}
PUBLIC_PERSON = ("name", "email", "url")  # what the registry tells of one; a webhook's URL is a secret
AGREEMENT: Schema = {"version": v.text, "accepted_by": v.text, "accepted_on": v.date, "expires_on": v.date}


def simple(check: Check) -> Callable[[Any, str, Report], Any]:
    return lambda value, key, report: report.try_check(key, check, value)


def maintenance(value: Any, key: str, report: Report) -> list[dict[str, Any]]:
    """Windows in which nobody is told what is wrong with a mirror."""
    if not isinstance(value, list) or len(value) > 100:
        allowed = f"a list of at most 100 windows such as {WINDOW_EXAMPLE}"
        report.add(key, f"is {v.kind(value)} ({v.shown(value)})", allowed, "write each window after '- '")
        return []
    check, windows = mapping(WINDOW, tuple(WINDOW)), []
    for index, entry in enumerate(value):
        before = len(report.problems)
        window = check(entry, f"{key}.{index + 1}", report)
        if len(report.problems) > before:
            continue
        if not window["from"] < window["until"] <= window["from"] + datetime.timedelta(days=LONGEST_WINDOW):
            report.add(
                f"{key}.{index + 1}.until",
                f"is {v.shown(entry['until'])}",
                f"a moment after from, at most {LONGEST_WINDOW} days later",
            )
        else:
            windows.append({name: window[name] for name in WINDOW})
    return windows


LONGEST_WINDOW = 92  # days: a mirror that is away for longer is drained
WINDOW: Schema = {"from": v.moment, "until": v.moment, "reason": v.text}
WINDOW_EXAMPLE = '{from: "2026-12-01T20:00:00+13:00", until: "2026-12-01T23:00:00+13:00", reason: new disks}'


MIRROR: dict[str, Callable[[Any, str, Report], Any]] = {
    "mirror_mode": simple(v.choice(*FILL_MODES)),
    "mirror_upstream": simple(upstream),
    "mirror_selection": selection,
    "mirror_on_miss": simple(v.choice("pass", "not_found")),
    "mirror_url": simple(urls),
    "mirror_location": mapping(LOCATION, tuple(LOCATION)),
    "mirror_networks": simple(v.list_of(v.preferred_network, most=1000)),
    "mirror_bandwidth": simple(v.whole(1, 10_000_000)),
    "mirror_address_families": simple(v.list_of(v.choice("ipv4", "ipv6"), least=1)),
    "mirror_operator": mapping(PERSON, ("name", "email")),
    "mirror_agreement": mapping(AGREEMENT, ("version", "accepted_by", "accepted_on")),
    "mirror_state": simple(v.choice("active", "drained", "retired")),
    "mirror_maintenance": maintenance,
}
# What has to be there, and what it looks like.
MIRROR_REQUIRED = {
    "mirror_mode": ", ".join(FILL_MODES),
    "mirror_url": "https://NAME",
    "mirror_location": "{continent: OC, country: NZ, city: Auckland, latitude: -36.8, longitude: 174.8}",
    "mirror_operator": "{name: NAME, email: ADDRESS} and maybe url",
    "mirror_agreement": '{version: "2026-11", accepted_by: NAME, accepted_on: 2026-11-20}',
}
MIRROR_DEFAULTS: dict[str, Any] = {
    "mirror_networks": [],
    "mirror_bandwidth": 100,
    "mirror_address_families": ["ipv4", "ipv6"],
    "mirror_state": "active",
}
ORIGIN: dict[str, Callable[[Any, str, Report], Any]] = {
    "origin_url": simple(urls),
    "origin_upstream": simple(site_url),
    "origin_projects": simple(v.list_of(v.project_name, least=1)),
    "origin_releases_kept": simple(optional(v.whole(1, 1_000_000))),
}
ORIGIN_REQUIRED = {"origin_url": "https://NAME", "origin_projects": "a list of project names"}
REDIRECTOR: dict[str, Callable[[Any, str, Report], Any]] = {"redirector_url": simple(urls)}
REDIRECTOR_REQUIRED = {"redirector_url": "https://NAME"}
MONITOR: dict[str, Callable[[Any, str, Report], Any]] = {"monitor_url": simple(urls)}
MONITOR_REQUIRED = {"monitor_url": "https://NAME, where redirectors read what it found"}


def shared_key(value: Any) -> str:
    """The key of an external account binding (RFC 8555, 7.3.4). A secret: no message shows it."""
    allowed = "the key as the authority gave it: base64url (A-Z a-z 0-9 _ -), 22 characters or more"
    if not isinstance(value, str):
        raise BadValueError(f"is {v.kind(value)}, not text", allowed)
    if not re.fullmatch(r"[A-Za-z0-9_-]{22,1000}={0,2}", value):
        hint = "remove the line break at its end" if value != value.strip() else ""
        raise BadValueError("is no key in base64url (it is not shown, for it is a secret)", allowed, hint)
    return value


TLS: dict[str, Callable[[Any, str, Report], Any]] = {
    "tls_mode": simple(v.choice("acme", "provided", "private_ca")),
    "tls_acme_directory": simple(lambda value: v.url(value, path=True)),
    "tls_acme_email": simple(v.email),
    "tls_acme_key_type": simple(v.choice("ecdsa", "rsa")),
    "tls_acme_eab_key_id": simple(v.text),
    "tls_acme_eab_hmac": simple(shared_key),
}


def version(value: Any) -> str:
    v.text(value, most=50)
    if not all(part.isalnum() and part.isascii() for part in value.replace("+", ".").split(".")):
        raise BadValueError(f"is {v.shown(value)}", "a version such as 8.2.0")
    return str(value)


def package_version(value: Any) -> str:
    """What apt takes for one: deb-version(7), with `*` for any rest."""
    v.text(value, most=100)
    if not re.fullmatch(r"[0-9][A-Za-z0-9.+~:*-]*", value):
        raise BadValueError(
            f"is {v.shown(value)}", "a version of Debian's package, or a pattern such as 1.26.*"
        )
    return str(value)


def per_platform(check: Check) -> Check:
    def check_all(value: Any) -> dict[str, str]:
        allowed = "a mapping of platforms (debian-12, debian-13) to versions in quotes"
        if not isinstance(value, dict) or not value or not value.keys() <= {"debian-12", "debian-13"}:
            raise BadValueError(f"is {v.shown(value)}", allowed)
        return {platform: check(one) for platform, one in value.items()}

    return check_all


def settings_of_monitor(value: Any) -> dict[str, Any]:
    """The verb probe checks the rest when it starts."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise BadValueError(
            f"is {v.shown(value)}", "a mapping of keys of monitor.json, such as {interval: 30}"
        )
    return value


def or_its_text(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """On the command line every value is text: `-e KEY=VALUE`."""

    def run(value: Any) -> Any:
        plain = isinstance(value, str) and (
            value in ("true", "false") or (value.isascii() and value.isdigit())
        )
        return check(json.loads(value.lstrip("0") or "0") if plain else value)

    return run


RELAY: Schema = {
    "address": v.host_and_port,
    "from": v.email,
    "starttls": v.boolean,
    "user": v.text,
    "password": v.password,
}


def mail_relay(value: Any, key: str, report: Report) -> dict[str, Any] | None:
    """Where alerts are handed to be mailed. It may hold a password: no message shows it."""
    known = f"a mapping with the keys {', '.join(RELAY)}"
    if not isinstance(value, dict):
        report.add(key, f"is {v.kind(value)}", known)
        return None
    before = len(report.problems)
    found: dict[str, Any] = mapping(RELAY, ("address", "from"))(value, key, report)
    found.setdefault("starttls", True)
    if ("user" in value) != ("password" in value):
        report.add(f"{key}.user", "and password are not both given", "both, or none of them")
    if len(report.problems) == before and "user" in found and not found["starttls"]:
        report.add(
            f"{key}.starttls",
            "is false, and the password would go over the wire in clear",
            "true with a user",
        )
    return found if len(report.problems) == before else None


def certificate_file(value: Any) -> str:
    """A file of the control node, where this runs."""
    path = v.text(value, most=4096)
    allowed = "the absolute path of a PEM file with one CA certificate, on the control node"
    try:
        known = path.startswith("/") and "-----BEGIN CERTIFICATE-----" in Path(path).read_text("ascii")
    except (OSError, ValueError) as error:
        raise BadValueError(f"{v.shown(path)} cannot be read: {error}", allowed) from error
    if not known:
        raise BadValueError(f"is {v.shown(path)}", allowed)
    return path


FLEET: dict[str, Callable[[Any, str, Report], Any]] = {
    "fleet_name": simple(v.text),
    "fleet_coordinator": mapping(PERSON, ("name", "email")),
    "fleet_agreement_version": simple(v.text),
    "fleet_selection": selection,
    "fleet_gate_project": simple(v.project_name),
    "fleet_vantage_host": simple(inventory_name),
    "fleet_private_dir": simple(v.text),
    "fleet_ca_certificates": simple(v.list_of(certificate_file, most=20)),
    "fleet_check_names": simple(or_its_text(v.boolean)),
    "fleet_drain_seconds": simple(or_its_text(v.whole(0, 86400))),
    "fleet_listed_seconds": simple(or_its_text(v.whole(0, 86400))),
    "fleet_monitor_settings": simple(settings_of_monitor),
    "fleet_update_sync_seconds": simple(or_its_text(v.whole(1, 7 * 86400))),
    "fleet_staleness_limit": simple(v.whole(60, 366 * 86400)),
    "fleet_mail_relay": mail_relay,
    "fleet_versions": mapping(
        {
            "mirrorfleet": version,
            "bandersnatch": per_platform(version),
            "nginx": per_platform(package_version),
        },
        ("mirrorfleet", "bandersnatch", "nginx"),
    ),
}
FLEET_REQUIRED = {
    "fleet_name": "text",
    "fleet_coordinator": "{name: NAME, email: ADDRESS} and maybe url",
    "fleet_agreement_version": 'text such as "2026-11"',
    "fleet_gate_project": "a small project that every mirror carries",
    "fleet_vantage_host": "a host of the inventory, or localhost",
    "fleet_staleness_limit": "seconds",
    "fleet_versions": "{mirrorfleet: ..., bandersnatch: {...}, nginx: {...}}",
}


def _without_host(problem: dict[str, str]) -> tuple[str, ...]:
    return tuple(value for key, value in problem.items() if key != "host")


class Fleet:
    """The inventory, checked: what it says of each host, and all that is wrong with it."""

    def __init__(
        self,
        inventory: Inventory,
        groups: dict[str, list[str]],
        today: str | None = None,
        only: str | None = None,
    ) -> None:
        """Looks at all hosts, or at one with those it is fed from."""
        self.inventory = inventory
        self.today = today
        self.groups = {name: list(groups.get(name, [])) for name in GROUPS}
        self.all_hosts = dict.fromkeys(
            groups.get("all") or sorted({h for hosts in groups.values() for h in hosts})
        )
        self.of: dict[str, set[str]] = {host: set() for host in self.all_hosts}
        for name, members in self.groups.items():
            for host in members:
                self.of[host].add(name)
        self.hosts = list(self.all_hosts) if only is None else self._chain(only)
        self.reports = {host: Report(host) for host in self.hosts}
        # An agreement that has lapsed keeps a mirror off the list (mirrorfleet list); its host is still looked after.
        self.standing = {host: Report(host) for host in self.hosts}
        self.records: dict[str, dict[str, Any]] = {}
        self.owners: dict[str, str] = {}
        for host in self.hosts:
            self._check_values(host)
            for url in self._urls(host):
                self.owners.setdefault(url, host)
        self._check_groups(groups)
        self._check_uniqueness()
        self._check_upstreams()
        self._check_projects()

    def _chain(self, host: str) -> list[str]:
        """A host and those it is fed from, as far as names tell; a URL may be any host's."""
        chain = {host: None}
        while True:
            named = self.inventory[host].values.get("mirror_upstream")
            if not isinstance(named, str) or named in chain:
                return list(chain)
            if "://" in named:
                return list(self.all_hosts)
            if named not in self.all_hosts:
                return list(chain)
            host = named
            chain[host] = None

    def problems(self) -> list[dict[str, str]]:
        """Every problem; one of a fleet_ variable that all hosts share (their group_vars/all) is told once."""
        told = [
            problem
            for host, report in self.reports.items()
            for problem in [
                *report.problems,
                *(self.standing[host].problems if host in self.standing else []),
            ]
        ]
        hosts_with = Counter(_without_host(problem) for problem in told)
        merged: dict[tuple[str, ...], dict[str, str]] = {}
        for problem in told:
            shared = problem["key"].startswith("fleet_") and hosts_with[_without_host(problem)] == len(
                self.hosts
            )
            one = problem | {"host": "all"} if shared else problem
            merged.setdefault(tuple(one.values()), one)
        return list(merged.values())

    def _check_values(self, host: str) -> None:
        found, report = self.inventory[host], self.reports[host]
        schema = dict(FLEET)
        if "mirrors" in self.of[host]:
            schema |= MIRROR | TLS
        if "origins" in self.of[host]:
            schema |= ORIGIN | TLS
        if "redirectors" in self.of[host]:
            schema |= REDIRECTOR | TLS
        if "monitors" in self.of[host]:
            schema |= MONITOR | TLS
        for key, wrong in found.unreadable.items():
            report.add(key, wrong.problem, wrong.allowed, wrong.next_step)
        record = {
            key: check(found.values[key], key, report) for key, check in schema.items() if key in found.values
        }
        self.records[host] = record
        self._check_keys(host, found)
        if "mirrors" in self.of[host]:
            self._check_mirror(host, found, record)
        if record.get("tls_mode") == "acme":
            self._check_acme(host, found)
        for group, required in (("origins", ORIGIN_REQUIRED), ("redirectors", REDIRECTOR_REQUIRED)):
            if group in self.of[host]:
                self._check_required(found, required, f"host_vars/{host}.yml", report)
        # A redirector that measures as well has a name already.
        if "monitors" in self.of[host] and "redirectors" not in self.of[host]:
            self._check_required(found, MONITOR_REQUIRED, f"host_vars/{host}.yml", report)
        self._check_required(found, FLEET_REQUIRED, "group_vars/all", report)
        self._check_vantage(record, report)

    def _check_acme(self, host: str, found: HostValues) -> None:
        needed = {"tls_acme_directory": "the https URL of an ACME server's directory (tls_mode acme)"}
        binding = {
            "tls_acme_eab_key_id": "the key id of the external account binding, with tls_acme_eab_hmac",
            "tls_acme_eab_hmac": "the key of the external account binding, with tls_acme_eab_key_id",
        }
        if binding.keys() & {*found.values, *found.unreadable}:
            needed |= binding
        self._check_required(found, needed, f"host_vars/{host}.yml, or to the group_vars", self.reports[host])

    def _check_required(
        self, found: HostValues, required: dict[str, str], place: str, report: Report
    ) -> None:
        for key, allowed in required.items():
            if key not in found.values and key not in found.unreadable:
                report.add(key, "is missing", allowed, f"add {key} to {place}")

    def _check_vantage(self, record: dict[str, Any], report: Report) -> None:
        vantage = record.get("fleet_vantage_host")
        if vantage and vantage in self.groups["mirrors"]:
            report.add(
                "fleet_vantage_host",
                f"names {v.shown(vantage)}, which is a mirror",
                "a host that is no mirror, or localhost: nothing a mirror says of itself counts",
            )
        if vantage and vantage != "localhost" and vantage not in self.all_hosts:
            hint = v.did_you_mean(vantage, self.all_hosts)
            report.add(
                "fleet_vantage_host",
                f"names {v.shown(vantage)}, which is no host",
                "a host of the inventory, or localhost",
                hint,
            )

    def _check_keys(self, host: str, found: HostValues) -> None:
        """Unknown keys: every mirror_ and origin_ key is ours; of fleet_ keys only what looks like a slip."""
        report = self.reports[host]
        for prefix, known in (("mirror_", MIRROR), ("origin_", ORIGIN)):
            for key in sorted(key for key in found.values if key.startswith(prefix) and key not in known):
                if prefix == "origin_" and not v.did_you_mean(key, known):
                    continue  # another input of the origin role
                report.add(key, "is no known key", ", ".join(known), v.did_you_mean(key, known))
        for key in sorted(key for key in found.values if key.startswith("fleet_") and key not in FLEET):
            if hint := v.did_you_mean(key, FLEET):
                report.add(key, "is no known key", ", ".join(FLEET), hint)

    def _check_mirror(self, host: str, found: HostValues, record: dict[str, Any]) -> None:
        report = self.reports[host]
        if not any(key.startswith("mirror_") for key in [*found.values, *found.unreadable]):
            report.add(
                "mirror_mode",
                "the host is in the group mirrors and has no record",
                "a file host_vars/HOST.yml for every mirror",
                f"write host_vars/{host}.yml, or take {host} out of the group",
            )
            return
        for key, allowed in MIRROR_REQUIRED.items():
            if key not in found.values and key not in found.unreadable:
                report.add(key, "is missing", allowed, f"add {key} to host_vars/{host}.yml")
        mode = record.get("mirror_mode")
        if mode == "bandersnatch" and not {"mirror_selection", "fleet_selection"} & found.values.keys():
            report.add(
                "mirror_selection",
                "is missing, and so is fleet_selection: nothing would be selected",
                "projects: [names], or everything: true",
                f"add mirror_selection to host_vars/{host}.yml or fleet_selection to group_vars/all",
            )
        if mode == "rsync" and "mirror_upstream" not in found.values:
            report.add(
                "mirror_upstream",
                "is missing",
                "the inventory name of an origin or of a mirror that has files of its own (mode rsync)",
            )
        if mode == "cache" and record.get("mirror_on_miss") == "not_found":
            report.add(
                "mirror_on_miss",
                "is 'not_found' for a cache, which would then serve nothing",
                "pass (mode cache)",
            )
        if record.get("mirror_state") != "retired" and record.get("mirror_agreement"):
            self._check_agreement(host, record)

    def _check_agreement(self, host: str, record: dict[str, Any]) -> None:
        report, agreement = self.standing[host], record["mirror_agreement"]
        wanted = record.get("fleet_agreement_version")
        if wanted and agreement.get("version") and agreement["version"] != wanted:
            report.add(
                "mirror_agreement.version",
                f"is {v.shown(agreement['version'])}, an agreement that is not the fleet's",
                v.shown(wanted),
                "ask the operator to accept the fleet's agreement (fleet_agreement_version)",
            )
        if self.today is None:
            return
        if (agreement.get("accepted_on") or "") > self.today:
            report.add(
                "mirror_agreement.accepted_on",
                f"lies in the future ({agreement['accepted_on']})",
                f"up to {self.today}",
            )
        if (agreement.get("expires_on") or self.today) < self.today:
            report.add(
                "mirror_agreement.expires_on",
                f"has passed ({agreement['expires_on']})",
                f"from {self.today} on",
                "ask the operator to renew, or set mirror_state: retired",
            )

    def _check_groups(self, groups: dict[str, list[str]]) -> None:
        for host in self.hosts:
            report, of = self.reports[host], self.of[host]
            if not of:
                others = [name for name, members in groups.items() if host in members]
                hints = [hint for hint in (v.did_you_mean(name, GROUPS) for name in others) if hint]
                report.add(
                    "groups", "the host is in none of the fleet's groups", ", ".join(GROUPS), " ".join(hints)
                )
            for other in ("origins", "redirectors", "monitors"):
                if {"mirrors", other} <= of:
                    report.add(
                        "groups",
                        f"the host is in mirrors and in {other}",
                        f"a mirror is not one of the {other}",
                        f"the fleet trusts its {other}, mirrors it checks: use another host",
                    )
            if "mirrors" not in of and "mirror_mode" in self.inventory[host].values:
                report.add(
                    "mirror_mode",
                    "the host has a mirror's record but is not in the group mirrors",
                    "hosts of the group mirrors",
                )

    def _mirrors(self) -> list[str]:
        return [host for host in self.hosts if "mirrors" in self.of[host]]

    def _urls(self, host: str) -> list[str]:
        record = self.records[host]
        return [*(record.get("mirror_url") or []), *(record.get("origin_url") or [])]

    def _check_uniqueness(self) -> None:
        for host in self.hosts:
            for url in self._urls(host):
                if self.owners[url] != host:
                    key = "mirror_url" if "mirrors" in self.of[host] else "origin_url"
                    self.reports[host].add(
                        key, f"{url} is {self.owners[url]}'s as well", "a name that no other host has"
                    )
        by_folded: dict[str, str] = {}
        for host in self.hosts:
            if host.lower() in by_folded:
                self.reports[host].add(
                    "inventory_hostname",
                    f"differs from {by_folded[host.lower()]} only in case",
                    "a name of its own",
                )
            by_folded.setdefault(host.lower(), host)

    def upstream_host(self, host: str) -> str | None:
        """The host of this inventory that feeds the host, if one does."""
        named = self.records[host].get("mirror_upstream")
        if not named:
            return None
        if "://" in named:
            return self.owners.get(named)
        return str(named) if named in self.all_hosts else None

    def _check_upstreams(self) -> None:
        for host in self._mirrors():
            report, record = self.reports[host], self.records[host]
            named = record.get("mirror_upstream")
            if not named:
                continue
            feeder = self.upstream_host(host)
            allowed = "a URL, or the inventory name of an origin or of a mirror of mode bandersnatch or rsync"
            if feeder is None:
                if "://" not in named:
                    near = v.did_you_mean(named, [*self.groups["mirrors"], *self.groups["origins"]])
                    report.add(
                        "mirror_upstream",
                        f"names {v.shown(named)}, which is no host of the inventory",
                        allowed,
                        near,
                    )
                elif record.get("mirror_mode") == "rsync":
                    report.add(
                        "mirror_upstream",
                        "is the URL of a host outside this inventory (mode rsync)",
                        "an inventory name",
                    )
                continue
            mode = self.records[feeder].get("mirror_mode")
            if "origins" not in self.of[feeder] and mode not in TREE_MODES:
                what = f"of mode {mode}" if "mirrors" in self.of[feeder] else "neither mirror nor origin"
                report.add(
                    "mirror_upstream", f"is {feeder}, which has no files of its own to give ({what})", allowed
                )
            elif self.records[feeder].get("mirror_state") == "retired":
                report.add(
                    "mirror_upstream", f"is {feeder}, which is retired", "an upstream that still serves"
                )
            circle = self._circle(host)
            if circle:
                report.add(
                    "mirror_upstream",
                    f"runs in a circle: {' <- '.join(circle)}",
                    "a chain that ends at an index or origin",
                )

    def _circle(self, host: str) -> list[str]:
        seen = [host]
        while (feeder := self.upstream_host(seen[-1])) is not None:
            if feeder == host:
                return [*seen, host]
            if feeder in seen:
                return []  # told at the hosts that form it
            seen.append(feeder)
        return []

    def _carried(self, host: str) -> set[str] | None:
        """The projects that a host carries by name; None when it carries everything, or what it is asked for."""
        record = self.records[host]
        if "origins" in self.of[host]:
            return set(record.get("origin_projects") or []) or None
        chosen = record.get("mirror_selection") or record.get("fleet_selection") or {}
        if record.get("mirror_mode") != "bandersnatch" or not chosen.get("projects"):
            return None
        return set(chosen["projects"])

    def _check_projects(self) -> None:
        """What a mirror is to carry, its upstream must have; and it must carry what the gate installs."""
        for host in self._mirrors():
            wanted, record = self._carried(host), self.records[host]
            if wanted is None or record.get("mirror_state") == "retired":
                continue
            key = "mirror_selection" if "mirror_selection" in record else "fleet_selection"
            feeder = self.upstream_host(host)
            offered = self._carried(feeder) if feeder else None
            if offered is not None and wanted - offered:
                self.reports[host].add(
                    key,
                    f"names {', '.join(sorted(wanted - offered)[:5])}, which its upstream {feeder} does not carry",
                    "projects of the upstream",
                    f"take them off, or add them to {feeder}",
                )
            gate = record.get("fleet_gate_project")
            if gate and gate not in wanted:
                self.reports[host].add(
                    key,
                    f"lacks {gate}, which is installed through each mirror before it is listed",
                    "a selection with fleet_gate_project in it",
                    f"add {gate}, or choose a fleet_gate_project that every mirror carries",
                )

    def tier(self, host: str) -> int:
        """How many syncs a host is away from the index: an origin 0, what feeds from it or from outside 1."""
        if "origins" in self.of[host]:
            return 0
        feeder = self.upstream_host(host)
        return 1 if feeder is None else 1 + self.tier(feeder)

    def raise_if_wrong(self, *hosts: str) -> None:
        """Refuse to go on with a record that has problems."""
        joined = Report(", ".join(hosts))
        for host in hosts:
            joined.problems += self.reports[host].problems
        joined.raise_if_any()


def inventory_problems(
    hostvars: Inventory,
    groups: dict[str, list[str]],
    today: str,
    role_inputs: dict[str, list[str]] | None = None,
) -> list[dict[str, str]]:
    fleet = Fleet(hostvars, groups, v.date(today))
    for host in fleet.all_hosts:
        for role, inputs in sorted((role_inputs or {}).items()):
            for key in sorted(fleet.inventory[host].values):
                if key.startswith(f"{role}_") and key not in inputs and key not in TLS | ORIGIN:
                    fleet.reports[host].add(
                        key, f"is no input of the role {role}", ", ".join(inputs), v.did_you_mean(key, inputs)
                    )
    for group, kind in (("mirrors", "mirror"), ("redirectors", "redirector")):
        if not fleet.groups[group]:
            fleet.reports.setdefault("all", Report("all")).add(
                "groups",
                f"the group {group} is empty",
                f"at least one {kind}",
                f"add a host to the group {group}",
            )
    return fleet.problems()


PATHS = {
    "fetched": "/srv/mirror/fetched",
    "served": "/srv/mirror/served",
    "state": "/var/lib/mirrorfleet",
    "metrics": "/var/lib/prometheus/node-exporter/mirrorfleet.prom",
    "certificate": "/etc/mirrorfleet/tls/fullchain.pem",
}
SETTINGS: dict[str, tuple[Check, Any]] = {
    "minimum_free_bytes": (v.whole(0, 2**60), 1024**3),
    "maximum_shrink_share": (v.number(0, 1), 0.2),
    "tries_before_set_aside": (v.whole(1, 1000), 3),
    "check_share_per_day": (v.number(0, 1), 0.02),
}


def mirror_config(
    host: str,
    hostvars: Inventory,
    groups: dict[str, list[str]],
    discovered: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
) -> dict[str, Any]:
    if host not in [*groups.get("mirrors", []), *groups.get("origins", [])]:
        raise BadValueError(
            f"{v.shown(host)} is neither mirror nor origin", "a host of the groups mirrors and origins"
        )
    fleet = Fleet(hostvars, groups, only=host)
    fleet.raise_if_wrong(host)
    record = fleet.records[host]
    report = Report(host)
    for name in (settings or {}).keys() - SETTINGS.keys():
        report.add(name, "is no known setting", ", ".join(SETTINGS), v.did_you_mean(name, SETTINGS))
    tuned = {
        name: report.try_check(name, check, (settings or {}).get(name, default))
        for name, (check, default) in SETTINGS.items()
    }
    is_origin = host in fleet.groups["origins"]
    mode = "origin" if is_origin else record["mirror_mode"]
    site, index = _upstream_of(host, fleet, discovered, report)
    chosen = _selection_of(record, mode, report)
    report.raise_if_any()
    config = {
        "schema": 1,
        "name": host,
        "mode": mode,
        "url": record["origin_url" if is_origin else "mirror_url"][0],
        "upstream": site,
        "index_url": index,
        "selection": chosen,
        "paths": dict(PATHS),
        "bandersnatch": {
            "program": "/opt/bandersnatch/current/bin/bandersnatch",
            "config": "/etc/mirrorfleet/bandersnatch.conf",
        },
        **tuned,
    }
    if mode == "rsync":
        config["rsync"] = {"source": f"rsync://{site.split('://', 1)[1].split(':')[0]}/mirror"}
    return config


def _selection_of(record: dict[str, Any], mode: str, report: Report) -> dict[str, Any]:
    """What a host carries. Only a cache, and a tier-2 that takes what its tier-1 has, may leave it open."""
    if mode == "origin":
        projects = record.get("origin_projects")
        chosen = projects and {"projects": projects, "releases_kept": record.get("origin_releases_kept")}
        key, allowed = "origin_projects", "a list of project names"
    else:
        chosen = record.get("mirror_selection") or record.get("fleet_selection")
        key, allowed = (
            "mirror_selection",
            "projects: [names], or everything: true (or fleet_selection for all)",
        )
    if not chosen and mode in {"origin", "bandersnatch"}:
        report.add(key, "is missing: nothing would be selected", allowed)
    return SELECTION_DEFAULTS | (chosen or {})


def _upstream_of(
    host: str, fleet: Fleet, discovered: dict[str, Any] | None, report: Report
) -> tuple[str, str]:
    """The upstream's site and index page: as named, else as discovered."""
    record = fleet.records[host]
    named = record.get("mirror_upstream") or record.get("origin_upstream")
    feeder = fleet.upstream_host(host)
    if feeder is not None:
        fleet.raise_if_wrong(feeder)
        named = fleet._urls(feeder)[0]
    if named:
        return named, f"{named}/simple/"
    index = (discovered or {}).get("index_url")
    if not index:
        report.add(
            "mirror_upstream",
            "is not given, and no upstream was discovered",
            "a URL or an inventory name",
            f"name mirror_upstream for {host}, or run upstream_probe first and pass its result",
        )
        return "", ""
    checked = report.try_check(
        "discovered index_url", lambda value: v.url(value, schemes=("https", "http"), path=True), index
    )
    if checked is None:
        return "", ""
    site = checked.removesuffix("/simple")
    if site == checked and record.get("mirror_mode") == "bandersnatch":
        report.add(
            "mirror_upstream",
            f"the discovered index {checked} does not end in /simple/, which bandersnatch needs",
            "an index at SITE/simple/",
            "name another mirror_upstream, or use mirror_mode: cache",
        )
    return site, f"{checked}/"


def rsync_clients(host: str, hostvars: Inventory, groups: dict[str, list[str]]) -> list[str]:
    fleet = Fleet(hostvars, groups)
    fed = [
        mirror
        for mirror in sorted(fleet.groups["mirrors"])
        if fleet.records[mirror].get("mirror_mode") == "rsync"
        and fleet.records[mirror].get("mirror_state") != "retired"
        and fleet.upstream_host(mirror) == host
    ]
    fleet.raise_if_wrong(*fed)
    return fed


def _chosen(record: dict[str, Any]) -> dict[str, Any]:
    """A mirror's own selection, or else the fleet's."""
    chosen: dict[str, Any] = (
        record.get("mirror_selection") or record.get("fleet_selection") or SELECTION_DEFAULTS
    )
    return chosen


def common_projects(hostvars: Inventory, groups: dict[str, list[str]]) -> list[str]:
    fleet = Fleet(hostvars, groups)
    mirrors, origins = sorted(fleet.groups["mirrors"]), sorted(fleet.groups["origins"])
    fleet.raise_if_wrong(*mirrors, *origins)
    named = [set(fleet.records[origin]["origin_projects"]) for origin in origins[:1]]
    for mirror in mirrors:
        record = fleet.records[mirror]
        chosen = _chosen(record)
        # A tier-2 has what its tier-1 has, a cache what upstream has.
        if record["mirror_mode"] == "bandersnatch" and not chosen["everything"]:
            named.append(set(chosen["projects"]))
    return sorted(set.intersection(*named)) if named else []


def fleet_registry(hostvars: Inventory, groups: dict[str, list[str]]) -> dict[str, Any]:
    fleet = Fleet(hostvars, groups)
    mirrors = sorted(fleet.groups["mirrors"])
    fleet.raise_if_wrong(*mirrors, *fleet.groups["origins"])
    shared = fleet.records[(mirrors or fleet.hosts)[0]] if fleet.hosts else {}
    return {
        "schema": 1,
        "fleet": {
            "name": shared.get("fleet_name", ""),
            "coordinator": _public(shared.get("fleet_coordinator", {})),
            "agreement_version": shared.get("fleet_agreement_version", ""),
            "staleness_limit": shared.get("fleet_staleness_limit", 86400),
        },
        "origins": [
            {"name": host, "url": fleet.records[host]["origin_url"][0]}
            for host in sorted(fleet.groups["origins"])
        ],
        "mirrors": [_entry(host, fleet) for host in mirrors],
    }


def _entry(host: str, fleet: Fleet) -> dict[str, Any]:
    record = MIRROR_DEFAULTS | fleet.records[host]
    return {
        "name": host,
        "url": record["mirror_url"][0],
        "urls": record["mirror_url"],
        "mode": record["mirror_mode"],
        "tier": fleet.tier(host),
        "projects": None if (carried := _carried(host, fleet)) is None else len(carried),
        "partial": _is_partial(host, fleet),
        "on_miss": record.get("mirror_on_miss", "pass" if record["mirror_mode"] == "cache" else "not_found"),
        "state": record["mirror_state"],
        "upstream": fleet.upstream_host(host) or record.get("mirror_upstream"),
        "location": record["mirror_location"],
        "networks": record["mirror_networks"],
        "bandwidth": record["mirror_bandwidth"],
        "address_families": sorted(record["mirror_address_families"]),
        "operator": _public(record["mirror_operator"]),
        "agreement": {
            key: record["mirror_agreement"].get(key) for key in ("version", "accepted_on", "expires_on")
        },
    }


def _carried(host: str, fleet: Fleet) -> set[str] | None:
    """The projects that it selects; None when no list of names bounds it."""
    record, above = fleet.records[host], fleet.upstream_host(host)
    if record["mirror_mode"] == "cache":
        return None
    chosen = _chosen(record)
    own = None if chosen["everything"] else set(chosen["projects"]) or None
    if record["mirror_mode"] != "rsync":
        return own
    offered = None  # what the tier above has is all that there is
    if above in fleet.groups["origins"]:
        offered = set(fleet.records[str(above)].get("origin_projects", [])) or None
    elif above in fleet.groups["mirrors"]:
        offered = _carried(str(above), fleet)
    return offered if own is None else own if offered is None else own & offered


def _is_partial(host: str, fleet: Fleet) -> bool:
    """Whether it carries a part of each project's files only; a tier-2 carries what the tier above does."""
    record, above = fleet.records[host], fleet.upstream_host(host)
    if record["mirror_mode"] != "bandersnatch":
        return above in fleet.groups["mirrors"] and _is_partial(str(above), fleet)
    chosen = _chosen(record)
    return any(chosen[key] for key in ("releases_kept", "platforms_excluded", "max_project_size"))


def _public(person: dict[str, Any]) -> dict[str, Any]:
    return {key: person[key] for key in PUBLIC_PERSON if key in person}


def _reached(person: dict[str, Any]) -> dict[str, Any]:
    """How somebody is told of an alert."""
    return {"email": person.get("email"), "webhook": person.get("webhook")}


def fleet_contacts(hostvars: Inventory, groups: dict[str, list[str]]) -> dict[str, Any]:
    fleet = Fleet(hostvars, groups)
    mirrors = sorted(fleet.groups["mirrors"])
    fleet.raise_if_wrong(*mirrors)
    shared = fleet.records[(mirrors or fleet.hosts)[0]] if fleet.hosts else {}
    return {
        "fleet": shared.get("fleet_name", ""),
        "relay": shared.get("fleet_mail_relay") or {},
        "coordinator": _reached(shared.get("fleet_coordinator", {})),
        "mirrors": [
            {
                "name": host,
                **_reached(fleet.records[host]["mirror_operator"]),
                "maintenance": [
                    {key: one if key == "reason" else one.isoformat() for key, one in window.items()}
                    for window in fleet.records[host].get("mirror_maintenance") or []
                ],
            }
            for host in mirrors
            if fleet.records[host].get("mirror_state") != "retired"
        ],
    }


class FilterModule:
    """Filters from the inventory to what hosts and programs are given."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "common_projects": as_filter(common_projects),
            "inventory_problems": as_filter(inventory_problems),
            "mirror_config": as_filter(mirror_config),
            "fleet_registry": as_filter(fleet_registry),
            "fleet_contacts": as_filter(fleet_contacts),
            "rsync_clients": as_filter(rsync_clients),
        }
