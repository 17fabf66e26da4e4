//! KV: reads are answered from an immutable view on the shard's own core, writes are proposed as the client spelled
//! them and answered once applied. (etcd API, service KV; etcdserver/api/v3rpc/key.go for the order of the checks.)

use std::{
    future::Future,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    caller::Caller,
    check,
    encode::{self, Encoded, Encoder},
    listing::{self, Rest},
    request::{self, Kind},
    service::{Services, decode, later, refuse},
    values::{self, Resident},
};
use crate::{
    auth::Ask,
    error::Status,
    grpc::{Frame, LocalBoxFuture, Parts, Unary},
    limits,
    observe::{
        metrics::{Operation, ShardMetrics, Stage},
        trace::Attributes,
    },
    proto::etcdserverpb::{
        CompactionRequest, DeleteRangeRequest, PutRequest, RangeRequest, TxnRequest, request_op::Request,
    },
    runtime,
    shard::{Shard, view::View},
    store::cost,
    store::{
        apply::Answer,
        index::Index,
        range::{self, Plan},
        txn::{self, TxnAnswer},
        types::{KeyRange, Values},
    },
};

pub fn range(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    let request: RangeRequest = match decode(message) {
        Ok(request) => request,
        Err(status) => return refuse(status),
    };
    if let Err(status) = check::check_range(&request) {
        return refuse(status);
    }
    let caller = caller.within("range", |say| {
        say.text("range_begin", &request.key);
        say.text("range_end", &request.range_end);
        say.int("rev", request.revision);
        say.int("limit", request.limit);
        say.flag("count_only", request.count_only);
        say.flag("keys_only", request.keys_only);
    });
    let since = runtime::recent();
    if listing::is_long(&services.shard.view().state.index, &request) {
        return Unary::InParts(Box::new(move |replies| {
            Box::pin(async move { range_in_parts(&services, &caller, request, since, replies).await })
        }));
    }
    if request.serializable {
        let view = services.shard.view();
        return match read(&services, &caller, view, request) {
            Read::Done(result) => {
                services.answered(Operation::Range, result.is_ok(), services.read_takes());
                Unary::Ready(result)
            }
            Read::Begun(read) => later(async move { answered(&services, Operation::Range, since, read.await) }),
        };
    }
    later(async move {
        let result = match linearizable(&services, since).await {
            Ok(view) => read(&services, &caller, view, request).finish().await,
            Err(status) => Err(status),
        };
        answered(&services, Operation::Range, since, result)
    })
}

/// Answers a range whose answer is long, piece by piece as the caller takes it.
async fn range_in_parts(
    services: &Rc<Services>,
    caller: &Caller,
    request: RangeRequest,
    since: Instant,
    replies: Box<dyn Parts>,
) -> Result<(), Status> {
    let shard = &services.shard;
    let view = match request.serializable {
        true => Ok(shard.view()),
        false => linearizable(services, since).await,
    };
    // What the caller takes to read its answer is not the server's time.
    let mut waited = Duration::ZERO;
    let allowed = view.and_then(|view| {
        let permit = services.authorize_read(caller, &view, Ask::range(&request))?;
        Ok((view, permit))
    });
    let result = match allowed {
        Ok((view, permit)) => {
            let (metrics, began) = (&shard.metrics, runtime::recent());
            metrics.ranges.increment();
            let result = listing::in_parts(shard, view, request, replies, &mut waited).await;
            let result = result.and_then(|()| permit.still(&shard.view()));
            metrics.range_duration.observe(result.is_ok(), runtime::recent() - began - waited);
            result
        }
        Err(status) => Err(status),
    };
    services.answered(Operation::Range, result.is_ok(), runtime::recent() - since - waited);
    result
}

/// Counts a read that had to wait for something.
fn answered(
    services: &Services,
    operation: Operation,
    since: Instant,
    result: Result<Frame, Status>,
) -> Result<Frame, Status> {
    services.answered(operation, result.is_ok(), runtime::recent() - since + services.read_takes());
    result
}

async fn linearizable(services: &Services, since: Instant) -> Result<Arc<View>, Status> {
    let view = services.shard.linearizable().await?;
    services.shard.metrics.stages.observe(Stage::ReadIndex, runtime::recent() - since);
    Ok(view)
}

/// The answer to a read from a view.
enum Read {
    Done(Result<Frame, Status>),
    /// It takes turns or waits for values.
    Begun(LocalBoxFuture<Result<Frame, Status>>),
}

