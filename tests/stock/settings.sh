#!/usr/bin/env bash
# Starts the server under test and the reference with every flag, variable and key of a configuration file that the
# reference knows, with good and bad values, and compares what comes of it: settings/walk.py, settings/cases.tsv. What
# differs on purpose is in settings/differences.tsv. That no flag and no key is left out is asked of the reference's
# help and of its source. Ends with the number of settings; fails with the differences. Needs an unshare that may make
# networks.
#   settings.sh SERVER FOLDER_OF_REFERENCE_BINARIES
set -euo pipefail
server=$(realpath "${1:?usage: settings.sh SERVER FOLDER}")
reference=$(realpath "${2:?usage: settings.sh SERVER FOLDER}")
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Flags: of the help, of the list that other tests go by, and those that are taken and ignored.
flags() {
    "$reference/etcd" --help 2>&1 | sed -nE 's/^  --([a-z0-9.-]+).*/\1/p'
    cat ../compatibility/etcd-3.7.3-flags.txt
}
# Keys: the tags of the structs that a file is read into. What is not here: fields that only Go code can set, and
# sections.
keys() {
    local source
    source=$(go list -m -f '{{.Dir}}' go.etcd.io/etcd/server/v3)/embed/config.go
    grep -oE 'json:"[a-z0-9-]+' "$source" | sed 's/json:"//' |
        grep -vxE -e '-|grpc-additional-server-options|client-transport-security|peer-transport-security|discovery-config|socket-options'
}
left_out() {
    LC_ALL=C comm -23 <(LC_ALL=C sort -u) <(tail -n +2 settings/cases.tsv | cut -f "$1" | sed 's#.*/##' | LC_ALL=C sort -u)
}
missing=$(flags | left_out 1; keys | left_out 3)
if [ "$missing" ] || [ "$(flags | wc -l)" -lt 200 ] || [ "$(keys | wc -l)" -lt 80 ]; then
    echo "settings: not in cases.tsv: ${missing:-none, but the help or the source is not understood}" >&2
    exit 1
fi

# Certificates and a revocation list.
(
    cd "$work"
    openssl req -x509 -newkey rsa:2048 -nodes -keyout ca-key.pem -out ca.pem -days 2 -subj /CN=ca
    openssl req -newkey rsa:2048 -nodes -keyout key.pem -out request.pem -subj /CN=n1
    openssl x509 -req -in request.pem -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 2 -out cert.pem \
        -extfile <(echo subjectAltName=DNS:localhost,IP:127.0.0.1)
    openssl genrsa -out other-key.pem 2048
    : >index.txt
    printf '[ca]\ndefault_ca=c\n[c]\ndatabase=index.txt\ndefault_md=sha256\ndefault_crl_days=2\n' >ca.cnf
    openssl ca -config ca.cnf -gencrl -keyfile ca-key.pem -cert ca.pem -out crl.pem
    openssl crl -in crl.pem -outform DER -out crl.der
) 2>"$work/openssl" || { cat "$work/openssl" >&2; exit 1; }

become=()
if [ "$(id -u)" != 0 ]; then become=(unshare --map-root-user); fi
TMPDIR=$work "${become[@]}" python3 settings/walk.py "$server" "$reference/etcd" "$work"
