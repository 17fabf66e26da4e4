//! Drives the raft core on its executor: brings it the shards' mail, its ticks and its finished writes, and carries out
//! what it asks for, in order: write the log, publish the view, then post the answers. The first failed write ends the
//! process: what the disk has taken of it nobody knows.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    io,
    pin::Pin,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use raft::eraftpb::Message;

use super::{
    bootstrap,
    core::{Capture, Core, Effects, Installing, Roll},
    install::{Installs, Waiting},
    mail::{FromCore, ToCore},
    member::{Member, Role},
    scrub::Wanted,
    segments::SegmentFiles,
    sending::SnapshotToSend,
    space::Mended,
    view::Published,
};
use crate::{
    limits, log,
    observe::{
        log::{hex, shown},
        metrics::{Operation, ShardMetrics, Stage},
    },
    runtime,
    store::{
        apply::{self, LeaseChange},
        membership::Membership,
    },
    wal::{record::RECORDS_FROM, writer::PendingWrite},
};

/// Where a shard's mail goes: straight to one on the same executor, by post to the others.
pub trait PostRoom {
    fn send(&self, shard: usize, mail: FromCore);
}

/// The ways to the other members.
pub trait Ways {
    fn send(&self, messages: Vec<Message>);

    /// Sends a snapshot, and tells the core how that went.
    fn send_snapshot(&self, snapshot: SnapshotToSend);

    /// Who belongs to the cluster now, and who has done so.
    fn update(&self, membership: &Membership);

    /// Asks the other members for values that this one cannot read; None for each that nobody gives.
    fn values(&self, wanted: Vec<Wanted>) -> Asked;
}

/// Values on their way from other members.
pub type Asked = Pin<Box<dyn Future<Output = Vec<Option<Bytes>>>>>;

/// The shard on the driver's own executor.
pub trait Beside {
    fn id(&self) -> usize;

