//! A shard with a raft core of no log and no disk behind it: what is proposed is applied at once. For tests of the
//! services.

use std::{
    cell::RefCell,
    future::Future,
    pin::Pin,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use prost::Message;

use super::service::Services;
use crate::{
    config::Config,
    error::Status,
    grpc::{Call, Frame, Handler, Metadata, Origin, Parts, Unary, stream::Gone},
    peers::client::Client,
    proto::{etcdserverpb::InternalRaftRequest, raftpb::ConfChange},
    shard::{
        Member, Shard,
        mail::{Control, FromCore, Outcome, ToCore},
        view::{Published, View},
    },
    store::{
        apply::{Answer, AppliedBatch, ApplyEntry},
        state::State,
        types::Place,
    },
    wal::table::SegmentTable,
    wire::frame::PREFIX_BYTES,
};

pub const CLUSTER_ID: u64 = 0xc1;
pub const MEMBER_ID: u64 = 0x3e;
pub const TERM: u64 = 2;

pub struct Bench {
    pub services: Rc<Services>,
    pub state: State,
    /// The data of each entry, by segment, one entry each.
    segments: Vec<(u32, Bytes)>,
    index: u64,
    published: Published,
    /// Proposals seen so far.
    pub proposals: Vec<Bytes>,
    /// Linearizable reads seen so far.
    pub reads: usize,
    /// Controls seen so far.
    pub controls: Vec<String>,
}

impl Bench {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(configure: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        configure(&mut config);
        let state = State::new(config.lease_ttl_min());
        let member = Arc::new(Member::new(MEMBER_ID, CLUSTER_ID, config, 0));
        member.standing.leader.store(MEMBER_ID, Relaxed);
        member.standing.term.store(TERM, Relaxed);
        member.standing.ticked_ms.store(u64::MAX, Relaxed);
        let client = Client::new(Default::default(), Default::default(), Duration::from_secs(1));
        let published = Published::new(View { state: state.clone(), segments: SegmentTable::default() });
        let shard = Rc::new(Shard::new(0, member, published.clone()));
        shard.tick(1);
        Bench {
            services: Services::new(shard, client),
            state,
            segments: Vec::new(),
            index: 0,
            published,
            proposals: Vec::new(),
            reads: 0,
            controls: Vec::new(),
        }
    }

    pub fn shard(&self) -> &Rc<Shard> {
        &self.services.shard
    }

    /// Calls a unary method by its path and gives the bytes of its answer.
    pub fn call(&mut self, path: &str, request: &impl Message) -> Result<Bytes, Status> {
        let (message, metadata) = (request.encode_to_vec().into(), Metadata::default());
        self.call_raw(path, message, metadata).map(|frame| frame.seal().slice(PREFIX_BYTES..))
    }

    /// The same where nothing has to go through the core, on a real executor: what takes turns or waits for the disk.
    pub fn call_alone(&mut self, path: &str, request: &impl Message) -> Result<Bytes, Status> {
        let route = self.services.route(path).expect("a path of the table");
        let call = plain_call(Metadata::default());
        let result = match self.services.clone().unary(route.method, call, request.encode_to_vec().into()) {
            Unary::Ready(result) => result,
            Unary::Later(future) => crate::runtime::run_test(future),
            Unary::InParts(make) => {
                let sent = Gathered::default();
                crate::runtime::run_test(make(Box::new(sent.clone()))).map(|()| sent.message())
            }
        };
        result.map(|frame| frame.seal().slice(PREFIX_BYTES..))
    }

    /// Puts many keys, `prefix` and five digits, a hundred to a transaction as long as they are small.
    pub fn load(&mut self, prefix: &str, count: usize, value_len: usize) {
        use crate::proto::etcdserverpb::{PutRequest, RequestOp, TxnRequest, request_op::Request};
        let value = Bytes::from(vec![b'v'; value_len]);
        let put = |at| {
            let key = format!("{prefix}{at:05}").into();
            RequestOp {
                request: Some(Request::RequestPut(PutRequest { key, value: value.clone(), ..Default::default() })),
            }
        };
        let step = if value_len > 9999 { 5 } else { 100 };
        for from in (0..count).step_by(step) {
            let success = (from..count.min(from + step)).map(put).collect();
            self.call("/etcdserverpb.KV/Txn", &TxnRequest { success, ..Default::default() }).unwrap();
        }
    }

    /// Takes the segments out of memory: every value has to be read.
    pub fn cool_segments(&mut self) {
        let segments = SegmentTable::in_memory(self.segments.clone()).into_cold();
        self.published.publish(Arc::new(View { state: self.state.clone(), segments }));
    }

    /// Takes the segments away.
    pub fn forget_segments(&mut self) {
        self.published.publish(Arc::new(View { state: self.state.clone(), segments: SegmentTable::default() }));
    }

    pub fn call_raw(&mut self, path: &str, message: Bytes, metadata: Metadata) -> Result<Frame, Status> {
        let route = self.services.route(path).expect("a path of the table");
        let call = plain_call(metadata);
        match self.services.clone().unary(route.method, call, message) {
            Unary::Ready(result) => result,
            Unary::Later(future) => self.run(future),
            Unary::InParts(make) => {
                let sent = Gathered::default();
                self.run(make(Box::new(sent.clone()))).map(|()| sent.message())
            }
        }
    }

    /// The same, decoded.
    pub fn ask<M: Message + Default>(&mut self, path: &str, request: &impl Message) -> Result<M, Status> {
        self.call(path, request).map(|bytes| M::decode(bytes).expect("an answer of its type"))
    }

    /// Runs what a handler has begun, with the core at work beside it.
    pub fn run<T>(&mut self, mut future: Pin<Box<dyn Future<Output = T>>>) -> T {
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..100 {
            if let Poll::Ready(done) = future.as_mut().poll(&mut context) {
                return done;
            }
            assert!(self.work(), "the call waits for something that nobody does");
        }
        panic!("the call does not end");
    }

    /// One turn of the core. False if there was nothing to do.
    pub fn work(&mut self) -> bool {
        let shard = self.shard().clone();
        let Poll::Ready(mail) = shard.outbox.poll_take(&mut Context::from_waker(Waker::noop())) else { return false };
        self.turn(mail);
        true
    }

    /// Applies a request that no shard has proposed.
    pub fn apply(&mut self, request: &InternalRaftRequest) -> Result<Answer, Status> {
        self.index += 1;
        let data: Bytes = request.encode_to_vec().into();
        let base = Place { segment: self.index as u32, offset: 0, len: data.len() as u32 };
        self.segments.push((base.segment, data.clone()));
        let entry = ApplyEntry { index: self.index, term: TERM, base, data, quota_room: self.room() };
        let table = SegmentTable::in_memory(self.segments.clone());
        self.state.apply(&entry, &table, &mut AppliedBatch::default()).expect("values lie in memory").result
    }

    fn turn(&mut self, mail: ToCore) {
        let mut batch = AppliedBatch::default();
        let mut outcomes = Vec::new();
        for proposal in mail.proposals {
            self.index += 1;
            let segment = self.index as u32;
            self.segments.push((segment, proposal.data.clone()));
            self.proposals.push(proposal.data.clone());
            let entry = ApplyEntry {
                index: self.index,
                term: TERM,
                base: Place { segment, offset: 0, len: proposal.data.len() as u32 },
                data: proposal.data,
                quota_room: self.room(),
            };
            let table = SegmentTable::in_memory(self.segments.clone());
            let applied = self.state.apply(&entry, &table, &mut batch).expect("values lie in memory");
            assert_eq!(applied.id, proposal.id);
            while self.state.index.compacting() {
                self.state.index.compaction_step(1000, &mut |_| {});
            }
            outcomes.push((proposal.token, Outcome::Applied(Box::new(applied.result))));
        }
        self.reads += mail.reads.len();
        outcomes.extend(mail.reads.into_iter().map(|token| (token, Outcome::Done)));
        for control in mail.controls {
            self.controls.push(format!("{control:?}"));
            outcomes.push(match control {
                Control::TransferLeader { .. } => continue,
                Control::Install { .. } => unreachable!("no client sends a snapshot"),
                Control::Entries { .. } => unreachable!("no client asks for entries"),
                Control::CompactionDone { token, .. } | Control::Defragment { token } => (token, Outcome::Done),
                // Nobody else is there, and nobody waits for an answer.
                Control::Configure { token, data, .. } => {
                    self.index += 1;
                    let change = ConfChange::decode(data).expect("a change is spelled as one");
                    let fits = self.state.membership.check(&change, self.state.learners_max());
                    let result = fits.and_then(|()| self.state.apply_conf_change(self.index, TERM, &change));
                    (token, Outcome::Applied(Box::new(result.map(|()| Answer::Nothing))))
                }
            });
        }
        let segments = SegmentTable::in_memory(self.segments.clone());
        let view = Arc::new(View { state: self.state.clone(), segments });
        self.published.publish(view.clone());
        let AppliedBatch { events, leases, tokens, .. } = batch;
        self.shard().member.tokens.change(&tokens, 0);
        self.shard().deliver(FromCore {
            view,
            outcomes,
            events: Arc::new(events),
            leases: Arc::new(leases),
            jumped: false,
        });
    }

    fn room(&self) -> Option<u64> {
        let member = &self.shard().member;
        member.config.quota_bytes.map(|quota| quota.saturating_sub(member.db_size.load(Relaxed)))
    }
}

/// Takes an answer in parts and puts them together.
#[derive(Clone, Default)]
pub struct Gathered {
    pub parts: Rc<RefCell<Vec<Bytes>>>,
    /// It wants the whole message at once.
    pub whole: bool,
    /// It is gone after so many parts.
    pub gone_after: Option<usize>,
}

impl Gathered {
    /// Bytes of each part.
    pub fn sizes(&self) -> Vec<usize> {
        self.parts.borrow().iter().map(Bytes::len).collect()
    }

    /// The message that was sent.
    pub fn message(&self) -> Frame {
        let bytes = self.parts.borrow().concat();
        let mut frame = Frame::with_capacity(bytes.len());
        let len = u32::from_be_bytes(bytes[1..PREFIX_BYTES].try_into().unwrap());
        assert_eq!((bytes[0], len as usize), (0, bytes.len() - PREFIX_BYTES), "the prefix tells the length");
        frame.buffer().extend_from_slice(&bytes[PREFIX_BYTES..]);
        frame
    }
}

impl Parts for Gathered {
    fn takes_parts(&self) -> bool {
        !self.whole
    }

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        let gone = self.gone_after.is_some_and(|after| after <= self.parts.borrow().len());
        Poll::Ready(if gone { Err(Gone) } else { Ok(()) })
    }

    fn send_part(&mut self, part: Bytes) -> Result<(), Gone> {
        self.parts.borrow_mut().push(part);
        Ok(())
    }
}

/// A call with nothing but its metadata.
pub(super) fn plain_call(metadata: Metadata) -> Call {
    Call { metadata, origin: Origin::default(), deadline: None, span: None }
}
