//! Committed entries for a member that mends its log, which etcd has nothing like: a member that has lost them asks before it
//! starts. (`wal::mend`.)

use http::{Method, Request, StatusCode};
use prost::Message as _;

use super::{Source, of_another_cluster, of_cluster, ok};
use crate::{
    http::{
        answer::{Answer, allow, error as refusal},
        path::Query,
    },
    log,
    observe::log::shown,
};

/// `GET /urd/entries?from=I&to=J`: entries as `raftpb.Entry`, each behind its length. Fewer than all where that would be too many
/// bytes, none where the first is not committed yet.
pub(super) async fn list<B>(source: &dyn Source, request: &Request<B>) -> Answer {
    if request.method() != Method::GET {
        return allow("GET");
    }
    if let Some(refused) = of_another_cluster(source, request) {
        return refused;
    }
    let query = Query::new(request.uri().query().unwrap_or(""));
    let index = |name: &str| query.first(name).and_then(|text| text.parse::<u64>().ok()).filter(|index| *index > 0);
    let (Some(from), Some(to)) = (index("from"), index("to")) else {
        return refusal(StatusCode::BAD_REQUEST, "two indexes are wanted: from and to");
    };
    let answer = match source.entries(from, to).await {
        Ok(Some(entries)) => {
            let mut body = Vec::with_capacity(entries.iter().map(|entry| entry.encoded_len() + 10).sum());
            for entry in entries {
                entry.encode_length_delimited(&mut body).expect("a vector takes all that it is given");
            }
            ok("application/protobuf", body)
        }
        Ok(None) => refusal(StatusCode::NOT_FOUND, &format!("entry {from} is not kept any more")),
        Err(status) => {
            log!(Warn, "cannot give entries to a member", "first-index" = from, "error" = shown(&status.message));
            refusal(StatusCode::INTERNAL_SERVER_ERROR, &status.message)
        }
    };
    of_cluster(source, answer)
}
