//! What only members of this kind ask each other. An etcd member answers 404, and so is not asked for more.

use std::collections::BTreeMap;

use http::{Method, Request, StatusCode};

use super::{CLUSTER_ID, Source, header, hex, json, of_cluster, ok};
use crate::http::answer::{Answer, allow, error as refusal};

const JSON: &str = "application/json";

/// What the last spans of entries did to this member's state: each span by its last entry.
pub(super) fn spans<B>(source: &dyn Source, request: &Request<B>) -> Answer {
    if request.method() != Method::GET {
        return allow("GET");
    }
    if let Some(refused) = of_another_cluster(source, request) {
        return refused;
    }
    let spans: BTreeMap<u64, u32> = source.spans().into_iter().map(|span| (span.last, span.hash)).collect();
    of_cluster(source, ok(JSON, json(&spans)))
}

fn of_another_cluster<B>(source: &dyn Source, request: &Request<B>) -> Option<Answer> {
    let is_other = header(request, CLUSTER_ID.as_str()) != hex(source.cluster_id());
    is_other.then(|| refusal(StatusCode::PRECONDITION_FAILED, "cluster ID mismatch"))
}
