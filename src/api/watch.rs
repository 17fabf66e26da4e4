//! The Watch service: one task a stream, between the stream's messages and the shard's table of watches. It decides
//! nothing about watches; it reads requests, hands the stream's queue to flow control and has the table catch up.
//! (etcd API, Watch; etcdserver/api/v3rpc/watch.go.)

use std::{
    cell::RefCell,
    collections::VecDeque,
    future::poll_fn,
    rc::Rc,
    sync::atomic::Ordering::Relaxed,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes};
use hashbrown::HashMap;
use prost::Message as _;

use super::{
    caller::Caller,
    service::{ReadClock, Services},
    values,
};
use crate::{
    auth::Ask,
    error::{self, Status},
    grpc::{
        Call,
        stream::{Gone, Replies, Requests},
    },
    limits,
    observe::trace::{Attributes, Span},
    proto::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse, watch_request::RequestUnion},
    shard::{
        view::View,
        watch::{Moment, Snapshot, StreamId, Watches, catchup::Slice, let_others_run},
    },
    store::types::KeyRange,
};

/// Serves `/etcdserverpb.Watch/Watch`. Ends when the stream is gone, when the server stops, or, for a client that
/// requires a leader, when there has been none for three election timeouts; a client that has closed its side goes
/// on being told of events.
pub async fn serve(services: Rc<Services>, call: Call, requests: Requests, replies: Replies) -> Result<(), Status> {
    let needs_leader = call.metadata.get("hasleader").is_some_and(|value| value == b"true");
    if needs_leader && services.shard.member.standing.leader.load(Relaxed) == 0 {
        return Err(error::NO_LEADER);
    }
    run(&Asked { services, caller: Caller::of(call) }, needs_leader, requests, replies).await
}

/// The requests of one stream.
pub trait Inbound {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<WatchRequest, Status>>>;
}

impl Inbound for Requests {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<WatchRequest, Status>>> {
        let decode = |message: Result<Bytes, Status>| {
            WatchRequest::decode(message?)
                .map_err(|cause| Status::internal(format!("grpc: failed to unmarshal the received message: {cause}")))
        };
        Requests::poll_next(self, context).map(|message| message.map(decode))
    }
}

/// The way out of one stream.
pub trait Sink {
    /// Ready when what was sent before has been taken over by flow control.
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Gone>>;

    /// `parts`: whole messages, each with its prefix, cut anywhere.
    fn send(&mut self, parts: Vec<Bytes>) -> Result<(), Gone>;
}

impl Sink for Replies {
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        Replies::poll_ready(self, context)
    }

    fn send(&mut self, parts: Vec<Bytes>) -> Result<(), Gone> {
        Replies::send(self, parts)
    }
}

/// What a stream needs of the shard it is on.
pub trait Host {
    type Snapshot: Snapshot;

    fn watches(&self) -> &Watches<Self::Snapshot>;

    /// The newest published state.
    fn snapshot(&self) -> Self::Snapshot;

    fn term(&self) -> u64;

    /// Whether the stream's caller may watch a range.
    ///
    /// # Errors
    /// What the watch is refused with.
    fn authorize(&self, range: KeyRange<'_>) -> Result<(), Status>;

    /// The span of the call, where it is traced.
    fn span(&self) -> Option<&Span> {
        None
    }

    /// What waited in a stream has been handed to flow control: so many events, in so long.
    fn sent(&self, _events: u64, _took: Duration) {}

    fn moment(&self) -> Moment {
        Moment { revision: self.snapshot().index().current(), term: self.term() }
    }
}

/// The shard as the caller of one call sees it.
#[derive(Clone)]
pub(super) struct Asked {
    pub services: Rc<Services>,
    pub caller: Caller,
}

impl Host for Asked {
    type Snapshot = std::sync::Arc<View>;

    fn watches(&self) -> &Watches<Self::Snapshot> {
        &self.services.shard.watches
    }

    fn snapshot(&self) -> Self::Snapshot {
        self.services.shard.view()
    }

    fn term(&self) -> u64 {
        self.services.shard.member.term()
    }

    fn authorize(&self, range: KeyRange<'_>) -> Result<(), Status> {
        self.services.authorize(&self.caller, &self.services.shard.view(), Ask::Range(range))
    }

    fn span(&self) -> Option<&Span> {
        self.caller.span()
    }

    fn sent(&self, events: u64, took: Duration) {
        let metrics = &self.services.shard.metrics;
        if events == 0 {
            return metrics.control_sends.observe(took);
        }
        metrics.watch_sends.observe(took);
        metrics.watch_sends_per_event.observe_value(took.as_secs_f64() / events as f64);
    }
}

/// A stream of the table for as long as its task lives.
struct Open<'a, H: Host> {
    host: &'a H,
    id: StreamId,
    spans: Spans,
}

