//! The answers of ranges in order of key. A short one is encoded on the spot. A long one is measured first, since a
//! message's length comes before it, and then made in pieces, each when the caller has taken the one before: what it
//! holds is a piece, however large the answer. Sorting and filtering are not done here.

use std::{cell::Cell, future::poll_fn, rc::Rc, sync::Arc, time::Duration};

use bytes::BytesMut;
use futures_util::future::{Either, select};

use super::{
    encode::{self, Encoded, Encoder, Hole},
    values::{self, Pages},
};
use crate::{
    error::{self, Status},
    grpc::{Frame, Parts},
    limits,
    proto::etcdserverpb::RangeRequest,
    runtime,
    shard::{Shard, view::View},
    store::{
        index::{Index, RangeIter},
        range::{self, Plan},
        types::{KeyMeta, KeyRange},
    },
    wire::{frame::PREFIX_BYTES, head::kv_len, *},
};

/// What an answer holds: keys to take of so many, and whether there are more.
#[derive(Clone, Copy, Debug)]
pub struct Rest {
    pub take: u64,
    pub count: i64,
    pub more: bool,
}

/// Whether a request's answer is worth being made in pieces: it has many keys or large ones. What may have to be refused is
/// not.
pub fn is_long(index: &Index, request: &RangeRequest) -> bool {
    const LONG: u64 = limits::ENCODE_SLICE_KEYS as u64;
    if request.range_end.is_empty()
        || request.count_only
        || !range::is_in_order(request)
        || index.check_revision(request.revision).is_err()
    {
        return false;
    }
    let range = KeyRange::new(&request.key, &request.range_end);
    let take = match request.limit {
        1.. => request.limit as u64,
        _ => u64::MAX,
    };
    if take > LONG && index.count(range, request.revision) > LONG {
        return true;
    }
    let mut len = 0;
    index.iter(range, request.revision).take(take.min(LONG) as usize).any(|(key, meta)| {
        len += message_len(kv_len(key.len(), &meta, !request.keys_only));
        len > limits::LISTING_WHOLE_BYTES
    })
}

/// An answer of few keys.
pub fn short(shard: &Shard, view: &View, request: &RangeRequest, rest: &Rest) -> Encoded {
    let mut keys = Keys::new(view, request, rest.take);
    let head = head_len(shard, view, rest);
    // Answers of very few keys are measured, others guessed from their first ones.
    const MEASURED: u64 = 8;
    let sample = Keys::new(view, request, rest.take.min(MEASURED)).measure(MEASURED as usize);
    let kvs = if rest.take <= MEASURED { sample } else { sample / MEASURED as usize * rest.take as usize };
    let mut encoder = Encoder::new(head + kvs, &view.segments);
    shard.member.head.put(encoder.out(), view.revision(), shard.member.term());
    keys.encode(&mut encoder, rest.take as usize, usize::MAX);
    encode::put_range_end(&mut encoder, rest.more, rest.count);
    encoder.finish()
}

/// An answer of any size in one frame, for who takes no pieces.
pub async fn whole(shard: &Shard, view: Arc<View>, request: RangeRequest, rest: Rest) -> Result<Frame, Status> {
    let len = measure(shard, &view, &request, &rest).await?;
    let mut encoder = Encoder::deferring(len, &view.segments);
    shard.member.head.put(encoder.out(), view.revision(), shard.member.term());
    let mut keys = Keys::new(&view, &request, rest.take);
    while keys.encode(&mut encoder, limits::ENCODE_SLICE_KEYS, usize::MAX) {
        runtime::yield_now().await;
    }
    encode::put_range_end(&mut encoder, rest.more, rest.count);
    values::fill_holes(&view, encoder.finish()).await
}

