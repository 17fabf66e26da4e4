use std::io;

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message as _;

use super::{
    export::Export,
    import::{self, Imported, InMemory},
    *,
};
use crate::{
    bolt::read::{Database, Entry},
    proto::{authpb, etcdserverpb::*, mvccpb::KeyValue, raftpb},
    store::{
        apply::{AppliedBatch, ApplyEntry},
        hash,
        index::Progress,
        lease::Lease,
        membership::{Member, Membership},
        state::Downgrade,
        types::{KeyRange, Place, Values},
    },
};

/// A state with its values, one segment for each.
struct Store {
    state: State,
    values: InMemory,
}

impl Values for Store {
    fn read(&self, place: Place) -> io::Result<Bytes> {
        self.values.read(place)
    }
}

impl Store {
    fn new() -> Store {
        let mut state = State::new(2);
        let json = r#"{"id":255,"peerURLs":["http://a?b=<1>&c"],"name":"n"}"#;
        let change = raftpb::ConfChange {
            id: None,
            r#type: Some(raftpb::ConfChangeType::ConfChangeAddNode as i32),
            node_id: Some(255),
            context: Some(json.into()),
        };
        state.apply_conf_change(1, 1, &change).unwrap();
        state.set_conf_state(raftpb::ConfState { voters: vec![255], auto_leave: Some(false), ..Default::default() });
        Store { state, values: InMemory::default() }
    }

    fn apply(&mut self, request: InternalRaftRequest) {
        let (index, _) = self.state.applied();
        let data = Bytes::from(request.encode_to_vec());
        let segment = self.values.add(data.clone());
        let base = Place { segment, offset: 0, len: data.len() as u32 };
        let entry = ApplyEntry { index: index + 1, term: 2, base, data, quota_room: None };
        let Store { state, values } = self;
        // What is refused changes nothing.
        let _ = state.apply(&entry, &*values, &mut AppliedBatch::default()).unwrap();
    }

    fn sweep(&mut self, steps: usize) {
        for _ in 0..steps {
            if self.state.index.compaction_step(3, &mut |_| {}) == Progress::Done {
                break;
            }
        }
    }

    /// The state as a database, made in pieces of a few pages.
    fn exported(&self, piece: usize) -> Vec<u8> {
        let mut export = Export::new(self.state.clone());
        let mut file = Vec::new();
        while (file.len() as u64) < export.bytes() {
            for hole in export.make(piece) {
                let value = self.read(hole.what).unwrap();
                export.pages()[hole.at..hole.at + hole.len].copy_from_slice(&value);
            }
            let pages = export.pages();
            assert!(!pages.is_empty(), "there is more");
            let piece = pages.split_to(piece.min(pages.len()));
            file.extend_from_slice(&piece);
        }
        assert!(export.make(piece).is_empty() && export.pages().is_empty(), "it ends where it said");
        file
    }

    fn hash(&self) -> u32 {
        hash::hash(&self.state, self).unwrap()
    }
}

fn imported(file: &[u8]) -> (Store, Imported) {
    let database = Database::open(file, "the file").unwrap();
    let mut kept = InMemory::default();
    let imported = import::import(&database, 2, &mut kept).unwrap();
    let store = Store { state: imported.state.clone(), values: kept };
    assert_eq!(hash::hash_changes(&store.state.index, &store).unwrap(), imported.changes_hash);
    (store, imported)
}

fn put(key: &str, value: Vec<u8>, lease: i64) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: value.into(), lease, ..Default::default() }
}

