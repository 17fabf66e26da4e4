//! Scripts that a reader can follow: what members of a cluster are told, and what they say and do then, message by message.
//! Each file in `scenarios/` is one run. A line that begins with `>` is a command; the lines behind it, up to the next command,
//! remark or empty line, are what it led to. `URD_REWRITE=1` writes them anew.
//!
//! ```text
//! > members 1 2 3            they found a cluster; nobody leads yet
//! > stand 1                  1 stands for election
//! > tick 1 10                ten heartbeat intervals pass for 1
//! > deliver                  what is on the way arrives, and what that leads to, until nothing is on the way
//! > deliver 1 2              only what is on its way from 1 to 2 now
//! > drop 1 2                 that is lost; `drop` alone: everything is
//! > cut 1                    nothing goes between these and the others; `heal` ends it
//! > put 1 k                  a client of 1 puts a key;  > read 1     a client of 1 reads
//! > disk 1 slow              writes take until `written 1`; `disk 1 quick` ends it
//! > learner 4 by 1           a client of 1 asks for a change; also voter, promote, remove, update
//! > start 4                  a process begins, of a new member with nothing;  > stop 1     it ends at once
//! > hand over 2 by 1         leadership is to go to 2
//! > status                   how everybody stands
//! ```

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::Write as _,
    path::Path,
};

use prost::Message as _;
use tempfile::TempDir;

use super::*;
use crate::{
    proto::{
        etcdserverpb::{InternalRaftRequest, PutRequest, RequestHeader},
        raftpb::{ConfChange, ConfChangeType},
    },
    raft::{
        bootstrap::Founder,
        mail::Proposal,
        start::{self, Manner, Resumed},
        translate::messages,
    },
    store::membership::{self, promotion_context},
    wal::{bulk::Pace, disk::Dir, recovery::Options},
};

struct One {
    id: u64,
    dir: Dir,
    founders: Vec<Founder>,
    life: u64,
    core: Option<Core>,
    write: Option<PendingWrite>,
    disk_is_slow: bool,
    told: String,
    applied: u64,
}

#[derive(Default)]
struct Scene {
    folder: Option<TempDir>,
    members: BTreeMap<u64, One>,
    /// In the order in which it was sent.
    on_the_way: VecDeque<Message>,
    cut: BTreeSet<u64>,
    /// What clients wait for.
    waiting: BTreeMap<u32, String>,
    requests: u32,
    told: String,
}

fn url(id: u64) -> String {
    format!("http://m{id}:2380")
}

impl Scene {
    fn run(&mut self, command: &str) -> String {
        let words: Vec<&str> = command.split_whitespace().collect();
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
        let id = || number(1).unwrap_or_else(|| panic!("{command}: which member?"));
        match words[..] {
            ["members", ..] => self.found((1..words.len()).filter_map(number).collect()),
            ["stand", _] => {
                self.core(id()).campaign().expect("it may stand");
                self.settle(id());
            }
            ["tick", ..] => {
                for _ in 0..number(2).unwrap_or(1) {
                    self.core(id()).tick();
                    self.settle(id());
                }
            }
            ["deliver"] => self.deliver(),
            ["deliver", _, _] => {
                let (from, to) = (id(), number(2).expect("to whom?"));
                for message in self.take(|message| (message.from, message.to) == (from, to)) {
                    self.arrive(message);
                }
            }
            ["drop"] => drop(self.take(|_| true)),
            ["drop", _, _] => {
                let (from, to) = (id(), number(2).expect("to whom?"));
                drop(self.take(|message| (message.from, message.to) == (from, to)));
            }
            ["cut", ..] => self.cut = (1..words.len()).filter_map(number).collect(),
            ["heal"] => self.cut.clear(),
            ["put", _, key] => self.put(id(), key),
            ["read", _] => {
                let token = self.token(format!("read at {}", id()));
                self.give(id(), ToCore { reads: vec![token], ..ToCore::default() });
            }
            ["disk", _, how] => {
                self.member(id()).disk_is_slow = how == "slow";
                self.settle(id());
            }
            ["written", _] => {
                self.write(id());
                self.settle(id());
            }
            [what @ ("learner" | "voter" | "promote" | "remove" | "update"), _, "by", _] => {
                self.configure(what, id(), number(3).expect("by whom?"));
            }
            ["hand", "over", _, "by", _] => {
                let by = number(4).expect("by whom?");
                self.core(by).transfer_leader(number(2).expect("to whom?"));
                self.settle(by);
            }
            ["start", _] => self.start(id()),
            ["stop", _] => {
                let one = self.member(id());
                (one.core, one.write) = (None, None);
            }
            ["status"] => self.tell_status(),
            _ => panic!("there is no command {command:?}"),
        }
        std::mem::take(&mut self.told)
    }

