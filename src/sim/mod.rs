//! A whole cluster in one thread, from one seed: the members' own cores, with their shards' watches and lease deadlines, and
//! clients, ways between them, disks, processes, clocks and an operator that are simulated, with faults in all of these. A seed is
//! a run: the same one gives the same trace.
//!
//! While faults come, nothing untrue may be told (`checker`, `watcher`, and the ledger of leases in `lessee`). When they have
//! ended, the cluster must recover: a majority that can speak to one another is all that Raft asks for, so then every member must
//! answer, and all must be the same.

mod checker;
mod client;
mod disk;
mod faults;
mod lessee;
mod member;
mod network;
mod operator;
mod shrink;
mod snapshots;
mod watcher;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    path::{Path, PathBuf},
};

use prost::Message as _;

pub use self::shrink::shrink;
use self::{
    checker::{Checker, Told},
    client::Client,
    lessee::{Ledger, Lessee, Step},
    member::Member,
    network::{Network, Weather},
    operator::{Intent, Operator, Situation},
    watcher::{Read, Watcher},
};
pub use crate::raft::core::Planted;
use crate::{
    error,
    proto::{
        etcdserverpb::{
            CompactionRequest, InternalRaftRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest, RequestHeader,
        },
        raftpb::{Message, MessageType},
    },
    raft::{
        bootstrap::Founder,
        core::{Effects, Roll},
        mail::{Control, FromCore, Outcome, Proposal, ToCore, Token},
        sending::Delivery,
        translate::messages,
        view::View,
    },
    random::Random,
    shard::watch::Moment,
    store::{
        apply::{Answer, LeaseChange},
        hash::hash_kv,
        types::Values as _,
    },
};

const MS: u64 = 1000;
/// A heartbeat interval.
pub const TICK_US: u64 = 100 * MS;
/// How long a write takes at most on a sound disk.
pub const WRITE_US: u64 = 300;
/// How long the cluster has to recover in, once faults have ended.
const RECOVERY_US: u64 = 60_000 * MS;
/// How long after that everything is to be over: the longest lease, the time a new leader adds to it, and as long again as it
/// takes to try a revocation once more.
const REST_US: u64 = 14_000 * MS;
/// The first member's id.
const FIRST_ID: u64 = 0x10;

/// What a run is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub members: usize,
    pub clients: usize,
    pub lessees: usize,
    pub watchers: usize,
    /// Whether members come and go, and disks are lost.
    pub changes: bool,
    /// How long faults come, in simulated milliseconds.
    pub faulty_ms: u64,
    /// Numbers of faults that are left out.
    pub omitted: BTreeSet<u64>,
    /// Whether processes end where that hurts most: in an election, behind a checkpoint.
    pub ambushes: bool,
    pub planted: Option<Planted>,
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            members: 3,
            clients: 6,
            lessees: 3,
            watchers: 3,
            changes: false,
            faulty_ms: 20_000,
            omitted: BTreeSet::new(),
            ambushes: true,
            planted: None,
        }
    }
}

/// What a run was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub operations: u64,
    /// Of them those whose clients gave up: nobody knows.
    pub unknown: u64,
    pub revisions: u64,
    /// Events that watchers were told.
    pub watched: u64,
    /// Leases whose time has passed.
    pub expired: u64,
    /// Changes of the members.
    pub changes: u64,
    /// Values that were moved to give their segments back.
    pub moved: u64,
    /// Spans of entries whose effects members were compared by.
    pub spans: u64,
    /// Snapshots that members have sent each other, by what became of them.
    pub snapshots: BTreeMap<&'static str, u64>,
    pub simulated_ms: u64,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// A digest of all that has happened.
    pub trace: u64,
}

/// Who waits for a member's answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Waiter {
    Client(usize),
    Lessee(usize),
    Operator,
}

#[derive(Debug)]
enum Event {
    Tick {
        member: usize,
    },
    Arrival {
        from: usize,
        to: usize,
        message: Box<Message>,
    },
    /// A snapshot, and whose process it was that sent it.
    Snapshot {
        from: usize,
        life: u64,
        to: usize,
        message: Box<Message>,
        database: Box<snapshots::Sent>,
    },
    /// What has become of it, back at that process.
    Reported {
        member: usize,
        life: u64,
        to: u64,
        delivery: Delivery,
    },
    /// The checkpoint of a state that another member has sent is on the disk.
    Exchanged {
        member: usize,
        life: u64,
    },
    Written {
        member: usize,
        life: u64,
    },
    Start {
        member: usize,
    },
    Kill {
        member: usize,
    },
    /// A removed member stops.
    Retire {
        member: usize,
    },
    /// There is room on the disk again.
    Room {
        member: usize,
    },
    /// What a shard has left for its core.
    Mail {
        member: usize,
        life: u64,
        mail: Box<ToCore>,
    },
    Ask {
        client: usize,
    },
    GiveUp {
        client: usize,
        operation: u64,
    },
    Lease {
        lessee: usize,
    },
    LesseeGivesUp {
        lessee: usize,
        slot: u32,
    },
    Watch {
        watcher: usize,
    },
    Operate,
    Change,
    OperatorGivesUp {
        slot: u32,
    },
    Compact,
    Fault,
    Housekeeping {
        member: usize,
    },
}

