#!/usr/bin/env python3
"""ipv4_only.py PROFILE: writes the engine's seccomp profile, with which a kernel knows no IPv6 (EAFNOSUPPORT).

The containers share this machine's kernel, where a socket can be bound to :: also in a network without IPv6. What the
profile says of sockets otherwise stays, for a container that may not write to the audit log: its socket is EINVAL.
"""

import json
import sys

AF_INET6, AF_NETLINK, NETLINK_AUDIT = 10, 16, 9
DOMAIN, PROTOCOL = 0, 2  # arguments of socket()


def on(argument, comparison, value):
    return {"index": argument, "op": f"SCMP_CMP_{comparison}", "value": value}


def socket(action, *arguments, **more):
    return {"names": ["socket"], "action": f"SCMP_ACT_{action}", "args": list(arguments), **more}


with open(sys.argv[1], encoding="utf-8") as stream:
    profile = json.load(stream)
for rule in profile["syscalls"]:
    rule["names"] = [name for name in rule["names"] if name != "socket"]
# No call may meet two rules, and no rule may compare one argument twice.
profile["syscalls"] = [rule for rule in profile["syscalls"] if rule["names"]] + [
    socket("ALLOW", on(DOMAIN, "LT", AF_INET6)),
    socket("ERRNO", on(DOMAIN, "EQ", AF_INET6), errnoRet=97, errno="EAFNOSUPPORT"),
    *(socket("ALLOW", on(DOMAIN, "EQ", domain)) for domain in range(AF_INET6 + 1, AF_NETLINK)),
    socket("ALLOW", on(DOMAIN, "EQ", AF_NETLINK), on(PROTOCOL, "NE", NETLINK_AUDIT)),
    socket(
        "ERRNO", on(DOMAIN, "EQ", AF_NETLINK), on(PROTOCOL, "EQ", NETLINK_AUDIT), errnoRet=22, errno="EINVAL"
    ),
    socket("ALLOW", on(DOMAIN, "GT", AF_NETLINK)),
]
json.dump(profile, sys.stdout)
