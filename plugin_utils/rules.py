"""The fleet: what its file and its records say together, computed once, and everything that is wrong with it.

A record that is wrong stops its own mirror: it becomes no host. A mirror that is fed from one that cannot feed it now
waits: it is a host, and keeps the configuration that it has. What is wrong with the fleet's own file stops the run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from plugin_utils import contract
from plugin_utils import values as v
from plugin_utils.documents import Document, Place, UnreadableError
from plugin_utils.values import Report

SECTIONS = ("origins", "redirectors", "monitors", "clients")
KINDS = ("mirror", *(section.removesuffix("s") for section in SECTIONS))
# With a tree of their own, which others can be fed from.
TREE_MODES = ("bandersnatch", "rsync")
GROUPS = (
    "all",
    "ungrouped",
    "fleet",
    "mirrors",
    "sites",
    "indexes",
    "trees",
    *SECTIONS,
    "retired",
    "waiting",
)
# Names that mean something to Ansible, or are groups here.
RESERVED = {*GROUPS, "localhost", "fleets", "mirror"}
RECORD_DEFAULTS: dict[str, Any] = {
    key: shape["default"] for key, shape in contract.keys(contract.RECORD).items() if "default" in shape
}
FLEET_DEFAULTS: dict[str, Any] = {
    key: shape["default"] for key, shape in contract.keys(contract.FLEET).items() if "default" in shape
}
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?")


class Fleet:
    """A fleet as its files describe it. `problems` are of all files; each says its host, file, line and key."""

    def __init__(
        self,
        fleet: Document,
        records: Mapping[str, Document | UnreadableError],
        today: str | None = None,
    ) -> None:
        self.today = today
        self.reports: dict[str, Report] = {"all": Report("all", fleet)}
        # Told, and stops nothing: an agreement that has lapsed keeps a mirror off the list (mirrorfleet list).
        self.standing: dict[str, Report] = {}
        self.waits: dict[str, Report] = {}
        self.follows: dict[str, Report] = {}  # what follows from another record's problems
        self.shared = FLEET_DEFAULTS | contract.fleet(fleet.values, self.reports["all"])
        self.groups: dict[str, list[str]] = {"mirrors": []}
        self.records: dict[str, dict[str, Any]] = {}
        self.owners: dict[str, str] = {}  # of a public URL
        for section in SECTIONS:
            self._take_section(section, fleet.values.get(section))
        # Redirectors that send clients to mirrors, too; and those whose pages and files are of a tree of their own.
        self.groups["indexes"] = [name for name in self.groups["redirectors"] if self.index_urls(name)]
        self.groups["trees"] = [name for name in self.groups["indexes"] if self.mode(name) in TREE_MODES]
        for name, document in records.items():
            self._take_record(name, document)
        self._own_urls()
        for name in list(self.groups["mirrors"]):
            self._check_agreement(name)
            self._check_upstream(name)
        self._check_circles()
        for name in self.groups["redirectors"]:
            self._check_redirector(name)
        for name in [*self.groups["mirrors"], *self.groups["trees"]]:
            self._check_projects(name)
        self._check_fleet(records)
        self._name_hosts(fleet.values)
        self.broken = sorted(
            name for name, report in self.reports.items() if name in records and report.problems
        )
        self.groups["mirrors"] = [name for name in self.groups["mirrors"] if name not in self.broken]
        self._fed: dict[str, list[str]] = {}
        self._find_waiting()

    # ------------------------------------------------------------------------------------------------ what is asked
    @property
    def hosts(self) -> list[str]:
        return sorted({name for members in self.groups.values() for name in members})

    def of(self, name: str) -> set[str]:
        """The groups of a host."""
        return {group for group, members in self.groups.items() if name in members}

    def problems(self) -> list[dict[str, Any]]:
        """All that is wrong, of all files."""
        reports = [*self.reports.values(), *self.standing.values(), *self.waits.values()]
        return _once(problem for report in reports for problem in report.problems)

    def fatal(self) -> list[dict[str, Any]]:
        """What no run can do with: problems of the fleet's own file."""
        return _once(self.reports["all"].problems)

    def stopped(self) -> list[dict[str, Any]]:
        """What keeps mirrors from being hosts, and hosts waiting."""
        reports = [
            *(self.reports[name] for name in self.broken),
            *self.waits.values(),
            *self.follows.values(),
        ]
        return _once(problem for report in reports for problem in report.problems)

    def urls(self, name: str) -> list[str]:
        """Public URLs of a host, the one it is known by first."""
        record = self.records[name]
        return next(
            (
                record[key]
                for key in ("mirror_url", "origin_url", "redirector_url", "monitor_url")
                if key in record
            ),
            [],
        )

    def index_urls(self, name: str) -> list[str]:
        """Public URLs of the index for the whole fleet, on a redirector that has one."""
        return list(self.records[name].get("redirector_index_url") or [])

    def addresses(self, name: str) -> list[str]:
        """Names or addresses at which others reach a host."""
        return list(self.said(name, "address") or [host_of(url) for url in self.urls(name)[:1]] or [name])

    def said(self, name: str, key: str) -> Any:
        """What a host's record says under a key that every kind of host may have: mirror_KEY, origin_KEY and so on."""
        record = self.records[name]
        return next((record[f"{kind}_{key}"] for kind in KINDS if f"{kind}_{key}" in record), None)

    def filled(self, name: str, key: str) -> Any:
        """What the record of a mirror, or of a redirector with an index, says of what fills it."""
        record = self.records[name]
        return record.get(f"mirror_{key}", record.get(f"redirector_{key}"))

    def mode(self, name: str) -> str:
        """By what a host is filled, if it is a mirror or an index; a redirector that says nothing is a cache."""
        return str(self.filled(name, "mode") or ("cache" if name in self.groups["redirectors"] else ""))

    def feeder(self, name: str) -> str | None:
        """The host of this fleet that a mirror, or a redirector with a tree, is fed from, if one is."""
        named = self.filled(name, "upstream")
        if not named:
            return None
        if "://" in named:
            return self.owners.get(named)
        return str(named) if named in self.records else None

    def tier(self, name: str) -> int:
        """How many syncs a host is away from the index: an origin 0, what feeds from it or from outside 1."""
        tier, seen = 0, set()
        while name in self.records and name not in self.groups["origins"] and name not in seen:
            seen.add(name)
            tier += 1
            name = self.feeder(name) or ""
        return tier

    def fed_by(self, name: str) -> list[str]:
        """The mirrors and redirectors that are fed from a host."""
        return self._fed.get(name, [])

    def selection(self, name: str) -> dict[str, Any]:
        """A mirror's or redirector's own selection, or else the fleet's."""
        chosen: dict[str, Any] = (
            self.filled(name, "selection")
            or self.shared.get("fleet_selection")
            or contract.SELECTION_DEFAULTS
        )
        return chosen

    def carried(self, name: str) -> set[str] | None:
        """The projects that a host selects; None when no list of names bounds it."""
        record = self.records[name]
        if name in self.groups["origins"]:
            return set(record.get("origin_projects") or []) or None
        if self.mode(name) not in TREE_MODES:
            return None
        chosen, above = self.selection(name), self.feeder(name)
        own = None if chosen["everything"] else set(chosen["projects"]) or None
        if self.mode(name) != "rsync" or above is None:
            return own
        offered = self.carried(above)  # what the tier above has is all that there is
        return offered if own is None else own if offered is None else own & offered

    def left_out(self, name: str) -> dict[str, Any]:
        """By which keys of a selection it lacks files of projects; a tier-2 carries what the tier above does."""
        if self.mode(name) != "bandersnatch":
            above = self.feeder(name)
            return self.left_out(above) if above is not None and above not in self.groups["origins"] else {}
        chosen = self.selection(name)
        keys = ("releases_kept", "platforms_excluded", "max_project_size")
        return {key: chosen[key] for key in keys if chosen[key]}

    def is_partial(self, name: str) -> bool:
        """Whether it carries a part of each project's files only."""
        return bool(self.left_out(name))

    # -------------------------------------------------------------------------------------------- what the files say
    def _take_section(self, section: str, given: Any) -> None:
        """The hosts of a section. One that is wrong keeps its name, so that its records' problems stand alone."""
        right = self.shared.get(section) or {}
        names = list(given) if isinstance(given, dict) else []
        self.groups[section] = names
        for name in names:
            report = self.reports["all"]
            self._check_name(name, report, f"{section}.{name}")
            # Of a host in two sections, the second says more of it and takes nothing back.
            self.records[name] = self._tls_defaults() | self.records.get(name, {}) | right.get(name, {})
            for other in SECTIONS:
                if other == section:
                    break
                if name in self.groups[other] and {other, section} != {"redirectors", "monitors"}:
                    report.add(
                        f"{section}.{name}",
                        f"is one of the {other} as well",
                        "a host in one section; only redirectors may be monitors, too",
                        "use another host",
                        (section, name),
                    )

    def _tls_defaults(self) -> dict[str, Any]:
        defaults = RECORD_DEFAULTS | self.shared.get("defaults", {})
        return {key: value for key, value in defaults.items() if key.startswith("tls_")}

    def _check_name(self, name: str, report: Report, key: str) -> None:
        allowed = "lower-case letters, digits, and . _ - between them"
        if len(name) > 200 or not _NAME.fullmatch(name):
            plain = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("._-")
            free = _NAME.fullmatch(plain) and plain not in {*RESERVED, *self.reports, *self.records}
            next_step = f"rename it to {plain}" if free and len(plain) <= 200 else "rename it"
            report.add(
                key, f"{v.shown(name)} is no name for a host", allowed, next_step, tuple(key.split(".", 1))
            )
        elif name in RESERVED or re.fullmatch(r"[0-9.]+", name):
            report.add(
                key,
                f"{v.shown(name)} is no name for a host: it means something else",
                allowed,
                "choose another name",
            )

    def _take_record(self, name: str, document: Document | UnreadableError) -> None:
        if isinstance(document, UnreadableError):
            report = self.reports[name] = Report(name)
            report.problems.append(document.told(name, f"mirrors/{name}.yml"))
            return
        report = self.reports[name] = Report(name, document)
        found = contract.record(document.values, report)
        self._check_name(name, report, "name")
        if any(problem["key"] == "name" for problem in report.problems):
            return
        for section in SECTIONS:
            if name in self.groups[section]:
                report.add(
                    "name",
                    f"{name} is one of the {section}",
                    f"a mirror is not one of the {section}",
                    f"the fleet trusts its {section}, mirrors it checks: use another host",
                )
                return
        self.records[name] = RECORD_DEFAULTS | self.shared.get("defaults", {}) | found
        self.groups["mirrors"].append(name)
        self._check_record(self.records[name], document.values, report)

    def _check_record(self, record: dict[str, Any], given: dict[str, Any], report: Report) -> None:
        mode = record.get("mirror_mode")
        if (
            mode == "bandersnatch"
            and "mirror_selection" not in given
            and "fleet_selection" not in self.shared
        ):
            report.add(
                "mirror_selection",
                "is missing, and so is fleet_selection: nothing would be selected",
                "projects: [names], or everything: true",
                f"add mirror_selection to {report.document.file} or fleet_selection to fleet.yml",
            )
        if mode == "rsync" and not (record.get("mirror_upstream") or "mirror_upstream" in given):
            report.add(
                "mirror_upstream",
                "is missing",
                "the inventory name of an origin or of a mirror that has files of its own (mode rsync)",
            )
        if mode == "cache" and given.get("mirror_on_miss") == "not_found":
            report.add(
                "mirror_on_miss",
                "is 'not_found' for a cache, which would then serve nothing",
                "pass (mode cache)",
            )

    def _check_agreement(self, name: str) -> None:
        record, report = self.records[name], Report(name, self.reports[name].document)
        agreement = record.get("mirror_agreement")
        if record.get("mirror_state") == "retired" or not agreement:
            return
        self.standing[name] = report
        wanted = self.shared.get("fleet_agreement_version")
        if wanted and agreement["version"] != wanted:
            report.add(
                "mirror_agreement.version",
                f"is {v.shown(agreement['version'])}, an agreement that is not the fleet's",
                v.shown(wanted),
                "ask the operator to accept the fleet's agreement (fleet_agreement_version)",
            )
        if self.today is None:
            return
        if agreement["accepted_on"] > self.today:
            report.add(
                "mirror_agreement.accepted_on",
                f"lies in the future ({agreement['accepted_on']})",
                f"up to {self.today}",
            )
        if agreement.get("expires_on", self.today) < self.today:
            report.add(
                "mirror_agreement.expires_on",
                f"has passed ({agreement['expires_on']})",
                f"from {self.today} on",
                "ask the operator to renew, or set mirror_state: retired",
            )

    # ---------------------------------------------------------------------------------------- what hosts ask of others
    def _own_urls(self) -> None:
        """Whose a public URL is. Two records with one URL: it is the fleet's own host's, else the one's that is named
        after it, else the first one's, so that a new record cannot take another mirror's name away."""

        def rank(name: str) -> tuple[bool, bool, str]:
            named = any(name in {host_of(url), host_of(url).partition(".")[0]} for url in self.urls(name))
            return name in self.groups["mirrors"], not named, name

        for name in sorted(self.records, key=rank):
            site = self.urls(name)
            for url in [*site, *self.index_urls(name)]:
                owner = self.owners.setdefault(url, name)
                if url in self.index_urls(name) and url in site:
                    self.reports["all"].add(
                        f"redirectors.{name}.redirector_index_url",
                        f"{url} is its redirector_url as well",
                        "a name of its own: the list and the index are two sites",
                        path=("redirectors", name, "redirector_index_url"),
                    )
                # Redirectors may share an index's name, as the addresses of all of them.
                if owner != name and url not in {*self.index_urls(name)} & {*self.index_urls(owner)}:
                    mirror = name in self.groups["mirrors"]
                    report = self.reports[name if mirror else "all"]
                    key = (
                        "mirror_url"
                        if mirror
                        else next(f"{s}.{name}" for s in SECTIONS if name in self.groups[s])
                    )
                    of = next(k for k, one in self.records[name].items() if k.endswith("_url") and url in one)
                    told = key if mirror else f"{key}.{of}"
                    report.add(told, f"{url} is {owner}'s as well", "a name that no other host has")

    def _check_upstream(self, name: str) -> None:
        record, report = self.records[name], self.reports[name]
        named = record.get("mirror_upstream")
        if not named:
            return
        allowed = "a URL, or the inventory name of an origin or of a mirror of mode bandersnatch or rsync"
        feeder = self.feeder(name)
        if feeder is None:
            if "://" not in named and named not in self.reports:
                near = v.did_you_mean(named, self._could_feed(name))
                report.add(
                    "mirror_upstream",
                    f"names {v.shown(named)}, which is no host of the inventory",
                    allowed,
                    near,
                )
            elif "://" in named and record.get("mirror_mode") == "rsync":
                report.add(
                    "mirror_upstream",
                    "is the URL of a host outside this inventory (mode rsync)",
                    "an inventory name",
                )
        elif not self.of(feeder) & {"mirrors", "origins"}:
            what = "which has no files of its own to give (neither mirror nor origin)"
            report.add("mirror_upstream", f"is {feeder}, {what}", allowed)

    def _could_feed(self, name: str) -> list[str]:
        """The hosts that a mirror may be fed from."""
        mirrors = [
            one
            for one in self.groups["mirrors"]
            if self.records[one].get("mirror_mode") in TREE_MODES
            and self.records[one].get("mirror_state") != "retired"
            and not self.reports[one].problems
            and name not in self._chain(one)[0]
        ]
        return [*mirrors, *self.groups["origins"]]

    def _check_circles(self) -> None:
        for name in self.groups["mirrors"]:
            seen, feeder = self._chain(name)
            if feeder == name:
                self.reports[name].add(
                    "mirror_upstream",
                    f"runs in a circle: {' <- '.join([*seen, name])}",
                    "a chain that ends at an index or origin",
                )

    def _check_redirector(self, name: str) -> None:
        """What fills a redirector's index: a cache, or a tree from where the coordinator trusts what pages say."""
        record, report, mode = self.records[name], self.reports["all"], self.mode(name)

        def add(key: str, problem: str, allowed: str, next_step: str = "") -> None:
            path = ("redirectors", name, key) if key in record else ("redirectors", name)
            report.add(f"redirectors.{name}.{key}", problem, allowed, next_step, path)

        of_a_tree = ("redirector_upstream", "redirector_selection")
        said = [key for key in ("redirector_mode", *of_a_tree, "redirector_on_miss") if key in record]
        if name not in self.groups["indexes"]:
            for key in said:
                allowed = "only with redirector_index_url, whose pages and files it is about"
                add(key, "has no effect on a redirector without an index", allowed)
            return
        if mode not in TREE_MODES:
            for key in [key for key in of_a_tree if key in said]:
                allowed = f"only with redirector_mode: {' or '.join(TREE_MODES)}"
                add(key, "has no effect on a cache, which asks what mirrors are compared with", allowed)
            if record.get("redirector_on_miss") == "not_found":
                problem = "is 'not_found' for a cache, which would then serve nothing"
                add("redirector_on_miss", problem, "pass (mode cache)")
            return
        if mode == "bandersnatch" and not (
            record.get("redirector_selection") or "fleet_selection" in self.shared
        ):
            problem = "is missing, and so is fleet_selection: nothing would be selected"
            add("redirector_selection", problem, "projects: [names], or everything: true")
        named, feeder = record.get("redirector_upstream"), self.feeder(name)
        origins = "the inventory name of an origin" + ("" if mode == "rsync" else ", or the URL of an index")
        if feeder is not None and feeder not in self.groups["origins"]:
            problem = f"is {feeder}, {'a mirror' if feeder in self.groups['mirrors'] else 'no origin'}"
            next_step = (
                "who uses the index trusts its pages, and the fleet checks mirrors, it does not trust them"
            )
            add("redirector_upstream", problem, origins, next_step)
        elif named and "://" not in named and feeder is None:
            near = v.did_you_mean(named, self.groups["origins"])
            add(
                "redirector_upstream",
                f"names {v.shown(named)}, which is no host of the inventory",
                origins,
                near,
            )
        elif mode == "rsync" and feeder is None:
            problem = "is the URL of a host outside this inventory (mode rsync)" if named else "is missing"
            add("redirector_upstream", problem, origins)

    def _check_projects(self, name: str) -> None:
        """What a mirror or redirector is to carry, its upstream must have; and it must carry what the gate installs."""
        record, redirector = self.records[name], name in self.groups["trees"]
        if self.mode(name) != "bandersnatch" or record.get("mirror_state") == "retired":
            return
        if not redirector and self.reports[name].problems:  # what it selects may not be what it means to
            return
        own = self.filled(name, "selection") is not None
        report = self.reports[name if own and not redirector else "all"]
        key = "mirror_selection" if own else "fleet_selection"
        path: Place = ()
        if own and redirector:
            path = ("redirectors", name, "redirector_selection")
            key = ".".join(path)
        wanted = set(self.selection(name)["projects"])
        feeder = self.feeder(name)
        offered = self.carried(feeder) if feeder and self._chain(name)[1] is None else None
        if wanted and offered is not None and wanted - offered:
            # A mirror above that carries less than it did is no fault of this one's.
            told = self._wait(name) if feeder in self.groups["mirrors"] else report
            told.add(
                key,
                f"names {', '.join(sorted(wanted - offered)[:5])}, which its upstream {feeder} does not carry",
                "projects of the upstream",
                f"take them off, or add them to {feeder}",
                path,
            )
        gate = self.shared.get("fleet_gate_project")
        if wanted and gate and gate not in wanted:
            report.add(
                key,
                f"lacks {gate}, which is installed through each mirror before it is listed",
                "a selection with fleet_gate_project in it",
                f"add {gate}, or choose a fleet_gate_project that every mirror carries",
                path,
            )

    def _chain(self, name: str) -> tuple[list[str], str | None]:
        """Who feeds whom, from here up; and who would come next, where that is one of them again."""
        seen = [name]
        while (feeder := self.feeder(seen[-1])) is not None and feeder not in seen:
            seen.append(feeder)
        return seen, feeder

    def _check_fleet(self, records: Mapping[str, Any]) -> None:
        report = self.reports["all"]
        for section, kind, more in (
            ("redirectors", "redirector", ""),
            ("monitors", "monitor", "; a host that is a redirector may be the monitor, too: `NAME: {}`"),
        ):
            if not self.groups[section] and not any(p["key"] == section for p in report.problems):
                report.add(
                    section, "is empty", f"at least one {kind}", f"add a host to {section} in fleet.yml{more}"
                )
        if not records:
            report.add("mirrors", "the folder has no record", "at least one mirror", "write mirrors/NAME.yml")
        for name in self.groups["monitors"]:
            if name not in self.groups["redirectors"] and not self.urls(name):
                report.add(
                    f"monitors.{name}.monitor_url",
                    "is missing",
                    "https://NAME, where redirectors read what it found",
                    path=("monitors", name),
                )
        for name in self.records:
            self._check_acme(name)

    def _name_hosts(self, given: dict[str, Any]) -> None:
        """What is wrong with one host of fleet.yml is told as that host's."""
        prefixes = {
            f"{section}.{name}.": name
            for section in SECTIONS
            if isinstance(given.get(section), dict)
            for name in given[section]
        }
        for problem in self.reports["all"].problems:
            for prefix, name in prefixes.items():
                if problem["key"].startswith(prefix):
                    problem |= {"host": name, "key": problem["key"].removeprefix(prefix)}
                    break

    def _check_acme(self, name: str) -> None:
        """Half of an external account binding is a slip, wherever the other half may be."""
        record = self.records[name]
        pair = ("tls_acme_eab_key_id", "tls_acme_eab_hmac")
        if "tls_acme_eab_hmac" in record and "tls_acme_eab_key_id" not in record:
            self.reports[name if name in self.groups["mirrors"] else "all"].add(
                pair[0], "is missing", "the key id of the external account binding, with tls_acme_eab_hmac"
            )

    # ------------------------------------------------------------------------------------------------- who waits
    def _wait(self, name: str, reports: dict[str, Report] | None = None) -> Report:
        told = self.waits if reports is None else reports
        return told.setdefault(name, Report(name, self.reports[name].document))

    def _find_waiting(self) -> None:
        """Who is fed from a mirror that cannot feed it now, from the top down, and who feeds whom."""
        for name in self.groups["mirrors"]:
            record = self.records[name]
            named, feeder = record.get("mirror_upstream"), self.feeder(name)
            allowed = "an origin, or a mirror of mode bandersnatch or rsync that still serves"
            if feeder in self.broken or (feeder is None and named in self.broken):
                report = self._wait(name, self.follows)
                report.add("mirror_upstream", f"is {feeder or named}, whose record is wrong", allowed)
            elif feeder in self.groups["mirrors"]:
                above = self.records[feeder]
                if above.get("mirror_mode") not in TREE_MODES:
                    self._wait(name).add(
                        "mirror_upstream",
                        f"is {feeder}, which has no files of its own to give (of mode {above.get('mirror_mode')})",
                        allowed,
                    )
                elif above.get("mirror_state") == "retired":
                    self._wait(name).add("mirror_upstream", f"is {feeder}, which is retired", allowed)
        for name in [*self.groups["mirrors"], *self.groups["trees"]]:
            if (feeder := self.feeder(name)) is not None:
                self._fed.setdefault(feeder, []).append(name)
        self.groups["waiting"] = sorted(
            name for name in self.groups["mirrors"] if name in self.waits or name in self.follows
        )
        self.groups["retired"] = sorted(
            name for name in self.groups["mirrors"] if self.records[name]["mirror_state"] == "retired"
        )


def _once(problems: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({tuple(problem.values()): problem for problem in problems}.values())


def host_of(url: str) -> str:
    return url.split("://", 1)[1].split("/", maxsplit=1)[0].partition(":")[0]
