//! The numbers are those of etcd 3.7.3: one member named n1 with the URLs below, asked by HashKV and Hash after the
//! requests that `Store` makes here, in this order, each compaction with `physical` and half a second later.

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message;

use super::*;
use crate::{
    proto::{
        etcdserverpb::{
            AlarmRequest, DeleteRangeRequest, InternalRaftRequest, LeaseGrantRequest, PutRequest, RequestHeader,
            RequestOp, TxnRequest, request_op::Request,
        },
        membershippb::{ClusterMemberAttrSetRequest, ClusterVersionSetRequest},
        raftpb::{ConfChange, ConfState},
    },
    store::{
        apply::{AppliedBatch, ApplyEntry},
        index::Progress,
        types::Place,
    },
};

struct Store {
    state: State,
    segments: HashMap<u32, Bytes>,
    compactions: CompactionHashes,
}

impl Values for HashMap<u32, Bytes> {
    fn read(&self, place: Place) -> io::Result<Bytes> {
        let from = place.offset as usize;
        Ok(self[&place.segment].slice(from..from + place.len as usize))
    }
}

impl Store {
    fn new() -> Self {
        Store { state: State::new(2), segments: HashMap::new(), compactions: CompactionHashes::default() }
    }

    fn apply(&mut self, mut request: InternalRaftRequest) {
        let (index, _) = self.state.applied();
        request.header = Some(RequestHeader { id: index + 1, ..Default::default() });
        let data = Bytes::from(request.encode_to_vec());
        let segment = self.segments.len() as u32 + 1;
        self.segments.insert(segment, data.clone());
        let base = Place { segment, offset: 0, len: data.len() as u32 };
        let entry = ApplyEntry { index: index + 1, term: 2, base, data, quota_room: None };
        self.state.apply(&entry, &self.segments, &mut AppliedBatch::default()).unwrap().result.unwrap();
    }

    fn put(&mut self, key: &'static str, value: &'static str, lease: i64) {
        self.apply(InternalRaftRequest { put: Some(put(key, value, lease)), ..Default::default() });
    }

    fn delete(&mut self, key: &'static str, end: &'static str) {
        self.apply(InternalRaftRequest { delete_range: Some(delete(key, end)), ..Default::default() });
    }

    fn grant(&mut self, id: i64, ttl: i64) {
        self.apply(InternalRaftRequest { lease_grant: Some(LeaseGrantRequest { id, ttl }), ..Default::default() });
    }

    fn compact(&mut self, at: i64) {
        self.compactions.keep(hash_compaction(&self.state.index, at, &self.segments).unwrap());
        self.state.index.begin_compaction(at).unwrap();
        while self.state.index.compaction_step(3, &mut |_| {}) == Progress::More {}
    }

    fn kv(&self, at: i64) -> (u32, i64) {
        let hash = self.compactions.get(at);
        let hash = hash.unwrap_or_else(|| hash_kv(&self.state.index, at, &self.segments).unwrap());
        assert_eq!(hash.revision, at);
        (hash.hash, hash.compacted)
    }
}

fn put(key: &'static str, value: &'static str, lease: i64) -> PutRequest {
    PutRequest { key: key.into(), value: value.into(), lease, ..Default::default() }
}

fn delete(key: &'static str, end: &'static str) -> DeleteRangeRequest {
    DeleteRangeRequest { key: key.into(), range_end: end.into(), prev_kv: false }
}

fn nine_revisions() -> Store {
    const LONG: &str = match std::str::from_utf8(&[b'x'; 300]) {
        Ok(text) => text,
        Err(_) => unreachable!(),
    };
    let mut store = Store::new();
    store.put("a", "1", 0);
    store.put("b", "2", 0);
    store.grant(7, 100);
    store.grant(-5, 200);
    store.put("c", "3", 7);
    let ops = [
        Request::RequestPut(put("d", "", 0)),
        Request::RequestDeleteRange(delete("a", "")),
        Request::RequestPut(put("e", LONG, 0)),
    ];
    let success = ops.into_iter().map(|request| RequestOp { request: Some(request) }).collect();
    store.apply(InternalRaftRequest { txn: Some(TxnRequest { success, ..Default::default() }), ..Default::default() });
    store.put("a", "9", 0);
    store.delete("b", "");
    store.put("b", "5", 0);
    store.delete("c", "");
    store
}

