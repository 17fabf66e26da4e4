//! A client: asks for one thing at a time, waits for so long, and remembers what it was told.

use bytes::Bytes;
use prost::Message as _;

use super::checker::{Checker, Told};
use crate::{
    proto::etcdserverpb::{
        Compare, DeleteRangeRequest, InternalRaftRequest, PutRequest, RequestOp, TxnRequest, compare, request_op,
    },
    raft::{
        mail::{Outcome, ToCore, Token},
        view::View,
    },
    random::Random,
    shard::mail::Proposal,
    store::{apply::Answer, types::Values},
};

/// So few that they are fought over.
const KEYS: u64 = 5;

struct Asked {
    slot: u32,
    /// What was known when it was asked.
    floor: i64,
    told: Told,
}

pub struct Client {
    number: usize,
    asked: u32,
    waits: Option<Asked>,
    /// Where it last saw each key change.
    seen: Vec<i64>,
    resting: bool,
}

impl Client {
    pub fn new(number: usize) -> Self {
        Client { number, asked: 0, waits: None, seen: vec![0; KEYS as usize], resting: false }
    }

    /// Asks nothing more that changes anything.
    pub fn rest(&mut self) {
        self.resting = true;
    }

    pub fn rests(&self) -> bool {
        self.resting
    }

    /// `id`: of the request, at the member that is asked.
    pub fn next(&mut self, random: &mut Random, floor: i64, id: u64) -> (u32, ToCore) {
        self.asked += 1;
        let slot = (self.number as u32) << 24 | self.asked;
        let token = Token { slot, life: 0 };
        let at = random.below(KEYS);
        let key = Bytes::from(format!("key-{at}"));
        let len = if random.permille(50) { 6_000 } else { random.below(300) as usize };
        let value = Bytes::from(format!("{}-{}-{}", self.number, self.asked, "v".repeat(len)));
        let mut request = InternalRaftRequest { id, ..Default::default() };
        let mut mail = ToCore::default();
        let kind = if self.resting { 9 } else { random.below(10) };
        let put = PutRequest { key: key.clone(), value: value.clone(), ..Default::default() };
        let told = match kind {
            0..4 => {
                request.put = Some(put);
                Told::Put { key, value }
            }
            4 => {
                request.delete_range = Some(DeleteRangeRequest { key: key.clone(), ..Default::default() });
                Told::Deleted { key, some: false }
            }
            5 | 6 => {
                let expected = self.seen[at as usize];
                let compare = Compare {
                    result: compare::CompareResult::Equal as i32,
                    target: compare::CompareTarget::Mod as i32,
                    key: key.clone(),
                    target_union: Some(compare::TargetUnion::ModRevision(expected)),
                    ..Default::default()
                };
                let success = vec![RequestOp { request: Some(request_op::Request::RequestPut(put)) }];
                request.txn = Some(TxnRequest { compare: vec![compare], success, ..Default::default() });
                Told::Swapped { key, value, expected, done: false }
            }
            _ => Told::Read { key, value: None },
        };
        if matches!(told, Told::Read { .. }) {
            mail.reads.push(token);
        } else {
            mail.proposals.push(Proposal {
                token,
                id: request.id,
                data: request.encode_to_vec().into(),
                only_in: None,
            });
        }
        self.waits = Some(Asked { slot, floor, told });
        (slot, mail)
    }

    pub fn waits_for(&self, slot: u32) -> bool {
        self.waits.as_ref().is_some_and(|asked| asked.slot == slot)
    }

    /// Whether it still waited for that.
    pub fn gives_up(&mut self, operation: u64) -> bool {
        self.waits.take_if(|asked| u64::from(asked.slot) == operation).is_some()
    }

    /// Whether it was told something. `damaged`: the member's disk is.
    pub fn answered(&mut self, checker: &mut Checker, view: &View, outcome: Outcome, damaged: bool) -> bool {
        let Some(Asked { floor, mut told, .. }) = self.waits.take() else { return false };
        let revision = match outcome {
            // Not done, or nobody knows: nothing is promised.
            Outcome::Failed(_) => return false,
            Outcome::Done => {
                let Told::Read { key, value } = &mut told else { panic!("{told:?} is answered as a read is") };
                let meta = view.state.index.get(key, view.revision());
                *value = match meta.as_ref().map(|meta| view.segments.value(meta.place)).transpose() {
                    Ok(value) => value,
                    // What cannot be read is not answered.
                    Err(_) if damaged => return false,
                    Err(cause) => panic!("a sound disk cannot be read: {cause}"),
                };
                let at = usize::from(key[4] - b'0');
                self.seen[at] = meta.map_or(0, |meta| meta.revision.main);
                view.revision()
            }
            Outcome::Applied(result) => match (result.expect("nothing of these is refused"), &mut told) {
                (Answer::Put { revision, .. }, Told::Put { .. }) => revision,
                (Answer::DeleteRange { revision, deleted, .. }, Told::Deleted { some, .. }) => {
                    *some = deleted > 0;
                    revision
                }
                (Answer::Txn(answer), Told::Swapped { done, .. }) => {
                    *done = answer.succeeded;
                    answer.revision
                }
                (answer, told) => panic!("{told:?} is answered with {answer:?}"),
            },
        };
        checker.answered(revision, floor, told);
        true
    }
}