/// When, and in which order of those that are due at once.
struct Due {
    at: u64,
    number: u64,
    event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

struct World {
    plan: Plan,
    seed: u64,
    folder: PathBuf,
    random: Random,
    now: u64,
    agenda: BinaryHeap<Reverse<Due>>,
    numbered: u64,
    members: Vec<Member>,
    network: Network,
    clients: Vec<Client>,
    lessees: Vec<Lessee>,
    ledger: Ledger,
    watchers: Vec<Watcher>,
    operator: Operator,
    checker: Checker,
    /// What each span of entries did, by its last.
    spans: BTreeMap<u64, u32>,
    /// Of requests that are no client's.
    slots: u32,
    /// The newest revision that a compaction was asked for.
    compacted: i64,
    faults_made: u64,
    faulty: bool,
    resting: bool,
    report: Report,
}

/// Runs one seed, in a folder that is empty.
///
/// # Panics
/// If something untrue is told, or the cluster does not recover.
pub fn run(seed: u64, plan: &Plan, folder: &Path) -> Report {
    let mut world = World::new(seed, plan, folder);
    world.live(plan.faulty_ms * MS);
    world.recover();
    world.finish()
}

impl World {
    fn new(seed: u64, plan: &Plan, folder: &Path) -> World {
        let founder = |at: usize| {
            let id = FIRST_ID + at as u64;
            Founder { id, name: format!("m{at}"), peer_urls: vec![operator::url(id, 0)] }
        };
        let founders: Vec<Founder> = (0..plan.members).map(founder).collect();
        let mut random = Random(seed);
        let watchers = (0..plan.watchers).map(|number| Watcher::new(number, &mut random)).collect();
        let mut world = World {
            plan: plan.clone(),
            seed,
            folder: folder.to_owned(),
            random,
            now: 0,
            agenda: BinaryHeap::new(),
            numbered: 0,
            members: Vec::new(),
            network: Network::new(),
            clients: (0..plan.clients).map(Client::new).collect(),
            lessees: (0..plan.lessees).map(Lessee::new).collect(),
            ledger: Ledger::new(),
            watchers,
            operator: Operator::default(),
            checker: Checker::default(),
            spans: BTreeMap::new(),
            slots: 0xf000_0000,
            compacted: 0,
            faults_made: 0,
            faulty: true,
            resting: false,
            report: Report::default(),
        };
        for founder in &founders {
            world.add_member(founder.id, &founders);
        }
        for member in 0..plan.members {
            world.start(member);
        }
        for client in 0..plan.clients {
            world.after(0, Event::Ask { client });
        }
        for lessee in 0..plan.lessees {
            world.after(1_000 * MS, Event::Lease { lessee });
        }
        for watcher in 0..plan.watchers {
            world.after(100 * MS, Event::Watch { watcher });
        }
        if plan.changes {
            world.after(1_000 * MS, Event::Operate);
        }
        world.after(2_000 * MS, Event::Compact);
        world.after(500 * MS, Event::Fault);
        world
    }

    /// A machine for a member; nothing runs on it yet.
    fn add_member(&mut self, id: u64, founders: &[Founder]) {
        let member = self.members.len();
        self.members.push(Member::new(&self.folder, id, founders, self.plan.planted));
        let first_tick = self.random.below(TICK_US);
        self.after(first_tick, Event::Tick { member });
        self.after(200 * MS, Event::Housekeeping { member });
    }

    fn after(&mut self, us: u64, event: Event) {
        self.numbered += 1;
        self.agenda.push(Reverse(Due { at: self.now + us, number: self.numbered, event }));
    }

    fn trace(&mut self, numbers: &[u64]) {
        for number in numbers {
            self.report.trace = (self.report.trace ^ number).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
        }
    }

    fn fault(&mut self, kind: &'static str) {
        *self.report.faults.entry(kind).or_default() += 1;
    }

    fn live(&mut self, for_us: u64) {
        let end = self.now + for_us;
        while self.agenda.peek().is_some_and(|Reverse(due)| due.at <= end) {
            self.step();
        }
        self.now = end;
    }