    fn say(&mut self, line: &str) {
        self.told.push_str(line);
        self.told.push('\n');
    }

    fn member(&mut self, id: u64) -> &mut One {
        self.members.get_mut(&id).unwrap_or_else(|| panic!("there is no member {id}"))
    }

    fn core(&mut self, id: u64) -> &mut Core {
        self.member(id).core.as_mut().unwrap_or_else(|| panic!("{id} does not run"))
    }

    // ---- processes ----

    fn found(&mut self, ids: Vec<u64>) {
        let founder = |id: &u64| Founder { id: *id, name: format!("m{id}"), peer_urls: vec![url(*id)] };
        let founders: Vec<Founder> = ids.iter().map(founder).collect();
        for id in ids {
            self.begin(id, founders.clone());
        }
    }

    fn begin(&mut self, id: u64, founders: Vec<Founder>) {
        let folder = self.folder.get_or_insert_with(|| tempfile::tempdir().unwrap()).path().join(id.to_string());
        let dir = Dir::open(&folder).unwrap();
        let (core, write, told) = (None, None, String::new());
        let one = One { id, dir, founders, life: 0, core, write, disk_is_slow: false, told, applied: 0 };
        self.members.insert(id, one);
        self.start(id);
    }

    fn start(&mut self, id: u64) {
        if !self.members.contains_key(&id) {
            return self.begin(id, Vec::new());
        }
        self.member(id).start();
        self.settle(id);
    }

    // ---- what goes on ----

    /// Does all that a member does now, and tells it.
    fn settle(&mut self, id: u64) {
        loop {
            let one = self.member(id);
            let Some(core) = &mut one.core else { return };
            let effects = core.turn().unwrap();
            assert!(effects.write.is_none() || one.write.is_none(), "two writes at once");
            one.write = effects.write.or(one.write.take());
            for message in effects.messages {
                self.send(message);
            }
            let one = self.member(id);
            let standing = one.standing();
            if standing != one.told {
                one.told.clone_from(&standing);
                self.say(&format!("{id}: {standing}"));
            }
            for (_, mail) in effects.mail {
                self.tell_outcomes(id, mail);
            }
            self.tell_applied(id);
            let one = self.member(id);
            let writes = one.write.is_some() && !one.disk_is_slow;
            if writes {
                self.write(id);
            } else if !self.core(id).has_work() {
                return;
            }
        }
    }

    fn write(&mut self, id: u64) {
        let one = self.member(id);
        let write = one.write.take().unwrap_or_else(|| panic!("{id} writes nothing"));
        let core = one.core.as_mut().expect("it runs");
        for piece in &write.pieces {
            one.dir.ensure_segment(&core.writer().segment_header(piece.segment.life()), Pace::Hurried).unwrap();
        }
        one.dir.write(&write).unwrap();
        core.written();
    }

    fn tell_outcomes(&mut self, id: u64, mail: FromCore) {
        for (token, outcome) in mail.outcomes {
            let what = self.waiting.remove(&token.slot).expect("somebody waits for it");
            let how = match outcome {
                Outcome::Done => format!("may be answered at revision {}", mail.view.revision()),
                Outcome::Applied(result) => match *result {
                    Ok(_) => "is done".to_owned(),
                    Err(status) => format!("is refused: {}", status.message),
                },
                Outcome::Failed(status) => format!("has failed: {}", status.message),
            };
            self.say(&format!("{id}: {what} {how}"));
        }
    }

    fn tell_applied(&mut self, id: u64) {
        let one = self.member(id);
        let core = one.core.as_ref().expect("it runs");
        let (before, now) = (std::mem::replace(&mut one.applied, core.standing().applied), core.standing().applied);
        if before != now {
            let mut members = core.state().conf_state().clone();
            members.voters.sort_unstable();
            let mut line = format!("{id}: has applied {now}, voters {:?}", members.voters);
            if !members.learners.is_empty() {
                write!(line, ", learners {:?}", members.learners).unwrap();
            }
            self.say(&line);
        }
    }

    // ---- messages ----

    fn send(&mut self, message: Message) {
        // As it is on the way, without what only the crate knows.
        let message = messages::message_for_crate(messages::message(message)).expect("a message to another member");
        let line = describe(&message);
        self.say(&line);
        self.on_the_way.push_back(message);
    }

    fn take(&mut self, wanted: impl Fn(&Message) -> bool) -> Vec<Message> {
        let (taken, left) = std::mem::take(&mut self.on_the_way).into_iter().partition(|message| wanted(message));
        self.on_the_way = left;
        Vec::from_iter::<VecDeque<Message>>(taken)
    }

