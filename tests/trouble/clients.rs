//! What clients do: writers and readers of a few keys over all members, keepers of leases, and watches. Each keeps a record of
//! what it asked for and what it was told.

use std::{
    collections::HashMap,
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, AtomicI64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use urd::{error::Code, random::Random};
use urd_client::{
    Client, Error,
    etcdserverpb::{
        DefragmentRequest, PutRequest, RangeRequest, ResponseHeader, TxnRequest, WatchResponse,
        response_op::Response as Answered,
    },
    mvccpb::{KeyValue, event::EventType},
    op,
};

use crate::{
    access::Access,
    checker::{Answer, Change, Kv, Lease, Micros, Op, What},
};

/// Few, so that clients meet at them.
const KEYS: u64 = 6;
/// What a serializable read is taken for, to see the checker find it.
const BREAK: &str = "URD_TROUBLE_BREAK";

/// The run's clock, and whether it is over.
pub struct Run {
    begin: Instant,
    pub is_over: AtomicBool,
    /// Where watches end; 0: not known yet.
    pub last: AtomicI64,
    /// Nothing is to be concluded any more.
    pub is_given_up: AtomicBool,
    /// How far each watch has come: nobody needs what was before that.
    pub watched: Vec<AtomicI64>,
    pub access: Access,
    /// Where there are members that clients talk to.
    places: RwLock<Vec<usize>>,
    /// Watches go from member to member as other clients do; else each stays at its own.
    roams: bool,
    breaks: bool,
}

impl Run {
    pub fn new(places: &[usize], watches: usize, roams: bool, access: Access) -> Self {
        let breaks = match std::env::var(BREAK).as_deref() {
            Ok("serializable") => true,
            Ok(other) => panic!("{BREAK} knows serializable, not {other:?}"),
            Err(_) => false,
        };
        Run {
            begin: Instant::now(),
            is_over: AtomicBool::default(),
            last: AtomicI64::default(),
            is_given_up: AtomicBool::default(),
            watched: (0..watches).map(|_| AtomicI64::default()).collect(),
            access,
            places: RwLock::new(places.to_vec()),
            roams,
            breaks,
        }
    }

    pub fn now(&self) -> Micros {
        self.begin.elapsed().as_micros() as Micros
    }

    pub fn goes_on(&self) -> bool {
        !self.is_over.load(Relaxed)
    }

    pub fn places(&self) -> Vec<usize> {
        self.places.read().expect("nobody panics with it").clone()
    }

    pub fn move_to(&self, places: &[usize]) {
        *self.places.write().expect("nobody panics with it") = places.to_vec();
    }

    fn some_place(&self, random: &mut Random) -> usize {
        *random.pick(&self.places())
    }
}

/// A client that goes from member to member, with its record.
pub struct Session {
    run: Arc<Run>,
    name: String,
    random: Random,
    at: usize,
    client: Option<Client>,
    serial: u64,
    pub ops: Vec<Op>,
    /// The revision of each key as it saw it last.
    revisions: HashMap<String, i64>,
}

impl Session {
    pub fn new(run: Arc<Run>, name: String, seed: u64) -> Self {
        let mut random = Random(seed);
        let at = run.some_place(&mut random);
        Session { run, name, random, at, client: None, serial: 0, ops: Vec::new(), revisions: HashMap::new() }
    }

    /// Asks one thing after another until the run is over.
    pub async fn work(mut self) -> Vec<Op> {
        while self.run.goes_on() {
            let what = self.choose();
            let patience = Duration::from_millis(self.random.between(500, 4000));
            self.ask(what, patience).await;
            tokio::time::sleep(Duration::from_millis(self.random.below(12))).await;
        }
        self.ops
    }

    fn choose(&mut self) -> What {
        let key = |random: &mut Random| format!("k/{}", random.below(KEYS));
        let one = key(&mut self.random);
        match self.random.below(100) {
            0..30 => What::Put { key: one, value: self.value(), lease: 0 },
            30..40 => What::Delete { key: one },
            40..60 => What::Get { key: one },
            60..67 => What::Stale { key: one },
            67..75 => What::List { prefix: "k/".into() },
            _ => {
                let expected = self.revisions.get(&one).copied().unwrap_or(0);
                let delete = Some(key(&mut self.random)).filter(|other| *other != one && self.random.below(4) == 0);
                What::Swap { key: one, expected, value: self.value(), delete }
            }
        }
    }

    /// Unlike every other.
    pub fn value(&mut self) -> String {
        self.serial += 1;
        let long = if self.random.below(50) == 0 { 8 << 10 } else { 100 };
        let more = self.random.below(long) as usize;
        padded(&format!("{}-{}", self.name, self.serial), more)
    }

    /// Asks the member that it talks to, and goes to another one when that does not answer well. None: it does not know.
    pub async fn ask(&mut self, what: What, patience: Duration) -> Option<Answer> {
        let asked = self.run.now();
        let told = tokio::time::timeout(patience, self.told(&what)).await;
        let at = self.run.now();
        let answer = match told {
            Ok(Ok((revision, changed, found))) => Some(Answer { at, revision, changed, found }),
            Ok(Err(error)) => {
                assert!(is_of_the_times(&error), "{what:?} was refused: {error}");
                None
            }
            Err(_) => None,
        };
        match &answer {
            Some(answer) => {
                if let What::Put { key, .. } | What::Swap { key, .. } = &what
                    && answer.changed
                {
                    self.revisions.insert(key.clone(), answer.revision);
                }
                let found = answer.found.iter().map(|(key, kv)| (key.clone(), kv.modified));
                self.revisions.extend(found);
            }
            None => {
                self.client = None;
                self.at = self.run.some_place(&mut self.random);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        let what = match what {
            What::Stale { key } if self.run.breaks => What::Get { key },
            What::Put { key, value, lease } => What::Put { key, value: brief(&value), lease },
            other => other,
        };
        self.ops.push(Op { what, asked, answer: answer.clone() });
        answer
    }

    /// Compacts, or gives space back on the member that it talks to. Says whether it was told that it is done.
    pub async fn keep_house(&mut self, compact_to: Option<i64>) -> bool {
        let asked = async {
            let client = self.client().await?;
            match compact_to {
                Some(revision) => client.compact(revision).await.map(drop),
                None => client.call(&DefragmentRequest {}).await.map(drop),
            }
        };
        let told = tokio::time::timeout(Duration::from_secs(5), asked).await;
        matches!(told, Ok(Ok(())))
    }

    pub fn talk_to(&mut self, member: usize) {
        (self.at, self.client) = (member, None);
    }

    fn talk_to_another(&mut self) {
        let at = self.run.some_place(&mut self.random);
        self.talk_to(at);
    }

    async fn client(&mut self) -> Result<Client, Error> {
        if self.client.is_none() {
            self.client = Some(self.run.access.connect(self.at).await?);
        }
        Ok(self.client.clone().expect("it was just made"))
    }

    async fn told(&mut self, what: &What) -> Result<(i64, bool, Vec<(String, Kv)>), Error> {
        let client = self.client().await?;
        let range =
            |key: &str, serializable| RangeRequest { key: key.to_owned().into(), serializable, ..Default::default() };
        Ok(match what {
            What::Put { key, value, lease } => {
                let (key, value) = (key.clone().into(), value.clone().into());
                let answer = client.call(&PutRequest { key, value, lease: *lease, ..Default::default() }).await?;
                (revision(answer.header), true, Vec::new())
            }
            What::Delete { key } => {
                let answer = client.delete(key.clone()).await?;
                (revision(answer.header), answer.deleted > 0, Vec::new())
            }
            What::Get { key } => {
                let answer = client.call(&range(key, false)).await?;
                (revision(answer.header), false, found(&answer.kvs))
            }
            What::Stale { key } => {
                let answer = client.call(&range(key, true)).await?;
                (revision(answer.header), false, found(&answer.kvs))
            }
            What::List { prefix } => {
                let answer = client.range(prefix.clone(), end_of(prefix)).await?;
                (revision(answer.header), false, found(&answer.kvs))
            }
            What::Swap { key, expected, value, delete } => {
                let mut success = vec![op::put(key.clone(), value.clone())];
                success.extend(delete.as_ref().map(|key| op::delete(key.clone())));
                let compare = vec![op::unchanged(key.clone(), *expected)];
                let failure = vec![op::get(key.clone())];
                let answer = client.call(&TxnRequest { compare, success, failure }).await?;
                let kvs = match answer.responses.first().and_then(|response| response.response.as_ref()) {
                    Some(Answered::ResponseRange(range)) => found(&range.kvs),
                    _ => Vec::new(),
                };
                (revision(answer.header), answer.succeeded, kvs)
            }
        })
    }
}

/// Errors that a cluster in trouble may give; any other is a fault of it or of the test.
fn is_of_the_times(error: &Error) -> bool {
    use Code::*;
    match error {
        Error::Transport(_) => true,
        Error::Status { code: Unavailable | DeadlineExceeded | Canceled | ResourceExhausted, .. } => true,
        // etcd's words for requests that it gives up are not all of one code.
        Error::Status { message, .. } => {
            [
                "timed out",
                "leader",
                "stopped",
                "stopping",
                "dropped",
                "too busy",
                "lease not found",
                // A member that has taken a snapshot over knows no simple token of before.
                "invalid auth token",
                "for learner",
            ]
            .iter()
            .any(|word| message.contains(word))
        }
    }
}

fn padded(id: &str, more: usize) -> String {
    format!("{id} {}", "x".repeat(more))
}

fn revision(header: Option<ResponseHeader>) -> i64 {
    header.expect("an answer has a header").revision
}

pub fn found(kvs: &[KeyValue]) -> Vec<(String, Kv)> {
    kvs.iter().map(|kv| (text(&kv.key), state(kv))).collect()
}

fn state(kv: &KeyValue) -> Kv {
    Kv {
        value: brief(&text(&kv.value)),
        created: kv.create_revision,
        modified: kv.mod_revision,
        version: kv.version,
        lease: kv.lease,
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("only text was written")
}

/// A value as records keep it: of a long one its name, its length and its sum.
fn brief(value: &str) -> String {
    const WHOLE: usize = 16 << 10;
    match value.split_once(' ') {
        Some((id, _)) if value.len() > WHOLE => {
            format!("{id}, {} bytes, {:08x}", value.len(), crc32c::crc32c(value.as_bytes()))
        }
        _ => value.to_owned(),
    }
}

fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().expect("not empty") += 1;
    end
}

/// Grants a lease, hangs a key on it, keeps it alive through any member for a while, and lets it go; again and again.
pub async fn keep_leases(run: Arc<Run>, number: usize, seed: u64) -> (Vec<Op>, Vec<Lease>) {
    const TTL_SECONDS: i64 = 4;
    let mut session = Session::new(run.clone(), format!("l{number}"), seed);
    let mut leases = Vec::new();
    let patience = Duration::from_secs(2);
    while run.goes_on() {
        let id = (number as i64 + 1) * 1_000_000 + leases.len() as i64 + 1;
        let mut lease = Lease { id, key: format!("l/{id}"), promises: Vec::new() };
        let asked = run.now();
        let granted = async { session.client().await?.grant(id, TTL_SECONDS).await };
        let granted = tokio::time::timeout(patience, granted).await;
        if let Ok(Ok(answer)) = granted {
            lease.promises.push((asked, answer.ttl as Micros * 1_000_000));
            let value = session.value();
            let put = What::Put { key: lease.key.clone(), value, lease: id };
            let _ = session.ask(put, patience).await;
            let until = Instant::now() + Duration::from_secs(session.random.below(12));
            while run.goes_on() && Instant::now() < until {
                let asked = run.now();
                let kept = async { session.client().await?.keep_alive_once(id).await };
                match tokio::time::timeout(patience, kept).await {
                    // 0: there is no such lease any more.
                    Ok(Ok(answer)) if answer.ttl > 0 => {
                        lease.promises.push((asked, answer.ttl as Micros * 1_000_000));
                        tokio::time::sleep(Duration::from_millis(session.random.between(200, 1500))).await;
                    }
                    Ok(Ok(_)) => break,
                    _ => {
                        session.talk_to_another();
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            }
        } else {
            session.talk_to_another();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        leases.push(lease);
    }
    (session.ops, leases)
}

/// Holds one lease with one key from the beginning to the end of the run. Gives how often it was renewed.
///
/// # Errors
/// If it or its key is gone while it is kept alive in time.
pub async fn hold_lease(run: Arc<Run>, seed: u64) -> Result<(Vec<Op>, usize), String> {
    const ID: i64 = 77;
    const TTL_SECONDS: i64 = 20;
    let (mut session, patience) = (Session::new(run.clone(), "h".to_owned(), seed), Duration::from_secs(2));
    let key = "h/held".to_owned();
    let (mut renewed, mut put) = (0, false);
    let mut until = run.now();
    while run.goes_on() {
        let asked = run.now();
        let kept = async {
            let client = session.client().await?;
            match renewed {
                0 => client.grant(ID, TTL_SECONDS).await.map(|answer| answer.ttl),
                _ => client.keep_alive_once(ID).await.map(|answer| answer.ttl),
            }
        };
        match tokio::time::timeout(patience, kept).await {
            Ok(Ok(ttl)) if ttl > 0 => {
                (renewed, until) = (renewed + 1, asked + ttl as Micros * 1_000_000);
                if !put {
                    let value = session.value();
                    let what = What::Put { key: key.clone(), value, lease: ID };
                    put = session.ask(what, patience).await.is_some();
                }
                tokio::time::sleep(Duration::from_millis(400)).await;
            }
            Ok(Ok(_)) if run.now() < until => return Err(format!("lease {ID} is gone, {renewed} times renewed")),
            Ok(Ok(_)) => return Err(format!("lease {ID} could not be renewed for {TTL_SECONDS} s")),
            // It was granted, and nobody has said so.
            Ok(Err(error)) if error.message().contains("lease already exists") => renewed = 1,
            _ => {
                session.talk_to_another();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    loop {
        match session.ask(What::Get { key: key.clone() }, patience).await {
            Some(answer) if put && answer.found.is_empty() => return Err(format!("the key of lease {ID} is gone")),
            Some(_) => break,
            None if run.is_given_up.load(Relaxed) => break,
            None => {}
        }
    }
    // Without its key it goes unseen.
    while session.ask(What::Delete { key: key.clone() }, patience).await.is_none() {
        if run.is_given_up.load(Relaxed) {
            break;
        }
    }
    Ok((session.ops, renewed))
}

/// What a watch told.
#[derive(Default)]
pub struct Watched {
    pub changes: Vec<Change>,
    /// The revision of each response, and when it came.
    pub seen: Vec<(Micros, i64)>,
    /// How often it began anew where it stood.
    pub resumed: usize,
    /// Responses that told that there is nothing more up to a revision.
    pub bookmarks: usize,
    next: i64,
    bookmark: i64,
}

/// Watches everything from the first revision on, through all lives of a member or, where watches roam, all members, until
/// the run's last revision.
///
/// # Errors
/// What a watch must never do. (etcd, API guarantees: "Watch guarantees".)
pub async fn watch(run: Arc<Run>, number: usize) -> Result<Watched, String> {
    let mut watched = Watched { next: 1, ..Watched::default() };
    while !run.is_given_up.load(Relaxed) {
        let at = match (run.places(), run.roams) {
            (places, true) => places[(number + watched.resumed) % places.len()],
            (_, false) => number,
        };
        match follow(&run, number, at, &mut watched).await {
            Ok(()) => return Ok(watched),
            Err(Stop::Wrong(cause)) => return Err(format!("watch {}, on member {}: {cause}", number + 1, at + 1)),
            Err(Stop::Ended) => {
                watched.resumed += 1;
                watched.bookmark = 0;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    Ok(watched)
}

enum Stop {
    /// The stream: it goes on with another one.
    Ended,
    Wrong(String),
}

impl From<Error> for Stop {
    fn from(_: Error) -> Self {
        Stop::Ended
    }
}

async fn follow(run: &Run, number: usize, at: usize, watched: &mut Watched) -> Result<(), Stop> {
    const PATIENCE: Duration = Duration::from_secs(3);
    let opened = async { run.access.connect(at).await?.watch(vec![0], vec![0], watched.next).await };
    let mut watcher = tokio::time::timeout(PATIENCE, opened).await.map_err(|_| Stop::Ended)??;
    let mut quiet = 0;
    while !run.is_given_up.load(Relaxed) {
        let last = run.last.load(Relaxed);
        if last > 0 && watched.next > last {
            return Ok(());
        }
        match tokio::time::timeout(Duration::from_millis(300), watcher.next()).await {
            Ok(response) => {
                quiet = 0;
                watched.take(&response?, run.now()).map_err(Stop::Wrong)?;
                run.watched[number].store(watched.next - 1, Relaxed);
            }
            Err(_) => {
                quiet += 1;
                // It may stand still behind a connection that does not know it.
                if quiet > 30 {
                    return Err(Stop::Ended);
                }
                watcher.progress()?;
            }
        }
    }
    Ok(())
}

impl Watched {
    fn take(&mut self, response: &WatchResponse, at: Micros) -> Result<(), String> {
        if response.canceled {
            return Err(format!("a watch was cancelled: {response:?}"));
        }
        let header = response.header.as_ref().expect("a response has a header").revision;
        if response.events.is_empty() {
            // Everything up to there has been told on this stream.
            self.bookmark = self.bookmark.max(header);
            self.bookmarks += 1;
            return Ok(());
        }
        // A revision comes whole in one response, so what comes is all from there on.
        let from = self.next.max(self.bookmark + 1);
        for event in &response.events {
            let kv = event.kv.as_ref().expect("an event has a key");
            let revision = kv.mod_revision;
            if revision < from || revision + 1 < self.next || revision > header {
                return Err(format!("{revision} is told of where {} was due (header: {header})", self.next));
            }
            let is_put = event.r#type() == EventType::Put;
            self.changes.push(Change { revision, key: text(&kv.key), now: is_put.then(|| state(kv)) });
            self.next = revision + 1;
        }
        self.seen.push((at, self.next - 1));
        Ok(())
    }
}
