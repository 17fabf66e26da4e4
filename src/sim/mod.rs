//! A whole cluster in one thread, from one seed: the members' own cores, with clients, ways between them, disks, processes and
//! clocks that are simulated, and with faults in all of these. A seed is a run: the same one gives the same trace.
//!
//! While faults come, nothing untrue may be told (`checker`). When they have ended, the cluster must recover: a majority that
//! can speak to one another is all that Raft asks for, so then every member must answer, and all must be the same.

mod checker;
mod client;
mod member;
mod network;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    path::Path,
    sync::Arc,
};

use bytes::Bytes;

use self::{
    checker::Checker,
    client::Client,
    member::Member,
    network::{Network, Weather},
};
pub use crate::raft::core::Planted;
use crate::{
    proto::raftpb::{Message, MessageType},
    raft::{
        bootstrap::Founder,
        core::{Effects, Roll},
        database::Making,
        mail::{FromCore, Outcome},
        sending::SnapshotToSend,
        translate::messages,
        view::View,
    },
    random::Random,
    store::{hash::hash_kv, types::Values},
};

const MS: u64 = 1000;
/// A heartbeat interval.
pub const TICK_US: u64 = 100 * MS;
/// How long a write takes at most on a sound disk.
pub const WRITE_US: u64 = 300;
/// How long the cluster has to recover in, once faults have ended.
const RECOVERY_US: u64 = 60_000 * MS;

/// What a run is made of.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub members: usize,
    pub clients: usize,
    /// How long faults come, in simulated milliseconds.
    pub faulty_ms: u64,
    pub planted: Option<Planted>,
}

impl Default for Plan {
    fn default() -> Self {
        Plan { members: 3, clients: 6, faulty_ms: 20_000, planted: None }
    }
}

/// What a run was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub operations: u64,
    /// Of them those whose clients gave up: nobody knows.
    pub unknown: u64,
    pub revisions: u64,
    pub simulated_ms: u64,
    /// Snapshots that members have sent each other, by what became of them.
    pub snapshots: BTreeMap<&'static str, u64>,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// A digest of all that has happened.
    pub trace: u64,
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
        database: Bytes,
    },
    /// What has become of it, back at that process.
    Reported {
        member: usize,
        life: u64,
        to: u64,
        ok: bool,
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
    Ask {
        client: usize,
    },
    GiveUp {
        client: usize,
        operation: u64,
    },
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
    random: Random,
    now: u64,
    agenda: BinaryHeap<Reverse<Due>>,
    numbered: u64,
    members: Vec<Member>,
    network: Network,
    clients: Vec<Client>,
    checker: Checker,
    faulty: bool,
    report: Report,
}

/// Runs one seed, in a folder that is empty.
///
/// # Panics
/// If something untrue is told, or the cluster does not recover.
pub fn run(seed: u64, plan: Plan, folder: &Path) -> Report {
    let mut world = World::new(seed, plan, folder);
    world.live(plan.faulty_ms * MS);
    world.recover();
    world.finish()
}

/// The bytes of a snapshot, as they are sent.
fn database_of(view: Arc<View>) -> Bytes {
    let mut making = Making::begin(view);
    making.piece(usize::MAX).expect("values can be read")
}