    fn step(&mut self) {
        let Reverse(Due { at, event, .. }) = self.agenda.pop().expect("ticks never end");
        self.now = at;
        match event {
            Event::Tick { member } => self.tick(member),
            Event::Arrival { from, to, message } => self.arrive(from, to, message),
            Event::Snapshot { from, life, to, message, database } => {
                self.arrive_snapshot((from, life), to, message, database);
            }
            Event::Reported { member, life, to, delivery } => self.hear_report(member, life, to, delivery),
            Event::Exchanged { member, life } => self.exchanged(member, life),
            Event::Written { member, life } => self.written(member, life),
            Event::Start { member } => self.start(member),
            Event::Kill { member } => {
                self.kill(member);
                let back = self.random.between(MS, 200 * MS);
                self.after(back, Event::Start { member });
            }
            Event::Retire { member } => {
                self.kill(member);
                self.members[member].gone = true;
            }
            Event::Room { member } => self.members[member].disk.full = false,
            Event::Mail { member, life, mail } => self.hand_over(member, life, mail),
            Event::Ask { client } => self.ask(client),
            Event::GiveUp { client, operation } => {
                if self.clients[client].gives_up(operation) {
                    self.report.unknown += 1;
                    self.after(10 * MS, Event::Ask { client });
                }
            }
            Event::Lease { lessee } => self.lease(lessee),
            Event::LesseeGivesUp { lessee, slot } => {
                if self.lessees[lessee].waits_for(slot) {
                    self.lessees[lessee].waits = None;
                    self.report.unknown += 1;
                    self.after(10 * MS, Event::Lease { lessee });
                }
            }
            Event::Watch { watcher } => self.watch(watcher),
            Event::Operate => self.operate(),
            Event::Change => self.change(),
            Event::OperatorGivesUp { slot } => {
                if self.operator.asked.take_if(|asked| asked.slot == slot).is_some() {
                    self.after(10 * MS, Event::Operate);
                }
            }
            Event::Compact => self.compact(),
            Event::Fault => {
                if self.faulty {
                    self.next_fault();
                }
            }
            Event::Housekeeping { member } => {
                let next = self.random.between(50 * MS, 1500 * MS);
                self.after(next, Event::Housekeeping { member });
                if self.runs(member) {
                    self.keep_house(member);
                }
            }
        }
    }

    // ---- members ----

    /// Whether a member's process is there and does not stand still.
    fn runs(&self, member: usize) -> bool {
        self.members[member].core.is_some() && self.members[member].still_until <= self.now
    }

    fn running(&self) -> Vec<usize> {
        (0..self.members.len()).filter(|member| self.runs(*member)).collect()
    }

    /// Those that are known to belong to the cluster.
    fn cluster(&self) -> Vec<usize> {
        if !self.plan.changes {
            return (0..self.members.len()).collect();
        }
        let known = |member: &usize| self.operator.membership.get(self.members[*member].id).is_some();
        (0..self.members.len()).filter(known).collect()
    }

    fn start(&mut self, member: usize) {
        if self.members[member].core.is_some() || self.members[member].gone {
            return;
        }
        self.trace(&[self.now, 3, member as u64]);
        let (before, rest) = self.members.split_at_mut(member);
        let (one, behind) = rest.split_first_mut().expect("it is there");
        // Ways to them may be cut now; they are asked until they are not.
        let others: Vec<&Member> = before.iter().chain(behind.iter()).collect();
        if one.start(self.now, &mut self.random, &others) {
            if self.members[member].mended {
                self.fault("log mended at a start");
            }
            self.turn(member);
        } else {
            self.fault("start refused by a damaged disk");
            if !self.members[member].disk.damaged {
                // It was only read wrongly.
                self.after(100 * MS, Event::Start { member });
            }
        }
    }

    fn kill(&mut self, member: usize) {
        if let Some(sender) = self.members[member].kill(&mut self.random) {
            // Its connection breaks.
            self.report_snapshot(sender, member, Delivery::Lost);
        }
        // Whoever waits there will give up.
        self.members[member].waiting.clear();
    }

    /// A process ends by itself, and is started again.
    fn fail(&mut self, member: usize) {
        self.kill(member);
        let back = self.random.between(10 * MS, 1_000 * MS);
        self.after(back, Event::Start { member });
    }

    fn tick(&mut self, member: usize) {
        let tick = self.members[member].clock.tick_us;
        self.after(tick, Event::Tick { member });
        if !self.runs(member) {
            return;
        }
        self.members[member].core.as_mut().expect("it runs").tick();
        self.turn(member);
        if self.runs(member) {
            self.expire(member);
        }
    }

    /// The shard's timer: what has expired goes to the core, as soon as mail goes.
    fn expire(&mut self, member: usize) {
        let now = self.now;
        let moment = self.moment(member);
        let one = &mut self.members[member];
        let has_leader = one.core.as_ref().expect("it runs").standing().leader != 0;
        let at_ms = one.clock.ms(now);
        one.watches.with(|watches| watches.tick(at_ms, has_leader, moment));
        let (only_in, due) = one.expired(now);
        let life = one.life;
        if due.is_empty() {
            return;
        }
        let mut mail = ToCore::default();
        for lease in due {
            self.trace(&[now, 6, member as u64, lease as u64]);
            let (token, id) = self.token(member);
            let request = InternalRaftRequest {
                header: Some(RequestHeader { id, ..Default::default() }),
                lease_revoke: Some(LeaseRevokeRequest { id: lease }),
                ..Default::default()
            };
            mail.proposals.push(Proposal { token, id, data: request.encode_to_vec().into(), only_in });
        }
        let us = self.random.below(3 * MS);
        self.after(us, Event::Mail { member, life, mail: Box::new(mail) });
    }