    /// Ready with what its requests have left, at least one; wakes the task once there is more.
    fn poll_mail(&self, context: &mut Context<'_>) -> Poll<ToCore>;

    /// Hands it the core's answers. `now_ms`: deadlines that they set count from then.
    fn deliver(&self, mail: FromCore, now_ms: u64);

    fn metrics(&self) -> &ShardMetrics;
}

pub struct Driver {
    core: RefCell<Core>,
    pub(super) files: Rc<SegmentFiles>,
    member: Arc<Member>,
    published: Published,
    /// The shard on this executor, if there is one; its outbox is emptied without a hop.
    local: Option<Rc<dyn Beside>>,
    post: Box<dyn PostRoom>,
    ways: Box<dyn Ways>,
    /// As the ways know it.
    membership: RefCell<Membership>,
    /// Milliseconds since the member started.
    clock: fn() -> u64,
    kicked: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    /// Handed from a turn to the checkpoint that asked for it.
    capture: RefCell<Option<Box<Capture>>>,
    capture_waker: RefCell<Option<Waker>>,
    installs: Installs,
    /// A state from another member that the task which writes checkpoints is to make this member's.
    waiting_install: RefCell<Option<Waiting>>,
    /// What the core has made of it.
    installing: RefCell<Option<Installing>>,
    /// Values from other members that the same task is to write.
    mended: RefCell<Option<Mended>>,
    pub(super) checkpoint_bytes: Cell<u64>,
    /// Bytes that were written to the log since the checkpoint that this process began with.
    logged_bytes: Cell<u64>,
    write_waits: RefCell<Vec<Waker>>,
    /// Wakes the task that gives space back, when there is something for it.
    space_kicked: Cell<bool>,
    space_waker: RefCell<Option<Waker>>,
    was_serving: Cell<bool>,
    introduced_waker: RefCell<Option<Waker>>,
    lead_begun: Cell<bool>,
    lead_waker: RefCell<Option<Waker>>,
    departing: Cell<bool>,
    /// When the first of the proposals arrived that wait for the next write, and of those in the write in flight.
    gathering_since: Cell<Option<Instant>>,
    writing_since: Cell<Option<Instant>>,
}

fn operation(kind: apply::Kind) -> Option<Operation> {
    Some(match kind {
        apply::Kind::Range => Operation::Range,
        apply::Kind::Put => Operation::Put,
        apply::Kind::DeleteRange => Operation::DeleteRange,
        apply::Kind::Txn => Operation::Txn,
        apply::Kind::Compaction => Operation::Compaction,
        apply::Kind::LeaseGrant => Operation::LeaseGrant,
        apply::Kind::LeaseRevoke => Operation::LeaseRevoke,
        apply::Kind::Alarm => Operation::Alarm,
        apply::Kind::ClusterVersionSet => Operation::ClusterVersionSet,
        apply::Kind::ClusterMemberAttrSet => Operation::ClusterMemberAttrSet,
        apply::Kind::DowngradeInfoSet => Operation::DowngradeInfoSet,
        // No member of this version proposes one.
        apply::Kind::LeaseCheckpoint => return None,
        // etcd counts it as unknown.
        apply::Kind::AuthStatus => Operation::AuthStatus,
        apply::Kind::Authenticate => Operation::Authenticate,
        apply::Kind::AuthEnable => Operation::AuthEnable,
        apply::Kind::AuthDisable => Operation::AuthDisable,
        apply::Kind::AuthUserAdd => Operation::AuthUserAdd,
        apply::Kind::AuthUserDelete => Operation::AuthUserDelete,
        apply::Kind::AuthUserGet => Operation::AuthUserGet,
        apply::Kind::AuthUserChangePassword => Operation::AuthUserChangePassword,
        apply::Kind::AuthUserGrantRole => Operation::AuthUserGrantRole,
        apply::Kind::AuthUserRevokeRole => Operation::AuthUserRevokeRole,
        apply::Kind::AuthUserList => Operation::AuthUserList,
        apply::Kind::AuthRoleList => Operation::AuthRoleList,
        apply::Kind::AuthRoleAdd => Operation::AuthRoleAdd,
        apply::Kind::AuthRoleDelete => Operation::AuthRoleDelete,
        apply::Kind::AuthRoleGet => Operation::AuthRoleGet,
        apply::Kind::AuthRoleGrantPermission => Operation::AuthRoleGrantPermission,
        apply::Kind::AuthRoleRevokePermission => Operation::AuthRoleRevokePermission,
    })
}

fn role(role: raft::StateRole) -> Role {
    match role {
        raft::StateRole::Follower => Role::Follower,
        raft::StateRole::Candidate => Role::Candidate,
        raft::StateRole::Leader => Role::Leader,
        raft::StateRole::PreCandidate => Role::PreCandidate,
    }
}

/// How a member ends when it cannot go on.
pub(super) fn stop_for(cause: &io::Error, what: &str, cure: &str) -> ! {
    log!(Fatal, what, "error" = shown(cause), "cure" = cure);
    std::process::exit(1);
}

/// What a driver is made from.
pub struct Parts {
    pub core: Core,
    pub files: Rc<SegmentFiles>,
    pub member: Arc<Member>,
    pub published: Published,
    /// The shard on the same executor, if there is one.
    pub local: Option<Rc<dyn Beside>>,
    pub post: Box<dyn PostRoom>,
    pub ways: Box<dyn Ways>,
    /// Milliseconds, never going back: what shards count deadlines by.
    pub clock: fn() -> u64,
    /// Of the checkpoint that recovery has read; 0 if there was none.
    pub checkpoint_bytes: u64,
    /// Bytes of log behind that checkpoint.
    pub tail_bytes: u64,
}

impl Driver {
    pub fn new(parts: Parts) -> Rc<Self> {
        let Parts { core, files, member, published, local, post, ways, clock, checkpoint_bytes, tail_bytes } = parts;
        Rc::new(Driver {
            core: RefCell::new(core),
            files,
            member,
            published,
            local,
            post,
            ways,
            membership: RefCell::default(),
            clock,
            kicked: Cell::new(true),
            waker: RefCell::new(None),
            capture: RefCell::new(None),
            capture_waker: RefCell::new(None),
            installs: Installs::default(),
            waiting_install: RefCell::new(None),
            installing: RefCell::new(None),
            mended: RefCell::new(None),
            checkpoint_bytes: Cell::new(checkpoint_bytes),
            logged_bytes: Cell::new(tail_bytes),
            write_waits: RefCell::new(Vec::new()),
            space_kicked: Cell::new(true),
            space_waker: RefCell::new(None),
            was_serving: Cell::new(false),
            introduced_waker: RefCell::new(None),
            lead_begun: Cell::new(false),
            lead_waker: RefCell::new(None),
            departing: Cell::new(false),
            gathering_since: Cell::new(None),
            writing_since: Cell::new(None),
        })
    }