#[test]
fn every_revision_hashes_as_in_etcd() {
    let mut store = nine_revisions();
    let fresh =
        [1084519789, 2587454935, 1827592406, 2013858449, 837789882, 3620268661, 1495570628, 3120830782, 777977029];
    for (at, hash) in (1..).zip(fresh) {
        assert_eq!(store.kv(at), (hash, -1), "revision {at}");
    }
    let compactions: [(i64, &[(u32, i64)]); 3] = [
        (5, &[(837789882, -1), (419956877, 5), (1090915484, 5), (883089419, 5), (3848868882, 5)]),
        (7, &[(1090915484, 5), (2954485409, 7), (1413588, 7)]),
        (9, &[(1413588, 7)]),
    ];
    for (compacted, wanted) in compactions {
        store.compact(compacted);
        for (at, wanted) in (compacted..).zip(wanted) {
            assert_eq!(store.kv(at), *wanted, "revision {at} after compaction {compacted}");
        }
    }
    store.delete("a", "z");
    assert_eq!(store.kv(10), (3675776507, 9));
    store.compact(10);
    assert_eq!(store.kv(10), (2103342570, 9), "as it was when the compaction began");
    let now = hash_kv(&store.state.index, 10, &store.segments).unwrap();
    assert_eq!((now.hash, now.compacted), (1084519789, 10));
    store.put("z", "1", 0);
    assert_eq!(store.kv(11), (974378710, 10));
    assert_eq!(store.kv(9), (1413588, 7), "kept although compacted away");
}

#[test]
fn the_whole_backend_hashes_as_in_etcd() {
    const MEMBER: u64 = 14206537526899429144;
    let mut store = nine_revisions();
    for at in [5, 7, 9] {
        store.compact(at);
    }
    store.delete("a", "z");
    store.compact(10);
    store.put("z", "1", 0);
    let alarm = AlarmRequest { action: 1, member_id: 99, alarm: 1 };
    store.apply(InternalRaftRequest { alarm: Some(alarm), ..Default::default() });

    let context = format!("{{\"id\":{MEMBER},\"peerURLs\":[\"http://127.0.0.1:36087\"],\"name\":\"n1\"}}");
    let change = ConfChange { node_id: Some(MEMBER), context: Some(context.into()), ..Default::default() };
    let (index, _) = store.state.applied();
    store.state.apply_conf_change(index + 1, 2, &change).unwrap();
    store.state.set_conf_state(ConfState { voters: vec![MEMBER], auto_leave: Some(false), ..Default::default() });
    let attributes = ClusterMemberAttrSetRequest {
        member_id: MEMBER,
        member_attributes: Some(crate::proto::membershippb::Attributes {
            name: "n1".into(),
            client_urls: vec!["http://127.0.0.1:52377".into()],
        }),
    };
    store.apply(InternalRaftRequest { cluster_member_attr_set: Some(attributes), ..Default::default() });
    let version = ClusterVersionSetRequest { ver: "3.7.0".into() };
    store.apply(InternalRaftRequest { cluster_version_set: Some(version), ..Default::default() });
    assert_eq!(hash(&store.state, &store.segments).unwrap(), 496050117);
}

#[test]
fn the_ten_newest_compactions_are_kept() {
    let hashes = CompactionHashes::default();
    for revision in 1..=12 {
        hashes.keep(KvHash { hash: revision as u32, compacted: -1, revision });
    }
    assert_eq!(hashes.get(2), None);
    assert_eq!(hashes.get(3).unwrap().hash, 3);
    assert_eq!(hashes.get(12).unwrap().hash, 12);
}
