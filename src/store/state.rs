//! The applied state: everything that the log up to one index has made. Copy-on-write throughout, so that a clone is
//! an immutable view of the moment. `apply.rs` changes it; nothing else does.

use std::sync::Arc;

use super::{
    index::Index,
    lease::LeaseBook,
    membership::{Member, Membership},
};
use crate::{
    auth::Auth,
    limits,
    proto::{etcdserverpb::AlarmType, raftpb},
};

/// Alarms that are raised, in order of kind and member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alarms(Arc<Vec<(i32, u64)>>);

impl Alarms {
    pub fn from_parts(mut alarms: Vec<(i32, u64)>) -> Self {
        alarms.sort_unstable();
        Alarms(Arc::new(alarms))
    }

    /// Kind and member of each.
    pub fn iter(&self) -> impl Iterator<Item = (i32, u64)> + '_ {
        self.0.iter().copied()
    }

    pub fn is_raised(&self, kind: AlarmType) -> bool {
        self.0.iter().any(|(raised, _)| *raised == kind as i32)
    }

    pub(super) fn raise(&mut self, kind: i32, member: u64) {
        if let Err(at) = self.0.binary_search(&(kind, member)) {
            Arc::make_mut(&mut self.0).insert(at, (kind, member));
        }
    }

    /// True if it was raised.
    pub(super) fn clear(&mut self, kind: i32, member: u64) -> bool {
        match self.0.binary_search(&(kind, member)) {
            Ok(at) => {
                Arc::make_mut(&mut self.0).remove(at);
                true
            }
            Err(_) => false,
        }
    }
}

/// A downgrade that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Downgrade {
    pub target: String,
}

#[derive(Clone, Debug)]
pub struct State {
    pub index: Index,
    pub leases: LeaseBook,
    pub alarms: Alarms,
    pub membership: Membership,
    pub auth: Auth,
    /// `major.minor.0`; None until the first leader has stated it.
    pub cluster_version: Option<Arc<str>>,
    pub downgrade: Option<Arc<Downgrade>>,
    pub(super) conf_state: Arc<raftpb::ConfState>,
    pub(super) applied_index: u64,
    pub(super) applied_term: u64,
    /// Shortest lease, in seconds: one and a half election timeouts, rounded up. The same on every member.
    pub(super) lease_ttl_min: i64,
    /// `--max-learners`.
    pub(super) learners_max: usize,
    /// What counts in its place up to an entry.
    pub(super) learners_max_until: (u64, usize),
}

impl State {
    pub fn new(lease_ttl_min: i64) -> Self {
        State {
            index: Index::new(),
            leases: LeaseBook::default(),
            alarms: Alarms::default(),
            membership: Membership::default(),
            auth: Auth::default(),
            cluster_version: None,
            downgrade: None,
            conf_state: Arc::default(),
            applied_index: 0,
            applied_term: 0,
            lease_ttl_min,
            learners_max: limits::LEARNERS_DEFAULT,
            learners_max_until: (0, 0),
        }
    }

    /// The version of the storage's schema in etcd's terms, which follows the cluster's. None before that is decided.
    pub fn storage_version(&self) -> Option<&str> {
        self.cluster_version.as_deref()
    }

    /// Index and term of the last applied entry.
    pub fn applied(&self) -> (u64, u64) {
        (self.applied_index, self.applied_term)
    }

    /// What came from another member says of which entry it is; the term of that is its sender's word.
    pub fn set_applied_term(&mut self, term: u64) {
        self.applied_term = term;
    }

    /// Makes the state that of a cluster which these members found, whatever it was before: their entries, one each, are
    /// all that the cluster's log holds. (etcd: etcdutl/snapshot, saveWALAndSnap.)
    pub fn found(&mut self, founders: Vec<Member>) {
        let voters: Vec<u64> = founders.iter().map(|founder| founder.id).collect();
        (self.applied_index, self.applied_term) = (voters.len() as u64, 1);
        self.set_conf_state(raftpb::ConfState { voters, auto_leave: Some(false), ..Default::default() });
        self.membership = Membership::from_parts(founders, []);
    }

    pub fn set_lease_ttl_min(&mut self, seconds: i64) {
        self.lease_ttl_min = seconds;
    }

    pub fn lease_ttl_min(&self) -> i64 {
        self.lease_ttl_min
    }

    pub fn set_learners_max(&mut self, learners: usize) {
        self.learners_max = learners;
    }

    pub fn learners_max(&self) -> usize {
        self.learners_max
    }

    /// Entries up to this one may have been applied before, by a process with this bound: they come to the same again.
    pub fn set_learners_max_until(&mut self, index: u64, learners: usize) {
        self.learners_max_until = (index, learners);
    }

    pub fn conf_state(&self) -> &raftpb::ConfState {
        &self.conf_state
    }

    pub fn set_conf_state(&mut self, conf_state: raftpb::ConfState) {
        self.conf_state = Arc::new(conf_state);
    }
}