    /// Runs until the executor ends.
    pub async fn run(self: Rc<Self>) {
        // First what recovery left committed (a new cluster's own members), so that the campaign finds who may vote.
        self.turn();
        let membership = self.core.borrow().state().membership.clone();
        self.tell_members(&membership);
        if self.core.borrow().is_alone() {
            if let Err(cause) = self.core.borrow_mut().campaign() {
                stop_for(&io::Error::other(cause), "cannot stand for election", "report this with the log");
            }
            self.turn();
        } else {
            runtime::spawn(self.clone().hurry_first_election());
        }
        runtime::spawn(self.clone().introduce());
        runtime::spawn(self.clone().ticks());
        loop {
            poll_fn(|context| {
                let mut work = self.kicked.take();
                if let Some(shard) = &self.local {
                    // Until it is empty: only then does the outbox know whom to wake next time.
                    while let Poll::Ready(mail) = shard.poll_mail(context) {
                        self.count_mail(shard.metrics(), &mail);
                        self.core.borrow_mut().receive(shard.id(), mail);
                    }
                    work |= self.core.borrow().has_work();
                }
                if work {
                    return Poll::Ready(());
                }
                *self.waker.borrow_mut() = Some(context.waker().clone());
                Poll::Pending
            })
            .await;
            self.turn();
        }
    }

    /// A member that reaches others and hears of no leader need not wait for all of its election timeout: there would be
    /// one by now. (etcd: EtcdServer.adjustTicks.)
    async fn hurry_first_election(self: Rc<Self>) {
        let config = &self.member.config;
        let election_ticks = config.election_ticks();
        let told = election_ticks as u64;
        if !config.initial_election_tick_advance {
            log!(Info, "skipping initial election tick advance", "election-ticks" = told);
            return;
        }
        log!(Info, "starting initial election tick advance", "election-ticks" = told);
        let pause = Duration::from_millis(limits::REACHED_LOOK_MS);
        for _ in 0..limits::REACHED_WAIT_MS / limits::REACHED_LOOK_MS {
            runtime::sleep(pause).await;
            let reached = self.member.reached.count();
            if reached > 1 {
                let ticks = election_ticks - 2;
                let duration = |ticks: usize| Duration::from_millis(ticks as u64 * config.heartbeat_ms);
                log!(
                    Info,
                    "initialized peer connections; fast-forwarding election ticks",
                    "local-member-id" = hex(self.member.id),
                    "forward-ticks" = ticks as u64,
                    "forward-duration" = duration(ticks),
                    "election-ticks" = told,
                    "election-timeout" = duration(election_ticks),
                    "active-remote-members" = reached as u64
                );
                return self.with_core(|core| core.advance_election(ticks));
            }
        }
    }