/// A change of some kind, by numbers.
fn request(kind: u8, key: u8, len: usize, lease: i64, current: i64) -> InternalRaftRequest {
    let name = format!("key{}", key % 12);
    let mut request = InternalRaftRequest::default();
    match kind % 10 {
        0..=4 => request.put = Some(put(&name, vec![key; len], if kind.is_multiple_of(2) { lease } else { 0 })),
        5 => {
            let end = if key.is_multiple_of(3) { Bytes::from_static(b"key9") } else { Bytes::new() };
            request.delete_range = Some(DeleteRangeRequest { key: name.into(), range_end: end, prev_kv: false });
        }
        6 => {
            let op = |one| RequestOp { request: Some(one) };
            let success = vec![
                op(request_op::Request::RequestPut(put(&name, vec![key; len], 0))),
                op(request_op::Request::RequestDeleteRange(DeleteRangeRequest {
                    key: "key1".into(),
                    range_end: "key3".into(),
                    prev_kv: false,
                })),
                op(request_op::Request::RequestPut(put(&format!("{name}x"), Vec::new(), lease))),
            ];
            request.txn = Some(TxnRequest { success, ..Default::default() });
        }
        7 => request.lease_grant = Some(LeaseGrantRequest { id: lease, ttl: 60 + i64::from(key) }),
        8 => request.lease_revoke = Some(LeaseRevokeRequest { id: lease }),
        _ => {
            let revision = current - i64::from(key % 9);
            request.compaction = Some(CompactionRequest { revision, physical: false });
        }
    }
    request
}

/// A member of etcd 3.6 refuses to start with a database that says it is of 3.7.
#[test]
fn a_database_is_of_the_version_that_the_cluster_states() {
    let said = |stated: Option<&str>| {
        let mut store = Store::new();
        store.state.cluster_version = stated.map(Into::into);
        imported(&store.exported(4096)).1.storage_version
    };
    assert_eq!(said(Some("3.6.0")).as_deref(), Some("3.6.0"));
    assert_eq!(said(Some("3.7.0")).as_deref(), Some("3.7.0"));
    assert_eq!(said(Some("3.0.0")).as_deref(), Some(version::STORAGE));
    assert_eq!(said(None).as_deref(), Some(version::STORAGE));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]
    #[test]
    fn a_state_comes_back_from_its_database(
        changes in prop::collection::vec((any::<u8>(), any::<u8>(), prop_oneof![0usize..60, 0usize..6000], 0usize..5), 0..120),
        sweeps in prop::collection::vec(0usize..6, 0..120),
        piece in prop_oneof![Just(4096usize), Just(32768), Just(1 << 20)],
    ) {
        let mut store = Store::new();
        for (at, (kind, key, len, lease)) in changes.into_iter().enumerate() {
            let lease = [7, -5, i64::MAX, i64::MIN, 1][lease];
            store.apply(request(kind, key, len, lease, store.state.index.current()));
            store.sweep(sweeps.get(at).copied().unwrap_or(0));
        }
        let file = store.exported(piece);
        let (again, imported) = imported(&file);
        prop_assert_eq!(again.hash(), store.hash());
        prop_assert_eq!((imported.consistent_index, imported.term), store.state.applied());
        prop_assert_eq!(again.state.applied(), store.state.applied());
        prop_assert!(again.state.auth.is_untouched());
        prop_assert_eq!(imported.storage_version.as_deref(), Some(version::STORAGE));
        prop_assert_eq!(&again.state.membership, &store.state.membership);
        prop_assert_eq!(again.state.conf_state(), store.state.conf_state());
        let (index, back) = (&store.state.index, &again.state.index);
        prop_assert_eq!((back.current(), back.compacted()), (index.current(), index.compacted()));
        prop_assert_eq!(back.live_keys(), index.live_keys());
        prop_assert_eq!(back.event_count(), index.event_count());
        // Every revision that can be read is read alike, and hashes alike.
        for at in index.compacted().max(1)..=index.current() {
            let meta = |index: &crate::store::index::Index| {
                index.iter_refs(KeyRange::From(&[]), at).map(|kv| (kv.key, kv.meta.create, kv.meta.version, kv.meta.lease)).collect::<Vec<_>>()
            };
            prop_assert_eq!(meta(back), meta(index), "at {}", at);
            prop_assert_eq!(hash::hash_kv(back, at, &again).unwrap(), hash::hash_kv(index, at, &store).unwrap());
        }
        let leases = |store: &Store| {
            let of = |lease: Lease| (lease, store.state.leases.keys_owned(lease.id));
            store.state.leases.iter().map(of).collect::<Vec<_>>()
        };
        prop_assert_eq!(leases(&again), leases(&store));
        // What goes on, goes on alike.
        let mut both = [store, again];
        for store in &mut both {
            store.sweep(usize::MAX);
            store.apply(request(0, 3, 100, 7, 0));
            store.apply(request(5, 0, 0, 0, 0));
            let current = store.state.index.current();
            store.apply(request(9, 0, 0, 0, current));
            store.sweep(usize::MAX);
        }
        prop_assert_eq!(both[0].hash(), both[1].hash());
        prop_assert_eq!(both[0].state.index.event_count(), both[1].state.index.event_count());
    }
}

