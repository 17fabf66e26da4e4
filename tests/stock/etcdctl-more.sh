# The commands of etcdctl and etcdutl that the first round of etcdctl.sh leaves out, and those with more forms of output than
# it asks for. To be sourced by it.

# five ARGS...: a command in each form of output. With the same ports two servers have the same ids, so that even the form
# of bytes can be compared.
five() {
    local form
    for form in simple json fields table; do ctl "$@" -w "$form"; done
    ran etcdctl "$@" -w protobuf
    "$reference/etcdctl" --endpoints="$endpoint" "$@" -w protobuf 2>/dev/null | od -An -v -tx1 -w32 || true
}

# five_fed TEXT ARGS...: the same with a text to read.
five_fed() {
    local form text=$1
    shift
    for form in simple json fields table; do ctl "$@" -w "$form" <<<"$text"; done
    ran etcdctl "$@" -w protobuf
    "$reference/etcdctl" --endpoints="$endpoint" "$@" -w protobuf 2>/dev/null <<<"$text" | od -An -v -tx1 -w32 || true
}

# utl ARGS...: one command of etcdutl, as `ctl`.
utl() {
    ran etcdutl "$@"
    local code=0
    "$reference/etcdutl" "$@" 2>&1 || code=$?
    echo "-> $code"
}

more_keys() {
    five put f1 v
    five put f1 v --prev-kv
    ctl put f2 "" --hex
    ctl put g1 x
    ctl put g1 --ignore-value --prev-kv
    ctl put g1 y --ignore-lease
    ctl put g2 <<<"from the standard input"
    five get f1
    five get f --prefix
    five get f --prefix --keys-only
    five get f --prefix --count-only
    five get absent
    ctl get f --prefix --hex
    ctl get f g3 --sort-by=CREATE --order=DESCEND
    ctl get f g3 --sort-by=VERSION --order=ASCEND
    ctl get f --from-key --limit=1
    ctl get f g3 --min-mod-rev=3 --max-mod-rev=12 --keys-only
    ctl get f g3 --min-create-rev=3 --max-create-rev=14 --keys-only
    ctl get f g3 --stream
    ctl get f g3 --stream -w json
    ctl get f --prefix --rev=2 --consistency=l
    ctl get f1 --sort-by=NONSENSE
    ctl get f1 --order=NONSENSE
    ctl get f1 --consistency=x
    ctl get f1 --prefix --from-key
    ctl get f1 f2 f3
    ctl get
    ctl get f1 --print-value-only -w fields
    ctl get f1 --dial-timeout=5s --command-timeout=9s --keepalive-time=3s --keepalive-timeout=9s
    ctl get f --prefix --max-recv-bytes=10
    ctl put f3 "$(printf %2000s x)" --max-request-bytes=1000
    ctl get f1 --debug | tail -n 3
    ctl get f1 --user=nobody --password=pw
    five_fed $'mod("f1") > "0"\n\nput f4 w\nget f1\ndel g2 --prev-kv\n\nget f2\n\n' txn
    ctl txn --interactive <<<$'create("f1") = "2"\nval("f2") = ""\n\nput f5 i\n\n\n'
    ctl txn <<<$'nonsense\n\n\n\n'
    ctl txn <<<$'mod("f1") > "0"\n\nfly f4\n\n\n'
    five del f4 --prev-kv
    five del absent
    ctl put h1 1; ctl put h2 2; ctl put h3 3; ctl put h4 4
    ctl del h1 h2 --prev-kv
    ctl del h2 h3 --range
    ctl del h2 --range
    ctl del h3 --prefix
    ctl del h --from-key --prev-kv
    ctl del
    watch 5 f1 --rev=2 --prev-kv -w fields
    watch 2 f1 --rev=2 -w protobuf | od -An -v -tx1 -w32 | head -n 4
    watch 4 f g3 --rev=2
    watch 1 f1 --rev=2 -- sh -c 'echo "$ETCD_WATCH_REVISION $ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY $ETCD_WATCH_VALUE"'
    watch 1 absent --progress-notify
    ran etcdctl watch --interactive
    { printf 'watch f1 --rev=2\n'; sleep 1; printf 'progress\n'; sleep 1; printf 'watch f2 --prev-kv --rev=4\n'; sleep 1; } |
        "$reference/etcdctl" --endpoints="$endpoint" watch --interactive 2>&1 || true
    ctl compaction 3 --physical
    five compaction 5
    ctl compaction
    ctl compaction x
}

