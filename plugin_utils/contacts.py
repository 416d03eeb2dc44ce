"""Who is told of alerts, how, and when not. It holds secrets: webhooks' URLs."""

from __future__ import annotations

from typing import Any

from plugin_utils.rules import Fleet


def contacts(fleet: Fleet) -> dict[str, Any]:
    return {
        "fleet": fleet.shared["fleet_name"],
        "relay": fleet.shared.get("fleet_mail_relay") or {},
        "coordinator": _reached(fleet.shared["fleet_coordinator"]),
        "mirrors": [
            {
                "name": name,
                **_reached(fleet.records[name]["mirror_operator"]),
                "maintenance": [
                    {key: one if key == "reason" else one.isoformat() for key, one in window.items()}
                    for window in fleet.records[name].get("mirror_maintenance", [])
                ],
            }
            for name in sorted(fleet.groups["mirrors"])
            if fleet.records[name]["mirror_state"] != "retired"
        ],
    }


def _reached(person: dict[str, Any]) -> dict[str, Any]:
    return {"email": person.get("email"), "webhook": person.get("webhook")}