    fn hand_over(&mut self, member: usize, life: u64, mail: Box<ToCore>) {
        if self.members[member].life != life || self.members[member].core.is_none() {
            return;
        }
        if !self.runs(member) {
            let left = self.members[member].still_until - self.now;
            return self.after(left, Event::Mail { member, life, mail });
        }
        self.give(member, *mail);
    }

    fn give(&mut self, member: usize, mail: ToCore) {
        self.members[member].core.as_mut().expect("it runs").receive(0, mail);
        self.turn(member);
    }

    fn written(&mut self, member: usize, life: u64) {
        if self.members[member].life != life || self.members[member].core.is_none() {
            return;
        }
        if !self.runs(member) {
            // The disk is done, the process hears of it when it goes on.
            let left = self.members[member].still_until - self.now;
            return self.after(left, Event::Written { member, life });
        }
        self.trace(&[self.now, 2, member as u64]);
        if self.members[member].written(&mut self.random) {
            self.turn(member);
        } else {
            self.fault("end by a failed write");
            self.fail(member);
        }
    }

    fn arrive(&mut self, from: usize, to: usize, message: Box<Message>) {
        if self.members[to].core.is_none() || !self.network.is_open(from, to) {
            return;
        }
        if !self.runs(to) {
            let left = self.members[to].still_until - self.now;
            return self.after(left, Event::Arrival { from, to, message });
        }
        if self.members[to].knows_removed(self.members[from].id) {
            // It is told so, and stops. (etcd: rafthttp, 410 Gone.)
            if self.network.is_open(to, from) {
                self.after(MS, Event::Retire { member: from });
            }
            return;
        }
        let number = |field: Option<u64>| field.unwrap_or_default();
        let kind = message.r#type() as u64;
        let (term, index, commit) = (number(message.term), number(message.index), number(message.commit));
        self.trace(&[self.now, 1, to as u64, kind, term, index, commit]);
        let asks_for_vote = message.r#type() == MessageType::MsgVote;
        let message = messages::message_for_crate(*message).expect("members send nothing that stays within one");
        self.members[to].core.as_mut().expect("it runs").step(message);
        self.turn(to);
        // What is forgotten then is worst.
        if asks_for_vote && self.is_struck(100) {
            self.fault("kill in an election");
            let soon = self.random.between(WRITE_US, 5 * MS);
            self.after(soon, Event::Kill { member: to });
        }
    }

    fn turn(&mut self, member: usize) {
        loop {
            self.members[member].install_if_kept();
            let was_installing = self.members[member].exchange.begun.is_some();
            let Some(effects) = self.members[member].turn() else {
                self.fault("end by a damaged disk");
                return self.fail(member);
            };
            self.carry_out(member, effects);
            if !was_installing && self.members[member].exchange.begun.is_some() {
                let (us, life) = (self.random.between(MS, 300 * MS), self.members[member].life);
                self.after(us, Event::Exchanged { member, life });
            }
            if let Some(sender) = self.members[member].take_installed() {
                self.report_snapshot(sender, member, Delivery::Arrived);
            }
            if !self.members[member].core.as_ref().is_some_and(crate::raft::core::Core::has_work) {
                break;
            }
        }
        let id = self.members[member].id;
        if self.members[member].knows_removed(id) && !std::mem::replace(&mut self.members[member].retiring, true) {
            let soon = self.random.between(50 * MS, 1_500 * MS);
            self.after(soon, Event::Retire { member });
        }
    }

    fn carry_out(&mut self, member: usize, effects: Effects) {
        for span in effects.spans {
            let hash = *self.spans.entry(span.last).or_insert(span.hash);
            assert_eq!(span.hash, hash, "member {member} did something else in the span that ends at {}", span.last);
            self.report.spans += 1;
        }
        for message in effects.messages {
            let to = self.members.iter().position(|one| one.id == message.to).expect("a member");
            // As it is on the way, without what only the crate knows.
            let message = messages::message(message);
            if let Some(us) = self.network.carry(&mut self.random) {
                self.after(us, Event::Arrival { from: member, to, message: Box::new(message) });
            }
        }
        for snapshot in effects.snapshots {
            self.send_snapshot(member, snapshot);
        }
        if effects.write.is_some() {
            let us = self.random.between(50, self.members[member].write_us);
            let life = self.members[member].life;
            self.after(us, Event::Written { member, life });
        }
        for (_, mail) in effects.mail {
            self.deliver(member, mail);
        }
    }