/// Sends an answer in pieces. `waited` is told how long for the caller.
///
/// # Errors
/// Before anything is sent: where the request is refused or the answer is larger than gRPC can carry. Later: where a value
/// cannot be read, where the caller is gone or takes too long.
pub async fn in_parts(
    shard: &Rc<Shard>,
    view: Arc<View>,
    request: RangeRequest,
    mut replies: Box<dyn Parts>,
    waited: &mut Duration,
) -> Result<(), Status> {
    let index = &view.state.index;
    index.check_revision(request.revision)?;
    let Plan::InOrder { take, count, more } = range::plan(index, &request) else {
        unreachable!("such a request is in order of key");
    };
    let rest = Rest { take, count, more };
    if !replies.takes_parts() {
        let frame = whole(shard, view, request, rest).await?;
        return replies.send_part(frame.seal()).map_err(|_gone| error::CONTEXT_CANCELED);
    }
    let mut too_old = shard.pin_expires();
    let mut left = measure(shard, &view, &request, &rest).await? + PREFIX_BYTES;
    let share = Share::of(&shard.long_answers);
    let mut keys = Keys::new(&view, &request, take);
    // All of the log goes by: what it brings into memory is not kept.
    let pages = if left > limits::LISTING_PIECE_BYTES_MAX { Pages::Release } else { Pages::Keep };
    let mut first = true;
    loop {
        let piece = share.bytes().min(left);
        let mut encoder = Encoder::deferring(left.min(piece + limits::LISTING_PIECE_MARGIN_BYTES), &view.segments);
        if std::mem::take(&mut first) {
            let message_len = u32::try_from(left - PREFIX_BYTES).expect("a message is shorter than 4 GiB");
            encoder.out()[1..PREFIX_BYTES].copy_from_slice(&message_len.to_be_bytes());
            shard.member.head.put(encoder.out(), view.revision(), shard.member.term());
        } else {
            encoder.out().clear();
        }
        while keys.encode(&mut encoder, limits::ENCODE_SLICE_KEYS, piece) && encoder.out().len() < piece {
            runtime::yield_now().await;
        }
        if keys.left == 0 {
            encode::put_range_end(&mut encoder, more, count);
        }
        let (buffer, holes): (BytesMut, Vec<Hole>) = encoder.take();
        let buffer = values::fill(&view, buffer, holes, pages).await?;
        left -= buffer.len();
        replies.send_part(buffer.freeze()).map_err(|_gone| error::CONTEXT_CANCELED)?;
        let since = runtime::recent();
        if keys.left == 0 {
            assert_eq!(left, 0, "an answer is as long as it was measured");
            // Its share is given up when it is not held any more. Whether it was taken to the end is not this one's business.
            drop(keys);
            drop(view);
            let _ = poll_fn(|context| replies.poll_ready(context)).await;
            *waited += runtime::recent() - since;
            return Ok(());
        }
        let ready = poll_fn(|context| replies.poll_ready(context));
        let ready = select(ready, &mut too_old).await;
        *waited += runtime::recent() - since;
        match ready {
            Either::Left((Ok(()), _)) => {}
            Either::Left((Err(_gone), _)) => return Err(error::CONTEXT_CANCELED),
            Either::Right(_) => return Err(error::STREAM_PIN_TOO_OLD),
        }
    }
}

/// Bytes of header, `more` and `count`.
fn head_len(shard: &Shard, view: &View, rest: &Rest) -> usize {
    shard.member.head.len(view.revision(), shard.member.term()) + encode::range_end_len(rest.more, rest.count)
}

/// Bytes of the whole message.
async fn measure(shard: &Shard, view: &View, request: &RangeRequest, rest: &Rest) -> Result<usize, Status> {
    let mut len = head_len(shard, view, rest);
    let mut keys = Keys::new(view, request, rest.take);
    // Looking is several times cheaper than encoding.
    while keys.left > 0 {
        len += keys.measure(4 * limits::ENCODE_SLICE_KEYS);
        if len > limits::SEND_BYTES_MAX && keys.left == 0 {
            return Err(error::send_too_large(len, limits::SEND_BYTES_MAX));
        }
        if keys.left > 0 {
            runtime::yield_now().await;
        }
    }
    Ok(len)
}

/// Keys of a range in order.
struct Keys<'a> {
    iter: RangeIter<'a>,
    left: u64,
    keys_only: bool,
}

impl<'a> Keys<'a> {
    fn new(view: &'a View, request: &'a RangeRequest, take: u64) -> Self {
        let range = KeyRange::new(&request.key, &request.range_end);
        let iter = view.state.index.iter(range, request.revision);
        Keys { iter, left: take, keys_only: request.keys_only }
    }

    /// Bytes that up to `budget` keys more take in an answer.
    fn measure(&mut self, budget: usize) -> usize {
        let mut len = 0;
        self.each(budget, |key, meta, keys_only| {
            len += message_len(kv_len(key.len(), meta, !keys_only));
            true
        });
        len
    }

    /// Encodes up to `budget` keys more, until there are `bytes`. False once there are none.
    fn encode(&mut self, encoder: &mut Encoder<'_>, budget: usize, bytes: usize) -> bool {
        self.each(budget, |key, meta, keys_only| {
            encoder.kv(2, key, meta, !keys_only);
            encoder.out().len() < bytes
        });
        self.left > 0
    }

    fn each(&mut self, budget: usize, mut visit: impl FnMut(&[u8], &KeyMeta, bool) -> bool) {
        for _ in 0..self.left.min(budget as u64) {
            let (key, mut meta) = self.iter.next().expect("as many keys as were counted");
            if self.keys_only {
                meta.lease = 0;
            }
            self.left -= 1;
            if !visit(key, &meta, self.keys_only) {
                return;
            }
        }
    }
}

/// One long answer's share of what all of a shard may hold.
pub(super) struct Share(Rc<Cell<usize>>);

impl Share {
    pub fn of(listings: &Rc<Cell<usize>>) -> Share {
        listings.set(listings.get() + 1);
        Share(listings.clone())
    }

    /// Bytes of a piece.
    pub fn bytes(&self) -> usize {
        (limits::LISTINGS_BYTES / self.0.get()).clamp(limits::LISTING_PIECE_BYTES_MIN, limits::LISTING_PIECE_BYTES_MAX)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[cfg(test)]
mod tests;
