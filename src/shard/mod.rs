//! What one core owns: the requests that wait, the watches of its connections, its slice of the lease deadlines, and
//! its way to the published view. Nothing here is locked; other cores reach it by mail only.

pub mod lease;
pub mod mail;
pub mod outbox;
pub mod pending;
pub mod watch;

pub use crate::raft::{
    member::{Member, Role},
    view::{self, Published, View},
};

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::{Arc, OnceLock, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use prost::Message as _;

use self::{
    lease::{LeaseAnswer, LeaseCall},
    mail::{Control, FromCore, Outcome, Proposal},
    outbox::{NeighbourOutbox, Outbox},
    pending::{Pending, Token, Waiting},
    watch::{Moment, Watches},
};
use crate::{
    auth::Who,
    error::{self, Status},
    limits, log,
    observe::{log::hex, metrics::ShardMetrics},
    proto::etcdserverpb::{
        InternalRaftRequest, LeaseCheckpoint, LeaseCheckpointRequest, LeaseRevokeRequest, RequestHeader,
    },
    raft::{
        driver::Beside,
        mail::{Entries, Kept, ReceivedSnapshot, ToCore},
    },
    runtime,
    store::apply::{Answer, LeaseChange},
};

/// What a request is told, and the view in which the places of its answer are readable.
type Told = (Outcome, Arc<View>);

pub struct Shard {
    pub id: usize,
    pub member: Arc<Member>,
    /// What this shard counts.
    pub metrics: Arc<ShardMetrics>,
    pub published: Published,
    pub outbox: Outbox,
    pending: Rc<Pending<Told>>,
    /// Milliseconds since the server started, moved on by the shard's timer; good enough for timeouts.
    now_ms: Cell<u64>,
    pub leases: RefCell<lease::Deadlines>,
    pub watches: Watches<Arc<View>>,
    /// What is for each other shard, by its id; the one for this shard stays empty.
    pub neighbours: Vec<NeighbourOutbox>,
    lease_calls: Rc<Pending<LeaseAnswer>>,
    /// Revokes of expired leases that are on their way.
    revokes: RefCell<Vec<Waiting<Told>>>,
    /// More leases have expired than could be on their way at once.
    expired_more: Cell<bool>,
    /// Calls that end when no leader has been known for long enough.
    leaderless: Rc<Pending<()>>,
    /// Since when no leader is known.
    leaderless_since_ms: Cell<Option<u64>>,
    /// As of the last tick; 0: none.
    leader_seen: Cell<u64>,
    /// When one was there that was not before.
    elected_ms: Cell<u64>,
    /// Streams that hold a view.
    pins: Rc<Pending<()>>,
    /// Answers being made in pieces, which share a bound on their memory.
    pub long_answers: Rc<Cell<usize>>,
    stopped: Cell<bool>,
}

impl Shard {
    pub fn new(id: usize, member: Arc<Member>, published: Published) -> Self {
        let settings = watch::Settings::new(member.head.clone(), &member.config);
        let watches = Watches::new(settings, published.load().revision());
        let neighbours = (0..member.config.shards).map(|_| NeighbourOutbox::default()).collect();
        let deadlines = match member.config.gates.is_on("LeaseCheckpoint") {
            true => lease::Deadlines::checkpointing(limits::LEASE_CHECKPOINT_MS),
            false => lease::Deadlines::default(),
        };
        Shard {
            watches,
            id,
            metrics: member.metrics.shards[id].clone(),
            member,
            published,
            outbox: Outbox::default(),
            pending: Rc::new(Pending::default()),
            now_ms: Cell::new(0),
            leases: RefCell::new(deadlines),
            neighbours,
            lease_calls: Rc::default(),
            revokes: RefCell::default(),
            expired_more: Cell::new(false),
            leaderless: Rc::default(),
            leaderless_since_ms: Cell::new(None),
            leader_seen: Cell::new(0),
            elected_ms: Cell::new(0),
            pins: Rc::default(),
            long_answers: Rc::default(),
            stopped: Cell::new(false),
        }
    }

    /// The present as responses state it.
    pub fn moment(&self) -> Moment {
        Moment { revision: self.view().revision(), term: self.member.term() }
    }

    pub fn view(&self) -> Arc<View> {
        self.published.load()
    }

    /// Proposes a marshalled InternalRaftRequest whose header carries `id`, and waits until it is applied. The inner
    /// result is what applying it made.
    ///
    /// # Errors
    /// Where it was not applied, or nobody knows whether it was.
    pub async fn propose(&self, id: u64, data: Bytes) -> Result<(Result<Answer, Status>, Arc<View>), Status> {
        if data.len() > self.member.config.max_request_bytes {
            return Err(error::REQUEST_TOO_LARGE);
        }
        self.check_running()?;
        let waiting = self.pending.wait(self.now_ms.get());
        self.outbox.propose(Proposal { token: waiting.token(), id, data, only_in: None });
        match waiting.await {
            (Outcome::Applied(result), view) => Ok((*result, view)),
            (Outcome::Failed(status), _) => {
                self.metrics.proposals_failed.increment();
                Err(status)
            }
            (Outcome::Done, _) => unreachable!("a proposal is answered with its result"),
        }
    }

    /// Waits until everything that was committed when this was called can be read, and gives the view to read it in.
    pub async fn linearizable(&self) -> Result<Arc<View>, Status> {
        self.check_running()?;
        let waiting = self.pending.wait(self.now_ms.get());
        self.outbox.read(waiting.token());
        match waiting.await {
            (Outcome::Done, view) => Ok(view),
            (Outcome::Failed(status), _) => {
                // One that was not answered in time is slow, any other has failed (etcd: v3_server.go).
                if [error::TIMEOUT, error::TIMEOUT_DUE_TO_LEADER_FAIL, error::TIMEOUT_DUE_TO_CONNECTION_LOST]
                    .contains(&status)
                {
                    self.metrics.slow_read_indexes.increment();
                    return Err(error::TIMEOUT);
                }
                self.metrics.read_indexes_failed.increment();
                Err(status)
            }
            (Outcome::Applied(_), _) => unreachable!("a read has no result of its own"),
        }
    }

    /// Waits for the space freed by compactions up to `revision` to be free.
    pub async fn compaction_done(&self, revision: i64) -> Result<(), Status> {
        self.control(|token| Control::CompactionDone { token, revision }).await
    }

    pub async fn defragment(&self) -> Result<(), Status> {
        self.control(|token| Control::Defragment { token }).await
    }

    /// Has a change of the members logged and applied; the inner result is what applying it made. `data`: a
    /// raftpb.ConfChange whose id is `id`. `promotes`: the learner that is to vote, if one is.
    ///
    /// # Errors
    /// Where it was not applied, or nobody knows whether it was.
    pub async fn configure(
        &self,
        id: u64,
        data: Bytes,
        promotes: Option<u64>,
    ) -> Result<(Result<Answer, Status>, Arc<View>), Status> {
        self.check_running()?;
        let waiting = self.pending.wait(self.now_ms.get());
        self.outbox.control(Control::Configure { token: waiting.token(), id, data, promotes });
        match waiting.await {
            (Outcome::Applied(result), view) => Ok((*result, view)),
            (Outcome::Failed(status), _) => Err(status),
            (Outcome::Done, _) => unreachable!("a change is answered with its result"),
        }
    }

    /// Hands leadership to a voter, and waits until it leads. False: it does not, within `patience`. (etcd: server.go,
    /// MoveLeader.)
    pub async fn hand_over(&self, to: u64, patience: Duration) -> bool {
        let (began, old) = (runtime::now(), self.member.standing.leader.load(Relaxed));
        log!(
            Info,
            "leadership transfer starting",
            "local-member-id" = hex(self.member.id),
            "current-leader-member-id" = hex(old),
            "transferee-member-id" = hex(to)
        );
        self.outbox.control(Control::TransferLeader { to });
        while self.member.standing.leader.load(Relaxed) != to {
            runtime::sleep(Duration::from_millis(limits::TRANSFER_LOOK_MS)).await;
            if runtime::recent() - began > patience {
                return false;
            }
        }
        log!(
            Info,
            "leadership transfer finished",
            "local-member-id" = hex(self.member.id),
            "old-leader-member-id" = hex(old),
            "new-leader-member-id" = hex(to),
            "took" = runtime::recent() - began
        );
        true
    }

    /// Takes over a snapshot that another member has sent.
    ///
    /// # Errors
    /// Where it could not be taken over.
    pub async fn install(&self, snapshot: ReceivedSnapshot) -> Result<(), Status> {
        let snapshot = Box::new(snapshot);
        self.control(|token| Control::Install { token, snapshot }).await
    }

    /// Committed entries of the raft log from one index to another, as many as one answer may have; None if the first is not
    /// kept any more. And the view in which their places can be read.
    ///
    /// # Errors
    /// Where the member stops.
    pub async fn entries(&self, from: u64, to: u64) -> Result<Option<(Vec<Kept>, Arc<View>)>, Status> {
        let found = Arc::new(OnceLock::new());
        let entries = Box::new(Entries { from, to, found: found.clone() });
        self.control(|token| Control::Entries { token, entries }).await?;
        let kept = found.get().expect("it is answered").clone();
        Ok(kept.map(|kept| (kept, self.view())))
    }

    async fn control(&self, control: impl FnOnce(pending::Token) -> Control) -> Result<(), Status> {
        self.check_running()?;
        // Controls may take as long as the disk takes: no timeout, they end with the server.
        let waiting = self.pending.wait(u64::MAX - 1);
        self.outbox.control(control(waiting.token()));
        match waiting.await {
            (Outcome::Failed(status), _) => Err(status),
            _ => Ok(()),
        }
    }

    /// Hands the raft core's answers to those who wait, once this shard's leases are what the answers say. The clock
    /// must have been moved on (`advance`): a deadline that counts from an old time comes too early.
    pub fn deliver(&self, mail: FromCore) {
        for change in mail.leases.iter() {
            match *change {
                LeaseChange::Granted { id, ttl } if self.owns(id) => {
                    self.leases.borrow_mut().granted(id, ttl, self.now_ms.get());
                }
                LeaseChange::Revoked { id } if self.owns(id) => self.leases.borrow_mut().revoked(id),
                // What it says counts for the next leader, who finds it in the state.
                LeaseChange::Checkpointed { id, remaining } if self.owns(id) => {
                    let says_less = self.leases.borrow_mut().checkpointed(id, remaining, self.now_ms.get());
                    if says_less && let Some(term) = self.member.leads_in() {
                        drop(self.checkpoint(vec![LeaseCheckpoint { id, remaining_ttl: 0 }], term));
                    }
                }
                _ => {}
            }
        }
        if mail.jumped {
            // What leases there are is another matter now: whoever leads finds them in the state.
            self.leases.borrow_mut().demote();
        }
        for (token, outcome) in mail.outcomes {
            self.pending.answer(token, (outcome, mail.view.clone()));
        }
        if self.expired_more.get() {
            // The next ones go into the log as soon as these are out of it, not at the next tick.
            self.expire_due(self.now_ms.get());
        }
        match mail.jumped {
            true => self.watches.jump(mail.view.revision(), self.member.term()),
            false => self.watches.deliver(&mail.events, &mail.view, self.member.term()),
        }
    }

    /// Moves the shard's clock on. To be called with the current time before anything that counts from it: mail, a
    /// keep-alive.
    pub fn advance(&self, now_ms: u64) {
        self.now_ms.set(now_ms.max(self.now_ms.get()));
    }

    /// The shard's timer, several times a second: requests that have waited longer than etcd lets them are told so,
    /// leases are taken over or given up with the leadership.
    pub fn tick(&self, now_ms: u64) {
        self.advance(now_ms);
        let timeout_ms = self.member.config.request_timeout_ms();
        let before = now_ms.saturating_sub(timeout_ms);
        let view = self.view();
        let leader = self.member.standing.leader.load(Relaxed);
        self.note_leader(leader, now_ms);
        self.pending.expire(before, |since_ms| (Outcome::Failed(self.why_late(leader, since_ms)), view.clone()));
        let has_leader = self.member.standing.leader.load(Relaxed) != 0;
        let moment = self.moment();
        self.watches.with(|watches| {
            watches.tick(now_ms, has_leader, moment);
            self.metrics.watch_streams.set(watches.stream_count() as i64);
            self.metrics.watchers.set(watches.watch_count() as i64);
            self.metrics.slow_watchers.set(watches.behind_count() as i64);
            self.metrics.queued_bytes.set(watches.queued_bytes() as i64);
            self.metrics.events_sent.set(watches.events_sent());
            self.metrics.pending_events.set(watches.pending_events() as i64);
        });
        self.metrics.open_reads.set(self.pins.len() as i64);
        self.lease_calls.expire(before, |_| LeaseAnswer::NotPrimary);
        self.pins.expire(now_ms.saturating_sub(limits::STREAM_PIN_MS_MAX), |_| ());
        self.tell_leaderless(leader == 0, now_ms);
        self.take_or_give_up_leases(&view);
    }

    fn note_leader(&self, leader: u64, now_ms: u64) {
        if self.leader_seen.replace(leader) != leader && leader != 0 {
            self.elected_ms.set(now_ms);
        }
    }

    /// What is said of a proposal that has waited since then for as long as may be. (etcd: v3_server.go, parseProposeCtxErr.)
    fn why_late(&self, leader: u64, since_ms: u64) -> Status {
        let (member, elected_ms) = (&self.member, self.elected_ms.get());
        let lost_ms = elected_ms.saturating_sub(2 * member.config.election_ms);
        if since_ms > lost_ms && since_ms < elected_ms {
            return error::TIMEOUT_DUE_TO_LEADER_FAIL;
        }
        let is_reached = |id| id == member.id || member.reached.since(id).is_some_and(|active_ms| active_ms < since_ms);
        let is_connected = match leader {
            0 => true,
            _ if leader == member.id => {
                let view = self.view();
                let members = view.state.membership.members().map(|member| member.id);
                let (reached, all) =
                    members.fold((0, 0), |(reached, all), id| (reached + usize::from(is_reached(id)), all + 1));
                reached > all / 2
            }
            _ => is_reached(leader),
        };
        if is_connected { error::TIMEOUT } else { error::TIMEOUT_DUE_TO_CONNECTION_LOST }
    }

    /// After three election timeouts without a leader those who asked for it are told. (etcd: v3rpc/interceptor.go,
    /// monitorLeader.)
    fn tell_leaderless(&self, leaderless: bool, now_ms: u64) {
        if !leaderless {
            self.leaderless_since_ms.set(None);
            return;
        }
        let since_ms = self.leaderless_since_ms.get().unwrap_or(now_ms);
        self.leaderless_since_ms.set(Some(since_ms));
        if now_ms - since_ms >= 3 * self.member.config.election_ms {
            self.leaderless.expire(u64::MAX, |_| ());
        }
    }

    /// Resolves when no leader has been known for three election timeouts.
    pub fn leaderless(&self) -> Waiting<()> {
        self.leaderless.wait(self.now_ms.get())
    }

    /// Resolves when whoever holds a view since now has held it for too long.
    pub fn pin_expires(&self) -> Waiting<()> {
        self.pins.wait(self.now_ms.get())
    }

    /// The same for who may hold it so many milliseconds longer.
    pub fn pin_expires_later(&self, by_ms: u64) -> Waiting<()> {
        self.pins.wait(self.now_ms.get() + by_ms)
    }

    fn owns(&self, id: i64) -> bool {
        lease::owner(id, self.neighbours.len()) == self.id
    }

    fn take_or_give_up_leases(&self, view: &View) {
        let mut leases = self.leases.borrow_mut();
        let leads_in = self.member.leads_in();
        if leads_in == leases.term() {
            return;
        }
        match leads_in {
            Some(term) => {
                let owned = view.state.leases.iter().filter(|lease| self.owns(lease.id));
                leases.promote(term, owned, self.member.config.election_ms, self.now_ms.get());
            }
            None => leases.demote(),
        }
    }

    /// Whether this member leads, surely: one that stood still for a while asks the others before it says so.
    /// (etcd: EtcdServer.ensureLeadership.)
    pub async fn surely_leads(&self) -> bool {
        if !self.member.is_active(self.now_ms.get()) && self.linearizable().await.is_err() {
            return false;
        }
        self.member.is_leader()
    }

    /// Asks the shard that owns a lease. One that does not answer in time counts as not primary.
    pub async fn lease(&self, id: i64, call: LeaseCall) -> LeaseAnswer {
        let owner = lease::owner(id, self.neighbours.len());
        loop {
            let answer = self.ask(owner, call).await;
            if answer != LeaseAnswer::Checkpointed {
                return answer;
            }
            let Some(term) = self.member.leads_in() else { return LeaseAnswer::NotPrimary };
            let taken_back = self.checkpoint(vec![LeaseCheckpoint { id, remaining_ttl: 0 }], term).await;
            if !matches!(taken_back, (Outcome::Applied(_), _)) {
                return LeaseAnswer::NotPrimary;
            }
        }
    }

    /// Ids of all leases with their deadlines, from every shard. None if this member does not keep them.
    pub async fn all_leases(&self) -> Option<Vec<(i64, u64)>> {
        let mut leases = Vec::new();
        for shard in 0..self.neighbours.len() {
            match self.ask(shard, LeaseCall::All).await {
                LeaseAnswer::All(part) => leases.extend(part),
                _ => return None,
            }
        }
        Some(leases)
    }

    async fn ask(&self, shard: usize, call: LeaseCall) -> LeaseAnswer {
        if shard == self.id {
            return self.answer_lease(call);
        }
        let waiting = self.lease_calls.wait(self.now_ms.get());
        self.neighbours[shard].call(waiting.token(), call);
        waiting.await
    }

    fn answer_lease(&self, call: LeaseCall) -> LeaseAnswer {
        let now_ms = self.now_ms.get();
        // Leadership may be younger than the last tick.
        self.take_or_give_up_leases(&self.view());
        let mut leases = self.leases.borrow_mut();
        if !leases.is_primary() {
            return LeaseAnswer::NotPrimary;
        }
        let id = match call {
            LeaseCall::Renew(id) | LeaseCall::Remaining(id) => id,
            LeaseCall::All => return LeaseAnswer::All(leases.iter().collect()),
        };
        // The published view is ahead of the mail: a lease may exist of which this shard has not heard yet.
        let Some(lease) = self.view().state.leases.get(id) else { return LeaseAnswer::Unknown };
        leases.granted(id, lease.ttl, now_ms);
        match call {
            LeaseCall::Renew(_)
                if leases.is_checkpointed(id, lease.remaining)
                    && leases.remaining(id, now_ms).is_some_and(|(left_ms, _)| left_ms > 0) =>
            {
                LeaseAnswer::Checkpointed
            }
            LeaseCall::Renew(_) => match leases.renew(id, now_ms) {
                Some(ttl) => {
                    self.metrics.leases_renewed.increment();
                    LeaseAnswer::Renewed { ttl }
                }
                None => LeaseAnswer::Expired,
            },
            _ => match leases.remaining(id, now_ms) {
                Some((left_ms, ttl)) => LeaseAnswer::Remaining { left_ms, ttl },
                None => LeaseAnswer::Unknown,
            },
        }
    }

    /// Answers another shard's questions about leases. The clock must have been moved on.
    pub fn receive_lease_calls(&self, from: usize, calls: Vec<(Token, LeaseCall)>) {
        let answers = calls.into_iter().map(|(token, call)| (token, self.answer_lease(call))).collect();
        self.neighbours[from].answer(answers);
    }

    pub fn receive_lease_answers(&self, answers: Vec<(Token, LeaseAnswer)>) {
        for (token, answer) in answers {
            self.lease_calls.answer(token, answer);
        }
    }

    /// Proposes to revoke the leases of this shard whose time has passed, as many as may be under way at once; where
    /// there are more, they follow as those are applied. To be called by the shard's timer, after `tick`.
    pub fn expire_due(&self, now_ms: u64) {
        let mut revokes = self.revokes.borrow_mut();
        revokes.retain(|revoke| {
            let applied = revoke.peek(|(outcome, _)| matches!(outcome, Outcome::Applied(result) if result.is_ok()));
            if applied == Some(true) {
                self.metrics.leases_expired.increment();
            }
            applied.is_none()
        });
        let room = limits::LEASE_REVOKES_IN_FLIGHT.saturating_sub(revokes.len());
        if room == 0 || self.leases.borrow().term().is_none() || self.member.leads_in() != self.leases.borrow().term() {
            return;
        }
        let due = self.leases.borrow_mut().due(now_ms, room);
        self.expired_more.set(due.len() == room);
        for lease in due {
            revokes.push(self.revoke(lease));
        }
        drop(revokes);
        self.checkpoint_due(now_ms);
    }

    /// Puts what leases have left into the log, of those whose time for that has come.
    fn checkpoint_due(&self, now_ms: u64) {
        let due = self.leases.borrow_mut().checkpoints_due(now_ms, limits::LEASE_CHECKPOINTS_AT_ONCE);
        if let Some(term) = self.leases.borrow().term().filter(|_| !due.is_empty()) {
            let left = due.into_iter().map(|(id, remaining_ttl)| LeaseCheckpoint { id, remaining_ttl });
            drop(self.checkpoint(left.collect(), term));
        }
    }

    /// Proposes to put into the log what leases have left; 0 takes back what was said before.
    fn checkpoint(&self, checkpoints: Vec<LeaseCheckpoint>, term: u64) -> Waiting<Told> {
        let waiting = self.pending.wait(self.now_ms.get());
        let id = self.member.next_id();
        let request = InternalRaftRequest {
            header: Some(RequestHeader { id, ..Default::default() }),
            lease_checkpoint: Some(LeaseCheckpointRequest { checkpoints }),
            ..Default::default()
        };
        let data = request.encode_to_vec().into();
        self.outbox.propose(Proposal { token: waiting.token(), id, data, only_in: Some(term) });
        waiting
    }

    /// Proposes to revoke a lease whose time has passed, as the leader of the term in which this shard has counted its time: one that does
    /// not lead any more knows of no renewals.
    fn revoke(&self, lease: i64) -> Waiting<Told> {
        let waiting = self.pending.wait(self.now_ms.get());
        let id = self.member.next_id();
        let view = self.view();
        // Whatever keys the lease has, and whoever put them.
        let Who { user, revision } = Who::root(&view.state.auth);
        let request = InternalRaftRequest {
            header: Some(RequestHeader { id, username: user.to_owned(), auth_revision: revision }),
            lease_revoke: Some(LeaseRevokeRequest { id: lease }),
            ..Default::default()
        };
        let only_in = self.leases.borrow().term();
        self.outbox.propose(Proposal { token: waiting.token(), id, data: request.encode_to_vec().into(), only_in });
        waiting
    }

    /// Waits until an expired lease is revoked.
    ///
    /// # Errors
    /// Where it cannot be, or nobody knows whether it was.
    pub async fn expired_lease_gone(&self, lease: i64) -> Result<(), Status> {
        match self.revoke(lease).await {
            (Outcome::Applied(result), _) => match *result {
                // It was revoked in the meantime.
                Err(status) if status != error::LEASE_NOT_FOUND => Err(status),
                _ => Ok(()),
            },
            (Outcome::Failed(status), _) => Err(status),
            (Outcome::Done, _) => unreachable!("a proposal is answered with its result"),
        }
    }

    /// Refuses what would wait for a core that has gone.
    pub fn check_running(&self) -> Result<(), Status> {
        if self.stopped.get() { Err(error::STOPPED) } else { Ok(()) }
    }

    /// Ends every wait, now and from now on: the server stops.
    pub fn stop(&self) {
        self.stopped.set(true);
        let view = self.view();
        self.pending.expire(u64::MAX, |_| (Outcome::Failed(error::STOPPED), view.clone()));
        self.watches.with(watch::Table::stop);
        self.lease_calls.expire(u64::MAX, |_| LeaseAnswer::NotPrimary);
    }
}

impl Beside for Shard {
    fn id(&self) -> usize {
        self.id
    }

    fn poll_mail(&self, context: &mut Context<'_>) -> Poll<ToCore> {
        self.outbox.poll_take(context)
    }

    fn deliver(&self, mail: FromCore, now_ms: u64) {
        self.advance(now_ms);
        Shard::deliver(self, mail);
    }

    fn metrics(&self) -> &ShardMetrics {
        &self.metrics
    }
}

#[cfg(test)]
mod tests;