    /// As a shard takes its mail: leases first, then answers, then events.
    fn deliver(&mut self, member: usize, mail: FromCore) {
        let who = format!("member {member}");
        if mail.jumped {
            let next = mail.view.revision() + 1;
            assert!(next >= self.members[member].next_revision, "a snapshot takes the state back");
            self.members[member].next_revision = next;
            // What leases there are is another matter now.
            self.members[member].deadlines.demote();
        }
        for revision in mail.events.iter().filter(|_| !mail.jumped) {
            let expected = self.members[member].next_revision;
            self.members[member].next_revision += 1;
            let damaged = self.members[member].disk.damaged;
            let value = |at: usize| {
                let live = &revision.events[at];
                let value = live.value.clone().expect("a put with its value");
                match mail.view.segments.value(live.event.meta.place) {
                    Ok(read) => assert_eq!(read, value, "{who} does not find what it has put"),
                    Err(cause) => assert!(damaged, "{who} does not find what it has put: {cause}"),
                }
                value
            };
            self.checker.hears(&who, expected, revision, value);
            self.trace(&[self.now, 4, member as u64, expected as u64]);
        }
        let now_ms = self.members[member].ms(self.now);
        for change in mail.leases.iter() {
            match *change {
                LeaseChange::Granted { id, ttl } => self.members[member].deadlines.granted(id, ttl, now_ms),
                LeaseChange::Revoked { id } => {
                    self.members[member].deadlines.revoked(id);
                    self.ledger.ended(id, self.now);
                }
                LeaseChange::Checkpointed { .. } => {}
            }
        }
        for (token, outcome) in mail.outcomes {
            match self.members[member].waiting.remove(&token.slot) {
                Some(Waiter::Client(client)) => self.answer(client, token.slot, member, &mail.view, outcome),
                Some(Waiter::Lessee(lessee)) => self.answer_lessee(lessee, token.slot, member, &mail.view, outcome),
                Some(Waiter::Operator) => self.answer_operator(token.slot, &mail.view, &outcome),
                None => {}
            }
        }
        let one = &self.members[member];
        let Some(term) = one.core.as_ref().map(|core| core.standing().term) else { return };
        match mail.jumped {
            true => one.watches.jump(mail.view.revision(), term),
            false => one.watches.deliver(&mail.events, &mail.view, term),
        }
        while one.watches.fan_out(term) {}
    }

    /// What goes on in the background: compaction's removals, values that move out of the way, and checkpoints, at once or a
    /// while after the state was taken.
    fn keep_house(&mut self, member: usize) {
        let core = self.members[member].core.as_mut().expect("it runs");
        core.compaction_slice(50);
        if self.random.permille(400) {
            let roll = if self.random.permille(300) { Roll::Over } else { Roll::No };
            self.members[member].core.as_mut().expect("it runs").want_capture(roll);
            self.turn(member);
        }
        if self.random.permille(300) && self.runs(member) {
            let moved = self.members[member].repack(&mut self.random);
            self.report.moved += moved;
            self.turn(member);
        }
        if self.random.permille(700) && self.runs(member) {
            let written = self.members[member].checkpoint();
            if written && self.is_struck(150) {
                self.fault("kill after a checkpoint");
                self.after(0, Event::Kill { member });
            }
        }
        if self.runs(member) {
            self.turn(member);
        }
    }

    // ---- clients ----

    /// For a request that is no client's, and its id at the member that is asked.
    fn token(&mut self, member: usize) -> (Token, u64) {
        self.slots += 1;
        (Token { slot: self.slots, life: 0 }, self.members[member].next_id())
    }

    /// The present as a member's shard states it.
    fn moment(&self, member: usize) -> Moment {
        let one = &self.members[member];
        let revision = one.view.as_ref().map_or(0, |view| view.revision());
        Moment { revision, term: one.core.as_ref().map_or(0, |core| core.standing().term) }
    }

    /// Whom a client asks: some member that runs; of those that are in no cluster only now and then one.
    fn somebody(&mut self) -> Option<usize> {
        let (running, cluster) = (self.running(), self.cluster());
        let known: Vec<usize> = running.iter().copied().filter(|member| cluster.contains(member)).collect();
        let anybody = known.is_empty() || !self.resting && self.random.permille(20);
        let from = if anybody { running } else { known };
        (!from.is_empty()).then(|| *self.random.pick(&from))
    }

    fn ask(&mut self, client: usize) {
        let Some(member) = self.somebody() else { return self.after(20 * MS, Event::Ask { client }) };
        let id = self.members[member].next_id();
        let (slot, mail) = self.clients[client].next(&mut self.random, self.checker.floor(), id);
        self.members[member].waiting.insert(slot, Waiter::Client(client));
        self.after(8_000 * MS, Event::GiveUp { client, operation: slot.into() });
        self.give(member, mail);
    }

