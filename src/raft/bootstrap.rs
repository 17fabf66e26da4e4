//! How a member begins. A new cluster's log starts as an etcd cluster's does, with one ConfChangeAddNode entry a
//! member at term 1 carrying the member's JSON, so that the data directory of a cluster of one can later be joined by
//! others. The crate has no StartNode: these entries are written to the log, committed, before it is started.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message as _;
use raft::eraftpb::EntryType;
use serde::Serialize;

use crate::proto::{
    etcdserverpb, membershippb,
    raftpb::{self, ConfChangeType},
};

/// A member as a new cluster's first entries name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founder {
    pub id: u64,
    pub name: String,
    pub peer_urls: Vec<String>,
}

/// An entry of a log that has not begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstEntry {
    pub index: u64,
    pub term: u64,
    pub kind: EntryType,
    pub data: Bytes,
}

/// The member's JSON in a configuration change (etcd: membership.Member, fields in this order, empty ones left out).
#[derive(Serialize)]
struct MemberJson<'a> {
    id: u64,
    #[serde(rename = "peerURLs")]
    peer_urls: &'a [String],
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
}

/// The entries every new cluster's log begins with: index 1 on, term 1, members in order of id. All are committed.
pub fn first_entries(founders: &[Founder]) -> Vec<FirstEntry> {
    let mut founders: Vec<&Founder> = founders.iter().collect();
    founders.sort_by_key(|founder| founder.id);
    let entry = |(at, founder): (usize, &Founder)| {
        let mut peer_urls = founder.peer_urls.clone();
        peer_urls.sort();
        let json = MemberJson { id: founder.id, peer_urls: &peer_urls, name: &founder.name };
        let change = raftpb::ConfChange {
            id: None,
            r#type: Some(raftpb::ConfChangeType::ConfChangeAddNode as i32),
            node_id: Some(founder.id),
            context: Some(serde_json::to_vec(&json).expect("a member has a JSON form").into()),
        };
        let data = change.encode_to_vec().into();
        FirstEntry { index: at as u64 + 1, term: 1, kind: EntryType::EntryConfChange, data }
    };
    founders.into_iter().enumerate().map(entry).collect()
}

/// Who belongs to a cluster after these entries. (etcd: storage.GetEffectiveNodeIDsFromWALEntries.)
pub fn members_of<'a>(conf_state: &raftpb::ConfState, entries: impl Iterator<Item = (u8, &'a Bytes)>) -> BTreeSet<u64> {
    let mut ids: BTreeSet<u64> = conf_state.voters.iter().chain(&conf_state.learners).copied().collect();
    for (kind, data) in entries {
        if kind != EntryType::EntryConfChange as u8 {
            continue;
        }
        // What cannot be read changes nobody, here as where it is applied.
        let Ok(change) = raftpb::ConfChange::decode(data.clone()) else { continue };
        match change.r#type() {
            ConfChangeType::ConfChangeAddNode | ConfChangeType::ConfChangeAddLearnerNode => {
                ids.insert(change.node_id());
            }
            ConfChangeType::ConfChangeRemoveNode => {
                ids.remove(&change.node_id());
            }
            ConfChangeType::ConfChangeUpdateNode => {}
        }
    }
    ids
}

/// The changes after which nobody but `own` belongs to a cluster of these members, as data of entries. Its own addition,
/// where it is none of them, comes first: there is always somebody. (etcd: storage.CreateConfigChangeEnts.)
pub fn forced_changes(ids: &BTreeSet<u64>, own: u64) -> Vec<Bytes> {
    let mut changes = Vec::new();
    if !ids.contains(&own) {
        let member = MemberJson { id: own, peer_urls: &["http://localhost:2380".to_owned()], name: "" };
        changes.push(raftpb::ConfChange {
            id: None,
            r#type: Some(ConfChangeType::ConfChangeAddNode as i32),
            node_id: Some(own),
            context: Some(serde_json::to_vec(&member).expect("a member has a JSON form").into()),
        });
    }
    changes.extend(ids.iter().filter(|id| **id != own).map(|id| raftpb::ConfChange {
        id: None,
        r#type: Some(ConfChangeType::ConfChangeRemoveNode as i32),
        node_id: Some(*id),
        context: None,
    }));
    changes.into_iter().map(|change| change.encode_to_vec().into()).collect()
}