impl Read {
    fn begun(read: impl Future<Output = Result<Frame, Status>> + 'static) -> Read {
        Read::Begun(Box::pin(read))
    }

    async fn finish(self) -> Result<Frame, Status> {
        match self {
            Read::Done(result) => result,
            Read::Begun(read) => read.await,
        }
    }
}

/// Answers a range from a view, and counts it, if its caller may read it.
fn read(services: &Rc<Services>, caller: &Caller, view: Arc<View>, request: RangeRequest) -> Read {
    let permit = match services.authorize_read(caller, &view, Ask::range(&request)) {
        Ok(permit) => permit,
        Err(status) => return Read::Done(Err(status)),
    };
    let metrics = &services.shard.metrics;
    metrics.ranges.increment();
    match services.timed(|| answer(&services.shard, view, request)) {
        (Read::Done(result), took) => {
            metrics.range_duration.observe(result.is_ok(), took);
            Read::Done(result)
        }
        (Read::Begun(read), _) => {
            let (metrics, since, services) = (metrics.clone(), runtime::recent(), services.clone());
            Read::begun(async move {
                let result = read.await.and_then(|frame| permit.still(&services.shard.view()).map(|()| frame));
                metrics.range_duration.observe(result.is_ok(), runtime::recent() - since);
                result
            })
        }
    }
}

/// Answers a range from a view: at once where that is a matter of a few keys in memory.
fn answer(shard: &Rc<Shard>, view: Arc<View>, request: RangeRequest) -> Read {
    let index = &view.state.index;
    if let Err(status) = index.check_revision(request.revision) {
        return Read::Done(Err(status));
    }
    if !range::is_in_order(&request) && !request.count_only {
        let keys = index.count(KeyRange::new(&request.key, &request.range_end), request.revision);
        if keys > limits::INLINE_KEYS_MAX {
            let shard = shard.clone();
            return Read::begun(async move { gathered_in_background(&shard, view, request).await });
        }
    }
    match range::plan(index, &request) {
        Plan::Count(count) => Read::Done(Ok(counted(shard, &view, count))),
        Plan::InOrder { take, count, more } if take <= limits::ENCODE_SLICE_KEYS as u64 => {
            let encoded = listing::short(shard, &view, &request, &Rest { take, count, more });
            settled(view, encoded)
        }
        Plan::InOrder { take, count, more } => {
            let shard = shard.clone();
            Read::begun(async move { listing::whole(&shard, view, request, Rest { take, count, more }).await })
        }
        Plan::Gathered(gathered) => {
            let values = match gathered.needs_values() {
                true => gathered.kvs.iter().map(|kv| Resident(&view.segments).value(kv.meta.place)).collect(),
                false => Ok(Vec::new()),
            };
            let Ok(values) = values else {
                let shard = shard.clone();
                return Read::begun(async move { gathered_in_background(&shard, view, request).await });
            };
            let answer = gathered.finish(view.revision(), values);
            let encoded = encode::range(&shard.member.head, shard.member.term(), &answer, &view.segments);
            settled(view, encoded)
        }
    }
}

/// An answer that is whole goes out now, another once its values are read.
fn settled(view: Arc<View>, encoded: Encoded) -> Read {
    if encoded.holes.is_empty() {
        return Read::Done(encoded.check_size().map(|()| encoded.frame));
    }
    Read::begun(async move { values::fill_holes(&view, encoded).await })
}

/// A RangeResponse that only counts.
fn counted(shard: &Shard, view: &View, count: i64) -> Frame {
    let (head, term, revision) = (&shard.member.head, shard.member.term(), view.revision());
    let len = head.len(revision, term) + encode::range_end_len(false, count);
    let mut encoder = Encoder::new(len, &view.segments);
    head.put(encoder.out(), revision, term);
    encode::put_range_end(&mut encoder, false, count);
    encoder.finish().frame
}

/// Gathers, filters, sorts and encodes where it may take its time and may wait for the disk.
async fn gathered_in_background(shard: &Rc<Shard>, view: Arc<View>, request: RangeRequest) -> Result<Frame, Status> {
    let member = shard.member.clone();
    runtime::background(move || {
        let revision = view.revision();
        let answer = range::answer(&view.state.index, &request, revision, &mut |kv| view.segments.value(kv.meta.place))
            .map_err(|cause| values::unreadable(&cause))??;
        let encoded = encode::range(&member.head, member.term(), &answer, &view.segments);
        values::fill_holes_blocking(&view, encoded)
    })
    .await
}