    fn deliver(&mut self) {
        for _ in 0..1000 {
            let Some(message) = self.on_the_way.pop_front() else { return };
            self.arrive(message);
        }
        panic!("members do not come to rest");
    }

    fn arrive(&mut self, message: Message) {
        let (from, to) = (message.from, message.to);
        let runs = self.members.get(&to).is_some_and(|one| one.core.is_some());
        if runs && self.cut.contains(&from) == self.cut.contains(&to) {
            self.core(to).step(message);
            self.settle(to);
        }
    }

    // ---- clients ----

    fn token(&mut self, what: String) -> Token {
        self.requests += 1;
        self.waiting.insert(self.requests, what);
        Token { slot: self.requests, life: 0 }
    }

    fn give(&mut self, id: u64, mail: ToCore) {
        self.core(id).receive(0, mail);
        self.settle(id);
    }

    fn put(&mut self, by: u64, key: &str) {
        let token = self.token(format!("put of {key}"));
        let id = token.slot.into();
        let put = PutRequest { key: key.to_owned().into(), ..Default::default() };
        let header = Some(RequestHeader { id, ..Default::default() });
        let data = InternalRaftRequest { header, put: Some(put), ..Default::default() }.encode_to_vec().into();
        self.give(by, ToCore { proposals: vec![Proposal { token, id, data, only_in: None }], ..ToCore::default() });
    }

    fn configure(&mut self, what: &str, node: u64, by: u64) {
        use ConfChangeType::*;
        let json = |is_learner, url: String| {
            let member = membership::Member { id: node, peer_urls: vec![url], is_learner, ..Default::default() };
            serde_json::to_vec(&member).unwrap().into()
        };
        let (kind, context): (_, Bytes) = match what {
            "learner" => (ConfChangeAddLearnerNode, json(true, url(node))),
            "voter" => (ConfChangeAddNode, json(false, url(node))),
            "promote" => (ConfChangeAddNode, promotion_context(node).into()),
            "remove" => (ConfChangeRemoveNode, Bytes::new()),
            _ => (ConfChangeUpdateNode, json(false, format!("http://moved-{node}:2380"))),
        };
        let token = self.token(format!("{what} {node}"));
        let id = token.slot.into();
        let change = ConfChange {
            id: Some(id),
            r#type: Some(kind as i32),
            node_id: Some(node),
            context: (!context.is_empty()).then_some(context),
        };
        let promotes = (what == "promote").then_some(node);
        let controls = vec![Control::Configure { token, id, data: change.encode_to_vec().into(), promotes }];
        self.give(by, ToCore { controls, ..ToCore::default() });
    }

    fn tell_status(&mut self) {
        let lines: Vec<String> = self.members.values().map(One::status).collect();
        lines.iter().for_each(|line| self.say(line));
    }
}

impl One {
    fn start(&mut self) {
        assert!(self.core.is_none(), "{} runs already", self.id);
        self.life += 1;
        (self.told, self.applied) = (String::new(), 0);
        let options =
            Options { segment_bytes: 48 * 1024, recent_bytes: 64 * 1024, cluster_id: 0xc1, member_id: self.id };
        let manner = Manner {
            founders: |_| self.founders.clone(),
            force_new_cluster: false,
            lease_ttl_min: 1,
            shards: 1,
            election_ticks: 10,
            pre_vote: true,
            request_ticks: 70,
            retry_ticks: 5,
            life: self.id << 48 | self.life << 24,
            quota_bytes: None,
            catch_up_entries: 1000,
            span_entries: 4,
            logger: slog::Logger::root(slog::Discard, slog::o!()),
        };
        let Resumed { parts, .. } = start::resume(&self.dir, &options, manner, None).unwrap();
        self.core = Some(Core::new(parts).unwrap());
    }

    fn standing(&self) -> String {
        let core = self.core.as_ref().expect("it runs");
        let Standing { term, leader, .. } = core.standing();
        match (core.role(), leader) {
            (StateRole::Leader, _) => format!("leads in term {term}"),
            (StateRole::Follower, 0) => format!("knows no leader in term {term}"),
            (StateRole::Follower, leader) => format!("follows {leader} in term {term}"),
            (StateRole::PreCandidate, _) => format!("asks in term {term} whether it would be elected"),
            (StateRole::Candidate, _) => format!("stands for election in term {term}"),
        }
    }

