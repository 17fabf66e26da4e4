//! What one member asks another over HTTP/1.1: versions, members, leases, hashes, and the ways that raft's messages take. What is
//! answered, in which order it is checked, and in what words it is refused is etcd's, so that members of both kinds understand
//! each other. What the answers need comes from a `Source`. (etcd: etcdhttp/peer.go, rafthttp/http.go, leasehttp/http.go.)

mod entries;
mod leases;
mod members;
mod own;
mod raft;
mod values;

#[cfg(test)]
mod tests;

use std::{fmt::Write as _, io, rc::Rc};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use serde::Serialize;

use super::{
    answer::{self, Answer, allow, error as refusal, not_found, redirect},
    body::Body,
    path::{self, Cleaned},
};
use crate::{
    error::Status,
    grpc::LocalBoxFuture,
    limits,
    peers::Brought,
    proto::{etcdserverpb::LeaseTimeToLiveResponse, raftpb},
    raft::mail::ReceivedSnapshot,
    store::{
        hash::{KvHash, spans::SpanHash},
        membership::Member,
        types::Revision,
    },
    wal::spool::Spool,
};

const CLUSTER_ID: HeaderName = HeaderName::from_static("x-etcd-cluster-id");

/// What the answers to other members are made of.
pub trait Source: super::Source {
    fn cluster_id(&self) -> u64;
    fn member_id(&self) -> u64;
    /// The release that other members take this one for.
    fn stated_version(&self) -> String;
    /// In order of id.
    fn members(&self) -> Vec<Member>;
    fn is_removed(&self, id: u64) -> bool;
    /// Whether this member speaks to that one.
    fn knows(&self, id: u64) -> bool;
    /// Hands on what a request has brought.
    fn bring(&self, brought: Brought);
    /// Lets a learner vote, and gives the members that there are then. `token`: of the user who wants it.
    fn promote(&self, id: u64, token: Option<&[u8]>) -> LocalBoxFuture<Result<Vec<Member>, Status>>;
    /// The seconds that a lease has again.
    ///
    /// # Errors
    /// LEASE_NOT_FOUND, NOT_PRIMARY_LESSOR.
    fn renew(&self, lease: i64) -> LocalBoxFuture<Result<i64, Status>>;
    /// What is left of a lease, with its keys if they are asked for. The response's header is an empty one.
    ///
    /// # Errors
    /// As `renew`.
    fn time_to_live(&self, lease: i64, keys: bool) -> LocalBoxFuture<Result<LeaseTimeToLiveResponse, Status>>;
    /// The values of events, in the form of `wire::values`: of as many of the first as may be told at once.
    fn values(&self, asked: Vec<Revision>) -> LocalBoxFuture<Bytes>;
    /// As of everything that is committed.
    fn is_downgrading(&self) -> LocalBoxFuture<Result<bool, Status>>;
    /// Begins a file in which a database of another member's gathers.
    fn spool(&self) -> LocalBoxFuture<io::Result<Spool>>;
    /// Takes over a snapshot that has come whole; raft has its message then, if it is of use.
    ///
    /// # Errors
    /// Where it cannot be taken over.
    fn install(&self, snapshot: ReceivedSnapshot) -> LocalBoxFuture<Result<(), Status>>;
    /// Committed entries of the raft log for a member that has lost them, as many as one answer may have; None if the first is not
    /// kept any more.
    ///
    /// # Errors
    /// Where they cannot be read.
    fn entries(&self, from: u64, to: u64) -> LocalBoxFuture<Result<Option<Vec<raftpb::Entry>>, Status>>;
    /// The hash of the data at a revision, 0: the newest; and the newest revision.
    fn hash(&self, revision: i64) -> LocalBoxFuture<Result<(KvHash, i64), Status>>;
    /// What the last spans of entries did.
    fn spans(&self) -> Vec<SpanHash>;
}

