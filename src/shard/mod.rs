//! What one core owns: the requests that wait, the watches of its connections, its slice of the lease deadlines, and
//! its way to the published view. Nothing here is locked; other cores reach it by mail only.

pub mod lease;
pub mod mail;
pub mod outbox;
pub mod pending;
pub mod view;
pub mod watch;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;

use self::{
    mail::{Control, FromCore, Outcome, Proposal},
    outbox::Outbox,
    pending::Pending,
    view::{Published, View},
    watch::{Moment, Watches},
};
use crate::{
    api::encode::Head,
    config::Config,
    error::{self, Status},
    store::apply::Answer,
};

/// What every shard knows of the member it serves.
pub struct Member {
    pub id: u64,
    pub cluster_id: u64,
    pub config: Config,
    pub head: Head,
    pub standing: SharedStanding,
    /// Bytes of the log and the checkpoints, and those of them that live; told by the raft core.
    pub db_size: AtomicU64,
    pub db_size_in_use: AtomicU64,
    /// The low part of request ids, shared by all shards (etcd: pkg/idutil).
    next_id: AtomicU64,
}

/// The raft core's standing as any core may read it. Each field alone; no reader needs them to match.
#[derive(Default)]
pub struct SharedStanding {
    pub term: AtomicU64,
    pub leader: AtomicU64,
    pub commit: AtomicU64,
    pub applied: AtomicU64,
}

impl Member {
    /// `now_ms`: unix time in milliseconds when the member started.
    pub fn new(id: u64, cluster_id: u64, config: Config, now_ms: u64) -> Self {
        // Two bytes of the member's id, five of the start time, one to count in: ids of two lives of a member, and
        // of two members, do not meet.
        let first = (id & 0xffff) << 48 | (now_ms & 0xff_ffff_ffff) << 8;
        Member {
            id,
            cluster_id,
            config,
            head: Head::new(cluster_id, id),
            standing: SharedStanding::default(),
            db_size: AtomicU64::new(0),
            db_size_in_use: AtomicU64::new(0),
            next_id: AtomicU64::new(first),
        }
    }

    /// A request id, never 0 and never used before in this cluster.
    pub fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Relaxed) + 1
    }

    pub fn is_leader(&self) -> bool {
        self.standing.leader.load(Relaxed) == self.id
    }

    pub fn term(&self) -> u64 {
        self.standing.term.load(Relaxed)
    }
}

/// What a request is told, and the view in which the places of its answer are readable.
type Told = (Outcome, Arc<View>);

pub struct Shard {
    pub id: usize,
    pub member: Arc<Member>,
    pub published: Published,
    pub outbox: Outbox,
    pending: Rc<Pending<Told>>,
    /// Milliseconds since the server started, moved on by the shard's timer; good enough for timeouts.
    now_ms: Cell<u64>,
    pub leases: RefCell<lease::Deadlines>,
    pub watches: Watches<Arc<View>>,
}

impl Shard {
    pub fn new(id: usize, member: Arc<Member>, published: Published) -> Self {
        let settings = watch::Settings::new(member.head.clone(), &member.config);
        let watches = Watches::new(settings, published.load().revision());
        Shard {
            watches,
            id,
            member,
            published,
            outbox: Outbox::default(),
            pending: Rc::new(Pending::default()),
            now_ms: Cell::new(0),
            leases: RefCell::new(lease::Deadlines::default()),
        }
    }

    /// The present as responses state it.
    pub fn moment(&self) -> Moment {
        Moment { revision: self.view().revision(), term: self.member.term() }
    }

    pub fn view(&self) -> Arc<View> {
        self.published.load()
    }

    /// Proposes a marshalled InternalRaftRequest whose header carries `id`, and waits until it is applied.
    pub async fn propose(&self, id: u64, data: Bytes) -> Result<(Answer, Arc<View>), Status> {
        if data.len() > self.member.config.max_request_bytes {
            return Err(error::REQUEST_TOO_LARGE);
        }
        let waiting = self.pending.wait(self.now_ms.get());
        self.outbox.propose(Proposal { token: waiting.token(), id, data });
        match waiting.await {
            (Outcome::Applied(result), view) => result.map(|answer| (answer, view)),
            (Outcome::Failed(status), _) => Err(status),
            (Outcome::Done, _) => unreachable!("a proposal is answered with its result"),
        }
    }

    /// Waits until everything that was committed when this was called can be read, and gives the view to read it in.
    pub async fn linearizable(&self) -> Result<Arc<View>, Status> {
        let waiting = self.pending.wait(self.now_ms.get());
        self.outbox.read(waiting.token());
        match waiting.await {
            (Outcome::Done, view) => Ok(view),
            (Outcome::Failed(status), _) => Err(status),
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

    async fn control(&self, control: impl FnOnce(pending::Token) -> Control) -> Result<(), Status> {
        // Controls may take as long as the disk takes: no timeout, they end with the server.
        let waiting = self.pending.wait(u64::MAX - 1);
        self.outbox.control(control(waiting.token()));
        match waiting.await {
            (Outcome::Failed(status), _) => Err(status),
            _ => Ok(()),
        }
    }

    /// Hands the raft core's answers to those who wait.
    pub fn deliver(&self, mail: FromCore) {
        for (token, outcome) in mail.outcomes {
            self.pending.answer(token, (outcome, mail.view.clone()));
        }
        self.watches.deliver(&mail.events, &mail.view, self.member.term());
    }

    /// Moves the shard's clock on; requests that have waited longer than etcd lets them are told so.
    pub fn tick(&self, now_ms: u64) {
        self.now_ms.set(now_ms);
        let before = now_ms.saturating_sub(self.member.config.request_timeout_ms());
        let view = self.view();
        let status = if self.member.standing.leader.load(Relaxed) == 0 {
            error::TIMEOUT_DUE_TO_LEADER_FAIL
        } else {
            error::TIMEOUT
        };
        self.pending.expire(before, || (Outcome::Failed(status.clone()), view.clone()));
        let has_leader = self.member.standing.leader.load(Relaxed) != 0;
        let moment = self.moment();
        self.watches.with(|watches| watches.tick(now_ms, has_leader, moment));
    }

    /// Ends every wait: the server stops.
    pub fn stop(&self) {
        let view = self.view();
        self.pending.expire(u64::MAX, || (Outcome::Failed(error::STOPPED), view.clone()));
        self.watches.with(watch::Table::stop);
    }
}
