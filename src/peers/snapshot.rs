//! A snapshot on its way to a member. (etcd: rafthttp/snapshot_sender.go.)

use std::{
    cell::Cell,
    error::Error,
    future::Future,
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::{Either, select};
use http::Method;
use hyper::body::{Body as HttpBody, Frame};

use super::{
    Peers,
    body::{Fault, Reader},
    peer::Peer,
    pipeline,
};
use crate::{
    limits, log,
    observe::log::{hex, shown},
    raft::{
        arriving,
        sending::{Body, Delivery, SnapshotToSend},
    },
    runtime,
};

type Making = Pin<Box<dyn Future<Output = (Body, io::Result<Option<Bytes>>)>>>;

/// The snapshot's bytes as hyper wants them.
struct Streamed {
    /// None at the end.
    making: Option<Making>,
    progress: Rc<Progress>,
}

/// How far a snapshot has come.
#[derive(Default)]
struct Progress {
    pieces: Cell<u64>,
    is_whole: Cell<bool>,
    /// This member's own state cannot be read.
    is_unreadable: Cell<bool>,
}

impl Progress {
    /// Ready when it has stood still for too long.
    async fn stands_still(&self) {
        loop {
            let before = self.pieces.get();
            runtime::sleep(Duration::from_secs(limits::PEER_SNAPSHOT_STILL_SECONDS)).await;
            if self.is_whole.get() {
                return runtime::sleep(Duration::from_secs(limits::PEER_SNAPSHOT_TAKEN_SECONDS)).await;
            }
            if self.pieces.get() == before {
                return;
            }
        }
    }
}

async fn next(mut body: Body) -> (Body, io::Result<Option<Bytes>>) {
    let piece = body.next().await;
    (body, piece)
}

impl HttpBody for Streamed {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Some(making) = &mut self.making else { return Poll::Ready(None) };
        let Poll::Ready((body, piece)) = making.as_mut().poll(context) else { return Poll::Pending };
        match piece {
            Ok(Some(piece)) => {
                self.progress.pieces.set(self.progress.pieces.get() + 1);
                self.making = Some(Box::pin(next(body)));
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            Ok(None) => {
                self.progress.is_whole.set(true);
                self.making = None;
                Poll::Ready(None)
            }
            // Who reads it must not take what has come for all of it.
            Err(cause) => {
                self.progress.is_unreadable.set(true);
                self.making = None;
                Poll::Ready(Some(Err(cause.into())))
            }
        }
    }
}

pub(super) async fn send(peers: Rc<Peers>, peer: Rc<Peer>, snapshot: SnapshotToSend) {
    let began = runtime::now();
    let transfers = &peer.metrics.snapshots_sent;
    transfers.under_way.set(1);
    let body = Body::begin(&snapshot).await;
    let (index, bytes) = (snapshot.index(), body.database_bytes());
    log!(Info, "sending database snapshot", "snapshot-index" = index, "remote-peer-id" = hex(peer.id), "bytes" = bytes);
    let progress = Rc::<Progress>::default();
    let posted = post(&peers, &peer, body, &progress).await;
    transfers.under_way.set(0);
    match posted {
        Ok(()) => {
            peers.activate(&peer);
            log!(
                Info,
                "sent database snapshot",
                "snapshot-index" = index,
                "remote-peer-id" = hex(peer.id),
                "bytes" = bytes
            );
            peer.metrics.sent_bytes.add(bytes);
            transfers.done.increment();
            transfers.duration.observe(runtime::now() - began);
            peers.raft().snapshot_sent(peer.id, Delivery::Arrived);
        }
        Err(why) => {
            log!(
                Warn,
                "failed to send database snapshot",
                "snapshot-index" = index,
                "remote-peer-id" = hex(peer.id),
                "bytes" = bytes,
                "error" = shown(&why)
            );
            peers.deactivate(&peer, "sendMsgSnap", "post", &why);
            transfers.failed.increment();
            peers.lost(&peer);
            let unreadable = progress.is_unreadable.get();
            peers.raft().snapshot_sent(peer.id, if unreadable { Delivery::Unreadable } else { Delivery::Lost });
        }
    }
}

async fn post(peers: &Peers, peer: &Peer, body: Body, progress: &Rc<Progress>) -> Result<(), String> {
    let url = peer.urls.borrow().pick().ok_or("it has no URL")?;
    let mut headers = peers.headers();
    let changes = arriving::announce(body.changes());
    headers.extend([("content-type", "application/octet-stream"), (arriving::CHANGES_HEADER, &changes)]);
    let sent = async {
        let streamed = Box::pin(Streamed { making: Some(Box::pin(next(body))), progress: progress.clone() });
        let (response, kept) = peers.client.ask(&url, "/raft/snapshot", Method::POST, &headers, streamed).await?;
        let (head, body) = response.into_parts();
        let text = Reader::new(body).whole(limits::PEER_ANSWER_BYTES_MAX).await.map_err(Fault::text)?;
        kept.keep();
        pipeline::check(peers, peer, &url, head.status, String::from_utf8_lossy(&text).trim_end())
    };
    let sent: Result<(), String> = match select(pin!(sent), pin!(progress.stands_still())).await {
        Either::Left((sent, _)) => sent,
        Either::Right(_) => Err("i/o timeout".into()),
    };
    if sent.is_err() {
        peer.urls.borrow_mut().unreachable(&url);
    }
    sent
}
