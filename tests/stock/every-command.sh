#!/usr/bin/env bash
# Whether every command of etcdctl and etcdutl, and every flag of each, was among those that were run: the tools are asked for
# their help, from command to command.
#   every-command.sh FOLDER_OF_REFERENCE_BINARIES FILE_OF_WHAT_WAS_RUN
# The file has a command a line, its tool first. Ends with the number of commands; fails with what is missing.
set -euo pipefail
reference=${1:?usage: every-command.sh FOLDER FILE} ran=${2:?usage: every-command.sh FOLDER FILE}

# What is not run, and why: a command, or a flag of one.
excused=$(sed -E 's/ +#.*//' <<'LIST'
etcdctl check perf             # a minute of load, which judges the machine; run by hand
etcdctl check datascale        # the same
etcdctl completion             # asks no server
etcdctl help                   # asks no server
etcdctl options                # asks no server
etcdutl completion             # reads no data
etcdutl help                   # reads no data
etcdctl make-mirror --dest-cacert   # TLS to the destination is the client's business; tests/tls.rs has the server's
etcdctl make-mirror --dest-cert     # the same
etcdctl make-mirror --dest-key      # the same
LIST
)

# What stands in the help of a command under a title that fits. section TITLE COMMAND...
section() {
    local title=$1
    shift
    "$reference/$1" "${@:2}" --help </dev/null 2>/dev/null |
        awk -v title="$title" '/^[^ ]/ { on = $0 ~ title } on && /^ / { print }'
}

missing=() commands=0 flags=0
is_excused() { grep -qxF -- "$*" <<<"$excused"; }

# walk TOOL [COMMAND...]
walk() {
    local below flag
    below=$(section '[Cc]ommands:?$' "$@" | sed -nE 's/^  ([a-z][a-z-]*) .*/\1/p')
    if [ "$below" ]; then
        for flag in $below; do walk "$@" "$flag"; done
        return
    fi
    is_excused "$@" && return
    commands=$((commands + 1))
    local lines
    if ! lines=$(grep -E -- "^$*( |\$)" "$ran"); then missing+=("$*"); return; fi
    for flag in $(section '^Flags:' "$@" | sed -nE 's/^ +(-[a-zA-Z], )?(--[a-z][a-z-]*).*/\2/p'); do
        [ "$flag" = --help ] || is_excused "$* $flag" && continue
        flags=$((flags + 1))
        grep -qE -- " $flag( |=|\$)" <<<"$lines" || missing+=("$* $flag")
    done
}
walk etcdctl
walk etcdutl
if [ "$commands" -lt 50 ]; then echo "every-command: the help of the tools is not understood: $commands commands" >&2; exit 1; fi
if [ ${#missing[@]} != 0 ]; then
    printf 'every-command: not run: %s\n' "${missing[@]}" >&2
    exit 1
fi
echo "every-command: $commands commands and $flags flags of them, all run"
