//! A member that is removed from its cluster stops by itself.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::atomic::Ordering::Relaxed,
    task::Poll,
    time::Duration,
};

use crate::{raft::member::Member, runtime};

/// How late it may be noticed.
const LOOK_MS: u64 = 250;

/// What comes of a future, or None once the member does not belong to its cluster any more.
pub(super) async fn unless_departed<T>(member: &Member, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut departed = pin!(departed(member));
    poll_fn(|context| {
        if let Poll::Ready(value) = future.as_mut().poll(context) {
            return Poll::Ready(Some(value));
        }
        departed.as_mut().poll(context).map(|()| None)
    })
    .await
}

async fn departed(member: &Member) {
    while !member.departed.load(Relaxed) {
        runtime::sleep(Duration::from_millis(LOOK_MS)).await;
    }
}
