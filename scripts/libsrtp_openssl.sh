#!/usr/bin/env bash
# Builds Debian's libsrtp2 with OpenSSL's ciphers into the folder that is given, for `make bench-forward`: Janus links
# libsrtp2, and Debian's own build uses NSS, which is slower. The sources come from Debian, by an apt configuration of its own.
set -euo pipefail
mkdir -p "$1"
folder=$(cd "$1" && pwd)
command -v janus >/dev/null || { echo "Janus is not installed: nothing to build libsrtp for"; exit 0; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
mkdir lists
. /etc/os-release
cat >src.sources <<END
Types: deb-src
URIs: http://deb.debian.org/debian
Suites: $VERSION_CODENAME
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
END
apt=(apt-get -qq -o Dir::Etc::sourcelist="$work/src.sources" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$work/lists")
"${apt[@]}" update
"${apt[@]}" source --download-only libsrtp2 2>/dev/null
tar xf libsrtp2_*.orig.tar.gz
cd libsrtp-*/
./configure --enable-openssl >/dev/null
make -s shared_library >/dev/null
cp libsrtp2.so.1 "$folder"
