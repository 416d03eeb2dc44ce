"""From the fleet to the inputs of roles: data for each host (`fleet_inputs`), and variables of groups that hand it on.

Every input is wired on a group of which each host has what it names, and on one group only of those that a host can
be in. As variables of groups they lie below everything that a person sets in group_vars/ or host_vars/. TEMPLATES are
ours, and all that Ansible evaluates of what comes from the inventory plugin; the data that they name is not evaluated.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import yaml

from plugin_utils import contract
from plugin_utils.contacts import contacts
from plugin_utils.host_config import host_config
from plugin_utils.registry import measured, on_miss, registry
from plugin_utils.rules import Fleet, host_of

ROLES = Path(__file__).parents[1] / "roles"
HEALTH_FILE = "/var/lib/mirrorfleet/monitor/health.json"

# Groups beside those of the contract: all hosts of the fleet; those that serve documents, which may be both kinds.
CHILDREN = {
    "fleet": ("mirrors", "origins", "sites", "clients"),
    "sites": ("redirectors", "monitors"),
    "redirectors": ("indexes",),
    "indexes": ("trees",),
    "mirrors": ("retired", "waiting"),
}
# The roles of a group's hosts, for their packages: host_baseline installs them in one transaction.
ROLES_OF = {
    "fleet": ("tls",),
    "mirrors": ("nginx", "web_server", "sync_client", "rsync_server", "monitoring_agent"),
    "origins": ("nginx", "web_server", "origin", "rsync_server", "monitoring_agent"),
    "sites": ("nginx", "monitoring_agent"),
    "redirectors": ("redirector",),
    "indexes": ("route", "web_server"),
    "trees": ("sync_client",),
    "monitors": ("monitoring_server",),
}


def _defaults(role: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROLES / role / "defaults/main.yml").read_text("utf-8"))
    return found


def _packages(*roles: str) -> str:
    return "{{ fleet_inputs.packages + " + " + ".join(f"{role}_packages" for role in ("tls", *roles)) + " }}"


_CONFIG = {"__fleet_config": "{{ fleet_inputs.config | mirror_config(__fleet_upstream | default({})) }}"}
# Of whoever is filled by a sync: a mirror, or a redirector with a tree of its own.
_SYNC = {
    "sync_client_config": "{{ __fleet_config }}",
    "sync_client_mirrorfleet_version": "{{ fleet_versions.mirrorfleet }}",
    "sync_client_bandersnatch_version": "{{ fleet_versions.bandersnatch[__fleet_platform] }}",
}
_TREE: dict[str, str] = {
    **_CONFIG,
    "web_server_names": "{{ fleet_inputs.names }}",
    "nginx_version": (
        "{{ '*' if __fleet_any_nginx | default(false) else fleet_versions.nginx[__fleet_platform] }}"
    ),
    "web_server_bandwidth": "{{ fleet_inputs.bandwidth }}",
    # A tree is offered by rsync to the mirrors that name its host as their upstream, and to nobody else.
    "rsync_server_clients": "{{ fleet_inputs.rsync_clients }}",
}
# For who passes through what it lacks, from web_server_upstream_index.
_FROM_UPSTREAM: dict[str, str] = {
    # nginx asks its resolvers in turn, and the host itself the first: the others need not know the same names.
    "nginx_resolvers": "{{ ansible_facts.dns.nameservers[:1] }}",
    # Where upstream keeps its files, when that is another host than its index; preflight asked.
    "web_server_upstream_files": (
        "{{ ((__preflight_upstream | default({})).file_origins | default([])"
        " if web_server_on_miss == 'pass' else [])"
        " | reject('equalto', web_server_upstream_index | regex_search('^[^/]+//[^/]+'))"
        " | map('regex_replace', '$', '/') | first | default('') }}"
    ),
    # And where it sends who asks for them.
    "web_server_upstream_redirects": (
        "{{ ((__preflight_upstream | default({})).file_redirects | default([])"
        " if web_server_on_miss == 'pass' else [])"
        " | select('match', 'https://[A-Za-z0-9.-]+(:[0-9]+)?$') }}"
    ),
}
# The trusted index of a host that has one for the fleet: an origin's, or the one that the control node's pip uses.
_REFERENCE = (
    "{{ ((fleet_inputs.reference_url or __fleet_upstream.index_url)"
    " | regex_replace('/+(simple/*)?$', '')) ~ '/simple/' }}"
)
TEMPLATES: dict[str, dict[str, str]] = {
    "fleet": {
        **{
            key: f"{{{{ fleet_inputs.{key} }}}}"
            for key in contract.keys(contract.RECORD)
            if key.startswith("tls_")
        },
        "tls_names": "{{ fleet_inputs.names }}",
        # The fleet's own authority is on the control node, in the coordinator's private folder.
        # In group_vars/ a home is written as ~ as well.
        "tls_authority_dir": "{{ fleet_private_dir | default('') | expanduser }}/authority",
        "authority_dir": "{{ tls_authority_dir }}",
        "authority_name": "{{ fleet_name }} CA",
        "host_baseline_ca_certificates": (
            "{{ ([__fleet_authority] if __fleet_authority is file else []) + fleet_ca_certificates | default([]) }}"
        ),
        # Where its SSH server listens, and where the control node came in, as the host itself sees it.
        "host_baseline_ssh_ports": (
            "{{ (__preflight_host | default({})).ssh_ports"
            " | default([22, ansible_port | default(22) | int] | unique, true) }}"
        ),
        "host_baseline_other_firewall": "{{ fleet_inputs.other_firewall }}",
        "host_baseline_closing_chains": "{{ (__preflight_host | default({})).closing_chains | default([]) }}",
        "__fleet_platform": "debian-{{ ansible_facts.distribution_major_version }}",
        "__fleet_authority": "{{ tls_authority_dir }}/ca.pem",
        # On a monitor: what it sees of the mirrors whose records it is handed, without a trace.
        "__fleet_look": (
            "{{ ['timeout', '900', 'runuser', '--user', 'fleet-monitor', '--',"
            " '/opt/mirrorfleet/current/bin/mirrorfleet', 'probe', '--once', '--records', '-'] }}"
        ),
        # Where monitors reach the host. Names may lead elsewhere tomorrow; translated addresses are not its own.
        "monitoring_agent_addresses": (
            "{{ fleet_inputs.addresses if fleet_inputs.addresses"
            " | difference((__preflight_host | default({})).addresses | default([])) | length == 0 else [] }}"
        ),
        # HTTP/3 is QUIC, over UDP.
        "host_baseline_open_ports": "{{ fleet_inputs | fleet_ports(nginx_http3 | default(false)) }}",
    },
    "mirrors": {
        **_TREE,
        "host_baseline_packages": _packages(
            "nginx", "web_server", "sync_client", "rsync_server", "monitoring_agent"
        ),
        "nginx_address_families": "{{ fleet_inputs.address_families }}",
        "web_server_unlimited_networks": "{{ fleet_inputs.unlimited }}",
        "web_server_on_miss": "{{ fleet_inputs.on_miss }}",
        "web_server_upstream_index": "{{ __fleet_config.index_url if web_server_on_miss == 'pass' else '' }}",
        **_FROM_UPSTREAM,
        **_SYNC,
    },
    "origins": {
        **_TREE,
        "host_baseline_packages": _packages(
            "nginx", "web_server", "origin", "rsync_server", "monitoring_agent"
        ),
        "origin_config": "{{ __fleet_config }}",
        "origin_mirrorfleet_version": "{{ fleet_versions.mirrorfleet }}",
    },
    # Redirectors and monitors serve documents of the fleet's own; one host may be both.
    "sites": {
        "host_baseline_packages": (
            "{{ fleet_inputs.packages + tls_packages + nginx_packages + monitoring_agent_packages"
            " + (redirector_packages if 'redirectors' in group_names else [])"
            " + (route_packages + web_server_packages if 'indexes' in group_names else [])"
            " + (sync_client_packages if 'trees' in group_names else [])"
            " + (monitoring_server_packages if 'monitors' in group_names else []) }}"
        ),
        "document_server_names": "{{ fleet_inputs.site_names }}",
        "nginx_version": "{{ fleet_versions.nginx[__fleet_platform] }}",
        "document_server_paths": "{{ fleet_inputs.paths }}",
        "monitoring_agent_mirror": "{{ fleet_inputs.carries_a_tree }}",
    },
    "redirectors": {
        "redirector_public_url": "{{ fleet_inputs.urls[0] }}",
        "redirector_mirrorfleet_version": "{{ fleet_versions.mirrorfleet }}",
        "redirector_health": "{{ fleet_inputs.health }}",
        # What clients are to trust, where a host has its certificate from the fleet's own authority.
        "redirector_authority": (
            "{{ lookup('ansible.builtin.file', __fleet_authority)"
            " if fleet_inputs.own_authority and __fleet_authority is file else '' }}"
        ),
        "redirector_registry": "{{ fleet_registry }}",
    },
    # Redirectors from whose index clients are sent to mirrors. Pages, and what no mirror is to carry, come from a tree
    # of their own, or through a cache from the same trusted index that mirrors are compared with.
    "indexes": {
        "redirector_index": "{{ fleet_inputs.index_url }}",
        "route_mirrorfleet_version": "{{ fleet_versions.mirrorfleet }}",
        "route_health": "{{ fleet_inputs.health }}",
        "route_settings": "{{ {'settings': (redirector_settings | default({})).settings | default({})} }}",
        "web_server_names": "{{ fleet_inputs.index_names }}",
        # Said here, too: update.yml runs one of the two roles without the other.
        "web_server_routes": f"{{{{ route_output | default('{_defaults('route')['route_output']}') }}}}",
        # What a host that is a cache now had as a tree once is as old as it is.
        "web_server_served": "{{ '/srv/mirror/served' if 'trees' in group_names else '/srv/redirector/no-tree' }}",
        "web_server_on_miss": "{{ fleet_inputs.on_miss }}",
        "web_server_upstream_index": (
            f"{{{{ __fleet_config.index_url if 'trees' in group_names else {_REFERENCE[3:-3]} }}}}"
        ),
        **_FROM_UPSTREAM,
    },
    "trees": {**_CONFIG, **_SYNC},
    "monitors": {
        "monitoring_server_mirrorfleet_version": "{{ fleet_versions.mirrorfleet }}",
        "monitoring_server_registry": "{{ fleet_registry }}",
        # Apart from the registry, for it holds secrets.
        "monitoring_server_contacts": "{{ fleet_contacts | mailed_by(fleet_mail_relay | default({})) }}",
        # The trusted index that mirrors are compared with.
        "monitoring_server_reference_url": "{{ fleet_inputs.reference_url or __fleet_upstream.index_url }}",
        "monitoring_server_projects": "{{ [fleet_gate_project] }}",
        "monitoring_server_settings": (
            "{{ fleet_measured | combine({'private_networks': fleet_inputs.private_networks}, fleet_inputs.pace,"
            " fleet_monitor_settings, recursive=true) }}"
        ),
        "monitoring_server_nodes": "{{ fleet_inputs.nodes }}",
    },
    "clients": {
        # A host that uses the fleet as everybody does.
        "host_baseline_packages": "{{ fleet_inputs.packages }}",
    },
}


def concerns(role: str, groups: Collection[str]) -> bool:
    """Whether hosts of these groups are given a role, as far as it is one of some groups only."""
    of = [group for group, roles in ROLES_OF.items() if role in roles]
    return not of or any(group in groups for group in of)


@functools.cache
def package_templates() -> dict[str, dict[str, Any]]:
    """By group, what its roles install, from their own defaults: of all of them before any of them runs."""
    found: dict[str, dict[str, Any]] = {}
    for group, roles in ROLES_OF.items():
        for role in roles:
            defaults = _defaults(role)
            key = f"{role}_packages"
            if key in defaults and key not in TEMPLATES[group]:
                found.setdefault(group, {})[key] = defaults[key]
    return found


def shared(fleet: Fleet) -> dict[str, dict[str, Any]]:
    """Plain data that all hosts of a group share."""
    mirrors = [name for name in fleet.groups["mirrors"] if name not in fleet.groups["retired"]]
    sections = {"defaults", "plugin", "private_networks", "origins", "redirectors", "monitors", "clients"}
    return {
        "fleet": {
            **{key: value for key, value in fleet.shared.items() if key not in sections},
            "fleet_tiers": sorted({fleet.tier(name) for name in mirrors}),
            # The list as the world sees it, on every redirector.
            "fleet_list_urls": [
                f"{url}/mirrors.json" for name in fleet.groups["redirectors"] for url in fleet.urls(name)
            ],
        },
        # What speaks of all mirrors is not shown with each.
        "sites": {"fleet_registry": registry(fleet), "fleet_problems": fleet.problems()},
        "monitors": {"fleet_contacts": contacts(fleet), "fleet_measured": measured(fleet)},
    }


class Wiring:
    """The inputs of each host."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        groups = fleet.groups
        self.monitors = self._all(groups["monitors"])
        # Who comes to every mirror as a client, and often.
        self.regulars = self._all([*groups["monitors"], *groups["redirectors"]])
        sites = sorted({*groups["redirectors"], *groups["monitors"], *groups["origins"]})
        self.nodes = {name: fleet.addresses(name)[0] for name in sites}
        # What all hosts have alike needs no template of each.
        self.tls = [key for key in contract.keys(contract.RECORD) if key.startswith("tls_")]
        values = {key: [fleet.records[name].get(key, "") for name in fleet.hosts] for key in self.tls}
        self.alike = {
            key: found[0] for key, found in values.items() if found and found.count(found[0]) == len(found)
        }
        self.own_authority = any(
            record.get("tls_mode") == "private_ca"
            for name, record in fleet.records.items()
            if name not in groups["clients"]
        )
        self.reference_url = next((fleet.urls(name)[0] for name in groups["origins"]), "")

    def _all(self, names: Iterable[str]) -> list[str]:
        return sorted({address for name in names for address in self.fleet.addresses(name)})

    def inputs(self, name: str) -> dict[str, Any]:
        fleet, record, of = self.fleet, self.fleet.records[name], self.fleet.of(name)
        urls = fleet.urls(name)
        found: dict[str, Any] = {
            "urls": urls,
            "names": [host_of(url) for url in [*urls, *fleet.index_urls(name)]],
            "addresses": fleet.addresses(name),
            "monitors": self.monitors,
            "packages": ["curl", "python3-pip"] if "clients" in of else [],
            "open_ports": fleet.said(name, "open_ports") or [],
            "other_ports": fleet.said(name, "other_ports") or "",
            "other_firewall": fleet.said(name, "other_firewall") or "",
            **{key: record.get(key, "") for key in self.tls if key not in self.alike},
        }
        if of & {"mirrors", "origins"}:
            fed = [one for one in fleet.fed_by(name) if fleet.records[one].get("mirror_state") != "retired"]
            found["rsync_clients"] = self._all(one for one in fed if fleet.mode(one) == "rsync")
            found["bandwidth"] = record.get("mirror_bandwidth", 1000)
        if "mirrors" in of:
            found |= {
                "tier": fleet.tier(name),
                "on_miss": on_miss(fleet, name),
                "address_families": record["mirror_address_families"],
                "private_networks": fleet.shared["private_networks"],
                "unlimited": sorted({*self.regulars, *self._all(fed)}),
            }
        if of & {"mirrors", "origins", "trees"} and "waiting" not in of:
            found["config"] = host_config(fleet, name)
        if of & {"redirectors", "monitors"}:
            found |= {"carries_a_tree": "trees" in of, "paths": self._paths(of)}
            found["site_names"] = [host_of(url) for url in urls]
        if "redirectors" in of:
            found["health"] = [self._health(name, one) for one in fleet.groups["monitors"]]
            found["own_authority"] = self.own_authority
        if "indexes" in of:
            found["on_miss"] = on_miss(fleet, name)
            found["feeder"] = (
                fleet.feeder(name) if "trees" in of else next(iter(fleet.groups["origins"]), None)
            )
            found["index_url"] = f"{fleet.index_urls(name)[0]}/simple/"
            found["index_names"] = [host_of(url) for url in fleet.index_urls(name)]
            # Who answers for the same name, which then leads to any of them.
            found["index_shared"] = {
                host_of(url): self._all(
                    one for one in fleet.groups["indexes"] if one != name and url in fleet.index_urls(one)
                )
                for url in fleet.index_urls(name)
            }
            found["reference_url"] = self.reference_url
        if "monitors" in of:
            found |= {
                "nodes": self.nodes,
                "pace": self.pace,
                "private_networks": fleet.shared["private_networks"],
                "reference_url": self.reference_url,
            }
        return found

    @property
    def pace(self) -> dict[str, float]:
        """How often monitors ask: where clients are sent by it, as often as a quarter of a core of theirs allows."""
        if not self.fleet.groups["indexes"]:
            return {}
        interval = min(60.0, max(5.0, len(self.fleet.groups["mirrors"]) / 10))
        return {"interval": interval, "transition_interval": min(interval, 20.0), "write_seconds": 1.0}

    def _paths(self, of: set[str]) -> dict[str, str]:
        found = {"/": "/srv/redirector/list"} if "redirectors" in of else {}
        if "monitors" in of:
            found |= {"/health.json": HEALTH_FILE, "/audits/": "/var/lib/mirrorfleet/monitor/audits/"}
        return found

    def _health(self, name: str, monitor: str) -> str:
        """Where a redirector reads what a monitor found: on the same host its file."""
        if name == monitor:
            return HEALTH_FILE
        record = self.fleet.records[monitor]
        return f"{(record.get('monitor_url') or record['redirector_url'])[0]}/health.json"
