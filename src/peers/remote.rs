//! What a member asks of others over HTTP: who they are, which versions they run, and what only a leader can do: renew a
//! lease, tell of one, let a learner vote. (etcd: etcdserver/cluster_util.go; lease/leasehttp.)

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use http::{Method, StatusCode};
use prost::Message as _;
use serde::Deserialize;

use super::{
    body::{Fault, Reader},
    client::{self, Answer, Client},
};
use crate::{
    error::{self, Status},
    log,
    observe::log::{hex, shown},
    proto::{
        etcdserverpb::{
            LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
        },
        leasepb::{LeaseInternalRequest, LeaseInternalResponse},
        raftpb::Entry,
    },
    runtime,
    store::{hash::KvHash, membership::Member},
    wal::mend::Given,
};

const PROTOBUF: &[(&str, &str)] = &[("content-type", "application/protobuf")];

/// A cluster as one of its members tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    pub id: u64,
    pub members: Vec<Member>,
}

/// Asks one URL after the other who the members of its cluster are. `tells`: what goes wrong is logged.
///
/// # Errors
/// Where nobody says so.
pub async fn cluster(client: &Client, urls: &[String], patience: Duration, tells: bool) -> Result<Cluster, String> {
    for url in urls {
        let address = format!("{url}/members");
        let failed = |message: &'static str, cause: &str| {
            if tells {
                log!(Warn, message, "address" = address.clone(), "error" = cause.to_owned());
            }
        };
        let answer = match client.get(url, "/members", patience).await {
            Ok(answer) => answer,
            Err(cause) => {
                failed("failed to get cluster response", &cause);
                continue;
            }
        };
        let mut members: Vec<Member> = match serde_json::from_slice(&answer.body) {
            Ok(members) => members,
            Err(cause) => {
                failed("failed to unmarshal cluster response", &cause.to_string());
                continue;
            }
        };
        let id = answer.headers.get("x-etcd-cluster-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
        let Ok(id) = u64::from_str_radix(id, 16) else {
            failed("failed to parse cluster ID", id);
            continue;
        };
        if members.is_empty() {
            return Err("failed to get raft cluster member(s) from the given URLs".into());
        }
        members.sort_by_key(|member| member.id);
        return Ok(Cluster { id, members });
    }
    Err("could not retrieve cluster information from the given URLs".into())
}

/// What a member says of versions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Versions {
    #[serde(rename = "etcdserver", default)]
    pub server: String,
    #[serde(rename = "etcdcluster", default)]
    pub cluster: String,
}

/// The versions of a member; None if it cannot be asked, which is logged.
pub async fn versions(client: &Client, member: &Member, patience: Duration) -> Option<Versions> {
    let read = |answer: Answer| serde_json::from_slice(&answer.body).map_err(|cause| cause.to_string());
    match first(client, member, "/version", patience, read).await {
        Ok(versions) => Some(versions),
        Err(cause) => {
            log!(Warn, "failed to get version", "remote-member-id" = hex(member.id), "error" = cause);
            None
        }
    }
}

/// Whether the cluster is going back a release, as a member says.
///
/// # Errors
/// Where it cannot be asked, or does not know.
pub async fn is_downgrading(client: &Client, member: &Member, patience: Duration) -> Result<bool, String> {
    let read = |answer: Answer| match &answer.body[..] {
        b"true" => Ok(true),
        b"false" => Ok(false),
        other => Err(format!("strconv.ParseBool: parsing {:?}: invalid syntax", String::from_utf8_lossy(other))),
    };
    first(client, member, "/downgrade/enabled", patience, read).await
}

/// The first of a member's URLs whose answer can be read.
async fn first<T>(
    client: &Client,
    member: &Member,
    path: &str,
    patience: Duration,
    read: impl Fn(Answer) -> Result<T, String>,
) -> Result<T, String> {
    let mut failed = String::new();
    for url in &member.peer_urls {
        let (message, cause) = match client.get(url, path, patience).await.map(&read) {
            Ok(Ok(told)) => return Ok(told),
            Ok(Err(cause)) => ("failed to unmarshal response", cause),
            Err(cause) => ("failed to reach the peer URL", cause),
        };
        let address = format!("{url}{path}");
        log!(Warn, message, "address" = address, "remote-member-id" = hex(member.id), "error" = shown(&cause));
        failed = cause;
    }
    Err(failed)
}

/// What a member tells of its data at a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hashed {
    pub hash: KvHash,
    /// The newest revision that it has.
    pub newest: i64,
}