    fn answer(&mut self, client: usize, slot: u32, member: usize, view: &View, outcome: Outcome) {
        if !self.clients[client].waits_for(slot) {
            // It has given up.
            return;
        }
        let damaged = self.members[member].disk.damaged;
        let told = self.clients[client].answered(&mut self.checker, view, outcome, damaged);
        self.report.operations += u64::from(told);
        self.report.unknown += u64::from(!told);
        let most = if self.clients[client].rests() { 400 } else { 40 };
        let next = self.random.between(MS, most * MS);
        self.after(next, Event::Ask { client });
    }

    fn compact(&mut self) {
        let next = self.random.between(1_000 * MS, 6_000 * MS);
        self.after(next, Event::Compact);
        let revision = self.checker.floor() - self.random.below(150) as i64;
        let Some(member) = self.somebody().filter(|_| revision > self.compacted && !self.resting) else { return };
        self.compacted = revision;
        let (token, id) = self.token(member);
        let request = InternalRaftRequest {
            header: Some(RequestHeader { id, ..Default::default() }),
            compaction: Some(CompactionRequest { revision, physical: false }),
            ..Default::default()
        };
        let proposals = vec![Proposal { token, id, data: request.encode_to_vec().into(), only_in: None }];
        self.give(member, ToCore { proposals, ..ToCore::default() });
    }

    // ---- leases ----

    fn lease(&mut self, lessee: usize) {
        if self.lessees[lessee].waits.is_some() {
            return;
        }
        // Keep-alives go to whom leads, as far as anybody knows; who has been deposed may not know.
        let leaders = self.running().into_iter().filter(|member| self.members[*member].leads().is_some());
        let leaders: Vec<usize> = leaders.collect();
        let Some(anybody) = self.somebody() else { return self.after(50 * MS, Event::Lease { lessee }) };
        let Some(step) = self.lessees[lessee].next(&mut self.random) else {
            let next = self.random.between(MS, 300 * MS);
            return self.after(next, Event::Lease { lessee });
        };
        let leader = if leaders.is_empty() { anybody } else { *self.random.pick(&leaders) };
        let member = if matches!(step, Step::Renew { .. }) { leader } else { anybody };
        let (token, id) = self.token(member);
        let mut request =
            InternalRaftRequest { header: Some(RequestHeader { id, ..Default::default() }), ..Default::default() };
        match &step {
            Step::Grant { id, ttl } => {
                self.ledger.asks_for(*id, *ttl, self.now);
                request.lease_grant = Some(LeaseGrantRequest { id: *id, ttl: *ttl });
            }
            Step::Put { id, key, value } => {
                let (key, value) = (key.clone(), value.clone());
                request.put = Some(PutRequest { key, value, lease: *id, ..Default::default() });
            }
            Step::Revoke { id } => {
                self.ledger.revokes(*id);
                request.lease_revoke = Some(LeaseRevokeRequest { id: *id });
            }
            Step::Renew { .. } => {}
        }
        let renews = matches!(step, Step::Renew { .. });
        let floor = self.checker.floor();
        self.lessees[lessee].waits = Some(lessee::Asked { slot: token.slot, at: self.now, floor, step });
        self.after(4_000 * MS, Event::LesseeGivesUp { lessee, slot: token.slot });
        let mut mail = ToCore::default();
        match renews {
            true if self.members[member].has(Planted::RenewsUnconfirmed) => {
                let view = self.members[member].view.clone().expect("it runs");
                return self.answer_lessee(lessee, token.slot, member, &view, Outcome::Done);
            }
            // It asks whether it still leads, before it promises anything.
            true => mail.reads.push(token),
            false => mail.proposals.push(Proposal { token, id, data: request.encode_to_vec().into(), only_in: None }),
        }
        self.members[member].waiting.insert(token.slot, Waiter::Lessee(lessee));
        self.give(member, mail);
    }

    fn answer_lessee(&mut self, lessee: usize, slot: u32, member: usize, view: &View, outcome: Outcome) {
        let Some(lessee::Asked { at, floor, step, .. }) =
            self.lessees[lessee].waits.take_if(|asked| asked.slot == slot)
        else {
            return;
        };
        self.report.operations += 1;
        let mut next = self.random.between(20 * MS, 700 * MS);
        match (step, outcome) {
            (_, Outcome::Failed(_)) => {
                self.report.operations -= 1;
                self.report.unknown += 1;
                next = 50 * MS;
            }
            (Step::Renew { id }, Outcome::Done) => self.renew(lessee, member, id, at, view),
            (Step::Grant { id, ttl: asked }, Outcome::Applied(result)) => match *result {
                Ok(Answer::LeaseGrant { ttl, .. }) => {
                    assert_eq!(ttl, asked);
                    self.ledger.promised(id, ttl, at);
                    self.lessees[lessee].granted(id, &mut self.random);
                }
                other => panic!("a grant is answered with {other:?}"),
            },
            (Step::Put { id, key, value }, Outcome::Applied(result)) => match *result {
                Ok(Answer::Put { revision, .. }) => self.checker.answered(revision, floor, Told::Put { key, value }),
                Err(status) if status == error::LEASE_NOT_FOUND => {
                    self.ledger.may_have_ended(id, self.now);
                    self.lessees[lessee].lost();
                }
                other => panic!("a put is answered with {other:?}"),
            },
            (Step::Revoke { .. }, Outcome::Applied(_)) => {}
            (step, outcome) => panic!("{step:?} is answered with {outcome:?}"),
        }
        self.after(next, Event::Lease { lessee });
    }