pub fn put(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    let request: PutRequest = match decode(message.clone()) {
        Ok(request) => request,
        Err(status) => return refuse(status),
    };
    if !services.quota_fits(cost::of_put(&request)) {
        return services.out_of_space();
    }
    if let Err(status) = check::check_put(&request) {
        return refuse(status);
    }
    let caller = caller.within("put", |say| say.text("key", &request.key));
    write(services, caller, Kind::Put, message)
}

pub fn delete_range(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    let checked = decode::<DeleteRangeRequest>(message.clone())
        .and_then(|request| check::check_delete_range(&request).map(|()| request));
    let request = match checked {
        Ok(request) => request,
        Err(status) => return refuse(status),
    };
    let caller = caller.within("delete_range", |say| {
        say.text("range_begin", &request.key);
        say.text("range_end", &request.range_end);
    });
    write(services, caller, Kind::DeleteRange, message)
}

/// Proposes a request of KV in the client's own bytes and answers with what applying it made.
fn write(services: Rc<Services>, caller: Caller, kind: Kind, message: Bytes) -> Unary {
    later(async move {
        let (answer, view) = services.propose(&caller, kind, &message).await?;
        written(&services.shard, view, answer).await
    })
}

async fn written(shard: &Shard, view: Arc<View>, answer: Answer) -> Result<Frame, Status> {
    if encode::kv_count(&answer) as u64 > limits::INLINE_KEYS_MAX {
        let member = shard.member.clone();
        return runtime::background(move || {
            let encoded = encode::answer(&member.head, member.term(), &answer, &view.segments);
            values::fill_holes_blocking(&view, encoded)
        })
        .await;
    }
    let encoded = encode::answer(&shard.member.head, shard.member.term(), &answer, &view.segments);
    match encoded.holes.is_empty() {
        true => encoded.check_size().map(|()| encoded.frame),
        false => values::fill_holes(&view, encoded).await,
    }
}

pub fn txn(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    let request: TxnRequest = match decode(message.clone()) {
        Ok(request) => request,
        Err(status) => return refuse(status),
    };
    if !services.quota_fits(cost::of_txn(&request)) {
        return services.out_of_space();
    }
    if let Err(status) = check::check_txn(&request, services.shard.member.config.max_txn_ops) {
        return refuse(status);
    }
    let is_read_only = check::is_read_only(&request);
    let caller = caller.within("txn", |say| describe_txn(say, &request, is_read_only));
    if !is_read_only {
        return write(services, caller, Kind::Txn, message);
    }
    let since = runtime::recent();
    if check::is_serializable(&request) {
        let view = services.shard.view();
        return match read_txn(&services, &caller, view, request) {
            Read::Done(result) => {
                services.answered(Operation::ReadonlyTxn, result.is_ok(), services.read_takes());
                Unary::Ready(result)
            }
            Read::Begun(read) => later(async move { answered(&services, Operation::ReadonlyTxn, since, read.await) }),
        };
    }
    later(async move {
        let result = match linearizable(&services, since).await {
            Ok(view) => read_txn(&services, &caller, view, request).finish().await,
            Err(status) => Err(status),
        };
        answered(&services, Operation::ReadonlyTxn, since, result)
    })
}

/// What a transaction is about, by the first of what it compares and does. (etcd: etcdserver/tracing.go.)
fn describe_txn(say: &mut Attributes, request: &TxnRequest, is_read_only: bool) {
    let ops = || request.success.iter().filter_map(|op| op.request.as_ref());
    let key_of = |op: &Request| match op {
        Request::RequestRange(RangeRequest { key, .. })
        | Request::RequestPut(PutRequest { key, .. })
        | Request::RequestDeleteRange(DeleteRangeRequest { key, .. }) => key.clone(),
        Request::RequestTxn(_) => Bytes::new(),
    };
    let is_there = |key: &Bytes| !key.is_empty();
    let kind = ops().next().map_or("", |op| match op {
        Request::RequestRange(_) => "range",
        Request::RequestPut(_) => "put",
        Request::RequestDeleteRange(_) => "delete_range",
        Request::RequestTxn(_) => "txn",
    });
    let lease = ops().find_map(|op| match op {
        Request::RequestPut(put) => Some(put.lease),
        _ => None,
    });
    let compared = request.compare.iter().map(|compare| compare.key.clone()).find(is_there);
    say.text("compare_first_key", &compared.unwrap_or_default());
    say.text("success_first_key", &ops().map(key_of).find(is_there).unwrap_or_default());
    say.text("success_first_type", kind.as_bytes());
    say.int("success_first_lease", lease.unwrap_or(-1));
    say.int("compare_len", request.compare.len() as i64);
    say.int("success_len", request.success.len() as i64);
    say.int("failure_len", request.failure.len() as i64);
    say.flag("read_only", is_read_only);
}