/// Hashes of a member's data at a revision. (etcd: corrupt.go, HashByRev.)
///
/// # Errors
/// Where it cannot be asked, and what it refuses to tell.
pub async fn hash_kv(
    client: &Client,
    member: &Member,
    cluster_id: u64,
    revision: i64,
    patience: Duration,
) -> Result<Hashed, String> {
    #[derive(Deserialize)]
    struct Header {
        #[serde(default)]
        revision: i64,
    }
    #[derive(Deserialize)]
    struct Told {
        header: Header,
        #[serde(default)]
        hash: u32,
        #[serde(default)]
        compact_revision: i64,
        #[serde(default)]
        hash_revision: i64,
    }
    let (cluster, body) = (format!("{cluster_id:x}"), Bytes::from(format!("{{\"revision\":{revision}}}")));
    let headers = [("content-type", "application/json"), ("x-etcd-cluster-id", cluster.as_str())];
    let mut failed = "it has no URL".to_owned();
    for url in &member.peer_urls {
        let asked = client.exchange(url, "/members/hashkv", Method::GET, &headers, body.clone(), patience).await;
        let read = asked.and_then(|answer| match answer.status {
            StatusCode::OK => serde_json::from_slice::<Told>(&answer.body).map_err(|cause| cause.to_string()),
            _ => Err(String::from_utf8_lossy(&answer.body).trim_end().to_owned()),
        });
        match read {
            Ok(Told { header, hash, compact_revision: compacted, hash_revision }) => {
                return Ok(Hashed {
                    hash: KvHash { hash, compacted, revision: hash_revision },
                    newest: header.revision,
                });
            }
            Err(cause) => {
                log!(
                    Warn,
                    "failed hash kv request",
                    "requested-revision" = revision,
                    "remote-peer-endpoint" = url.as_str(),
                    "error" = shown(&cause)
                );
                failed = cause;
            }
        }
    }
    Err(failed)
}

/// What the last spans of entries did to a member's state, each by its last entry; None of a member that keeps no such numbers, as
/// an etcd does not.
///
/// # Errors
/// Where it cannot be asked.
pub async fn spans(
    client: &Client,
    member: &Member,
    cluster_id: u64,
    patience: Duration,
) -> Result<Option<BTreeMap<u64, u32>>, String> {
    let cluster = format!("{cluster_id:x}");
    let headers = [("x-etcd-cluster-id", cluster.as_str())];
    let mut failed = "it has no URL".to_owned();
    for url in &member.peer_urls {
        let asked = client.exchange(url, "/urd/spans", Method::GET, &headers, Bytes::new(), patience).await;
        match asked {
            Ok(answer) if answer.status == StatusCode::NOT_FOUND => return Ok(None),
            Ok(answer) if answer.status == StatusCode::OK => match serde_json::from_slice(&answer.body) {
                Ok(spans) => return Ok(Some(spans)),
                Err(cause) => failed = cause.to_string(),
            },
            Ok(answer) => failed = String::from_utf8_lossy(&answer.body).trim_end().to_owned(),
            Err(cause) => failed = cause,
        }
    }
    Err(failed)
}

/// Which entries are wanted of another member.
#[derive(Clone, Copy, Debug)]
pub struct Entries {
    pub cluster_id: u64,
    /// The first index and the last.
    pub from: u64,
    pub to: u64,
    /// Of the answer.
    pub bytes_max: usize,
}

/// Why another member has given no entries.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoEntries {
    #[error("{0}")]
    Never(String),
    /// It may have them later, or be there then.
    #[error("{0}")]
    NotNow(String),
}

impl NoEntries {
    pub fn may_come(&self) -> bool {
        matches!(self, NoEntries::NotNow(_))
    }
}

/// Committed entries of another member's log, in order from the first that is wanted, at least one.
///
/// # Errors
/// Where it does not give it.
pub async fn entries(
    client: &Client,
    url: &str,
    wanted: &Entries,
    patience: Duration,
) -> Result<Vec<Given>, NoEntries> {
    let Entries { cluster_id, from, to, bytes_max } = *wanted;
    let (path, cluster) = (format!("/urd/entries?from={from}&to={to}"), format!("{cluster_id:x}"));
    let asked = runtime::timeout(patience, async {
        let headers = [("x-etcd-cluster-id", cluster.as_str())];
        let (response, kept) = client.ask(url, &path, Method::GET, &headers, client::nothing()).await?;
        let (head, body) = response.into_parts();
        let body = Reader::new(body).whole(bytes_max).await.map_err(Fault::text)?;
        kept.keep();
        Ok::<_, String>((head.status, body))
    });
    let asked = asked.await.unwrap_or_else(|| Err("context deadline exceeded".into()));
    let (status, mut body) = asked.map_err(NoEntries::NotNow)?;
    let said = || String::from_utf8_lossy(&body).trim_end().to_owned();
    match status {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND if said() == "404 page not found" => {
            return Err(NoEntries::Never("it cannot be asked for entries (etcd, or an older urd)".into()));
        }
        StatusCode::NOT_FOUND | StatusCode::PRECONDITION_FAILED => return Err(NoEntries::Never(said())),
        _ => return Err(NoEntries::NotNow(format!("{} ({status})", said()))),
    }
    let mut entries = Vec::new();
    while !body.is_empty() {
        let entry = Entry::decode_length_delimited(&mut body)
            .map_err(|cause| NoEntries::Never(format!("what it gives is no list of entries: {cause}")))?;
        entries.push(Given {
            index: entry.index(),
            term: entry.term(),
            kind: entry.r#type() as u8,
            data: entry.data.unwrap_or_default(),
        });
    }
    match entries.is_empty() {
        true => Err(NoEntries::NotNow(format!("it does not know yet that entry {from} is committed"))),
        false => Ok(entries),
    }
}