#[test]
fn everything_beside_the_keys_is_there_too() {
    let mut store = Store::new();
    store.apply(InternalRaftRequest {
        cluster_version_set: Some(crate::proto::membershippb::ClusterVersionSetRequest { ver: "3.7.0".into() }),
        ..Default::default()
    });
    for alarm in [AlarmType::Nospace, AlarmType::Corrupt] {
        let action = alarm_request::AlarmAction::Activate as i32;
        let request = AlarmRequest { action, member_id: 255, alarm: alarm as i32 };
        store.apply(InternalRaftRequest { alarm: Some(request), ..Default::default() });
    }
    store.state.downgrade = Some(Downgrade { target: "3.6.0".into() }.into());
    let member =
        |id| Member { id, name: format!("m{id}"), peer_urls: vec![format!("http://{id}")], ..Member::default() };
    let members = [255, 9, u64::MAX].map(member);
    store.state.membership = Membership::from_parts(members, [3, 0xabc]);
    let (again, _) = imported(&store.exported(4096));
    assert_eq!(again.hash(), store.hash());
    assert!(again.state.alarms.iter().eq(store.state.alarms.iter()));
    assert_eq!(again.state.membership, store.state.membership);
    assert_eq!(again.state.cluster_version, store.state.cluster_version);
    assert_eq!(again.state.downgrade, store.state.downgrade);
}

#[test]
fn a_database_is_what_etcd_writes_byte_for_byte() {
    let mut store = Store::new();
    store.apply(InternalRaftRequest { put: Some(put("k", b"v".to_vec(), 0)), ..Default::default() });
    let delete = DeleteRangeRequest { key: "k".into(), ..Default::default() };
    store.apply(InternalRaftRequest { delete_range: Some(delete), ..Default::default() });
    store.apply(InternalRaftRequest {
        lease_grant: Some(LeaseGrantRequest { id: 0x1234, ttl: 60 }),
        ..Default::default()
    });
    let file = store.exported(4096);
    let mut found = Vec::new();
    Database::open(&file[..], "f")
        .unwrap()
        .each_bucket(&mut |bucket, key, entry| {
            let Entry::Value(value) = entry else { panic!("no bucket within one") };
            found.push(format!("{} {} {}", bucket.escape_ascii(), key.escape_ascii(), value.escape_ascii()));
            Ok(())
        })
        .unwrap();
    let wanted = [
        r"auth authRevision \x00\x00\x00\x00\x00\x00\x00\x01",
        r"key \x00\x00\x00\x00\x00\x00\x00\x02_\x00\x00\x00\x00\x00\x00\x00\x00 \n\x01k\x10\x02\x18\x02 \x01*\x01v",
        r"key \x00\x00\x00\x00\x00\x00\x00\x03_\x00\x00\x00\x00\x00\x00\x00\x00t \n\x01k",
        r"lease \x00\x00\x00\x00\x00\x00\x124 \x08\xb4$\x10<",
        r#"members ff {\"id\":255,\"peerURLs\":[\"http://a?b=\\u003c1\\u003e\\u0026c\"],\"name\":\"n\"}"#,
        r#"meta confState {\"voters\":[255],\"auto_leave\":false}"#,
        r"meta consistent_index \x00\x00\x00\x00\x00\x00\x00\x04",
        r"meta storageVersion 3.7.0",
        r"meta term \x00\x00\x00\x00\x00\x00\x00\x02",
    ];
    assert_eq!(found, wanted);
}

