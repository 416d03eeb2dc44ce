#!/bin/sh
# Everything of a host that its operator could find changed: packages, accounts, files, units, firewall, listening ports.
set -eu
LC_ALL=C
export LC_ALL
PATH=$PATH:/usr/sbin:/sbin
dpkg-query --show --showformat='package ${Package} ${Version} ${db:Status-Status}\n' | sort
getent passwd | sort | sed 's/^/user /'
getent group | sort | sed 's/^/group /'
for folder in /etc /home /opt /root /srv /usr/local /var/lib /var/log /var/cache /var/www; do
    [ -d $folder ] || continue
    # Not what any program changes by running: package lists, logs, journals, caches, random seeds, backups of accounts.
    find $folder -xdev \( -path /var/lib/apt -o -path /var/lib/dpkg -o -path /var/lib/systemd -o -path /var/cache/apt \
        -o -path /var/cache/debconf -o -path /var/cache/ldconfig -o -path /var/log/journal -o -path /etc/ld.so.cache \
        -o -path '/var/log/apt' -o -path '/var/log/*.log' -o -path '/var/log/*tmp' -o -path /var/log/wtmp.db -o -path '/var/log/lastlog' \
        -o -path '/etc/*-' -o -path /etc/.pwd.lock -o -path /etc/mailcap -o -path '*/.ansible' -o -path /root/.cache \
        -o -path /var/lib/ucf -o -path /var/lib/private -o -path /var/lib/python \) -prune -o \
        \( -type f -printf 'file %p %m %u %g ' -exec sha256sum {} \; -o -type l -printf 'link %p %l\n' \
        -o -printf '%y %p %m %u %g\n' \)
done | awk '{NF = $1 == "file" ? 6 : NF; print}' | sort
systemctl list-unit-files --no-pager --no-legend --plain | awk '$2 != "transient" {print "unit", $1, $2}' | sort
systemctl list-units --no-pager --no-legend --plain --type=service,timer,socket,path --state=running,waiting,listening |
    awk '$1 !~ /^(user@|session-|run-|user-)/ {print "runs", $1}' | sort
if command -v nft >/dev/null; then nft list ruleset; fi
ss -Htuln | awk '{print "listens", $1, $5}' | sort -u