/// The request by which a member makes its name and client URLs known once it serves (etcd: publishV3).
pub fn attributes_request(id: u64, member: u64, name: &str, client_urls: &[String]) -> Bytes {
    etcdserverpb::InternalRaftRequest {
        header: Some(header(id)),
        cluster_member_attr_set: Some(membershippb::ClusterMemberAttrSetRequest {
            member_id: member,
            member_attributes: Some(membershippb::Attributes {
                name: name.to_owned(),
                client_urls: client_urls.to_vec(),
            }),
        }),
        ..Default::default()
    }
    .encode_to_vec()
    .into()
}

/// The request by which the leader states the cluster's version, `major.minor.0`.
pub fn cluster_version_request(id: u64, version: &str) -> Bytes {
    etcdserverpb::InternalRaftRequest {
        header: Some(header(id)),
        cluster_version_set: Some(membershippb::ClusterVersionSetRequest { ver: version.to_owned() }),
        ..Default::default()
    }
    .encode_to_vec()
    .into()
}

/// The request by which a downgrade to a version begins, or, without one, is called off.
pub fn downgrade_request(id: u64, target: Option<&str>) -> Bytes {
    etcdserverpb::InternalRaftRequest {
        header: Some(header(id)),
        downgrade_info_set: Some(membershippb::DowngradeInfoSetRequest {
            enabled: target.is_some(),
            ver: target.unwrap_or_default().to_owned(),
        }),
        ..Default::default()
    }
    .encode_to_vec()
    .into()
}

fn header(id: u64) -> etcdserverpb::RequestHeader {
    etcdserverpb::RequestHeader { id, ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes a reference 3.7.3 member logs for itself, read from its WAL.
    #[test]
    fn the_first_entry_is_the_one_etcd_writes() {
        let founder = Founder {
            id: 13049071153751544597,
            name: "default".into(),
            peer_urls: vec!["http://127.0.0.1:24380".into()],
        };
        let entries = first_entries(std::slice::from_ref(&founder));
        let mut wanted = b"\x10\x00\x18\x95\xa6\xa1\x81\xbd\xa2\xe7\x8b\xb5\x01\x22\x52".to_vec();
        wanted.extend(
            br#"{"id":13049071153751544597,"peerURLs":["http://127.0.0.1:24380"],"name":"default"}"#.as_slice(),
        );
        assert_eq!(entries.len(), 1);
        assert_eq!((entries[0].index, entries[0].term), (1, 1));
        assert_eq!(entries[0].kind, EntryType::EntryConfChange);
        assert_eq!(entries[0].data, wanted);
    }

    #[test]
    fn the_members_own_requests_are_the_ones_etcd_writes() {
        let id = u64::from_le_bytes([0x81, 0, 0, 0, 0, 0, 0, 0]);
        let data = attributes_request(id, 5, "n", &["http://a".into()]);
        assert_eq!(&data[..], b"\xa2\x06\x03\x08\x81\x01\xaa\x51\x11\x08\x05\x12\x0d\x0a\x01n\x12\x08http://a");
        let data = cluster_version_request(id, "3.7.0");
        assert_eq!(&data[..], b"\xa2\x06\x03\x08\x81\x01\xa2\x51\x07\x0a\x053.7.0");
    }

    #[test]
    fn founders_are_logged_in_order_of_id() {
        let founder =
            |id| Founder { id, name: format!("n{id}"), peer_urls: vec!["http://b".into(), "http://a".into()] };
        let entries = first_entries(&[founder(9), founder(3)]);
        let nodes: Vec<_> =
            entries.iter().map(|e| raftpb::ConfChange::decode(e.data.clone()).unwrap().node_id.unwrap()).collect();
        assert_eq!(nodes, [3, 9]);
        assert_eq!(entries[1].index, 2);
    }
}