/// Users and roles, as requests make them, are in the database, are hashed, and come back as they were.
#[test]
fn users_and_roles_come_back() {
    let mut store = Store::new();
    let empty = store.hash();
    let hash = Some("JDJhJDA0JHc=".to_owned());
    let user = |name: &str, no_password| AuthUserAddRequest {
        name: name.into(),
        options: Some(authpb::UserAddOptions { no_password }),
        hashed_password: hash.clone().filter(|_| !no_password).unwrap_or_default(),
        ..Default::default()
    };
    let grant = |user: &str, role: &str| InternalRaftRequest {
        auth_user_grant_role: Some(AuthUserGrantRoleRequest { user: user.into(), role: role.into() }),
        ..Default::default()
    };
    for (name, no_password) in [("root", false), ("ann", false), ("cert", true)] {
        store.apply(InternalRaftRequest { auth_user_add: Some(user(name, no_password)), ..Default::default() });
    }
    for name in ["writer", "reader"] {
        let add = Some(AuthRoleAddRequest { name: name.into() });
        store.apply(InternalRaftRequest { auth_role_add: add, ..Default::default() });
    }
    for (key, range_end) in [("m", "n"), ("a", ""), ("z", "\0")] {
        let perm_type = authpb::permission::Type::Readwrite as i32;
        let perm = authpb::Permission { perm_type, key: key.into(), range_end: range_end.into() };
        let asked = AuthRoleGrantPermissionRequest { name: "writer".into(), perm: Some(perm) };
        store.apply(InternalRaftRequest { auth_role_grant_permission: Some(asked), ..Default::default() });
    }
    for (user, role) in [("root", "root"), ("ann", "writer"), ("ann", "reader")] {
        store.apply(grant(user, role));
    }
    let not_yet = store.hash();
    store.apply(InternalRaftRequest { auth_enable: Some(AuthEnableRequest {}), ..Default::default() });
    assert!(
        store.state.auth.is_enabled() && store.state.auth.users().len() == 3 && store.state.auth.roles().len() == 2
    );
    assert!(store.hash() != not_yet && not_yet != empty, "all of it is hashed");

    let (again, _) = imported(&store.exported(4096));
    assert_eq!(again.hash(), store.hash());
    let auth = &again.state.auth;
    assert_eq!((auth.enabled(), auth.revision()), (Some(true), store.state.auth.revision()));
    assert!(auth.users().eq(store.state.auth.users()) && auth.roles().eq(store.state.auth.roles()));
    assert_eq!(auth.user("ann").unwrap().roles, ["reader", "writer"]);
}

/// What `etcdutl snapshot restore --bump-revision` leaves: a record without a value, and a compaction that is to come.
#[test]
fn the_mark_of_a_bumped_revision_is_kept() {
    let mut store = Store::new();
    for at in 0..5 {
        store.apply(request(0, at, 20, 0, 0));
    }
    let before = store.state.index.current();
    let revision = Revision::new(before + 1000, 0);
    store.state.index.adopt(&[], KeyMeta { revision, create: revision.main, version: 1, ..KeyMeta::default() });
    store.state.index.begin_compaction(revision.main).unwrap();
    let (mut again, _) = imported(&store.exported(4096));
    assert_eq!(again.hash(), store.hash());
    assert_eq!((again.state.index.current(), again.state.index.compacted()), (before + 1000, before + 1000));
    again.sweep(usize::MAX);
    store.sweep(usize::MAX);
    assert_eq!(again.hash(), store.hash());
    let keys: Vec<_> = again.state.index.iter_refs(KeyRange::From(&[0]), 0).map(|kv| kv.key).collect();
    assert_eq!(keys, ["key0", "key1", "key2", "key3", "key4"]);
}