/// The spans of a stream's watches, which last as long as they do; None where the call is not traced.
type Spans = Option<Box<RefCell<HashMap<i64, Span>>>>;

impl<'a, H: Host> Open<'a, H> {
    fn new(host: &'a H, needs_leader: bool) -> Self {
        let id = host.watches().with(|table| table.open(needs_leader));
        Open { host, id, spans: host.span().map(|_| Box::default()) }
    }
}

impl<H: Host> Drop for Open<'_, H> {
    fn drop(&mut self) {
        self.host.watches().with(|table| table.close(self.id));
    }
}

/// What there is to do for a stream.
enum Work {
    Request(WatchRequest),
    /// The caller has closed its side.
    NoMoreRequests,
    Send,
    CatchUp,
}

pub async fn run<H: Host>(
    host: &H,
    needs_leader: bool,
    mut requests: impl Inbound,
    mut sink: impl Sink,
) -> Result<(), Status> {
    let stream = Open::new(host, needs_leader);
    let (mut open, clock) = (true, ReadClock::default());
    loop {
        match poll_fn(|context| stream.poll_work(context, &mut requests, &mut sink, open)).await? {
            Work::NoMoreRequests => open = false,
            Work::Request(request) => {
                stream.handle(request);
                open = stream.handle_more(&mut requests).await?;
                // A client that never pauses holds up neither the others nor what it is owed itself.
                stream.catch_up().await?;
                let_others_run().await;
            }
            Work::Send => {
                let (events, parts) =
                    host.watches().with(|table| (table.waiting_events(stream.id), table.take(stream.id)));
                let (sent, took) = clock.time(|| sink.send(parts));
                host.sent(events, took);
                sent.map_err(|Gone| error::WATCH_CANCELED)?;
            }
            Work::CatchUp => {
                stream.catch_up().await?;
                let_others_run().await;
            }
        }
    }
}

impl<H: Host> Open<'_, H> {
    fn poll_work(
        &self,
        context: &mut Context<'_>,
        requests: &mut impl Inbound,
        sink: &mut impl Sink,
        open: bool,
    ) -> Poll<Result<Work, Status>> {
        let (ended, waiting, behind) = self.host.watches().with(|table| {
            table.park(self.id, context.waker());
            (table.ended(self.id), table.waiting_bytes(self.id), table.has_slice(self.id))
        });
        if let Some(status) = ended {
            return Poll::Ready(Err(status));
        }
        match sink.poll_ready(context) {
            Poll::Ready(Err(Gone)) => return Poll::Ready(Err(error::WATCH_CANCELED)),
            Poll::Ready(Ok(())) if waiting > 0 => return Poll::Ready(Ok(Work::Send)),
            _ => {}
        }
        // A client that does not read its answers is not asked for more requests.
        if open && waiting < limits::WATCH_CONTROL_BYTES {
            match requests.poll_next(context) {
                Poll::Ready(Some(request)) => return Poll::Ready(Ok(Work::Request(request?))),
                Poll::Ready(None) => return Poll::Ready(Ok(Work::NoMoreRequests)),
                Poll::Pending => {}
            }
        }
        if behind {
            return Poll::Ready(Ok(Work::CatchUp));
        }
        Poll::Pending
    }

    /// Handles the requests that have come with one. False if they were the last.
    async fn handle_more(&self, requests: &mut impl Inbound) -> Result<bool, Status> {
        for _ in 1..limits::WATCH_REQUESTS {
            if self.host.watches().with(|table| table.waiting_bytes(self.id)) >= limits::WATCH_CONTROL_BYTES {
                break;
            }
            match poll_fn(|context| Poll::Ready(requests.poll_next(context))).await {
                Poll::Ready(Some(request)) => self.handle(request?),
                Poll::Ready(None) => return Ok(false),
                Poll::Pending => break,
            }
        }
        Ok(true)
    }

    /// Asked for at each creation only: a watch that was made goes on. (etcd: v3rpc/watch.go, isWatchPermitted.)
    fn refusal(&self, create: &WatchCreateRequest) -> Option<Status> {
        // A bad start revision is told first.
        if create.start_revision < 0 {
            return None;
        }
        // An empty key stands for the smallest there is.
        let key: &[u8] = if create.key.is_empty() { &[0] } else { &create.key };
        self.host.authorize(KeyRange::new(key, &create.range_end)).err()
    }

    fn create(&self, create: &WatchCreateRequest, now: Moment) {
        let refusal = self.refusal(create);
        let made = self.host.watches().with(|table| match refusal {
            Some(status) => {
                table.refuse(self.id, &status.to_string(), now);
                None
            }
            None => table.create(self.id, create, now),
        });
        if let (Some(id), Some(spans), Some(call)) = (made, &self.spans, self.host.span()) {
            spans.borrow_mut().insert(id, call.child("watch", |say| describe(say, create)));
        }
    }

    fn handle(&self, request: WatchRequest) {
        let (watches, now) = (self.host.watches(), self.host.moment());
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => self.create(&create, now),
            Some(RequestUnion::CancelRequest(cancel)) => {
                watches.with(|table| table.cancel(self.id, cancel.watch_id, now));
                if let Some(spans) = &self.spans {
                    spans.borrow_mut().remove(&cancel.watch_id);
                }
            }
            Some(RequestUnion::ProgressRequest(_)) => watches.with(|table| table.request_progress(self.id, now)),
            // A kind that is not known here: passed over, as etcd does.
            None => {}
        }
    }

    /// One slice. Where values have to be read, their response is waited for.
    async fn catch_up(&self) -> Result<(), Status> {
        if !self.host.watches().with(|table| table.has_slice(self.id)) {
            return Ok(());
        }
        let (snapshot, term) = (self.host.snapshot(), self.host.term());
        let slice =
            self.host.watches().with(|table| table.catch_up(self.id, snapshot.index(), snapshot.values(), term));
        if let Slice::Read(mut batch) = slice {
            // In a box: it is rare, and every stream's task would be larger by it.
            let values = Box::pin(snapshot.read(batch.missing())).await;
            let values = values.map_err(|cause| values::unreadable(&cause))?;
            batch.fill(&values);
            self.host.watches().with(|table| table.settle(*batch, term));
        }
        Ok(())
    }
}