/// Why a leader has not done what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It has decided: this is the answer.
    Final(Status),
    /// Another attempt may do.
    Again(String),
}

fn again(answer: &Answer) -> Refusal {
    Refusal::Again(format!("{} ({})", String::from_utf8_lossy(&answer.body).trim(), answer.status))
}

/// Has the leader renew a lease, and gives its seconds.
///
/// # Errors
/// Where there is no such lease; where it may be tried again.
pub async fn renew(client: &Client, url: &str, lease: i64, patience: Duration) -> Result<i64, Refusal> {
    let request = LeaseKeepAliveRequest { id: lease }.encode_to_vec();
    let answer = ask_of_lease(client, url, "/leases", request.into(), patience).await?;
    match LeaseKeepAliveResponse::decode(answer.body) {
        Ok(told) if told.id == lease => Ok(told.ttl),
        Ok(_) => Err(Refusal::Again("lease: renew id mismatch".into())),
        Err(cause) => Err(Refusal::Again(format!("lease: {cause}"))),
    }
}

/// Has the leader tell of a lease.
///
/// # Errors
/// As `renew`.
pub async fn time_to_live(
    client: &Client,
    url: &str,
    lease: i64,
    keys: bool,
    patience: Duration,
) -> Result<LeaseTimeToLiveResponse, Refusal> {
    let asked = LeaseTimeToLiveRequest { id: lease, keys };
    let request = LeaseInternalRequest { lease_time_to_live_request: Some(asked) }.encode_to_vec();
    let answer = ask_of_lease(client, url, "/leases/internal", request.into(), patience).await?;
    match LeaseInternalResponse::decode(answer.body).map(|told| told.lease_time_to_live_response) {
        Ok(Some(told)) if told.id == lease => Ok(told),
        Ok(_) => Err(Refusal::Again("lease: TTL id mismatch".into())),
        Err(cause) => Err(Refusal::Again(format!("lease: {cause}"))),
    }
}

async fn ask_of_lease(
    client: &Client,
    url: &str,
    path: &str,
    request: Bytes,
    patience: Duration,
) -> Result<Answer, Refusal> {
    let answer = client.exchange(url, path, Method::POST, PROTOBUF, request, patience).await.map_err(Refusal::Again)?;
    match answer.status {
        StatusCode::OK => Ok(answer),
        StatusCode::NOT_FOUND => Err(Refusal::Final(error::LEASE_NOT_FOUND)),
        _ => Err(again(&answer)),
    }
}

/// Has the leader let a learner vote, on behalf of who showed this token, and gives the members.
///
/// # Errors
/// Where it may not; where it may be tried again.
pub async fn promote(
    client: &Client,
    url: &str,
    learner: u64,
    token: Option<&str>,
    patience: Duration,
) -> Result<Vec<Member>, Refusal> {
    let path = format!("/members/promote/{learner}");
    let headers = token.map(|token| ("authorization", token));
    let answer = client
        .exchange(url, &path, Method::POST, headers.as_slice(), Bytes::new(), patience)
        .await
        .map_err(Refusal::Again)?;
    let says = |text: &str| String::from_utf8_lossy(&answer.body).contains(text);
    match answer.status {
        StatusCode::OK => serde_json::from_slice(&answer.body).map_err(|cause| Refusal::Again(cause.to_string())),
        StatusCode::NOT_FOUND => Err(Refusal::Final(error::MEMBER_NOT_FOUND)),
        StatusCode::PRECONDITION_FAILED if says(&error::LEARNER_NOT_READY.message) => {
            Err(Refusal::Final(error::LEARNER_NOT_READY))
        }
        StatusCode::PRECONDITION_FAILED if says("membership: can only promote a learner member") => {
            Err(Refusal::Final(error::MEMBER_NOT_LEARNER))
        }
        _ => Err(again(&answer)),
    }
}
