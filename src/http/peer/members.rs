//! Who the members are, and what they compare: hashes of their data, whether they go back a release. (etcd: etcdhttp/peer.go;
//! etcdserver/corrupt.go and server.go, the handlers.)

use std::fmt;

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{IgnoredAny, MapAccess, Visitor},
};

use super::{CLUSTER_ID, Source, header, hex, json, of_cluster, ok};
use crate::{
    error::{self, Status},
    http::answer::{Answer, allow, error as refusal},
    limits, log,
    observe::log::{hex as shown_hex, shown},
    peers::body::Reader,
    store::membership::Member,
};

const JSON: &str = "application/json";

pub(super) fn list<B>(source: &dyn Source, request: &Request<B>) -> Answer {
    match *request.method() {
        Method::GET => of_cluster(source, members(&source.members())),
        _ => allow("GET"),
    }
}

fn members(members: &Vec<Member>) -> Answer {
    ok(JSON, json(members) + "\n")
}

pub(super) async fn promote<B>(source: &dyn Source, request: &Request<B>, id: &str) -> Answer {
    if request.method() != Method::POST {
        return allow("POST");
    }
    let Some(number) = decimal(id) else {
        let message = format!("member {id} not found in cluster");
        return of_cluster(source, refusal(StatusCode::NOT_FOUND, &message));
    };
    let token = request.headers().get(http::header::AUTHORIZATION).map(|token| token.as_bytes());
    let answer = match source.promote(number, token.filter(|token| !token.is_empty())).await {
        Ok(promoted) => members(&promoted),
        Err(status) => {
            let answer = not_promoted(&status);
            log!(Warn, "failed to promote a member", "member-id" = shown_hex(number), "error" = shown(&status.message));
            answer
        }
    };
    of_cluster(source, answer)
}

/// Digits alone.
fn decimal(id: &str) -> Option<u64> {
    id.parse().ok().filter(|_| id.bytes().all(|byte| byte.is_ascii_digit()))
}

fn not_promoted(status: &Status) -> Answer {
    if *status == error::MEMBER_NOT_FOUND {
        refusal(StatusCode::NOT_FOUND, "membership: ID not found")
    } else if *status == error::MEMBER_NOT_LEARNER {
        refusal(StatusCode::PRECONDITION_FAILED, "membership: can only promote a learner member")
    } else if *status == error::LEARNER_NOT_READY {
        refusal(StatusCode::PRECONDITION_FAILED, &status.message)
    } else {
        let mut answer = ok(JSON, r#"{"message":"Internal Server Error"}"#);
        *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        answer
    }
}

pub(super) async fn downgrade<B>(source: &dyn Source, request: &Request<B>) -> Answer {
    if request.method() != Method::GET {
        return allow("GET");
    }
    let answer = match source.is_downgrading().await {
        Ok(is_downgrading) => ok("text/plain", is_downgrading.to_string()),
        Err(status) => {
            refusal(StatusCode::INTERNAL_SERVER_ERROR, &format!("failed linearized read: {}", status.message))
        }
    };
    of_cluster(source, answer)
}

/// The revision that is asked for, as Go reads it: by its name in letters of any size, of several the last one, and what
/// is `null` says nothing.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    revision: i64,
}

impl<'de> Deserialize<'de> for Asked {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Asked;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_unit<E>(self) -> Result<Asked, E> {
                Ok(Asked::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Asked, A::Error> {
                let mut asked = Asked::default();
                while let Some(name) = map.next_key::<String>()? {
                    if !name.eq_ignore_ascii_case("revision") {
                        map.next_value::<IgnoredAny>()?;
                    } else if let Some(revision) = map.next_value::<Option<i64>>()? {
                        asked.revision = revision;
                    }
                }
                Ok(asked)
            }
        }

        from.deserialize_any(Fields)
    }
}

#[derive(Serialize)]
struct Hashed {
    header: Header,
    #[serde(skip_serializing_if = "is_zero")]
    hash: u32,
    #[serde(skip_serializing_if = "is_zero")]
    compact_revision: i64,
    #[serde(skip_serializing_if = "is_zero")]
    hash_revision: i64,
}

#[derive(Serialize)]
struct Header {
    #[serde(skip_serializing_if = "is_zero")]
    revision: i64,
}

fn is_zero<N: Default + PartialEq>(number: &N) -> bool {
    *number == N::default()
}

pub(super) async fn hash(source: &dyn Source, request: Request<Incoming>) -> Answer {
    if request.method() != Method::GET {
        return allow("GET");
    }
    let cluster = header(&request, CLUSTER_ID.as_str());
    if !cluster.is_empty() && cluster != hex(source.cluster_id()) {
        return refusal(StatusCode::PRECONDITION_FAILED, "cluster ID mismatch");
    }
    let Ok(body) = Reader::new(request.into_body()).whole(limits::PEER_REQUEST_BYTES_MAX).await else {
        return refusal(StatusCode::BAD_REQUEST, "error reading body");
    };
    let Asked { revision } = match serde_json::from_slice(&body) {
        Ok(asked) => asked,
        Err(cause) => {
            log!(Warn, "failed to unmarshal request", "error" = shown(&cause));
            return refusal(StatusCode::BAD_REQUEST, "error unmarshalling request");
        }
    };
    match source.hash(revision).await {
        Ok((hash, newest)) => {
            let told = Hashed {
                header: Header { revision: newest },
                hash: hash.hash,
                compact_revision: hash.compacted,
                hash_revision: hash.revision,
            };
            of_cluster(source, ok(JSON, json(&told)))
        }
        Err(status) => {
            let text = status.message.strip_prefix("etcdserver: ").unwrap_or(&status.message);
            log!(Warn, "failed to get hashKV", "requested-revision" = revision, "error" = text);
            refusal(StatusCode::BAD_REQUEST, text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_read_as_go_reads_it() {
        let read = |text: &str| serde_json::from_str::<Asked>(text).ok().map(|asked| asked.revision);
        for (text, revision) in [
            (r#"{"revision":7}"#, 7),
            (r#"{}"#, 0),
            ("null", 0),
            (r#"{"revision":null}"#, 0),
            (r#"{"revision":5,"REVISION":6}"#, 6),
            (r#"{"revision":5,"Revision":null,"more":[{"a":1}]} "#, 5),
            (r#"{"revision":-3}"#, -3),
        ] {
            assert_eq!(read(text), Some(revision), "{text}");
        }
        for text in ["", "[]", "5", r#""x""#, r#"{"revision":"7"}"#, r#"{"revision":1.0}"#, "{} x", "true"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn ids_are_digits() {
        assert_eq!((decimal("17"), decimal("18446744073709551615")), (Some(17), Some(u64::MAX)));
        for text in ["", "+1", "-1", "1f", " 1", "18446744073709551616"] {
            assert_eq!(decimal(text), None, "{text}");
        }
    }
}