    /// As the shard of a member that has just been told that it still led when it was asked. (shard/mod.rs, answer_lease.)
    fn renew(&mut self, lessee: usize, member: usize, id: i64, asked_at: u64, view: &View) {
        self.members[member].follow_lead(self.now);
        let now_ms = self.members[member].ms(self.now);
        let deadlines = &mut self.members[member].deadlines;
        if !deadlines.is_primary() {
            return;
        }
        let Some(lease) = view.state.leases.get(id) else {
            self.ledger.may_have_ended(id, self.now);
            return self.lessees[lessee].lost();
        };
        deadlines.granted(id, lease.ttl, now_ms);
        match deadlines.renew(id, now_ms) {
            Some(ttl) => self.ledger.promised(id, ttl, asked_at),
            None => {
                self.ledger.may_have_ended(id, self.now);
                self.lessees[lessee].lost();
            }
        }
    }

    // ---- watches ----

    fn watch(&mut self, watcher: usize) {
        // Now and then it does not read for so long that it falls behind.
        let most = if self.random.permille(50) { 3_000 } else { 150 };
        let next = self.random.between(5 * MS, most * MS);
        self.after(next, Event::Watch { watcher });
        let seat = self.watchers[watcher].seat;
        let there = seat.is_some_and(|seat| {
            let one = &self.members[seat.member];
            one.life == seat.life && one.core.is_some()
        });
        if there && seat.is_some_and(|seat| !self.runs(seat.member)) {
            return;
        }
        let left = self.resting && seat.is_some_and(|seat| !self.cluster().contains(&seat.member));
        let moves = !there || left || !self.resting && self.random.permille(10);
        if moves {
            if there && let Some(seat) = seat {
                self.watchers[watcher].leave(&self.members[seat.member].watches);
            }
            self.watchers[watcher].seat = None;
            let Some(member) = self.somebody() else { return };
            let (life, now) = (self.members[member].life, self.moment(member));
            self.watchers[watcher].sit_down(member, life, &self.members[member].watches, now);
        }
        self.read_watch(watcher);
    }

    /// What there is for a watcher is taken, as the task of its stream does.
    fn read_watch(&mut self, watcher: usize) {
        let Some(seat) = self.watchers[watcher].seat else { return };
        let member = seat.member;
        if self.members[member].life != seat.life || !self.runs(member) {
            return;
        }
        if self.random.permille(100) {
            self.watchers[watcher].ask_for_progress(&self.members[member].watches, self.moment(member));
        }
        let (one, term) = (&self.members[member], self.moment(member).term);
        let view = one.view.as_ref().expect("it runs");
        match self.watchers[watcher].read(&one.watches, view, term, &self.checker, self.compacted) {
            Read::All => {}
            // It begins again where it was, or behind what is gone.
            Read::Overtaken => self.watchers[watcher].leave(&one.watches),
            Read::Unreadable => {
                assert!(one.disk.damaged, "a sound disk cannot be read");
                self.watchers[watcher].leave(&one.watches);
            }
        }
    }

    // ---- the operator ----

    fn operate(&mut self) {
        if self.resting || self.operator.asked.is_some() {
            return;
        }
        let Some(member) = self.somebody() else { return self.after(100 * MS, Event::Operate) };
        let (token, _) = self.token(member);
        self.operator.asked = Some(operator::Asked { slot: token.slot, looks: true });
        self.after(4_000 * MS, Event::OperatorGivesUp { slot: token.slot });
        self.members[member].waiting.insert(token.slot, Waiter::Operator);
        self.give(member, ToCore { reads: vec![token], ..ToCore::default() });
    }

    fn answer_operator(&mut self, slot: u32, view: &View, outcome: &Outcome) {
        let Some(operator::Asked { looks, .. }) = self.operator.asked.take_if(|asked| asked.slot == slot) else {
            return;
        };
        if matches!(outcome, Outcome::Applied(result) if result.is_err()) {
            self.operator.is_refused();
        }
        if !looks || !matches!(outcome, Outcome::Done) {
            return self.after(50 * MS, Event::Operate);
        }
        if self.operator.sees(&view.state.membership) {
            self.report.changes += 1;
        }
        let broken = self.broken();
        let leader = self.leader().map(|member| self.members[member].id);
        let situation = Situation {
            broken: &broken,
            leader,
            founders: self.plan.members,
            next_id: FIRST_ID + self.members.len() as u64,
            mends: !self.faulty,
        };
        self.operator.decide(&mut self.random, &situation);
        if self.operator.intent.is_some() {
            return self.after(MS, Event::Change);
        }
        let next = self.random.between(50 * MS, 1_500 * MS);
        self.after(next, Event::Operate);
    }

