//! What is to be logged, on its way to the crate: a leader appends it, another member sends it to the leader. Requests go
//! many at a time, changes of the members one by one.

use bytes::Bytes;
use prost::Message as _;
use raft::eraftpb::{Entry, EntryType, Message, MessageType};

use super::{Caller, Core, Queued};
use crate::{
    error::{self, Status},
    limits,
    proto::etcdserverpb::InternalRaftRequest,
    raft::{mail::Proposal, translate},
};

/// Of what the member proposes by itself: it is not given up.
const FOREVER: u64 = u64::MAX;

/// What this member has said of itself: its request, and the id by which that is known.
pub(super) struct Introduction {
    pub id: u64,
    data: Bytes,
}

impl Core {
    /// Takes what another member has sent on to this one. Beyond the bounds it is lost, as any message may be: its caller
    /// waits no longer than for one that is.
    pub(super) fn forwarded(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            if self.queued_bytes + entry.data.len() > limits::PROPOSAL_BYTES_QUEUED {
                return;
            }
            let queued = Queued { caller: None, id: 0, data: entry.data, came: self.ticks, only_in: None };
            self.queued_bytes += queued.data.len();
            match entry.entry_type {
                EntryType::EntryNormal => self.queue.push_back(queued),
                EntryType::EntryConfChange => self.changes.push_back(queued),
                // No member of etcd's makes one.
                EntryType::EntryConfChangeV2 => self.queued_bytes -= queued.data.len(),
            }
        }
    }

    /// Proposes a request of the member's own, with nobody waiting: its attributes, the cluster's version.
    pub fn propose_own(&mut self, data: Bytes) {
        self.queued_bytes += data.len();
        self.queue.push_back(Queued { caller: None, id: 0, data, came: FOREVER, only_in: None });
    }

    /// Proposes to make this member known to all; to be asked again where it is not known in time.
    pub fn introduce(&mut self, id: u64, data: Bytes) {
        self.introduction = Some(Introduction { id, data: data.clone() });
        self.queued_bytes += data.len();
        self.queue.push_back(Queued { caller: None, id, data, came: self.ticks, only_in: None });
    }

    /// Whether what this member has said of itself last is known.
    pub fn is_introduced(&self) -> bool {
        self.introduction.is_none()
    }

    /// The state has come from another member, and with it perhaps what this one has said of itself, which is not applied here
    /// any more then.
    pub(super) fn look_for_introduction(&mut self) {
        let own = self.state.membership.get(self.node.raft.id);
        self.introduction.take_if(|introduction| {
            let request = InternalRaftRequest::decode(&introduction.data[..]).unwrap_or_default();
            let said = request.cluster_member_attr_set.and_then(|set| set.member_attributes);
            own.zip(said).is_some_and(|(own, said)| own.name == said.name && own.client_urls == said.client_urls)
        });
    }

    pub(super) fn enqueue(&mut self, caller: Caller, proposal: Proposal) {
        let Proposal { id, data, only_in, .. } = proposal;
        #[cfg(any(test, feature = "sim"))]
        let only_in = only_in.filter(|_| !self.has(super::Planted::RevokesAsDeposed));
        self.queued_bytes += data.len();
        self.queue.push_back(Queued { caller: Some(caller), id, data, came: self.ticks, only_in });
    }

    pub(super) fn configure(&mut self, caller: Caller, id: u64, data: Bytes, promotes: Option<u64>) {
        if promotes.is_some() && !self.is_leader() {
            return self.fail(caller, error::NOT_LEADER);
        }
        if let Err(status) = promotes.map_or(Ok(()), |learner| self.check_caught_up(learner)) {
            return self.fail(caller, status);
        }
        if self.queued_bytes + data.len() > limits::PROPOSAL_BYTES_QUEUED {
            return self.fail(caller, error::TOO_MANY_REQUESTS);
        }
        self.queued_bytes += data.len();
        self.changes.push_back(Queued { caller: Some(caller), id, data, came: self.ticks, only_in: None });
    }

    /// A learner may vote once its log is close behind the leader's. (etcd: server.go, isLearnerReady.)
    fn check_caught_up(&self, learner: u64) -> Result<(), Status> {
        let matched = |id| self.progress(id).map(|(matched, _)| matched);
        let (Some(learner), Some(own)) = (matched(learner), matched(self.node.raft.id)) else {
            return Err(error::MEMBER_NOT_FOUND);
        };
        match learner * 100 >= own * limits::LEARNER_READY_PERCENT {
            true => Ok(()),
            false => Err(error::LEARNER_NOT_READY),
        }
    }

    /// Lets go of what nobody waits for any more.
    pub(super) fn look_after_proposals(&mut self) {
        let (now, patience) = (self.ticks, self.request_ticks);
        let is_old = |came: u64| now.saturating_sub(came) > patience;
        self.callers.retain(|_, (_, came)| !is_old(*came));
        for queue in [&mut self.queue, &mut self.changes] {
            queue.retain(|queued| {
                let keep = !is_old(queued.came);
                self.queued_bytes -= if keep { 0 } else { queued.data.len() };
                keep
            });
        }
    }

    /// Alone, a leader gains nothing by handing entries to the crate before they can be written; with followers their
    /// disks run beside its own. While it hands over, it waits for how that ends; so does a member without a leader.
    pub(super) fn may_propose(&self) -> bool {
        let raft = &self.node.raft;
        match self.is_leader() {
            true => raft.lead_transferee.is_none() && (self.in_flight.is_none() || !raft.prs().is_singleton()),
            false => raft.leader_id != 0,
        }
    }

    /// One change at a time: only when it is applied is it known whether the next one fits.
    pub(super) fn may_change(&self) -> bool {
        let taken = self.is_leader() && self.node.raft.has_pending_conf();
        !self.changes.is_empty() && !taken && self.may_propose()
    }

    pub(super) fn propose_change(&mut self) {
        if !self.may_change() {
            return;
        }
        let Queued { caller, id, data, came, .. } = self.changes.pop_front().expect("there is one");
        self.queued_bytes -= data.len();
        let entry = Entry { entry_type: EntryType::EntryConfChange, data, ..Entry::default() };
        let proposed = match self.is_leader() {
            true => self.append_change(entry, caller.is_some()),
            false => self.propose(vec![entry]),
        };
        match (proposed, caller) {
            (Ok(()), Some(caller)) => drop(self.callers.insert(id, (caller, came))),
            (Err(status), Some(caller)) => self.fail(caller, status),
            (_, None) => {}
        }
    }

    /// What the crate does with a proposed change, but for its look into the bytes: to its runtime a learner in etcd's
    /// number is no change at all, and it drops the proposal.
    ///
    /// One that does not fit is refused at once where its caller is here (`is_own`). Who waits at another member is told by
    /// what that member applies, and by nothing else: it is logged, and does nothing anywhere.
    fn append_change(&mut self, entry: Entry, is_own: bool) -> Result<(), Status> {
        let (change, _) = translate::conf_change(&entry.data).map_err(|cause| Status::internal(cause.to_string()))?;
        if is_own {
            self.state.membership.check(&change, self.state.learners_max())?;
        }
        #[cfg(any(test, feature = "sim"))]
        let data = entry.data.clone();
        let raft = &mut self.node.raft;
        if !raft.append_entry(&mut [entry]) {
            return Err(error::TOO_MANY_REQUESTS);
        }
        raft.pending_conf_index = raft.raft_log.last_index();
        raft.bcast_append();
        #[cfg(any(test, feature = "sim"))]
        self.change_early(&data);
        Ok(())
    }

    pub(super) fn propose_queued(&mut self) {
        if self.queue.is_empty() || !self.may_propose() {
            return;
        }
        let (mut entries, mut ids, mut bytes) = (Vec::with_capacity(self.queue.len()), Vec::new(), 0);
        while bytes < limits::WRITE_BATCH_BYTES {
            let Some(queued) = self.queue.pop_front() else { break };
            if queued.only_in.is_some_and(|term| !self.is_leader() || term != self.node.raft.term) {
                // Who led then has nothing to say now: it must not be sent to who leads.
                self.queued_bytes -= queued.data.len();
                queued.caller.into_iter().for_each(|caller| self.fail(caller, error::LEADER_CHANGED));
                continue;
            }
            bytes += queued.data.len();
            if let Some(caller) = queued.caller {
                self.callers.insert(queued.id, (caller, queued.came));
                ids.push(queued.id);
            }
            entries.push(Entry { data: queued.data, ..Entry::default() });
        }
        self.queued_bytes -= bytes;
        if entries.is_empty() {
            return;
        }
        if let Err(status) = self.propose(entries) {
            for id in ids {
                if let Some((caller, _)) = self.callers.remove(&id) {
                    self.fail(caller, status.clone());
                }
            }
        }
    }

    /// Appends entries, or sends them to the leader.
    fn propose(&mut self, entries: Vec<Entry>) -> Result<(), Status> {
        let mut message = Message { from: self.node.raft.id, ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        message.set_entries(entries.into());
        self.node.step(message).map_err(|cause| match cause {
            // A leader that is removed drops what it is asked.
            raft::Error::ProposalDropped => error::NO_LEADER,
            other => Status::internal(other.to_string()),
        })
    }
}