    /// Makes this member's name and client URLs known, by whoever leads, as often as it takes. (etcd: publishV3.)
    async fn introduce(self: Rc<Self>) {
        let (member, config) = (&self.member, &self.member.config);
        let patience = Duration::from_millis(config.request_timeout_ms());
        loop {
            let id = member.next_id();
            let request = bootstrap::attributes_request(id, member.id, &config.name, &config.advertise_client_urls);
            self.with_core(|core| core.introduce(id, request));
            let introduced = poll_fn(|context| match self.core().is_introduced() {
                true => Poll::Ready(()),
                false => {
                    *self.introduced_waker.borrow_mut() = Some(context.waker().clone());
                    Poll::Pending
                }
            });
            if runtime::timeout(patience, introduced).await.is_some() {
                log!(
                    Info,
                    "published local member to cluster through raft",
                    "local-member-id" = hex(member.id),
                    "cluster-id" = hex(member.cluster_id),
                    "publish-timeout" = patience
                );
                member.introduced.store(true, Relaxed);
                return;
            }
            log!(
                Warn,
                "failed to publish local member to cluster through raft",
                "local-member-id" = hex(member.id),
                "publish-timeout" = patience,
                "error" = "etcdserver: request timed out"
            );
        }
    }

    async fn ticks(self: Rc<Self>) {
        for ticks in 1u64.. {
            runtime::sleep(Duration::from_millis(self.member.config.heartbeat_ms)).await;
            self.member.standing.ticked_ms.store((self.clock)(), Relaxed);
            self.with_core(|core| core.tick());
            self.member.tokens.sweep((self.clock)());
            if ticks % limits::SPACE_LOOK_TICKS == 0 {
                self.kick_space();
            }
        }
    }

