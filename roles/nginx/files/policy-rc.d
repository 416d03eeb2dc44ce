#!/bin/sh
# Asked by packages before they act on a service. nginx-common would restart nginx on each upgrade: seconds without a
# server, and none at all if the configuration is broken just then. What remains is nginx's own package, which changes
# the running binary without a gap and leaves the old one if the new one does not start. Nor does that package start
# nginx before the role did: Debian's own site has an address of IPv6, which some kernels do not know.
case "$1:$2" in
nginx.service:restart | nginx:restart) exit 101 ;;
nginx.service:start | nginx:start) [ -e /etc/systemd/system/nginx.service.d/mirrorfleet.conf ] || exit 101 ;;
esac
exit 0