/// Counts a transaction of reads: one that reads more than once is a transaction (etcd: mvcc/metrics_txn.go).
fn count_reads(metrics: &ShardMetrics, answer: &TxnAnswer) {
    metrics.ranges.add(answer.responses.len() as u64);
    if answer.responses.len() > 1 {
        metrics.readonly_transactions.increment();
    }
}

/// Answers a transaction of reads from a view.
fn read_txn(services: &Rc<Services>, caller: &Caller, view: Arc<View>, request: TxnRequest) -> Read {
    let permit = match services.authorize_read(caller, &view, Ask::Txn(&request)) {
        Ok(permit) => permit,
        Err(status) => return Read::Done(Err(status)),
    };
    let shard = &services.shard;
    if txn_weight(&view.state.index, &request) <= limits::INLINE_KEYS_MAX {
        // Fails only where a value that decides something is not in memory.
        match services.timed(|| txn::read(&view.state.index, &request, &Resident(&view.segments))).0 {
            Ok(Ok(answer)) => {
                count_reads(&shard.metrics, &answer);
                let encoded = encode::txn(&shard.member.head, shard.member.term(), &answer, &view.segments);
                return match settled(view, encoded) {
                    Read::Begun(read) => {
                        let shard = shard.clone();
                        Read::begun(async move {
                            let frame = read.await?;
                            permit.still(&shard.view()).map(|()| frame)
                        })
                    }
                    done => done,
                };
            }
            Ok(Err(status)) => return Read::Done(Err(status)),
            Err(_) => {}
        }
    }
    let (member, shard) = (shard.member.clone(), shard.clone());
    Read::begun(async move {
        let (answer, frame) = runtime::background(move || {
            let answer = txn::read(&view.state.index, &request, &view.segments)
                .map_err(|cause| values::unreadable(&cause))??;
            let encoded = encode::txn(&member.head, member.term(), &answer, &view.segments);
            values::fill_holes_blocking(&view, encoded).map(|frame| (answer, frame))
        })
        .await?;
        count_reads(&shard.metrics, &answer);
        permit.still(&shard.view()).map(|()| frame)
    })
}

/// How many keys a transaction of reads looks at, at most.
fn txn_weight(index: &Index, request: &TxnRequest) -> u64 {
    let compares = request.compare.iter().map(|compare| match compare.range_end.is_empty() {
        true => 1,
        false => index.count(KeyRange::new(&compare.key, &compare.range_end), 0),
    });
    let ranges = request.success.iter().chain(&request.failure).map(|op| match &op.request {
        Some(Request::RequestRange(range)) if !range.range_end.is_empty() && !range.count_only => {
            let keys = index.count(KeyRange::new(&range.key, &range.range_end), range.revision);
            match range.limit > 0 && range::is_in_order(range) {
                true => keys.min(range.limit as u64),
                false => keys,
            }
        }
        _ => 1,
    });
    compares.chain(ranges).sum()
}

pub fn compact(services: Rc<Services>, caller: Caller, message: Bytes) -> Unary {
    let request: CompactionRequest = match decode(message.clone()) {
        Ok(request) => request,
        Err(status) => return refuse(status),
    };
    later(async move {
        services.authorize(&caller, &services.shard.view(), Ask::Admin)?;
        let caller = caller.within("compact", |say| {
            say.flag("is_physical", request.physical);
            say.int("rev", request.revision);
        });
        services.propose(&caller, Kind::Compaction, &message).await?;
        let shard = &services.shard;
        if request.physical {
            shard.compaction_done(request.revision).await?;
        }
        // The revision at the reply, not at the compaction (etcd: v3_server.go, Compact).
        Ok(shard.member.head.alone(shard.view().revision(), shard.member.term()))
    })
}

/// The client's bytes around which the internal request is wrapped.
pub(super) fn internal(shard: &Shard, kind: Kind, body: &[u8]) -> (u64, Bytes) {
    let id = shard.member.next_id();
    (id, request::internal(kind, body, id))
}

#[cfg(test)]
mod tests;