fn describe(say: &mut Attributes, create: &WatchCreateRequest) {
    // What stands for a key or an end is told as what it means.
    let key: &[u8] = if create.key.is_empty() { &[0] } else { &create.key };
    let range_end: &[u8] = if create.range_end[..] == [0] { &[] } else { &create.range_end };
    say.text("key", key);
    say.text("range_end", range_end);
    say.int("start_rev", create.start_revision);
    say.flag("progress_notify", create.progress_notify);
    say.flag("prev_kv", create.prev_kv);
    say.flag("fragment", create.fragment);
}

/// One watch of a call within this server, on a stream of its own, which ends when this is dropped. What is not asked
/// for waits in the table as it does for a client: a position, once it is too much.
pub(super) struct Following<'a, H: Host> {
    stream: Open<'a, H>,
    told: VecDeque<WatchResponse>,
}

impl<'a, H: Host> Following<'a, H> {
    pub fn new(host: &'a H, request: &WatchCreateRequest) -> Self {
        let stream = Open::new(host, false);
        stream.create(request, host.moment());
        Following { stream, told: VecDeque::new() }
    }

    /// The next response; the first tells whether the watch was made.
    ///
    /// # Errors
    /// Where the server stops, or a value cannot be read.
    pub async fn next(&mut self) -> Result<WatchResponse, Status> {
        loop {
            if let Some(response) = self.told.pop_front() {
                return Ok(response);
            }
            let stream = &self.stream;
            match poll_fn(|context| stream.poll_work(context, &mut Silent, &mut Silent, false)).await? {
                Work::Send => {
                    let parts = stream.host.watches().with(|table| table.take(stream.id));
                    self.told.extend(unframed(parts));
                }
                Work::CatchUp => {
                    stream.catch_up().await?;
                    let_others_run().await;
                }
                Work::Request(_) | Work::NoMoreRequests => unreachable!("nothing is asked on this stream"),
            }
        }
    }
}

/// A caller that asks nothing more and takes everything.
struct Silent;

impl Inbound for Silent {
    fn poll_next(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<WatchRequest, Status>>> {
        Poll::Pending
    }
}

impl Sink for Silent {
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        Poll::Ready(Ok(()))
    }

    fn send(&mut self, _: Vec<Bytes>) -> Result<(), Gone> {
        Ok(())
    }
}

/// Takes whole messages, each with its prefix, out of the parts they come in.
fn unframed(parts: Vec<Bytes>) -> impl Iterator<Item = WatchResponse> {
    let mut rest = Bytes::from(parts.concat());
    std::iter::from_fn(move || {
        if !rest.has_remaining() {
            return None;
        }
        rest.advance(1);
        let len = rest.get_u32() as usize;
        Some(WatchResponse::decode(rest.split_to(len)).expect("the table writes whole responses"))
    })
}

#[cfg(test)]
mod tests;
