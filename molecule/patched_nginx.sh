# A patched nginx in an archive of the host's own, whose origin is "patched": Debian's package with a later version.
set -eu
mkdir -p /srv/patched && cd /srv/patched
apt-get -qq update && apt-get -qq download nginx && mv nginx_*.deb former.deb
dpkg-deb --raw-extract former.deb tree
sed -i 's/^Version: .*/&+fleet1/' tree/DEBIAN/control
dpkg-deb --build tree patched.deb >/dev/null && rm -r tree former.deb
sum() { sha256sum "$1" | cut -d' ' -f1; }
{ dpkg-deb --field patched.deb; echo "Filename: ./patched.deb"; echo "Size: $(stat -c %s patched.deb)"
  echo "SHA256: $(sum patched.deb)"; } >Packages
printf 'Origin: patched\nSHA256:\n %s %s Packages\n' "$(sum Packages)" "$(stat -c %s Packages)" >Release
echo 'deb [trusted=yes] file:/srv/patched ./' >/etc/apt/sources.list.d/patched.list
