//! A stream that another member sends: asked for again and again, read as long as it lives. (etcd: rafthttp/stream.go,
//! streamReader.)

use std::{rc::Rc, time::Duration};

use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::{
    Peers, client,
    peer::{Peer, name_of},
};
use crate::{
    limits, log,
    observe::log::hex,
    proto::raftpb::Message,
    raft::translate::messages,
    runtime,
    wire::peer::{Decoder, Kind, Said},
};

/// How a stream has ended.
enum Ended {
    /// The other side has ended it.
    Whole,
    Broken(String),
}

/// Until the task is dropped.
pub(super) async fn read(peers: Rc<Peers>, peer: Rc<Peer>, kind: Kind) {
    loop {
        match ask(&peers, &peer, kind).await {
            Ok(body) => {
                peers.activate(&peer);
                log!(
                    Info,
                    "established TCP streaming connection with remote peer",
                    "stream-reader-type" = name_of(kind),
                    "local-member-id" = hex(peers.member.id),
                    "remote-peer-id" = hex(peer.id)
                );
                let (ended, error) = match hear(&peers, &peer, kind, body).await {
                    Ended::Whole => (None, "EOF".to_owned()),
                    Ended::Broken(why) => (Some(why.clone()), why),
                };
                log!(
                    Warn,
                    "lost TCP streaming connection with remote peer",
                    "stream-reader-type" = name_of(kind),
                    "local-member-id" = hex(peers.member.id),
                    "remote-peer-id" = hex(peer.id),
                    "error" = error
                );
                if let Some(why) = ended {
                    peers.deactivate(&peer, name_of(kind), "read", &why);
                }
            }
            Err(why) => peers.deactivate(&peer, name_of(kind), "dial", &why),
        }
        runtime::sleep(Duration::from_millis(limits::PEER_DIAL_AGAIN_MS)).await;
    }
}

async fn ask(peers: &Peers, peer: &Peer, kind: Kind) -> Result<Incoming, String> {
    let url = peer.urls.borrow().pick().ok_or("it has no URL")?;
    let way = match kind {
        Kind::Appends => "msgapp",
        Kind::Messages => "message",
    };
    let path = format!("/raft/stream/{way}/{:x}", peers.member.id);
    let to = format!("{:x}", peer.id);
    let mut headers = peers.headers();
    headers.push(("x-raft-to", &to));
    let asked = peers.client.ask(&url, &path, Method::GET, &headers, client::nothing());
    let patience = peers.dial_patience() + Duration::from_millis(limits::PEER_SILENCE_MS_MAX);
    let answered = match runtime::timeout(patience, asked).await {
        Some(Ok((response, _))) if response.status() == StatusCode::OK => return Ok(response.into_body()),
        Some(Ok((response, _))) => {
            let status = response.status();
            let read = super::body::Reader::new(response.into_body()).whole(limits::PEER_ANSWER_BYTES_MAX);
            let text = read.await.map_err(super::body::Fault::text)?;
            Err(refused(peers, peer, status, String::from_utf8_lossy(&text).trim_end()))
        }
        Some(Err(why)) => Err(why),
        None => Err("i/o timeout".into()),
    };
    peer.urls.borrow_mut().unreachable(&url);
    answered
}

fn refused(peers: &Peers, peer: &Peer, status: StatusCode, text: &str) -> String {
    match status {
        StatusCode::GONE => {
            peers.removed();
            "the member has been permanently removed from the cluster".into()
        }
        StatusCode::NOT_FOUND => format!("peer {:x} failed to find local node {:x}", peer.id, peers.member.id),
        StatusCode::PRECONDITION_FAILED if matches!(text, "incompatible version" | "cluster ID mismatch") => {
            let (local, remote) = (hex(peers.member.id), hex(peer.id));
            match text {
                "incompatible version" => log!(
                    Warn,
                    "request sent was ignored by remote peer due to server version incompatibility",
                    "local-member-id" = local,
                    "remote-peer-id" = remote,
                    "error" = text
                ),
                _ => log!(
                    Warn,
                    "request sent was ignored by remote peer due to cluster ID mismatch",
                    "remote-peer-id" = remote,
                    "local-member-id" = local,
                    "local-member-cluster-id" = hex(peers.member.cluster_id),
                    "error" = text
                ),
            }
            text.to_owned()
        }
        StatusCode::PRECONDITION_FAILED => format!("unhandled error {text:?} when precondition failed"),
        status => format!("unhandled http status {}", status.as_u16()),
    }
}

/// Hands on what a stream says.
async fn hear(peers: &Peers, peer: &Peer, kind: Kind, mut body: Incoming) -> Ended {
    let mut decoder = Decoder::new(kind, peers.member.id, peer.id);
    let silence = peers.silence();
    loop {
        let bytes = match runtime::timeout(silence, body.frame()).await {
            None => return Ended::Broken("i/o timeout".into()),
            Some(None) => return Ended::Whole,
            Some(Some(Err(cause))) => return Ended::Broken(cause.to_string()),
            Some(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
        };
        peer.metrics.received_bytes.add(bytes.len() as u64);
        decoder.receive(&bytes);
        loop {
            match decoder.said() {
                Ok(Some(Said::Message(message))) => step(peers, *message),
                Ok(Some(Said::Alive)) => {}
                Ok(None) => break,
                Err(cause) => return Ended::Broken(cause.to_string()),
            }
        }
    }
}

/// Gives a message to raft, if it is one that members send.
pub(super) fn step(peers: &Peers, message: Message) {
    if let Some(message) = messages::message_for_crate(message) {
        peers.raft().step(message);
    }
}