/// A database of these entries in bucket `key` and `meta`.
fn database(key: &[(Vec<u8>, Vec<u8>)], meta: &[(&[u8], &[u8])]) -> Vec<u8> {
    use crate::bolt::write::{Part, Planner, Writer};
    let mut planner = Planner::default();
    planner.bucket("key", key.iter().map(|(key, value)| (key.len(), value.len())));
    planner.bucket("meta", meta.iter().map(|(key, value)| (key.len(), value.len())));
    let mut writer = Writer::<()>::new(planner.finish());
    for (key, value) in key {
        writer.entry(key, &[Part::Bytes(value)]);
    }
    writer.end_bucket();
    for (key, value) in meta {
        writer.entry(key, &[Part::Bytes(value)]);
    }
    writer.end_bucket();
    writer.finish();
    writer.out().to_vec()
}

#[test]
fn what_etcd_does_not_write_is_refused_by_name() {
    let kv = |main: i64| KeyValue {
        key: "k".into(),
        create_revision: 2,
        mod_revision: main,
        version: main - 1,
        value: "v".into(),
        lease: 0,
    };
    let name = |main| revision_name(Revision::new(main, 0)).to_vec();
    let refusal = |key: &[(Vec<u8>, Vec<u8>)], meta: &[(&[u8], &[u8])]| {
        let file = database(key, meta);
        let database = Database::open(&file[..], "f").unwrap();
        import::import(&database, 2, &mut InMemory::default()).unwrap_err().to_string()
    };
    let sound = (name(2), kv(2).encode_to_vec());
    let told = |told: String, wanted: &str| assert!(told.contains(wanted), "{told}\nwanted: {wanted}");
    // Another revision than the name's, versions and revisions that cannot be, unknown and disordered fields.
    let unknown = [&kv(3).encode_to_vec()[..], &[0x38, 1]].concat();
    let disordered = [0x10, 2, 0x0a, 1, b'k', 0x18, 3, 0x20, 1].to_vec();
    for value in [
        kv(4).encode_to_vec(),
        KeyValue { create_revision: 4, ..kv(3) }.encode_to_vec(),
        KeyValue { version: 0, ..kv(3) }.encode_to_vec(),
        KeyValue { key: Bytes::new(), ..kv(3) }.encode_to_vec(),
        unknown,
        disordered,
        vec![0xff],
    ] {
        told(refusal(&[sound.clone(), (name(3), value)], &[]), "this is no change as etcd writes it");
    }
    let tombstone = |main| ([name(main), b"t".to_vec()].concat(), kv(3).encode_to_vec());
    told(refusal(&[sound.clone(), tombstone(3)], &[]), "this is no change as etcd writes it");
    let gone = ([name(2), b"t".to_vec()].concat(), vec![0x0a, 1, b'k']);
    told(refusal(&[sound.clone(), gone], &[]), "revision 2.0 is there twice");
    told(refusal(&[(b"x".to_vec(), vec![])], &[]), "this is no revision (key x of bucket \"key\")");
    told(refusal(&[], &[(b"storageVersion", b"3.8.0")]), "storage version 3.8.0, and 3.7.0 is the latest");
    told(refusal(&[], &[(b"something", b"")]), "does not know it (key something of bucket \"meta\")");
    told(refusal(&[], &[(b"term", b"1")]), "this is no number");
    told(refusal(&[], &[(b"finishedCompactRev", b"1")]), "this is no revision");
    // Of etcd 3.5 and before: no storage version, no term.
    let file = database(std::slice::from_ref(&sound), &[(b"consistent_index", &9u64.to_be_bytes())]);
    let (store, imported) = imported(&file);
    assert_eq!((imported.consistent_index, imported.term, imported.storage_version), (9, 0, None));
    assert_eq!(store.state.index.current(), 2);
}