    /// Asks for the change that is to be made.
    fn change(&mut self) {
        let Some(intent) = self.operator.intent else { return self.after(MS, Event::Operate) };
        if let Intent::Add { id, .. } = intent {
            if self.members.iter().all(|member| member.id != id) {
                self.add_member(id, &[]);
            }
            // Its process begins a little before it belongs to the cluster, or after.
            let member = self.members.iter().position(|member| member.id == id).expect("it was added");
            let soon = self.random.below(500 * MS);
            self.after(soon, Event::Start { member });
        }
        let leader = self.leader().filter(|_| matches!(intent, Intent::Promote { .. }));
        let Some(member) = leader.or_else(|| self.somebody()) else { return self.after(100 * MS, Event::Change) };
        self.trace(&[self.now, 7, member as u64]);
        let (token, id) = self.token(member);
        let (data, promotes) = Operator::change(intent, id);
        self.operator.asked = Some(operator::Asked { slot: token.slot, looks: false });
        self.after(4_000 * MS, Event::OperatorGivesUp { slot: token.slot });
        self.members[member].waiting.insert(token.slot, Waiter::Operator);
        let controls = vec![Control::Configure { token, id, data, promotes }];
        self.give(member, ToCore { controls, ..ToCore::default() });
    }

    // ---- the end ----

    /// Faults end; then every member must answer within the time, whatever has been before.
    fn recover(&mut self) {
        self.faulty = false;
        self.network.heal();
        self.network.weather = Weather::FAIR;
        for member in 0..self.members.len() {
            let one = &mut self.members[member];
            one.still_until = 0;
            one.clock.set_pace(self.now, TICK_US);
            one.write_us = WRITE_US;
            (one.disk.fails, one.disk.full, one.disk.misreads) = (false, false, false);
            self.start(member);
        }
        let end = self.now + RECOVERY_US;
        let mut proven = BTreeSet::new();
        while self.plan.changes && !self.operator.is_done(&self.broken())
            || self.cluster().iter().any(|member| !proven.contains(member))
        {
            assert!(self.now < end, "the cluster has not recovered: {:?}", self.standings());
            let floor = self.checker.floor();
            self.live(1_000 * MS);
            for member in self.cluster() {
                // Its clients are served: it has told revisions since, and it knows the leader.
                let Some(core) = &self.members[member].core else { continue };
                if core.standing().leader != 0 && self.members[member].next_revision > floor + 1 {
                    proven.insert(member);
                }
            }
        }
        self.resting = true;
        self.clients.iter_mut().for_each(Client::rest);
        self.lessees.iter_mut().for_each(Lessee::rest);
        self.live(REST_US);
        for watcher in 0..self.watchers.len() {
            // It may have to begin anew, twice where what it is owed was compacted away.
            (0..3).for_each(|_| self.watch(watcher));
        }
    }

    fn standings(&self) -> Vec<String> {
        let standing =
            |member: &Member| format!("{:x}: {:x?}", member.id, member.core.as_ref().map(|it| it.standing()));
        let members = self.members.iter().map(standing);
        members.chain([format!("wanted: {:x?}, broken: {:x?}", self.operator.intent, self.broken())]).collect()
    }

    /// All members are the same, and history is as it was told.
    fn finish(mut self) -> Report {
        let mut told = Vec::new();
        for member in self.cluster() {
            let core = self.members[member].core.as_ref().expect("all run");
            let index = &core.state().index;
            let view = self.members[member].view.as_ref().expect("published");
            let hash = hash_kv(index, index.current(), &view.segments).expect("values can be read");
            let leases: Vec<i64> = core.state().leases.iter().map(|lease| lease.id).collect();
            assert!(leases.is_empty(), "nobody keeps them alive, and they do not end: {leases:x?}");
            told.push((index.current(), index.compacted(), hash, core.state().membership.clone()));
        }
        assert!(told.iter().all(|one| *one == told[0]), "members differ: {told:?}, {:?}", self.standings());
        assert!(told[0].0 >= self.checker.floor(), "what was told is gone");
        for (number, watcher) in self.watchers.iter().enumerate() {
            assert!(!watcher.is_behind(&self.checker), "watcher {number} was not told all that it is owed");
            self.report.watched += watcher.told;
        }
        self.report.revisions = self.checker.finish() as u64;
        self.report.expired = self.ledger.expired;
        self.report.simulated_ms = self.now / MS;
        self.report
    }
}

#[cfg(test)]
mod tests;