impl World {
    fn new(seed: u64, plan: Plan, folder: &Path) -> World {
        let founder = |at: usize| Founder {
            id: 0x10 + at as u64,
            name: format!("m{at}"),
            peer_urls: vec![format!("http://m{at}:2380")],
        };
        let founders: Vec<Founder> = (0..plan.members).map(founder).collect();
        let mut world = World {
            plan,
            random: Random(seed),
            now: 0,
            agenda: BinaryHeap::new(),
            numbered: 0,
            members: (0..plan.members).map(|at| Member::new(folder, &founders, at, plan.planted)).collect(),
            network: Network::new(),
            clients: (0..plan.clients).map(Client::new).collect(),
            checker: Checker::default(),
            faulty: true,
            report: Report::default(),
        };
        for member in 0..plan.members {
            world.start(member);
            let first_tick = world.random.below(TICK_US);
            world.after(first_tick, Event::Tick { member });
            world.after(200 * MS, Event::Housekeeping { member });
        }
        for client in 0..plan.clients {
            world.after(0, Event::Ask { client });
        }
        world.after(500 * MS, Event::Fault);
        world
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
            Event::Tick { member } => {
                let tick = self.members[member].tick_us;
                self.after(tick, Event::Tick { member });
                if self.runs(member) {
                    self.members[member].core.as_mut().expect("it runs").tick();
                    self.turn(member);
                }
            }
            Event::Arrival { from, to, message } => self.arrive(from, to, message),
            Event::Snapshot { from, life, to, message, database } => {
                self.arrive_snapshot((from, life), to, message, database);
            }
            Event::Reported { member, life, to, ok } => {
                if self.members[member].life == life
                    && let Some(core) = &mut self.members[member].core
                {
                    core.report_snapshot(to, ok);
                    self.turn(member);
                }
            }
            Event::Exchanged { member, life } => self.exchange(member, life),
            Event::Written { member, life } => {
                if self.members[member].life != life || self.members[member].core.is_none() {
                    return;
                }
                if !self.runs(member) {
                    // The disk is done, the process hears of it when it goes on.
                    let left = self.members[member].still_until - self.now;
                    return self.after(left, Event::Written { member, life });
                }
                self.trace(&[self.now, 2, member as u64]);
                self.members[member].written();
                self.turn(member);
            }
            Event::Start { member } => self.start(member),
            Event::Kill { member } => {
                self.kill(member);
                let back = self.random.between(MS, 200 * MS);
                self.after(back, Event::Start { member });
            }
            Event::Ask { client } => self.ask(client),
            Event::GiveUp { client, operation } => {
                if self.clients[client].gives_up(operation) {
                    self.report.unknown += 1;
                    self.after(10 * MS, Event::Ask { client });
                }
            }
            Event::Fault => {
                if self.faulty {
                    self.make_fault();
                    let next = self.random.between(100 * MS, 2500 * MS);
                    self.after(next, Event::Fault);
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

    /// Whether a member's process is there and does not stand still.
    fn runs(&self, member: usize) -> bool {
        self.members[member].core.is_some() && self.members[member].still_until <= self.now
    }

    fn start(&mut self, member: usize) {
        if self.members[member].core.is_some() {
            return;
        }
        self.trace(&[self.now, 3, member as u64]);
        self.members[member].start();
        self.turn(member);
    }

    fn arrive(&mut self, from: usize, to: usize, message: Box<Message>) {
        if self.members[to].core.is_none() || !self.network.is_open(from, to) {
            return;
        }
        if !self.runs(to) {
            let left = self.members[to].still_until - self.now;
            return self.after(left, Event::Arrival { from, to, message });
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
        if asks_for_vote && self.faulty && self.random.permille(100) {
            self.fault("kill in an election");
            let soon = self.random.between(WRITE_US, 5 * MS);
            self.after(soon, Event::Kill { member: to });
        }
    }

    fn arrive_snapshot(&mut self, sender: (usize, u64), to: usize, message: Box<Message>, database: Bytes) {
        let (from, life) = sender;
        if self.members[to].core.is_some() && self.network.is_open(from, to) && !self.runs(to) {
            let left = self.members[to].still_until - self.now;
            return self.after(left, Event::Snapshot { from, life, to, message, database });
        }
        let arrives = self.members[to].core.is_some() && self.network.is_open(from, to);
        self.trace(&[self.now, 6, to as u64, arrives as u64, database.len() as u64]);
        if !arrives || !self.members[to].receive(*message, &database, sender) {
            return self.report(sender, to, false);
        }
        *self.report.snapshots.entry("received").or_default() += 1;
        self.turn(to);
        if self.faulty && self.random.permille(150) {
            self.fault("kill while a snapshot is taken in");
            let soon = self.random.between(0, 5 * MS);
            self.after(soon, Event::Kill { member: to });
        }
    }

    /// Tells who sent a snapshot what has become of it.
    fn report(&mut self, (member, life): (usize, u64), to: usize, ok: bool) {
        let us = self.random.between(MS, 20 * MS);
        self.after(us, Event::Reported { member, life, to: self.members[to].id, ok });
    }

    /// The checkpoint of a state from another member has its name.
    fn exchange(&mut self, member: usize, life: u64) {
        if self.members[member].life != life || self.members[member].core.is_none() {
            return;
        }
        if !self.runs(member) {
            let left = self.members[member].still_until - self.now;
            return self.after(left, Event::Exchanged { member, life });
        }
        let dies = self.faulty && self.random.permille(100);
        self.trace(&[self.now, 7, member as u64, dies as u64]);
        self.members[member].exchange(dies);
        if dies {
            self.fault("kill after a state was exchanged");
            self.kill(member);
            let back = self.random.between(MS, 200 * MS);
            return self.after(back, Event::Start { member });
        }
        *self.report.snapshots.entry("installed").or_default() += 1;
        self.turn(member);
    }

    fn turn(&mut self, member: usize) {
        loop {
            self.members[member].install_if_kept();
            let was_installing = self.members[member].is_installing();
            let effects = self.members[member].turn();
            self.carry_out(member, effects);
            if !was_installing && self.members[member].is_installing() {
                let (us, life) = (self.random.between(MS, 300 * MS), self.members[member].life);
                self.after(us, Event::Exchanged { member, life });
            }
            if let Some(sender) = self.members[member].take_installed() {
                self.report(sender, member, true);
            }
            if !self.members[member].core.as_ref().expect("it runs").has_work() {
                return;
            }
        }
    }

    fn carry_out(&mut self, member: usize, effects: Effects) {
        for message in effects.messages {
            let to = self.members.iter().position(|one| one.id == message.to).expect("a member");
            // As it is on the way, without what only the crate knows.
            let message = messages::message(message);
            if let Some(us) = self.network.carry(&mut self.random) {
                self.after(us, Event::Arrival { from: member, to, message: Box::new(message) });
            }
        }
        for SnapshotToSend { message, view } in effects.snapshots {
            let to = self.members.iter().position(|one| Some(one.id) == message.to).expect("a member");
            let life = self.members[member].life;
            let (message, database) = (Box::new(message), database_of(view));
            // A request, not a message: it is slower, and who sends it hears of its loss.
            match self.network.carry(&mut self.random) {
                Some(us) => {
                    let us = us + self.random.between(0, 400 * MS);
                    self.after(us, Event::Snapshot { from: member, life, to, message, database });
                }
                None => self.report((member, life), to, false),
            }
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

    fn deliver(&mut self, member: usize, mail: FromCore) {
        let who = format!("member {member}");
        if mail.jumped {
            let next = mail.view.revision() + 1;
            assert!(next >= self.members[member].next_revision, "a snapshot takes the state back");
            self.members[member].next_revision = next;
        }
        for revision in mail.events.iter().filter(|_| !mail.jumped) {
            let expected = self.members[member].next_revision;
            self.members[member].next_revision += 1;
            let value = |at: usize| {
                let place = revision.events[at].event.meta.place;
                mail.view.segments.value(place).expect("a value that was just put")
            };
            self.checker.hears(&who, expected, revision, value);
            self.trace(&[self.now, 4, member as u64, expected as u64]);
        }
        for (token, outcome) in mail.outcomes {
            let Some(client) = self.members[member].waiting.remove(&token.slot) else { continue };
            if !self.clients[client].waits_for(token.slot) {
                // It has given up.
                continue;
            }
            let failed = matches!(outcome, Outcome::Failed(_));
            self.clients[client].answered(&mut self.checker, &mail.view, outcome);
            self.report.operations += u64::from(!failed);
            self.report.unknown += u64::from(failed);
            let next = self.random.between(MS, 40 * MS);
            self.after(next, Event::Ask { client });
        }
    }

    fn ask(&mut self, client: usize) {
        let running: Vec<usize> = (0..self.members.len()).filter(|member| self.runs(*member)).collect();
        if running.is_empty() {
            return self.after(20 * MS, Event::Ask { client });
        }
        let member = *self.random.pick(&running);
        let (slot, mail) = self.clients[client].next(&mut self.random, self.checker.floor());
        self.members[member].waiting.insert(slot, client);
        self.after(8_000 * MS, Event::GiveUp { client, operation: slot.into() });
        self.members[member].core.as_mut().expect("it runs").receive(0, mail);
        self.turn(member);
    }

    /// What goes on in the background: checkpoints, at once or a while after the state was taken.
    fn keep_house(&mut self, member: usize) {
        if self.random.permille(400) {
            let roll = if self.random.permille(300) { Roll::Over } else { Roll::No };
            self.members[member].core.as_mut().expect("it runs").want_capture(roll);
            self.turn(member);
        }
        if self.random.permille(700) {
            let written = self.members[member].checkpoint();
            if written && self.faulty && self.random.permille(150) {
                self.fault("kill after a checkpoint");
                self.after(0, Event::Kill { member });
            }
        }
        self.turn(member);
    }

    fn make_fault(&mut self) {
        let member = self.random.below(self.members.len() as u64) as usize;
        let kind = self.random.below(14);
        self.trace(&[self.now, 5, member as u64, kind]);
        match kind {
            0..3 => {
                if self.members[member].core.is_some() {
                    self.fault("kill");
                    self.kill(member);
                    let back = self.random.between(20 * MS, 6_000 * MS);
                    self.after(back, Event::Start { member });
                }
            }
            3 => {
                self.fault("kill of all");
                for member in 0..self.members.len() {
                    self.kill(member);
                    let back = self.random.between(20 * MS, 2_000 * MS);
                    self.after(back, Event::Start { member });
                }
            }
            4 | 5 => {
                if self.runs(member) {
                    self.fault("stop for a while");
                    let until = self.now + self.random.between(50 * MS, 4_000 * MS);
                    self.members[member].still_until = until;
                }
            }
            6 | 7 => {
                self.fault("partition");
                self.network.heal();
                let sides = self.random.draw();
                self.network.part(self.plan.members, |member| sides >> member & 1 == 0);
            }
            8 => {
                self.fault("one way cut");
                let other = self.random.below(self.members.len() as u64) as usize;
                self.network.cut(member, other);
            }
            9 => self.network.heal(),
            10 => {
                self.fault("bad weather");
                let most_us = self.random.between(MS, 400 * MS);
                self.network.weather = Weather { lost_permille: self.random.below(300), least_us: 50, most_us };
            }
            11 => self.network.weather = Weather::FAIR,
            12 => {
                self.fault("slow disk");
                self.members[member].write_us = self.random.between(MS, 1_000 * MS);
            }
            _ => {
                self.fault("clock that drifts");
                self.members[member].tick_us = self.random.between(TICK_US / 2, TICK_US * 2);
            }
        }
        if self.random.permille(100) && self.runs(member) {
            self.fault("leader transfer");
            let to = self.members[self.random.below(self.members.len() as u64) as usize].id;
            self.members[member].core.as_mut().expect("it runs").transfer_leader(to);
            self.turn(member);
        }
    }

    fn kill(&mut self, member: usize) {
        if let Some(sender) = self.members[member].kill(&mut self.random) {
            // Its connection breaks.
            self.report(sender, member, false);
        }
        // Whoever waits there will give up.
        self.members[member].waiting.clear();
    }

    /// Faults end; then every member must answer within the time, whatever has been before.
    fn recover(&mut self) {
        self.faulty = false;
        self.network.heal();
        self.network.weather = Weather::FAIR;
        for member in 0..self.members.len() {
            self.members[member].still_until = 0;
            self.members[member].tick_us = TICK_US;
            self.members[member].write_us = WRITE_US;
            self.start(member);
        }
        let end = self.now + RECOVERY_US;
        let mut proven = vec![false; self.members.len()];
        while proven.contains(&false) {
            assert!(self.now < end, "the cluster has not recovered: {:?}", self.standings());
            let floor = self.checker.floor();
            self.live(1_000 * MS);
            for (member, proven) in proven.iter_mut().enumerate() {
                // Its clients are served: it has told revisions since, and it knows the leader.
                let core = self.members[member].core.as_ref().expect("all run");
                *proven |= core.standing().leader != 0 && self.members[member].next_revision > floor + 1;
            }
        }
        for client in &mut self.clients {
            client.rest();
        }
        self.live(9_000 * MS);
    }

    fn standings(&self) -> Vec<String> {
        let standing = |member: &Member| format!("{:?}", member.core.as_ref().map(|core| core.standing()));
        self.members.iter().map(standing).collect()
    }

    /// All members are the same, and history is as it was told.
    fn finish(mut self) -> Report {
        let mut hashes = Vec::new();
        for member in &self.members {
            let index = &member.core.as_ref().expect("all run").state().index;
            let view = member.view.as_ref().expect("published");
            let hash = hash_kv(index, index.current(), &view.segments).expect("values can be read");
            hashes.push((index.current(), index.compacted(), hash));
        }
        assert!(hashes.iter().all(|hash| *hash == hashes[0]), "members differ: {hashes:?}, {:?}", self.standings());
        assert!(hashes[0].0 >= self.checker.floor(), "what was told is gone");
        self.report.revisions = self.checker.finish() as u64;
        self.report.simulated_ms = self.now / MS;
        self.report
    }
}

#[cfg(test)]
mod tests;
