#!/usr/bin/env bash
# Founds clusters by DNS and by the discovery service, with the server under test, with the reference and with both
# together, and has both refuse what cannot be founded; compares what comes of it: ids and members, or the exit code and
# the lines of the log that tell of it (discovery/walk.py). DNS, and the time of the day of others, is answered by the script
# itself in a network of its own. Ends with the number of comparisons; fails with the differences. Needs an unshare that may
# make networks and mounts.
#   discovery.sh SERVER FOLDER_OF_REFERENCE_BINARIES
set -euo pipefail
server=$(realpath "${1:?usage: discovery.sh SERVER FOLDER}")
reference=$(realpath "${2:?usage: discovery.sh SERVER FOLDER}")
here=$(realpath "$(dirname "$0")")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# An authority that the system trusts, and who it vouches for: the domain, and the discovery service.
(
    cd "$work"
    openssl req -x509 -newkey rsa:2048 -nodes -keyout ca-key.pem -out ca.pem -days 2 -subj /CN=ca
    for name in secure.test service.test; do
        openssl req -newkey rsa:2048 -nodes -keyout "$name-key.pem" -out request.pem -subj "/CN=$name"
        openssl x509 -req -in request.pem -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 2 -out "$name.pem" \
            -extfile <(echo "subjectAltName=DNS:$name")
    done
) 2>"$work/openssl" || { cat "$work/openssl" >&2; exit 1; }

become=(unshare --net --mount --propagation=private)
if [ "$(id -u)" != 0 ]; then become+=(--map-root-user); fi
"${become[@]}" bash -c '
    set -euo pipefail
    printf "nameserver 127.0.0.1\noptions timeout:1 attempts:1\nsearch search.test\n" >"$1/resolv.conf"
    printf "127.0.0.1 localhost\n" >"$1/hosts"
    mount --bind "$1/resolv.conf" /etc/resolv.conf
    mount --bind "$1/hosts" /etc/hosts
    # The first of these is what both servers read.
    for bundle in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/ca-bundle.pem; do
        if [ -e "$bundle" ]; then mount --bind "$1/ca.pem" "$bundle"; break; fi
    done
    TMPDIR=$1 exec python3 "$2/discovery/walk.py" "$3" "$4" "$1"
' discovery "$work" "$here" "$server" "$reference/etcd"
