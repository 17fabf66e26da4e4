//! RangeStream: a listing in messages of a bounded size, all of one revision. Each message is cut as etcd cuts it: ten
//! keys first, then twice or half as many until a message is about as large as a request may be; header, `more` and
//! `count` come with the last. A sort target without an order sorts within each message, as in etcd; but a message goes
//! on from the greatest key of the one before and not from its last, so that no key is skipped or repeated. (etcd API, KV.RangeStream; etcdserver/v3_server.go, rangeStream.)

use std::{future::poll_fn, rc::Rc, sync::Arc};

use bytes::Bytes;
use futures_util::future::{Either, select};

use super::{
    caller::Caller,
    check,
    encode::{self, Encoded, Encoder},
    service::{Served, Services, only_request},
    values,
};
use crate::{
    auth::Ask,
    error::{self, Status},
    grpc::{
        Call, Frame,
        stream::{Replies, Requests},
    },
    limits,
    proto::etcdserverpb::{RangeRequest, range_request::SortTarget},
    runtime,
    shard::{Shard, view::View},
    store::{
        range::{self, Sort},
        types::{KeyMeta, KeyRange, KeyRef, Values},
    },
    wire::{frame::PREFIX_BYTES, *},
};

pub fn serve(services: Rc<Services>, call: Call, requests: Requests, replies: Replies) -> Served {
    Box::pin(stream(services, Caller::of(call), requests, replies))
}

async fn stream(
    services: Rc<Services>,
    caller: Caller,
    mut requests: Requests,
    mut replies: Replies,
) -> Result<(), Status> {
    let shard = &*services.shard;
    let request: RangeRequest = only_request(&mut requests).await?;
    check::check_range_stream(&request)?;
    let caller = caller.within("range_streaming", |say| {
        say.text("range_begin", &request.key);
        say.text("range_end", &request.range_end);
        say.int("rev", request.revision);
        say.int("limit", request.limit);
        say.flag("count_only", request.count_only);
    });
    let view = match request.serializable {
        true => shard.view(),
        false => shard.linearizable().await?,
    };
    let permit = services.authorize_read(&caller, &view, Ask::range(&request))?;
    shard.metrics.ranges.increment();
    view.state.index.check_revision(request.revision)?;
    let mut too_old = shard.pin_expires();
    let mut chunks = Chunks::new(shard, &view, &request);
    while let Some(body) = chunks.next(shard, &view, &request).await? {
        let ready = poll_fn(|context| replies.poll_ready(context));
        match select(ready, &mut too_old).await {
            Either::Left((Ok(()), _)) => {}
            Either::Left((Err(_gone), _)) => return Err(error::CONTEXT_CANCELED),
            Either::Right(_) => return Err(error::STREAM_PIN_TOO_OLD),
        }
        if replies.send(wrap(body)).is_err() {
            return Err(error::CONTEXT_CANCELED);
        }
    }
    permit.still(&shard.view())
}

/// A RangeResponse as the one field of a RangeStreamResponse, without being moved.
fn wrap(body: Frame) -> [Bytes; 2] {
    let len = body.message_len();
    let mut head = Frame::with_capacity(message_len(0) + varint_len(len as u64));
    put_head(head.buffer(), 1, len);
    [head.seal_before(len), body.seal().slice(PREFIX_BYTES..)]
}

/// Where a listing stands.
struct Chunks {
    /// Read at this revision; 0 or less: the view's own.
    at: i64,
    /// The key to go on from.
    from: Bytes,
    /// Keys still to be sent.
    left: u64,
    /// Keys of the next message.
    limit: u64,
    /// Live keys in the range, and whether some of them lie beyond the limit.
    count: i64,
    more: bool,
    done: bool,
    target_bytes: usize,
}

impl Chunks {
    fn new(shard: &Shard, view: &View, request: &RangeRequest) -> Self {
        let range = KeyRange::new(&request.key, &request.range_end);
        let count = view.state.index.count(range, request.revision);
        // A negative limit is none, and there is but one message (etcd: v3_server.go, rangeStream).
        let (limit, first) = match request.limit {
            ..0 => (u64::MAX, u64::MAX),
            0 => (u64::MAX, limits::STREAM_FIRST_KEYS),
            limit => (limit as u64, limits::STREAM_FIRST_KEYS),
        };
        let left = if request.count_only { 0 } else { count.min(limit) };
        Chunks {
            at: request.revision,
            from: request.key.clone(),
            left,
            limit: first,
            count: count as i64,
            more: !request.count_only && count > limit,
            done: false,
            target_bytes: shard.member.config.max_request_bytes,
        }
    }

