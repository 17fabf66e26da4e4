//! Who adds, promotes, updates and removes members, one change at a time, and replaces those whose disk is lost. Knows of the
//! members what a linearizable read says; a change of which it does not know how it ended it asks for again until it sees it.

use bytes::Bytes;
use prost::Message as _;

use crate::{
    proto::raftpb::{ConfChange, ConfChangeType},
    random::Random,
    store::membership::{self, Membership, promotion_context},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// A member that is there, but in no cluster.
    Add {
        id: u64,
        learner: bool,
    },
    Promote {
        id: u64,
    },
    Remove {
        id: u64,
    },
    /// It gets its `version`th URL.
    Update {
        id: u64,
        version: u64,
    },
}

/// What it waits for.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    pub slot: u32,
    /// It looks, and changes nothing.
    pub looks: bool,
}

#[derive(Default)]
pub struct Operator {
    /// As last seen.
    pub membership: Membership,
    pub intent: Option<Intent>,
    pub asked: Option<Asked>,
    updates: u64,
}

/// What it needs to know besides.
pub struct Situation<'a> {
    /// Members that have to be replaced.
    pub broken: &'a [u64],
    pub leader: Option<u64>,
    /// Of the cluster as it was founded.
    pub founders: usize,
    /// The id of the next new member.
    pub next_id: u64,
    /// Whether only what is broken is to be mended.
    pub mends: bool,
}

impl Operator {
    /// What it sees now. True if what it wanted has come true.
    pub fn sees(&mut self, membership: &Membership) -> bool {
        self.membership = membership.clone();
        let seen = self.membership.clone();
        let done = self.intent.take_if(|intent| match *intent {
            Intent::Add { id, .. } => seen.get(id).is_some() || seen.is_removed(id),
            Intent::Promote { id } => seen.get(id).is_none_or(|member| !member.is_learner),
            Intent::Remove { id } => seen.get(id).is_none(),
            Intent::Update { id, version } => {
                seen.get(id).is_none_or(|member| member.peer_urls == vec![url(id, version)])
            }
        });
        done.is_some()
    }

    /// What it wanted is refused. There may be a learner already; all else it asks for until it sees it.
    pub fn is_refused(&mut self) {
        self.intent.take_if(|intent| matches!(intent, Intent::Add { learner: true, .. }));
    }

    pub fn voters(&self) -> Vec<u64> {
        self.membership.voters().map(|member| member.id).collect()
    }

    fn learners(&self) -> Vec<u64> {
        self.membership.members().filter(|member| member.is_learner).map(|member| member.id).collect()
    }

    /// Whether the cluster outlives the loss of one more member than of those: nothing is under way that takes a voter away,
    /// and a majority of the voters is left.
    pub fn spares(&self, id: u64, broken: &[u64]) -> bool {
        let voters = self.voters();
        let lost = voters.iter().filter(|voter| broken.contains(voter)).count();
        let known = self.membership.get(id).is_some() && !broken.contains(&id);
        self.intent.is_none() && known && (!voters.contains(&id) || lost < (voters.len().saturating_sub(1)) / 2)
    }

    /// Whether it knows the members, and nothing is left to be done.
    pub fn is_done(&self, broken: &[u64]) -> bool {
        let idles = self.intent.is_none() && self.asked.is_none();
        idles && !self.voters().is_empty() && !broken.iter().any(|id| self.membership.get(*id).is_some())
    }

    /// Decides what to do next, if there is nothing to be done yet.
    pub fn decide(&mut self, random: &mut Random, situation: &Situation<'_>) {
        if self.intent.is_some() {
            return;
        }
        let (voters, learners) = (self.voters(), self.learners());
        if let Some(id) = situation.broken.iter().find(|id| self.membership.get(**id).is_some()) {
            self.intent = Some(Intent::Remove { id: *id });
            return;
        }
        if situation.mends {
            return;
        }
        let (kind, some) = (random.below(12), random.draw());
        let one_of = |ids: &[u64]| ids[some as usize % ids.len()];
        self.intent = match kind {
            0..4 if voters.len() + learners.len() < situation.founders + 2 => {
                Some(Intent::Add { id: situation.next_id, learner: learners.is_empty() && some.is_multiple_of(2) })
            }
            4 | 5 if !learners.is_empty() => Some(Intent::Promote { id: one_of(&learners) }),
            6 if !learners.is_empty() => Some(Intent::Remove { id: one_of(&learners) }),
            7 | 8 if voters.len() > 3 => {
                let leader = situation.leader.filter(|leader| kind == 7 && voters.contains(leader));
                Some(Intent::Remove { id: leader.unwrap_or_else(|| one_of(&voters)) })
            }
            9 => {
                self.updates += 1;
                Some(Intent::Update { id: one_of(&voters), version: self.updates })
            }
            _ => None,
        };
    }

    /// The change as it is logged, and the learner that is to vote, if one is. (As api/cluster.rs makes them.)
    pub fn change(intent: Intent, id: u64) -> (Bytes, Option<u64>) {
        let context =
            |member: membership::Member| serde_json::to_vec(&member).expect("a member has a JSON form").into();
        let (kind, node, context): (_, _, Bytes) = match intent {
            Intent::Add { id, learner } => {
                let kind = match learner {
                    true => ConfChangeType::ConfChangeAddLearnerNode,
                    false => ConfChangeType::ConfChangeAddNode,
                };
                let peer_urls = vec![url(id, 0)];
                (kind, id, context(membership::Member { id, peer_urls, is_learner: learner, ..Default::default() }))
            }
            Intent::Promote { id } => (ConfChangeType::ConfChangeAddNode, id, promotion_context(id).into()),
            Intent::Remove { id } => (ConfChangeType::ConfChangeRemoveNode, id, Bytes::new()),
            Intent::Update { id, version } => {
                let peer_urls = vec![url(id, version)];
                let member = membership::Member { id, peer_urls, ..Default::default() };
                (ConfChangeType::ConfChangeUpdateNode, id, context(member))
            }
        };
        let change = ConfChange {
            id: Some(id),
            r#type: Some(kind as i32),
            node_id: Some(node),
            context: (!context.is_empty()).then_some(context),
        };
        let promotes = match intent {
            Intent::Promote { id } => Some(id),
            _ => None,
        };
        (change.encode_to_vec().into(), promotes)
    }
}

pub fn url(id: u64, version: u64) -> String {
    format!("http://m{id:x}-{version}:2380")
}
