//! Who belongs to the cluster, as etcd's second store has it: a tree of nodes in JSON, in which each member is a folder.
//! Nothing but the membership is left of that store, and it goes with every snapshot that members send each other: etcd up
//! to 3.6 takes it in, 3.7 sends it and looks at it no more. (etcd: etcdserver/cluster_util.go, GetMembershipInfoInV2Format;
//! membership/storev2.go; v2store.)

use std::collections::BTreeMap;

use serde::Serialize;

use super::{backend::go_json, membership::Member, state::State};

/// Those that never expire.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// The version of that store's own format.
const VERSION: u32 = 2;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    path: String,
    created_index: u64,
    modified_index: u64,
    expire_time: &'static str,
    value: String,
    /// None: it has a value.
    children: Option<BTreeMap<String, Node>>,
}

/// The store. What it counts, and the changes that it remembers for its watchers, are left as the receiver has them.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Store {
    root: Node,
    current_index: u64,
    current_version: u32,
}

#[derive(Serialize)]
struct RaftAttributes<'a> {
    #[serde(rename = "peerURLs")]
    peer_urls: &'a [String],
    #[serde(rename = "isLearner", skip_serializing_if = "std::ops::Not::not")]
    is_learner: bool,
}

#[derive(Serialize)]
struct Attributes<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(rename = "clientURLs", skip_serializing_if = "<[String]>::is_empty")]
    client_urls: &'a [String],
}

impl Node {
    fn folder(path: &str) -> Node {
        Node {
            path: path.to_owned(),
            created_index: 0,
            modified_index: 0,
            expire_time: NEVER,
            value: String::new(),
            children: Some(BTreeMap::new()),
        }
    }

    /// Puts a value, and the folders above it that are not there, in the change of that number.
    fn put(&mut self, way: &[&str], value: String, index: u64) {
        let (name, below) = way.split_first().expect("a value has a name");
        let path = format!("{}/{name}", if self.path == "/" { "" } else { &self.path });
        let children = self.children.as_mut().expect("values lie in folders");
        let node = children.entry((*name).to_owned()).or_insert_with(|| Node {
            created_index: index,
            modified_index: index,
            ..Node::folder(&path)
        });
        if below.is_empty() {
            (node.value, node.children) = (value, None);
        } else {
            node.put(below, value, index);
        }
    }
}

/// The folder of what the store's owner keeps.
const OWN: &str = "0";

/// The membership of a state, in the bytes that go with a snapshot.
pub fn membership_json(state: &State) -> Vec<u8> {
    let mut root = Node::folder("/");
    // The second is of keys, and empty.
    for name in [OWN, "1"] {
        let path = format!("/{name}");
        root.children.as_mut().expect("a folder").insert(name.to_owned(), Node::folder(&path));
    }
    let mut index = 0;
    let mut put = |way: &[&str], value: String| {
        index += 1;
        root.put(way, value, index);
    };
    for Member { id, peer_urls, is_learner, name, client_urls } in state.membership.members() {
        let id = format!("{id:x}");
        let attributes = RaftAttributes { peer_urls, is_learner: *is_learner };
        put(&[OWN, "members", &id, "raftAttributes"], json(&attributes));
        if !client_urls.is_empty() {
            put(&[OWN, "members", &id, "attributes"], json(&Attributes { name, client_urls }));
        }
    }
    for id in state.membership.removed() {
        put(&[OWN, "removed_members", &format!("{id:x}")], String::new());
    }
    if let Some(version) = &state.cluster_version {
        put(&[OWN, "version"], version.to_string());
    }
    json(&Store { root, current_index: index, current_version: VERSION }).into_bytes()
}

fn json(of: &impl Serialize) -> String {
    go_json(&serde_json::to_string(of).expect("texts and numbers have a JSON form"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::membership::Membership;

    /// What a reference 3.7.3 makes of the same members, but for what its store remembers of its changes and counts.
    #[test]
    fn it_is_the_tree_that_etcd_sends() {
        let mut state = State::new(1);
        let first = Member {
            id: 0x10,
            peer_urls: vec!["http://a:2380".into()],
            is_learner: false,
            name: "a<b".into(),
            client_urls: vec!["http://a:2379".into()],
        };
        let second = Member {
            id: 0xabcd_ef01_2345_6789,
            peer_urls: vec!["http://b:2380".into()],
            is_learner: true,
            ..Member::default()
        };
        state.membership = Membership::from_parts([first, second], []);
        let wanted = concat!(
            r#"{"Root":{"Path":"/","CreatedIndex":0,"ModifiedIndex":0,"ExpireTime":"0001-01-01T00:00:00Z","Value":"","#,
            r#""Children":{"0":{"Path":"/0","CreatedIndex":0,"ModifiedIndex":0,"ExpireTime":"0001-01-01T00:00:00Z","#,
            r#""Value":"","Children":{"members":{"Path":"/0/members","CreatedIndex":1,"ModifiedIndex":1,"#,
            r#""ExpireTime":"0001-01-01T00:00:00Z","Value":"","Children":{"10":{"Path":"/0/members/10","#,
            r#""CreatedIndex":1,"ModifiedIndex":1,"ExpireTime":"0001-01-01T00:00:00Z","Value":"","Children":{"#,
            r#""attributes":{"Path":"/0/members/10/attributes","CreatedIndex":2,"ModifiedIndex":2,"#,
            r#""ExpireTime":"0001-01-01T00:00:00Z","Value":"{\"name\":\"a\\u003cb\",\"clientURLs\":"#,
            r#"[\"http://a:2379\"]}","Children":null},"raftAttributes":{"Path":"/0/members/10/raftAttributes","#,
            r#""CreatedIndex":1,"ModifiedIndex":1,"ExpireTime":"0001-01-01T00:00:00Z","#,
            r#""Value":"{\"peerURLs\":[\"http://a:2380\"]}","Children":null}}},"abcdef0123456789":"#,
            r#"{"Path":"/0/members/abcdef0123456789","CreatedIndex":3,"ModifiedIndex":3,"#,
            r#""ExpireTime":"0001-01-01T00:00:00Z","Value":"","Children":{"raftAttributes":"#,
            r#"{"Path":"/0/members/abcdef0123456789/raftAttributes","CreatedIndex":3,"ModifiedIndex":3,"#,
            r#""ExpireTime":"0001-01-01T00:00:00Z","Value":"{\"peerURLs\":[\"http://b:2380\"],"#,
            r#"\"isLearner\":true}","Children":null}}}}}}},"1":{"Path":"/1","CreatedIndex":0,"ModifiedIndex":0,"#,
            r#""ExpireTime":"0001-01-01T00:00:00Z","Value":"","Children":{}}}},"CurrentIndex":3,"CurrentVersion":2}"#,
        );
        assert_eq!(String::from_utf8(membership_json(&state)).unwrap(), wanted);
    }

    #[test]
    fn who_was_removed_and_the_version_are_in_it() {
        let mut state = State::new(1);
        state.membership = Membership::from_parts([], [0xab]);
        state.cluster_version = Some("3.7.0".into());
        let json: serde_json::Value = serde_json::from_slice(&membership_json(&state)).unwrap();
        let own = &json["Root"]["Children"]["0"]["Children"];
        assert_eq!(own["removed_members"]["Children"]["ab"]["Path"], "/0/removed_members/ab");
        assert_eq!(own["version"]["Value"], "3.7.0");
    }
}
