#!/usr/bin/env bash
# Builds the reference binaries, etcd with its etcdctl and etcdutl, into the folder given. They are ordinary Go modules, pinned in
# go.mod: what the tests compare with. With a release, 3.6, those of etcd-3.6/go.mod: members of clusters that urd joins.
set -euo pipefail
out=$(realpath -m "${1:?usage: build.sh OUTPUT_FOLDER [3.6]}")
cd "$(dirname "$0")${2:+/etcd-$2}"
mkdir -p "$out"
export CGO_ENABLED=0
go build -trimpath -o "$out/etcd" go.etcd.io/etcd/server/v3
go build -trimpath -o "$out/etcdctl" go.etcd.io/etcd/etcdctl/v3
go build -trimpath -o "$out/etcdutl" go.etcd.io/etcd/etcdutl/v3
# Read to its end: a reader that leaves early would end the writer, and with `pipefail` this script, by SIGPIPE.
"$out/etcd" --version | sed -n 1p