    fn status(&self) -> String {
        let Some(core) = &self.core else { return format!("{}: does not run", self.id) };
        let Standing { commit, applied, .. } = core.standing();
        let (last, term) = (core.node.raft.raft_log.last_index(), core.node.raft.raft_log.last_term());
        let mut line =
            format!("{}: {}, log ends {last}/{term}, commit {commit}, applied {applied}", self.id, self.standing());
        if core.is_leader() {
            for (id, progress) in core.node.raft.prs().iter().collect::<BTreeMap<_, _>>() {
                write!(line, "; {id} has {} ({:?})", progress.matched, progress.state).unwrap();
            }
        }
        line
    }
}

/// `1→2 in term 3: what it says`. An entry is `index/term`, with what it is.
fn describe(message: &Message) -> String {
    use MessageType::*;
    let Message { from, to, term, index, log_term, commit, reject, .. } = *message;
    let entries = || message.entries.iter().map(entry).collect::<Vec<_>>().join(", ");
    let asks = if message.context.is_empty() { "" } else { ", and: do I lead?" };
    let what = match message.get_msg_type() {
        MsgAppend if message.entries.is_empty() => format!("nothing after {index}/{log_term}, commit {commit}"),
        MsgAppend => format!("after {index}/{log_term} comes {}, commit {commit}", entries()),
        MsgAppendResponse if reject => {
            format!("I have not {index}; try {}/{log_term}", message.reject_hint)
        }
        MsgAppendResponse => format!("I have {index}"),
        MsgHeartbeat => format!("heartbeat, commit {commit}{asks}"),
        MsgHeartbeatResponse if message.context.is_empty() => "heartbeat heard".to_owned(),
        MsgHeartbeatResponse => "heartbeat heard, and: you do".to_owned(),
        MsgRequestPreVote => format!("would you vote for me? My log ends {index}/{log_term}"),
        MsgRequestPreVoteResponse => (if reject { "I would not" } else { "I would" }).to_owned(),
        MsgRequestVote if message.context.is_empty() => format!("vote for me; my log ends {index}/{log_term}"),
        MsgRequestVote => format!("vote for me, it is handed over to me; my log ends {index}/{log_term}"),
        MsgRequestVoteResponse => (if reject { "not my vote" } else { "my vote" }).to_owned(),
        MsgTimeoutNow => "stand for election now".to_owned(),
        MsgTransferLeader => "hand over".to_owned(),
        MsgReadIndex => "how far is committed?".to_owned(),
        MsgReadIndexResp => format!("{index} is committed"),
        MsgPropose => format!("propose {}", entries()),
        other => format!("{other:?}"),
    };
    format!("{from}→{to} in term {term}: {what}")
}

fn entry(entry: &Entry) -> String {
    let what = match entry.entry_type {
        EntryType::EntryConfChange => {
            let change = ConfChange::decode(entry.data.clone()).unwrap();
            format!(" {} {}", change.r#type().as_str_name().trim_start_matches("ConfChange"), change.node_id())
        }
        _ if entry.data.is_empty() => String::new(),
        _ => {
            let request = InternalRaftRequest::decode(entry.data.clone()).unwrap();
            let key = request.put.map(|put| String::from_utf8_lossy(&put.key).into_owned());
            key.map_or_else(|| " other".to_owned(), |key| format!(" put {key}"))
        }
    };
    // One that is proposed has no place yet.
    if entry.term == 0 { what.trim_start().to_owned() } else { format!("{}/{}{what}", entry.index, entry.term) }
}

/// The file as it would be if all that it says were so.
fn played(script: &str) -> String {
    let (mut scene, mut out, mut in_output) = (Scene::default(), String::new(), false);
    for line in script.lines() {
        if let Some(command) = line.strip_prefix("> ") {
            out.push_str(line);
            out.push('\n');
            out.push_str(&scene.run(command));
            in_output = true;
        } else if line.is_empty() || line.starts_with('#') || !in_output {
            out.push_str(line);
            out.push('\n');
            in_output = false;
        }
    }
    out
}

#[test]
fn members_do_what_the_scenarios_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/raft/core/scenarios");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    let mut wrong = Vec::new();
    for file in files {
        let script = std::fs::read_to_string(&file).unwrap();
        let played = played(&script);
        if std::env::var_os("URD_REWRITE").is_some() {
            std::fs::write(&file, played).unwrap();
        } else if played != script {
            let lines = played.lines().zip(script.lines().chain(std::iter::repeat("nothing"))).zip(1..);
            let first = lines.into_iter().find(|((now, said), _)| now != said);
            let ((now, said), line) = first.unwrap_or((("nothing", "more"), 0));
            wrong.push(format!("{}:{line}: {said:?} is written, what happens is {now:?}", file.display()));
        }
    }
    assert!(wrong.is_empty(), "{}\nURD_REWRITE=1 writes what happens", wrong.join("\n"));
}