more_leases() {
    local lease decimal
    ctl lease grant 500 -w json | sed -E 's/"id":[0-9]+/"id":N/'
    ctl lease grant 500 -w fields | sed -E 's/^"ID" : [0-9]+/"ID" : N/'
    ctl lease grant
    ctl lease grant x
    "$reference/etcdctl" --endpoints="$endpoint" lease list | sed -n '2,$p' >"$work/leases"
    while read -r lease; do ctl lease revoke "$lease" -w json; done <"$work/leases" | sed -E 's/revoke [0-9a-f]+/revoke LEASE/'
    lease=$("$reference/etcdctl" --endpoints="$endpoint" lease grant 600 | awk '{ print $2 }')
    decimal=$((16#$lease))
    {
        five_but_bytes lease timetolive "$lease"
        five_but_bytes lease timetolive "$lease" --keys
        five_but_bytes lease list
        five_but_bytes lease keep-alive --once "$lease"
        until_lines 1 lease keep-alive "$lease"
        ctl put leased v --lease="$lease"
        ctl put leased --ignore-value --ignore-lease
        ctl lease timetolive "$lease" --keys -w json
        ctl lease revoke "$lease" -w fields
        ctl lease revoke nonsense
        ctl lease timetolive "$lease" -w json
    } | sed -E "s/$lease/LEASE/g; s/\b$decimal\b/LEASE/g"

    ctl lock --ttl=20 mutex echo held
    ctl lock mutex -- sh -c 'exit 7'
    until_lines 1 lock mutex
    until_lines 2 elect poll me
    : >"$work/elect"
    "$reference/etcdctl" --endpoints="$endpoint" elect poll leads >>"$work/elect" 2>&1 &
    local leads=$!
    until [ "$(wc -l <"$work/elect")" -ge 2 ]; do sleep 0.1; done
    until_lines 2 elect --listen poll
    kill "$leads"; wait "$leads" 2>/dev/null || true
    ctl elect
}

# five_but_bytes ARGS...: where an answer holds what is drawn at random.
five_but_bytes() {
    local form
    for form in simple json fields table; do ctl "$@" -w "$form"; done
}

more_maintenance() {
    five_but_bytes endpoint health
    five_but_bytes endpoint status
    five_but_bytes endpoint hashkv
    ctl endpoint health --cluster
    ctl endpoint status --cluster -w json
    ctl endpoint hashkv --cluster --rev=20
    five member list
    ctl member list --consistency=s
    ctl member list --consistency=x
    five_but_bytes alarm list
    five_but_bytes alarm disarm
    five_but_bytes defrag
    ctl defrag --cluster
    ctl member add n2 --peer-urls=http://127.0.0.1:1 --learner -w json | sed -E 's/"ID":[0-9]+/"ID":N/g' | tr , '\n' | tr -d ']}' | sort
    "$reference/etcdctl" --endpoints="$endpoint" member list | awk -F, '/unstarted/ { print $1 }' >"$work/learner"
    local learner
    learner=$(<"$work/learner")
    {
        ctl member update "$learner" --peer-urls=http://127.0.0.1:3 -w table
        ctl member promote "$learner" -w json
        ctl member remove "$learner" -w fields
    } | sed -E "s/$learner/LEARNER/g; s/\b$((16#$learner))\b/LEARNER/g" | grep -v '^"ID"\|^"MemberID"'
    ctl member remove
    ctl member add
    ctl move-leader
    ctl downgrade enable 3.6 -w json
    ctl downgrade cancel
    ctl downgrade validate 3.6 -w fields
    ctl downgrade enable
    ctl version
}

more_users() {
    ctl user add u1 --new-user-password=pw
    ctl user add u2 --interactive=false <<<pw
    ctl user add u3 --no-password
    five_but_bytes user get u1
    five_but_bytes user list
    ctl user add u1:again -w json
    ctl user passwd u1 --interactive=false <<<new
    ctl role add r1 -w json
    ctl role grant-permission r1 readwrite p q -w json
    ctl role grant-permission r1 read pre --prefix
    ctl role grant-permission r1 write from --from-key
    ctl role grant-permission r1 nonsense p
    five role get r1
    five_but_bytes role list
    ctl user grant-role u1 r1 -w json
    ctl user get u1 --detail -w json
    ctl role revoke-permission r1 p q -w json
    ctl role revoke-permission r1 pre --prefix
    ctl role revoke-permission r1 from --from-key
    ctl role get r1
    ctl user revoke-role u1 r1 -w fields
    ctl role delete r1 -w json
    ctl user delete u1 -w json
    ctl user delete u2
    ctl user delete u3
    five_but_bytes auth status
    ctl user add root:pw
    ctl user grant-role root root
    ctl auth enable -w json
    ctl get f1 --user=root --password=pw
    ctl get f1 --auth-jwt-token=nonsense
    ctl auth disable --user=root:pw -w json
    ctl user delete root
}

# Snapshots, and what etcdutl makes of them. NAME: the server's, for its files.
more_snapshots() {
    local save=$work/$1.db dir=$work/$1.restored
    ctl snapshot save "$save" | sed -E 's/[0-9.]+ [kM]B/SIZE/; s/size [0-9]+/size N/'
    ctl snapshot save
    local form
    for form in simple json fields table; do
        utl snapshot status "$save" -w "$form"
    done | sed -E 's/"hash":[0-9]+/"hash":N/; s/"totalSize":[0-9]+/"totalSize":N/; s/^"(Hash|Size)" : .*/"\1" : N/' |
        sed -E 's/^[0-9a-f]{5,8}, ([0-9]+, [0-9]+), .*B,/HASH, \1, SIZE,/; s/^│ +[0-9a-f]{5,8} │/│ HASH │/'
    # It writes to what it looks at.
    cp "$save" "$save.hashed"
    utl hashkv "$save.hashed"
    utl hashkv "$save.hashed" --rev=20 -w json
    utl snapshot restore "$save" --data-dir="$dir" --name=default --initial-cluster=default=http://127.0.0.1:7 \
        --initial-advertise-peer-urls=http://127.0.0.1:7 --initial-cluster-token=t --initial-memory-map-size=1000000
    utl hashkv "$dir/member/snap/db" -w table
    utl snapshot restore "$save" --data-dir="$dir"
    utl snapshot restore "$save" --data-dir="$dir.bumped" --wal-dir="$dir.wal" --bump-revision=1000 --mark-compacted
    utl hashkv "$dir.bumped/member/snap/db" -w fields
    head -c -32 "$save" >"$save.raw"
    utl snapshot restore "$save.raw" --data-dir="$dir.raw"
    utl snapshot restore "$save.raw" --data-dir="$dir.raw" --skip-hash-check
    utl defrag --data-dir="$dir"
    utl hashkv "$dir/member/snap/db"
    utl migrate --data-dir="$dir" --target-version=3.6
    utl migrate --data-dir="$dir" --target-version=3.5 --force
    utl migrate --data-dir="$dir" --target-version=nonsense
    utl version
}

# To and from another server, which is the reference in any case. NAME: of the server, for the other's.
more_mirrors() {
    local way from to
    local -A at=([this]=$endpoint [other]=127.0.0.1:$(free_port))
    start_beside "other of $1" "$reference/etcd" "${at[other]#*:}"
    for way in "this other" "other this"; do
        read -r from to <<<"$way"
        endpoint=${at[$from]}
        ctl put "m/$from/1" one; ctl put "m/$from/2" two; ctl put "n/$from" other
        mirrored "${at[$to]}" "copy/$from/2" --prefix="m/$from" --dest-prefix="copy/$from" --max-txn-ops=1
        mirrored "${at[$to]}" "/2" --prefix="m/$from" --no-dest-prefix --rev=1
        mirrored "${at[$to]}" "n/$from" --prefix=n/ --dest-insecure-transport
        endpoint=${at[$to]}; ctl get "" --prefix | grep -A 1 "^copy\|^/\|^n/"
        endpoint=${at[$from]}; ctl del "m/" --prefix
    done
    for way in "this other" "other this"; do
        read -r from to <<<"$way"
        endpoint=${at[$to]}
        ctl user add root:pw; ctl user grant-role root root; ctl auth enable
        endpoint=${at[$from]}; ctl put "u/$from" of-a-user
        mirrored "${at[$to]}" "u/$from" --prefix=u/ --dest-user=root --dest-password=pw
        endpoint=${at[$to]}; ctl get u/ --prefix --user=root:pw
        ctl auth disable --user=root:pw
    done
    endpoint=${at[this]}
}

# mirrored TO KEY FLAG...: runs make-mirror until the key has come.
mirrored() {
    local to=$1 key=$2 pid code=0
    shift 2
    ran etcdctl make-mirror "$@" "$to"
    "$reference/etcdctl" --endpoints="$endpoint" make-mirror "$@" "$to" >"$work/mirror" 2>&1 &
    pid=$!
    local login=()
    [[ "$*" == *dest-user* ]] && login=(--user=root:pw)
    for _ in $(seq 100); do
        if "$reference/etcdctl" --endpoints="$to" "${login[@]}" get "$key" 2>&1 | grep -q .; then break; fi
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    kill "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || code=$?
    grep -v '^{' "$work/mirror" || true
    "$reference/etcdctl" --endpoints="$to" "${login[@]}" get "$key" --print-value-only
}

# more NAME: all of it.
more() {
    more_keys
    more_maintenance
    more_users
    more_snapshots "$1"
    more_leases
    more_mirrors "$1"
}