    /// The next RangeResponse; None after the last.
    async fn next(&mut self, shard: &Shard, view: &Arc<View>, request: &RangeRequest) -> Result<Option<Frame>, Status> {
        if self.done {
            return Ok(None);
        }
        let take = self.limit.min(self.left);
        self.left -= take;
        self.done = self.left == 0;
        let encoded = self.encode(shard, view, request, take).await?;
        self.adjust(encoded.frame.message_len(), take, view);
        match encoded.holes.is_empty() {
            true => encoded.check_size().map(|()| Some(encoded.frame)),
            false => values::fill_holes(view, encoded).await.map(Some),
        }
    }

    async fn encode(
        &mut self,
        shard: &Shard,
        view: &Arc<View>,
        request: &RangeRequest,
        take: u64,
    ) -> Result<Encoded, Status> {
        let mut encoder = Encoder::new(self.target_bytes.min((take as usize).saturating_mul(128) + 64), &view.segments);
        if self.done {
            shard.member.head.put(encoder.out(), view.revision(), shard.member.term());
        }
        let from = std::mem::take(&mut self.from);
        let greatest = match range::sort_of(request) {
            None => {
                let keys = view.state.index.iter(rest_of(request, &from), self.at).take(take as usize);
                put_kvs(&mut encoder, request, keys).await.to_vec()
            }
            Some(sort) => {
                let beyond = u64::from(self.done && self.more);
                let (kvs, greatest) = sorted(view, request, from, self.at, sort, take + beyond).await?;
                let keys = kvs.iter().take(take as usize).map(|kv| (&*kv.key, kv.meta));
                put_kvs(&mut encoder, request, keys).await;
                greatest.to_vec()
            }
        };
        if self.done {
            encode::put_range_end(&mut encoder, self.more, self.count);
        } else {
            // The first key after those sent.
            self.from = [&greatest[..], &[0]].concat().into();
        }
        Ok(encoder.finish())
    }

    /// Twice as many keys if the message was small, half as many if it was large. etcd measures the message before it
    /// takes from it what only the last one carries: a header with a revision, `more`, a `count` of one key beyond.
    fn adjust(&mut self, body_len: usize, take: u64, view: &View) {
        if self.done {
            return;
        }
        let size = body_len + message_len(int_len(view.revision())) + encode::range_end_len(true, take as i64 + 1);
        if size < self.target_bytes / 2 {
            self.limit *= 2;
        } else if size > self.target_bytes * 2 {
            self.limit = (self.limit / 2).max(1);
        }
    }
}

/// A request's range from a key on.
fn rest_of<'a>(request: &'a RangeRequest, from: &'a [u8]) -> KeyRange<'a> {
    match KeyRange::new(&request.key, &request.range_end) {
        KeyRange::One(_) => KeyRange::One(from),
        KeyRange::From(_) => KeyRange::From(from),
        KeyRange::Between(_, end) => KeyRange::Between(from, end),
    }
}

/// Encodes keys in slices and says which was the last.
async fn put_kvs<'a>(
    encoder: &mut Encoder<'_>,
    request: &RangeRequest,
    keys: impl Iterator<Item = (&'a [u8], KeyMeta)>,
) -> &'a [u8] {
    let mut last: &[u8] = &[];
    let mut in_slice = 0;
    for (key, meta) in keys {
        let lease = if range::is_fast_keys_only(request) { 0 } else { meta.lease };
        encoder.kv(2, key, &KeyMeta { lease, ..meta }, !request.keys_only);
        last = key;
        in_slice += 1;
        if in_slice == limits::ENCODE_SLICE_KEYS {
            in_slice = 0;
            runtime::yield_now().await;
        }
    }
    last
}

/// `take` keys from a key on, sorted, and the greatest of them. Nobody sorts a listing that is worth streaming: so it is
/// done where it may take its time.
async fn sorted(
    view: &Arc<View>,
    request: &RangeRequest,
    from: Bytes,
    at: i64,
    sort: Sort,
    take: u64,
) -> Result<(Vec<KeyRef>, Bytes), Status> {
    let (view, request) = (view.clone(), request.clone());
    runtime::background(move || {
        let index = &view.state.index;
        let mut kvs: Vec<KeyRef> = index.iter_refs(rest_of(&request, &from), at).take(take as usize).collect();
        let greatest = kvs.last().map_or(Bytes::new(), |kv| kv.key.clone());
        let values = match sort.0 {
            SortTarget::Value => kvs.iter().map(|kv| view.segments.value(kv.meta.place)).collect(),
            _ => Ok(Vec::new()),
        };
        range::sort_kvs(&mut kvs, sort, values.map_err(|cause| values::unreadable(&cause))?);
        Ok((kvs, greatest))
    })
    .await
}

#[cfg(test)]
mod tests;
