//! Who belongs to the cluster, as configuration changes and attribute requests have made it. Mirrors etcd's
//! membership store: an id that was removed never returns.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::proto::raftpb::{self, ConfChangeType};

/// A member. In JSON as etcd stores it in its backend and in configuration changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub id: u64,
    #[serde(rename = "peerURLs", default)]
    pub peer_urls: Vec<String>,
    #[serde(rename = "isLearner", default, skip_serializing_if = "std::ops::Not::not")]
    pub is_learner: bool,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(rename = "clientURLs", default, skip_serializing_if = "Vec::is_empty")]
    pub client_urls: Vec<String>,
}

/// The context of a configuration change: the member, and whether a learner is being promoted.
#[derive(Deserialize)]
struct ChangeContext {
    #[serde(flatten)]
    member: Member,
    #[serde(rename = "isPromote", default)]
    is_promote: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership(Arc<Inner>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Inner {
    members: BTreeMap<u64, Member>,
    removed: BTreeSet<u64>,
}

impl Membership {
    pub fn from_parts(members: impl IntoIterator<Item = Member>, removed: impl IntoIterator<Item = u64>) -> Self {
        let members = members.into_iter().map(|member| (member.id, member)).collect();
        Membership(Arc::new(Inner { members, removed: removed.into_iter().collect() }))
    }

    /// In order of id.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.0.members.values()
    }

    pub fn get(&self, id: u64) -> Option<&Member> {
        self.0.members.get(&id)
    }

    pub fn removed(&self) -> impl Iterator<Item = u64> {
        self.0.removed.iter().copied()
    }

    /// Applies a configuration change. False if it does not fit the members there are (etcd:
    /// RaftCluster.ValidateConfigurationChange): then nothing changes, here or in raft.
    pub fn apply(&mut self, change: &raftpb::ConfChange) -> bool {
        let id = change.node_id.unwrap_or_default();
        if self.0.removed.contains(&id) {
            return false;
        }
        let context = change.context.as_deref().unwrap_or_default();
        let known = self.0.members.contains_key(&id);
        match change.r#type() {
            ConfChangeType::ConfChangeAddNode | ConfChangeType::ConfChangeAddLearnerNode => {
                let Ok(ChangeContext { member, is_promote }) = serde_json::from_slice(context) else { return false };
                if is_promote {
                    if !self.0.members.get(&id).is_some_and(|member| member.is_learner) {
                        return false;
                    }
                    self.edit(id, |member| member.is_learner = false);
                    return true;
                }
                let url_in_use =
                    self.members().any(|other| other.peer_urls.iter().any(|url| member.peer_urls.contains(url)));
                if known || url_in_use {
                    return false;
                }
                Arc::make_mut(&mut self.0).members.insert(id, Member { id, ..member });
                true
            }
            ConfChangeType::ConfChangeRemoveNode => {
                if !known {
                    return false;
                }
                let inner = Arc::make_mut(&mut self.0);
                inner.members.remove(&id);
                inner.removed.insert(id);
                true
            }
            ConfChangeType::ConfChangeUpdateNode => {
                let Ok(ChangeContext { member, .. }) = serde_json::from_slice(context) else { return false };
                let url_in_use = self
                    .members()
                    .filter(|other| other.id != id)
                    .any(|other| other.peer_urls.iter().any(|url| member.peer_urls.contains(url)));
                if !known || url_in_use {
                    return false;
                }
                self.edit(id, |known| known.peer_urls = member.peer_urls);
                true
            }
        }
    }

    /// Takes over a member's published name and client URLs; of a removed or unknown one, nothing.
    pub fn set_attributes(&mut self, id: u64, name: &str, client_urls: &[String]) {
        if self.0.members.contains_key(&id) {
            self.edit(id, |member| {
                member.name = name.to_owned();
                member.client_urls = client_urls.to_vec();
            });
        }
    }

    fn edit(&mut self, id: u64, edit: impl FnOnce(&mut Member)) {
        edit(Arc::make_mut(&mut self.0).members.get_mut(&id).expect("the member was just seen"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(kind: ConfChangeType, id: u64, context: &str) -> raftpb::ConfChange {
        raftpb::ConfChange {
            id: None,
            r#type: Some(kind as i32),
            node_id: Some(id),
            context: Some(context.to_owned().into()),
        }
    }

    #[test]
    fn a_learner_is_added_promoted_updated_and_removed_for_good() {
        use ConfChangeType::*;
        let mut membership = Membership::default();
        let learner = r#"{"id":5,"peerURLs":["http://a"],"isLearner":true}"#;
        assert!(membership.apply(&change(ConfChangeAddLearnerNode, 5, learner)));
        assert!(!membership.apply(&change(ConfChangeAddNode, 6, r#"{"id":6,"peerURLs":["http://a"]}"#)), "URL in use");
        assert!(membership.get(5).unwrap().is_learner);
        assert!(membership.apply(&change(ConfChangeAddNode, 5, r#"{"id":5,"isPromote":true}"#)));
        assert!(!membership.get(5).unwrap().is_learner);
        assert!(!membership.apply(&change(ConfChangeAddNode, 5, r#"{"id":5,"isPromote":true}"#)), "promoted twice");
        membership.set_attributes(5, "n5", &["http://c".into()]);
        assert!(membership.apply(&change(ConfChangeUpdateNode, 5, r#"{"id":5,"peerURLs":["http://b"]}"#)));
        let member = membership.get(5).unwrap();
        assert_eq!((member.peer_urls.as_slice(), member.name.as_str()), (["http://b".to_owned()].as_slice(), "n5"));
        assert!(membership.apply(&change(ConfChangeRemoveNode, 5, "")));
        assert!(!membership.apply(&change(ConfChangeAddNode, 5, r#"{"id":5,"peerURLs":["http://d"]}"#)));
        assert!(membership.members().next().is_none());
    }

    #[test]
    fn a_context_that_is_no_json_changes_nothing() {
        let mut membership = Membership::default();
        assert!(!membership.apply(&change(ConfChangeType::ConfChangeAddNode, 5, "{")));
        assert_eq!(membership, Membership::default());
    }
}
