//! Who belongs to the cluster, as configuration changes and attribute requests have made it. Mirrors etcd's
//! membership store: an id that was removed never returns.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Deserializer, Serialize};

use crate::{
    error::{self, Status},
    proto::raftpb::{self, ConfChangeType},
};

/// A member. In JSON as etcd stores it in its backend and in configuration changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub id: u64,
    #[serde(rename = "peerURLs", default, deserialize_with = "nothing_is_none")]
    pub peer_urls: Vec<String>,
    #[serde(rename = "isLearner", default, skip_serializing_if = "std::ops::Not::not")]
    pub is_learner: bool,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(rename = "clientURLs", default, skip_serializing_if = "Vec::is_empty")]
    pub client_urls: Vec<String>,
}

impl Member {
    /// Whether it has ever run: what it is called it says itself.
    pub fn is_started(&self) -> bool {
        !self.name.is_empty()
    }
}

/// What etcd writes for a list that is not there is `null`.
fn nothing_is_none<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// The context of the change that lets a learner vote, byte for byte as etcd has it.
pub fn promotion_context(id: u64) -> String {
    format!(r#"{{"id":{id},"peerURLs":null,"isPromote":true}}"#)
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

    /// Whether this is the very same, and not only alike: nothing has changed between the two.
    pub fn is_same(&self, other: &Membership) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
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

    pub fn is_removed(&self, id: u64) -> bool {
        self.0.removed.contains(&id)
    }

    /// Those that vote.
    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members().filter(|member| !member.is_learner)
    }

    /// Whether most voters would be running if one more, which is not, were added. One alone may always be joined by
    /// another. (etcd: RaftCluster.IsReadyToAddVotingMember.)
    pub fn may_add_voter(&self) -> bool {
        let (started, voters) = count(self.voters());
        started == 1 && voters == 1 || started >= quorum(voters + 1)
    }

    /// Whether most voters would be running without this one. (etcd: RaftCluster.IsReadyToRemoveVotingMember.)
    pub fn may_remove_voter(&self, id: u64) -> bool {
        let (started, voters) = count(self.voters().filter(|member| member.id != id));
        started >= quorum(voters)
    }

    /// Whether most voters would be running if a learner, which is, were one. (etcd: RaftCluster.IsReadyToPromoteMember.)
    pub fn may_promote(&self) -> bool {
        let (started, voters) = count(self.voters());
        started + 1 >= quorum(voters + 1)
    }

    /// Whether a configuration change fits the members there are. (etcd: RaftCluster.ValidateConfigurationChange.)
    ///
    /// # Errors
    /// What etcd answers to who has asked for it.
    pub fn check(&self, change: &raftpb::ConfChange, learners_max: usize) -> Result<(), Status> {
        self.judge(change, learners_max).map(drop)
    }

    /// Applies a configuration change, or does nothing: then raft must not see it either. An etcd that leads logs a change
    /// before anybody has looked whether it fits, a learner too many as well: that it does not, every member finds here.
    ///
    /// # Errors
    /// As `check`.
    pub fn apply(&mut self, change: &raftpb::ConfChange, learners_max: usize) -> Result<(), Status> {
        match self.judge(change, learners_max)? {
            Verdict::Add(member) => {
                Arc::make_mut(&mut self.0).members.insert(member.id, member);
            }
            Verdict::Promote(id) => self.edit(id, |member| member.is_learner = false),
            Verdict::Remove(id) => {
                let inner = Arc::make_mut(&mut self.0);
                inner.members.remove(&id);
                inner.removed.insert(id);
            }
            Verdict::Update(id, urls) => self.edit(id, |member| member.peer_urls = urls),
        }
        Ok(())
    }

    fn judge(&self, change: &raftpb::ConfChange, learners_max: usize) -> Result<Verdict, Status> {
        let id = change.node_id.unwrap_or_default();
        if self.0.removed.contains(&id) {
            return Err(error::MEMBER_NOT_FOUND);
        }
        let known = self.get(id);
        let context = || {
            let context = change.context.as_deref().unwrap_or_default();
            serde_json::from_slice::<ChangeContext>(context)
                .map_err(|cause| Status::internal(format!("the member of a configuration change is no JSON: {cause}")))
        };
        let in_use = |urls: &[String]| {
            let others = self.members().filter(|other| other.id != id);
            match others.flat_map(|other| &other.peer_urls).any(|url| urls.contains(url)) {
                true => Err(error::PEER_URL_EXIST),
                false => Ok(()),
            }
        };
        match change.r#type() {
            kind @ (ConfChangeType::ConfChangeAddNode | ConfChangeType::ConfChangeAddLearnerNode) => {
                let ChangeContext { member, is_promote } = context()?;
                match known {
                    None if is_promote => return Err(error::MEMBER_NOT_FOUND),
                    Some(known) if is_promote && !known.is_learner => return Err(error::MEMBER_NOT_LEARNER),
                    Some(_) if is_promote => return Ok(Verdict::Promote(id)),
                    Some(_) => return Err(error::MEMBER_EXIST),
                    None => {}
                }
                in_use(&member.peer_urls)?;
                let learners = self.members().filter(|member| member.is_learner).count();
                if member.is_learner && kind == ConfChangeType::ConfChangeAddLearnerNode && learners >= learners_max {
                    return Err(error::TOO_MANY_LEARNERS);
                }
                Ok(Verdict::Add(Member { id, ..member }))
            }
            ConfChangeType::ConfChangeRemoveNode => match known {
                Some(_) => Ok(Verdict::Remove(id)),
                None => Err(error::MEMBER_NOT_FOUND),
            },
            ConfChangeType::ConfChangeUpdateNode => {
                if known.is_none() {
                    return Err(error::MEMBER_NOT_FOUND);
                }
                let ChangeContext { member, .. } = context()?;
                in_use(&member.peer_urls)?;
                Ok(Verdict::Update(id, member.peer_urls))
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

/// What a configuration change does to members that it fits.
enum Verdict {
    Add(Member),
    Promote(u64),
    Remove(u64),
    Update(u64, Vec<String>),
}

/// How many of these run, and how many there are.
fn count<'a>(members: impl Iterator<Item = &'a Member>) -> (usize, usize) {
    members.fold((0, 0), |(started, all), member| (started + usize::from(member.is_started()), all + 1))
}

fn quorum(voters: usize) -> usize {
    voters / 2 + 1
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
        fn apply(membership: &mut Membership, kind: ConfChangeType, id: u64, context: &str) -> Result<(), Status> {
            membership.apply(&change(kind, id, context), 1)
        }
        let learner = r#"{"id":5,"peerURLs":["http://a"],"isLearner":true}"#;
        assert_eq!(apply(&mut membership, ConfChangeAddLearnerNode, 5, learner), Ok(()));
        assert_eq!(apply(&mut membership, ConfChangeAddLearnerNode, 5, learner), Err(error::MEMBER_EXIST));
        let same_url = r#"{"id":6,"peerURLs":["http://a"]}"#;
        assert_eq!(apply(&mut membership, ConfChangeAddNode, 6, same_url), Err(error::PEER_URL_EXIST));
        let second = r#"{"id":6,"peerURLs":["http://e"],"isLearner":true}"#;
        let second = change(ConfChangeAddLearnerNode, 6, second);
        assert_eq!(membership.check(&second, 1), Err(error::TOO_MANY_LEARNERS));
        assert_eq!(membership.check(&second, 2), Ok(()));
        assert_eq!(membership.clone().apply(&second, 1), Err(error::TOO_MANY_LEARNERS), "logged by an etcd unseen");
        assert_eq!(membership.clone().apply(&second, 2), Ok(()));
        assert!(membership.get(5).unwrap().is_learner);
        let promotion = promotion_context(5);
        assert_eq!(apply(&mut membership, ConfChangeAddNode, 6, &promotion_context(6)), Err(error::MEMBER_NOT_FOUND));
        assert_eq!(apply(&mut membership, ConfChangeAddNode, 5, &promotion), Ok(()));
        assert!(!membership.get(5).unwrap().is_learner);
        assert_eq!(apply(&mut membership, ConfChangeAddNode, 5, &promotion), Err(error::MEMBER_NOT_LEARNER));
        membership.set_attributes(5, "n5", &["http://c".into()]);
        let moved = r#"{"id":5,"peerURLs":["http://b"]}"#;
        assert_eq!(apply(&mut membership, ConfChangeUpdateNode, 5, moved), Ok(()));
        assert_eq!(apply(&mut membership, ConfChangeUpdateNode, 6, moved), Err(error::MEMBER_NOT_FOUND));
        let member = membership.get(5).unwrap();
        assert_eq!((member.peer_urls.as_slice(), member.name.as_str()), (["http://b".to_owned()].as_slice(), "n5"));
        assert_eq!(apply(&mut membership, ConfChangeRemoveNode, 5, ""), Ok(()));
        assert_eq!(apply(&mut membership, ConfChangeRemoveNode, 5, ""), Err(error::MEMBER_NOT_FOUND));
        let again = r#"{"id":5,"peerURLs":["http://d"]}"#;
        assert_eq!(apply(&mut membership, ConfChangeAddNode, 5, again), Err(error::MEMBER_NOT_FOUND), "gone for good");
        assert!(membership.members().next().is_none());
    }

    #[test]
    fn a_context_that_is_no_json_changes_nothing() {
        let mut membership = Membership::default();
        assert!(membership.apply(&change(ConfChangeType::ConfChangeAddNode, 5, "{"), 1).is_err());
        assert_eq!(membership, Membership::default());
    }

    #[test]
    fn changes_that_would_lose_the_quorum_are_known() {
        let member = |id, name: &str, is_learner| Member {
            id,
            name: name.into(),
            is_learner,
            peer_urls: vec![format!("http://{id}")],
            client_urls: Vec::new(),
        };
        let alone = Membership::from_parts([member(1, "a", false)], []);
        assert!(alone.may_add_voter() && !alone.may_remove_voter(1) && alone.may_remove_voter(9));
        let with_learner = Membership::from_parts([member(1, "a", false), member(2, "", true)], []);
        assert!(with_learner.may_add_voter() && !with_learner.may_remove_voter(1));
        let waiting = Membership::from_parts([member(1, "a", false), member(2, "", false)], []);
        assert!(!waiting.may_add_voter(), "two of three would not run");
        assert!(waiting.may_remove_voter(2) && !waiting.may_remove_voter(1));
        let both = Membership::from_parts([member(1, "a", false), member(2, "b", false)], []);
        assert!(both.may_add_voter() && both.may_remove_voter(1));
    }
}
