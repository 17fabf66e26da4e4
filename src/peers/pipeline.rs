//! Messages that go one by one, each a request: to a member that has not asked for streams yet. (etcd: rafthttp/pipeline.go.)

use std::{rc::Rc, time::Duration};

use http::{Method, StatusCode};
use prost::Message as _;

use super::{Peers, peer::Peer};
use crate::{limits, log, observe::log::hex, proto::raftpb::Message, runtime};

/// Takes a message on its way. False: there are too many.
pub(super) fn put(peers: &Rc<Peers>, peer: &Rc<Peer>, message: Message) -> bool {
    let mut queue = peer.pipeline.borrow_mut();
    if queue.len() >= limits::PEER_PIPELINE_QUEUED {
        return false;
    }
    queue.push_back(message);
    if peer.on_their_way.get() < limits::PEER_PIPELINE_AT_ONCE {
        peer.on_their_way.set(peer.on_their_way.get() + 1);
        runtime::spawn(work(peers.clone(), peer.clone()));
    }
    true
}

/// Sends until nothing waits.
async fn work(peers: Rc<Peers>, peer: Rc<Peer>) {
    loop {
        let Some(message) = peer.pipeline.borrow_mut().pop_front() else { break };
        match post(&peers, &peer, &message).await {
            Ok(bytes) => {
                peers.activate(&peer);
                peer.metrics.sent_bytes.add(bytes as u64);
            }
            Err(why) => {
                peers.deactivate(&peer, "pipeline", "write", &why);
                peers.lost(&peer);
            }
        }
    }
    peer.on_their_way.set(peer.on_their_way.get() - 1);
}

async fn post(peers: &Peers, peer: &Peer, message: &Message) -> Result<usize, String> {
    let url = peer.urls.borrow().pick().ok_or("it has no URL")?;
    let bytes = message.encode_to_vec();
    let len = bytes.len();
    let mut headers = peers.headers();
    headers.push(("content-type", "application/protobuf"));
    let patience = peers.dial_patience() + Duration::from_millis(limits::PEER_SILENCE_MS_MAX);
    let answered = peers.client.exchange(&url, "/raft", Method::POST, &headers, bytes.into(), patience).await;
    let checked = answered
        .and_then(|answer| check(peers, peer, &url, answer.status, String::from_utf8_lossy(&answer.body).trim_end()));
    if checked.is_err() {
        peer.urls.borrow_mut().unreachable(&url);
    }
    checked.map(|()| len)
}

/// What an answer to a message means.
pub(super) fn check(peers: &Peers, peer: &Peer, url: &str, status: StatusCode, text: &str) -> Result<(), String> {
    match status {
        StatusCode::NO_CONTENT => Ok(()),
        StatusCode::PRECONDITION_FAILED if text == "incompatible version" => {
            log!(Error, "request sent was ignored by peer", "remote-peer-id" = hex(peer.id));
            Err(text.to_owned())
        }
        StatusCode::PRECONDITION_FAILED if text == "cluster ID mismatch" => {
            log!(
                Error,
                "request sent was ignored due to cluster ID mismatch",
                "remote-peer-id" = hex(peer.id),
                "local-member-cluster-id" = hex(peers.member.cluster_id)
            );
            Err(text.to_owned())
        }
        StatusCode::PRECONDITION_FAILED => Err(format!("unhandled error {text:?} when precondition failed")),
        StatusCode::FORBIDDEN => {
            peers.removed();
            Err("the member has been permanently removed from the cluster".into())
        }
        status => {
            let reason = status.canonical_reason().unwrap_or_default();
            Err(format!("unexpected http status {reason} while posting to {:?}", format!("{url}/raft")))
        }
    }
}