/// The answer to a request of another member.
pub(super) async fn respond(source: &Rc<dyn Source>, request: Request<Incoming>) -> Answer {
    if super::host(&request).is_none() {
        return answer::bad_request("400 Bad Request: missing required Host header");
    }
    if request.uri().path() == "*" {
        return match *request.method() {
            Method::OPTIONS => answer::empty(),
            _ => {
                let mut answer = answer::empty();
                *answer.status_mut() = StatusCode::BAD_REQUEST;
                answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                answer
            }
        };
    }
    let Some(path) = path::decode(request.uri().path()) else {
        return answer::bad_request("400 Bad Request");
    };
    if let Cleaned::Elsewhere(clean) = path::clean(&path) {
        return redirect(request.method(), &clean, request.uri().query());
    }
    if hides_a_slash(request.uri().path()) {
        return not_found();
    }
    let source = &**source;
    match &path[..] {
        "/version" => match *request.method() {
            Method::GET => answer::json("application/json", super::versions(source, &source.stated_version())),
            _ => allow("GET"),
        },
        "/members" => members::list(source, &request),
        "/members/hashkv" => members::hash(source, request).await,
        "/members/promote" | "/raft/stream" => redirect(request.method(), &format!("{path}/"), request.uri().query()),
        "/leases" => leases::renew(source, request).await,
        "/leases/internal" => leases::time_to_live(source, request).await,
        "/urd/values" => values::tell(source, request).await,
        "/downgrade/enabled" => members::downgrade(source, &request).await,
        "/raft" => raft::message(source, request).await,
        "/raft/snapshot" => raft::snapshot(source, request).await,
        "/raft/probing" => raft::probing(),
        "/urd/entries" => entries::list(source, &request).await,
        "/urd/spans" => own::spans(source, &request),
        _ => match (path.strip_prefix("/members/promote/"), path.starts_with("/raft/stream/")) {
            (Some(id), _) => members::promote(source, &request, id).await,
            (None, true) => raft::stream(source, &request, &path),
            (None, false) => not_found(),
        },
    }
}

/// The paths under which everything is answered by one.
const SUBTREES: [&str; 2] = ["/members/promote/", "/raft/stream/"];

/// Whether a slash that is written as `%2F` stands where paths are told apart: there it is none.
fn hides_a_slash(path: &str) -> bool {
    let hidden = path.as_bytes().windows(3).position(|letters| letters.eq_ignore_ascii_case(b"%2f"));
    hidden.is_some_and(|at| {
        let before = path::decode(&path[..at]).unwrap_or_default();
        !SUBTREES.iter().any(|subtree| before.starts_with(subtree))
    })
}

/// 200, with the length told where Go tells it.
fn ok(content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let body = body.into();
    let mut answer = Response::new(match body.len() > limits::GATEWAY_WHOLE_BYTES {
        true => Body::chunked(body, None),
        false => Body::whole(body),
    });
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

/// The same answer, and of which cluster it comes.
fn of_cluster(source: &dyn Source, mut answer: Answer) -> Answer {
    let id = HeaderValue::from_str(&hex(source.cluster_id())).expect("digits are a header's value");
    answer.headers_mut().insert(CLUSTER_ID, id);
    answer
}

/// What only members of this kind ask is answered to members of the cluster alone: why this one is not.
fn of_another_cluster<B>(source: &dyn Source, request: &Request<B>) -> Option<Answer> {
    let is_other = header(request, CLUSTER_ID.as_str()) != hex(source.cluster_id());
    is_other.then(|| refusal(StatusCode::PRECONDITION_FAILED, "cluster ID mismatch"))
}

/// An id as members write it.
fn hex(id: u64) -> String {
    format!("{id:x}")
}

/// A header's value; empty where it is not there, or no text.
fn header<'a, B>(request: &'a Request<B>, name: &str) -> &'a str {
    request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// JSON as Go writes it, which escapes what a page of HTML would take for its own. Outside of texts none of it occurs.
fn json(value: &impl Serialize) -> String {
    let plain = serde_json::to_string(value).expect("what is told has a JSON form");
    let mut escaped = String::with_capacity(plain.len());
    for letter in plain.chars() {
        match letter {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(escaped, "\\u{:04x}", u32::from(letter));
            }
            letter => escaped.push(letter),
        }
    }
    escaped
}