    pub(super) fn kick_space(&self) {
        self.space_kicked.set(true);
        if let Some(waker) = self.space_waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Waits until there may be space to give back: after a compaction, on a request, every now and then.
    pub(super) async fn space_work(&self) {
        poll_fn(|context| {
            if self.space_kicked.take() {
                return Poll::Ready(());
            }
            *self.space_waker.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// A mail has come, of a shard on this executor.
    fn count_mail(&self, metrics: &ShardMetrics, mail: &ToCore) {
        metrics.mail_size.observe_value((mail.proposals.len() + mail.reads.len()) as u64);
        self.begin_gathering(mail);
    }

    fn begin_gathering(&self, mail: &ToCore) {
        if !mail.proposals.is_empty() && self.gathering_since.get().is_none() {
            self.gathering_since.set(Some(runtime::recent()));
        }
    }

    /// Mail of a shard on another executor.
    pub fn receive(&self, shard: usize, mail: ToCore) {
        runtime::now();
        self.begin_gathering(&mail);
        let work = {
            let mut core = self.core.borrow_mut();
            core.receive(shard, mail);
            core.has_work()
        };
        if work {
            self.kick();
        }
    }

    /// Does something with the core and has it take a turn afterwards.
    pub fn with_core<T>(&self, work: impl FnOnce(&mut Core) -> T) -> T {
        let result = work(&mut self.core.borrow_mut());
        self.kick();
        result
    }

    /// Takes a message of another member.
    pub fn step(&self, message: Message) {
        runtime::now();
        self.with_core(|core| core.step(message));
    }

    /// Looks at the core without disturbing it.
    pub fn core(&self) -> std::cell::Ref<'_, Core> {
        self.core.borrow()
    }

    fn kick(&self) {
        self.kicked.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    pub(super) fn turn(self: &Rc<Self>) {
        let began = runtime::now();
        let effects = {
            let mut core = self.core.borrow_mut();
            core.set_checkpoint_bytes(self.checkpoint_bytes.get());
            let turned = core.settle().and_then(|applied| {
                let took = if applied > 0 { runtime::now() - began } else { Duration::ZERO };
                core.turn().map(|effects| (effects, took))
            });
            match turned {
                Ok((effects, took)) => {
                    self.count_applied(&effects, took);
                    effects
                }
                Err(cause) => stop_for(
                    &cause,
                    "a value that decides a request cannot be read; the member stops",
                    "check the disk, then verify the data directory with urd-wal verify",
                ),
            }
        };
        let core = self.core.borrow();
        let wanted = core.wants_space() || core.state().index.compacting();
        drop(core);
        if wanted && self.space_waker.borrow().is_some() {
            self.kick_space();
        }
        self.carry_out(effects);
    }

    /// Counts what a turn has applied. Applying is measured by the turn: each of its requests is told to have taken an
    /// equal part.
    fn count_applied(&self, effects: &Effects, took: Duration) {
        effects.spans.iter().for_each(|span| self.member.span_hashes.keep(*span));
        let (metrics, tally) = (&self.member.metrics.core, &effects.tally);
        let total = tally.total();
        if total == 0 {
            return;
        }
        let each = took / u32::try_from(total).unwrap_or(u32::MAX);
        for (kind, outcomes) in apply::Kind::ALL.into_iter().zip(&tally.requests) {
            for (success, times) in [(false, outcomes[0]), (true, outcomes[1])] {
                if let (Some(operation), true) = (operation(kind), times > 0) {
                    metrics.apply_duration.observe_many(operation, success, each, times);
                }
            }
        }
        metrics.puts.add(tally.operations.puts);
        metrics.put_bytes.add(tally.operations.put_bytes as i64);
        metrics.deletes.add(tally.operations.deletes);
        metrics.ranges.add(tally.operations.ranges);
        metrics.transactions.add(tally.transactions);
        // Every shard is sent the same.
        for change in effects.mail.first().map_or(&[][..], |(_, mail)| &mail.leases) {
            match change {
                LeaseChange::Granted { ttl, .. } => {
                    metrics.leases_granted.increment();
                    metrics.lease_ttl.observe_value(*ttl as f64);
                }
                LeaseChange::Revoked { .. } => metrics.leases_revoked.increment(),
                LeaseChange::Checkpointed { .. } => {}
            }
        }
        metrics.stages.observe(Stage::Apply, took);
        if let Some(since) = self.writing_since.take() {
            metrics.stages.observe(Stage::Batch, runtime::recent() - since);
        }
        let expected = Duration::from_millis(self.member.config.warning_apply_ms);
        if took > expected {
            metrics.slow_applies.increment();
            log!(
                Warn,
                "apply request took too long",
                "took" = took,
                "expected-duration" = expected,
                "prefix" = "",
                "requests" = total
            );
        }
    }

    fn carry_out(self: &Rc<Self>, effects: Effects) {
        // Before anybody is told of them; and what is void is so before the state that made it void is seen.
        if !effects.tokens.is_empty() {
            self.member.tokens.change(&effects.tokens, (self.clock)());
        }
        // Before anything else that may look at a view: the one of before may have been withdrawn.
        if let Some(view) = effects.view {
            self.published.publish(view.clone());
            self.tell_sizes();
            self.tell_members(&view.state.membership);
        }
        if !effects.messages.is_empty() {
            self.ways.send(effects.messages);
        }
        for snapshot in effects.snapshots {
            self.ways.send_snapshot(snapshot);
        }
        if let Some(write) = effects.write {
            let metrics = &self.member.metrics.core;
            metrics.batch_size.observe_value(effects.write_entries);
            let since = self.gathering_since.take();
            if let Some(since) = since {
                metrics.stages.observe(Stage::Queue, runtime::recent() - since);
            }
            self.writing_since.set(since);
            runtime::spawn(self.clone().write(write));
        }
        self.tell_standing();
        for (shard, mail) in effects.mail {
            match &self.local {
                Some(local) if local.id() == shard => local.deliver(mail, (self.clock)()),
                _ => self.post.send(shard, mail),
            }
        }
        for (caller, received) in effects.received {
            self.take_snapshot(caller, *received);
        }
        let (captures, installs) = (effects.capture.is_some(), effects.installing.is_some());
        if captures {
            *self.capture.borrow_mut() = effects.capture;
        }
        if installs {
            *self.installing.borrow_mut() = effects.installing;
        }
        if (captures || installs)
            && let Some(waker) = self.capture_waker.borrow_mut().take()
        {
            waker.wake();
        }
    }

    fn tell_members(&self, membership: &Membership) {
        if !self.membership.borrow().is_same(membership) {
            *self.membership.borrow_mut() = membership.clone();
            let is_learner = membership.get(self.member.id).is_some_and(|member| member.is_learner);
            self.member.is_learner.store(is_learner, Relaxed);
            self.ways.update(membership);
        }
    }

    fn tell_sizes(&self) {
        let core = self.core.borrow();
        let total = core.writer().log_bytes() + self.checkpoint_bytes.get();
        let index = &core.state().index;
        // What the index itself would take on disk, by the last checkpoint; values by their length; and the head of the
        // segment that is written, so that a store with nothing in it has something in use, as etcd's has.
        let kept = core.state().auth.bytes() as u64 + self.checkpoint_bytes.get() + u64::from(RECORDS_FROM);
        let live = index.usage().live_bytes() + kept;
        self.member.db_size.store(total, Relaxed);
        self.member.db_size_in_use.store(live.min(total), Relaxed);
        let metrics = &self.member.metrics.core;
        metrics.db_bytes.set(total as i64);
        metrics.db_bytes_in_use.set(live.min(total) as i64);
        metrics.keys.set(index.live_keys() as i64);
        core.state().alarms.iter().for_each(|alarm| metrics.alarms_seen.remember(alarm));
        metrics.current_revision.set(index.current());
        metrics.compact_revision.set(index.compacted());
        metrics.auth_revision.set(core.state().auth.revision() as i64);
    }

    fn tell_standing(self: &Rc<Self>) {
        let core = self.core.borrow();
        let standing = core.standing();
        let shared = &self.member.standing;
        shared.term.store(standing.term, Relaxed);
        shared.commit.store(standing.commit, Relaxed);
        shared.applied.store(standing.applied, Relaxed);
        shared.vote.store(standing.vote, Relaxed);
        shared.role.store(role(core.role()) as u64, Relaxed);
        let (matched, next) = core.progress(self.member.id).unwrap_or_default();
        shared.matched.store(matched, Relaxed);
        shared.next.store(next, Relaxed);
        // Not before it can serve: a leader that has committed nothing yet is none to a client.
        let leader = if core.is_leader() && !core.serves() { 0 } else { standing.leader };
        let metrics = &self.member.metrics.core;
        if shared.leader.swap(leader, Relaxed) != leader && leader != 0 {
            metrics.leader_changes.increment();
        }
        metrics.has_leader.set(i64::from(leader != 0));
        metrics.is_leader.set(i64::from(leader == self.member.id));
        metrics.committed.set(standing.commit as i64);
        metrics.applied.set(standing.applied as i64);
        metrics.proposals_pending.set(core.pending() as i64);
        let serves = core.serves() && core.is_leader();
        let has_left = core.has_left();
        drop(core);
        if has_left {
            self.depart();
        }
        if self.core.borrow().is_introduced()
            && let Some(waker) = self.introduced_waker.borrow_mut().take()
        {
            waker.wake();
        }
        if self.was_serving.replace(serves) != serves && serves {
            self.lead_begun.set(true);
            if let Some(waker) = self.lead_waker.borrow_mut().take() {
                waker.wake();
            }
        }
    }

    /// Whether this member leads and may serve.
    pub fn leads(&self) -> bool {
        self.was_serving.get()
    }

    /// Waits until this member begins to lead, no longer than that.
    pub async fn lead_begins(&self, patience: Duration) {
        let begins = poll_fn(|context| {
            if self.lead_begun.take() {
                return Poll::Ready(());
            }
            *self.lead_waker.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        });
        runtime::timeout(patience, begins).await;
    }

    /// The member does not belong to the cluster any more: it ends. Its answers go out first, to members and to clients.
    /// (etcd: EtcdServer.stopWithDelay.)
    fn depart(self: &Rc<Self>) {
        if self.departing.replace(true) {
            return;
        }
        let driver = self.clone();
        runtime::spawn(async move {
            runtime::sleep(Duration::from_millis(limits::DEPARTURE_MS)).await;
            let error = "the member has been permanently removed from the cluster";
            log!(Warn, "server error", "error" = error);
            log!(Warn, "data-dir used by this member must be removed");
            driver.member.departed.store(true, Relaxed);
        });
    }

    async fn write(self: Rc<Self>, write: PendingWrite) {
        let started = runtime::recent();
        let bytes: u64 = write.pieces.iter().map(|piece| u64::from(piece.len)).sum();
        for piece in &write.pieces {
            if let Err(cause) = self.files.write(piece).await {
                let what = "the log cannot be written; the member stops, nothing acknowledged is lost";
                log!(Error, what, "file" = shown(piece.segment.path().display()), "offset" = piece.offset);
                stop_for(&cause, what, "free space or mend the disk, then start again");
            }
        }
        self.logged_bytes.set(self.logged_bytes.get() + bytes);
        let metrics = &self.member.metrics.core;
        let took = runtime::now() - started;
        metrics.wal_fsync_duration.observe(took);
        metrics.stages.observe(Stage::Persist, took);
        metrics.wal_write_bytes.add(bytes as i64);
        self.core.borrow_mut().written();
        for waker in self.write_waits.borrow_mut().drain(..) {
            waker.wake();
        }
        // Straight on: the callers of this write wait for exactly this turn.
        self.turn();
    }

    /// Waits until the write that is in flight, if any, is over.
    pub(super) async fn after_write(&self) {
        let mut waited = false;
        poll_fn(|context| {
            if std::mem::replace(&mut waited, true) {
                return Poll::Ready(());
            }
            self.write_waits.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// A state to write a checkpoint of, as soon as there is one.
    pub(super) async fn next_capture(&self, roll: Roll) -> Box<Capture> {
        self.with_core(|core| core.want_capture(roll));
        poll_fn(|context| match self.capture.borrow_mut().take() {
            Some(capture) => Poll::Ready(capture),
            None => {
                *self.capture_waker.borrow_mut() = Some(context.waker().clone());
                Poll::Pending
            }
        })
        .await
    }

    pub(super) fn installs(&self) -> &Installs {
        &self.installs
    }

    /// Has a state from another member made this member's as soon as no checkpoint is being written and nothing is moved.
    pub(super) fn hand_over(&self, waiting: Waiting) {
        *self.waiting_install.borrow_mut() = Some(waiting);
        self.kick_space();
    }

    /// Has values that another member gave written as soon as no other job moves any. One at a time.
    pub(super) fn hand_over_mended(&self, mended: Mended) {
        *self.mended.borrow_mut() = Some(mended);
        self.kick_space();
    }

    pub(super) fn take_mended(&self) -> Option<Mended> {
        self.mended.borrow_mut().take()
    }

    pub(super) fn values_of_others(&self, wanted: Vec<Wanted>) -> Asked {
        self.ways.values(wanted)
    }

    pub(super) fn has_waiting_install(&self) -> bool {
        self.waiting_install.borrow().is_some()
    }

    pub(super) fn take_waiting_install(&self) -> Option<Waiting> {
        self.waiting_install.borrow_mut().take()
    }

    /// What becomes of a state that the core was given.
    pub(super) async fn next_installing(&self) -> Installing {
        poll_fn(|context| match self.installing.borrow_mut().take() {
            Some(installing) => Poll::Ready(installing),
            None => {
                *self.capture_waker.borrow_mut() = Some(context.waker().clone());
                Poll::Pending
            }
        })
        .await
    }

    pub(super) fn logged_bytes(&self) -> u64 {
        self.logged_bytes.get()
    }

    pub fn member(&self) -> &Member {
        &self.member
    }

    /// Proposes a request of the member's own.
    pub fn propose_own(&self, data: Bytes) {
        self.with_core(|core| core.propose_own(data));
    }
}
