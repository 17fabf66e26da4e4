//! What clients do to the server until it dies: each writer on a connection and a set of keys of its own, one request
//! after the other; watchers that go on where they stood.

use urd::{error::Code, random::Random};
use urd_client::{
    Client, Error,
    etcdserverpb::{PutRequest, TxnRequest, WatchResponse},
    mvccpb::event::EventType,
    op,
};

use crate::checker::{Answer, Change, Op, What};

const KEYS: u64 = 20;

pub struct Writer {
    pub prefix: String,
    pub ops: Vec<Op>,
    random: Random,
    serial: u64,
    /// Whether it grants leases too; ids are its own.
    leases: Option<i64>,
    /// Leases known to be granted, whose revoke was not asked for.
    pub granted: Vec<i64>,
}

impl Writer {
    pub fn new(number: u64, seed: u64, with_leases: bool) -> Self {
        Writer {
            prefix: format!("w{number}/"),
            ops: Vec::new(),
            random: Random(seed ^ number << 32),
            serial: 0,
            leases: with_leases.then_some(1 + number as i64 * 1_000_000),
            granted: Vec::new(),
        }
    }

    /// Writes until the server is gone.
    pub async fn run(&mut self, client: &Client) {
        loop {
            let what = self.choose();
            let answer = match ask(client, &what).await {
                Ok(answer) => Some(answer),
                Err(Error::Transport(_)) => None,
                Err(error) if matches!(error.code(), Some(Code::Unavailable | Code::Canceled)) => None,
                Err(error) => panic!("{what:?} was refused: {error}"),
            };
            if let (What::Grant { lease }, Some(_)) = (&what, answer) {
                self.granted.push(*lease);
            }
            self.ops.push(Op { what, answer });
            if answer.is_none() {
                return;
            }
        }
    }

    fn choose(&mut self) -> What {
        self.serial += 1;
        let value = format!("{}{}", self.prefix, self.serial);
        let key = |random: &mut Random, prefix: &str| format!("{prefix}{:02}", random.below(KEYS));
        if let Some(next) = &mut self.leases {
            match self.random.below(10) {
                0..3 => {
                    *next += 1;
                    return What::Grant { lease: *next };
                }
                3 if self.granted.len() > 5 => {
                    let at = self.random.below(self.granted.len() as u64) as usize;
                    return What::Revoke { lease: self.granted.swap_remove(at) };
                }
                4..9 if !self.granted.is_empty() => {
                    let lease = self.granted[self.random.below(self.granted.len() as u64) as usize];
                    return What::Put { key: key(&mut self.random, &self.prefix), value, lease };
                }
                _ => {}
            }
        }
        match self.random.below(10) {
            0..2 => What::Delete { key: key(&mut self.random, &self.prefix) },
            2..4 => {
                let first = self.random.below(KEYS);
                let name = |offset| format!("{}{:02}", self.prefix, (first + offset) % KEYS);
                What::Txn { puts: vec![(name(0), value.clone()), (name(1), value)], delete: name(2) }
            }
            _ => What::Put { key: key(&mut self.random, &self.prefix), value, lease: 0 },
        }
    }
}

async fn ask(client: &Client, what: &What) -> Result<Answer, Error> {
    let (header, changed) = match what {
        What::Put { key, value, lease } => {
            let put = PutRequest {
                key: key.clone().into(),
                value: value.clone().into(),
                lease: *lease,
                ..Default::default()
            };
            (client.call(&put).await?.header, true)
        }
        What::Delete { key } => {
            let answer = client.delete(key.clone()).await?;
            (answer.header, answer.deleted > 0)
        }
        What::Txn { puts, delete } => {
            let mut success: Vec<_> = puts.iter().map(|(key, value)| op::put(key.clone(), value.clone())).collect();
            success.push(op::delete(delete.clone()));
            (client.call(&TxnRequest { success, ..Default::default() }).await?.header, true)
        }
        What::Grant { lease } => (client.grant(*lease, 36_000).await?.header, false),
        What::Revoke { lease } => (client.revoke(*lease).await?.header, false),
    };
    Ok(Answer { revision: header.expect("a header").revision, changed })
}

/// A watch of a prefix that outlives the server's lives.
pub struct Follower {
    pub prefix: String,
    pub seen: Vec<Change>,
    /// Where it goes on.
    pub next: i64,
}

impl Follower {
    pub fn new(prefix: &str) -> Self {
        Follower { prefix: prefix.to_owned(), seen: Vec::new(), next: 1 }
    }

    /// Watches until the server is gone, or until `through` has been seen.
    pub async fn run(&mut self, client: &Client, through: Option<i64>) -> Result<(), Error> {
        if through.is_some_and(|through| through < self.next) {
            return Ok(());
        }
        let end = match self.prefix.as_str() {
            "" => vec![0],
            prefix => {
                let mut end = prefix.as_bytes().to_vec();
                *end.last_mut().expect("not empty") += 1;
                end
            }
        };
        let key = if self.prefix.is_empty() { vec![0] } else { self.prefix.clone().into_bytes() };
        let mut watcher = client.watch(key, end, self.next).await?;
        loop {
            let response = watcher.next().await?;
            assert!(!response.canceled, "a watch was cancelled: {response:?}");
            self.take(&response);
            if through.is_some_and(|through| through < self.next) {
                return Ok(());
            }
        }
    }

    fn take(&mut self, response: &WatchResponse) {
        for event in &response.events {
            let kv = event.kv.as_ref().expect("an event has a key");
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("only text was written");
            self.seen.push(Change {
                revision: kv.mod_revision,
                key: text(&kv.key),
                value: (event.r#type() == EventType::Put).then(|| text(&kv.value)),
                lease: kv.lease,
            });
            self.next = kv.mod_revision + 1;
        }
    }
}
